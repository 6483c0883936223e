"""CTC by numpy: prefix scores for a search, and the best path through a text.

The formulas and their sources are those of `asr.decoding.ctc` and
`asr.decoding.ctc_alignment`; tests hold both together.

Shapes: B utterances, K hypotheses of each, R = B * K rows, J listener steps,
        V vocabulary size, blank and <eos> counted, D steps in the window, I tokens of
        a text.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FLOOR = -80.0
"""Least log-probability of a label. Keeps every sum over steps within float64."""
RANGE = 100.0
"""How much less likely, in logarithms, a spelling ends at steps that are left out."""
_FURTHER = 16
"""Steps by which the window grows, and again by twice as many where it has to."""

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]


class PrefixState(NamedTuple):
    """What is known of the spellings g read so far."""

    num_tokens: int
    sums: Floats
    """(B, V, J + 1) log S_j(c), from j = 0."""
    probs: Floats
    """(B, J, V) p_j(c)."""
    offsets: Floats
    """(B, 1, J) 0 on steps, -inf on padding."""
    first: int
    """The first j of the window."""
    blank: Floats
    """(R, D) log b_j(g), in the window."""
    either: Floats
    """(R, D) log (b_j(g) + n_j(g)), in the window."""
    last: Ints
    """(R,) the last token of g."""
    next: Floats
    """(R, V) log P(g c ...)."""


class CTCPrefix:
    """CTC prefix scores as a step model.

    Args:
        log_probs: (B, J, V) log P of the labels, from a log-softmax.
        num_steps: (B,) how many of the J steps are real.
        blank: label that spells nothing; as a token it never follows.
        eos: token that ends a hypothesis.
        sos: token that never follows either.
    """

    def __init__(
        self, log_probs: Floats, num_steps: Ints, *, blank: int, eos: int, sos: int
    ) -> None:
        self.blank, self.eos = blank, eos
        valid = np.arange(log_probs.shape[1]) < num_steps[:, None]
        log_probs = np.maximum(log_probs.astype(np.float64), FLOOR)
        self.closed = np.zeros(log_probs.shape[2])
        self.closed[[blank, eos, sos]] = -inf
        self.probs = np.exp(log_probs)
        log_probs = np.where(valid[:, :, None], log_probs, FLOOR)
        log_probs[:, :, blank] = np.where(valid, log_probs[:, :, blank], 0.0)
        sums = log_probs.cumsum(axis=1).transpose(0, 2, 1)  # (B, V, J)
        self.sums = np.pad(sums, ((0, 0), (0, 0), (1, 0)))
        self.offsets = np.where(valid, 0.0, -inf)[:, None]

    def start(self) -> PrefixState:
        """Return the empty spelling of each utterance: nothing but blanks."""
        blank = self.sums[:, self.blank]
        rows, size = self.sums.shape[:2]
        last = np.full(rows, self.blank)
        return PrefixState(
            *(0, self.sums, self.probs, self.offsets, 0),
            *(blank, blank, last, np.zeros((rows, size))),
        )

    def step(self, tokens: Ints, state: PrefixState) -> tuple[Floats, PrefixState]:
        """(R,) last tokens -> (R, V) what each next one adds, and the new state."""
        places = np.arange(len(tokens))
        before = state.next[places, tokens][:, None]  # log P(g ...)
        if state.num_tokens == 0:
            after = _extend(state)
        else:
            state = self._append(tokens, state)
            after = _extend(state)
            after[places, tokens] = _repeat(state)
        impossible = before == -inf
        after = np.where(impossible, -inf, after + self.closed)
        with np.errstate(invalid="ignore"):
            scores = after - before
            scores[:, self.eos] = self._end(state) - before[:, 0]
        scores = np.minimum(np.where(impossible, -inf, scores), 0.0)
        state = state._replace(num_tokens=state.num_tokens + 1, next=after)
        return scores.astype(np.float32), state

    def select(self, state: PrefixState, rows: Ints) -> PrefixState:
        """Repeat, reorder and drop hypotheses."""
        groups = len(state.sums)
        if len(rows) < groups:
            kept = rows[:, 0] // (len(state.last) // groups)
            state = state._replace(
                sums=state.sums[kept],
                probs=state.probs[kept],
                offsets=state.offsets[kept],
            )
        flat = rows.flatten()
        return state._replace(
            blank=state.blank[flat],
            either=state.either[flat],
            last=state.last[flat],
            next=state.next[flat],
        )

    def _append(self, tokens: Ints, state: PrefixState) -> PrefixState:
        """Work out n_j and b_j of the spelling with one more token."""
        repeated = (tokens == state.last)[:, None]
        phi = np.where(repeated, state.blank, state.either)
        further = _FURTHER
        while True:
            window = slice(state.first, state.first + phi.shape[1] + further)
            sums = state.sums[:, :, window]
            more = sums.shape[2] - phi.shape[1]
            inflow = np.pad(phi, ((0, 0), (0, more)), constant_values=-inf)
            token = _solve(inflow, _rows_of(sums, tokens))
            blanks = _rows_of(sums, np.full_like(tokens, self.blank))
            blank = _solve(token, blanks)
            either = np.logaddexp(token, blank)
            kept = _likely(either)
            if window.stop >= state.sums.shape[2] or kept.stop < either.shape[1]:
                return state._replace(
                    first=state.first + kept.start,
                    blank=blank[:, kept],
                    either=either[:, kept],
                    last=tokens,
                )
            further *= 2

    def _end(self, state: PrefixState) -> Floats:
        """Return (R,) log P(g): behind the window by the path of blanks alone."""
        blanks = state.sums[:, self.blank]
        last = state.first + state.either.shape[1] - 1
        behind = (blanks[:, -1] - blanks[:, last])[:, None]
        found: Floats = (state.either[:, -1].reshape(len(behind), -1) + behind).ravel()
        return found


def _likely(either: Floats) -> slice:
    """Return where some (R, D) spelling is not far less likely to end than elsewhere.

    That is everywhere, if all of them are impossible, and more than one step.
    """
    least = np.maximum(
        either.max(axis=1, keepdims=True) - RANGE, np.finfo(np.float64).min
    )
    (places,) = (either >= least).any(axis=0).nonzero()
    if not len(places):
        return slice(0, either.shape[1])
    return slice(min(int(places[0]), either.shape[1] - 2), int(places[-1]) + 1)


def _extend(state: PrefixState) -> Floats:
    """Work out (R, V) log P(g c ...) for all c but the last token of g."""
    groups, _, size = state.probs.shape
    window = slice(state.first, state.first + state.either.shape[1])
    probs = state.probs[:, window]
    steps = probs.shape[1]
    phi = state.either[:, :steps].reshape(groups, -1, steps)
    phi = phi + state.offsets[:, :, window]
    highest = np.maximum(phi.max(axis=2, keepdims=True), np.finfo(np.float64).min)
    with np.errstate(divide="ignore"):
        after: Floats = np.log(np.exp(phi - highest) @ probs) + highest
    return after.reshape(-1, size)


def _repeat(state: PrefixState) -> Floats:
    """Work out (R,) log P(g c ...) where c is the last token of g."""
    window = slice(state.first, state.first + state.blank.shape[1] + 1)
    labels = np.diff(_rows_of(state.sums[:, :, window], state.last), axis=1)
    steps = labels.shape[1]
    begun = (state.blank[:, :steps] + labels).reshape(len(state.sums), -1, steps)
    offsets = state.offsets[:, :, window][:, :, :steps]
    found: Floats = np.logaddexp.reduce(begun + offsets, axis=2).ravel()
    return found


def _solve(inflow: Floats, sums: Floats) -> Floats:
    """Solve x_j = (x_j-1 + inflow_j-1) p_j from x_0 = 0, all in logarithms."""
    x = np.logaddexp.accumulate(inflow[:, :-1] - sums[:, :-1], axis=1) + sums[:, 1:]
    return np.concatenate([np.full((len(x), 1), -inf), x], axis=1)


def _rows_of(sums: Floats, tokens: Ints) -> Floats:
    """(B, V, D) sums of all tokens, (R,) one token each -> (R, D) its sums."""
    groups = len(sums)
    of = np.repeat(np.arange(groups), len(tokens) // groups)
    return sums[of, tokens]


class CTCAlignment(NamedTuple):
    """Where the CTC head finds each token; see `asr.decoding.ctc_alignment`."""

    begins: Floats
    """(I,) first step."""
    ends: Floats
    """(I,) step behind the last."""
    log_probs: Floats
    """(I,) log P of the token at its best step; -inf where there is no path."""


def align(log_probs: Floats, tokens: Sequence[int], blank: int) -> CTCAlignment:
    """Find the most likely path of the CTC head that spells a text.

    Args:
        log_probs: (J', V) of the CTC head.
        tokens: (I,) of the text, without <eos>.
        blank: of CTC.

    Returns:
        The path; where none is possible the tokens are spread evenly.
    """
    text = np.array(tokens, dtype=np.int64)
    steps, count = len(log_probs), len(text)
    repeats = int((text[1:] == text[:-1]).sum())
    if not count or count + repeats > steps or not np.isfinite(log_probs).all():
        return _evenly(count, steps)
    labels = np.full(2 * count + 1, blank)
    labels[1::2] = text
    skips = np.full(len(labels), -inf)  # from a token to the next, past the blank
    skips[3::2] = np.where(text[1:] == text[:-1], -inf, 0.0)
    scores = log_probs[:, labels]
    best = np.full(len(labels) + 2, -inf)  # two more before the first, never reached
    best[2:4] = scores[0, :2]
    came_from = np.zeros((steps, len(labels)), dtype=np.int8)
    for step in range(1, steps):
        ways = np.stack([best[2:], best[1:-1], best[:-2] + skips])
        came_from[step] = ways.argmax(axis=0)
        best[2:] = ways.max(axis=0) + scores[step]
    place = len(labels) - 1 - int(best[-2] > best[-1])
    path = np.empty(steps, dtype=np.int64)
    for step in reversed(range(steps)):
        path[step] = place
        place -= int(came_from[step, place])
    begins = np.searchsorted(path, np.arange(1, len(labels), 2))
    ends = np.searchsorted(path, np.arange(1, len(labels), 2), side="right")
    along = log_probs[np.arange(steps), labels[path]]
    most = [along[b:e].max() for b, e in zip(begins, ends, strict=True)]
    return CTCAlignment(
        begins.astype(np.float32), ends.astype(np.float32), np.array(most)
    )


def _evenly(count: int, steps: int) -> CTCAlignment:
    begins = np.linspace(0, steps - 1, count).astype(np.float32)
    ends = np.append(begins, np.float32(steps))[1:]
    return CTCAlignment(begins, ends, np.full(count, -inf))
