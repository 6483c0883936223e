"""Alphabets of any language, and how a text is brought into one.

An alphabet is a string of characters, each once, the space first: what a model can
write. A character is what NFC leaves: `é` is one, and a base letter with a mark that
Unicode has no single code for is two. Which alphabet a model has, follows from the
texts that it learned from; whatever meets it afterwards (references, hot words, texts
for a language model) is brought into it by `fitted`.

Source: Unicode Standard Annex #15, "Unicode Normalization Forms".
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, Literal, get_args

from asr.errors import ConfigError
from asr.foreign import read_text
from asr.text import ALPHABET, PLAIN_LETTERS, normalize

Normalization = Literal["english", "none", "lower", "upper", "plain"]
"""How texts of a corpus are spelled.

english   as LibriSpeech: A to Z and the apostrophe, numbers in English words
none      as they stand
lower     in lower case
upper     in upper case
plain     in lower case, and without punctuation: letters, digits, inner apostrophes
"""
NORMALIZATIONS: Final[tuple[str, ...]] = get_args(Normalization)

MOST_CHARACTERS: Final = 20_000
"""In an alphabet; Chinese newspapers have a third of that."""

_APOSTROPHES = "'\u2019\u02bc\u2018\u2032`\u00b4"  # the first of them stands for others
_LINE = 100  # characters of an alphabet that a message shows at most


def normalizer(name: str) -> Callable[[str], str]:
    """Return what brings texts into one spelling.

    Whichever it is, the text is in NFC, words are parted by one space, and characters
    that nobody sees (controls, soft hyphens, marks of direction) are gone.

    Args:
        name: one of `NORMALIZATIONS`.

    Raises:
        ConfigError: it is none of them.

    >>> normalizer("plain")('"Grüß Gott", sagt\\u00a0er: „Wie geht’s?“')
    "grüß gott sagt er wie geht's"
    """
    known: dict[str, Callable[[str], str]] = {
        "english": normalize,
        "none": _cleaned,
        "lower": lambda text: _cleaned(_lower(_cleaned(text))),
        "upper": lambda text: _cleaned(_cleaned(text).upper()),
        "plain": _plain,
    }
    if name not in known:
        raise ConfigError(f"--normalize {name}: is not known (use {', '.join(known)})")
    return known[name]


def _cleaned(text: str) -> str:
    """Bring a text into NFC and to one line, without what nobody sees."""
    seen = (" " if c.isspace() else c for c in text if not _is_hidden(c))
    return " ".join(unicodedata.normalize("NFC", "".join(seen)).split())


def _is_hidden(character: str) -> bool:
    """Return whether a character is written without being seen.

    Two that join letters (U+200C, U+200D) are spelling, in Persian and in Hindi.
    """
    if character.isspace() or character in "\u200c\u200d":
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn")


def _lower(text: str) -> str:
    """Bring a text into lower case, the Turkish İ as i: str.lower keeps its dot."""
    return text.replace("İ", "i").lower()


def _plain(text: str) -> str:
    text = _lower(_cleaned(text))
    kept = []
    for place, character in enumerate(text):
        if character in _APOSTROPHES and _is_inside(text, place):
            kept.append("'")  # U+02BC is a letter to Unicode, and as good as U+2019
        elif _belongs_to_words(character):
            kept.append(character)
        else:
            kept.append(" ")
    return _cleaned("".join(kept))


def _belongs_to_words(character: str) -> bool:
    joins = character in "\u200c\u200d"
    return joins or unicodedata.category(character)[0] in "LMN"


def _is_inside(text: str, place: int) -> bool:
    """Return whether letters stand on both sides of a place."""
    around = text[max(0, place - 1) : place] + text[place + 1 : place + 2]
    return len(around) == 2 and all(map(_belongs_to_words, around))


def alphabet_of(texts: Iterable[str]) -> str:
    """Collect the characters of texts, the space first.

    Texts in LibriSpeech's alphabet have that alphabet, whichever letters they lack.

    Raises:
        ConfigError: there are more than `MOST_CHARACTERS`.

    >>> alphabet_of(["Zäh", "am See"])
    ' SZaehmä'
    """
    found = {" "}
    for text in texts:
        found.update(text)
    if found <= set(ALPHABET):
        return ALPHABET
    if len(found) > MOST_CHARACTERS:
        raise ConfigError(
            f"the texts have {len(found)} different characters, which is too many for "
            f"an alphabet (at most {MOST_CHARACTERS} were expected)"
        )
    return "".join(sorted(found))


def read_alphabet(path: Path) -> str:
    """Read an alphabet from a file of UTF-8: its characters, in any number of lines.

    The space is in every alphabet, and need not be in the file.

    Raises:
        ConfigError: the file cannot be read, is empty, or holds what is no character.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    found = set(unicodedata.normalize("NFC", text)) - set("\n\r ")
    for character in sorted(found):
        if character.isspace() or _is_hidden(character):
            raise ConfigError(f"{path}: holds {character!r}, which is no letter")
    if not found or len(found) > MOST_CHARACTERS:
        raise ConfigError(
            f"{path}: holds {len(found)} characters (1 to {MOST_CHARACTERS} were "
            "expected)"
        )
    return alphabet_of(found)


def as_file(alphabet: str) -> str:
    r"""Write an alphabet so that `read_alphabet` returns it.

    A character that would become one with those before it, as a mark does with the
    last of the letters, begins a new line.

    >>> as_file(" az\u0301")
    'az\n\u0301\n'
    """
    lines = [""]
    for character in alphabet.strip():
        longer = lines[-1] + character
        if unicodedata.is_normalized("NFC", longer):
            lines[-1] = longer
        else:
            lines.append(character)
    return "".join(f"{line}\n" for line in lines)


def fitted(text: str, alphabet: str) -> str:
    """Bring any text into an alphabet, as near as that comes.

    For letters A to Z it is `asr.text.normalize`. Else a character that the alphabet
    has not is written in the other case, with its marks apart, or without them, or as
    plain letters (Ł as L, ß as ss), and an apostrophe as the one that the alphabet has;
    all else becomes a space.

    >>> fitted("Ein Café, 'Österreich'!", " abcdefghijklmnopqrstuvwxyzäöü")
    'ein cafe österreich'
    """
    if set(alphabet) <= set(ALPHABET):
        return normalize(text)
    letters = frozenset(alphabet)
    if alphabet == alphabet.lower():
        text = text.lower()  # of a whole text, for the sake of the Greek final sigma
    written = (_nearest(character, letters) for character in _cleaned(text))
    return " ".join("".join(written).split())


def _nearest(character: str, letters: frozenset[str]) -> str:
    if character in letters:
        return character
    if character in _APOSTROPHES:
        return next((c for c in _APOSTROPHES if c in letters), " ")
    apart = unicodedata.normalize("NFD", character)
    bare = "".join(
        c
        for c in unicodedata.normalize("NFKD", character)
        if not unicodedata.category(c).startswith("M")
    )
    plain = PLAIN_LETTERS.get(bare.upper(), "")
    cased = (character.lower(), character.upper(), apart, apart.lower(), apart.upper())
    without = (bare, bare.lower(), bare.upper(), bare.casefold())
    for candidate in (*cased, *without, plain.lower(), plain):
        if candidate and letters.issuperset(candidate):
            return candidate
    return " " if bare else ""  # nothing, of a mark


def strangers(text: str, alphabet: str) -> str:
    """Return the characters of a text that an alphabet has not, each once, in order."""
    return "".join(dict.fromkeys(c for c in text if c not in alphabet))


def shown(alphabet: str) -> str:
    """Write an alphabet for people, the space as ␣, in not too long a line.

    >>> shown(" abc")
    '␣abc'
    """
    text = alphabet.replace(" ", "␣")
    return text if len(text) <= _LINE else f"{text[:_LINE]} … ({len(text)})"


def clusters(characters: Iterable[str]) -> Iterator[int]:
    """Number what a reader takes for one letter: a base with all of its marks.

    Args:
        characters: pieces of a text, one after the other.

    Yields:
        For each of them the number of the letter that it belongs to, from 0.

    >>> list(clusters("ae\\u0323\\u0302b"))
    [0, 1, 1, 1, 2]
    """
    number, joins = -1, False
    for piece in characters:
        is_mark = bool(piece) and unicodedata.category(piece[0]).startswith("M")
        if not (is_mark or joins or piece == "\u200d") or number < 0:
            number += 1
        joins = piece == "\u200d"
        yield number


def character_counts(texts: Iterable[str]) -> Counter[str]:
    """Count the characters of texts."""
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    return counts
