"""A text that somebody wrote, as a model can look for it: `asr align`.

Lines stay as they were written, with case, punctuation and numbers. Each of their words
knows which letters of the model's alphabet are spoken for it: `12%` is TWELVE PERCENT,
a dash is none and belongs to the word before it.

Shapes: W words.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from asr.alphabet import fitted
from asr.text import Tokenizer
from asr.tokenizers import alphabet_written


@dataclass(frozen=True)
class Line:
    """A line of a text."""

    number: int
    """In the text, from 1, blank lines counted."""
    words: tuple[str, ...]
    """As they were written; together they are the line."""
    tokens: tuple[tuple[int, ...], ...]
    """Of each word, without spaces; a word may have none if no word of the line has."""

    @property
    def text(self) -> str:
        """The line, its spaces single."""
        return " ".join(self.words)

    @property
    def has_letters(self) -> bool:
        """Whether there is something to look for."""
        return any(self.tokens)


def read_script(text: str | Iterable[str], tokenizer: Tokenizer) -> list[Line]:
    """Split a text into lines and words, and bring it into a model's alphabet.

    Args:
        text: lines, or all of them in one string; blank ones are left out.
        tokenizer: of the model.
    """
    alphabet = alphabet_written(tokenizer)
    lines = text.split("\n") if isinstance(text, str) else text
    return [
        _line(number, line.split(), alphabet, tokenizer)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _line(
    number: int, written: Sequence[str], alphabet: str, tokenizer: Tokenizer
) -> Line:
    spoken = _spoken(written, alphabet)
    words, letters = list[str](), list[str]()
    before = list[str]()  # words without letters at the beginning of the line
    for word, text in zip(written, spoken, strict=True):
        if text:
            words.append(" ".join([*before, word]))
            letters.append(text)
            before = []
        elif words:
            words[-1] += f" {word}"
        else:
            before.append(word)
    if before:
        words, letters = [" ".join(before)], [""]
    return Line(
        number, tuple(words), tuple(_tokens(text, tokenizer) for text in letters)
    )


def _tokens(text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Number the letters of a text; what writes only a space is left out."""
    known = alphabet_written(tokenizer)
    tokens = tokenizer.encode("".join(c for c in text if c in known))
    pieces = tokenizer.pieces(tokens)
    return tuple(
        token for token, piece in zip(tokens, pieces, strict=True) if piece.strip()
    )


def _spoken(written: Sequence[str], alphabet: str) -> list[str]:
    """Return what is spoken for each word of a line.

    A line is brought into an alphabet as a whole, for a number may depend on the words
    around it; what came of each word is found by what would come of it alone.

    >>> _spoken(["$2", "million", "—", "gone!"], " ABCDEFGHIJKLMNOPQRSTUVWXYZ'")
    ['TWO MILLION DOLLARS', '', '', 'GONE']
    """
    alone = [fitted(word, alphabet).split() for word in written]
    together = fitted(" ".join(written), alphabet).split()
    words = [word for some in alone for word in some]
    owners = [owner for owner, some in enumerate(alone) for _ in some]
    found = [list[str]() for _ in written]
    if words == together:
        return [" ".join(some) for some in alone]
    matcher = SequenceMatcher(None, words, together, autojunk=False)
    last = 0
    for _, start, end, first, stop in matcher.get_opcodes():
        for place in range(first, stop):
            if end > start:
                share = (place - first) * (end - start) // (stop - first)
                last = owners[start + share]
            found[last].append(together[place])
    return [" ".join(some) for some in found]
