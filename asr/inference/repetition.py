"""Does a text repeat itself?

An attention speller that loses its place writes the same words again and again, until
it is stopped. People repeat themselves too, but not so often and not so exactly.

Source: the second measure of `repeats_itself` is that of Whisper (Radford et al.,
2022, arXiv:2212.04356, section 4.5): what compresses too well repeats itself. Whisper
compresses UTF-8, in which most bytes of a Thai or Hindi text are the same; here each
character is a byte, so that the bound is one of texts in any script.
"""

import zlib
from collections.abc import Iterator
from typing import NamedTuple

MOST_TIMES = {1: 4, 2: 3, 3: 3, 4: 2, 5: 2, 6: 2}
"""How often a stretch of so many words may stand in a row."""
MOST_COMPRESSION = 2.4
"""Characters of a text over the bytes of its compressed form."""
_LONG = 80  # characters from which compression is meaningful


class Repetition(NamedTuple):
    """A stretch of words, and how often in a row it stands."""

    times: int
    words: str


def repeats_itself(text: str) -> bool:
    """Return whether a text repeats itself as nobody does.

    >>> repeats_itself("AND THEN AND THEN AND THEN AND THEN")
    True
    >>> repeats_itself("NO NO NO SAID HE")
    False
    """
    if any(found.times > MOST_TIMES[len(found.words.split())] for found in _all(text)):
        return True
    return len(text) >= _LONG and len(text) > MOST_COMPRESSION * len(
        zlib.compress(_a_byte_each(text))
    )


def _a_byte_each(text: str) -> bytes:
    """Write each character as one byte; of ASCII it is the character itself."""
    others = dict.fromkeys(c for c in text if not c.isascii())
    numbers = {c: 128 + place % 128 for place, c in enumerate(others)}
    return bytes(numbers.get(c) or ord(c) for c in text)


def longest_repetition(text: str) -> Repetition:
    """Find the stretch of up to six words that stands most often in a row.

    >>> longest_repetition("AND OF THE SEA OF THE SEA OF THE SEA ROSE")
    Repetition(times=3, words='OF THE SEA')
    >>> longest_repetition("GO ON")
    Repetition(times=1, words='GO')
    """
    return max(_all(text), key=lambda one: one.times, default=Repetition(0, ""))


def _all(text: str) -> Iterator[Repetition]:
    """For each length, find the stretch of so many words that stands most often."""
    words = text.split()
    for size in MOST_TIMES:
        if size > len(words):
            return
        times, end = 1, size
        equal = 0  # words in a row that are the same as the word `size` before them
        for i in range(size, len(words)):
            equal = equal + 1 if words[i] == words[i - size] else 0
            if equal // size + 1 > times:
                times, end = equal // size + 1, i + 1
        yield Repetition(times, " ".join(words[end - size : end]))
