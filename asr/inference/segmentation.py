"""Cut a long recording into pieces that a model can transcribe, and join what was said.

A model is trained on utterances of up to about 16 seconds. A longer recording is cut in
the longest pause of the second two thirds of what a piece may last; silent stretches
become pieces of their own, which are not searched. A stretch in which sounds and pauses
alternate is not silent, however much louder the speech around it is. Where nobody
pauses, two pieces overlap, and their texts are merged at a word that both have.

A recording is read block by block and forgotten piece by piece: a day of audio needs no
more memory than a minute.

Shapes: N samples.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asr.audio import SAMPLE_RATE
from asr.decoding.word_times import word_places
from asr.transcript import Segment, mean_confidence

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float32]

LONGEST = 15.0
"""Seconds of the longest piece."""
WHOLE = 36.0
"""Seconds of the longest utterance of a corpus that is recognised as a whole, as it was
cut by those who made the corpus (LibriSpeech has some of 35 s); what is longer is cut
as a recording is."""
OVERLAP = 2.0
"""Seconds that two pieces share where there was no pause to cut in."""
MIN_PAUSE_SECONDS = 2.0
"""Seconds: a longer pause is a piece of its own."""
MARGIN = 0.25
"""Seconds of a long pause that stay with the speech before and after it."""
DEPTH = 18.0
"""dB below the speech around it, from which a stretch is a pause."""
FADE = 12.0
"""dB that the speech of one piece may be less loud than that of the piece before."""
FLOOR = -75.0
"""dB below full scale: what is not louder is no sound at all."""
_LONGEST, _OVERLAP = round(LONGEST * SAMPLE_RATE), round(OVERLAP * SAMPLE_RATE)
_MIN_PAUSE, _MARGIN = (
    round(MIN_PAUSE_SECONDS * SAMPLE_RATE),
    round(MARGIN * SAMPLE_RATE),
)
_LEAST_SOUND = SAMPLE_RATE // 2
"""Samples of sound in a quiet stretch from which it is searched: a click is shorter."""
_HOP = SAMPLE_RATE // 100
_SMOOTH = 20  # hops over which loudness is averaged: 0.2 s, a short pause


class Piece(NamedTuple):
    """A stretch of a recording."""

    start: int
    """Samples from the beginning of the recording."""
    waveform: "Tensor"
    """(N,) at 16 kHz; an array of numpy where the blocks were such."""
    overlap: int = 0
    """Samples at its beginning that the piece before it has too."""
    silent: bool = False
    """Whether it is silent."""

    @property
    def end(self) -> int:
        """Samples from the beginning of the recording."""
        return self.start + len(self.waveform)

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.waveform) / SAMPLE_RATE


class Cut(NamedTuple):
    """Where a piece ends, and what of it the next one repeats, in samples."""

    end: int
    overlap: int = 0
    silent: bool = False


class Pause(NamedTuple):
    """A pause, in samples from the beginning of a window."""

    start: int
    end: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.end - self.start) / SAMPLE_RATE


def pieces(blocks: "Iterable[Tensor]") -> Iterator[Piece]:
    """Cut a recording at 16 kHz into pieces of at most 15 s, without gaps.

    Args:
        blocks: (N,) each, of any length, one after the other; all tensors on the CPU,
            or all arrays of numpy, and then so are the pieces.

    >>> import torch
    >>> noise = torch.randn(20 * 16_000)
    >>> noise[160_000:164_000] = 0.0  # a pause at 10 s
    >>> [round(piece.end / 16_000, 1) for piece in pieces([noise])]
    [10.1, 20.0]
    """
    start, overlap, speech = 0, 0, FLOOR
    ahead, ended, blocks = np.zeros(0, dtype=np.float32), False, iter(blocks)
    kind: type | None = None
    while not ended or len(ahead):
        while not ended and len(ahead) <= _LONGEST:
            block = next(blocks, None)
            ended = block is None
            kind = kind or type(block)
            if block is not None:
                ahead = np.concatenate((ahead, np.asarray(block)))
        if not len(ahead):
            return
        window = ahead[: _LONGEST + 1]  # one sample more: is this the end?
        cut, speech = next_cut(window, speech)
        yield Piece(start, _like(kind, ahead[: cut.end].copy()), overlap, cut.silent)
        start, overlap = start + cut.end - cut.overlap, cut.overlap
        ahead = ahead[cut.end - cut.overlap :]


def _like(kind: type | None, waveform: Floats) -> Any:
    """Return a waveform as what its blocks were."""
    if kind is np.ndarray:
        return waveform
    import torch

    return torch.from_numpy(waveform)


def next_cut(window: Floats, speech: float) -> tuple[Cut, float]:
    """Find where the piece that begins a window ends.

    Args:
        window: (N,) at 16 kHz; longer than 15 s, if only by a sample, where more
            follows.
        speech: how loud the speech before it was, in dB.

    Returns:
        The cut, and how loud the speech is.
    """
    levels = loudness(window)
    loud = loudest(levels, speech)
    cut = _cut(len(window), find_pauses(levels, loud - DEPTH, len(window)))
    if not cut.silent:
        return cut, loud
    if _has_sound(loudness(window[: cut.end])):
        cut, quiet = next_cut(window[: cut.end], FLOOR)
        return cut, speech if cut.silent else quiet
    return cut, speech


def _has_sound(levels: Floats) -> bool:
    """Return whether a quiet stretch has sounds and pauses of its own.

    Speech that is far less loud than what is around it has; steady noise has not.
    """
    quietest = max(float(np.quantile(levels, np.float32(0.03))), FLOOR)
    return int((levels >= quietest + DEPTH).sum()) * _HOP >= _LEAST_SOUND


def _cut(num_samples: int, pauses: Sequence[Pause]) -> Cut:
    """Find the end of the piece that begins with so many samples."""
    for start, end in pauses:
        if end - start >= _MIN_PAUSE:
            if start:
                return Cut(min(start + _MARGIN, _LONGEST))
            rest = 0 if end == num_samples else _MARGIN
            return Cut(min(end - rest, _LONGEST), silent=True)
    if num_samples <= _LONGEST:
        return Cut(num_samples)
    late = [pause for pause in pauses if sum(pause) / 2 > _LONGEST / 3]
    if late:
        widest = max(late, key=lambda pause: pause.end - pause.start)
        return Cut(min(sum(widest) // 2, _LONGEST))
    return Cut(_LONGEST, overlap=_OVERLAP)


def loudness(window: Floats) -> Floats:
    """Measure how loud (N,) samples are: dB of 0.2 s around each hundredth second.

    What does not change in that time is no sound: the offset of a sound card.
    """
    padding = -len(window) % _HOP
    # With their mean: zeros behind an offset would be a click.
    padded = np.pad(window, (0, padding), "mean", stat_length=_HOP)
    hops = padded.astype(np.float64).reshape(-1, _HOP)
    power = _smoothed(np.square(hops).mean(axis=1))
    power -= np.square(_smoothed(hops.mean(axis=1)))
    levels: Floats = (10 * np.log10(np.maximum(power, 1e-12))).astype(np.float32)
    return levels


def _smoothed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the mean of some hops around each of (H,) hops."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    places, half = np.arange(len(values)), _SMOOTH // 2
    first, behind = (
        np.maximum(places - half, 0),
        np.minimum(places + half + 1, len(values)),
    )
    means: npt.NDArray[np.float64] = (sums[behind] - sums[first]) / (behind - first)
    return means


def loudest(levels: Floats, speech: float) -> float:
    """Return how loud speech is, in dB: that of a window, or a little below earlier."""
    return max(float(np.quantile(levels, np.float32(0.97))), speech - FADE)


def find_pauses(levels: Floats, threshold: float, num_samples: int) -> list[Pause]:
    """Find the stretches that are less loud than a threshold, in dB."""
    quiet = levels < max(threshold, FLOOR)
    edges = np.diff(np.pad(quiet.astype(np.int8), 1)).nonzero()[0].tolist()
    return [
        Pause(start * _HOP, min(end * _HOP, num_samples))
        for start, end in zip(edges[::2], edges[1::2], strict=True)
    ]


def merge_segments(before: Segment, after: Segment) -> tuple[Segment, Segment]:
    """Leave the repeated words out of two segments that overlap in time.

    The seam is behind the word that both have at the same time, or, where they agree
    on none, in the middle of the overlap. Where only one of them has words it keeps
    them all: the other found nothing there, or was not searched.

    Args:
        before: the earlier one.
        after: begins before the earlier one ends.
    """
    if bool(before.words) != bool(after.words):
        seam = min(before.end, after.end) if before.words else after.start
        return (
            _only(before, slice(None), before.start, seam),
            _only(after, slice(None), seam, after.end),
        )
    middle = (after.start + before.end) / 2
    agreed = [
        (abs((left.start + left.end) / 2 - middle), i, j)
        for i, left in enumerate(before.words)
        for j, right in enumerate(after.words)
        if left.text == right.text
        and left.end > after.start
        and right.start < before.end
        and abs(left.start + left.end - right.start - right.end) / 2 < 0.3
    ]
    if agreed:
        _, i, j = min(agreed)
        num_left, first_right = i + 1, j + 1
        seam = before.words[i].end
    else:
        seam = middle
        num_left = sum((word.start + word.end) / 2 < seam for word in before.words)
        first_right = sum((word.start + word.end) / 2 < seam for word in after.words)
    return (
        _only(before, slice(0, num_left), before.start, seam),
        _only(after, slice(first_right, len(after.words)), seam, after.end),
    )


def _only(segment: Segment, kept: slice, start: float, end: float) -> Segment:
    """Keep some words of a segment, and move its ends."""
    words = [
        replace(word, start=min(max(word.start, start), end), end=min(word.end, end))
        for word in segment.words[kept]
    ]
    words = [replace(word, end=max(word.start, word.end)) for word in words]
    alignment = segment.alignment
    if alignment and len(words) < len(segment.words):
        places = word_places(alignment.tokens)[kept]  # the end is in the last one
        rows = slice(places[0].start, places[-1].stop) if places else slice(0)
        alignment = replace(
            alignment,
            tokens=alignment.tokens[rows],
            weights=alignment.weights[rows],
        )
    return replace(
        segment,
        start=start,
        end=end,
        text=" ".join(word.text for word in words),
        words=tuple(words),
        confidence=mean_confidence(words),
        alignment=alignment if words else None,
    )
