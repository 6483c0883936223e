"""Hot words: names and terms that a search favours where it can.

A hypothesis y earns a point for each letter that lies in a whole hot phrase, one word
or several, from the start of a word to the end of a word. The points for the phrase
that it is in the middle of are advanced letter by letter, as a beam would have dropped
the hypothesis by the phrase's end, and taken back where the match breaks:

    score(c | y) = earned(y c) - earned(y) + advanced(y c) - advanced(y)

    earned(y)      letters of y in whole hot phrases
    advanced(y)    letters, not earned yet, of the longest end of y that begins a hot
                   phrase; 0 behind <eos>

So the scores of a finished hypothesis add up to earned(y), whatever the way: a phrase
within another, or one that overlaps with another, gives a letter its point once. What
a point is worth is the weight of this model in `Fusion`.

The longest end of y is the node of an Aho-Corasick automaton over " phrase ", with its
spaces; together with which letters of that end are earned it is a state. States and
tokens make two tables, so that a step of a search is a look-up of each.

Shapes: R hypotheses, V tokens, M states, A characters.

Source: Zhao et al. (2019), "Shallow-fusion end-to-end contextual biasing",
doi:10.21437/Interspeech.2019-1209, section 3 (bonus by character, only at the start of
a word, taken back); Aho and Corasick (1975), doi:10.1145/360825.360855. Hot words that
the network itself is given, in training: Pundak et al. (2018), arXiv:1808.02480.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from asr.alphabet import fitted
from asr.errors import ConfigError
from asr.text import ALPHABET, Tokenizer, normalize

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_SPACE = " "
_FILES = (".txt", ".text", ".tsv", ".csv", ".json", ".jsonl", ".gz", ".xz")
"""How a name ends that is meant as a file's, where there is no such file."""

Ints = npt.NDArray[np.int64]


def read_hotwords(given: str) -> tuple[str, ...]:
    """Read hot words as the command line has them: a file, or phrases with commas.

    Args:
        given: path of a text with one word or phrase a line; or "ANNA,NEW YORK".

    Raises:
        ConfigError: the file cannot be read, or holds nothing.
    """
    path = Path(given)
    is_file = os.sep in given or path.suffix.lower() in _FILES
    if not is_file and ("," in given or not path.exists()):
        return tuple(phrase for phrase in given.split(",") if phrase.strip())
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}; one hot word or phrase a line "
            "was expected)"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no text in UTF-8 ({error.reason})") from error
    found = tuple(line.strip() for line in text.split("\n") if line.strip())
    if not found:
        raise ConfigError(f"{path}: holds no hot word (one a line was expected)")
    return found


def spell_hotwords(
    phrases: Iterable[str],
    tokenizer: Tokenizer,
    normalize: Callable[[str], str] = normalize,
) -> tuple[str, ...]:
    """Bring hot words into the characters that a model writes; each once, in order.

    Args:
        phrases: as a user writes them.
        tokenizer: of the model.
        normalize: brings a text into A-Z, apostrophe and space, for models of those.
            For others see `asr.alphabet.fitted`.

    Raises:
        ConfigError: a phrase has no letter that the model writes.

    >>> from asr.text import CharTokenizer
    >>> spell_hotwords(["Zoë", "new york"], CharTokenizer())
    ('ZOE', 'NEW YORK')
    """
    written = {c for piece in _pieces(tokenizer) for c in piece}
    is_english = written <= set(ALPHABET)
    found = dict[str, None]()
    for phrase in phrases:
        text = normalize(phrase) if is_english else fitted(phrase, "".join(written))
        spelled = " ".join("".join(c if c in written else " " for c in text).split())
        if not any(c.isalnum() for c in spelled):
            raise ConfigError(
                f"hot word {phrase!r:.60}: has no letter that this model writes "
                f"({_shown(written)})"
            )
        found[spelled] = None
    return tuple(found)


def _shown(written: set[str]) -> str:
    letters = "".join(sorted(written - {_SPACE}))
    return letters if len(letters) <= 40 else f"{letters[:40]}…"


def _pieces(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.pieces([token])[0] for token in range(tokenizer.size)]


class TokenTables(NamedTuple):
    """Hot words as two tables, by the M states and the V tokens."""

    next_states: npt.NDArray[np.int32]
    """(M, V)."""
    scores: npt.NDArray[np.float32]
    """(M, V)."""


def token_tables(phrases: Sequence[str], tokenizer: Tokenizer) -> TokenTables:
    """Bring hot words, in the characters of a tokenizer, into tables.

    Raises:
        ValueError: there is no phrase, or an empty one.
    """
    if not phrases or not all(phrase.split() for phrase in phrases):
        raise ValueError("there is no hot word, or an empty one")
    pieces = _pieces(tokenizer)
    tables = _tables(_Trie(phrases), {c for piece in pieces for c in piece})
    shape = len(tables.ending), len(pieces)
    next_states = np.empty(shape, dtype=np.int32)
    scores = np.zeros(shape, dtype=np.float32)
    for token, piece in enumerate(pieces):
        states = np.arange(shape[0])
        for character in piece:
            scores[:, token] += tables.points[character][states]
            states = tables.after[character][states]
        next_states[:, token] = states
    scores[:, tokenizer.eos] = tables.ending
    return TokenTables(next_states, scores)


class HotWords:
    """Hot words, ready for a search.

    Args:
        phrases: in the characters of the tokenizer; a space between words.
        tokenizer: of the model.
        device: of the search.

    Raises:
        ValueError: there is no phrase, or an empty one.
    """

    def __init__(
        self,
        phrases: Sequence[str],
        tokenizer: Tokenizer,
        device: "torch.device | str" = "cpu",
    ) -> None:
        import torch

        tables = token_tables(phrases, tokenizer)
        self.next_states = torch.from_numpy(tables.next_states).to(device)
        self.scores = torch.from_numpy(tables.scores).to(device)

    def steps(self, num_utterances: int) -> "HotWordPrefix":
        """Return a step model of so many utterances."""
        return HotWordPrefix(self, num_utterances)


class HotWordPrefix:
    """Hot words as a step model; the state is (R,) that of the automaton.

    Args:
        model: the hot words.
        num_utterances: B.
    """

    def __init__(self, model: HotWords, num_utterances: int) -> None:
        self.model, self.num_utterances = model, num_utterances

    def start(self) -> "Tensor":
        """Return one row per utterance, at the start of a word."""
        return self.model.next_states.new_zeros(self.num_utterances)

    def step(self, tokens: "Tensor", state: "Tensor") -> "tuple[Tensor, Tensor]":
        """Read one more token of every hypothesis; see `StepModel.step`."""
        state = self.model.next_states[state, tokens]
        return self.model.scores.index_select(0, state), state

    def select(self, state: "Tensor", rows: "Tensor") -> "Tensor":
        """Repeat, reorder and drop hypotheses; see `StepModel.select`."""
        return state.index_select(0, rows.flatten())


class _Trie:
    """Aho-Corasick automaton of phrases with a space before and behind.

    Nodes are numbered breadth first, so that a node's suffix stands before it. Sets of
    places in a node's text are bits; its last character is bit 0.
    """

    def __init__(self, phrases: Iterable[str]) -> None:
        self.children: list[dict[str, int]] = [{}]
        self.depth, self.letters, self.suffix = [0], [0], [0]
        self.ends = [0]
        """How long the longest whole phrase is that a node ends with, or 0."""
        texts = sorted({f" {' '.join(phrase.split())} " for phrase in phrases})
        under = deque([(0, texts)])
        while under:
            node, texts = under.popleft()
            depth = self.depth[node]
            for character in dict.fromkeys(text[depth] for text in texts):
                below = [text for text in texts if text[depth] == character]
                child = self._add(node, character)
                longer = [text for text in below if len(text) > depth + 1]
                if len(longer) < len(below):
                    self.ends[child] = depth + 1
                under.append((child, longer))

    def _add(self, node: int, character: str) -> int:
        """Add a node below another."""
        suffix = self.go(self.suffix[node], character) if node else 0
        child = self.children[node][character] = len(self.children)
        self.children.append({})
        self.depth.append(self.depth[node] + 1)
        self.letters.append(self.letters[node] << 1 | (character != _SPACE))
        self.suffix.append(suffix)
        self.ends.append(self.ends[suffix])
        return child

    def go(self, node: int, character: str) -> int:
        """Return the node of the longest end, one character on."""
        while node and character not in self.children[node]:
            node = self.suffix[node]
        return self.children[node].get(character, 0)

    def characters(self, node: int) -> set[str]:
        """Return what leads to another node than the root."""
        found = set(self.children[0])
        while node:
            found |= self.children[node].keys()
            node = self.suffix[node]
        return found


class _State(NamedTuple):
    """Where a text is: the longest end of it that begins a phrase and may go on."""

    node: int
    earned: int
    """Which characters of it are earned."""

    def advanced(self, trie: _Trie) -> int:
        """Return how many of its letters are not earned yet."""
        return (trie.letters[self.node] & ~self.earned).bit_count()

    def read(self, trie: _Trie, character: str) -> tuple["_State", int]:
        """Read a character; return how many letters that earns, too."""
        node, earned = trie.go(self.node, character), self.earned << 1
        whole = trie.letters[node] & ((1 << trie.ends[node]) - 1)
        new = (whole & ~earned).bit_count()
        earned |= whole
        while node and not trie.children[node]:
            node = trie.suffix[node]  # a whole phrase that nothing goes on from
        return _State(node, earned & ((1 << trie.depth[node]) - 1)), new


class _Tables(NamedTuple):
    """The automaton by characters; state 0 is the start of a word."""

    after: dict[str, Ints]
    """(M,) for each character: the next state."""
    points: dict[str, Ints]
    """(M,) for each character: its score."""
    ending: Ints
    """(M,) the score where the text ends."""


def _tables(trie: _Trie, characters: set[str]) -> _Tables:
    """Find all states that a text can lead to, and where each goes."""
    start, _ = _State(0, 0).read(trie, _SPACE)
    outside = _State(0, 0)  # within a word that begins no phrase
    number = {start: 0, outside: 1}
    found = list[tuple[str, int, int, int]]()
    ending, advanced = list[int](), list[int]()
    under = deque(number)
    while under:
        state = under.popleft()
        before = state.advanced(trie)
        advanced.append(before)
        for character in trie.characters(state.node):
            after, points = state.read(trie, character)
            if after not in number:
                number[after] = len(number)
                under.append(after)
            points -= before
            if character == _SPACE:
                ending.append(points)
            points += after.advanced(trie)
            found.append((character, number[state], number[after], points))
    back = -np.array(advanced)
    points_of = {c: back.copy() for c in {*characters, _SPACE}}
    after_of = {c: np.full(len(back), number[outside]) for c in points_of}
    for character, row, after_row, score in found:
        if character in points_of:
            after_of[character][row], points_of[character][row] = after_row, score
    return _Tables(after_of, points_of, np.array(ending))
