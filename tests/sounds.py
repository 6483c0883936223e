"""What the tests of the audio rooms are made of: tones, files and damaged files."""

import random
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE, read_waveform
from asr.errors import AudioError

Samples = npt.NDArray[np.float32]

FORMATS = ["wav", "flac", "ogg", "opus", "mp3"]
FORMAT = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "opus": "OGG", "mp3": "MP3"}

CODECS = {  # what PyAV has to write, and what FFmpeg calls the format
    "m4a": ("aac", "mp4"),
    "webm": ("libopus", "webm"),
    "mka": ("flac", "matroska"),
    "aac": ("aac", "adts"),
    "wma": ("wmav2", "asf"),
    "amr": ("libopencore_amrnb", "amr"),
}


def tone(
    rate: int = SAMPLE_RATE, *, hertz: float = 440, num_channels: int = 0
) -> Samples:
    """Half a second: (N,), or (N, channels) as soundfile has it."""
    wave = 0.5 * np.sin(2 * np.pi * hertz / rate * np.arange(rate // 2))
    channels = [wave] * num_channels
    return (np.stack(channels, axis=1) if channels else wave).astype(np.float32)


def noise(seconds: float, rate: int = SAMPLE_RATE, *, num_channels: int = 1) -> Samples:
    """(N, channels), each channel another noise."""
    shape = (round(seconds * rate), num_channels)
    return np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)


def frequency(waveform: Tensor, rate: int) -> float:
    spectrum = torch.fft.rfft(waveform * torch.hann_window(len(waveform))).abs()
    return int(spectrum.argmax()) * rate / len(waveform)


def encoded(kind: str, samples: Samples, rate: int = SAMPLE_RATE) -> bytes:
    """Make a file of samples, (N,) or (N, channels), in one of `FORMATS`."""
    file = BytesIO()
    subtype = "OPUS" if kind == "opus" else None
    soundfile.write(file, samples, rate, format=FORMAT[kind], subtype=subtype)
    return file.getvalue()


def contained(
    kind: str,
    samples: Samples,
    rate: int = SAMPLE_RATE,
    *,
    num_streams: int = 1,
    has_picture: bool = False,
    is_streamed: bool = False,
) -> bytes:
    """Make a file of samples, (N, channels), in one of `CODECS`.

    Args:
        kind: the format.
        samples: of all streams, of which each is half as loud as the one before.
        rate: in Hz.
        num_streams: of audio.
        has_picture: is there a video stream, and twice as long as the sound?
        is_streamed: is the header at the start, where a player wants it?
    """
    av = pytest.importorskip("av")
    codec, format_name = CODECS[kind]
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg cannot write {kind}")
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    options = {"movflags": "faststart"} if is_streamed else {}
    with TemporaryDirectory() as folder:
        path = Path(folder, "sound")
        with av.open(str(path), "w", format=format_name, options=options) as file:
            streams = [
                file.add_stream(codec, rate=rate, layout=layout)
                for _ in range(num_streams)
            ]
            if has_picture:
                video = file.add_stream("libvpx" if kind == "webm" else "mpeg4", rate=5)
                video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
            for number, stream in enumerate(streams):
                if kind == "wma":
                    stream.codec_context.bit_rate = 64_000
                planes = np.ascontiguousarray(samples.T / 2**number)
                frame = av.AudioFrame.from_ndarray(planes, "fltp", layout)
                frame.sample_rate, frame.pts = rate, 0
                file.mux([*stream.encode(frame), *stream.encode(None)])
            if has_picture:
                for pts in range(10 * len(samples) // rate):
                    picture = av.VideoFrame(64, 64, "yuv420p")
                    picture.pts = pts
                    file.mux(video.encode(picture))
                file.mux(video.encode(None))
        return path.read_bytes()


def damaged(whole: bytes, draws: random.Random) -> bytes:
    """Change, take and add some bytes, most of them in the header."""
    contents = bytearray(whole)
    header = max(0, contents.find(b"moov"))  # which in MPEG-4 may be anywhere
    for _ in range(draws.choice([1, 3, 30])):
        first = draws.choice([0, header])
        reach = draws.choice([64, 200, len(contents)])
        place = draws.randrange(
            first, max(first + 1, min(first + reach, len(contents)))
        )
        match draws.randrange(4):
            case 0:
                contents[place : place + 1] = draws.choice(
                    [b"\0", b"\xff", draws.randbytes(1)]
                )
            case 1:
                contents[place : place + 1] = bytes(
                    byte ^ 1 << draws.randrange(8)
                    for byte in contents[place : place + 1]
                )
            case 2:
                del contents[place : place + draws.randrange(1, 20)]
            case _:
                contents[place:place] = draws.randbytes(5)
    if draws.random() < 0.3:
        del contents[draws.randrange(len(contents)) :]
    return bytes(contents)


def assert_read_or_refused(path: Path) -> None:
    try:
        waveform = read_waveform(path)
    except AudioError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert waveform.dim() == 1
        assert len(waveform) > 0
        assert waveform.isfinite().all()
