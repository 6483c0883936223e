"""Does a text go in circles?

An attention speller that loses its place writes the same words again and again, until
it is stopped. People repeat themselves too, but not so often and not so exactly.

Source: the second measure is that of Whisper (Radford et al., 2022, arXiv:2212.04356,
section 4.5): what compresses too well says the same thing many times.
"""

import zlib

MOST_REPEATS = {1: 4, 2: 3, 3: 3, 4: 2, 5: 2, 6: 2}
"""How often so many words may stand in a row, one group after the other."""
MOST_COMPRESSION = 2.4
"""Size of a text over that of its compressed form."""
_LONG = 80  # characters from which compression tells something


def goes_in_circles(text: str) -> bool:
    """Tell whether a text repeats itself as nobody does.

    >>> goes_in_circles("AND THEN AND THEN AND THEN AND THEN")
    True
    >>> goes_in_circles("NO NO NO SAID HE")
    False
    """
    words = text.split()
    if any(_repeats(words, n) > most for n, most in MOST_REPEATS.items()):
        return True
    data = text.encode()
    return len(data) >= _LONG and len(data) > MOST_COMPRESSION * len(
        zlib.compress(data)
    )


def _repeats(words: list[str], n: int) -> int:
    """Count how often, at most, a group of n words stands in a row."""
    longest = run = 0  # words that equal the one n places before
    for word, before in zip(words[n:], words, strict=False):
        run = run + 1 if word == before else 0
        longest = max(longest, run)
    return longest // n + 1
