"""Search for the most likely spelling of each utterance, one token at a time.

The search knows neither audio nor network: it asks a `StepModel` for log P of the next
token. LAS is one, a character language model is another, a test brings a table.

A beam search keeps the K most likely hypotheses y of each utterance and ranks those
that have ended by

    score(y) = log P(y|x) / |y|^length_norm        |y| counts <eos>

because a plain product of probabilities favours short ones.

Shapes: B utterances still being searched, K live hypotheses of each, R = B * K rows,
        V vocabulary size. The K hypotheses of one utterance stand together: a group.

Source: Chan et al. (2015), arXiv:1508.01211, section 3.3 (beam, length); Hannun et al.
(2019), arXiv:1904.02619 (the threshold on <eos>).
"""

from collections.abc import Sequence
from itertools import count
from math import inf
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from asr.decoding.endings import Followed, check_score, hypotheses
from asr.decoding.hypothesis import Hypothesis, SearchConfig

State = TypeVar("State")


class StepModel(Protocol[State]):
    """A model of the next token given the tokens so far, for many hypotheses at once.

    What it knows of a hypothesis is in the state, which the search hands around but
    never looks into. A model keeps none of it to itself.
    """

    def start(self) -> State:
        """Return one row per utterance: hypotheses that hold nothing, not even <sos>.

        The first tokens that `step` reads are <sos>, on the device of `max_lengths`;
        all others are on the device of the scores.
        """

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one more token of every hypothesis.

        Args:
            tokens: (R,) the last token of each.
            state: of the same R rows, before that token.

        Returns:
            (R, V) log P of the next token, or a weighted sum of such; -inf where it is
            impossible. And the state after the token.
        """

    def select(self, state: State, rows: Tensor) -> State:
        """Repeat, reorder and drop hypotheses.

        Args:
            state: of R old rows.
            rows: (B', K') indices into them. All of a group come from one old group;
                groups may be gone but keep their order.

        Returns:
            The state of B' * K' rows.
        """


@torch.inference_mode()
def greedy_search(
    model: StepModel[State], *, sos: int, eos: int, max_lengths: Tensor
) -> list[Hypothesis]:
    """Follow the best token of each step, without looking back.

    Args:
        model: is asked for the next token.
        sos: token that starts every hypothesis.
        eos: token that ends it.
        max_lengths: (B,) the most tokens, <eos> not counted, an utterance may have.

    Returns:
        One hypothesis per utterance: what `beam_search` finds with a beam of one.

    Raises:
        ValueError: the model gives NaN, or not one row per hypothesis.
    """
    limits = _limits(max_lengths)
    spelled, log_probs = [list[int]() for _ in limits], [0.0] * len(limits)
    finished = [False] * len(limits)
    live = list(range(len(limits)))  # the utterances behind the rows
    state = model.start()
    tokens = torch.full_like(max_lengths, sos, dtype=torch.int64)
    for num_tokens in count():
        if not live:
            break
        scores, state = _step(model, tokens, state)
        best, tokens = scores.max(dim=1)
        kept = []
        for row, (score, token) in enumerate(
            zip(best.tolist(), tokens.tolist(), strict=True)
        ):
            utterance = live[row]
            check_score(score)
            finished[utterance] = token == eos and score > -inf
            if finished[utterance]:
                log_probs[utterance] += score
            elif num_tokens < limits[utterance] and score > -inf:
                log_probs[utterance] += score
                spelled[utterance].append(token)
                kept.append(row)
        if len(kept) < len(live):
            live = [live[row] for row in kept]
            rows = torch.tensor(kept, dtype=torch.int64, device=tokens.device)
            tokens, state = tokens[rows], model.select(state, rows[:, None])
    return [
        Hypothesis(tuple(spelled[u]), log_probs[u], finished=finished[u])
        for u in range(len(limits))
    ]


@torch.inference_mode()
def beam_search(
    model: StepModel[State],
    config: SearchConfig,
    *,
    sos: int,
    eos: int,
    max_lengths: Tensor,
) -> list[list[Hypothesis]]:
    """Follow the `beam_size` best hypotheses of each utterance.

    At each step all one-token extensions of the live hypotheses compete for the places
    in the beam. An ending does not take one: it is finished if it is more likely than
    the last extension that got a place. An utterance leaves the batch as soon as
    `beam_size` hypotheses are finished, or the live ones can no longer overtake any
    finished one (known only while no score is above zero), or none can be extended.

    Args:
        model: is asked for the next tokens.
        config: settings.
        sos: token that starts every hypothesis.
        eos: token that ends it.
        max_lengths: (B,) the most tokens, <eos> not counted, an utterance may have.

    Returns:
        For each utterance 1 to `beam_size` hypotheses, best first. Where none finished
        these are the live ones, cut at `max_length`.

    Raises:
        ValueError: the model gives NaN, or not one row per hypothesis.
    """
    utterances = [Followed(limit) for limit in _limits(max_lengths)]
    links = list[_Links]()
    live = utterances
    state = model.start()
    tokens = torch.full_like(max_lengths, sos, dtype=torch.int64)
    log_probs = torch.zeros(len(live), 1, device=tokens.device)
    while live:
        scores, state = _step(model, tokens, state)
        found = _extend(log_probs.to(scores.device), scores, config, eos)
        width = log_probs.size(1)
        kept = [
            group
            for group, row in enumerate(found.summary.tolist())
            if live[group].goes_on(row[:-1], row[-1], len(links), group * width, config)
        ]
        if len(kept) < len(live):
            live = [live[group] for group in kept]
            found = found.keep(kept)
        if live:
            state = model.select(state, found.rows)
            log_probs, tokens = found.log_probs, found.tokens.flatten()
            links.append(_Links(found.rows.flatten(), tokens))
    rows = _to_lists([link.rows for link in links])
    spelled = _to_lists([link.tokens for link in links])
    return hypotheses(utterances, rows, spelled, config)


class _Extensions(NamedTuple):
    """The extensions that got a place in the beam, best first."""

    log_probs: Tensor
    """(B, K') log P of each, its new token included."""
    rows: Tensor
    """(B, K') the old row that each extends."""
    tokens: Tensor
    """(B, K') the token that each adds."""
    summary: Tensor
    """(B, K' + K + 1) what the host must know, in one piece: `log_probs`, log P of the
    K old hypotheses if they end here, and the highest of the model's scores."""

    def keep(self, groups: Sequence[int]) -> "_Extensions":
        """Drop the utterances that are done."""
        kept = torch.tensor(groups, dtype=torch.int64, device=self.rows.device)
        return _Extensions(*(tensor[kept] for tensor in self))


class _Links(NamedTuple):
    """How the rows of one step came from those of the step before."""

    rows: Tensor
    """(R,) the row that each extends."""
    tokens: Tensor
    """(R,) the token that each adds."""


def _extend(
    log_probs: Tensor, scores: Tensor, config: SearchConfig, eos: int
) -> _Extensions:
    """Find the best extensions.

    Args:
        log_probs: (B, K) of the live hypotheses.
        scores: (B * K, V) of their next tokens.
        config: settings.
        eos: token that ends a hypothesis.
    """
    num_groups, width = log_probs.shape
    vocab_size = scores.size(1)
    scores = scores.reshape(num_groups, width, vocab_size)
    highest = scores.amax(dim=(1, 2))[:, None]
    ending, others = scores[:, :, eos], scores.clone()
    others.select(2, eos).fill_(-inf)
    if config.eos_threshold is not None:
        best = others.amax(dim=2)
        worse = torch.full_like(best, config.eos_threshold).pow(-best.sign())
        least = best * worse  # a bonus can put scores above zero
        ending = ending.masked_fill(ending < least, -inf)
    totals = (log_probs[:, :, None] + others).flatten(1)  # (B, K, V) -> (B, K * V)
    # Here the beam is pruned: of all K * V extensions the best `beam_size` go on.
    best, index = totals.topk(min(config.beam_size, totals.size(1)), dim=1)
    first_rows = torch.arange(0, num_groups * width, width, device=scores.device)
    return _Extensions(
        log_probs=best,
        rows=index // vocab_size + first_rows[:, None],
        tokens=index % vocab_size,
        summary=torch.cat([best, log_probs + ending, highest], dim=1),
    )


def _to_lists(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Fetch many small tensors from the device in one piece."""
    if not tensors:
        return []
    sizes = [tensor.size(0) for tensor in tensors]
    return [p.tolist() for p in torch.split(torch.cat(list(tensors)).cpu(), sizes)]


def _step(
    model: StepModel[State], tokens: Tensor, state: State
) -> tuple[Tensor, State]:
    scores, state = model.step(tokens, state)
    if scores.size(0) != tokens.size(0):
        raise ValueError(
            f"the model must score {tokens.size(0)} hypotheses, "
            f"got scores of {scores.size(0)}"
        )
    return scores, state


def _limits(max_lengths: Tensor) -> list[int]:
    limits: list[int] = max_lengths.tolist()
    if any(limit < 0 for limit in limits):
        raise ValueError(f"max_lengths must be zero or more, got {limits}")
    return limits
