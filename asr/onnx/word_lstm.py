"""The word LSTM of `asr.lm.word_lstm`, by numpy: what it foretells in a search.

The formulas are described there. A context is a row of numbers: state and cell of the
LSTM, then what is worked out of them once. Rows of the embedding stay bytes, as in the
file, and become floats when they are read.

Shapes: R contexts, W words, E embedding size, S LSTM size.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.errors import CheckpointError
from asr.file_sets import checked
from asr.lm.look_ahead import Floats as Wide
from asr.lm.look_ahead import Ints
from asr.onnx.tensors import read_arrays

FILE, DESCRIPTION, KIND = "lstm.safetensors", "lstm.json", "word LSTM"

Floats = npt.NDArray[np.float32]


class Contexts:
    """What the network knows after the words of many hypotheses.

    Args:
        arrays: of the file.
        cutoffs: where, by rank, the clusters after the head begin.
        share: of this model in the mixture.

    Raises:
        KeyError, ValueError: an array is missing, or has not the size of the others.
    """

    def __init__(
        self,
        arrays: Mapping[str, npt.NDArray[Any]],
        cutoffs: Sequence[int],
        share: float,
    ) -> None:
        self.share, self.edges = share, list(cutoffs)
        self.ranks: Ints = arrays["ranks"].astype(np.int64)
        self._embedding = arrays["embedding.weight"]
        self._scale = arrays.get("embedding.weight.scale")
        self._input = _floats(arrays, "lstm.weight_ih_l0").T
        self._recurrent = _floats(arrays, "lstm.weight_hh_l0").T
        self._bias = _floats(arrays, "lstm.bias_ih_l0")
        self._bias = self._bias + _floats(arrays, "lstm.bias_hh_l0")
        self.size = len(self._recurrent)
        clusters = range(len(self.edges))
        self._projections = [
            _floats(arrays, f"softmax.tail.{i}.0.weight").T for i in clusters
        ]
        self._outputs = [_floats(arrays, "softmax.head.weight")]
        self._outputs += [
            _floats(arrays, f"softmax.tail.{i}.1.weight") for i in clusters
        ]
        words = self.ranks[:-2]
        self._head = words[words < self.edges[0]]  # by their numbers, as ranks
        dims = sum(part.shape[1] for part in self._projections)
        widths = [2 * self.size, dims, len(self._outputs)]
        widths += [1 + len(self._head), len(self.edges)]
        self._ends = list(accumulate(widths))
        if len(self._outputs[0]) != self.edges[0] + len(self.edges):
            raise ValueError("the head has not the size of its words and clusters")
        if len(self._embedding) != len(self.ranks):
            raise ValueError("the embedding has not the size of the vocabulary")

    def start(self) -> Floats:
        """Return the context of nothing but the start of a sentence, (1, ...)."""
        words = np.full(1, len(self.ranks) - 1)
        return self.read(words, np.zeros((1, self._ends[-1]), dtype=np.float32))

    def read(self, words: Ints, contexts: Floats) -> Floats:
        """Read one more word, by its number in the n-gram, in each context."""
        ranks = self.ranks[words]
        embedded = self._embedding[ranks].astype(np.float32)
        if self._scale is not None:
            embedded *= self._scale[ranks, None]
        old, size = contexts[:, : self.size], self.size
        gates = embedded @ self._input + old @ self._recurrent + self._bias
        opened = _sigmoid(gates)
        g = np.tanh(gates[:, 2 * size : 3 * size])
        cell = opened[:, size : 2 * size] * contexts[:, size : 2 * size]
        cell += opened[:, :size] * g
        s = opened[:, 3 * size :] * np.tanh(cell)
        head = s @ self._outputs[0].T
        brackets = [-_log_sum(head)]
        projected = [s @ projection for projection in self._projections]
        for i, dims in enumerate(projected):
            log_prob = head[:, self.edges[0] + i] + brackets[0]
            brackets.append(log_prob - _log_sum(dims @ self._outputs[i + 1].T))
        probs = np.exp(head + brackets[0][:, None])
        sums = probs[:, self._head].cumsum(axis=1, dtype=np.float32)
        nothing = np.zeros((len(sums), 1), dtype=np.float32)
        known = [s, cell, *projected, np.stack(brackets, axis=1), nothing, sums]
        return np.concatenate([*known, probs[:, self.edges[0] :]], axis=1)

    def ahead(self, contexts: Floats) -> tuple[Floats, Floats]:
        """Return what contexts hold for looking ahead: sums of the head, clusters."""
        return contexts[:, self._ends[2] : self._ends[3]], contexts[:, self._ends[3] :]

    def log_prob(self, words: Ints, contexts: Floats, rows: Ints) -> Floats:
        """Return (R,) log P of words after contexts.

        Args:
            words: (R,) by their numbers in the n-gram.
            contexts: any number of them.
            rows: (R,) which of them.
        """
        ranks = self.ranks[words]
        clusters = np.searchsorted(self.edges, ranks, side="right")
        found = np.empty(len(ranks), dtype=np.float32)
        start = 0
        for i, outputs in enumerate(self._outputs):
            size = outputs.shape[1]
            (at,) = np.nonzero(clusters == i)
            if len(at):
                first = self.edges[i - 1] if i else 0
                own = contexts[:, start : start + size][rows[at]]
                dots = np.einsum("rd,rd->r", outputs[ranks[at] - first], own)
                found[at] = dots + contexts[rows[at], self._ends[1] + i]
            start += size if i else 2 * self.size
        return found


class ContextTable:
    """The contexts of one search, each worked out once: hypotheses share them.

    Texts that differ in an unknown word only have the same words, and the same context.
    It is a `WordContexts` of `asr.lm.word_tables`, which describes its methods.

    Args:
        network: of the LSTM.
        goes_on: log P that a sentence is not empty.
    """

    def __init__(self, network: Contexts, goes_on: float) -> None:
        self._network = network
        self._table = network.start()
        self._goes_on = [goes_on]  # the first is that of the start
        self._known = dict[tuple[int, int], int]()

    @property
    def rows(self) -> Floats:
        """All contexts, by their numbers."""
        return self._table[: len(self._goes_on)]

    def read(self, words: Ints, at: Ints, goes_on: Wide) -> Ints:
        """Read one more word in each of some contexts."""
        pairs = list(zip(at.tolist(), words.tolist(), strict=True))
        log_probs = dict(zip(pairs, goes_on.tolist(), strict=True))
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if new:
            before, said = np.array(new).T
            found = self._network.read(said, self._table[before])
            count = len(self._goes_on)
            end = count + len(new)
            if end > len(self._table):
                wider = np.empty((2 * end, found.shape[1]), dtype=np.float32)
                wider[:count] = self.rows
                self._table = wider
            self._table[count:end] = found
            self._known |= dict(zip(new, range(count, end), strict=True))
            self._goes_on += [log_probs[pair] for pair in new]
        return np.array([self._known[pair] for pair in pairs])

    def ahead(self) -> tuple[Floats, Floats]:
        """Return what the contexts hold for looking ahead."""
        return self._network.ahead(self.rows)

    def log_prob(self, words: Ints, at: Ints) -> Wide:
        """Return (R,) log P of words in contexts; that a sentence may end counts."""
        found = self._network.log_prob(words, self.rows, at)
        log_probs: Wide = np.array(self._goes_on)[at] + found
        return log_probs

    def keep(self, at: Ints) -> tuple["ContextTable", Ints]:
        """Drop nothing."""
        return self, at


def load_contexts(folder: Path, words: Sequence[str]) -> Contexts | None:
    """Read the LSTM beside a word n-gram; None where the n-gram is alone.

    Raises:
        CheckpointError: it is damaged or exchanged, or belongs to another n-gram.
    """
    if not (folder / DESCRIPTION).exists() and not (folder / FILE).exists():
        return None
    path = checked(folder, FILE, DESCRIPTION, KIND)
    arrays, metadata = read_arrays(path)
    if metadata.get("kind") != KIND:
        raise CheckpointError(f"{path}: is no {KIND}")
    fingerprint = hashlib.sha256("\n".join(words).encode()).hexdigest()
    if metadata.get("words") != fingerprint:
        raise CheckpointError(
            f"{path}: belongs to another n-gram (train it again: asr lm train)"
        )
    try:
        ranks = arrays["ranks"]
        if (
            len(ranks) != len(words) + 2
            or not (np.sort(ranks) == np.arange(len(ranks))).all()
        ):
            raise ValueError("the ranks are no order of the words")
        share = float(metadata["share"])
        if not 0 < share < 1:
            raise ValueError(f"a share is between 0 and 1, not {share}")
        return Contexts(arrays, metadata["cutoffs"], share)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path}: is damaged, or was not written by asr ({error})"
        ) from error


def _floats(arrays: Mapping[str, npt.NDArray[Any]], name: str) -> Floats:
    """Return a weight as float32, whatever it is in the file."""
    array = arrays[name].astype(np.float32)
    if arrays[name].dtype == np.int8:
        array *= arrays[f"{name}.scale"].astype(np.float32)[:, None]
    return array


def _sigmoid(x: Floats) -> Floats:
    found: Floats = 0.5 * np.tanh(0.5 * x) + 0.5
    return found


def _log_sum(x: Floats) -> Floats:
    highest = x.max(axis=1)
    found: Floats = np.log(np.exp(x - highest[:, None]).sum(axis=1)) + highest
    return found
