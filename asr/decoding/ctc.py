"""How likely is it, by CTC, that the spelling starts like this?

CTC spells by one label per step, a token or blank: runs of the same label are one
token, blanks are dropped. The probability that a spelling starts with g, whatever
follows, is summed over all label paths. With

    n_j(g), b_j(g) = P(the first j steps spell g, and step j is a token / blank)
    phi_j(g, c)    = b_j(g) + n_j(g), but b_j(g) alone where c is the last token of g

the paths that start with g and a further token c differ in the step where that
c begins, and those that spell just g by nothing:

    P(g c ...) = sum_j phi_j-1(g, c) p_j(c)
    P(g)       = b_J(g) + n_J(g)

and both recurrences are linear, so that in place of a loop over steps cumulative sums
solve them (in logarithms):

    n_j(g c) = (n_j-1(g c) + phi_j-1(g, c)) p_j(c)
             = S_j sum_{i <= j} phi_i-1(g, c) / S_i-1         S_j = prod_{i <= j} p_i(c)
    b_j(g c) = (b_j-1(g c) + n_j-1(g c)) p_j(blank)           likewise

The quotients span thousands of decades: they are worked in float64.

A spelling that the recording supports ends within a few steps of some place. On a CPU
what is kept of all hypotheses is the window of the steps where one of them is not
e^-RANGE times less likely to have ended than at its best step: a fifth of the steps of
an utterance of 14 s. So P(g) is too low where a spelling is that much less likely than
how it begins, by paths alone that are outside, and no search follows those.

Shapes: B utterances, K hypotheses of each, R = B * K rows, J listener steps,
        V vocabulary size, blank and <eos> counted, D steps in the window.

Source: Graves (2012), "Supervised Sequence Labelling with Recurrent Neural Networks",
section 7.5 (prefix search); Watanabe et al. (2017), "Hybrid CTC/Attention Architecture
for End-to-End Speech Recognition", doi:10.1109/JSTSP.2017.2763455, section III.
"""

from math import inf
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from asr.padding import valid_mask

FLOOR = -80.0
"""Least log-probability of a label. Keeps every sum over steps within float64."""
RANGE = 100.0
"""How much less likely, in logarithms, a spelling ends at steps that are left out. More
than `FLOOR`, so that no single token has its best path there."""
_FURTHER = 16
"""Steps by which the window grows, and again by twice as many where it has to."""


class PrefixState(NamedTuple):
    """What is known of the spellings g read so far."""

    num_tokens: int
    """How many tokens were read, <sos> counted."""
    sums: Tensor
    """(B, V, J + 1) log S_j(c), from j = 0."""
    probs: Tensor
    """(B, J, V) p_j(c)."""
    offsets: Tensor
    """(B, 1, J) 0 on steps, -inf on padding."""
    first: int
    """The first j of the window."""
    blank: Tensor
    """(R, D) log b_j(g), in the window."""
    either: Tensor
    """(R, D) log (b_j(g) + n_j(g)), in the window."""
    last: Tensor
    """(R,) the last token of g."""
    next: Tensor
    """(R, V) log P(g c ...)."""


class CTCPrefix:
    """CTC prefix scores as a step model.

    The score of c after g is log P(g c ...) - log P(g ...), that of <eos> is
    log P(g) - log P(g ...): those of a whole spelling add up to its log P.
    """

    def __init__(
        self,
        log_probs: Tensor,
        num_steps: Tensor,
        *,
        blank: int,
        eos: int,
        sos: int | None = None,
        whole: bool = False,
    ) -> None:
        """Prepare utterances for being searched.

        Args:
            log_probs: (B, J, V) log P of the labels, from a log-softmax.
            num_steps: (B,) how many of the J steps are real.
            blank: label that spells nothing; as a token it never follows.
            eos: token that ends a hypothesis; as a label it spells nothing known.
            sos: token that never follows either, if it is among the V.
            whole: keep all steps, for spellings that no search would find.

        Raises:
            ValueError: the sizes do not match, or <eos> is the blank.
        """
        if log_probs.dim() != 3 or num_steps.shape != log_probs.shape[:1]:
            raise ValueError(
                f"log_probs (B, J, V) need num_steps (B,), got "
                f"{tuple(log_probs.shape)} and {tuple(num_steps.shape)}"
            )
        if blank == eos:
            raise ValueError(f"<eos> must not be the blank, both are {blank}")
        self.blank, self.eos, self.dtype = blank, eos, log_probs.dtype
        closed = [blank, eos] if sos is None else [blank, eos, sos]
        valid = valid_mask(num_steps, log_probs.size(1)).to(log_probs.device)
        log_probs = log_probs.double().clamp(min=FLOOR)
        self.closed = log_probs.new_zeros(log_probs.size(2))
        self.closed[closed] = -inf
        self.probs = log_probs.exp()
        # On padding nothing but blank: what was spelled by the last step stays so.
        log_probs = log_probs.masked_fill(~valid[:, :, None], FLOOR)
        log_probs[:, :, blank].masked_fill_(~valid, 0.0)
        sums = log_probs.cumsum(dim=1).transpose(1, 2)  # (B, J, V) -> (B, V, J)
        self.sums = pad(sums, (1, 0))
        self.narrows = not whole and log_probs.device.type == "cpu"
        self.offsets = torch.zeros_like(valid, dtype=torch.float64)[:, None]
        self.offsets.masked_fill_(~valid[:, None], -inf)

    def start(self) -> PrefixState:
        """Return the empty spelling of each utterance: nothing but blanks."""
        blank = self.sums[:, self.blank]
        num_rows, vocab_size = self.sums.shape[:2]
        return PrefixState(
            num_tokens=0,
            sums=self.sums,
            probs=self.probs,
            offsets=self.offsets,
            first=0,
            blank=blank,
            either=blank,
            last=torch.full((num_rows,), self.blank, device=blank.device),
            next=blank.new_zeros(num_rows, vocab_size),
        )

    def step(self, tokens: Tensor, state: PrefixState) -> tuple[Tensor, PrefixState]:
        """Read one more token of every hypothesis; the first is <sos>.

        Args:
            tokens: (R,) the last token of each.
            state: of the same R rows, before that token.

        Returns:
            (R, V) what each next token adds to log P of the prefix, and the new state.
        """
        tokens = tokens.to(state.last.device)
        before = state.next.gather(1, tokens[:, None])  # log P(g ...)
        if state.num_tokens == 0:
            after = self._extend(state)
        else:
            state = self._append(tokens, state)
            after = self._extend(state)
            after.scatter_(1, tokens[:, None], _repeat(state)[:, None])
        # After what cannot be nothing can be; here -inf - -inf would make it NaN.
        impossible = before == -inf
        after = (after + self.closed).masked_fill_(impossible, -inf)
        scores = after - before
        scores[:, self.eos] = self._end(state) - before[:, 0]
        scores.masked_fill_(impossible, -inf).clamp_(max=0.0)  # not even by rounding
        state = state._replace(num_tokens=state.num_tokens + 1, next=after)
        return scores.to(self.dtype), state

    def select(self, state: PrefixState, rows: Tensor) -> PrefixState:
        """Repeat, reorder and drop hypotheses; see `StepModel.select`."""
        num_groups = state.sums.size(0)
        if rows.size(0) < num_groups:
            kept = rows[:, 0] // (state.last.size(0) // num_groups)
            state = state._replace(
                sums=state.sums[kept],
                probs=state.probs[kept],
                offsets=state.offsets[kept],
            )
        rows = rows.flatten()
        return state._replace(
            blank=state.blank.index_select(0, rows),
            either=state.either.index_select(0, rows),
            last=state.last.index_select(0, rows),
            next=state.next.index_select(0, rows),
        )

    def _append(self, tokens: Tensor, state: PrefixState) -> PrefixState:
        """Work out n_j and b_j of the spelling with one more token."""
        repeated = (tokens == state.last)[:, None]
        phi = torch.where(repeated, state.blank, state.either)
        blanks = torch.full_like(tokens, self.blank)
        further = _FURTHER if self.narrows else state.sums.size(2)
        while True:
            window = slice(state.first, state.first + phi.size(1) + further)
            sums = state.sums[:, :, window]
            inflow = pad(phi, (0, sums.size(2) - phi.size(1)), value=-inf)
            token = solve(inflow, _rows_of(sums, tokens))
            blank = solve(token, _rows_of(sums, blanks))
            either = torch.logaddexp(token, blank)
            kept = _likely(either) if self.narrows else slice(0, either.size(1))
            if window.stop >= state.sums.size(2) or kept.stop < either.size(1):
                return state._replace(
                    first=state.first + kept.start,
                    blank=blank[:, kept],
                    either=either[:, kept],
                    last=tokens,
                )
            further *= 2

    def _extend(self, state: PrefixState) -> Tensor:
        """Work out (R, V) log P(g c ...) for all c but the last token of g."""
        num_groups, _, vocab_size = state.probs.shape
        window = slice(state.first, state.first + state.either.size(1))
        probs = state.probs[:, window]
        phi = state.either[:, : probs.size(1)].reshape(num_groups, -1, probs.size(1))
        phi = phi + state.offsets[:, :, window]
        # With the largest term at one, no p_j(c) (FLOOR!) can make the sum underflow.
        highest = phi.amax(dim=2, keepdim=True).clamp(min=torch.finfo(phi.dtype).min)
        after = (phi - highest).exp().matmul(probs).log() + highest
        return after.view(-1, vocab_size)  # (B, K, V) -> (R, V)

    def _end(self, state: PrefixState) -> Tensor:
        """Return (R,) log P(g): behind the window by the path of blanks alone."""
        blanks = state.sums[:, self.blank]
        last = state.first + state.either.size(1) - 1
        behind = (blanks[:, -1] - blanks[:, last])[:, None]
        return (state.either[:, -1].view(len(behind), -1) + behind).flatten()


def _likely(either: Tensor) -> slice:
    """Return where some (R, D) spelling is not far less likely to end than elsewhere.

    That is everywhere, if all of them are impossible, and more than one step, so that a
    further token has one to begin at.
    """
    least = either.amax(dim=1, keepdim=True) - RANGE
    likely = (either >= least.clamp_(min=torch.finfo(least.dtype).min)).any(dim=0)
    places = likely.numpy().nonzero()[0]
    if not len(places):
        return slice(0, len(likely))
    return slice(min(int(places[0]), len(likely) - 2), int(places[-1]) + 1)


def _repeat(state: PrefixState) -> Tensor:
    """Work out (R,) log P(g c ...) where c is the last token of g."""
    window = slice(state.first, state.first + state.blank.size(1) + 1)
    labels = _rows_of(state.sums[:, :, window], state.last).diff(dim=1)
    num_steps = labels.size(1)
    begun = (state.blank[:, :num_steps] + labels).view(len(state.sums), -1, num_steps)
    offsets = state.offsets[:, :, window][:, :, :num_steps]
    return (begun + offsets).logsumexp(dim=2).flatten()  # (B, K) -> (R,)


def solve(inflow: Tensor, sums: Tensor) -> Tensor:
    """Solve x_j = (x_j-1 + inflow_j-1) p_j from zero, all in logarithms.

    Args:
        inflow: (R, D) logarithms; the last is not used.
        sums: (R, D) log p_1 + ... + log p_j.

    Returns:
        (R, D) log x_j.
    """
    x = (inflow[:, :-1] - sums[:, :-1]).logcumsumexp(dim=1) + sums[:, 1:]
    return pad(x, (1, 0), value=-inf)


def _rows_of(sums: Tensor, tokens: Tensor) -> Tensor:
    """(B, V, D) sums of all tokens, (R,) one token each -> (R, D) its sums."""
    groups = torch.arange(len(sums), device=tokens.device)
    return sums[groups[:, None], tokens.view(len(sums), -1)].flatten(0, 1)
