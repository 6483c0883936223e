"""Batches of few fixed shapes, for a device that wants to know shapes beforehand.

A corpus is cut into classes by length. A batch of a class has always the same number
of frames, tokens and rows, so that what a GPU does with it can be recorded once and
replayed (see `asr.training.graphs`). What is too little for a batch moves up to the
next class; rows that stay empty at the end weigh nothing.

The order of an epoch is a function of (seed, epoch) alone.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_FRAMES_STEP = 16
_TOKENS_STEP = 8
_ROWS_STEP = 8
_MOST_PADDING = 0.08
_MOST_CLASSES = 16


class Length(NamedTuple):
    """How long an utterance is."""

    frames: int
    tokens: int


class LengthClass(NamedTuple):
    """The shape of a batch."""

    frames: int
    tokens: int
    """Without <sos> and <eos>."""
    rows: int


class ClassBatch(NamedTuple):
    """Utterances that go into a batch of a class."""

    shape: LengthClass
    indexes: list[int]
    """Places in the manifest, at most `shape.rows` of them."""


def cut_classes(
    lengths: Sequence[Length], batch_frames: int, max_rows: int
) -> list[LengthClass]:
    """Cut a corpus into as few classes as leave less than 8 % of padding.

    Args:
        lengths: of all utterances, at all speeds.
        batch_frames: most frames in a batch, padding counted.
        max_rows: most utterances in a batch.

    Returns:
        The classes, from short to long; more than 16 are never made.

    Source: the cuts with the least padding, by dynamic programming over the histogram
    of lengths.
    """
    frames = np.array([length.frames for length in lengths])
    steps = -(-frames // _FRAMES_STEP)
    counts = np.bincount(steps)
    bounds, classes, lowest = _best_cuts(counts, frames), list[LengthClass](), 0
    tokens = np.array([length.tokens for length in lengths])
    widest = 0
    for bound in bounds:
        inside = tokens[(steps > lowest) & (steps <= bound)]
        widest = max(widest, int(inside.max()))  # what is left over moves up
        wide = max(1, math.ceil(widest / _TOKENS_STEP)) * _TOKENS_STEP
        long = bound * _FRAMES_STEP
        classes.append(LengthClass(long, wide, _rows(batch_frames // long, max_rows)))
        lowest = bound
    return classes


def _rows(fitting: int, max_rows: int) -> int:
    rows = max(1, min(fitting, max_rows))
    return rows if rows < _ROWS_STEP else rows // _ROWS_STEP * _ROWS_STEP


def _best_cuts(counts: np.ndarray, frames: np.ndarray) -> list[int]:
    """Return the upper bounds of the classes, in steps of frames."""
    used = [step for step in range(len(counts)) if counts[step]]
    before = np.concatenate(([0], np.cumsum(counts[used])))
    total = int(frames.sum())
    # least[k][j]: fewest frames, padded, of the first j lengths in k classes
    least = [np.where(np.arange(len(used) + 1) == 0, 0, np.inf)]
    choices = list[np.ndarray]()
    for _ in range(min(_MOST_CLASSES, len(used))):
        found, choice = np.full(len(used) + 1, np.inf), np.zeros(len(used) + 1, int)
        for last, step in enumerate(used, 1):
            costs = least[-1][:last] + (before[last] - before[:last]) * step
            choice[last] = int(costs.argmin())
            found[last] = costs[choice[last]]
        least.append(found)
        choices.append(choice)
        if found[-1] * _FRAMES_STEP * (1 - _MOST_PADDING) <= total:
            break
    bounds, last = list[int](), len(used)
    for choice in reversed(choices):
        if last == 0:
            break
        bounds.append(used[last - 1])
        last = int(choice[last])
    return bounds[::-1]


def halved(classes: Sequence[LengthClass]) -> list[LengthClass]:
    """Return classes whose batches need half of the memory."""
    return [shape._replace(rows=max(1, shape.rows // 2)) for shape in classes]


@dataclass(frozen=True)
class ClassSampler:
    """The order in which a corpus is read, in batches of fixed shapes.

    Args:
        lengths: of each utterance, in the epoch that is asked for.
        classes: from short to long; the last has room for every utterance.
        seed: another seed, another order.
        short_first: whether epoch 0 goes from short to long utterances.
        group: batches in a row that are of one class: those of one update.
    """

    lengths: Callable[[int], Sequence[Length]]
    classes: Sequence[LengthClass]
    seed: int
    short_first: bool
    group: int = 1

    def batches(self, epoch: int) -> list[ClassBatch]:
        """Return the batches of an epoch; the number is a multiple of the group's."""
        rng = random.Random(f"classes {self.seed} {epoch}")
        waiting: list[list[int]] = [[] for _ in self.classes]
        for index, length in enumerate(self.lengths(epoch)):
            waiting[self._place(length)].append(index)
        groups, left = list[list[ClassBatch]](), list[int]()
        for place, shape in enumerate(self.classes):
            last = place == len(self.classes) - 1
            here = [*left, *waiting[place]]
            rng.shuffle(here)
            size = shape.rows * self.group
            whole = len(here) if last else len(here) // size * size
            for start in range(0, whole, size):
                some = here[start : start + size]
                groups.append(
                    [
                        ClassBatch(shape, some[number :: self.group])
                        for number in range(self.group)
                    ]
                )
            left = here[whole:]
        if epoch > 0 or not self.short_first:
            rng.shuffle(groups)
        return [batch for group in groups for batch in group]

    def _place(self, length: Length) -> int:
        for place, shape in enumerate(self.classes):
            if length.frames <= shape.frames and length.tokens <= shape.tokens:
                return place
        raise ValueError(f"no class has room for {length}")
