"""Files of word n-grams, read by numpy: where they are, and what they hold.

`WordNGram.save` writes them. N-grams are sorted, so how many begin with each shorter
one, and their last words, are enough.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.resources import files
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from asr.errors import CheckpointError
from asr.foreign import number_in
from asr.lm.word_tables import Level, WordTables
from asr.text import ALPHABET, CharTokenizer, Tokenizer

Model = TypeVar("Model", bound=WordTables)
Halves = npt.NDArray[np.float16]
"""16ths that a file has in a byte: they are exact, in a quarter of the memory."""

BUNDLED_WORDS = "words"
"""Name of the language model that comes with the package."""
FILE = "ngram.safetensors"
"""The file of a language model's folder."""
DESCRIPTION = "ngram.json"
"""Its size and checksum. Without this file, the other one is read unchecked."""
KIND, FORMAT = "word n-gram", 3
_WIDE_COUNTS = 2
"""The format of versions up to 0.2, whose counts have two bytes or four. It is read."""
_MANY = 255
"""Stands for a count that has no room in a byte: of few n-grams begin so many."""
STEPS, MOST_BACKOFF = 16, 4.0
"""What is stored in a byte: 16ths, of a backoff below 4."""
_HIGHEST = 0.01  # log P of what is certain is zero, but for rounding
_ORDERS = (1, 40)  # of n-grams; so many words of any vocabulary are no int64


def is_bundled(folder: str | Path | None) -> bool:
    """Return whether the bundled language model is meant: None, or its name `words`."""
    return folder is None or (
        str(folder) == BUNDLED_WORDS and not os.path.exists(folder)
    )


def find_language_model(folder: str | Path | None) -> Path:
    """Find the folder of a word n-gram: the bundled one (None, `words`), or one given.

    Raises:
        CheckpointError: there is none.
    """
    if folder is None or is_bundled(folder):
        return Path(str(files("asr") / "assets" / BUNDLED_WORDS))
    folder = Path(folder)
    if not any(os.path.exists(folder / name) for name in (FILE, DESCRIPTION)):
        raise CheckpointError(
            f"{folder}: holds no language model (asr lm build makes one of texts, "
            "asr lm convert of a file in ARPA's format)"
        )
    return folder


def load_for(
    folder: str | Path | None,
    tokenizer: Tokenizer,
    load: Callable[[Path, CharTokenizer | None], Model],
) -> Model | None:
    """Load the language model for a search that writes with a tokenizer.

    Args:
        folder: of a word n-gram; None for the bundled one, which is left out with a
            notice where the tokenizer writes anything but its characters.
        tokenizer: of the model.
        load: a folder's, for a tokenizer, or for the one that has just its letters.

    Raises:
        CheckpointError: there is no language model, or it is damaged; or one was asked
            for that has letters which the tokenizer lacks, or which writes none.
    """
    path = find_language_model(folder)
    if isinstance(tokenizer, CharTokenizer):
        if folder is not None:
            return load(path, tokenizer)
        words = load(path, None)
        reason = "has another alphabet than this model"
        if words.tokenizer == tokenizer:
            return words
    else:
        reason = "is for characters only, which this model does not write"
    if folder is not None:
        raise CheckpointError(f"{path}: the word language model {reason}")
    _leave_out(f"asr: the word language model is left out: it {reason}")
    return None


@cache
def _leave_out(notice: str) -> None:
    """Print a notice, once a run: other processes of it need not repeat it."""
    if parent_process() is None:
        logging.getLogger(__name__).warning(notice)


def tables_of(
    path: Path,
    arrays: Mapping[str, npt.NDArray[Any]],
    metadata: Mapping[str, Any],
    tokenizer: CharTokenizer | None,
) -> tuple[list[str], list[Level], CharTokenizer]:
    """Bring what a file holds into tables.

    Args:
        path: of the file.
        arrays: that it holds.
        metadata: of it.
        tokenizer: of the model that is to write the words; None for one that has just
            their letters.

    Returns:
        The vocabulary, the levels, and the tokenizer.

    Raises:
        CheckpointError: it is no word n-gram, or has letters that the tokenizer lacks.
        KeyError, ValueError, TypeError, OverflowError: it is damaged.
    """
    if metadata.get("kind") != KIND:
        raise CheckpointError(f"{path}: is no language model (want a {KIND})")
    if metadata.get("format") not in (FORMAT, _WIDE_COUNTS):
        raise CheckpointError(
            f"{path}: has another format than this version of asr reads "
            "(build it again: asr lm build)"
        )
    text = _row(arrays["vocabulary"], np.uint8).tobytes().decode()
    words = text.split("\n")
    order = int(number_in(metadata["order"], *_ORDERS))
    levels = _levels(arrays, order, len(words) + 2)
    spelling = tokenizer or spelling_of(words)
    if spelling.characters[0] != " ":
        raise CheckpointError(
            f"{path.parent}: the word language model has another alphabet than "
            f"this model, whose first is {spelling.characters[0]!r} and not "
            "the space"
        )
    if strangers := set("".join(words)) - set(spelling.characters):
        raise CheckpointError(
            f"{path.parent}: the word language model has another alphabet than "
            f"this model, which does not write {min(strangers)!r}"
        )
    return words, levels, spelling


def spelling_of(words: Iterable[str]) -> CharTokenizer:
    """Return the characters of words: A-Z and apostrophe where they are enough.

    >>> spelling_of(["über", "ab"]).characters
    ' aberü'
    """
    letters = set("".join(words))
    if letters <= set(ALPHABET):
        return CharTokenizer()
    return CharTokenizer(" " + "".join(sorted(letters)))


def _levels(
    arrays: Mapping[str, npt.NDArray[Any]], order: int, base: int
) -> list[Level]:
    """Bring what a file holds into tables."""
    log_probs = _row(arrays["log_probs_1"], np.float16).astype(np.float64)
    if not (np.isfinite(log_probs) & (log_probs <= _HIGHEST)).all():
        raise ValueError("a log-probability is no number, or above zero")
    levels = [Level(np.arange(len(log_probs)), log_probs, np.zeros(len(log_probs)))]
    number = np.uint16 if base < 2**16 else np.int32
    for n in range(2, order + 1):
        shorter = levels[-1]
        counts, last = _counts(arrays, n, number), _row(arrays[f"words_{n}"], number)
        found = _row(arrays[f"log_probs_{n}"], np.uint8)
        backoffs = _row(arrays[f"backoffs_{n - 1}"], np.uint8)
        sizes = (len(counts), len(backoffs), counts.sum(), len(found))
        if sizes != (len(shorter.keys), len(shorter.keys), len(last), len(last)):
            raise ValueError(f"n-grams of order {n} do not match the shorter ones")
        lowest = min(counts.min(initial=0), last.min(initial=0))
        if lowest < 0 or last.max(initial=0) >= base:
            raise ValueError(f"an n-gram of order {n} has a word that is not there")
        levels[-1] = shorter._replace(backoffs=_of_bytes(backoffs, MOST_BACKOFF))
        keys = np.repeat(shorter.keys * base, counts)
        keys += last
        nothing = np.zeros(len(keys), dtype=np.float16)
        levels.append(Level(keys, _of_bytes(found, 0.0), nothing))
    return levels


def _counts(
    arrays: Mapping[str, npt.NDArray[Any]], n: int, number: Any
) -> npt.NDArray[Any]:
    """Return how many n-grams begin with each shorter one."""
    counts = arrays[f"counts_{n}"]
    if counts.dtype == number:  # of a wide format
        return _row(counts, number)
    counts = _row(counts, np.uint8).astype(number)
    counts[counts == _MANY] = _row(arrays[f"many_{n}"], number)
    return counts


def counts_in_bytes(
    counts: npt.NDArray[Any], n: int, number: Any
) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays that hold how many n-grams begin with each shorter one.

    Args:
        counts: one for each of the shorter n-grams.
        n: order of the longer ones.
        number: type of those counts that have no room in a byte.
    """
    return {
        f"counts_{n}": np.minimum(counts, _MANY).astype(np.uint8),
        f"many_{n}": counts[counts >= _MANY].astype(number),
    }


def _of_bytes(counts: npt.NDArray[np.uint8], highest: float) -> Halves:
    """Return what 16ths below the highest stand for; all of them are exact."""
    every = highest - np.arange(256) / STEPS
    return every.astype(np.float16)[counts]


def _row(array: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any]:
    if array.dtype != dtype or array.ndim != 1:
        raise ValueError(f"{np.dtype(dtype)} in a row was expected")
    return array
