"""WAV files whose header is wrong, and those of codings that libsndfile lacks."""

import struct
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.audio import SAMPLE_RATE, duration, read_waveform
from asr.errors import AudioError
from tests.sounds import encoded, frequency, noise, tone

CASES = Path("/work/shared/cases")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sound.bin"


@pytest.mark.parametrize("size", [0, 2**32 - 1, 2**31 - 1, 2**31 - 2**12])
@pytest.mark.parametrize("of_file", [0, 2**32 - 1])
def test_a_header_that_was_never_finished_is_read_to_the_end(
    path: Path, caplog: pytest.LogCaptureFixture, size: int, of_file: int
) -> None:
    whole = encoded("wav", noise(2))
    path.write_bytes(with_sizes(whole, min(of_file, size), size))

    waveform = read_waveform(path)

    assert duration(path) == 2
    path.with_name("whole").write_bytes(whole)
    assert torch.equal(waveform, read_waveform(path.with_name("whole")))
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{path}: has no length in its header, as after a pipe or a crash (it is read "
        "to the end of the file, and may be cut short)"
    )


def test_a_clip_of_an_unfinished_file_is_that_of_the_whole(path: Path) -> None:
    path.write_bytes(with_sizes(encoded("wav", noise(5)), 0, 0))
    expected = read_waveform(path)[SAMPLE_RATE : 2 * SAMPLE_RATE]
    assert torch.equal(read_waveform(path, start=1, end=2), expected)


def test_an_empty_file_is_not_an_unfinished_one(path: Path) -> None:
    path.write_bytes(encoded("wav", np.zeros(0, np.float32)))
    with pytest.raises(AudioError, match="holds no samples"):
        read_waveform(path)


def test_bytes_behind_the_end_are_remarked_on(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(encoded("wav", tone()) + 500 * b"\x7f\x01")
    assert len(read_waveform(path)) == SAMPLE_RATE // 2
    assert "has 1000 bytes behind its end" in caplog.text


@pytest.mark.parametrize("tail", [b"LIST\4\0\0\0INFO", bytes(99), b"TAG" + bytes(125)])
def test_chunks_and_tags_behind_the_samples_are_usual(
    path: Path, caplog: pytest.LogCaptureFixture, tail: bytes
) -> None:
    path.write_bytes(encoded("wav", tone()) + tail)
    assert len(read_waveform(path)) == SAMPLE_RATE // 2
    assert caplog.records == []


@pytest.mark.parametrize("byte", [22, 24, 25, 32])  # channels, rate, size of a frame
def test_a_header_that_contradicts_itself_is_remarked_on(
    path: Path, caplog: pytest.LogCaptureFixture, byte: int
) -> None:
    contents = bytearray(encoded("wav", tone()))
    contents[byte] ^= 2 if byte == 22 else 16
    path.write_bytes(contents)
    try:
        read_waveform(path)
    except AudioError:
        return
    assert "its header contradicts itself" in caplog.text


def test_an_mp3_in_a_wav_is_read(path: Path) -> None:
    mp3 = encoded("mp3", tone())
    path.write_bytes(wav_of(0x55, mp3))
    waveform = read_waveform(path)
    assert frequency(waveform, SAMPLE_RATE) == pytest.approx(440, abs=4)
    assert len(waveform) == pytest.approx(SAMPLE_RATE // 2, abs=1)

    path.with_name("cut").write_bytes(wav_of(0x55, mp3)[:-99])
    with pytest.raises(AudioError, match=r"cut short: \d+ of \d+ bytes of samples"):
        read_waveform(path.with_name("cut"))


@pytest.mark.parametrize(
    ("coding", "name"), [(0x45, "G.726"), (0x65, "G.722"), (0x1234, "0x1234 in WAV")]
)
def test_without_pyav_another_coding_is_called_by_its_name(
    path: Path, monkeypatch: pytest.MonkeyPatch, coding: int, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    path.write_bytes(wav_of(coding, bytes(1000)))
    with pytest.raises(
        AudioError,
        match=rf'unsupported coding {name} \(pip install "listen-attend-spell\[av\]"',
    ):
        read_waveform(path)


def test_a_coding_that_pyav_lacks_is_called_by_its_name(path: Path) -> None:
    pytest.importorskip("av")
    path.write_bytes(wav_of(0x1234, bytes(1000)))
    with pytest.raises(
        AudioError, match=r"unsupported coding 0x1234 in WAV \(convert it to wav"
    ):
        read_waveform(path)


def test_another_coding_is_read_by_pyav(path: Path) -> None:
    av = pytest.importorskip("av")
    file = BytesIO()
    with av.open(file, "w", format="wav") as container:
        stream = container.add_stream("g722", rate=SAMPLE_RATE, layout="mono")
        samples = (tone()[None] * 2**15).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    path.write_bytes(file.getvalue())

    waveform = read_waveform(path)

    assert len(waveform) == pytest.approx(SAMPLE_RATE // 2, abs=400)
    assert frequency(waveform, SAMPLE_RATE) == pytest.approx(440, abs=4)


@pytest.mark.parametrize(
    "name",
    [
        *("unfinalised.wav", "headerless-vbr.mp3", "mp3-in.wav"),
        *("speex.ogg", "flac.oga", "g726.wav"),
    ],
)
def test_whole_files_that_were_refused_are_read(name: str) -> None:
    if not CASES.exists():
        pytest.skip(f"{CASES} is not here")
    waveform = read_waveform(CASES / name)
    assert len(waveform) == pytest.approx(6.78 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)
    assert float(waveform.std()) > 0.03


def with_sizes(wav: bytes, of_file: int, of_samples: int) -> bytes:
    sizes = [size.to_bytes(4, "little") for size in (of_file, of_samples)]
    return wav[:4] + sizes[0] + wav[8:40] + sizes[1] + wav[44:]


def wav_of(coding: int, data: bytes) -> bytes:
    about = struct.pack("<HHIIHHH", coding, 1, SAMPLE_RATE, 3000, 1, 0, 0)
    chunks = b"WAVEfmt " + len(about).to_bytes(4, "little") + about
    chunks += b"data" + len(data).to_bytes(4, "little") + data
    return b"RIFF" + len(chunks).to_bytes(4, "little") + chunks
