"""The speller in a search by its plain formula, with any attention.

A step is `Speller.step`, which asks the attention for nothing but its energies (and
whatever else its class replaces). `speller_search` does the same faster for the
attentions that are built in; it and this module share the coverage bonus:

    bonus_i = coverage * |{j : a_ij > 0.5 >= a_{i-1,j}}|     a_i = a_{i-1} + alpha_i

Shapes: B utterances, K hypotheses of each, R = B * K rows, J listener steps,
        V vocabulary size.

Source of the bonus: Chorowski and Jaitly (2017), arXiv:1612.02695, section 4.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from asr.model.attention import AttentionMemory
from asr.model.speller import Speller, SpellerState

COVERED = 0.5
"""Attention, summed over characters, from which a step counts as covered."""


class SpellerSteps(Protocol):
    """What a speller is to a search, plain or fast: a `StepModel`."""

    def start(self) -> Any:
        """State of B rows that hold nothing but <sos>."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """(R,) last tokens -> (R, V) log P of the next, and the new state."""

    def select(self, state: Any, rows: Tensor) -> Any:
        """Keep the rows (B', K') of the B' utterances that they belong to."""


class PlainState(NamedTuple):
    """State of `PlainSteps`: of R hypotheses, and the memory that they look at."""

    speller: SpellerState
    attended: Tensor
    """(R, J) attention summed over the characters so far."""
    memory: AttentionMemory
    """Of the B utterances that are still searched for."""


class PlainSteps:
    """Scores of the next token, row by row: a `StepModel`.

    Args:
        speller: in evaluation mode.
        memory: of B utterances.
        coverage: bonus for each listener step that a hypothesis has looked at for more
            than half a character; 0 leaves log P as it is.
    """

    def __init__(
        self, speller: Speller, memory: AttentionMemory, coverage: float = 0.0
    ) -> None:
        self.speller, self.memory, self.coverage = speller, memory, coverage

    @torch.no_grad()
    def start(self) -> PlainState:
        """State of B rows that hold nothing but <sos>."""
        state = self.speller.start(self.memory)
        return PlainState(state, torch.zeros_like(state.weights), self.memory)

    @torch.no_grad()
    def step(self, tokens: Tensor, state: PlainState) -> tuple[Tensor, PlainState]:
        """(R,) last tokens -> (R, V) log P of the next, and the new state."""
        logits, speller = self.speller.step(tokens, state.speller, state.memory)
        scores, attended = logits.log_softmax(dim=-1), state.attended + speller.weights
        if self.coverage:
            scores = scores + self.coverage * newly_covered(state.attended, attended)
        return scores, PlainState(speller, attended, state.memory)

    def select(self, state: PlainState, rows: Tensor) -> PlainState:
        """Keep the rows (B', K') of the B' utterances that they belong to."""
        memory, batch = state.memory, len(state.memory.h)
        if len(rows) != batch:
            memory = memory.select(rows[:, 0] // (len(state.attended) // batch))
        rows = rows.flatten()
        return PlainState(
            state.speller.select(rows), state.attended.index_select(0, rows), memory
        )


def newly_covered(before: Tensor, after: Tensor) -> Tensor:
    """Count the listener steps that a character covers.

    Args:
        before: (R, J) attention summed over the characters before it.
        after: (R, J) the same with its own.

    Returns:
        (R, 1) int64.
    """
    newly = (after > COVERED) & (before <= COVERED)
    return newly.sum(dim=-1, keepdim=True)
