"""When was each word of a long text said, in hours of audio that may not quite have it?

The path of the CTC head through the text is found as in `ctc_alignment`, in a lattice
that has more freedom between two words:

    fill    audio that no text stands for is passed over, at a price a step
    skip    words that nobody says are left out, at a price a letter

Prices are nats below the best token of each step, so that bad audio makes both dearer.
Each has a price for beginning, too: a word that was only recognised badly is kept.

All steps by all letters is too much for hours (an hour has 90,000 steps and 50,000
letters), so the path is pinned first. Where the head by itself wrote some letters in a
row that stand in the text at one place only, and that it wrote only once, step and
letter belong together; the longest row of such pairs that goes forward in both is
kept. Between two pins the best path is exact. Back-pointers take a byte each, and only
those of one block are in memory: the blocks are worked out again, from the last one.

Shapes: J' steps of the CTC head, I letters (tokens without spaces), W words, S states
of a part of the lattice, C columns: the different letters of the text.

Source: Kürzinger et al. (2020), arXiv:2007.09127 (text and audio may begin and end at
any place); Moreno et al. (1998), ICSLP, "A recursive algorithm for the forced
alignment of very long audio segments" (pins).
"""

import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Bytes = npt.NDArray[np.uint8]

FLOOR = -8.0
"""Nats below the best token that a letter costs at most."""
FILL = 1.0
"""Nats for a step of audio that no text stands for."""
FILL_BEGIN = 10.0
SKIP = 4.0
"""Nats for a letter that nobody says."""
SKIP_BEGIN = 10.0
WAIT = 0.1
"""Nats for a blank within a word: words do not pause."""

_BITS = 10.0
"""How much rarer than by chance a row of letters is that pins text and audio."""
_APART = 100
"""Least steps between two pins: at 25 steps a second, 4 s."""
_SMALL = 4_000_000
"""Cells (steps by states) of a part that is not worth more pins."""
_BLOCK = 16_000_000
"""Cells whose back-pointers are in memory at once, a byte each."""
_MOST = 500_000_000
"""Cells of a part that is searched whole. Of a larger one, in which no row of letters
is the same in text and audio, only the words at both ends are looked for."""
_EDGE = 2000
"""Letters at each of its ends."""

_STAY, _STEP, _JUMP, _FILLED = 0, 1, 2, 3
_KIND = 3  # mask of the above; what follows is for states between words
_SKIPPED, _SKIP_BEGINS, _FILL_GOES_ON = 4, 8, 16


class Evidence(NamedTuple):
    """What the CTC head wrote into a recording, as much of it as an alignment needs."""

    log_probs: Floats
    """(J', C + 2) nats below the best token of the step: the letters, the blank, and
    the better of blank and space."""
    best: Floats
    """(J',) log P of the best token."""
    written: Ints
    """(J',) the best token."""
    columns: dict[int, int]
    """Of the letters, by their tokens."""


@dataclass(frozen=True)
class TextPath:
    """Where the letters of a text are."""

    begins: Ints
    """(I,) first step of each; -1 where its word is not said."""
    ends: Ints
    """(I,) step behind the last."""
    log_probs: Floats
    """(I,) log P of each at its best step; -inf where its word is not said."""


class _Pin(NamedTuple):
    """A letter and a step that belong together, or the end of both."""

    step: int
    letter: int


class _Text:
    """The letters of all words in a row."""

    def __init__(self, words: Sequence[Sequence[int]], columns: dict[int, int]) -> None:
        self.letters = np.array([t for word in words for t in word], dtype=np.int64)
        self.firsts = np.cumsum([0, *map(len, words)])  # (W + 1,) of the words
        self.word_of = np.repeat(np.arange(len(words)), np.diff(self.firsts))
        self.columns = np.array([columns[int(t)] for t in self.letters], dtype=np.int64)


def align_words(evidence: Evidence, words: Sequence[Sequence[int]]) -> TextPath:
    """Find the best path of a text through a recording.

    Args:
        evidence: of the recording.
        words: the tokens of each word, at least one each, without spaces.

    Returns:
        A path that goes forward, and leaves out words that cost more than they bring.
    """
    text = _Text(words, evidence.columns)
    num_steps, num_letters = len(evidence.best), len(text.letters)
    begins = np.full(num_letters, -1, dtype=np.int64)
    ends = np.full(num_letters, -1, dtype=np.int64)
    first, last = _Pin(-1, -1), _Pin(num_steps, num_letters)
    pins = [first, *_pins(evidence, text, first, last), last]
    for path in _paths(evidence, text, pins):
        for letter, begin, end in path:
            begins[letter] = begin if begins[letter] < 0 else begins[letter]
            ends[letter] = end
    log_probs = np.full(num_letters, -np.inf, dtype=np.float32)
    for place in np.flatnonzero(begins >= 0):
        steps = slice(begins[place], ends[place])
        column = evidence.log_probs[steps, text.columns[place]].astype(np.float32)
        log_probs[place] = (column + evidence.best[steps]).max()
    return TextPath(begins, ends, log_probs)


# Pins


def _pins(evidence: Evidence, text: _Text, start: _Pin, end: _Pin) -> list[_Pin]:
    """Find pins between two others, and then between those, as far as that is worth."""
    steps, letters = end.step - start.step - 1, end.letter - start.letter - 1
    if steps * letters * 2 <= _SMALL:
        return []
    tokens, times = _written(evidence, start.step + 1, end.step)
    said = text.letters[start.letter + 1 : end.letter]
    pairs = _common_rows(said, tokens)
    found = list[_Pin]()
    for letter, place in pairs:
        pin = _Pin(int(times[place]), start.letter + 1 + letter)
        last = found[-1] if found else start
        if pin.step - last.step >= _APART and end.step - pin.step >= _APART:
            found.append(pin)
    if not found:
        return []
    points = [start, *found, end]
    inside = [
        _pins(evidence, text, before, after)
        for before, after in itertools.pairwise(points)
    ]
    return [
        pin for some, after in zip(inside, points[1:], strict=True)
        for pin in [*some, after]
    ][:-1]  # fmt: skip


def _written(evidence: Evidence, start: int, end: int) -> tuple[Ints, Ints]:
    """Return the letters that the head writes by itself, and at which step each."""
    path = evidence.written[start:end]
    begins = np.flatnonzero(np.diff(path, prepend=-1))
    tokens = path[begins]
    is_letter = np.isin(tokens, list(evidence.columns))
    return tokens[is_letter], begins[is_letter] + start


def _common_rows(said: Ints, written: Ints) -> list[tuple[int, int]]:
    """Find places, in order, where both have the same row of letters, and only there.

    Returns:
        The middle of each row: its place in what is said, and in what is written.
    """
    if not len(written):
        return []
    counts = np.array(list(Counter(said.tolist()).values())) / len(said)
    entropy = float(-(counts * np.log2(counts)).sum())
    bits = log2(len(said) * len(written)) + _BITS
    size = ceil(bits / max(entropy, 0.5))
    here, there = _unique_rows(said, size), _unique_rows(written, size)
    pairs = [(place, there[row]) for row, place in here.items() if row in there]
    chain = _longest_chain(sorted(pairs))
    return [(i + size // 2, j + size // 2) for i, j in chain]


def _unique_rows(tokens: Ints, size: int) -> dict[bytes, int]:
    """Return where each row of so many tokens begins that stands there once."""
    content = tokens.astype(np.int32).tobytes()
    places = dict[bytes, int]()
    for place in range(len(tokens) - size + 1):
        row = content[4 * place : 4 * (place + size)]
        places[row] = -1 if row in places else place
    return {row: place for row, place in places.items() if place >= 0}


def _longest_chain(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return most of the pairs, so that both of their numbers rise.

    >>> _longest_chain([(0, 5), (1, 6), (2, 1), (3, 7)])
    [(0, 5), (1, 6), (3, 7)]
    """
    tails, owners, before = list[int](), list[int](), list[int]()
    for index, (_, value) in enumerate(pairs):
        length = bisect_left(tails, value)
        before.append(owners[length - 1] if length else -1)
        tails[length:], owners[length:] = (
            [value, *tails[length + 1 :]],
            [index, *owners[length + 1 :]],
        )
    chain, index = list[tuple[int, int]](), owners[-1] if owners else -1
    while index >= 0:
        chain.append(pairs[index])
        index = before[index]
    return chain[::-1]


# The best path between two pins

_Visit = tuple[int, int, int]  # letter, first step, step behind the last
_Path = list[_Visit]


def _paths(evidence: Evidence, text: _Text, pins: Sequence[_Pin]) -> list[_Path]:
    """Find the best path between each pin and the next; an impossible pin is left."""
    kept = [pins[0]]
    paths = list[_Path]()
    for number, pin in enumerate(pins[1:], 2):
        path = _best_path(evidence, text, kept[-1], pin)
        while path is None and number == len(pins):
            kept.pop()
            paths.pop()
            path = _best_path(evidence, text, kept[-1], pin)
        if path is not None:
            kept.append(pin)
            paths.append(path)
    return paths


class _Lattice:
    """The states between two pins, one after the other.

    A letter is a state, and so is what may be before each: the gap before a word, or a
    blank within one. Behind the last word there is a gap, too.
    """

    def __init__(self, text: _Text, start: _Pin, end: _Pin, most: int | None) -> None:
        inside = np.arange(max(start.letter, 0), min(end.letter + 1, len(text.letters)))
        if most is not None:
            word = text.word_of[inside]
            near = (inside < text.firsts[word[0]] + most) | (
                inside >= text.firsts[word[-1] + 1] - most
            )
            kept = np.unique(word[near])
            inside = inside[np.isin(word, kept)]
        self.letters = inside
        size = 2 * len(inside) + 1
        self.columns = np.full(size, -2)  # of a blank
        self.columns[1::2] = text.columns[inside]
        opens = inside == text.firsts[text.word_of[inside]]
        self.gaps = np.append(2 * np.flatnonzero(opens), size - 1)
        self.columns[self.gaps] = -1
        self.waits = np.where(self.columns == -2, -WAIT, 0.0).astype(np.float32)
        joined = np.zeros(size, dtype=bool)
        same = text.letters[inside[1:]] == text.letters[inside[:-1]]
        joined[3::2] = ~opens[1:] & ~same
        self.jumps = np.where(joined, 0.0, -np.inf).astype(np.float32)
        # Letters before each gap: what it costs to come there by skipping.
        ahead = [*inside[opens], inside[-1] + 1]
        self.prices = (SKIP * (np.array(ahead) - ahead[0])).astype(np.float32)
        self.start = 0 if start.letter < 0 else 1
        self.end = size - 1 if end.letter == len(text.letters) else size - 2
        if not opens[0]:  # the pin is within a word, and no gap is before it
            self.columns[0] = -2


class _Front(NamedTuple):
    """Scores at a step: of the (S,) states, and of filling at each gap."""

    states: npt.NDArray[np.float32]
    fills: npt.NDArray[np.float32]


def _best_path(evidence: Evidence, text: _Text, start: _Pin, end: _Pin) -> _Path | None:
    """Find the best path from one pin to another; None where there is none."""
    steps = end.step - start.step
    letters = end.letter - start.letter + 1
    most = _EDGE if steps * letters * 2 > _MOST else None
    lattice = _Lattice(text, start, end, most)
    size = len(lattice.columns)
    front = _Front(
        np.full(size, -np.inf, dtype=np.float32),
        np.full(len(lattice.gaps), -np.inf, dtype=np.float32),
    )
    front.states[lattice.start] = 0.0
    pointers = np.zeros((1, size), dtype=np.uint8)
    if lattice.start == 0:  # a text may begin anywhere
        _skip(lattice, front.states, pointers[0])
    block = max(1, _BLOCK // size)
    edges = [*range(start.step, end.step, block), end.step]
    fronts = [front]
    for first, last in itertools.pairwise(edges):
        front, pointers = _forward(evidence, lattice, front, first, last)
        fronts.append(front)
    if not np.isfinite(front.states[lattice.end]):
        return None
    trace = _Trace(lattice, lattice.end)
    for number in range(len(edges) - 2, -1, -1):
        first, last = edges[number], edges[number + 1]
        if last != end.step:  # the last block's pointers are still there
            _, pointers = _forward(evidence, lattice, fronts[number], first, last)
        trace.back(pointers, first)
    return trace.path()


def _forward(
    evidence: Evidence, lattice: _Lattice, front: _Front, first: int, last: int
) -> tuple[_Front, Bytes]:
    """Go from a step to another; keep how each state was reached, (steps, S)."""
    gaps, size = lattice.gaps, len(lattice.columns)
    padded = np.full(size + 2, -np.inf, dtype=np.float32)
    padded[2:] = front.states
    fills = front.fills.copy()
    pointers = np.zeros((last - first, size), dtype=np.uint8)
    states = padded[2:]
    for row, step in enumerate(range(first + 1, last + 1)):
        how = pointers[row]
        entered = states[gaps] - FILL_BEGIN
        goes_on = fills >= entered
        fills = np.maximum(fills, entered) - FILL
        jumped = padded[:-2] + lattice.jumps
        stepped = padded[1:-1]
        np.greater(stepped, states, out=how.view(bool))
        best = np.maximum(states, stepped)
        np.putmask(how, jumped > best, _JUMP)
        np.maximum(best, jumped, out=best)
        if step < len(evidence.log_probs):
            best += evidence.log_probs[step][lattice.columns]
            best += lattice.waits
        at_gaps = best[gaps]
        filled = fills > at_gaps
        best[gaps] = np.maximum(at_gaps, fills)
        how[gaps] = np.where(filled, _FILLED, how[gaps]) + _FILL_GOES_ON * goes_on
        _skip(lattice, best, how)
        states[:] = best
    return _Front(states.copy(), fills), pointers


def _skip(lattice: _Lattice, states: Floats, how: Bytes) -> None:
    """Go from each gap to all later ones, if that is better; in place."""
    gaps = lattice.gaps
    at_gaps = states[gaps]
    begun = at_gaps + lattice.prices
    best = np.maximum.accumulate(begun)
    skipped = best - lattice.prices - SKIP_BEGIN
    is_better = skipped > at_gaps
    states[gaps] = np.where(is_better, skipped, at_gaps)
    how[gaps] += (_SKIPPED * is_better + _SKIP_BEGINS * (begun >= best)).astype(
        np.uint8
    )


class _Trace:
    """A way back through the lattice."""

    def __init__(self, lattice: _Lattice, state: int) -> None:
        self.lattice = lattice
        self.state = state
        self.filling = False
        self.gap_of = {int(state): n for n, state in enumerate(lattice.gaps)}
        self.visits = list[tuple[int, int]]()  # (letter, step), from the last

    def back(self, pointers: Bytes, first: int) -> None:
        """Go back through the steps behind `first`, of which the pointers are."""
        for row in range(len(pointers) - 1, -1, -1):
            how = pointers[row]
            if not self.filling:
                self.leave(how, first + row + 1)
            if self.filling:
                self.filling = bool(how[self.state] & _FILL_GOES_ON)
            else:
                self.state -= int(how[self.state]) & _KIND

    def leave(self, how: Bytes, step: int) -> None:
        """Undo what took no time at a step, and note the state that is left."""
        gap = self.gap_of.get(self.state)
        if gap is not None:
            if how[self.state] & _SKIPPED:
                while not how[self.lattice.gaps[gap]] & _SKIP_BEGINS:
                    gap -= 1
                self.state = int(self.lattice.gaps[gap])
            self.filling = int(how[self.state]) & _KIND == _FILLED
        elif self.state % 2:
            self.visits.append((int(self.lattice.letters[self.state // 2]), step))

    def path(self) -> _Path:
        """Return the letters that were visited, and when."""
        first, last = dict[int, int](), dict[int, int]()
        for letter, step in self.visits:
            last.setdefault(letter, step)
            first[letter] = step
        return [(n, first[n], last[n] + 1) for n in sorted(first)]
