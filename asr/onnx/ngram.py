"""The word n-gram of `asr.lm.ngram`, by numpy: words are scored while they are spelled.

The formulas are described there and, for what an LSTM adds, in `asr.lm.look_ahead`.
This module reads the same files, and has no more than a search needs; tests hold both
together.

Shapes: R hypotheses, V tokens, W words, N = W + 2 word numbers, L letters, M nodes of
        the trie.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from itertools import pairwise
from math import inf, log
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asr.errors import CheckpointError
from asr.file_sets import checked
from asr.onnx.tensors import read_arrays
from asr.onnx.word_lstm import Contexts, ContextTable, load_contexts
from asr.text import CharTokenizer

FILE, DESCRIPTION, KIND, FORMAT = "ngram.safetensors", "ngram.json", "word n-gram", 2
UNKNOWN = -3.0
"""log P of each character of a word that is not in the vocabulary."""
LONGEST_WORD = 100
"""Letters: what is longer is damage."""
_STEPS, _MOST_BACKOFF = 16, 4.0
_MOST_ORDER = 40

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]


class Level(NamedTuple):
    """The stored n-grams of one order."""

    keys: Ints
    """(G,) sorted."""
    log_probs: Floats
    backoffs: Floats


class WordNGram:
    """A word n-gram: the tables, and the trie of its vocabulary.

    Args:
        words: (W,) the vocabulary, sorted.
        levels: by order; the first holds all N unigrams.
        tokenizer: its first character is the space between words.
        contexts: of an LSTM that is mixed in, if there is one.

    Raises:
        ValueError: the words are not sorted, or cannot be spelled.
    """

    def __init__(
        self,
        words: Sequence[str],
        levels: Sequence[Level],
        tokenizer: CharTokenizer,
        contexts: Contexts | None,
    ) -> None:
        self.tokenizer, self.contexts = tokenizer, contexts
        self.words, self.levels = words, levels
        self.unknown, self.boundary = len(words), len(words) + 1
        self.base = len(words) + 2
        if len(levels[0].keys) != self.base:
            raise ValueError(f"{self.base} unigrams were expected")
        self._grow()
        self._look_ahead()

    def _grow(self) -> None:
        """Build the trie, all nodes of it at once."""
        letters = self.tokenizer.characters[1:]
        spelled = np.array(self.words, dtype=np.str_)
        width = spelled.dtype.itemsize // 4
        if not width or width > LONGEST_WORD or (spelled[1:] <= spelled[:-1]).any():
            raise ValueError("words are not sorted, or one is empty or too long")
        codes = spelled.view(np.uint32).reshape(len(spelled), width)
        of_code = np.zeros(max(int(codes.max()), *map(ord, letters)) + 1, np.uint16)
        of_code[[ord(letter) for letter in letters]] = range(1, len(letters) + 1)
        chars = of_code[codes]  # (W, width) 1.. are letters, 0 is past the end
        lengths = (codes != 0).sum(axis=1)
        real = chars != 0
        if (real.sum(axis=1) != lengths).any():
            raise ValueError("a word has a character that is no letter")
        # A prefix begins a new node where it differs from that of the word before.
        differs = np.ones(chars.shape, dtype=bool)
        differs[1:] = np.logical_or.accumulate(chars[1:] != chars[:-1], axis=1)
        new = differs & real
        numbers = np.cumsum(new, dtype=np.int32).reshape(new.shape) * new
        nodes = np.maximum.accumulate(numbers, axis=0)  # (W, width) root is 0
        parents = np.concatenate([np.zeros_like(nodes[:, :1]), nodes[:, :-1]], axis=1)
        self.outside = int(new.sum()) + 1  # the node of all that is no prefix
        size = self.outside + 1
        self.children = np.full((size, len(letters)), self.outside, dtype=np.int32)
        self.children[parents[new], chars[new] - 1] = nodes[new]
        depth = np.broadcast_to(np.arange(1, width + 1), chars.shape)
        self.depth = np.zeros(size)
        self.depth[nodes[new]] = depth[new]
        self.word = np.full(size, self.unknown)
        self.word[nodes[np.arange(len(lengths)), lengths - 1]] = range(len(lengths))
        unigrams = self.levels[0].log_probs
        probs = np.broadcast_to(np.exp(unigrams[: len(lengths), None]), chars.shape)
        mass = np.bincount(nodes[real], weights=probs[real], minlength=size)
        mass[0], mass[self.outside] = 1.0, np.exp(unigrams[self.unknown])
        self.mass = np.maximum(mass, 1e-30)
        rows = np.broadcast_to(np.arange(len(lengths))[:, None], chars.shape)
        self.first = np.zeros(size, dtype=np.int64)
        self.first[nodes[new]] = rows[new]
        self.behind = self.first + np.bincount(nodes[real], minlength=size)
        self.unknown_cost = UNKNOWN * self.depth * (self.word == self.unknown)

    def _look_ahead(self) -> None:
        """Work out what is known of the words below each node before any context."""
        if not self.contexts:
            return
        count, edges = len(self.words), self.contexts.edges
        unigrams = np.exp(self.levels[0].log_probs[:count])
        ranks = self.contexts.ranks[:count]
        cluster = np.searchsorted(edges, ranks, side="right")  # 0 is the head
        in_head = np.concatenate([[0], np.cumsum(cluster == 0)])
        self.head_first, self.head_behind = in_head[self.first], in_head[self.behind]
        self.others = np.empty((len(self.first), len(edges)), dtype=np.float32)
        for i in range(len(edges)):
            sums = np.cumsum(np.where(cluster == i + 1, unigrams, 0.0))
            sums = np.concatenate([[0.0], sums])
            below = sums[self.behind] - sums[self.first]
            self.others[:, i] = below / max(sums[-1], 1e-30)

    def with_words(self, words: Iterable[str]) -> "WordNGram":
        """Return a model that takes some words of <unk> for words of their own.

        See `asr.lm.ngram.WordNGram.with_words`.
        """
        known = set(self.words)
        strangers = [word for word in dict.fromkeys(words) if word not in known]
        if not strangers:
            return self
        log_probs = self.levels[0].log_probs
        unknown = float(log_probs[self.unknown])
        rarest = float(log_probs[: self.unknown].min())
        share = min(rarest - unknown, -log(2 * len(strangers)))
        model = copy(self)
        paths = model._grow_further(strangers)
        for path in paths:
            model.mass[path] += np.exp(unknown + share)
        model.unknown_cost[[path[-1] for path in paths]] = share
        model._look_ahead()
        return model

    def _grow_further(self, words: Sequence[str]) -> list[list[int]]:
        """Add nodes for words behind all others; return the nodes of each word."""
        place = {c: i for i, c in enumerate(self.tokenizer.characters[1:])}
        children, depth = self.children.copy(), self.depth.tolist()
        further, paths = list[Any](), list[list[int]]()
        for word in words:
            node, path = 0, list[int]()
            for letter in word:
                beyond = node - len(children)
                below = children[node] if beyond < 0 else further[beyond]
                child = int(below[place[letter]])
                if child == self.outside:
                    child = len(children) + len(further)
                    below[place[letter]] = child
                    further.append(np.full_like(children[0], self.outside))
                    depth.append(depth[node] + 1)
                node = child
                path.append(node)
            paths.append(path)
        if further:
            children = np.concatenate([children, np.stack(further)])
        new = np.zeros(len(further), dtype=np.int64)
        self.children, self.depth = children, np.array(depth)
        self.word = np.concatenate([self.word, new + self.unknown])
        self.mass = np.concatenate([self.mass, new.astype(np.float64)])
        self.first = np.concatenate([self.first, new])  # no word of the n-gram below
        self.behind = np.concatenate([self.behind, new])
        cost = UNKNOWN * self.depth[len(self.unknown_cost) :]
        self.unknown_cost = np.concatenate([self.unknown_cost, cost])
        return paths

    def ahead(self, nodes: Ints, table: ContextTable | None, rows: Ints) -> Floats:
        """Return (R, L) log m of nodes, in R contexts of the LSTM if there are any."""
        mass = self.mass[nodes]
        if self.contexts and table is not None:
            sums, clusters = self.contexts.ahead(table.rows)
            found = sums[rows[:, None], self.head_behind[nodes]]
            found -= sums[rows[:, None], self.head_first[nodes]]
            found += (self.others[nodes] @ clusters[rows, :, None])[:, :, 0]
            share = self.contexts.share
            mixed = (1 - share) * mass + share * np.maximum(found, 0.0)
            mass = np.where((nodes == 0) | (nodes == self.outside), mass, mixed)
        log_mass: Floats = np.log(mass)
        return log_mass

    def log_prob(
        self, histories: Ints, words: Ints, table: ContextTable | None, rows: Ints
    ) -> Floats:
        """Return (R,) log P of words after their histories (R, H)."""
        found = self.look_up(histories, words)
        if table is None or self.contexts is None:
            return found
        end = np.exp(self.look_up(histories, np.full_like(words, self.boundary)))
        foretold = np.log1p(-np.minimum(end, 1 - 1e-9))
        foretold = foretold + self.contexts.log_prob(words, table.rows, rows)
        share = self.contexts.share
        mixed: Floats = np.logaddexp(np.log1p(-share) + found, log(share) + foretold)
        return mixed

    def look_up(self, histories: Ints, words: Ints) -> Floats:
        """Back off from level to level."""
        log_probs = self.levels[0].log_probs[words]
        history = np.zeros_like(words)
        for n, (shorter, level) in enumerate(pairwise(self.levels), 1):
            history = history + histories[:, -n] * self.base ** (n - 1)
            if not len(level.keys):
                break
            place, found = _find(shorter.keys, history)
            log_probs = log_probs + np.where(found, shorter.backoffs[place], 0.0)
            place, found = _find(level.keys, history * self.base + words)
            log_probs = np.where(found, level.log_probs[place], log_probs)
        return log_probs

    def steps(self, num_utterances: int, bonus: float) -> "NGramPrefix":
        """Return a step model of so many utterances, `bonus` added for each word."""
        return NGramPrefix(self, num_utterances, bonus)


class NGramState(NamedTuple):
    """What is known of the words so far."""

    histories: Ints
    """(R, H) the last finished words; boundaries where there were none."""
    nodes: Ints
    """(R,) where in the trie the unfinished word is."""
    contexts: Ints
    """(R,) what the LSTM knows after the finished words: numbers of a table."""


class NGramPrefix:
    """A word n-gram as a step model; see `asr.lm.ngram.NGramPrefix`."""

    def __init__(self, model: WordNGram, num_utterances: int, bonus: float) -> None:
        self.model, self.num_utterances, self.bonus = model, num_utterances, bonus
        self._table = ContextTable(model.contexts) if model.contexts else None

    def start(self) -> NGramState:
        """Return one row per utterance, with no word."""
        model, rows = self.model, self.num_utterances
        histories = np.full((rows, max(len(model.levels) - 1, 1)), model.boundary)
        zeros = np.zeros(rows, dtype=np.int64)
        return NGramState(histories, zeros, zeros)

    def step(self, tokens: Ints, state: NGramState) -> tuple[Floats, NGramState]:
        """(R,) last tokens -> (R, V) scores of the next, and the new state."""
        model, space = self.model, CharTokenizer.num_special
        histories, nodes, contexts = state
        ends = tokens == space
        if ends.any():
            said = model.word[nodes]
            histories = np.where(ends[:, None], _append(histories, said), histories)
            if self._table is not None:
                contexts = contexts.copy()
                contexts[ends] = self._table.read(said[ends], contexts[ends])
        letters = np.maximum(tokens - space - 1, 0)
        nodes = np.where(tokens > space, model.children[nodes, letters], nodes)
        nodes = np.where(ends, 0, nodes)  # special tokens change nothing
        state = NGramState(histories, nodes, contexts)
        return self._scores(state), state

    def _scores(self, state: NGramState) -> Floats:
        model, space = self.model, CharTokenizer.num_special
        histories, nodes, contexts = state
        scores = np.full((len(nodes), model.tokenizer.size), -inf, dtype=np.float32)
        below = np.concatenate([nodes[:, None], model.children[nodes]], axis=1)
        masses = model.ahead(below, self._table, contexts)
        ahead, children = masses[:, :1], below[:, 1:]
        further = masses[:, 1:] - ahead
        stranger = model.depth[nodes] + 1  # letters, where one leaves the vocabulary
        stranger = np.where(nodes == model.outside, 1, stranger)[:, None]
        further += np.where(children == model.outside, UNKNOWN * stranger, 0.0)
        scores[:, space + 1 :] = further

        words = model.word[nodes]
        finished = model.log_prob(histories, words, self._table, contexts)
        finished = finished + self.bonus - ahead[:, 0] + model.unknown_cost[nodes]
        spelled = nodes != 0
        after = np.where(spelled[:, None], _append(histories, words), histories)
        ending = model.look_up(after, np.full_like(words, model.boundary))
        nothing = histories[:, -1] == model.boundary
        scores[:, space] = np.where(spelled, finished, -inf)
        scores[:, model.tokenizer.eos] = np.where(
            spelled, finished + ending, np.where(nothing, ending, -inf)
        )
        return scores

    def select(self, state: NGramState, rows: Ints) -> NGramState:
        """Repeat, reorder and drop hypotheses."""
        return NGramState(*(part[rows.flatten()] for part in state))


def load_ngram(folder: Path, tokenizer: CharTokenizer) -> WordNGram:
    """Read a word n-gram that writes the characters of a model, and its LSTM.

    Raises:
        CheckpointError: it is damaged or exchanged, or has letters that the tokenizer
            lacks.
    """
    path = folder / FILE
    if (folder / DESCRIPTION).exists():
        path = checked(folder, FILE, DESCRIPTION, KIND)
    arrays, metadata = read_arrays(path)
    if metadata.get("kind") != KIND or metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: is no {KIND} of a format that this version of asr reads (build "
            "it again: asr lm build)"
        )
    try:
        words = arrays["vocabulary"].tobytes().decode().split("\n")
        strangers = set("".join(words)) - set(tokenizer.characters[1:])
        if strangers or tokenizer.characters[0] != " ":
            raise CheckpointError(
                f"{folder}: the word language model has another alphabet than this "
                "model"
            )
        order = int(metadata["order"])
        if not 1 <= order <= _MOST_ORDER or (len(words) + 2) ** order >= 2**63:
            raise ValueError(f"order {order} is impossible")
        levels = _levels(arrays, order, len(words) + 2)
        return WordNGram(words, levels, tokenizer, load_contexts(folder, words))
    except (KeyError, ValueError, TypeError, OverflowError, IndexError) as error:
        raise CheckpointError(
            f"{path}: is damaged, or was not written by asr ({error})"
        ) from error


def _levels(
    arrays: Mapping[str, npt.NDArray[Any]], order: int, base: int
) -> list[Level]:
    """Bring what a file holds into tables."""
    log_probs = arrays["log_probs_1"].astype(np.float64)
    if not np.isfinite(log_probs).all():
        raise ValueError("a log-probability is no number")
    levels = [Level(np.arange(len(log_probs)), log_probs, np.zeros(len(log_probs)))]
    for n in range(2, order + 1):
        shorter = levels[-1]
        counts, last = arrays[f"counts_{n}"], arrays[f"words_{n}"]
        found, backoffs = arrays[f"log_probs_{n}"], arrays[f"backoffs_{n - 1}"]
        sizes = (len(counts), len(backoffs), counts.sum(), len(found))
        if sizes != (len(shorter.keys), len(shorter.keys), len(last), len(last)):
            raise ValueError(f"n-grams of order {n} do not match the shorter ones")
        if last.max(initial=0) >= base or last.min(initial=0) < 0:
            raise ValueError(f"an n-gram of order {n} has a word that is not there")
        levels[-1] = shorter._replace(backoffs=_MOST_BACKOFF - backoffs / _STEPS)
        keys = np.repeat(shorter.keys * base, counts)
        keys += last
        levels.append(Level(keys, found / -_STEPS, np.zeros(len(keys))))
    return levels


def _append(histories: Ints, words: Ints) -> Ints:
    return np.concatenate([histories[:, 1:], words[:, None]], axis=1)


def _find(keys: Ints, wanted: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Find the places of keys, and whether they are there; (R,) each."""
    if not len(keys):
        return np.zeros_like(wanted), np.zeros(len(wanted), dtype=bool)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return place, keys[place] == wanted
