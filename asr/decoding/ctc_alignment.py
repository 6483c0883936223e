"""When was each character said, by the CTC head's own account?

The most likely path of the CTC head through the listener's steps that spells a given
text (forced alignment) gives for each character where it begins and ends, and how sure
the head was of it. The paths can only go forward, so that the times are in order.

A CTC head marks a character by a spike of a step or two somewhere in its sound, and has
blanks between the spikes. A head on a listener that reads both ways has them a little
early. (Attention gives less exact times: `asr evaluate long-recordings`.)

Shapes: I tokens, J' steps of the CTC head, V vocabulary size.

Source: Graves et al. (2006), ICML, section 4 (the paths); word times from them:
Kürzinger et al. (2020), arXiv:2007.09127.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchaudio.functional import forced_align

EARLY = 0.05
"""Seconds by which spikes come before their sound, as `asr evaluate long-recordings`
measured it."""


class CTCAlignment(NamedTuple):
    """Where the CTC head finds each token of a text."""

    begins: Tensor
    """(I,) first step, as floats."""
    ends: Tensor
    """(I,) step behind the last."""
    log_probs: Tensor
    """(I,) log P of the token at its best step; -inf where there is no path."""


class Span(NamedTuple):
    """A stretch of time, in seconds."""

    start: float
    end: float


def align(log_probs: Tensor, tokens: Tensor, blank: int) -> CTCAlignment:
    """Find the most likely path of the CTC head that spells a text.

    Args:
        log_probs: (J', V) of the CTC head, on the CPU, in float32.
        tokens: (I,) of the text, without <eos>.
        blank: of CTC.

    Returns:
        The path. Where no path is possible (a text too dense for CTC, log P
        that is not finite) the tokens are spread evenly.
    """
    num_steps, num_tokens = len(log_probs), len(tokens)
    repeats = int((tokens[1:] == tokens[:-1]).sum())
    if not num_tokens or num_tokens + repeats > num_steps:
        return _evenly(num_tokens, num_steps)
    path = forced_align(log_probs[None], tokens[None].int(), blank=blank)[0][0]
    others = path.new_full((1,), -1)
    starts = path != torch.cat((others, path[:-1]))
    stops = path != torch.cat((path[1:], others))
    begins = (starts & (path != blank)).nonzero()[:, 0]
    ends = (stops & (path != blank)).nonzero()[:, 0] + 1
    if len(begins) != num_tokens:
        return _evenly(num_tokens, num_steps)
    along = log_probs.gather(1, path.long()[:, None])[:, 0]
    best = [float(along[b:e].max()) for b, e in zip(begins, ends, strict=True)]
    return CTCAlignment(begins.float(), ends.float(), torch.tensor(best))


def _evenly(num_tokens: int, num_steps: int) -> CTCAlignment:
    begins = torch.linspace(0, num_steps - 1, num_tokens)
    ends = torch.cat((begins, torch.tensor([float(num_steps)])))[1:]
    return CTCAlignment(begins, ends, torch.full((num_tokens,), -torch.inf))


def word_places(text: str) -> list[slice]:
    """Return the places of the words of a text, in characters.

    >>> word_places("GO  ON")
    [slice(0, 2, None), slice(4, 6, None)]
    """
    places, start = list[slice](), 0
    for word in text.split():
        start = text.index(word, start)
        places.append(slice(start, start + len(word)))
        start += len(word)
    return places


def word_spans(
    found: CTCAlignment,
    places: Sequence[slice],
    seconds_per_step: float,
    duration: float,
) -> list[Span]:
    """Return when the words of a text were said.

    Args:
        found: where all of its characters are.
        places: of the words among the characters.
        seconds_per_step: of the CTC head.
        duration: of the recording, in seconds.

    Returns:
        One span a word: in order, inside the recording, and without overlap.

    >>> begins = torch.tensor([5.0, 9, 10, 20])
    >>> found = CTCAlignment(begins, begins + 1, torch.zeros(4))
    >>> [(round(s.start, 2), round(s.end, 2))
    ...  for s in word_spans(found, [slice(0, 2), slice(3, 4)], 0.04, 1.0)]
    [(0.25, 0.45), (0.85, 0.89)]
    """
    spans = list[Span]()
    for place in places:
        start = float(found.begins[place.start]) * seconds_per_step + EARLY
        end = float(found.ends[place.stop - 1]) * seconds_per_step + EARLY
        spans.append(Span(min(start, duration), min(end, duration)))
    return spans
