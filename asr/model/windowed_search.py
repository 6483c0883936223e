"""A search in which the attention sees no more than a window of a long recording.

Attention over a whole recording costs J per character, so J times I for a text of I
characters, which grows with J: a recording twice as long costs four times as much. But
who reads speech aloud does not jump. Here a hypothesis may look only at steps that are
at most D from the one that it looked at most for the character before, or, where the
attention is hierarchical, at the blocks of such steps: inside each of them, and across
them. The cost of a character no longer depends on the length.

The K hypotheses of an utterance look at places near each other. What is copied out of
its memory is the stretch from the first window to the last; within it each hypothesis
sees its own window alone, so that what one sees does not depend on the others.

Shapes: B utterances, K hypotheses of each, R = B * K rows, J listener steps, L <= J
        steps of a stretch, M blocks of G steps in it, N heads, S speller size.

Source: Chorowski et al. (2015), arXiv:1506.07503, section 2.3 (windowing).
"""

import torch
from torch import Tensor

from asr.model.attention import AttentionMemory
from asr.model.speller_search import LASSteps, StepsState, StepWeights


class WindowedSteps(LASSteps):
    """Scores of the next token by attention through a window: a `StepModel`.

    Args:
        weights: of the speller.
        memory: of B utterances.
        start: (B, J) weights before the first character.
        coverage: see `LASSteps`.
        window: D, in listener steps.
    """

    def __init__(
        self,
        weights: StepWeights,
        memory: AttentionMemory,
        start: Tensor,
        coverage: float,
        window: int,
    ) -> None:
        super().__init__(weights, memory, start, coverage)
        self.window = window
        self.unit = max(1, weights.block_size if weights.v is not None else 1)

    def _attend(self, s: Tensor, state: StepsState) -> tuple[Tensor, Tensor]:
        """(R, S) s_i -> (R, J) alpha_i, and (R, 5 * S) the context's shares."""
        memory, steps = state.memory, state.weights.size(1)
        query = self.weights.query(s).view(len(memory.h), -1, self.weights.query.size)
        batch, hypotheses, _ = query.shape
        places = state.weights.argmax(dim=1).view(batch, hypotheses)
        first = (places - self.window).clamp(min=0) // self.unit * self.unit
        last = ((places + self.window) // self.unit + 1) * self.unit  # one behind
        begin = first.amin(dim=1)  # (B,)
        length = min(int((last.amax(dim=1) - begin).max()), steps)
        if length == steps:
            begin = torch.zeros_like(begin)
        index = begin[:, None] + torch.arange(length, device=begin.device)  # (B, L)
        inside = (index[:, None] >= first[..., None]) & (
            index[:, None] < last[..., None]
        )  # (B, K, L)
        beyond = index >= steps
        index = index.clamp(max=steps - 1)
        padding = state.padding[:, 0, 0].gather(1, index) | beyond
        unseen = padding[:, None] | ~inside
        near = AttentionMemory(
            _steps_of(memory.h, index, self.weights.heads),
            _steps_of(memory.keys, index, 1),
            ~padding,
        )
        previous = state.weights.view(batch, hypotheses, steps)
        previous = previous.gather(2, index[:, None].expand(-1, hypotheses, -1))
        previous = previous.masked_fill(unseen, 0.0)
        energies = self.energies(query, near, previous)  # (B, K, N, L)
        if blocks := self._cut_blocks(near):  # softmax below leaves out the unseen ones
            energies = self._across(energies, query, blocks)
        energies = energies.masked_fill(unseen[:, :, None], -torch.inf)
        weights = energies.softmax(dim=-1)
        shares = torch.bmm(weights.flatten(2).to(near.h.dtype), near.h).flatten(0, 1)
        weights = weights.mean(dim=2).flatten(0, 1)  # (R, L)
        found = torch.zeros_like(state.weights)
        rows = index.repeat_interleave(hypotheses, dim=0)
        return found.scatter_add_(1, rows, weights), shares


def _steps_of(memory: Tensor, index: Tensor, parts: int) -> Tensor:
    """Copy (B, L) steps out of (B, N * J, X), in each of N parts: (B, N * L, X)."""
    steps = memory.size(1) // parts
    shifts = torch.arange(parts, device=index.device)[:, None] * steps
    index = (index[:, None] + shifts).flatten(1)
    first, last = int(index[0, 0]), int(index[0, -1])
    if len(memory) == 1 and last - first == index.size(1) - 1:
        return memory[:, first : last + 1]  # of a single utterance nothing is copied
    return memory.gather(1, index[:, :, None].expand(-1, -1, memory.size(2)))
