"""MP3: libsndfile trusts a header, or guesses."""

import os
from pathlib import Path

import numpy as np
import pytest

from asr.audio import SAMPLE_RATE, duration, read_waveform
from asr.audio.mp3 import _frame_size
from asr.audio.stretches import Corrected
from asr.errors import AudioError
from tests.sounds import encoded, noise, tone


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sound.bin"


def test_joined_mp3_files_are_read_to_the_end(path: Path) -> None:
    path.write_bytes(2 * encoded("mp3", tone()))

    waveform = read_waveform(path)

    # Each half has some silence at both ends, which its own header marks to skip.
    assert SAMPLE_RATE < len(waveform) < 1.2 * SAMPLE_RATE
    assert len(waveform) == duration(path) * SAMPLE_RATE
    assert waveform[-4000:-2000].abs().max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("is_tagged", [False, True])
@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_an_mp3_without_xing_header_is_read_to_the_end(
    path: Path, rate: int, num_channels: int, is_tagged: bool
) -> None:
    # Silence, then noise: at a variable bit rate the first frame has no length.
    hiss = np.random.default_rng(0).normal(0, 0.1, (2 * rate, num_channels))
    hiss[:rate] = 0
    whole = encoded("mp3", hiss.astype(np.float32), rate)
    audio = whole[whole.index(b"\xff", 200) :]
    assert b"Xing" in whole
    assert b"Xing" not in audio

    path.write_bytes(id3_tag() + audio + ape_tag() if is_tagged else audio)

    assert duration(path) == pytest.approx(2, abs=0.12)
    waveform = read_waveform(path, rate)
    assert len(waveform) == duration(path) * rate
    assert waveform[-rate // 2 : -4000].std() > 0.05


def id3_tag() -> bytes:
    """A tag such as a cover picture, full of what looks like frames."""
    picture = 100 * b"\xff\xfb\x90\x00".ljust(417, b"\0")  # 128 kbit/s at 44.1 kHz
    size = bytes(len(picture) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + size + picture


def ape_tag() -> bytes:
    """A tag that now and then has what looks like a frame."""
    return b"APETAGEX" + 20 * b"\xff\xfb\x90\x00".ljust(500, b"\0")


def test_a_corrected_file_is_read_as_one_file(tmp_path: Path) -> None:
    path = tmp_path / "digits"
    path.write_bytes(b"0123456789")
    with Corrected(b"ab", path.open("rb"), 3, 7) as file:
        assert file.read() == b"ab3456"
        assert file.read(1) == b""
        for place in range(7):
            assert file.seek(place) == file.tell() == place
            assert file.read(3) == b"ab3456"[place : place + 3]
        assert file.seek(-1, os.SEEK_END) == 5
        assert file.seek(-2, os.SEEK_CUR) == 3
        assert file.read() == b"456"


# Damage


@pytest.fixture
def whole() -> bytes:
    return encoded("mp3", noise(3)[:, 0])


def frames(contents: bytes) -> list[int]:
    """Return where the frames start."""
    starts, start = list[int](), contents.index(b"\xff")
    while start < len(contents):
        starts.append(start)
        start += _frame_size(contents[start : start + 4])
    return starts


@pytest.mark.parametrize("has_header", [False, True])
@pytest.mark.parametrize("byte", [0, 1, 2])
def test_a_frame_that_is_none_is_noticed(
    path: Path, whole: bytes, byte: int, has_header: bool
) -> None:
    starts = frames(whole)
    contents = bytearray(whole)
    contents[starts[20] + byte] ^= 0x20
    path.write_bytes(contents if has_header else contents[starts[1] :])
    with pytest.raises(AudioError, match=r"is damaged: no frame like the first starts"):
        read_waveform(path)


def test_a_stretch_of_zeros_is_noticed(path: Path, whole: bytes) -> None:
    start = len(whole) // 2
    path.write_bytes(whole[:start] + bytes(2000) + whole[start + 2000 :])
    with pytest.raises(AudioError, match="is damaged: no frame like the first starts"):
        read_waveform(path)


def test_a_frame_less_than_promised_is_remarked_on(
    path: Path, whole: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    starts = frames(whole)
    path.write_bytes(whole[: starts[30]] + whole[starts[31] :])
    read_waveform(path)
    assert "(something was added or taken away)" in caplog.text


def test_frames_that_are_there_twice_are_remarked_on(
    path: Path, whole: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    starts = frames(whole)
    path.write_bytes(whole[: starts[30]] + whole[starts[20] :])
    read_waveform(path)
    assert "(something was added or taken away)" in caplog.text


def test_a_file_that_begins_and_ends_within_a_frame_is_read_with_remarks(
    path: Path, whole: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    starts = frames(whole)
    path.write_bytes(whole[starts[3] + 20 : -20])

    waveform = read_waveform(path)

    assert len(waveform) == duration(path) * SAMPLE_RATE
    assert len(waveform) == pytest.approx(3 * SAMPLE_RATE, abs=0.2 * SAMPLE_RATE)
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        f"{path}: begins within a frame",
        f"{path}: ends within a frame, or was filled up",
    ]


def test_a_damaged_header_frame_is_remarked_on(
    path: Path, whole: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    contents = bytearray(whole)
    place = whole.index(b"LAME") + 21  # the delay of the encoder
    contents[place] ^= 0x10
    path.write_bytes(contents)
    read_waveform(path)
    assert "has a damaged header" in caplog.text


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_a_whole_file_is_read_without_a_remark(
    path: Path, caplog: pytest.LogCaptureFixture, rate: int, num_channels: int
) -> None:
    path.write_bytes(encoded("mp3", noise(2, rate, num_channels=num_channels), rate))
    assert len(read_waveform(path)) == 2 * SAMPLE_RATE
    assert caplog.records == []
