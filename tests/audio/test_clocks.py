"""Times are those of the recording, whatever its container has before and between."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

from asr.audio import SAMPLE_RATE, duration, read_blocks, read_waveform
from tests.sounds import Samples

RATE = 48_000
KINDS = {"mp4": "aac", "mov": "aac", "matroska": "aac", "webm": "libopus"}
CASES = Path("/work/shared/cases")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sound.bin"


@pytest.mark.parametrize("has_picture", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_starts_late_is_where_it_belongs(
    path: Path, caplog: pytest.LogCaptureFixture, kind: str, has_picture: bool
) -> None:
    path.write_bytes(video(kind, clicks(3), start=5, has_picture=has_picture))

    waveform = read_waveform(path)

    assert found(waveform) == pytest.approx([5.5, 6.5, 7.5], abs=0.05)
    assert float(waveform[: int(4.9 * SAMPLE_RATE)].abs().max()) < 0.01
    assert duration(path) == pytest.approx(len(waveform) / SAMPLE_RATE, abs=0.03)
    assert caplog.records == []


@pytest.mark.parametrize("kind", ["mp4", "matroska", "webm"])
def test_a_gap_is_silence_and_is_remarked_on(
    path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path.write_bytes(video(kind, clicks(4), gap=(2, 1.5)))

    waveform = read_waveform(path)

    assert found(waveform) == pytest.approx([0.5, 1.5, 4.0, 5.0], abs=0.05)
    assert duration(path) == pytest.approx(len(waveform) / SAMPLE_RATE, abs=0.03)
    assert "has gaps of 1.5" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_is_what_the_whole_has_there(path: Path, kind: str) -> None:
    path.write_bytes(video(kind, clicks(14), start=5, gap=(2, 1.5)))
    waveform = read_waveform(path)
    for start, end in [(0, 3), (4.6, 5.7), (5.5, 9.25), (7.3, 8.2), (11, 20)]:
        clip = torch.cat(list(read_blocks(path, start=start, end=end)))
        expected = waveform[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
        torch.testing.assert_close(clip, expected, atol=1e-6, rtol=0)


def test_time_stamps_that_go_back_are_remarked_on(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(video("webm", clicks(4), gap=(2, -0.5)))
    read_waveform(path)
    assert "its time stamps go back by" in caplog.text


def test_a_piece_of_a_live_stream_starts_with_its_first_packet(path: Path) -> None:
    contents = video("webm", clicks(3), start=7200, has_picture=False)
    path.write_bytes(contents)
    assert found(read_waveform(path)) == pytest.approx([0.5, 1.5, 2.5], abs=0.05)
    assert duration(path) == pytest.approx(3, abs=0.05)


def test_the_case_that_starts_at_five_seconds() -> None:
    if not CASES.exists():
        pytest.skip(f"{CASES} is not here")
    waveform = read_waveform(CASES / "late.mp4")
    first = int((waveform.abs() > 0.02).nonzero()[0]) / SAMPLE_RATE
    assert first == pytest.approx(5.67, abs=0.02)
    assert duration(CASES / "late.mp4") == pytest.approx(11.78, abs=0.01)


def clicks(seconds: int) -> Samples:
    """A short noise in the middle of each second, (N,)."""
    samples = np.zeros(seconds * RATE, np.float32)
    burst = np.random.default_rng(0).uniform(-0.5, 0.5, RATE // 20)
    for second in range(seconds):
        start = second * RATE + RATE // 2
        samples[start : start + len(burst)] = burst
    return samples


def found(waveform: torch.Tensor) -> list[float]:
    """Return at which seconds a noise starts."""
    loud = (waveform.abs() > 0.1).nonzero()[:, 0].tolist()
    starts = [
        place
        for before, place in zip([-SAMPLE_RATE, *loud], loud, strict=False)
        if place - before > SAMPLE_RATE // 4
    ]
    return [start / SAMPLE_RATE for start in starts]


def video(
    kind: str,
    samples: Samples,
    *,
    start: float = 0,
    gap: tuple[float, float] = (0, 0),
    has_picture: bool = True,
) -> bytes:
    """Make a file whose audio starts late, and is later still from a second on."""
    av = pytest.importorskip("av")
    if KINDS[kind] not in av.codecs_available:
        pytest.skip(f"this FFmpeg cannot write {kind}")
    with TemporaryDirectory() as folder:
        path = Path(folder, "video")
        with av.open(str(path), "w", format=kind) as file:
            audio = file.add_stream(KINDS[kind], rate=RATE, layout="mono")
            packets = list(_audio_packets(audio, samples, start, gap))
            if has_picture:
                stream = file.add_stream("libvpx" if kind == "webm" else "mpeg4", 5)
                stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
                pictures = (av.VideoFrame(64, 64, "yuv420p") for _ in range(50))
                packets += chain.from_iterable(map(stream.encode, pictures))
                packets += stream.encode(None)
            file.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
        return path.read_bytes()


def _audio_packets(
    stream: Any, samples: Samples, start: float, gap: tuple[float, float]
) -> Iterator[Any]:
    import av

    frame = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
    frame.sample_rate, frame.pts = RATE, round(start * RATE)
    frame.time_base = Fraction(1, RATE)
    resampler = av.AudioResampler(stream.codec_context.format.name, "mono", RATE)
    frames = resampler.resample(frame)
    for packet in chain(*map(stream.encode, frames), stream.encode(None)):
        if packet.pts * packet.time_base >= start + gap[0] > start:
            packet.pts += round(gap[1] / packet.time_base)
            packet.dts = packet.pts
        yield packet
