r"""Word n-grams in ARPA's text format, which KenLM, SRILM and others read and write.

    \data\
    ngram 1=5                  how many n-grams of each order follow
    ngram 2=3

    \1-grams:
    -1.2041<TAB>ANNA<TAB>-0.30103

    \2-grams:                  log10 P(ANNA | <s>); the longest have no back-off
    -0.5<TAB><s> ANNA
    \end\

A log10 of -99 stands for P = 0, as that of <s> is. A back-off that is missing is 1.

Source: Stolcke (2002), "SRILM - an extensible language modeling toolkit", ICSLP;
Heafield (2011), "KenLM: faster and smaller language model queries", WMT.
"""

import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import inf, log
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from asr.errors import CheckpointError
from asr.lm.estimate import Normalize, keep_english
from asr.lm.look_ahead import Ints
from asr.lm.ngram import WordNGram
from asr.lm.word_files import spelling_of
from asr.lm.word_tables import LONGEST_WORD, Level, find, look_up

START, END, UNKNOWN_WORD = "<s>", "</s>", "<unk>"
_LN_10 = log(10)
_NEVER = -99.0
_ABOVE_ONE = 1e-3  # log10 P: what a sum of roundings may come to
_LEFT_OUT = -1  # in place of the number of a word that the model does not have
_HEADER = re.compile(r"ngram +(\d+) *= *(\d+)")
_SPACES = re.compile(r"[ \t]+")
_ZIPPED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
_BROKEN = (lzma.LZMAError, gzip.BadGzipFile, EOFError, zlib.error)
_KENLM = b"mmap lm http://kheafield.com/code"


class Arpa(NamedTuple):
    """An n-gram that was read, and what it took to fit it in."""

    model: WordNGram
    left_out: list[str]
    """Words that are none, or several, once they are normalized; their n-grams, too."""
    merged: int
    """How many n-grams fell together with another; the more likely one stays."""
    has_unknown: bool
    """Whether it has <unk>. If not, <unk> is as likely as the rarest word."""

    def notices(self) -> Iterator[str]:
        """Yield what a user should know."""
        if self.left_out:
            yield (
                f"{len(self.left_out)} words are left out, and their n-grams, as they "
                f"are not one word when normalized (the first: "
                f"{self.left_out[0]!r:.40})"
            )
        if self.merged:
            yield (
                f"{self.merged} n-grams fell together with others when normalized; "
                "the more likely ones stay"
            )
        if not self.has_unknown:
            yield "it has no <unk>: words that it lacks are as likely as its rarest"


def is_arpa(path: Path) -> bool:
    """Return whether a path is a file's, or is named as one of ARPA's format.

    >>> is_arpa(Path("new/3-gram.arpa.gz")), is_arpa(Path("new/lm"))
    (True, False)
    """
    return path.is_file() or ".arpa" in path.suffixes[-2:]


def read_arpa(path: Path, normalize: Normalize = keep_english) -> Arpa:
    """Read a file in ARPA's format; plain, .gz or .xz.

    Args:
        path: of the file.
        normalize: brings a word into the letters that are to be written.

    Raises:
        CheckpointError: it cannot be read, is damaged or cut off, or its n-grams are
            more than can be numbered.
    """
    with _opened(path) as file:
        lines = _Lines(path, file)
        sizes = _header(lines)
        rows = list(_section(lines, 1, sizes[0]))
        spelled = {word: _spelled(word, normalize) for _, (word,), _ in rows}
        for mark in (START, END):
            if spelled.pop(mark, None) is None:
                raise lines.error(f"the words above lack {mark}")
        left_out = [w for w, own in spelled.items() if not own and not _is_unknown(w)]
        words = sorted({word for word in spelled.values() if word})
        base = len(words) + 2
        _check_size(path, len(words), len(sizes))
        place = {word: number for number, word in enumerate(words)}
        number = {word: place.get(own, len(words)) for word, own in spelled.items()}
        number |= {START: base - 1, END: base - 1}
        number |= dict.fromkeys(left_out, _LEFT_OUT)
        first, merged = _unigrams(rows, number, base)
        levels = [first]
        for order, size in enumerate(sizes[1:], 2):
            level, fell_together = _level(lines, order, size, number, base)
            levels.append(level)
            merged += fell_together
        if lines.line != "\\end\\":
            raise lines.error("is not \\end\\, which was expected")
    return Arpa(
        WordNGram(words, _closed(levels, base), spelling_of(words)),
        left_out,
        merged,
        any(map(_is_unknown, spelled)),
    )


class _Lines:
    """The lines of a file that hold something, and where they stand."""

    def __init__(self, path: Path, file: Iterable[str]) -> None:
        self.path, self.number, self.line = path, 0, ""
        self._lines = iter(file)

    def next(self) -> str:
        """Go to the next line."""
        for line in self._lines:
            self.number += 1
            self.line = line.strip(" \t\r\n")
            if self.line:
                return self.line
        raise self.error("the file ends before its \\end\\ (copy it again)")

    def error(self, what: str) -> CheckpointError:
        """Return the error of this line."""
        return CheckpointError(f"{self.path}:{self.number}: {what}")


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """Open a file to be read.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as raw:
            if raw.read(len(_KENLM)) == _KENLM:
                raise CheckpointError(
                    f"{path}: is KenLM's binary format (give the ARPA file that it was "
                    "made of)"
                )
        opener = _ZIPPED.get(path.suffix, open)
        with opener(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            yield file
    except (*_BROKEN, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: is damaged, or is no text ({error})") from error
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"{path}: cannot be read ({reason})") from error


def _header(lines: _Lines) -> list[int]:
    """Read how many n-grams of each order there are; go to those of order 1."""
    while lines.next() != "\\data\\":
        if lines.line.startswith("\\"):
            raise lines.error("is not \\data\\, which was expected")
    sizes = list[int]()
    while match := _HEADER.fullmatch(lines.next()):
        if int(match[1]) != len(sizes) + 1:
            raise lines.error(f"is not `ngram {len(sizes) + 1}=…`, which was expected")
        sizes.append(int(match[2]))
    if not sizes:
        raise lines.error("is not `ngram 1=…`, which was expected")
    return sizes


def _section(
    lines: _Lines, order: int, size: int
) -> Iterator[tuple[float, list[str], float]]:
    """Yield log10 P, words and log10 of the back-off; go to what comes behind."""
    if lines.line != f"\\{order}-grams:":
        raise lines.error(f"is not \\{order}-grams:, which was expected")
    for count in range(size):
        parts = _SPACES.split(lines.next())
        if not order + 1 <= len(parts) <= order + 2:
            raise lines.error(
                f"is no n-gram of order {order} (number {count + 1} of {size} was "
                "expected)"
            )
        log_prob = _number(lines, parts[0])
        if log_prob > _ABOVE_ONE:
            raise lines.error(f"{parts[0]} is no log10 of a probability")
        backoff = _number(lines, parts[-1]) if len(parts) > order + 1 else 0.0
        yield min(log_prob, 0.0), parts[1 : order + 1], backoff
    lines.next()


def _number(lines: _Lines, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise lines.error(f"{text!r:.40} is no number") from None
    if not value < inf:
        raise lines.error(f"{text!r:.40} is no number")
    return max(value, _NEVER)


def _spelled(word: str, normalize: Normalize) -> str:
    """Return a word as it is to be written; nothing where it is none, or several."""
    if word in (START, END):
        return word
    if _is_unknown(word):
        return ""
    own = normalize(word)
    return own if len(own.split()) == 1 and len(own) <= LONGEST_WORD else ""


def _is_unknown(word: str) -> bool:
    return word.lower() == UNKNOWN_WORD


def _check_size(path: Path, num_words: int, order: int) -> None:
    """Refuse what cannot be numbered.

    Raises:
        CheckpointError: an n-gram is no int64.
    """
    if not num_words:
        raise CheckpointError(f"{path}: has no words")
    most = next(n for n in range(64) if (num_words + 2) ** (n + 1) >= 2**63)
    if order > most:
        raise CheckpointError(
            f"{path}: is of order {order}, which {num_words} words are too many for "
            f"(make one of order {most}, or of fewer words)"
        )


Rows = Sequence[tuple[float, list[str], float]]


def _unigrams(rows: Rows, number: dict[str, int], base: int) -> tuple[Level, int]:
    """Return the level of order 1, and how many of it fell together."""
    log_probs, backoffs, merged = np.full(base, -inf), np.zeros(base), 0
    for log_prob, (word,), backoff in rows:
        place = number[word]
        if word == START:
            backoffs[place] = backoff
        elif word == END:
            log_probs[place] = log_prob
        elif place != _LEFT_OUT:
            merged += bool(log_probs[place] > -inf)
            if log_prob >= log_probs[place]:
                log_probs[place], backoffs[place] = log_prob, backoff
    if log_probs[base - 2] == -inf:
        log_probs[base - 2] = log_probs[: base - 2].min()
    return Level(np.arange(base), log_probs * _LN_10, backoffs * _LN_10), merged


def _level(
    lines: _Lines, order: int, size: int, number: dict[str, int], base: int
) -> tuple[Level, int]:
    """Return the level of a higher order, and how many of it fell together."""
    keys, log_probs, backoffs = list[int](), list[float](), list[float]()
    for log_prob, words, backoff in _section(lines, order, size):
        if END in words[:-1] or START in words[1:]:
            continue  # never asked for
        try:
            numbers = [number[word] for word in words]
        except KeyError as error:
            stranger = f"{error.args[0]!r:.40}"
            raise lines.error(f"{stranger} is none of the words of order 1") from None
        if _LEFT_OUT in numbers:
            continue  # no sentence has them
        key = 0
        for place in numbers:
            key = key * base + place
        keys.append(key)
        log_probs.append(log_prob)
        backoffs.append(0.0 if words[-1] == END else backoff)
    order_of = np.lexsort((-np.array(log_probs), np.array(keys, dtype=np.int64)))
    sorted_keys = np.array(keys, dtype=np.int64)[order_of]
    new = np.append(True, np.diff(sorted_keys) > 0)[: len(keys)]
    kept = order_of[new]
    level = Level(
        sorted_keys[new],
        np.array(log_probs)[kept] * _LN_10,
        np.array(backoffs)[kept] * _LN_10,
    )
    return level, len(keys) - len(kept)


def _closed(levels: list[Level], base: int) -> list[Level]:
    """Add the beginnings of n-grams that are not stored, as they are backed off to."""
    levels = list(levels)
    for n in range(len(levels), 1, -1):
        begins = np.unique(levels[n - 1].keys // base)
        shorter = levels[n - 2]
        missing = begins[~find(shorter.keys, begins)[1]]
        if not len(missing):
            continue
        digits = _digits(missing, n - 1, base)
        log_probs = look_up(levels[: n - 1], base, digits[:, :-1], digits[:, -1])
        keys = np.concatenate([shorter.keys, missing])
        order = np.argsort(keys)
        levels[n - 2] = Level(
            keys[order],
            np.concatenate([shorter.log_probs, log_probs])[order],
            np.concatenate([shorter.backoffs, np.zeros(len(missing))])[order],
        )
    return levels


def _digits(keys: Ints, order: int, base: int) -> Ints:
    """(G,) keys -> (G, order) numbers of words."""
    return np.stack([keys // base**i % base for i in reversed(range(order))], axis=1)


def write_arpa(model: WordNGram, path: Path) -> None:
    """Write an n-gram in ARPA's format; gzipped where the name ends in .gz.

    An LSTM that is mixed in cannot be written.

    Args:
        model: the n-gram.
        path: of the file, in a folder that is there.

    Raises:
        CheckpointError: it cannot be written.
    """
    opener = _ZIPPED.get(path.suffix, open)
    try:
        with opener(path, "wt", encoding="utf-8", newline="\n") as file:
            file.write("\\data\\\n")
            for n, level in enumerate(model.levels, 1):
                file.write(f"ngram {n}={len(level.keys) + (n == 1)}\n")
            for n in range(1, len(model.levels) + 1):
                file.write(f"\n\\{n}-grams:\n")
                file.writelines(_written(model, n))
            file.write("\n\\end\\\n")
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror})"
        ) from error


def _written(model: WordNGram, n: int) -> Iterator[str]:
    """Yield the lines of the n-grams of an order."""
    level, longest = model.levels[n - 1], n == len(model.levels)
    first, last = ([*model.words, UNKNOWN_WORD, mark] for mark in (START, END))
    log_probs, backoffs = (
        np.asarray(numbers, dtype=np.float64) / _LN_10
        for numbers in (level.log_probs, level.backoffs)
    )
    log_probs = np.maximum(log_probs, _NEVER)
    if n == 1:
        backoff = "" if longest else f"\t{backoffs[-1]:.7g}"
        yield f"{_NEVER:.0f}\t{START}{backoff}\n"
    rows = _digits(level.keys, n, model.base).tolist()
    for log_prob, row, backoff in zip(
        log_probs.tolist(), rows, backoffs.tolist(), strict=True
    ):
        words = [*(first[number] for number in row[:-1]), last[row[-1]]]
        ends = longest or row[-1] == model.boundary
        written = "" if ends else f"\t{backoff:.7g}"
        yield f"{log_prob:.7g}\t{' '.join(words)}{written}\n"
