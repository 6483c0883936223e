"""The best path of the CTC head through a text, by numpy.

The twin of `asr.decoding.ctc_alignment`; tests hold both together.

Shapes: J' steps of the CTC head, V labels, I tokens of a text.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


class CTCAlignment(NamedTuple):
    """Where the CTC head finds each token; see `asr.decoding.ctc_alignment`."""

    begins: Floats
    """(I,) first step."""
    ends: Floats
    """(I,) step behind the last."""
    log_probs: Floats
    """(I,) log P of the token at its best step; -inf where there is no path."""


def align(log_probs: Floats, tokens: Sequence[int], blank: int) -> CTCAlignment:
    """Find the most likely path of the CTC head that spells a text.

    Args:
        log_probs: (J', V) of the CTC head.
        tokens: (I,) of the text, without <eos>.
        blank: of CTC.

    Returns:
        The path; where none is possible the tokens are spread evenly.
    """
    text = np.array(tokens, dtype=np.int64)
    steps, count = len(log_probs), len(text)
    repeats = int((text[1:] == text[:-1]).sum())
    if not count or count + repeats > steps or not np.isfinite(log_probs).all():
        return _evenly(count, steps)
    labels = np.full(2 * count + 1, blank)
    labels[1::2] = text
    skips = np.full(len(labels), -inf)  # from a token to the next, past the blank
    skips[3::2] = np.where(text[1:] == text[:-1], -inf, 0.0)
    scores = log_probs[:, labels]
    best = np.full(len(labels) + 2, -inf)  # two more before the first, never reached
    best[2:4] = scores[0, :2]
    came_from = np.zeros((steps, len(labels)), dtype=np.int8)
    for step in range(1, steps):
        ways = np.stack([best[2:], best[1:-1], best[:-2] + skips])
        came_from[step] = ways.argmax(axis=0)
        best[2:] = ways.max(axis=0) + scores[step]
    place = len(labels) - 1 - int(best[-2] > best[-1])
    path = np.empty(steps, dtype=np.int64)
    for step in reversed(range(steps)):
        path[step] = place
        place -= int(came_from[step, place])
    begins = np.searchsorted(path, np.arange(1, len(labels), 2))
    ends = np.searchsorted(path, np.arange(1, len(labels), 2), side="right")
    along = log_probs[np.arange(steps), labels[path]]
    most = [along[b:e].max() for b, e in zip(begins, ends, strict=True)]
    return CTCAlignment(
        begins.astype(np.float32), ends.astype(np.float32), np.array(most)
    )


def _evenly(count: int, steps: int) -> CTCAlignment:
    begins = np.linspace(0, steps - 1, count).astype(np.float32)
    ends = np.append(begins, np.float32(steps))[1:]
    return CTCAlignment(begins, ends, np.full(count, -inf))
