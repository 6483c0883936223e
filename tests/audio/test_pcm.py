import random
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch

from asr.audio import SAMPLE_RATE, PCMStream, resample
from asr.audio.pcm import Encoding
from tests.sounds import frequency, noise


def s16(waveform: torch.Tensor) -> bytes:
    return (waveform * 2**15).round().numpy().astype("<i2").tobytes()


def play(stream: PCMStream, content: bytes, cuts: list[int]) -> torch.Tensor:
    edges = [0, *sorted(cuts), len(content)]
    parts = [stream.feed(content[a:b]) for a, b in pairwise(edges)]
    return torch.cat([*parts, stream.end()])


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100])
def test_blocks_of_any_size_are_the_same_stream(rate: int) -> None:
    wave = torch.from_numpy(noise(0.7, rate)[:, 0])
    content = s16(wave)
    cuts = random.Random(rate).sample(range(len(content)), 30)

    found = play(PCMStream(rate), content, cuts)

    expected = resample((wave * 2**15).round() / 2**15, rate, SAMPLE_RATE)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_tone_has_no_clicks_where_blocks_meet() -> None:
    time = torch.arange(24_000) / 24_000
    tone = 0.5 * (2 * torch.pi * 1_000 * time).sin()
    content = s16(tone)

    found = play(PCMStream(24_000), content, list(range(0, len(content), 961)))

    spectrum = torch.fft.rfft(found[2_000:14_000] * torch.hann_window(12_000)).abs()
    peak = int(spectrum.argmax())
    spectrum[peak - 3 : peak + 4] = 0
    assert frequency(found, SAMPLE_RATE) == pytest.approx(1_000, abs=2)
    assert spectrum.max() < 1e-3 * 0.25 * 12_000  # -60 dB beside the tone


def test_a_stream_goes_on_after_its_end() -> None:
    stream = PCMStream(24_000)
    content = s16(torch.from_numpy(noise(0.5, 24_000)[:, 0]))

    first = torch.cat((stream.feed(content), stream.end()))
    second = torch.cat((stream.feed(content), stream.end()))

    assert torch.equal(first, second)
    assert len(first) == 8_000


def test_a_sample_that_is_cut_off_is_known() -> None:
    stream = PCMStream()

    assert len(stream.feed(b"\0\0\1")) == 1
    assert not stream.was_cut_off
    stream.end()
    assert stream.was_cut_off
    stream.end()
    assert not stream.was_cut_off


@pytest.mark.parametrize(
    ("encoding", "function"), [("mulaw", "ulaw2lin"), ("alaw", "alaw2lin")]
)
def test_g711_is_decoded_as_the_standard_library_had_it(
    encoding: Encoding, function: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        audioop = pytest.importorskip("audioop")  # up to Python 3.12
    codes = bytes(range(256))
    expected = np.frombuffer(getattr(audioop, function)(codes, 2), np.int16) / 2**15

    found = PCMStream(SAMPLE_RATE, encoding).feed(codes)

    np.testing.assert_array_equal(found.numpy(), expected.astype(np.float32))


@pytest.mark.parametrize(
    ("encoding", "codes", "values"),
    [
        # ITU-T G.711: the largest values are 8031 of 8192 and 4032 of 4096.
        ("mulaw", [0x80, 0x00, 0xFF, 0x7F], [8031 / 8192, -8031 / 8192, 0, 0]),
        ("alaw", [0xAA, 0x2A, 0xD5, 0x55], [4032 / 4096, -4032 / 4096, 1, -1]),
    ],
)
def test_g711_golden(encoding: Encoding, codes: list[int], values: list[float]) -> None:
    found = PCMStream(SAMPLE_RATE, encoding).feed(bytes(codes)).tolist()

    if encoding == "alaw":
        values[2:] = [1 / 4096, -1 / 4096]
    assert found == pytest.approx(values)


@pytest.mark.parametrize("rate", [0, -1, 999, 2_000_000])
def test_an_impossible_rate_is_refused(rate: int) -> None:
    with pytest.raises(ValueError, match="a rate is 1000 to 1000000 Hz, not"):
        PCMStream(rate)


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(ValueError, match="s16le, mulaw, alaw, not 'mp3'"):
        PCMStream(8_000, "mp3")  # type: ignore[arg-type]
