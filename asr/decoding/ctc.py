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

A search on a CPU does without most of these steps: see `asr.decoding.ctc_window`.

Shapes: B utterances, K hypotheses of each, R = B * K rows, J listener steps,
        V vocabulary size, blank and <eos> counted.

Source: Graves (2012), "Supervised Sequence Labelling with Recurrent Neural Networks",
section 7.5 (prefix search); Watanabe et al. (2017), "Hybrid CTC/Attention Architecture
for End-to-End Speech Recognition", doi:10.1109/JSTSP.2017.2763455, section III.
"""

from math import inf
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from asr.decoding.ctc_window import FLOOR, CTCWindow, WindowState
from asr.padding import valid_mask


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
    blank: Tensor
    """(R, J + 1) log b_j(g)."""
    either: Tensor
    """(R, J + 1) log (b_j(g) + n_j(g))."""
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
    ) -> None:
        """Prepare utterances for being searched.

        Args:
            log_probs: (B, J, V) log P of the labels, from a log-softmax.
            num_steps: (B,) how many of the J steps are real.
            blank: label that spells nothing; as a token it never follows.
            eos: token that ends a hypothesis; as a label it spells nothing known.
            sos: token that never follows either, if it is among the V.

        Raises:
            ValueError: the sizes do not match, or <eos> is the blank.
        """
        _check_sizes(log_probs, num_steps, blank, eos)
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
        scores[:, self.eos] = state.either[:, -1] - before[:, 0]
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
        token = solve(phi, _rows_of(state.sums, tokens))
        blank = solve(token, _rows_of(state.sums, blanks))
        either = torch.logaddexp(token, blank)
        return state._replace(blank=blank, either=either, last=tokens)

    def _extend(self, state: PrefixState) -> Tensor:
        """Work out (R, V) log P(g c ...) for all c but the last token of g."""
        num_groups, num_steps, vocab_size = state.probs.shape
        phi = state.either[:, :-1].reshape(num_groups, -1, num_steps) + state.offsets
        # With the largest term at one, no p_j(c) (FLOOR!) can make the sum underflow.
        highest = phi.amax(dim=2, keepdim=True).clamp(min=torch.finfo(phi.dtype).min)
        after = (phi - highest).exp().matmul(state.probs).log() + highest
        return after.view(-1, vocab_size)  # (B, K, V) -> (R, V)


class WindowedCTCPrefix:
    """The same scores on a CPU, of the steps where a hypothesis can have ended.

    A `StepModel`, too, for spellings that a search would find; see `CTCWindow`. Its
    scores are float32.
    """

    def __init__(
        self,
        log_probs: Tensor,
        num_steps: Tensor,
        *,
        blank: int,
        eos: int,
        sos: int | None = None,
    ) -> None:
        """See `CTCPrefix`."""
        _check_sizes(log_probs, num_steps, blank, eos)
        self._window = CTCWindow(
            log_probs.detach().float().numpy(),
            num_steps.numpy(),
            blank=blank,
            eos=eos,
            never=[] if sos is None else [sos],
        )

    def start(self) -> WindowState:
        """Return the empty spelling of each utterance: nothing but blanks."""
        return self._window.start()

    def step(self, tokens: Tensor, state: WindowState) -> tuple[Tensor, WindowState]:
        """Read one more token of every hypothesis: see `CTCPrefix.step`."""
        scores, state = self._window.step(tokens.numpy(), state)
        return torch.from_numpy(scores), state

    def select(self, state: WindowState, rows: Tensor) -> WindowState:
        """Repeat, reorder and drop hypotheses; see `StepModel.select`."""
        return self._window.select(state, rows.numpy())


def search_prefix(
    log_probs: Tensor, num_steps: Tensor, *, blank: int, eos: int, sos: int
) -> CTCPrefix | WindowedCTCPrefix:
    """Return prefix scores for a search, as fast as the device has them."""
    kind = WindowedCTCPrefix if log_probs.device.type == "cpu" else CTCPrefix
    return kind(log_probs, num_steps, blank=blank, eos=eos, sos=sos)


def _check_sizes(log_probs: Tensor, num_steps: Tensor, blank: int, eos: int) -> None:
    if log_probs.dim() != 3 or num_steps.shape != log_probs.shape[:1]:
        raise ValueError(
            f"log_probs (B, J, V) need num_steps (B,), got "
            f"{tuple(log_probs.shape)} and {tuple(num_steps.shape)}"
        )
    if blank == eos:
        raise ValueError(f"<eos> must not be the blank, both are {blank}")


def _repeat(state: PrefixState) -> Tensor:
    """Work out (R,) log P(g c ...) where c is the last token of g."""
    labels = _rows_of(state.sums, state.last).diff(dim=1)  # (R, J)
    begun = (state.blank[:, :-1] + labels).view(len(state.sums), -1, labels.size(1))
    return (begun + state.offsets).logsumexp(dim=2).flatten()  # (B, K) -> (R,)


def solve(inflow: Tensor, sums: Tensor) -> Tensor:
    """Solve x_j = (x_j-1 + inflow_j-1) p_j from zero, all in logarithms.

    Args:
        inflow: (R, J + 1) logarithms; the last is not used.
        sums: (R, J + 1) log p_1 + ... + log p_j.

    Returns:
        (R, J + 1) log x_j.
    """
    x = (inflow[:, :-1] - sums[:, :-1]).logcumsumexp(dim=1) + sums[:, 1:]
    return pad(x, (1, 0), value=-inf)


def _rows_of(sums: Tensor, tokens: Tensor) -> Tensor:
    """(B, V, J + 1) sums of all tokens, (R,) one token each -> (R, J + 1) its sums."""
    groups = torch.arange(len(sums), device=tokens.device)
    return sums[groups[:, None], tokens.view(len(sums), -1)].flatten(0, 1)
