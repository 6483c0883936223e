"""A word n-gram, and the LSTM that is mixed in, in the memory of a GPU.

The same scores as those of `ngram.NGramPrefix`, which works on the CPU: there each step
of a search would wait until the tokens have come from the GPU and the scores have gone
back. Here nothing leaves the device, and nothing waits for the host: where the CPU has
the LSTM read only the words that have just ended, here it reads in all rows, and the
result is kept where a word has ended.

Shapes: R hypotheses, V tokens, L letters, H words of a history, C clusters of the LSTM.
"""

from copy import copy, deepcopy
from itertools import pairwise
from math import inf, log, log1p
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from asr.lm.ngram import WordNGram
from asr.lm.word_lstm import Contexts
from asr.lm.word_tables import UNKNOWN
from asr.text import CharTokenizer


class _Level(NamedTuple):
    """The stored n-grams of one order; see `ngram.Level`."""

    keys: Tensor
    log_probs: Tensor
    backoffs: Tensor


class _LookAhead(NamedTuple):
    """What is known of the words below each node; see `look_ahead.LookAhead`."""

    first: Tensor
    behind: Tensor
    others: Tensor


class DeviceNGram:
    """The tables of a word n-gram on a device.

    Args:
        model: with its LSTM, if there is one; not changed afterwards.
        device: where the tables go.
    """

    def __init__(self, model: WordNGram, device: torch.device) -> None:
        def moved(array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.device, self.base = device, model.base
        self.unknown, self.boundary = model.unknown, model.boundary
        self.outside, self.tokenizer = model.outside, model.tokenizer
        self.children, self.word = moved(model.children), moved(model.word)
        self.depth, self.mass = moved(model.depth), moved(model.mass)
        self.unknown_cost = moved(model.unknown_cost)
        self.levels = [_Level(*map(moved, level)) for level in model.levels]
        self.contexts: Contexts | None = None
        if model.lstm and model.contexts and model.look_ahead:
            self.share, ahead = model.lstm.share, model.look_ahead
            self.contexts = _to(model.contexts, device)
            self.edges = torch.tensor(model.contexts.edges, device=device)
            self.look_ahead = _LookAhead(
                moved(ahead.first), moved(ahead.behind), moved(ahead.others)
            )

    def steps(self, num_utterances: int, bonus: float = 0.0) -> "DeviceNGramPrefix":
        """Return a step model of so many utterances, `bonus` added for each word."""
        return DeviceNGramPrefix(self, num_utterances, bonus)

    def ahead(self, nodes: Tensor, contexts: Tensor | None) -> Tensor:
        """Return (R, L) log m of nodes; see `WordNGram.ahead`."""
        mass = self.mass[nodes]
        if self.contexts and contexts is not None:
            head, clusters = self.contexts.ahead(contexts)
            first, behind, others = self.look_ahead
            found = head.gather(1, behind[nodes]) - head.gather(1, first[nodes])
            found += (others[nodes] @ clusters[:, :, None])[:, :, 0]
            found = found.clamp_(min=0.0)  # a difference of sums may be rounded below
            mixed = (1 - self.share) * mass + self.share * found
            plain = (nodes == 0) | (nodes == self.outside)
            mass = torch.where(plain, mass, mixed)
        return mass.log()

    def log_prob(
        self, histories: Tensor, words: Tensor, contexts: Tensor | None = None
    ) -> Tensor:
        """Return (R,) log P of words after their histories; see `WordNGram.log_prob`.

        Args:
            histories: (R, H) the words before, the last one last.
            words: (R,) numbers of words.
            contexts: R of the LSTM; None for the n-gram alone.
        """
        found = self._look_up(histories, words)
        if contexts is None or self.contexts is None:
            return found
        end = self._look_up(histories, torch.full_like(words, self.boundary)).exp()
        foretold = (-end.clamp(max=1 - 1e-9)).log1p() + self._foretold(words, contexts)
        return torch.logaddexp(log1p(-self.share) + found, log(self.share) + foretold)

    def _foretold(self, words: Tensor, contexts: Tensor) -> Tensor:
        """(R,) log P by the LSTM: all clusters are worked out, and one is chosen."""
        assert self.contexts
        ends, edges = self.contexts.ends, [0, *self.contexts.edges]
        ranks = self.contexts.ranks[words]
        clusters = torch.bucketize(ranks, self.edges, right=True)
        found = contexts.new_zeros(len(words))
        start = 0
        for i, (first, rows) in enumerate(
            zip(edges, self.contexts.outputs, strict=True)
        ):
            size = rows.size(1)
            weights = rows[(ranks - first).clamp(0, len(rows) - 1)]
            dots = (weights * contexts[:, start : start + size]).sum(dim=1)
            found = torch.where(clusters == i, dots + contexts[:, ends[1] + i], found)
            start += size if i else 2 * self.contexts.size
        return found.double()

    def _look_up(self, histories: Tensor, words: Tensor) -> Tensor:
        """Back off from level to level; see `ngram.look_up`."""
        log_probs = self.levels[0].log_probs[words]
        history = torch.zeros_like(words)
        for n, (shorter, level) in enumerate(pairwise(self.levels), 1):
            history = history + histories[:, -n] * self.base ** (n - 1)
            if not len(level.keys):
                break
            place, found = _find(shorter.keys, history)
            log_probs = log_probs + shorter.backoffs[place].masked_fill(~found, 0.0)
            place, found = _find(level.keys, history * self.base + words)
            log_probs = torch.where(found, level.log_probs[place], log_probs)
        return log_probs


class DeviceNGramState(NamedTuple):
    """What is known of the words so far; see `ngram.NGramState`."""

    histories: Tensor
    """(R, H)"""
    nodes: Tensor
    """(R,)"""
    contexts: Tensor | None
    """R of the LSTM."""


class DeviceNGramPrefix:
    """A word n-gram as a step model, on a device.

    Args:
        model: the n-gram.
        num_utterances: B.
        bonus: is added to the score of each finished word.
    """

    def __init__(self, model: DeviceNGram, num_utterances: int, bonus: float) -> None:
        self.model, self.num_utterances, self.bonus = model, num_utterances, bonus

    def start(self) -> DeviceNGramState:
        """Return one row per utterance, with no word."""
        model, count = self.model, self.num_utterances
        width = max(len(model.levels) - 1, 1)
        nodes = torch.zeros(count, dtype=torch.int64, device=model.device)
        histories = nodes.new_full((count, width), model.boundary)
        contexts = model.contexts.start(count) if model.contexts else None
        return DeviceNGramState(histories, nodes, contexts)

    def step(
        self, tokens: Tensor, state: DeviceNGramState
    ) -> tuple[Tensor, DeviceNGramState]:
        """Read one more token of every hypothesis; see `StepModel.step`."""
        model, space = self.model, CharTokenizer.num_special
        state = self._read(tokens, state)
        histories, nodes, contexts = state
        children = model.children[nodes].long()
        masses = model.ahead(torch.cat([nodes[:, None], children], dim=1), contexts)
        ahead = masses[:, 0]
        further = masses[:, 1:] - ahead[:, None]
        stranger = model.depth[nodes] + 1  # letters, where one leaves the vocabulary
        stranger = stranger.masked_fill(nodes == model.outside, 1.0)[:, None]
        further += torch.where(children == model.outside, UNKNOWN * stranger, 0.0)

        words = model.word[nodes]
        finished = model.log_prob(histories, words, contexts) + self.bonus - ahead
        finished += model.unknown_cost[nodes]
        spelled = nodes != 0
        after = torch.where(spelled[:, None], _append(histories, words), histories)
        ending = model.log_prob(after, torch.full_like(words, model.boundary))
        nothing = histories[:, -1] == model.boundary
        unsaid = ending.masked_fill(~nothing, -inf)

        scores = further.new_full((len(tokens), model.tokenizer.size), -inf)
        scores[:, space + 1 :] = further
        scores[:, space] = finished.masked_fill(~spelled, -inf)
        scores[:, model.tokenizer.eos] = torch.where(spelled, finished + ending, unsaid)
        return scores.float(), state

    def _read(self, tokens: Tensor, state: DeviceNGramState) -> DeviceNGramState:
        """Go on in the trie, and to the next word where there is a space."""
        model, space = self.model, CharTokenizer.num_special
        histories, nodes, contexts = state
        ends = tokens == space
        said = model.word[nodes]
        histories = torch.where(ends[:, None], _append(histories, said), histories)
        if model.contexts and contexts is not None:
            read_on = model.contexts.read(said, contexts)
            contexts = torch.where(ends[:, None], read_on, contexts)
        letters = (tokens - space - 1).clamp(min=0)
        below = model.children[nodes, letters].long()
        nodes = torch.where(tokens > space, below, nodes)  # special tokens: no change
        return DeviceNGramState(histories, nodes.masked_fill(ends, 0), contexts)

    def select(self, state: DeviceNGramState, rows: Tensor) -> DeviceNGramState:
        """Repeat, reorder and drop hypotheses; see `StepModel.select`."""
        kept, contexts = rows.flatten(), state.contexts
        if contexts is not None:
            contexts = contexts.index_select(0, kept)
        return DeviceNGramState(
            state.histories.index_select(0, kept),
            state.nodes.index_select(0, kept),
            contexts,
        )


def _to(contexts: Contexts, device: torch.device) -> Contexts:
    """Copy the LSTM to a device."""
    moved = copy(contexts)
    moved.ranks, moved.head = contexts.ranks.to(device), contexts.head.to(device)
    moved.embedding = deepcopy(contexts.embedding).to(device)
    for name in ("cell", "projections", "outputs"):
        setattr(moved, name, [w.to(device) for w in getattr(contexts, name)])
    return moved


def _append(histories: Tensor, words: Tensor) -> Tensor:
    return torch.cat([histories[:, 1:], words[:, None]], dim=1)


def _find(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Find the places of keys, and whether they are there; (R,) each."""
    if not len(keys):
        return torch.zeros_like(wanted), torch.zeros_like(wanted, dtype=torch.bool)
    place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return place, keys[place] == wanted
