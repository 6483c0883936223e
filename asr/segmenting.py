"""Cut a long recording into pieces that a model can transcribe.

A model has heard utterances of up to about 16 seconds. A longer recording is cut where
it is quietest, in the second half of what a piece may last, so that no word is cut
where there is a pause.

Shapes: N samples.
"""

from typing import NamedTuple

from torch import Tensor, nn

from asr.audio import SAMPLE_RATE

LONGEST = 15.0
"""Seconds of the longest piece."""
_HOP = SAMPLE_RATE // 100
_PAUSE = 20  # hops over which loudness is averaged: 0.2 s, a short pause


class Piece(NamedTuple):
    """A stretch of a recording, in samples."""

    start: int
    end: int


def pieces(waveform: Tensor) -> list[Piece]:
    """Cut (N,) samples at 16 kHz into pieces of at most 15 s, without gaps.

    >>> import torch
    >>> noise = torch.ones(20 * 16_000)
    >>> noise[160_000:164_000] = 0.0  # a pause at 10 s
    >>> [round(piece.end / 16_000, 1) for piece in pieces(noise)]
    [10.1, 20.0]
    """
    longest = round(LONGEST * SAMPLE_RATE)
    cuts, start = [0], 0
    while len(waveform) - start > longest:
        start += longest // 2
        start += _quietest(waveform[start : start + longest - longest // 2])
        cuts.append(start)
    ends = [*cuts[1:], len(waveform)]
    return [Piece(start, end) for start, end in zip(cuts, ends, strict=True)]


def _quietest(waveform: Tensor) -> int:
    """Find the middle of the quietest 0.2 s, in samples from the start of a stretch."""
    hops = waveform[: len(waveform) // _HOP * _HOP].reshape(-1, _HOP)
    power = hops.square().mean(dim=1)
    smooth = nn.functional.avg_pool1d(power[None], _PAUSE, stride=1)[0]
    return (int(smooth.argmin()) + _PAUSE // 2) * _HOP
