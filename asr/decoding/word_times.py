"""When was each word said, once it is known where its tokens are?

Plain arithmetic, whoever found the tokens: see `ctc_alignment`.

Shapes: I tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

EARLY = 0.05
"""Seconds by which spikes come before their sound, as `asr evaluate long-recordings`
measured it."""


class Found(Protocol):
    """Where the tokens of a text are, such as `CTCAlignment`."""

    @property
    def begins(self) -> Any:
        """(I,) first step, as floats."""

    @property
    def ends(self) -> Any:
        """(I,) step behind the last."""


class Span(NamedTuple):
    """A stretch of time, in seconds."""

    start: float
    end: float


def word_places(pieces: Sequence[str]) -> list[slice]:
    """Return where the words of a text are, in tokens.

    Args:
        pieces: what each token writes: a character of the text, or several of a word,
            with the space before them.

    >>> word_places("GO  ON")
    [slice(0, 2, None), slice(4, 6, None)]
    >>> word_places([" GO", "ES", " ", "ON"])
    [slice(0, 2, None), slice(3, 4, None)]
    """
    token_of = [token for token, piece in enumerate(pieces) for _ in piece]
    text = "".join(pieces)
    places, start = list[slice](), 0
    for word in text.split():
        start = text.index(word, start)
        end = start + len(word)
        places.append(slice(token_of[start], token_of[end - 1] + 1))
        start = end
    return places


def word_spans(
    found: Found,
    places: Sequence[slice],
    seconds_per_step: float,
    duration: float,
) -> list[Span]:
    """Return when the words of a text were said.

    Args:
        found: where all of its tokens are.
        places: of the words among the tokens.
        seconds_per_step: of the CTC head.
        duration: of the recording, in seconds.

    Returns:
        One span a word: in order, inside the recording, and without overlap.

    >>> from types import SimpleNamespace
    >>> found = SimpleNamespace(begins=[5.0, 9, 10, 20], ends=[6.0, 10, 11, 21])
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
