"""Waveforms: samples of any type and rate become mono float32 at the wished rate.

Shapes: N samples of a waveform.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import soxr

from asr.errors import AudioError

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE_RATE: Final = 16_000
"""Hz: the rate of all waveforms, unless another is asked for."""

RATES: Final = (1_000, 1_000_000)
"""Hz: a rate outside is a damaged header, not a recording."""

LOUDEST: Final = 100.0
"""Of floats, whose full scale is 1: beyond that they are on the scale of integers."""
_MOST = 1e10
"""More than 32-bit integers hold; not far beyond, squares are infinite."""
_FAINT = 2**9
"""Of 32-bit integers: below that nobody hears anything, whatever their scale."""

Samples = npt.NDArray[np.float32]


def resample(waveform: "Tensor", from_rate: float, to_rate: float) -> "Tensor":
    """Change the sample rate.

    Resampled from 1.1 to 1 and then played at the old rate, speech is 1.1 times as
    fast and as high.

    Args:
        waveform: (N,) float32 on the CPU.
        from_rate: Hz, or any unit that `to_rate` has too.
        to_rate: the wished rate.

    Returns:
        (N * to_rate / from_rate,) float32, the very same waveform where the rates are
        equal.

    Raises:
        ValueError: a rate is not above zero, or there is more than one channel.
    """
    import torch

    check_rates(from_rate, to_rate)
    if waveform.dim() != 1:
        raise ValueError(f"a waveform (N,) is needed, got {tuple(waveform.shape)}")
    if from_rate == to_rate:
        return waveform
    samples = soxr.resample(waveform.numpy(), from_rate, to_rate, quality="HQ")
    return torch.from_numpy(samples)


def resampled(
    blocks: Iterable[Samples], from_rate: float, to_rate: float
) -> Iterator[Samples]:
    """Change the sample rate of a waveform that comes in blocks.

    Joined, the blocks are what `resample` makes of the joined waveform, to the last
    bit; each by itself is a little earlier or later than the block it was made of.

    Args:
        blocks: (N,) each.
        from_rate: as for `resample`.
        to_rate: as for `resample`.

    Yields:
        (N,) each, none of them empty.
    """
    stream = StreamResampler(from_rate, to_rate)
    for block in blocks:
        if len(samples := stream.feed(block)):
            yield samples
    if len(samples := stream.end()):
        yield samples


class StreamResampler:
    """Changes the sample rate of a stream: `resampled`, for who is given the blocks.

    Args:
        from_rate: as for `resample`.
        to_rate: as for `resample`.
    """

    def __init__(self, from_rate: float, to_rate: float) -> None:
        check_rates(from_rate, to_rate)
        self._stream = None
        if from_rate != to_rate:
            self._stream = soxr.ResampleStream(from_rate, to_rate, 1, quality="HQ")

    def feed(self, block: Samples) -> Samples:
        """Return what can be said of (N,) samples and those before them."""
        return self._stream.resample_chunk(block) if self._stream else block

    def end(self) -> Samples:
        """Return what was waiting for further samples; the stream has ended."""
        nothing = np.empty(0, np.float32)
        if not self._stream:
            return nothing
        rest: Samples = self._stream.resample_chunk(nothing, last=True)
        return rest


def check_rates(from_rate: float, to_rate: float) -> None:
    """Raise a ValueError where a sample rate is none."""
    if not (0 < from_rate < float("inf") and 0 < to_rate < float("inf")):
        raise ValueError(f"rates must be above zero, got {from_rate} and {to_rate}")


def scaled(samples: npt.NDArray[Any]) -> Samples:
    """Return a float32 copy with full scale -1 to 1, whatever its shape."""
    kind = samples.dtype.newbyteorder("=")  # a file's may be the other way round
    if np.issubdtype(kind, np.floating):
        return samples.astype(np.float32)  # a copy: the caller's array stays its own
    if kind == np.uint8:
        return np.asarray((samples.astype(np.float32) - 128) / 128, np.float32)
    if kind in (np.int16, np.int32):
        full_scale = -float(np.iinfo(kind).min)
        return (samples / full_scale).astype(np.float32)
    raise TypeError(
        f"samples must be floats, int16, int32 or uint8, not {samples.dtype} (convert "
        "them with astype)"
    )


def check_scale(samples: npt.NDArray[Any]) -> None:
    """Refuse samples of one type on the scale of another.

    Raises:
        ValueError: they are such.
    """
    if samples.dtype.kind not in "fi":
        return
    peak = max(abs(float(samples.max())), abs(float(samples.min())))
    if samples.dtype.kind == "f" and LOUDEST < peak < np.inf:
        raise ValueError(
            f"samples of floats have full scale 1, not {peak:g} (divide those that "
            "were 16-bit by 32768)"
        )
    is_int32 = samples.dtype.kind == "i" and samples.dtype.itemsize == 4
    if is_int32 and _FAINT < peak <= 2**15:
        raise ValueError(
            f"samples of int32 have full scale 2**31, not {peak:g}: these are 16-bit "
            "(use samples.astype(np.int16))"
        )


def check_finite(samples: Samples, place: str) -> None:
    """Raise an AudioError where a sample is infinite, none, or beyond any scale."""
    if not np.isfinite(samples).all():
        raise AudioError(
            f"{place}: holds samples that are infinite or no numbers (make it again)"
        )
    if not (np.abs(samples) < _MOST).all():
        raise AudioError(
            f"{place}: holds samples of {np.abs(samples).max():.0e} (full scale is 1; "
            "make it again)"
        )


def too_short(place: str, num_samples: int, rate: int) -> AudioError:
    """Return the error of a recording shorter than a sample at the wished rate."""
    return AudioError(f"{place}: is too short: {num_samples} samples at {rate} Hz")
