"""Sentences as a word LSTM learns from them: ranks of words, in batches.

Shapes: B sentences, I words of each.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from asr.lm.estimate import numbers_of
from asr.lm.look_ahead import Ints
from asr.lm.new_words import with_new_words
from asr.lm.ngram import WordNGram
from asr.lm.word_lstm import WordLSTM

_CUTOFFS = (1000, 5000, 20_000)


def prepare(
    ngram: WordNGram,
    texts: Sequence[Sequence[str]],
    weights: Sequence[int],
    model: WordLSTM | WordNGram | tuple[int, int],
) -> tuple[WordLSTM, list[Ints]]:
    """Build the network for the words of a text; bring the text to ranks.

    Args:
        ngram: gives the words.
        texts: sentences.
        weights: how many times each text is read in an epoch.
        model: that is there already; or an n-gram with one for other words, to start
            from; or embedding size and size of a new one.

    Returns:
        The network; and the sentences, the start of each included.

    Raises:
        ValueError: the size is too small, or the words are too few.
    """
    number = {word: place for place, word in enumerate(ngram.words)}
    streams = [numbers_of(text, number) for text in texts]
    count = len(ngram.words) + 1
    counts = np.zeros(count, dtype=np.int64)
    for stream, weight in zip(streams, weights, strict=True):
        counts += weight * np.bincount(stream, minlength=count + 1)[:count]
    if isinstance(model, WordLSTM):
        model = model.trainable()
    elif isinstance(model, WordNGram):
        assert model.lstm is not None
        model = with_new_words(model.lstm, model.words, ngram.words, counts)
    else:
        ranks = np.empty(count + 1, dtype=np.int64)
        ranks[np.argsort(-counts, kind="stable")] = np.arange(count)
        ranks[count] = count
        cutoffs = [c for c in _CUTOFFS if c < count - 1] or [count // 2]
        model = WordLSTM(torch.from_numpy(ranks), *model, cutoffs)
    ranks = model.ranks.numpy()
    sentences = list[Ints]()
    for stream, weight in zip(streams, weights, strict=True):
        ranked, ends = ranks[stream], np.flatnonzero(stream == count).tolist()
        pieces = [ranked[start:end] for start, end in pairwise(ends)]
        sentences += weight * [piece for piece in pieces if len(piece) > 1]
    return model, sentences


def batches(lengths: Ints, batch_words: int, seed: int) -> list[Ints]:
    """Put the sentences of an epoch, by their indices, into batches.

    Sentences of a batch are about equally long; the order depends on the seed.

    Args:
        lengths: of the sentences, the start of each included.
        batch_words: most words in a batch, padding counted.
        seed: of the order.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(lengths + rng.random(len(lengths)))
    starts = [0]
    for place, length in enumerate(lengths[order]):
        if (place + 1 - starts[-1]) * length > batch_words and place > starts[-1]:
            starts.append(place)
    pieces = np.split(order, starts[1:])
    return [pieces[i] for i in rng.permutation(len(pieces))]


def pad(sentences: Sequence[Ints]) -> tuple[Tensor, Tensor]:
    """Put sentences into one batch: (B, 1 + I) ranks, and (B, I) what is padding."""
    lengths = np.array([len(sentence) for sentence in sentences])
    inside = np.arange(lengths.max()) < lengths[:, None]
    batch = np.zeros(inside.shape, dtype=np.int64)
    batch[inside] = np.concatenate(sentences)
    return torch.from_numpy(batch), torch.from_numpy(~inside[:, 1:])
