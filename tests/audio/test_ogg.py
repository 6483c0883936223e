"""Ogg: each page is checked, as libsndfile leaves out those that are damaged."""

from pathlib import Path

import pytest

from asr.audio import SAMPLE_RATE, duration, read_waveform
from asr.audio.ogg import checksum
from asr.errors import AudioError
from tests.sounds import encoded, noise

KINDS = ["ogg", "opus"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sound.bin"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [0.3, 0.5, 0.9])
def test_a_flipped_bit_is_noticed(path: Path, kind: str, place: float) -> None:
    contents = bytearray(encoded(kind, noise(5)))
    contents[int(place * len(contents))] ^= 1
    path.write_bytes(contents)
    assert_refused(path, r"is damaged: the page at byte \d+ has a wrong checksum")


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_page_is_noticed(path: Path, kind: str) -> None:
    whole = pages(encoded(kind, noise(5)))
    path.write_bytes(b"".join(whole[:3] + whole[4:]))
    assert_refused(path, "is damaged: page 4 follows page 2 of its stream")


def test_a_page_that_is_there_twice_is_noticed(path: Path) -> None:
    whole = pages(encoded("opus", noise(5)))
    path.write_bytes(b"".join([*whole[:4], *whole[3:]]))
    assert_refused(path, "is damaged: page 3 follows page 3 of its stream")


def test_a_page_behind_the_end_is_noticed(path: Path) -> None:
    whole = pages(encoded("opus", noise(5)))
    path.write_bytes(b"".join([*whole, whole[-1]]))
    assert_refused(path, r"is damaged: a page at byte \d+ follows the end")


def test_a_missing_start_is_noticed(path: Path) -> None:
    path.write_bytes(b"".join(pages(encoded("opus", noise(5)))[2:]))
    assert_refused(path, "is damaged: its start is missing")


def test_bytes_between_pages_are_noticed(path: Path) -> None:
    whole = pages(encoded("opus", noise(5)))
    path.write_bytes(b"".join([*whole[:3], b"garbage", *whole[3:]]))
    assert_refused(path, f"no page starts at byte {sum(map(len, whole[:3]))}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_the_mark_of_its_end_is_read_with_a_remark(
    path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    whole = pages(encoded(kind, noise(5)))
    path.write_bytes(b"".join(whole[:-1]))

    waveform = read_waveform(path)

    assert 2 * SAMPLE_RATE < len(waveform) < 5 * SAMPLE_RATE
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: has no mark of its end (it may be cut short)"
    ]


def test_a_tag_behind_the_end_is_none_of_its_pages(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(encoded("opus", noise(2)) + b"TAG".ljust(128, b"\0"))
    assert len(read_waveform(path)) == 2 * SAMPLE_RATE
    assert caplog.records == []


def test_the_checksum_is_the_one_of_the_standard() -> None:
    content = noise(0.01).tobytes()
    assert checksum(content) == plain_checksum(content)


def plain_checksum(content: bytes) -> int:
    """Divide bit by bit, as RFC 3533 has it: polynomial 0x04c11db7, from 0 on."""
    rest = 0
    for byte in content:
        rest ^= byte << 24
        for _ in range(8):
            rest = (rest << 1 ^ (0x04C11DB7 if rest >> 31 else 0)) & 0xFFFFFFFF
    return rest


def pages(contents: bytes) -> list[bytes]:
    found, start = list[bytes](), 0
    while start < len(contents):
        num_segments = contents[start + 26]
        sizes = contents[start + 27 : start + 27 + num_segments]
        end = start + 27 + num_segments + sum(sizes)
        found.append(contents[start:end])
        start = end
    assert len(found) > 5
    return found


def assert_refused(path: Path, message: str) -> None:
    for read in (read_waveform, duration):
        with pytest.raises(AudioError, match=message):
            read(path)
