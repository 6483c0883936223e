"""What the LSTM knows after the words of a search's hypotheses, each context once.

`word_lstm.Contexts` is the plain formula, which tests hold this to; it works out all of
a context at once, and each hypothesis has a row of its own. Most hypotheses of a beam
differ in the word that they are in the middle of: 64 of them share about 23 contexts.
Here a context is worked out once and hypotheses have the number of its row. And

- what a cluster of the softmax costs, its Z_i, is worked out once a word of that
  cluster is scored; half of the contexts are never asked for one;
- P(w | h) of the head's words is kept, so that none of them costs a product;
- a matrix whose rows came from bytes, w_nd = q_nd s_n, is multiplied as (x q^T) s: in
  half precision q_nd is exact, and few rows x wait for the memory of the matrix only;
- in a search with int8 x are bytes, too.

Shapes: P contexts kept, R hypotheses, S LSTM size, C clusters behind the head.
"""

from collections.abc import Callable
from functools import cached_property, partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import linear

from asr.lm.look_ahead import Floats, Ints
from asr.lm.word_lstm import Contexts
from asr.quantized import Int8Linear

Product = Callable[[Tensor], Tensor]
"""(R, D) -> (R, M), by the transposed matrix."""
_SPARE = 256
"""Contexts that are kept before those that no hypothesis has are dropped."""


class ContextWeights:
    """The weights of the LSTM, prepared for searches; may be shared by threads.

    Args:
        contexts: the plain formula.
        precision: float32, which is exact, or int8.
    """

    def __init__(self, contexts: Contexts, precision: str = "float32") -> None:
        self.contexts, self.size = contexts, contexts.size
        self._product = Int8Linear if precision == "int8" else product
        edges = [0, *contexts.edges]
        self.ranks = contexts.ranks.numpy()
        self.cluster = np.searchsorted(contexts.edges, self.ranks, side="right")
        self.place = self.ranks - np.array(edges)[self.cluster]
        self.rows = [weight.numpy() for weight in contexts.outputs]
        ends = np.cumsum([0, *map(len, contexts.projections)])
        self.dims = [slice(start, end) for start, end in pairwise(ends)]

    @cached_property
    def cell(self) -> tuple[Product, Product, Tensor]:
        """The products of the cell with word and state, and its biases."""
        from_word, from_state, *biases = self.contexts.cell
        products = self._product(from_word), self._product(from_state)
        return *products, biases[0] + biases[1]

    @cached_property
    def outputs(self) -> list[Product]:
        """Those of the head and the clusters."""
        return [self._product(weight) for weight in self.contexts.outputs]

    @cached_property
    def in_bytes(self) -> "ContextWeights":
        """The same for int8."""
        return ContextWeights(self.contexts, "int8")

    def start(self, goes_on: Floats) -> "ContextCache":
        """Return what a search begins with: the context of no words, as row 0.

        Args:
            goes_on: (1,) log P that the sentence is not empty.
        """
        cache = ContextCache(self, 1)  # a row of zeros, which is read on from
        start, zeros = np.full(1, len(self.ranks) - 1), np.zeros(1, dtype=np.int64)
        cache.read(start, zeros, goes_on)
        return cache


class ContextCache:
    """The contexts of one search. Rows are added and never changed.

    Args:
        weights: of the LSTM.
        size: how many rows it has room for at first.
    """

    def __init__(self, weights: ContextWeights, size: int) -> None:
        contexts = weights.contexts
        widths = {"state": 2 * weights.size, "dims": contexts.ends[1]}
        widths["dims"] -= 2 * weights.size
        widths |= {"head": len(contexts.outputs[0]), "sums": 1 + len(contexts.head)}
        widths |= {"brackets": len(contexts.edges), "clusters": len(contexts.edges)}
        self.weights, self.count = weights, 0
        self.tensors = {
            name: torch.zeros(size, width) for name, width in widths.items()
        }
        self.filled = np.zeros((size, len(contexts.edges)), dtype=bool)
        self.goes_on = np.zeros(size)

    @torch.no_grad()
    def read(self, words: Ints, at: Ints, goes_on: Floats) -> Ints:
        """Read one more word in each of some contexts.

        Args:
            words: (R,) by their numbers in the n-gram.
            at: (R,) rows of the contexts before them.
            goes_on: (R,) log P that the sentence goes on after each word.

        Returns:
            (R,) rows of the contexts behind them.
        """
        model, plain = self.weights, self.weights.contexts
        state, cell = self.tensors["state"][at].chunk(2, dim=1)
        from_word, from_state, bias = model.cell
        embedded = plain.embedding(plain.ranks[torch.from_numpy(words)])
        gates = from_state(state).add_(from_word(embedded)).add_(bias)
        i, f, g, o = gates.chunk(4, dim=1)
        cell = torch.addcmul(f.sigmoid() * cell, i.sigmoid(), g.tanh())
        state = cell.tanh().mul_(o.sigmoid())
        head = model.outputs[0](state).log_softmax(dim=1)
        probs = head.exp()
        new = slice(self.count, self.count + len(words))
        self._make_room(new.stop)
        tensors = self.tensors
        tensors["state"][new, : model.size] = state
        tensors["state"][new, model.size :] = cell
        tensors["head"][new] = head
        tensors["sums"][new, 1:] = probs[:, plain.head].cumsum(dim=1)
        tensors["clusters"][new] = probs[:, plain.edges[0] :]
        self.goes_on[new], self.count = goes_on, new.stop
        return np.arange(new.start, new.stop)

    def ahead(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return what the rows hold for looking ahead; see `LookAhead.mass`."""
        return self.tensors["sums"].numpy(), self.tensors["clusters"].numpy()

    @torch.no_grad()
    def log_prob(self, words: Ints, at: Ints) -> Floats:
        """Return (R,) log P of words in the contexts of some rows.

        That a sentence may end in place of each is counted.
        """
        model = self.weights
        clusters, places = model.cluster[words], model.place[words]
        in_head = np.where(clusters == 0, places, 0)
        found = self.tensors["head"].numpy()[at, in_head].astype(np.float64)
        dims, brackets = (self.tensors[n].numpy() for n in ("dims", "brackets"))
        for i, columns in enumerate(model.dims):
            those = (clusters == i + 1).nonzero()[0]
            if len(those):
                rows = at[those]
                self._fill(i, rows)
                output = model.rows[i + 1][places[those]]
                dots = np.einsum("rd,rd->r", output, dims[rows, columns])
                found[those] = dots + brackets[rows, i]
        log_probs: Floats = found + self.goes_on[at]
        return log_probs

    def _fill(self, i: int, rows: Ints) -> None:
        """Work out what cluster i costs in the contexts where that is not known."""
        new = np.unique(rows[~self.filled[rows, i]])
        if not len(new):
            return
        self.filled[new, i] = True
        model, plain, tensors = self.weights, self.weights.contexts, self.tensors
        index = torch.from_numpy(new)
        state = tensors["state"][index, : model.size]
        dims = linear(state, plain.projections[i])
        logits = model.outputs[i + 1](dims)
        total = logits[:, 0] - logits.log_softmax(dim=1)[:, 0]  # faster than logsumexp
        tensors["dims"][index, model.dims[i]] = dims
        tensors["brackets"][index, i] = (
            tensors["head"][index, plain.edges[0] + i] - total
        )

    def _make_room(self, size: int) -> None:
        """Grow to twice the size where the rows are not enough."""
        more = max(size, 2 * self.count) - len(self.goes_on)
        if size > len(self.goes_on):
            self.tensors = {
                name: torch.cat([rows, rows.new_zeros(more, rows.size(1))])
                for name, rows in self.tensors.items()
            }
            self.filled = np.pad(self.filled, ((0, more), (0, 0)))
            self.goes_on = np.pad(self.goes_on, (0, more))

    def keep(self, at: Ints) -> tuple["ContextCache", Ints]:
        """Drop the rows that no hypothesis has, once they are many.

        Args:
            at: (R,) the row of each hypothesis.

        Returns:
            The cache to go on with, and the rows there. This one stays as it is.
        """
        if self.count <= max(_SPARE, 4 * len(at)):
            return self, at
        rows, at = np.unique(at, return_inverse=True)
        kept = ContextCache(self.weights, 0)
        index = torch.from_numpy(rows)
        kept.tensors = {name: all[index] for name, all in self.tensors.items()}
        kept.filled, kept.goes_on = self.filled[rows], self.goes_on[rows]
        kept.count = len(rows)
        return kept, at


def product(weight: Tensor) -> Product:
    """Prepare products of few rows with an (M, D) matrix.

    Where the rows of the matrix came from bytes (see `tensor_files.quantize_rows`) and
    the CPU has the operation, these bytes are kept in half precision.
    """
    scale = weight.abs().amax(dim=1).clamp_min(torch.finfo().tiny) / 127
    steps = (weight / scale[:, None]).round()
    if not torch.equal(steps * scale[:, None], weight):
        return partial(linear, weight=weight)
    try:
        return _HalfPrecision(steps, scale)
    except RuntimeError:  # a CPU without it
        return partial(linear, weight=weight)


class _HalfPrecision:
    """Products with whole numbers, which half precision holds exactly, and a scale.

    Args:
        steps: (M, D) from -127 to 127.
        scale: (M,) of each row.
    """

    def __init__(self, steps: Tensor, scale: Tensor) -> None:
        self._packed = torch.ops.quantized.linear_prepack_fp16(steps, None)
        self._scale = scale

    def __call__(self, x: Tensor) -> Tensor:
        """(R, D) -> (R, M)."""
        y: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self._packed)
        return y.mul_(self._scale)

    def __reduce__(self) -> tuple[type["_HalfPrecision"], tuple[Tensor, Tensor]]:
        """Be copied and pickled by the plain numbers: packed ones cannot be."""
        steps, _ = torch.ops.quantized.linear_unpack_fp16(self._packed)
        return _HalfPrecision, (steps, self._scale)
