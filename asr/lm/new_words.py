"""A trained word LSTM for other words: those that both know keep what was learned.

A model of somebody's own texts need not begin at chance: what the bundled LSTM knows of
English it keeps, and only the new words are to be learned.

A word that both vocabularies have keeps its embedding, its cluster of the softmax and
its row there, so that between such words nothing changes but for the sums. A new word
begins with the embedding of <unk>, which it was before, and the mean of its cluster's
rows, in the cluster that it would be in by its frequency. Words that are new no longer
are left out.

Shapes: W words, V = W + 1 with <unk>, C clusters behind the head.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from asr.lm.look_ahead import Ints
from asr.lm.word_lstm import WordLSTM


@torch.no_grad()
def with_new_words(
    model: WordLSTM, before: Sequence[str], words: Sequence[str], counts: Ints
) -> WordLSTM:
    """Return a network for other words.

    Args:
        model: trained.
        before: its W words, sorted.
        words: those of the new network, sorted.
        counts: (V,) how often each of these, and <unk>, is in what will be learned
            from.

    Raises:
        ValueError: a cluster would be empty.
    """
    model = model.trainable()
    old_edges = [*model.softmax.cutoffs[:-1]]
    number = {word: place for place, word in enumerate(before)}
    found = np.array([*(number.get(word, -1) for word in words), len(before)])
    known = found >= 0
    old_ranks = model.ranks.numpy()
    frequency_rank = np.empty(len(counts), dtype=np.int64)
    frequency_rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    rank = np.where(known, old_ranks[found], frequency_rank)
    cluster = np.searchsorted(old_edges, rank, side="right")
    order = np.lexsort((rank, ~known, cluster))  # by cluster; in it, new words last
    edges = np.cumsum(np.bincount(cluster, minlength=len(old_edges) + 1)).tolist()
    if any(start >= end for start, end in pairwise([0, *edges])):
        raise ValueError(
            f"{len(words)} words leave a part of the LSTM's softmax empty: too few, or "
            "too few rare ones (train one from nothing)"
        )
    ranks = np.empty(len(counts) + 1, dtype=np.int64)
    ranks[order], ranks[-1] = np.arange(len(counts)), len(counts)
    settings = {**model.settings, "cutoffs": edges[:-1]}
    new = WordLSTM(torch.from_numpy(ranks), **settings, share=model.share)
    _copy(model, new, found[order])
    return new


def _copy(old: WordLSTM, new: WordLSTM, found: Ints) -> None:
    """Copy weights; those of new words are made up.

    Args:
        old: where from.
        new: where to.
        found: (V,) by the new rank, the old number of each word; -1 for a new one.
    """
    known = torch.from_numpy(found >= 0)
    old_rank = old.ranks[torch.from_numpy(found)]  # of new words: not used
    embedding = old.get_parameter("embedding.weight")
    unknown, start = embedding[old.ranks[-2]], embedding[-1:]
    rows = torch.where(known[:, None], embedding[old_rank], unknown)
    new.get_parameter("embedding.weight").copy_(torch.cat([rows, start]))
    new.lstm.load_state_dict(old.lstm.state_dict())
    old_tails: Any = old.softmax.tail
    new_tails: Any = new.softmax.tail
    num_tails = len(old_tails)
    old_rows = [old.softmax.head.weight[:-num_tails], *(t[1].weight for t in old_tails)]
    new_rows = [new.softmax.head.weight[:-num_tails], *(t[1].weight for t in new_tails)]
    new.softmax.head.weight[-num_tails:] = old.softmax.head.weight[-num_tails:]
    for left, right in zip(old_tails, new_tails, strict=True):
        right[0].load_state_dict(left[0].state_dict())
    ends = zip(old.softmax.cutoffs, new.softmax.cutoffs, strict=True)
    old_first = new_first = 0
    for left, right, (old_end, new_end) in zip(old_rows, new_rows, ends, strict=True):
        inside = slice(new_first, new_end)
        places = (old_rank[inside] - old_first).clamp(0, len(left) - 1)
        mean = left.mean(dim=0)
        right.copy_(torch.where(known[inside, None], left[places], mean))
        old_first, new_first = old_end, new_end
