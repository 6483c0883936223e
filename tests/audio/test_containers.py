import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.audio import (
    AUDIO_SUFFIXES,
    SAMPLE_RATE,
    duration,
    num_channels,
    read_blocks,
    read_waveform,
)
from asr.errors import AudioError
from tests.sounds import CODECS, Samples, contained, encoded, frequency, noise, tone

RATE = {kind: 48_000 for kind in CODECS} | {"amr": 8_000}
STEREO = [kind for kind in CODECS if kind != "amr"]
FILES = {  # how the files start
    r"MPEG-4 audio \(m4a, mp4\)": b"\0\0\0 ftypM4A \0\0\0\0",
    r"Matroska \(mka, webm\)": b"\x1a\x45\xdf\xa3" + bytes(99),
    "Windows Media audio": b"\x30\x26\xb2\x75" + bytes(99),
    "AMR audio": b"#!AMR\n",
    "AAC audio": b"\xff\xf1" + bytes(99),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sound.bin"


@pytest.mark.parametrize("kind", CODECS)
def test_a_tone_is_read_from_every_format(path: Path, kind: str) -> None:
    rate = RATE[kind]
    path.write_bytes(contained(kind, long_tone(rate), rate))

    waveform = read_waveform(path)

    assert len(waveform) == pytest.approx(2 * SAMPLE_RATE, abs=0.06 * SAMPLE_RATE)
    assert duration(path) == pytest.approx(2, abs=0.06)
    assert num_channels(path) == 1
    assert frequency(waveform, SAMPLE_RATE) == pytest.approx(440, abs=4)
    assert float(waveform[8_000:24_000].std()) == pytest.approx(0.35, abs=0.06)


def test_a_lossless_stream_is_read_to_the_last_bit(path: Path) -> None:
    samples = noise(12, 16_000, num_channels=2)  # more than a block
    path.write_bytes(contained("mka", samples, 16_000))

    other = path.with_name("same.flac")
    other.write_bytes(encoded("flac", samples))

    difference = read_waveform(path) - read_waveform(other)
    assert float(difference.abs().max()) <= 2**-15  # both round to 16 bits


@pytest.mark.parametrize("kind", STEREO)
def test_one_channel_is_read_without_the_other(path: Path, kind: str) -> None:
    both = np.hstack([long_tone(48_000), long_tone(48_000, 1_000)])
    path.write_bytes(contained(kind, both, 48_000))

    left, right = (read_waveform(path, channel=side) for side in ("left", "right"))

    assert num_channels(path) == 2
    assert frequency(left, SAMPLE_RATE) == pytest.approx(440, abs=4)
    assert frequency(right, SAMPLE_RATE) == pytest.approx(1_000, abs=4)
    torch.testing.assert_close((left + right) / 2, read_waveform(path))


@pytest.mark.parametrize("kind", CODECS)
def test_a_clip_is_what_the_whole_has_there(path: Path, kind: str) -> None:
    rate = RATE[kind]
    path.write_bytes(contained(kind, noise(14, rate), rate))
    waveform = read_waveform(path)

    blocks = list(read_blocks(path, start=2.34567, end=13.5))

    assert len(blocks) > 1
    assert all(len(block) < 10.2 * SAMPLE_RATE for block in blocks)
    expected = waveform[round(2.34567 * SAMPLE_RATE) : round(13.5 * SAMPLE_RATE)]
    torch.testing.assert_close(torch.cat(blocks), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", CODECS)
def test_a_start_behind_the_end_is_refused(path: Path, kind: str) -> None:
    path.write_bytes(contained(kind, noise(2, RATE[kind]), RATE[kind]))
    for start in (2.1, 99):
        with pytest.raises(AudioError, match=r"lasts 2\.\d\d s .nothing is there from"):
            read_waveform(path, start=start)


def test_a_stream_that_promises_nothing_is_read_to_its_end(path: Path) -> None:
    samples = noise(4)
    samples[8_000:] = 0  # from the bit rate of its start FFmpeg guesses too little
    path.write_bytes(contained("aac", samples))
    assert duration(path) == pytest.approx(4, abs=0.2)
    assert len(read_waveform(path)) == pytest.approx(4 * SAMPLE_RATE, abs=3_000)

    path.write_bytes(contained("aac", samples[::-1]))  # and now too much
    assert duration(path) == pytest.approx(4, abs=0.2)
    assert len(read_waveform(path)) == pytest.approx(4 * SAMPLE_RATE, abs=3_000)


# Streams


@pytest.mark.parametrize("kind", ["m4a", "webm"])
def test_the_sound_of_a_video_is_read(path: Path, kind: str) -> None:
    path.write_bytes(contained(kind, long_tone(48_000), 48_000, has_picture=True))

    waveform = read_waveform(path)  # half as long as the pictures

    assert len(waveform) == pytest.approx(2 * SAMPLE_RATE, abs=1_000)
    assert duration(path) == pytest.approx(2, abs=0.06)
    assert frequency(waveform, SAMPLE_RATE) == pytest.approx(440, abs=4)


@pytest.mark.parametrize("kind", ["m4a", "webm"])
def test_a_video_without_sound_is_refused(path: Path, kind: str) -> None:
    samples = noise(1)
    contents = contained(kind, samples, num_streams=0, has_picture=True)
    path.write_bytes(contents)
    assert_refused(path, r"has no audio stream \(choose a file with sound\)")


@pytest.mark.parametrize("kind", ["m4a", "mka"])
def test_the_first_of_several_streams_is_read(path: Path, kind: str) -> None:
    path.write_bytes(contained(kind, long_tone(48_000), 48_000, num_streams=2))
    middle = read_waveform(path)[8_000:24_000]
    assert float(middle.std()) == pytest.approx(0.35, abs=0.02)  # not 0.18


def test_a_codec_that_nobody_knows_is_refused(path: Path) -> None:
    contents = contained("m4a", noise(1))
    path.write_bytes(contents.replace(b"mp4a", b"drms").replace(b"esds", b"free"))
    assert_refused(path, "holds audio of an unknown kind")


# Damage


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("kind", CODECS)
def test_a_file_that_was_cut_short_is_refused(
    path: Path, kind: str, share: float, is_streamed: bool
) -> None:
    rate = RATE[kind]
    whole = contained(kind, noise(3, rate), rate, is_streamed=is_streamed)
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(AudioError, match=r"sound\.bin: is damaged or cut short"):
        read_waveform(path)


@pytest.mark.parametrize("kind", ["m4a", "webm"])
def test_packets_that_are_missing_are_missed(path: Path, kind: str) -> None:
    whole = contained(kind, noise(3, 48_000), 48_000, is_streamed=True)
    contents = bytearray(whole[: int(0.8 * len(whole))])
    if kind == "m4a":
        place = contents.index(b"mdat") - 4
        contents[place : place + 4] = (len(contents) - place).to_bytes(4)
    else:
        place = contents.index(b"\x18\x53\x80\x67") + 4
        contents[place : place + 8] = b"\x01" + 7 * b"\xff"  # of unknown size
    path.write_bytes(contents)
    with pytest.raises(AudioError, match="is damaged or cut short"):
        read_waveform(path)


@pytest.mark.parametrize("contents", FILES.values(), ids=FILES)
def test_garbage_behind_a_signature_is_refused(path: Path, contents: bytes) -> None:
    pytest.importorskip("av")
    path.write_bytes(contents + 1000 * b"\xff")
    assert_refused(path, "is damaged|holds no samples|has no audio")


def test_odd_names_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    contents = contained("m4a", noise(1))
    for name in ("concat:a|b", "http:x", "a#b?c%20d", "é", "\udcff"):
        Path(name).write_bytes(contents)
        assert len(read_waveform(name)) >= SAMPLE_RATE


# PyAV is an extra


@pytest.mark.parametrize("name", FILES)
def test_without_pyav_the_error_names_the_package(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    path.write_bytes(FILES[name])
    assert_refused(
        path,
        f'is {name} .pip install "listen-attend-spell\\[av\\]" reads it, or convert it '
        "to wav or flac.",
    )


def test_without_pyav_all_else_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    path.write_bytes(encoded("mp3", tone()))
    assert len(read_waveform(path)) == SAMPLE_RATE // 2


def test_the_endings_of_containers_count_as_audio() -> None:
    assert {f".{kind}" for kind in CODECS} < AUDIO_SUFFIXES


def long_tone(rate: int, hertz: float = 440) -> Samples:
    """Two seconds, (N, 1)."""
    wave = 0.5 * np.sin(2 * np.pi * hertz / rate * np.arange(2 * rate))
    return np.asarray(wave[:, None], np.float32)


def assert_refused(path: Path, message: str) -> None:
    for read in (read_waveform, duration, num_channels):
        with pytest.raises(AudioError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
