"""Which weights a token starts from, where a network with another alphabet goes on.

A network has weights for each of its tokens: a row of the speller's embedding, of its
output, and of the CTC head. A character that both alphabets have keeps its rows, and so
do the special tokens. Another one starts from the rows of its nearest relative, the
letter that it is written as in the old alphabet (`asr.alphabet.fitted`): `a` and `ä`
as `A`. They sound alike, and the network sees the difference from the first update on
by what the texts have. What has no relative is drawn, as in a new network: rows near
the mean of the old ones are no better after a few updates (docs/adapting.md).
"""

from collections.abc import Sequence
from typing import NamedTuple

from asr.alphabet import fitted, shown
from asr.text import CharTokenizer, Tokenizer

_EXAMPLES = 3


class TokenRows(NamedTuple):
    """Where the tokens of a network start."""

    rows: Sequence[int | None]
    """For each token the old one whose rows it gets; None for those that were drawn."""
    kept: str
    """Characters that both alphabets have."""
    relatives: dict[str, str]
    """Characters that are new, and from which old one each starts."""
    drawn: str
    """Characters that start from chance."""

    def __str__(self) -> str:
        """Write in a line what becomes of the characters.

        >>> print(match_tokens(CharTokenizer(" AB"), CharTokenizer(" Aaш")))
        2 of 4 characters keep their weights, 1 starts as another (a as A), 1 anew (ш)
        """
        number = len(self.kept) + len(self.relatives) + len(self.drawn)
        parts = [f"{len(self.kept)} of {number} characters keep their weights"]
        if self.relatives:
            pairs = [f"{new} as {old}" for new, old in self.relatives.items()]
            some = ", ".join(pairs[:_EXAMPLES])
            more = ", …" if len(pairs) > _EXAMPLES else ""
            verb = "starts" if len(pairs) == 1 else "start"
            parts.append(f"{len(pairs)} {verb} as another ({some}{more})")
        if self.drawn:
            parts.append(f"{len(self.drawn)} anew ({shown(self.drawn)})")
        return ", ".join(parts)


def match_tokens(old: Tokenizer, new: Tokenizer) -> TokenRows:
    """Find for each token of a network the one of another that it starts from.

    Raises:
        ValueError: one of them writes subwords, whose pieces have no relatives.
    """
    if not (isinstance(old, CharTokenizer) and isinstance(new, CharTokenizer)):
        raise ValueError("only characters can be matched")
    places = {c: old.num_special + i for i, c in enumerate(old.characters)}
    nearest = {c: _relative(c, old.characters) for c in new.characters}
    relatives = {c: r for c, r in nearest.items() if c not in places and r in places}
    sources = [places.get(relatives.get(c, c)) for c in new.characters]
    return TokenRows(
        [*range(new.num_special), *sources],
        "".join(c for c in new.characters if c in places),
        relatives,
        "".join(c for c in new.characters if c not in places and c not in relatives),
    )


def _relative(character: str, alphabet: str) -> str:
    """Return the letter that another is written as in an alphabet, or nothing.

    Of several it is the first; digits and marks have none, whatever they are read as.

    >>> [_relative(character, " ABS") for character in "äß5!"]
    ['A', 'S', '', '']
    """
    return fitted(character, alphabet)[:1] if character.isalpha() else ""
