"""A word n-gram by numpy: its tables, the trie of its words, and how it scores them.

`ngram` has the formulas, and makes, reads and writes such models where there is torch;
`asr.onnx.ngram` reads them where there is none. Both search with what is here.

Shapes: R hypotheses, V tokens, W words, N = W + 2 word numbers, L letters, P contexts
        of an LSTM, C clusters of it behind the head.
"""

from collections.abc import Iterable, Sequence
from copy import copy
from itertools import pairwise
from math import exp, inf, log
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from asr.lm.look_ahead import Floats, Ints, LookAhead
from asr.text import CharTokenizer

Scores = npt.NDArray[np.float32]


LONGEST_WORD = 100
"""Letters: what is longer is damage; the longest of an English dictionary has 45."""
MOST_LETTERS = 2**26
"""Words times letters of the longest one: as much memory as building the trie takes.
200,000 words of 45 letters are a seventh of that."""
UNKNOWN = -3.0
"""log P of each character of a word that is not in the vocabulary."""


class Level(NamedTuple):
    """The stored n-grams of one order."""

    keys: Ints
    """(G,) sorted."""
    log_probs: npt.NDArray[Any]
    """(G,) log P of the last word after the others: float64, or float16 of a file."""
    backoffs: npt.NDArray[Any]
    """(G,) added where the n-gram is the history and no longer one is stored."""


class WordContexts(Protocol):
    """What an LSTM knows after the words of a search's hypotheses.

    Contexts are numbered; those that there are stay as they are.
    """

    def read(self, words: Ints, at: Ints, goes_on: Floats) -> Ints:
        """Read one more word in each of some contexts.

        Args:
            words: (R,) by their numbers in the n-gram.
            at: (R,) the contexts before them.
            goes_on: (R,) log P that the sentence goes on after each word.

        Returns:
            (R,) the contexts behind them.
        """

    def ahead(self) -> tuple[Scores, Scores]:
        """Return what the contexts hold for looking ahead; see `LookAhead.mass`."""

    def log_prob(self, words: Ints, at: Ints) -> Floats:
        """Return (R,) log P of words in contexts; that a sentence may end counts."""

    def keep(self, at: Ints) -> tuple["WordContexts", Ints]:
        """Drop contexts, perhaps, but those (R,); return what is left, and theirs."""


class WordTables:
    """The tables of a word n-gram, and the trie of its vocabulary.

    Args:
        words: (W,) the vocabulary, sorted; <unk> is word W, the boundary W + 1.
        levels: by order; the first holds all N unigrams.
        tokenizer: its first character is the space between words.

    Raises:
        ValueError: the words are not sorted, or cannot be spelled; or a table does not
            match.
    """

    def __init__(
        self,
        words: Sequence[str],
        levels: Sequence[Level],
        tokenizer: CharTokenizer,
    ) -> None:
        self.tokenizer = tokenizer
        self.words, self.levels = list(words), list(levels)
        self.look_ahead: LookAhead | None = None
        self.unknown, self.boundary = len(words), len(words) + 1
        self.base = len(words) + 2
        if not levels or len(levels[0].keys) != self.base:
            raise ValueError(f"{self.base} unigrams were expected")
        for level in levels:
            if {len(part) for part in level} != {len(level.keys)} or (
                np.diff(level.keys) <= 0
            ).any():
                raise ValueError("n-grams are not sorted, or a number is missing")
        if self.base ** len(levels) >= 2**63:
            raise ValueError(f"{len(levels)} of {self.base} words are no int64")
        self._grow()

    def _grow(self) -> None:
        """Build the trie, all nodes of it at once."""
        if not self.words or not all(self.words):
            raise ValueError("there is no word, or an empty one")
        longest = max(map(len, self.words))
        if longest > LONGEST_WORD:
            raise ValueError(f"a word has more than {LONGEST_WORD} letters")
        if longest * len(self.words) > MOST_LETTERS:
            raise ValueError(
                f"{len(self.words)} words of up to {longest} letters are too many"
            )
        letters = self.tokenizer.characters[1:]
        spelled = np.array(self.words, dtype=np.str_)
        width = spelled.dtype.itemsize // 4
        codes = spelled.view(np.uint32).reshape(len(spelled), width)
        of_code = np.zeros(max(int(codes.max()), *map(ord, letters)) + 1, np.uint16)
        of_code[[ord(letter) for letter in letters]] = range(1, len(letters) + 1)
        chars = of_code[codes]  # (W, width) 1.. are letters, 0 is past the end
        lengths = (codes != 0).sum(axis=1)
        if ((chars != 0).sum(axis=1) != lengths).any():
            raise ValueError("a word has a character that is no letter")
        if (spelled[1:] <= spelled[:-1]).any():
            raise ValueError("words are not sorted, or one is there twice")
        # A prefix begins a new node where it differs from that of the word before.
        begins = np.zeros(len(chars), dtype=np.int64)
        begins[1:] = (chars[1:] != chars[:-1]).argmax(axis=1)
        real = chars != 0
        new = real & (np.arange(width) >= begins[:, None])
        rows, columns = new.nonzero()
        nodes = np.zeros(chars.shape, dtype=np.int32)  # root is 0
        nodes[rows, columns] = own = np.arange(1, len(rows) + 1, dtype=np.int32)
        np.maximum.accumulate(nodes, axis=0, out=nodes)
        parents = np.where(columns > 0, nodes[rows, columns - 1], 0)
        self.outside = len(rows) + 1  # the node of all that is no prefix
        size = self.outside + 1
        self.children = np.full((size, len(letters)), self.outside, dtype=np.int32)
        self.children[parents, chars[rows, columns] - 1] = own
        self.depth = np.zeros(size)
        self.depth[own] = columns + 1
        self.word = np.full(size, self.unknown)
        self.word[nodes[np.arange(len(lengths)), lengths - 1]] = range(len(lengths))
        unigrams = self.levels[0].log_probs
        probs = np.broadcast_to(np.exp(unigrams[: len(lengths), None]), chars.shape)
        mass = np.bincount(nodes[real], weights=probs[real], minlength=size)
        mass[0], mass[self.outside] = 1.0, np.exp(unigrams[self.unknown])
        self.mass = np.maximum(mass, 1e-30)
        self.first = np.zeros(size, dtype=np.int64)
        self.first[own] = rows
        self.behind = self.first + np.bincount(nodes[real], minlength=size)
        self.unknown_cost = UNKNOWN * self.depth * (self.word == self.unknown)

    def with_words(self, words: Iterable[str]) -> Self:
        """Return a model that takes some words of <unk> for words of their own.

        Each is as likely as the rarest word of the vocabulary, in place of its
        characters as those of <unk>; but all of them at most half of <unk>:

            P(w | h) = P(<unk> | h) min(P(rarest) / P(<unk>), 1/2 / how many)

        Args:
            words: in the letters of the tokenizer; those that are known stay as they
                are.
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
            model.mass[path] += exp(unknown + share)
        model.unknown_cost[[path[-1] for path in paths]] = share
        model._see_ahead()
        return model

    def _grow_further(self, words: Sequence[str]) -> list[list[int]]:
        """Add nodes for words behind all others; return the nodes of each word."""
        place = {c: i for i, c in enumerate(self.tokenizer.characters[1:])}
        children, depth = self.children.copy(), self.depth.tolist()
        further, paths = list[Ints](), list[list[int]]()
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

    def no_words(self, rows: int) -> Ints:
        """Return (R, H) histories of nothing but boundaries."""
        return np.full((rows, max(len(self.levels) - 1, 1)), self.boundary)

    def clusters(self) -> tuple[Ints, list[int], float] | None:
        """Return what is needed to look ahead by an LSTM, or None without one.

        That is (W + 2,) ranks of words, the ranks at which the clusters of its softmax
        begin, and its share.
        """
        return None

    def start_contexts(self) -> WordContexts | None:
        """Return the LSTM's context of no words, numbered 0; None without an LSTM."""
        return None

    def _see_ahead(self) -> None:
        """Prepare looking ahead: for an LSTM that is new, or more words."""
        self.look_ahead = None
        if found := self.clusters():
            ranks, edges, share = found
            count = len(self.words)
            unigrams = np.exp(self.levels[0].log_probs[:count])
            self.look_ahead = LookAhead(
                *(self.first, self.behind, unigrams, ranks[:count], edges, share)
            )

    def ahead(
        self, nodes: Ints, at: Ints, contexts: WordContexts | None = None
    ) -> Floats:
        """Return (R, L) log m of nodes, in the LSTM's contexts if there are any.

        Args:
            nodes: (R, L) some of each hypothesis.
            at: (R,) which context each hypothesis has.
            contexts: of the LSTM.
        """
        mass = self.mass[nodes]
        if self.look_ahead and contexts:
            mixed = self.look_ahead.mass(nodes, mass, at, *contexts.ahead())
            mass = np.where((nodes == 0) | (nodes == self.outside), mass, mixed)
        log_mass: Floats = np.log(mass)
        return log_mass

    def look_up(self, histories: Ints, words: Ints) -> Floats:
        """Return (R,) log P of words, the boundary among them, by the n-gram alone.

        Args:
            histories: (R, H) the words before, the last one last; H >= order - 1.
            words: (R,) their numbers.
        """
        return look_up(self.levels, self.base, histories, words)

    def goes_on(self, histories: Ints) -> Floats:
        """Return (R,) log P that the sentence does not end after these words."""
        boundary = np.full(len(histories), self.boundary)
        end = np.exp(self.look_up(histories, boundary))
        log_probs: Floats = np.log1p(-np.minimum(end, 1 - 1e-9))
        return log_probs

    def numbers(self, words: Sequence[str]) -> Ints:
        """Look up the numbers of words."""
        if not len(words):
            return np.zeros(0, dtype=np.int64)
        known = np.array(self.words)
        place = np.minimum(np.searchsorted(known, np.array(words)), len(known) - 1)
        return np.where(known[place] == np.array(words), place, self.unknown)


class NGramState(NamedTuple):
    """What is known of the words so far."""

    histories: Ints
    """(R, H) the last finished words; boundaries where there were none."""
    nodes: Ints
    """(R,) where in the trie the unfinished word is."""
    at: Ints
    """(R,) which of the contexts is that of the finished words."""
    contexts: WordContexts | None
    """What the LSTM knows, if there is one."""


class WordSteps:
    """A word n-gram as a step model, over arrays.

    Args:
        model: the n-gram.
        num_utterances: B.
        bonus: is added to the score of each finished word.
    """

    def __init__(self, model: WordTables, num_utterances: int, bonus: float) -> None:
        self.model, self.num_utterances, self.bonus = model, num_utterances, bonus

    def start(self) -> NGramState:
        """Return one row per utterance, with no word."""
        histories = self.model.no_words(self.num_utterances)
        nodes = np.zeros(self.num_utterances, dtype=np.int64)
        contexts = self.model.start_contexts()
        return NGramState(histories, nodes, np.zeros_like(nodes), contexts)

    def step(self, read: Ints, state: NGramState) -> tuple[Scores, NGramState]:
        """Read one more token, (R,), of every hypothesis; score the next, (R, V)."""
        model, space = self.model, CharTokenizer.num_special
        histories, nodes, at, contexts = state
        ends = read == space
        if ends.any():
            said = model.word[nodes]
            histories = np.where(ends[:, None], _append(histories, said), histories)
            if contexts:
                goes_on = model.goes_on(histories[ends])
                at = at.copy()
                at[ends] = contexts.read(said[ends], at[ends], goes_on)
        letters = np.maximum(read - space - 1, 0)
        nodes = np.where(read > space, model.children[nodes, letters], nodes)
        nodes = np.where(ends, 0, nodes)  # special tokens change nothing

        scores = np.full((len(read), model.tokenizer.size), -inf, dtype=np.float32)
        below = np.concatenate([nodes[:, None], model.children[nodes]], axis=1)
        masses = model.ahead(below, at, contexts)
        ahead, children = masses[:, :1], below[:, 1:]
        further = masses[:, 1:] - ahead
        stranger = model.depth[nodes] + 1  # letters, where one leaves the vocabulary
        stranger = np.where(nodes == model.outside, 1, stranger)[:, None]
        further += np.where(children == model.outside, UNKNOWN * stranger, 0.0)
        scores[:, space + 1 :] = further

        words = model.word[nodes]
        finished = model.look_up(histories, words)
        if contexts and model.look_ahead:
            foretold = contexts.log_prob(words, at)
            finished = mix(finished, foretold, model.look_ahead.share)
        finished += self.bonus - ahead[:, 0]
        finished += model.unknown_cost[nodes]
        spelled = nodes != 0
        after = np.where(spelled[:, None], _append(histories, words), histories)
        ending = model.look_up(after, np.full_like(words, model.boundary))
        nothing = histories[:, -1] == model.boundary
        scores[:, space] = np.where(spelled, finished, -inf)
        scores[:, model.tokenizer.eos] = np.where(
            spelled, finished + ending, np.where(nothing, ending, -inf)
        )
        state = NGramState(histories, nodes, at, contexts)
        return scores, state

    def select(self, state: NGramState, rows: Ints) -> NGramState:
        """Repeat, reorder and drop hypotheses; see `StepModel.select`."""
        index = rows.flatten()
        at, contexts = state.at[index], state.contexts
        if contexts:
            contexts, at = contexts.keep(at)
        return NGramState(state.histories[index], state.nodes[index], at, contexts)


def look_up(levels: Sequence[Level], base: int, histories: Ints, words: Ints) -> Floats:
    """Back off from level to level; see `WordNGram.log_prob`."""
    log_probs = levels[0].log_probs[words]
    history = np.zeros_like(words)
    for n, (shorter, level) in enumerate(pairwise(levels), 1):
        history = history + histories[:, -n] * base ** (n - 1)
        if not len(level.keys):
            break
        place, found = find(shorter.keys, history)
        log_probs = log_probs + np.where(found, shorter.backoffs[place], 0.0)
        place, found = find(level.keys, history * base + words)
        log_probs = np.where(found, level.log_probs[place], log_probs)
    return log_probs


def mix(ngram: Floats, lstm: Floats, share: float) -> Floats:
    """Mix two log P of the same words; the share is the LSTM's."""
    mixed: Floats = np.logaddexp(np.log1p(-share) + ngram, np.log(share) + lstm)
    return mixed


def _append(histories: Ints, words: Ints) -> Ints:
    return np.concatenate([histories[:, 1:], words[:, None]], axis=1)


def find(keys: Ints, wanted: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Find the places of keys, and whether they are there; (R,) each."""
    if not len(keys):
        return np.zeros_like(wanted), np.zeros(len(wanted), dtype=bool)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return place, keys[place] == wanted
