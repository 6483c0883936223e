"""CTC by numpy: prefix scores for a search, and the best path through a text.

The formulas and their sources are those of `asr.decoding.ctc` and
`asr.decoding.ctc_alignment`; tests hold both together.

Shapes: B utterances, K hypotheses of each, R = B * K rows, J listener steps,
        V vocabulary size, blank and <eos> counted, I tokens of a text.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FLOOR = -80.0
"""Least log-probability of a label. Keeps every sum over steps within float64."""

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
    blank: Floats
    """(R, J + 1) log b_j(g), from j = 0."""
    either: Floats
    """(R, J + 1) log (b_j(g) + n_j(g)), from j = 0."""
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
            *(0, self.sums, self.probs, self.offsets),
            *(blank, blank, last, np.zeros((rows, size))),
        )

    def step(self, tokens: Ints, state: PrefixState) -> tuple[Floats, PrefixState]:
        """(R,) last tokens -> (R, V) what each next one adds, and the new state."""
        places = np.arange(len(tokens))
        before = state.next[places, tokens][:, None]  # log P(g ...)
        if state.num_tokens == 0:
            after = _extend(state)
        else:
            sums = _rows_of(state.sums, tokens)
            state = self._append(tokens, sums, state)
            after = _extend(state)
            after[places, tokens] = _repeat(sums, state)
        impossible = before == -inf
        after = np.where(impossible, -inf, after + self.closed)
        with np.errstate(invalid="ignore"):
            scores = after - before
            scores[:, self.eos] = state.either[:, -1] - before[:, 0]
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

    def _append(self, tokens: Ints, sums: Floats, state: PrefixState) -> PrefixState:
        """Work out n_j and b_j of the spelling with one more token."""
        repeated = (tokens == state.last)[:, None]
        phi = np.where(repeated, state.blank, state.either)
        token = _solve(phi, sums)
        blanks = _rows_of(state.sums, np.full_like(tokens, self.blank))
        blank = _solve(token, blanks)
        either = np.logaddexp(token, blank)
        return state._replace(blank=blank, either=either, last=tokens)


def _extend(state: PrefixState) -> Floats:
    """Work out (R, V) log P(g c ...) for all c but the last token of g."""
    groups, steps, size = state.probs.shape
    phi = state.either[:, :-1].reshape(groups, -1, steps) + state.offsets
    highest = np.maximum(phi.max(axis=2, keepdims=True), np.finfo(np.float64).min)
    with np.errstate(divide="ignore"):
        after: Floats = np.log(np.exp(phi - highest) @ state.probs) + highest
    return after.reshape(-1, size)


def _repeat(sums: Floats, state: PrefixState) -> Floats:
    """Work out (R,) log P(g c ...) where c is the last token of g, and S_j its."""
    begun = state.blank[:, :-1] + np.diff(sums, axis=1)
    begun = begun.reshape(len(state.offsets), -1, begun.shape[1]) + state.offsets
    found: Floats = np.logaddexp.reduce(begun, axis=2).flatten()
    return found


def _solve(inflow: Floats, sums: Floats) -> Floats:
    """Solve x_j = (x_j-1 + inflow_j-1) p_j from x_0 = 0, all in logarithms."""
    x = np.logaddexp.accumulate(inflow[:, :-1] - sums[:, :-1], axis=1) + sums[:, 1:]
    return np.concatenate([np.full((len(x), 1), -inf), x], axis=1)


def _rows_of(sums: Floats, tokens: Ints) -> Floats:
    """(B, V, J + 1) sums of all tokens, (R,) one token each -> (R, J + 1) its sums."""
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
