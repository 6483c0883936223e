"""Estimate a word n-gram from text, for `asr transcribe --language-model`.

Texts hold one sentence a line; plain, .xz or .gz. Each is brought into the letters that
are to be written: A-Z and apostrophe, if nothing else is asked for. The model is an
interpolated Kneser-Ney n-gram with three discounts for each order:

    P(w | h) = (c(h w) - D(c)) / c(h) + gamma(h) P(w | h without its first word)
    Y = n1 / (n1 + 2 n2)    D(c) = c - (c + 1) Y n_c+1 / n_c  for c = 1, 2, 3 and more

c of the highest order counts n-grams, c of the others in how many different ways an
n-gram is continued to the left (n-grams that begin with <s>: how often they occur).
N-grams of c below the cut-off are dropped, and gamma(h) is set so that what is left,
interpolated or backed off, sums to one.

Shapes: G n-grams of an order, N words, <unk> and the boundary of sentences counted.

Source: Chen and Goodman (1999), "An empirical study of smoothing techniques for
language modeling", doi:10.1006/csla.1999.0128.
"""

import gzip
import lzma
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import torch

from asr.errors import CheckpointError, ConfigError, CorpusError
from asr.lm.look_ahead import Floats, Ints
from asr.lm.ngram import WordNGram, make_folder
from asr.lm.word_files import spelling_of
from asr.lm.word_lstm import WordLSTM
from asr.lm.word_tables import LONGEST_WORD, Level, find, look_up, mix
from asr.locks import locked
from asr.text import ALPHABET, normalize

Normalize = Callable[[str], str]
_ENGLISH = frozenset(ALPHABET)
ORDERS = (2, 3)
"""Longest n-grams that can be estimated."""
LARGEST_VOCABULARY = 2_000_000
"""Words: three of them make one int64."""
_MIN_COUNTS = (2, 3)
_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
}
_BROKEN = (lzma.LZMAError, gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError)
_TOO_LONG = re.compile(rf"[^ \n]{{{LONGEST_WORD + 1},}}")


@dataclass(frozen=True)
class NGramConfig:
    """Settings of an n-gram."""

    order: int = 3
    """Length of the longest n-grams: 2 or 3."""
    vocabulary_size: int = 60_000
    """At most so many words, the most frequent ones; all others are <unk>."""
    min_counts: tuple[int, ...] | None = None
    """How often n-grams of order 2 (and 3) must be counted to be stored; None for 2
    (and 3)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be estimated."""
        if self.order not in ORDERS:
            raise ValueError(f"order must be 2 or 3, not {self.order}")
        if not 1 <= self.vocabulary_size <= LARGEST_VOCABULARY:
            raise ValueError(
                f"vocabulary_size must be from 1 to {LARGEST_VOCABULARY}, "
                f"not {self.vocabulary_size}"
            )
        given = self.least_counts[1:]
        if len(given) != self.order - 1 or min(given) < 1:
            raise ValueError(
                f"min_counts takes {self.order - 1} whole numbers above 0 where order "
                f"is {self.order}, not {' '.join(map(str, given))}"
            )

    @property
    def least_counts(self) -> list[int]:
        """The least count of the stored n-grams, by order; all unigrams are stored."""
        given = self.min_counts
        return [1, *(_MIN_COUNTS[: self.order - 1] if given is None else given)]


def keep_english(text: str) -> str:
    """Normalize a text that is not in A-Z, apostrophe and space; keep one that is.

    >>> keep_english("'TIS O' B"), keep_english("Zoë has 5!")
    ("'TIS O' B", 'ZOE HAS FIVE')
    """
    return text if _ENGLISH.issuperset(text) else normalize(text)


def build(
    texts: Sequence[Path],
    folder: Path,
    config: NGramConfig | None = None,
    weights: Sequence[int] | None = None,
    normalize: Normalize = keep_english,
) -> WordNGram:
    """Estimate an n-gram from text files, and save it in a folder.

    Args:
        texts: one sentence a line; plain, .xz or .gz.
        folder: for the model; made if it is missing.
        config: settings.
        weights: how many times each text is counted; once each if there are none.
        normalize: see `read_text`.

    Returns:
        The model as it was saved (a little coarser than it was estimated).

    Raises:
        CorpusError: a text cannot be read or is empty.
        ConfigError: there is not one weight above zero for each text; or the folder
            holds an LSTM that would not fit the model.
        CheckpointError: the folder cannot be written.
        InUseError: another process works in the folder.
    """
    config = config or NGramConfig()
    weights = check_weights(weights, len(texts))
    make_folder(folder)  # what cannot be written is noticed before the work
    with locked(folder, "asr lm build"):
        sentences = [read_text(path, normalize) for path in texts]
        model = estimate(sentences, weights, config)
        check_lstm(folder, model)
        metadata = {"texts": [path.name for path in texts], "weights": weights}
        model.save(folder, {**metadata, "min_counts": config.least_counts[1:]})
        return WordNGram.load(folder, alone=True)


def check_lstm(folder: Path, model: WordNGram) -> None:
    """Refuse to leave an LSTM beside an n-gram that it does not belong to.

    Raises:
        ConfigError: one is there that was trained with other words.
    """
    try:
        WordLSTM.load(folder, model.words)
    except CheckpointError as error:
        raise ConfigError(
            f"{folder}: holds an LSTM that does not fit the new n-gram (give another "
            "folder, or delete its lstm.json and lstm.safetensors)"
        ) from error


def check_weights(weights: Sequence[int] | None, num_texts: int) -> list[int]:
    """Return how many times each text counts.

    Raises:
        ConfigError: there is not one number above zero for each text.
    """
    checked = list(weights or [1] * num_texts)
    if len(checked) != num_texts or min(checked) < 1:
        raise ConfigError(
            f"weights: {num_texts} whole numbers above 0 were expected, one for each "
            f"text, not {' '.join(map(str, checked))}"
        )
    return checked


def keep_letters(text: str) -> str:
    """Keep a text as it is, each character composed, with plain spaces.

    >>> keep_letters(" Grüße  aus Łódź!")
    'Grüße aus Łódź!'
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def read_text(path: Path, normalize: Normalize = keep_english) -> list[str]:
    """Read the sentences of a text.

    Args:
        path: one sentence a line; plain, .xz or .gz.
        normalize: brings a line into the characters that are to be written.

    Raises:
        CorpusError: it cannot be read, is damaged, or is empty.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        text = _UNPACK.get(path.suffix, bytes)(raw).decode()
    except _BROKEN as error:
        raise CorpusError(f"{path}: is damaged, or is no text ({error})") from error
    lines = [normalize(line) for line in text.split("\n")]
    text = "\n".join(lines)
    if found := _TOO_LONG.search(text):
        raise CorpusError(
            f"{path}:{text.count(chr(10), 0, found.start()) + 1}: holds a word of "
            f"{len(found[0])} letters (at most {LONGEST_WORD} were expected)"
        )
    sentences = [line for line in lines if line.strip()]
    if not sentences:
        raise CorpusError(f"{path}: is empty (one sentence a line was expected)")
    return sentences


def estimate(
    texts: Sequence[Sequence[str]],
    weights: Sequence[int],
    config: NGramConfig,
) -> WordNGram:
    """Estimate an n-gram.

    Args:
        texts: sentences.
        weights: how many times each text is counted.
        config: settings.
    """
    counter = Counter[str]()
    for text, weight in zip(texts, weights, strict=True):
        for word, count in Counter(" ".join(text).split()).items():
            counter[word] += weight * count
    frequent = sorted(counter, key=lambda word: (-counter[word], word))
    words = sorted(frequent[: config.vocabulary_size])
    base = len(words) + 2
    number = {word: place for place, word in enumerate(words)}
    streams = list[Ints]()
    for text, weight in zip(texts, weights, strict=True):
        streams += weight * [numbers_of(text, number)]
    keys, counts = _count(np.concatenate(streams), config.order, base)
    levels = _levels(keys, counts, config.order, base, config.least_counts)
    return WordNGram(words, levels, spelling_of(words))


def numbers_of(sentences: Sequence[str], number: Mapping[str, int]) -> Ints:
    """Write sentences as one row of numbers, a boundary before and after each."""
    unknown = len(number)
    known = {**number, "\n": unknown + 1}
    tokens = " \n ".join(["", *sentences, ""]).split(" ")
    words = filter(None, tokens)
    return np.fromiter(map(known.get, words, repeat(unknown)), dtype=np.int64)


def _count(stream: Ints, order: int, base: int) -> tuple[Ints, Ints]:
    """Count the n-grams of the highest order, without those across a boundary."""
    keys = stream[: len(stream) - order + 1].copy()
    inside = np.ones(len(keys), dtype=bool)
    for n in range(1, order):
        part = stream[n : len(stream) - order + 1 + n]
        keys = keys * base + part
        if n < order - 1:
            inside &= part != base - 1
    if order == 2:
        inside = keys != base * base - 1  # between two texts
    return _unique(keys[inside])


def _unique(keys: Ints) -> tuple[Ints, Ints]:
    found, counts = np.unique(keys, return_counts=True)
    return found, counts.astype(np.int64)


def _levels(
    keys: Ints, counts: Ints, order: int, base: int, least: Sequence[int]
) -> list[Level]:
    grams = {order: (keys, counts)}
    for n in range(order - 1, 0, -1):
        grams[n] = _shorten(*grams[n + 1], n, base)
    counted = np.zeros(base)
    counted[grams[1][0]] = grams[1][1]
    discount = _discounts(counted)
    probs = (counted - discount + discount.sum() / base) / counted.sum()
    levels = [Level(np.arange(base), np.log(probs), np.zeros(base))]
    for n in range(2, order + 1):
        levels.append(_interpolate(levels, *grams[n], n, base, least[n - 1]))
    return levels


def _shorten(longer: Ints, counts: Ints, n: int, base: int) -> tuple[Ints, Ints]:
    """Count how many ways lead to each n-gram; those after <s> as they occur."""
    keys, ways = _unique(longer % base**n)
    if n > 1:
        begins = longer // base**n == base - 1
        first, inverse = np.unique(longer[begins] // base, return_inverse=True)
        occur = np.bincount(inverse, weights=counts[begins]).astype(np.int64)
        keys, ways = np.concatenate([keys, first]), np.concatenate([ways, occur])
        order = np.argsort(keys)
        keys, ways = keys[order], ways[order]
    return keys, ways


def _discounts(counts: Ints | Floats) -> Floats:
    """Return (G,) D(c); where too few n-grams are seen to estimate it, c / 2."""
    n = [float((counts == c).sum()) for c in range(1, 5)]
    table = np.array([0.0, 0.5, 1.0, 1.5])
    if min(n) > 0:
        y = n[0] / (n[0] + 2 * n[1])
        exact = [c - (c + 1) * y * n[c] / n[c - 1] for c in (1, 2, 3)]
        if all(0 < d < c for c, d in enumerate(exact, 1)):
            table[1:] = exact
    found: Floats = table[np.minimum(counts, 3).astype(np.int64)]
    return found


def _interpolate(
    levels: list[Level], keys: Ints, counts: Ints, n: int, base: int, least: int
) -> Level:
    """Estimate order n, and put the back-offs of its histories into order n - 1."""
    histories, place = np.unique(keys // base, return_inverse=True)
    total = np.bincount(place, weights=counts)
    discount = _discounts(counts)
    gamma = np.bincount(place, weights=discount) / total
    digits = [keys // base ** (n - 1 - i) % base for i in range(1, n)]
    before = np.stack(digits[:-1], axis=1) if n > 2 else np.zeros((len(keys), 0), int)
    lower = np.exp(look_up(levels, base, before, digits[-1]))
    probs = (counts - discount) / total[place] + gamma[place] * lower
    where, stored = find(levels[-1].keys, histories)
    kept = (counts >= least) & stored[place]
    size = len(histories)
    rest = 1 - np.bincount(place[kept], weights=probs[kept], minlength=size)
    free = 1 - np.bincount(place[kept], weights=lower[kept], minlength=size)
    backoffs = np.log(np.maximum(rest, 1e-9) / np.maximum(free, 1e-9))
    levels[-1].backoffs[where[stored]] = backoffs[stored]
    return Level(keys[kept], np.log(probs[kept]), np.zeros(int(kept.sum())))


@dataclass(frozen=True)
class Perplexity:
    """How well a model foretells sentences, each word and each end of a sentence."""

    num_sentences: int
    num_words: int
    num_unknown: int
    """Of the words: those that are not in the vocabulary."""
    log_prob: float
    """Natural, of all words and ends; an unknown word as <unk>, its letters aside."""
    unknown_log_prob: float
    """What of it is the unknown words'."""

    def __str__(self) -> str:
        """Write both perplexities, in a line."""
        return (
            f"perplexity {self.with_unknown:.2f}, without the words that are not in "
            f"the vocabulary {self.without_unknown:.2f}"
        )

    @property
    def with_unknown(self) -> float:
        """Per word and end, <unk> as one of the words."""
        return _perplexity(self.log_prob, self.num_words + self.num_sentences)

    @property
    def without_unknown(self) -> float:
        """Per known word and end."""
        known = self.num_words - self.num_unknown
        log_prob = self.log_prob - self.unknown_log_prob
        return _perplexity(log_prob, known + self.num_sentences)


def _perplexity(log_prob: float, count: int) -> float:
    return float(np.exp(-log_prob / max(count, 1)))


def perplexity(
    model: WordNGram, sentences: Sequence[str], alone: bool = False
) -> Perplexity:
    """Measure how well a model foretells sentences.

    Args:
        model: an LSTM that is mixed in takes part.
        sentences: words with spaces between them.
        alone: whether to leave an LSTM aside.
    """
    numbers = [model.numbers(sentence.split()) for sentence in sentences]
    words, ends, said = scores(model, numbers)
    log_probs = words[0]
    if model.lstm and not alone:
        log_probs = mix(words[0], words[1], model.lstm.share)
    unknown = said == model.unknown
    return Perplexity(
        num_sentences=len(sentences),
        num_words=len(said),
        num_unknown=int(unknown.sum()),
        log_prob=float(log_probs.sum() + ends.sum()),
        unknown_log_prob=float(log_probs[unknown].sum()),
    )


def measure(model: WordNGram, sentences: Sequence[str]) -> tuple[float, float]:
    """Return the perplexity and the share of words that are out of the vocabulary.

    The perplexity is per word and </s>; <unk> counts as one of the words.
    """
    found = perplexity(model, sentences)
    return found.with_unknown, found.num_unknown / max(found.num_words, 1)


def scores(model: WordNGram, sentences: Sequence[Ints]) -> tuple[Floats, Floats, Ints]:
    """Score sentences side by side, one word of each at a time.

    Returns:
        For all words log P of the n-gram and, in a second row, of the LSTM (0 where
        there is none); for all sentences log P of their ends; and the words' numbers,
        in the order of their scores.
    """
    sentences = sorted(sentences, key=len, reverse=True)
    histories = np.full((len(sentences), max(len(model.levels) - 1, 1)), model.boundary)
    contexts = model.contexts.start(len(sentences)) if model.contexts else None
    found, said = list[Floats](), [np.zeros(0, dtype=np.int64)]
    for place in range(len(sentences[0]) if sentences else 0):
        going = sum(len(words) > place for words in sentences)  # the first ones
        words = np.array([words[place] for words in sentences[:going]])
        ngram = model.log_prob(histories[:going], words)
        lstm = np.zeros_like(ngram)
        if model.contexts and contexts is not None:
            contexts = contexts[:going]
            lstm = model.foretold(histories[:going], words, contexts)
            contexts = model.contexts.read(torch.from_numpy(words), contexts)
        found.append(np.stack([ngram, lstm]))
        said.append(words)
        histories[:going] = np.column_stack([histories[:going, 1:], words])
    ends = model.log_prob(histories, np.full(len(sentences), model.boundary))
    scored = np.concatenate([np.zeros((2, 0)), *found], axis=1)
    return scored, ends, np.concatenate(said)
