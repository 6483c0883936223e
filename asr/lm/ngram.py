"""A word n-gram as a step model: words are scored while they are spelled.

The vocabulary is a trie of characters; m(v) is the summed probability of all words
below node v, and 1 at the root: by the unigram, or, where there is an LSTM, by that
after the words before (see `look_ahead`). Inside a word the look-ahead is paid, and
where a space or <eos> completes the word w after the words h, P(w | h) takes its place:

    score(c | v)     = log m(v c) - log m(v)
    score(space | v) = log P(w | h) - log m(v)
    score(<eos> | v) = score(space | v) + log P(</s> | h w)

What is not in the vocabulary is <unk>, with a penalty for each of its characters: the
same sums with log m = log P(<unk>) + |v| UNKNOWN. (`with_words` gives some such words a
node and a probability of their own.) So the scores of a sentence add up to

    sum_i log P(w_i | h_i) + |w_i| UNKNOWN [w_i is unknown]   + log P(</s> | h)

There is no empty word: no space follows a space or <sos>, and <eos> follows no space.
The n-gram backs off:

    log P(w | h) = log_prob(h w), if stored; else backoff(h) + log P(w | rest of h)

An LSTM of the same words can be mixed in (see `word_lstm`).

An n-gram is kept as one integer, its words the digits of a number of base N. One
number, the boundary, is <s> where it is read and </s> where it is foretold.

Shapes: R hypotheses, V tokens, W words, N = W + 2 word numbers, L letters.

Source: Hori, Watanabe and Hershey (2017), "Multi-level language modeling and decoding
for open vocabulary end-to-end speech recognition", doi:10.1109/ASRU.2017.8268948.
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import cache
from importlib.resources import files
from itertools import pairwise
from math import exp, inf, log
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr.errors import CheckpointError
from asr.file_sets import checked, read_whole, write_checked
from asr.folders import inside
from asr.foreign import number_in
from asr.lm.context_cache import ContextCache, ContextWeights
from asr.lm.look_ahead import Floats, Ints, LookAhead
from asr.lm.word_lstm import DESCRIPTION as LSTM
from asr.lm.word_lstm import Contexts, WordLSTM
from asr.tensor_files import as_bytes, read_tensors
from asr.text import ALPHABET, CharTokenizer, Tokenizer

Halves = npt.NDArray[np.float16]
"""16ths that a file has in a byte: they are exact, in a quarter of the memory."""

FILE = "ngram.safetensors"
"""The file of a language model's folder."""
DESCRIPTION = "ngram.json"
"""Its size and checksum. Without this file, the other one is read unchecked."""
BUNDLED_WORDS = "words"
"""Name of the language model that comes with the package."""
LONGEST_WORD = 100
"""Letters: what is longer is damage; the longest of an English dictionary has 45."""
MOST_LETTERS = 2**26
"""Words times letters of the longest one: as much memory as building the trie takes.
200,000 words of 45 letters are a seventh of that."""
KIND, FORMAT = "word n-gram", 2
_STEPS, _MOST_BACKOFF = 16, 4.0
_HIGHEST = 0.01  # log P of what is certain is zero, but for rounding
_ORDERS = (1, 40)  # of n-grams; so many words of any vocabulary are no int64
UNKNOWN = -3.0
"""log P of each character of a word that is not in the vocabulary."""


def find_language_model(folder: str | Path | None) -> Path:
    """Find the folder of a word n-gram: the bundled one, or one given.

    Raises:
        CheckpointError: there is none.
    """
    if folder is None:
        return Path(str(files("asr") / "assets" / BUNDLED_WORDS))
    folder = Path(folder)
    if not any(os.path.exists(folder / name) for name in (FILE, DESCRIPTION)):
        raise CheckpointError(
            f"{folder}: holds no language model (asr lm build makes one of texts, "
            "asr lm convert of a file in ARPA's format)"
        )
    return folder


def load_language_model(
    folder: str | Path | None, tokenizer: Tokenizer
) -> "WordNGram | None":
    """Load the language model for a search that writes with a tokenizer.

    Args:
        folder: of a word n-gram; None for the bundled one, which is left out with a
            notice where the tokenizer writes anything but its characters.
        tokenizer: of the model.

    Raises:
        CheckpointError: there is no language model, or it is damaged; or one was asked
            for that has letters which the tokenizer lacks, or which writes none.
    """
    path = find_language_model(folder)
    if isinstance(tokenizer, CharTokenizer):
        if folder is not None:
            return WordNGram.load(path, tokenizer=tokenizer)
        words = WordNGram.load(path)
        reason = "has another alphabet than this model"
        if words.tokenizer == tokenizer:
            return words
    else:
        reason = "is for characters only, which this model does not write"
    if folder is not None:
        raise CheckpointError(f"{path}: the word language model {reason}")
    _leave_out(f"asr: the word language model is left out: it {reason}")
    return None


@cache
def _leave_out(notice: str) -> None:
    """Print a notice, once a run: other processes of it need not repeat it."""
    if parent_process() is None:
        logging.getLogger(__name__).warning(notice)


def spelling_of(words: Iterable[str]) -> CharTokenizer:
    """Return the characters of words: A-Z and apostrophe where they are enough.

    >>> spelling_of(["über", "ab"]).characters
    ' aberü'
    """
    letters = set("".join(words))
    if letters <= set(ALPHABET):
        return CharTokenizer()
    return CharTokenizer(" " + "".join(sorted(letters)))


def make_folder(folder: Path) -> None:
    """Make the folder of a language model, unless it is there.

    Raises:
        CheckpointError: it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise CheckpointError(f"{folder}: cannot be written (it is read-only)")


class Level(NamedTuple):
    """The stored n-grams of one order."""

    keys: Ints
    """(G,) sorted."""
    log_probs: npt.NDArray[Any]
    """(G,) log P of the last word after the others: `Floats`, or `Halves` of a file."""
    backoffs: npt.NDArray[Any]
    """(G,) added where the n-gram is the history and no longer one is stored."""


class WordNGram:
    """A word n-gram: the tables, and the trie of its vocabulary.

    Args:
        words: (W,) the vocabulary, sorted; <unk> is word W, the boundary W + 1.
        levels: by order; the first holds all N unigrams.
        tokenizer: its first character is the space between words.
        lstm: is mixed in, if there is one.

    Raises:
        ValueError: the words are not sorted, or cannot be spelled; or a table does not
            match.
    """

    def __init__(
        self,
        words: Sequence[str],
        levels: Sequence[Level],
        tokenizer: CharTokenizer | None = None,
        lstm: WordLSTM | None = None,
    ) -> None:
        self.tokenizer = tokenizer or CharTokenizer()
        self.words, self.levels = list(words), list(levels)
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
        self.mix_in(lstm)

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

    def with_words(self, words: Iterable[str]) -> "WordNGram":
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
        model.mix_in(self.lstm)
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

    def mix_in(self, lstm: WordLSTM | None) -> None:
        """Mix an LSTM in, as its weights are now; or none."""
        self.lstm, self.contexts, self.look_ahead = lstm, None, None
        self.context_weights: ContextWeights | None = None
        if lstm:
            self.contexts = contexts = Contexts(lstm)
            self.context_weights = ContextWeights(contexts)
            count = len(self.words)
            self.look_ahead = LookAhead(
                self.first,
                self.behind,
                np.exp(self.levels[0].log_probs[:count]),
                contexts.ranks.numpy()[:count],
                contexts.edges,
                lstm.share,
            )

    def ahead(
        self, nodes: Ints, at: Ints, contexts: ContextCache | None = None
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

    def log_prob(
        self, histories: Ints, words: Ints, contexts: Tensor | None = None
    ) -> Floats:
        """Return (R,) log P of words after their histories.

        Args:
            histories: (R, H) the words before, the last one last; H >= order - 1.
            words: (R,) numbers of words, <unk> and, where there are no contexts, the
                boundary among them.
            contexts: R of the LSTM; None for the n-gram alone.
        """
        found = look_up(self.levels, self.base, histories, words)
        if contexts is None or self.lstm is None:
            return found
        return mix(found, self.foretold(histories, words, contexts), self.lstm.share)

    def foretold(self, histories: Ints, words: Ints, contexts: Tensor) -> Floats:
        """Return what the LSTM adds where it is mixed in: (R,) log P of the words."""
        if self.contexts is None:
            raise ValueError("there is no LSTM")
        found = self.contexts.log_prob(torch.from_numpy(words), contexts)
        log_probs: Floats = self.goes_on(histories) + found.double().numpy()
        return log_probs

    def goes_on(self, histories: Ints) -> Floats:
        """Return (R,) log P that the sentence does not end after these words."""
        boundary = np.full(len(histories), self.boundary)
        end = np.exp(look_up(self.levels, self.base, histories, boundary))
        log_probs: Floats = np.log1p(-np.minimum(end, 1 - 1e-9))
        return log_probs

    def numbers(self, words: Sequence[str]) -> Ints:
        """Look up the numbers of words."""
        if not len(words):
            return np.zeros(0, dtype=np.int64)
        known = np.array(self.words)
        place = np.minimum(np.searchsorted(known, np.array(words)), len(known) - 1)
        return np.where(known[place] == np.array(words), place, self.unknown)

    def steps(self, num_utterances: int, bonus: float = 0.0) -> "NGramPrefix":
        """Return a step model of so many utterances, `bonus` added for each word."""
        return NGramPrefix(self, num_utterances, bonus)

    def save(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        """Write the model, 3 bytes for each of the longest n-grams, 6 for others.

        N-grams are sorted, so how many begin with each shorter one and their last
        words are enough. Log-probabilities above order 1 are bytes, in 16ths.

        Raises:
            CheckpointError: it cannot be written.
            ValueError: an n-gram is stored whose beginning is not.
        """
        text = "\n".join(self.words).encode()
        tensors = {"vocabulary": np.frombuffer(text, np.uint8).copy()}
        tensors["log_probs_1"] = self.levels[0].log_probs.astype(np.float16)
        number = np.uint16 if self.base < 2**16 else np.int32
        for n, (shorter, level) in enumerate(pairwise(self.levels), 2):
            place, found = find(shorter.keys, level.keys // self.base)
            if not found.all():
                raise ValueError("an n-gram is stored whose beginning is not")
            counts = np.bincount(place, minlength=len(shorter.keys))
            tensors[f"backoffs_{n - 1}"] = _to_bytes(shorter.backoffs, _MOST_BACKOFF)
            tensors[f"counts_{n}"] = counts.astype(number)
            tensors[f"words_{n}"] = (level.keys % self.base).astype(number)
            tensors[f"log_probs_{n}"] = _to_bytes(level.log_probs, 0.0)
        make_folder(folder)
        about = {"kind": KIND, "order": len(self.levels), "format": FORMAT}
        content = as_bytes(
            {name: torch.from_numpy(array) for name, array in tensors.items()},
            {**metadata, **about},
        )
        write_checked(folder, FILE, content, DESCRIPTION)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        alone: bool = False,
        tokenizer: CharTokenizer | None = None,
    ) -> "WordNGram":
        """Read what `save` wrote, and the LSTM beside it, if there is one.

        Args:
            folder: of the model.
            alone: whether to leave an LSTM there aside.
            tokenizer: of the model that is to write the words; None for one that has
                just their letters.

        Raises:
            CheckpointError: there is none, or it is damaged or exchanged, or its words
                have letters that the tokenizer lacks.
        """
        folder = find_language_model(folder)
        return read_whole(
            folder, [DESCRIPTION, LSTM], lambda: cls._load(folder, alone, tokenizer)
        )

    @classmethod
    def _load(
        cls, folder: Path, alone: bool, tokenizer: CharTokenizer | None
    ) -> "WordNGram":
        path = folder / FILE
        if (folder / DESCRIPTION).exists():
            path = checked(folder, FILE, DESCRIPTION, KIND)
        else:
            inside(folder, FILE, folder / DESCRIPTION)
        tensors, metadata = read_tensors(path)
        if metadata.get("kind") != KIND:
            raise CheckpointError(f"{path}: is no language model (want a {KIND})")
        if metadata.get("format") != FORMAT:
            raise CheckpointError(
                f"{path}: has another format than this version of asr reads "
                "(build it again: asr lm build)"
            )
        try:
            text = _row(tensors["vocabulary"], np.uint8).tobytes().decode()
            words = text.split("\n")
            order = int(number_in(metadata["order"], *_ORDERS))
            levels = _levels(tensors, order, len(words) + 2)
            spelling = tokenizer or spelling_of(words)
            if spelling.characters[0] != " ":
                raise CheckpointError(
                    f"{path.parent}: the word language model has another alphabet than "
                    f"this model, whose first is {spelling.characters[0]!r} and not "
                    "the space"
                )
            if strangers := set("".join(words)) - set(spelling.characters):
                raise CheckpointError(
                    f"{path.parent}: the word language model has another alphabet than "
                    f"this model, which does not write {min(strangers)!r}"
                )
            lstm = None if alone else WordLSTM.load(folder, words)
            return cls(words, levels, spelling, lstm)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise CheckpointError(
                f"{path}: is damaged, or was not written by asr ({error})"
            ) from error


def _levels(tensors: Mapping[str, Tensor], order: int, base: int) -> list[Level]:
    """Bring what a file holds into tables."""
    log_probs = _row(tensors["log_probs_1"], np.float16).astype(np.float64)
    if not (np.isfinite(log_probs) & (log_probs <= _HIGHEST)).all():
        raise ValueError("a log-probability is no number, or above zero")
    levels = [Level(np.arange(len(log_probs)), log_probs, np.zeros(len(log_probs)))]
    number = np.uint16 if base < 2**16 else np.int32
    for n in range(2, order + 1):
        shorter = levels[-1]
        counts, last, found, backoffs = (
            _row(tensors[name], dtype)
            for name, dtype in (
                *((f"counts_{n}", number), (f"words_{n}", number)),
                *((f"log_probs_{n}", np.uint8), (f"backoffs_{n - 1}", np.uint8)),
            )
        )
        sizes = (len(counts), len(backoffs), counts.sum(), len(found))
        if sizes != (len(shorter.keys), len(shorter.keys), len(last), len(last)):
            raise ValueError(f"n-grams of order {n} do not match the shorter ones")
        lowest = min(counts.min(initial=0), last.min(initial=0))
        if lowest < 0 or last.max(initial=0) >= base:
            raise ValueError(f"an n-gram of order {n} has a word that is not there")
        levels[-1] = shorter._replace(backoffs=_of_bytes(backoffs, _MOST_BACKOFF))
        keys = np.repeat(shorter.keys * base, counts)
        keys += last
        nothing = np.zeros(len(keys), dtype=np.float16)
        levels.append(Level(keys, _of_bytes(found, 0.0), nothing))
    return levels


def _to_bytes(values: npt.NDArray[Any], highest: float) -> npt.NDArray[np.uint8]:
    """Count 16ths below the highest."""
    return ((highest - values) * _STEPS).round().clip(0, 255).astype(np.uint8)


def _of_bytes(counts: npt.NDArray[np.uint8], highest: float) -> Halves:
    """Return what 16ths below the highest stand for; all of them are exact."""
    every = highest - np.arange(256) / _STEPS
    return every.astype(np.float16)[counts]


def _row(tensor: Tensor, dtype: Any) -> npt.NDArray[Any]:
    array = tensor.numpy()
    if array.dtype != dtype or array.ndim != 1:
        raise ValueError(f"{np.dtype(dtype)} in a row was expected")
    return array


class NGramState(NamedTuple):
    """What is known of the words so far."""

    histories: Ints
    """(R, H) the last finished words; boundaries where there were none."""
    nodes: Ints
    """(R,) where in the trie the unfinished word is."""
    at: Ints
    """(R,) which of the contexts is that of the finished words."""
    contexts: ContextCache | None
    """What the LSTM knows, if there is one."""


class NGramPrefix:
    """A word n-gram as a step model.

    Args:
        model: the n-gram.
        num_utterances: B.
        bonus: is added to the score of each finished word.
    """

    def __init__(self, model: WordNGram, num_utterances: int, bonus: float) -> None:
        self.model, self.num_utterances, self.bonus = model, num_utterances, bonus

    def start(self) -> NGramState:
        """Return one row per utterance, with no word."""
        shape = (self.num_utterances, max(len(self.model.levels) - 1, 1))
        histories = np.full(shape, self.model.boundary)
        nodes, contexts = np.zeros(self.num_utterances, dtype=np.int64), None
        if self.model.context_weights:
            goes_on = self.model.goes_on(histories[:1])
            contexts = self.model.context_weights.start(goes_on)
        return NGramState(histories, nodes, np.zeros_like(nodes), contexts)

    def step(self, tokens: Tensor, state: NGramState) -> tuple[Tensor, NGramState]:
        """Read one more token of every hypothesis; see `StepModel.step`."""
        model, space = self.model, CharTokenizer.num_special
        read = tokens.cpu().numpy()
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
        finished = model.log_prob(histories, words)
        if contexts and model.lstm:
            foretold = contexts.log_prob(words, at)
            finished = mix(finished, foretold, model.lstm.share)
        finished += self.bonus - ahead[:, 0]
        finished += model.unknown_cost[nodes]
        spelled = nodes != 0
        after = np.where(spelled[:, None], _append(histories, words), histories)
        ending = model.log_prob(after, np.full_like(words, model.boundary))
        nothing = histories[:, -1] == model.boundary
        scores[:, space] = np.where(spelled, finished, -inf)
        scores[:, model.tokenizer.eos] = np.where(
            spelled, finished + ending, np.where(nothing, ending, -inf)
        )
        state = NGramState(histories, nodes, at, contexts)
        return torch.from_numpy(scores).to(tokens.device), state

    def select(self, state: NGramState, rows: Tensor) -> NGramState:
        """Repeat, reorder and drop hypotheses; see `StepModel.select`."""
        index = rows.flatten().cpu().numpy()
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
