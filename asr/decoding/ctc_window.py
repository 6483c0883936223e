"""CTC prefix scores on a CPU: at the few steps where a hypothesis can have ended.

The formulas are those of `asr.decoding.ctc`, worked out by numpy, in probabilities:

    n_j(g c) = (n_j-1(g c) + phi_j-1(g, c)) p_j(c)
    b_j(g c) = (b_j-1(g c) + n_j-1(g c)) p_j(blank)

A spelling that the recording supports ends within a few steps of some place. What is
kept of all hypotheses is the window of the steps where one of them is not e^-RANGE
times less likely to have ended than at its best step: a fifth of the steps of an
utterance of 14 s. So P(g) is too low where a spelling is that much less likely than how
it begins, by paths alone that are outside, and no search follows those.

In so short a window the recurrences are two additions and products a step for all
hypotheses together: a search by CTC alone takes half as long as with logarithms. Each
hypothesis has its own scale: its best step has probability one. What float64 cannot
hold beside that is zero, and further away than RANGE.

Shapes: B utterances, K hypotheses of each, R = B * K rows, J listener steps,
        V vocabulary size, blank and <eos> counted, D places in the window; place 0 is
        before the first step.
"""

from collections.abc import Collection
from math import exp, inf
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FLOOR = -80.0
"""Least log-probability of a label: none is ruled out altogether."""
RANGE = 100.0
"""How much less likely, in logarithms, a spelling ends at steps that are left out. More
than `FLOOR`, so that no single token has its best path there."""
_FURTHER = 16
"""Steps by which the window grows, and again by twice as many where it has to."""

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]


class Labels(NamedTuple):
    """What the CTC head says of B utterances."""

    probs: Floats
    """(J, B, V) p_j(c)."""
    blanks: Floats
    """(J + 1, B) log-probability of blanks alone, up to each place."""
    valid: Floats
    """(J, B, 1) one on steps, zero on padding, where no token begins."""

    def keep(self, utterances: Ints) -> "Labels":
        """Drop the others."""
        return Labels(*(part[:, utterances] for part in self))


class WindowState(NamedTuple):
    """What is known of the spellings g read so far."""

    num_tokens: int
    """How many tokens were read, <sos> counted."""
    labels: Labels
    """Of the utterances that are still searched."""
    first: int
    """The first place of the window."""
    blank: Floats
    """(D, R) b_j(g), in the window, times e^-scale."""
    either: Floats
    """(D, R) b_j(g) + n_j(g), in the window, times e^-scale."""
    scale: Floats
    """(R,) log of the highest b_j(g) + n_j(g); -inf, if g cannot be."""
    last: Ints
    """(R,) the last token of g."""
    next: Floats
    """(R, V) log P(g c ...)."""


class CTCWindow:
    """CTC prefix scores as a step model over arrays of numpy.

    Args:
        log_probs: (B, J, V) log P of the labels, from a log-softmax.
        num_steps: (B,) how many of the J steps are real.
        blank: label that spells nothing; as a token it never follows.
        eos: token that ends a hypothesis; as a label it spells nothing known.
        never: tokens that never follow either.
    """

    def __init__(
        self,
        log_probs: Floats,
        num_steps: Ints,
        *,
        blank: int,
        eos: int,
        never: Collection[int],
    ) -> None:
        self.blank, self.eos = blank, eos
        self._closed = np.zeros(log_probs.shape[2])
        self._closed[[blank, eos, *never]] = -inf
        valid = np.arange(log_probs.shape[1])[:, None] < num_steps  # (J, B)
        labels = np.maximum(log_probs.astype(np.float64), FLOOR).transpose(1, 0, 2)
        # On padding nothing but blank: what was spelled by the last step stays so.
        labels = np.where(valid[:, :, None], labels, FLOOR)
        labels[:, :, blank] = np.where(valid, labels[:, :, blank], 0.0)
        blanks = np.pad(labels[:, :, blank].cumsum(axis=0), ((1, 0), (0, 0)))
        self._labels = Labels(np.exp(labels), blanks, valid[:, :, None].astype(float))

    def start(self) -> WindowState:
        """Return the empty spelling of each utterance: nothing but blanks."""
        nothing = np.exp(self._labels.blanks)
        number, size = self._labels.probs.shape[1:]
        return WindowState(
            num_tokens=0,
            labels=self._labels,
            first=0,
            blank=nothing,
            either=nothing,
            scale=np.zeros(number),
            last=np.full(number, self.blank),
            next=np.zeros((number, size)),
        )

    def step(self, tokens: Ints, state: WindowState) -> tuple[Floats, WindowState]:
        """Read one more token of every hypothesis; the first is <sos>.

        Args:
            tokens: (R,) the last token of each.
            state: of the same R rows, before that token.

        Returns:
            (R, V) float32 what each next token adds to log P of the prefix, and the new
            state.
        """
        rows = np.arange(len(tokens))
        before = state.next[rows, tokens][:, None]  # log P(g ...)
        with np.errstate(divide="ignore", invalid="ignore"):  # log 0 is -inf
            if state.num_tokens == 0:
                after = _extend(state)
            else:
                state = self._append(tokens, state)
                after = _extend(state)
                after[rows, tokens] = _repeat(state)
            # After what cannot be nothing can be; here -inf - -inf would make it NaN.
            impossible = before == -inf
            after = np.where(impossible, -inf, after + self._closed)
            scores = after - before
            scores[:, self.eos] = _end(state) - before[:, 0]
        scores = np.minimum(np.where(impossible, -inf, scores), 0.0)  # not by rounding
        state = state._replace(num_tokens=state.num_tokens + 1, next=after)
        return scores.astype(np.float32), state

    def select(self, state: WindowState, rows: Ints) -> WindowState:
        """Repeat, reorder and drop hypotheses; see `StepModel.select`."""
        number = state.labels.probs.shape[1]
        if len(rows) < number:
            kept = rows[:, 0] // (len(state.last) // number)
            state = state._replace(labels=state.labels.keep(kept))
        rows = rows.ravel()
        return state._replace(
            blank=state.blank.take(rows, axis=1),
            either=state.either.take(rows, axis=1),
            scale=state.scale[rows],
            last=state.last[rows],
            next=state.next[rows],
        )

    def _append(self, tokens: Ints, state: WindowState) -> WindowState:
        """Work out n_j and b_j of the spelling with one more token."""
        places, number, _ = state.labels.probs.shape  # one place more than steps
        utterances = np.repeat(np.arange(number), len(tokens) // number)
        phi = np.where(tokens == state.last, state.blank, state.either)
        further = _FURTHER
        while True:
            stop = min(state.first + len(phi) + further, places + 1)
            probs = state.labels.probs[state.first : stop - 1]  # of all but the first
            labels = np.empty((len(probs), 2, len(tokens)))
            labels[:, 0] = probs[:, utterances, tokens]
            labels[:, 1] = probs[:, utterances, self.blank]
            token, blank = _spell(phi, labels)
            either = token + blank
            best = either.max(axis=0)
            kept = _likely(either, best)
            if stop > places or kept.stop < len(either):
                scale = np.where(best > 0, best, 1.0)
                return state._replace(
                    first=state.first + kept.start,
                    blank=blank[kept] / scale,
                    either=either[kept] / scale,
                    scale=state.scale + np.log(best),
                    last=tokens,
                )
            further *= 2


def _spell(phi: Floats, labels: Floats) -> tuple[Floats, Floats]:
    """Solve both recurrences.

    Args:
        phi: (D', R) paths after which a further token may begin; none at later places.
        labels: (D - 1, 2, R) p_j of that token and of the blank, from the second place.

    Returns:
        (D, R) n_j and b_j.
    """
    found = np.zeros((len(labels) + 1, 3, phi.shape[1]))  # phi, n and b of each place
    found[: len(phi), 0] = phi
    # n comes of n and phi, b of b and n: one addition makes both.
    for before, after, probs in zip(found, found[1:], labels, strict=False):
        np.add(before[1:], before[:2], out=after[1:])
        after[1:] *= probs
    return found[:, 1], found[:, 2]


def _likely(either: Floats, best: Floats) -> slice:
    """Return where some (D, R) spelling is not far less likely to end than elsewhere.

    That is everywhere, if all of them are impossible, and more than one place, so that
    a further token has one to begin at.
    """
    likely = either >= np.where(best > 0, best * exp(-RANGE), inf)
    (places,) = np.nonzero(likely.any(axis=1))
    if not len(places):
        return slice(0, len(either))
    return slice(min(int(places[0]), len(either) - 2), int(places[-1]) + 1)


def _extend(state: WindowState) -> Floats:
    """Work out (R, V) log P(g c ...) for all c but the last token of g."""
    probs = state.labels.probs[state.first : state.first + len(state.either)]
    begun = _begun(state.either[: len(probs)], state)  # (D, B, K)
    after = begun.transpose(1, 2, 0) @ probs.transpose(1, 0, 2)  # (B, K, V)
    found: Floats = np.log(after).reshape(-1, after.shape[2]) + state.scale[:, None]
    return found


def _repeat(state: WindowState) -> Floats:
    """Work out (R,) log P(g c ...) where c is the last token of g."""
    probs = state.labels.probs[state.first : state.first + len(state.blank)]
    begun = _begun(state.blank[: len(probs)], state)
    number, hypotheses = begun.shape[1:]
    utterances = np.repeat(np.arange(number), hypotheses)
    paths = begun.reshape(len(probs), -1) * probs[:, utterances, state.last]
    found: Floats = np.log(paths.sum(axis=0)) + state.scale
    return found


def _begun(paths: Floats, state: WindowState) -> Floats:
    """(D, R) -> (D, B, K) where a token may begin: not on padding."""
    valid = state.labels.valid[state.first : state.first + len(paths)]
    begun: Floats = paths.reshape(len(paths), valid.shape[1], -1) * valid
    return begun


def _end(state: WindowState) -> Floats:
    """Return (R,) log P(g): behind the window by the path of blanks alone."""
    blanks: Floats = state.labels.blanks
    if not state.num_tokens:
        alone: Floats = blanks[-1]  # too little for a probability in a long recording
        return alone
    behind = blanks[-1] - blanks[state.first + len(state.either) - 1]  # (B,)
    ended = np.log(state.either[-1]) + state.scale
    found: Floats = (ended.reshape(len(behind), -1) + behind[:, None]).ravel()
    return found
