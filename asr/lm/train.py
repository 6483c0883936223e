"""Train a word LSTM that is mixed into a word n-gram, for the search.

    python recipes/librispeech/word_lstm.py TEXT.xz... --language-model FOLDER --dev DEV

The n-gram of FOLDER (see `language_model.py`) gives the vocabulary and stays as it is;
the LSTM is written beside it. Each sentence is read for itself. The learning rate rises
over the first hundredth of the time and falls along half a cosine; the share in the
mixture is the one with the lowest perplexity on dev.

A training that is stopped leaves the LSTM of its best look at dev. With `--go-on` the
LSTM that is already there learns further, from the sentences in another order, and is
replaced when dev finds it better.
"""

import argparse
import itertools
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2]))  # so that it runs as a script, too

from asr.data.manifest import read_manifest
from asr.errors import AsrError, ConfigError
from asr.lm.look_ahead import Ints
from asr.lm.ngram import WordNGram, mix
from asr.lm.word_lstm import FILE, WordLSTM
from asr.tensor_files import read_tensors
from recipes.librispeech.language_model import (
    measure,
    numbers_of,
    read_text,
    scores,
    times_of,
)

SHARES = tuple(share / 20 for share in range(1, 20))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the command line asks for; tell a fault in one line."""
    options = _parse(arguments)
    try:
        _run(options)
    except AsrError as error:
        print(f"word_lstm: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="word_lstm", description="Train an LSTM beside a word n-gram."
    )
    add = parser.add_argument
    add("texts", nargs="+", type=Path, metavar="TEXT", help="one sentence a line")
    add("--language-model", type=Path, required=True, metavar="FOLDER", help="n-gram")
    add("--dev", type=Path, required=True, metavar="MANIFEST", help="to choose by")
    add("--times", type=int, nargs="+", metavar="T", help="read each TEXT T times")
    add("--go-on", action="store_true", help="train the LSTM of FOLDER further")
    add("--minutes", type=float, default=40, help="of training (default: 40)")
    add("--size", type=int, metavar="S", help="of the LSTM (default: 512)")
    add("--embedding-size", type=int, metavar="E", help="of a word (default: 128)")
    add("--batch-words", type=int, default=4000, metavar="N", help="in an update")
    add("--learning-rate", type=float, default=3e-3, metavar="R", help="at its highest")
    add("--validations", type=int, default=8, metavar="N", help="looks at dev")
    add("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> None:
    times = times_of(options)
    sizes = options.embedding_size, options.size
    if options.go_on and sizes != (None, None):
        raise ConfigError("--go-on: the sizes are those of the LSTM that is there")
    options.embedding_size = sizes[0] if sizes[0] is not None else 128
    options.size = sizes[1] if sizes[1] is not None else 512
    for name in ("minutes", "size", "embedding_size", "batch_words", "learning_rate"):
        if getattr(options, name) <= 0:
            raise ConfigError(f"--{name.replace('_', '-')}: must be above 0")
    for name in ("threads", "validations"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name}: must be at least 1")
    folder = options.language_model
    ngram = WordNGram.load(folder, alone=not options.go_on)
    if options.go_on and not ngram.lstm:
        raise ConfigError(f"--go-on: {folder} holds no {FILE} (train it without)")
    said = [utterance.text for utterance in read_manifest(options.dev)]
    dev = [ngram.numbers(text.split()) for text in said]
    texts = [read_text(path) for path in options.texts]
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    metadata: dict[str, Any] = {
        "texts": [path.name for path in options.texts],
        **{"times": times, "minutes": options.minutes},
    }
    best, trainings = math.inf, 0
    if ngram.lstm:
        best = measure(ngram, said)[0]
        print(f"{folder}: perplexity {best:.1f}", flush=True)
        metadata["before"] = read_tensors(folder / FILE)[1]
        trainings = 1 + _depth(metadata["before"])
    try:
        model, sentences = prepare(
            ngram, texts, times, ngram.lstm or (options.embedding_size, options.size)
        )
    except ValueError as error:
        raise ConfigError(f"--size: {error}") from error
    words = sum(map(len, sentences)) - len(sentences)
    print(f"{len(sentences)} sentences, {words} words", flush=True)
    for told in train(model.train(), sentences, options, 1000 * trainings):
        ngram.mix_in(model)
        model.share, perplexity = best_share(ngram, dev)
        print(
            f"{told} | dev: perplexity {perplexity:.1f} with share {model.share:.2f}",
            flush=True,
        )
        if perplexity < best:
            best = perplexity
            model.save(folder, ngram.words, metadata)
    mixed = WordNGram.load(folder)  # as bytes it is a little worse
    size = (folder / FILE).stat().st_size / 1e6
    ngram.mix_in(None)
    alone, strangers = measure(ngram, said)
    print(f"{folder}: {size:.1f} MB")
    print(
        f"{options.dev}: perplexity {measure(mixed, said)[0]:.1f} "
        f"(n-gram alone {alone:.1f}), OOV {100 * strangers:.2f} %"
    )


def _depth(metadata: Mapping[str, Any]) -> int:
    """Count the trainings before the one that metadata tell of."""
    before = metadata.get("before")
    return 1 + _depth(before) if isinstance(before, dict) else 0


def prepare(
    ngram: WordNGram,
    texts: Sequence[Sequence[str]],
    times: Sequence[int],
    model: WordLSTM | tuple[int, int],
) -> tuple[WordLSTM, list[Ints]]:
    """Build the network for the words of a text; bring the text to ranks.

    Args:
        ngram: gives the words.
        texts: sentences.
        times: how often each text is read in a round.
        model: that is there already; or embedding size and size of a new one.

    Returns:
        The network; and the sentences, the start of each included.
    """
    number = {word: place for place, word in enumerate(ngram.words)}
    streams = [numbers_of(text, number) for text in texts]
    count = len(ngram.words) + 1
    if isinstance(model, WordLSTM):
        ranks = model.ranks.numpy()
    else:
        counts = np.zeros(count, dtype=np.int64)
        for stream, weight in zip(streams, times, strict=True):
            counts += weight * np.bincount(stream, minlength=count + 1)[:count]
        ranks = np.empty(count + 1, dtype=np.int64)
        ranks[np.argsort(-counts, kind="stable")] = np.arange(count)
        ranks[count] = count
        cutoffs = [c for c in (1000, 5000, 20_000) if c < count - 1] or [count // 2]
        model = WordLSTM(torch.from_numpy(ranks), *model, cutoffs)
    sentences = list[Ints]()
    for stream, weight in zip(streams, times, strict=True):
        ends = np.flatnonzero(stream == count)
        pieces = np.split(ranks[stream], ends)
        sentences += weight * [piece for piece in pieces if len(piece) > 1]
    return model, sentences


def train(
    model: WordLSTM,
    sentences: Sequence[Ints],
    options: argparse.Namespace,
    first_round: int,
) -> Iterator[str]:
    """Train by the clock; stop whenever dev is due, and tell how far it is."""
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.98), weight_decay=1e-3, fused=True
    )
    started, due, seen = time.monotonic(), 1, 0
    recent = list[float]()
    for batch, padding in batches(sentences, options.batch_words, first_round):
        progress = (time.monotonic() - started) / (60 * options.minutes)
        if progress >= due / options.validations or progress >= 1:
            loss = sum(recent) / max(len(recent), 1)
            speed = seen / 60 / options.minutes
            recent.clear()
            model.eval()
            yield (
                f"{100 * min(progress, 1):5.1f} % | {seen / 1e6:.2f} M words, "
                f"{speed / max(progress, 1e-9):.0f} a second | loss {loss:.3f}"
            )
            due = math.floor(progress * options.validations) + 1
            model.train()
            if progress >= 1:
                return
        rate = options.learning_rate * min(1.0, 1e-3 + 100 * progress)
        rate *= 0.5 + 0.5 * math.cos(math.pi * min(progress, 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        log_probs = model(batch)
        loss = -log_probs.masked_fill(padding, 0).sum() / (~padding).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.item())
        seen += int((~padding).sum())


def batches(
    sentences: Sequence[Ints], batch_words: int, first_round: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches for ever: (B, 1 + I) ranks, and (B, I) what is padding.

    Sentences of a batch are about equally long; the order is drawn anew each round, and
    a higher first round is another order from the start.
    """
    lengths = np.array([len(sentence) for sentence in sentences])
    for seed in itertools.count(first_round):
        rng = np.random.default_rng(seed)
        order = np.argsort(lengths + rng.random(len(lengths)))
        starts, words = [0], 0
        for place, index in enumerate(order):
            words = (place + 1 - starts[-1]) * lengths[index]
            if words > batch_words and place > starts[-1]:
                starts.append(place)
        for i in rng.permutation(len(starts)):
            stop = starts[i + 1] if i + 1 < len(starts) else len(order)
            chosen = [sentences[j] for j in order[starts[i] : stop]]
            width = max(map(len, chosen))
            batch = np.zeros((len(chosen), width), dtype=np.int64)
            padding = np.ones((len(chosen), width - 1), dtype=bool)
            for row, sentence in enumerate(chosen):
                batch[row, : len(sentence)] = sentence
                padding[row, : len(sentence) - 1] = False
            yield torch.from_numpy(batch), torch.from_numpy(padding)


def best_share(model: WordNGram, sentences: Sequence[Ints]) -> tuple[float, float]:
    """Return the share in the mixture with the lowest perplexity, and that."""
    (ngram, lstm), ends = scores(model, sentences)
    count = len(ngram) + len(ends)

    def perplexity(share: float) -> float:
        total = mix(ngram, lstm, share).sum() + ends.sum()
        return float(np.exp(-total / count))

    share = min(SHARES, key=perplexity)
    return share, perplexity(share)


if __name__ == "__main__":
    sys.exit(main())
