"""Estimate a word trigram from text, for `asr transcribe --language-model`.

    python recipes/librispeech/language_model.py TEXT.xz... --output FOLDER --dev DEV

Texts hold one sentence a line, in A-Z, apostrophe and space; .xz or plain. The model is
an interpolated Kneser-Ney n-gram with three discounts for each order:

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

import argparse
import lzma
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from asr.data.manifest import read_manifest
from asr.errors import AsrError, ConfigError, CorpusError
from asr.lm.look_ahead import Floats, Ints
from asr.lm.ngram import FILE, Level, WordNGram, find, look_up, mix
from asr.text import ALPHABET


def main(arguments: Sequence[str] | None = None) -> int:
    """Estimate what the command line asks for; tell a fault in one line."""
    options = _parse(arguments)
    try:
        _run(options)
    except AsrError as error:
        print(f"language_model: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="language_model", description="Estimate a word n-gram from text."
    )
    add = parser.add_argument
    add("texts", nargs="+", type=Path, metavar="TEXT", help="one sentence a line")
    add("--output", type=Path, required=True, metavar="FOLDER", help="for the model")
    add("--vocabulary", type=int, default=60_000, metavar="W", help="most words")
    add("--order", type=int, choices=(2, 3), default=3, help="longest n-grams")
    add(
        "--least",
        type=int,
        nargs="+",
        default=[2, 3],
        metavar="C",
        help="least count of the stored n-grams of order 2 and 3 (default: 2 3)",
    )
    add("--times", type=int, nargs="+", metavar="T", help="count each TEXT T times")
    add("--dev", type=Path, metavar="MANIFEST", help="to tell the perplexity of")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> None:
    times = times_of(options)
    if len(options.least) != options.order - 1:
        raise ConfigError(f"--least: {options.order - 1} numbers are due")
    if options.vocabulary < 1:
        raise ConfigError("--vocabulary: must be at least 1")
    texts = [read_text(path) for path in options.texts]
    model = estimate(texts, times, options.vocabulary, options.order, options.least)
    metadata = {"texts": [path.name for path in options.texts], "times": times}
    model.save(options.output, {**metadata, "least": options.least})
    size = (options.output / FILE).stat().st_size / 1e6
    grams = ", ".join(f"{len(level.keys)}" for level in model.levels)
    print(f"{options.output}: {size:.1f} MB, n-grams by order: {grams}")
    if options.dev is not None:
        said = [utterance.text for utterance in read_manifest(options.dev)]
        perplexity, strangers = measure(WordNGram.load(options.output), said)
        print(
            f"{options.dev}: perplexity {perplexity:.1f}, OOV {100 * strangers:.2f} %"
        )


def times_of(options: argparse.Namespace) -> list[int]:
    """Tell how often each text counts.

    Raises:
        ConfigError: there is not one number above zero for each text.
    """
    times: list[int] = options.times or [1] * len(options.texts)
    if len(times) != len(options.texts) or min(times) < 1:
        raise ConfigError(f"--times: {len(options.texts)} numbers above zero are due")
    return times


def read_text(path: Path) -> list[str]:
    """Read the sentences of a text.

    Raises:
        CorpusError: it cannot be read, is empty, or not in LibriSpeech's alphabet.
    """
    try:
        raw = path.read_bytes()
        text = (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from error
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: is damaged, or no text ({error})") from error
    if strangers := set(text) - set(ALPHABET) - {"\n"}:
        raise CorpusError(
            f"{path}: holds {min(strangers)!r} (A-Z, apostrophe, space were expected)"
        )
    sentences = [line for line in text.split("\n") if line.strip()]
    if not sentences:
        raise CorpusError(f"{path}: is empty (one sentence a line was expected)")
    return sentences


def estimate(
    texts: Sequence[Sequence[str]],
    times: Sequence[int],
    vocabulary: int,
    order: int,
    least: Sequence[int],
) -> WordNGram:
    """Estimate an n-gram.

    Args:
        texts: sentences.
        times: how often each text counts.
        vocabulary: how many words, the most frequent ones.
        order: 2 or 3.
        least: least counts of orders 2 and 3.
    """
    counter = Counter[str]()
    for text, weight in zip(texts, times, strict=True):
        for word, count in Counter(" ".join(text).split()).items():
            counter[word] += weight * count
    frequent = sorted(counter, key=lambda word: (-counter[word], word))
    words = sorted(frequent[:vocabulary])
    base = len(words) + 2
    number = {word: place for place, word in enumerate(words)}
    stream = np.concatenate(
        [
            numbers_of(text, number)
            for text, n in zip(texts, times, strict=True)
            for _ in range(n)
        ]
    )
    keys, counts = _count(stream, order, base)
    return WordNGram(words, _levels(keys, counts, order, base, [1, *least]))


def numbers_of(sentences: Sequence[str], number: Mapping[str, int]) -> Ints:
    """Write sentences as one row of numbers, a boundary before and after each."""
    unknown = len(number)
    known = {**number, "\n": unknown + 1}
    tokens = " \n ".join(["", *sentences, ""]).split(" ")
    return np.array([known.get(t, unknown) for t in tokens if t], dtype=np.int64)


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
    """Return (G,) D(c); where too few n-grams are seen to tell, it is c / 2."""
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


def measure(model: WordNGram, sentences: Sequence[str]) -> tuple[float, float]:
    """Tell the perplexity per word and </s>, <unk> as one of them; and the OOV rate."""
    said = [model.numbers(sentence.split()) for sentence in sentences]
    words, ends = scores(model, said)
    if model.lstm:
        total = mix(words[0], words[1], model.lstm.share).sum() + ends.sum()
    else:
        total = words[0].sum() + ends.sum()
    strangers = sum(int((words == model.unknown).sum()) for words in said)
    num_words = sum(map(len, said))
    perplexity = float(np.exp(-total / max(num_words + len(said), 1)))
    return perplexity, strangers / max(num_words, 1)


def scores(model: WordNGram, sentences: Sequence[Ints]) -> tuple[Floats, Floats]:
    """Score sentences side by side, one word of each at a time.

    Returns:
        For all words log P of the n-gram and, in a second row, of the LSTM (0 where
        there is none); and for all sentences log P of their ends.
    """
    sentences = sorted(sentences, key=len, reverse=True)
    histories = np.full((len(sentences), max(len(model.levels) - 1, 1)), model.boundary)
    contexts = model.contexts.start(len(sentences)) if model.contexts else None
    found = list[Floats]()
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
        histories[:going] = np.column_stack([histories[:going, 1:], words])
    ends = model.log_prob(histories, np.full(len(sentences), model.boundary))
    return np.concatenate([np.zeros((2, 0)), *found], axis=1), ends


if __name__ == "__main__":
    sys.exit(main())
