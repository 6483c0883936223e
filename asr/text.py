"""Text as LibriSpeech writes it, and its characters as numbers.

The alphabet is A to Z, the apostrophe and the space. `normalize` brings any text into
it, so that references of different make are spelled alike; `CharTokenizer` numbers the
characters, for networks that speak in numbers.

Nobody asks more of a tokenizer than `Tokenizer` has; `asr.tokenizers` has the other
kinds.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, Final, Protocol

from asr.errors import CheckpointError
from asr.foreign import check_name

ALPHABET: Final = " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""All characters of a normalized text, in the order of their tokens."""

_APOSTROPHES = dict.fromkeys(map(ord, "\u2018\u2019\u201b\u02bc\u2032`\u00b4"), "'")
PLAIN_LETTERS: Final = {
    **{"Æ": "AE", "Œ": "OE", "Ø": "O", "Ł": "L", "Đ": "D", "Ð": "D", "Þ": "TH"},
    **{"ẞ": "SS", "Ħ": "H", "Ŋ": "NG", "Ŧ": "T"},
}
"""What stands for letters that are no plain ones with an accent."""

_WRITTEN_OUT = str.maketrans(PLAIN_LETTERS | {"&": " AND ", "%": " PERCENT "})
_CURRENCIES = {  # its name, and that of its hundredth; each with its plural
    "$": ("DOLLAR", "DOLLARS", "CENT", "CENTS"),
    "£": ("POUND", "POUNDS", "PENNY", "PENCE"),
    "€": ("EURO", "EUROS", "CENT", "CENTS"),
}
_INTEGER = r"\d+(?:,\d{3})+(?!\d)|\d+"
_MONEY = re.compile(
    rf"([$£€]) ?({_INTEGER})(?:\.(\d\d)(?!\d)|(\.\d+)?( [MB]ILLION| THOUSAND)?)"
)
_NUMBER = re.compile(rf"({_INTEGER})(?:\.(\d+)|(ST|ND|RD|TH)\b|(S)\b)?")
_LONGEST_NUMBER = 15  # digits; a longer one is said digit by digit

# English drops the start of these words and writes an apostrophe for it. Before any
# other word it is a quotation mark, if one behind a word or sign closes the quotation.
_ELIDED = "TIS|TWAS|TWERE|TWILL|TWOULD|TWIXT|EM|N|CAUSE|BOUT|ROUND|NEATH|GAINST|TIL"
_QUOTED = re.compile(
    rf"(?<![A-Z'])'(?=[A-Z])(?!(?:{_ELIDED})(?![A-Z]))"  # opens: before a word
    r"(.*?)(?:(?<=[A-Z])'(?![A-Z'])|\")"  # closes: after a word; or it surely does
)


def normalize(text: str) -> str:
    r"""Bring a text into LibriSpeech's alphabet.

    Letters lose their accents, numbers are spelled out, an apostrophe stays where
    English has one, and all else becomes a space.

    >>> normalize('"Don\'t!", she said: \'It is 3.5% at the café.\'')
    "DON'T SHE SAID IT IS THREE POINT FIVE PERCENT AT THE CAFE"
    """
    text = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES)).upper()
    text = "".join(c for c in text if unicodedata.category(c) not in ("Mn", "Me", "Cf"))
    text = text.translate(_APOSTROPHES).translate(_WRITTEN_OUT)
    text = _NUMBER.sub(_number_in_words, _MONEY.sub(_money_in_numbers, text))
    return _unquoted(text)


def _unquoted(text: str) -> str:
    """Keep letters, and apostrophes that are no quotation marks."""
    text = re.sub(r"'{2,}|\"", " ", text)
    text = re.sub(
        r"(?<=[^A-Z'\s])'(?![A-Z])", '"', text
    )  # behind a sign: surely closes
    text = re.sub(r"[^A-Z'\"]+", " ", text)
    text = re.sub(r"(?<![A-Z])'(?![A-Z])", " ", text)
    while (fewer := _QUOTED.sub(r"\1", text)) != text:  # quotations within quotations
        text = fewer
    return " ".join(text.replace('"', " ").split())


def _money_in_numbers(match: re.Match[str]) -> str:
    """$3.50 -> 3 DOLLARS 50 CENTS; $1.5 MILLION -> 1.5 MILLION DOLLARS."""
    sign, amount, hundredths, decimals, scale = match.groups()
    one, several, cent, cents = _CURRENCIES[sign]
    if decimals or scale:
        return f" {amount}{decimals or ''}{scale or ''} {several} "
    words = f" {amount} {one if amount == '1' else several} "
    if hundredths and int(hundredths):
        words += f"{int(hundredths)} {cent if int(hundredths) == 1 else cents} "
    return words


def _number_in_words(match: re.Match[str]) -> str:
    # num2words is slow to import, and most texts have no number.
    from num2words import num2words

    integer, decimals, ordinal, plural = match.groups()
    integer = integer.replace(",", "")
    is_serial = len(integer) > 1 and int(integer[0]) == 0
    if is_serial or len(integer) > _LONGEST_NUMBER:
        words = " ".join(num2words(int(digit)) for digit in integer)
    else:
        words = num2words(int(integer), to="ordinal" if ordinal else "cardinal")
    if decimals:
        words += " point " + " ".join(num2words(int(digit)) for digit in decimals)
    if plural:  # the 1990S
        words = re.sub("y$", "ie", re.sub("x$", "xe", words)) + "s"
    return f" {words.upper()} "


class Tokenizer(Protocol):
    """Text as numbers, the tokens from 0 to `size` - 1, and back."""

    @property
    def pad(self) -> int:
        """Fills what is shorter; it is the blank of CTC too."""

    @property
    def sos(self) -> int:
        """Stands before the first token."""

    @property
    def eos(self) -> int:
        """Stands behind the last token."""

    @property
    def size(self) -> int:
        """V: how many tokens there are, special ones counted."""

    def encode(self, text: str) -> list[int]:
        """Number a text, without <sos> and <eos>; ValueError where that cannot be."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Spell tokens out; the special ones are skipped."""

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Return what each token writes, nothing for the special ones.

        Joined they have the words of `decode`. No piece has a space between letters.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return what it is, ready for JSON; equal for tokenizers that are equal."""

    def files(self) -> dict[str, bytes]:
        """Return the files that go with `to_dict`: contents by their names."""


@dataclass(frozen=True)
class CharTokenizer:
    """Characters as tokens: <pad>, <sos> and <eos>, then one token per character.

    >>> tokenizer = CharTokenizer()
    >>> tokenizer.encode("I'M")
    [13, 4, 17]
    >>> tokenizer.decode([tokenizer.sos, 13, 4, 17, tokenizer.eos])
    "I'M"
    """

    characters: str = ALPHABET
    """The characters in the order of their tokens; the first has the token 3."""

    pad: ClassVar[int] = 0
    """Fills what is shorter; it is the blank of CTC too."""
    sos: ClassVar[int] = 1
    """Stands before the first character."""
    eos: ClassVar[int] = 2
    """Stands behind the last character."""
    num_special: ClassVar[int] = 3
    """How many tokens are none of a character: they come first."""

    def __post_init__(self) -> None:
        """Refuse an alphabet that cannot be decoded."""
        if not self.characters:
            raise ValueError("a tokenizer needs a character")
        check_name(self.characters, "its alphabet")
        if len(set(self.characters)) < len(self.characters):
            raise ValueError(f"a character is there twice in {self.characters!r}")

    @property
    def size(self) -> int:
        """V: how many tokens there are, special ones counted."""
        return self.num_special + len(self.characters)

    def encode(self, text: str) -> list[int]:
        """Number the characters of a text, without <sos> and <eos>.

        Raises:
            ValueError: a character is none of the alphabet (see `normalize`).
        """
        places = [self.characters.find(character) for character in text]
        if -1 in places:
            stranger = text[places.index(-1)]
            raise ValueError(f"{stranger!r} is not among {self.characters!r}")
        return [self.num_special + place for place in places]

    def decode(self, tokens: Sequence[int]) -> str:
        """Spell tokens out; the special ones are skipped.

        Raises:
            ValueError: a token is none of the `size` tokens.
        """
        return "".join(self.pieces(tokens))

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Return the character of each token, nothing for the special ones.

        Raises:
            ValueError: a token is none of the `size` tokens.
        """
        size = self.size
        if strangers := [token for token in tokens if not 0 <= token < size]:
            raise ValueError(f"tokens are 0 to {size - 1}, got {strangers[0]}")
        written = [*[""] * self.num_special, *self.characters]
        return [written[token] for token in tokens]

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads, ready for JSON."""
        return {"kind": "characters", "characters": self.characters}

    def files(self) -> dict[str, bytes]:
        """Return no file: `to_dict` has it all."""
        return {}

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> "CharTokenizer":
        """Read what `to_dict` returned.

        Raises:
            CheckpointError: it is not of this kind, or its characters are impossible.
        """
        if not isinstance(entries, Mapping) or entries.get("kind") != "characters":
            raise CheckpointError("tokenizer: is of no known kind (want 'characters')")
        characters = entries.get("characters")
        if not isinstance(characters, str):
            raise CheckpointError("tokenizer: has no characters (want a string)")
        try:
            return cls(characters)
        except ValueError as error:
            raise CheckpointError(f"tokenizer: {error}") from error


def collapse_ctc(tokens: Sequence[int], blank: int) -> list[int]:
    """Reduce a CTC path, one token a step, to what it spells.

    Repeats are merged first and blanks are dropped after, so that a blank between two
    equal tokens keeps them apart.

    >>> collapse_ctc([0, 5, 5, 0, 5, 6], blank=0)
    [5, 5, 6]
    """
    return [token for token, _ in groupby(tokens) if token != blank]
