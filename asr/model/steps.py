"""The speller as a search sees it: one more character of many hypotheses at a time.

It gives what `Speller.step`, the plain formula, gives; tests hold the two together. It
is faster because

- what does not change from step to step is worked out beforehand (`StepWeights`): the
  embedded tokens' share of the gates as a table, weights in the order in which a
  search reads them, in float32 or as bytes;
- context, states and cells of a hypothesis are one row of one tensor, so that the
  search reorders them by one operation, and their parts are read where they lie;
- the K hypotheses of an utterance look at the same memory, which is not copied, and
  utterances are looked at one after the other in as much memory as stays in the cache.

Shapes: B utterances, K hypotheses of each, R = B * K rows, J listener steps, H listener
        size, S speller size, A attention size, V vocabulary size,
        W = H + 2 * layers * S what is kept of a hypothesis.

Source of the coverage bonus: Chorowski and Jaitly (2017), arXiv:1612.02695, section 4.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.model.attention import (
    AdditiveAttention,
    LocationAwareAttention,
    Memory,
    neighbours,
)
from asr.model.lstm import gates_last, step_forward
from asr.model.products import Int8Product, Product
from asr.model.speller import Speller

COVERED = 0.5
"""Attention, summed over characters, from which a step counts as covered."""
_IN_CACHE = 2**18
"""Numbers in a buffer that a CPU core's own cache holds with room to spare: 1 MiB."""


class StepWeights:
    """The weights of a speller, prepared for searching; may be shared by threads.

    The row of a hypothesis is [h ; context ; h' ; others' h ; all c], where h is the
    state of the lowest and h' of the highest layer, so that the inputs of the lowest
    layer and of the MLP lie side by side. With one layer it is [context ; h ; c].

    Args:
        speller: is read once, here; a later change of its weights is not noticed.
        precision: float32 or int8.
    """

    def __init__(self, speller: Speller, precision: str = "float32") -> None:
        product = Int8Product if precision == "int8" else Product
        cells = [cell for cell in speller.cells if isinstance(cell, nn.LSTMCell)]
        attention = speller.attention
        self.layers, self.size = len(cells), cells[0].hidden_size
        embedded = speller.embedding.embedding_dim
        self.context_size = cells[0].input_size - embedded
        self.width = self.context_size + 2 * self.layers * self.size
        self._place(self.context_size, self.size)

        bias = gates_last(cells[0].bias_ih + cells[0].bias_hh)
        share = gates_last(cells[0].weight_ih[:, :embedded])
        table = nn.functional.linear(speller.embedding.weight, share, bias)
        self.table = table.detach()  # (V, 4 * S)
        context = cells[0].weight_ih[:, embedded:], cells[0].weight_hh
        inputs = [self._beside(*context, first=True)]
        inputs += [torch.cat((c.weight_ih, c.weight_hh), dim=1) for c in cells[1:]]
        self.recurrent = [product(gates_last(weight), None) for weight in inputs]
        self.biases = [gates_last(c.bias_ih + c.bias_hh).detach() for c in cells]

        query = attention.query.weight
        if not isinstance(attention, AdditiveAttention):
            query = query / math.sqrt(attention.query.out_features)
        self.query = product(query, None)
        self.v = self.filters = self.location = None
        if isinstance(attention, AdditiveAttention):
            self.v = attention.energy.weight[0].detach()
            self.tanh = attention.activation == "tanh"
        if isinstance(attention, LocationAwareAttention):
            self.filters = attention.filters.detach().t().contiguous()  # (R, filters)
            self.location = attention.location.weight.detach().t().contiguous()
        state, seen = torch.tensor_split(speller.hidden.weight, [self.size], dim=1)
        hidden = self._beside(seen, state, first=False)
        self.hidden = product(hidden, speller.hidden.bias)
        self.output = product(speller.output.weight, speller.output.bias)

    def _place(self, context: int, size: int) -> None:
        """Lay out a row."""
        if self.layers == 1:
            self.context = slice(0, context)
            self.states = [slice(context, context + size)]
            self.lowest = self.highest = slice(0, context + size)
        else:
            top = size + context
            self.context = slice(size, top)
            middle = range(top + size, top + size * (self.layers - 1), size)
            self.states = [
                slice(0, size),
                *(slice(start, start + size) for start in middle),
                slice(top, top + size),
            ]
            self.lowest, self.highest = slice(0, top), slice(size, top + size)
        cells = range(self.width - self.layers * size, self.width, size)
        self.cells = [slice(start, start + size) for start in cells]

    def _beside(self, context: Tensor, state: Tensor, *, first: bool) -> Tensor:
        """Join weights for context and state in the order in which a row has them."""
        state_first = first and self.layers > 1
        return torch.cat((state, context) if state_first else (context, state), dim=1)

    def energies(self, query: Tensor, memory: Memory, previous: Tensor) -> Tensor:
        """(B, K, A) W s_i, (B, K, J) previous weights -> (B, K, J) e_i."""
        if self.v is None:
            dots: Tensor = query @ memory.keys.transpose(1, 2)
            return dots
        batch, hypotheses, size = query.shape
        steps = memory.keys.size(1)
        at_once = batch
        if query.device.type == "cpu":
            at_once = max(1, _IN_CACHE // (hypotheses * steps * size))
        buffer = query.new_empty(min(batch, at_once), hypotheses, steps, size)
        found = query.new_empty(batch, hypotheses, steps)
        for start in range(0, batch, at_once):
            rows = slice(start, min(start + at_once, batch))
            compared = buffer[: rows.stop - start]
            keys = memory.keys[rows, None]
            if self.filters is None or self.location is None:
                torch.add(keys, query[rows, :, None], out=compared)
            else:
                seen = neighbours(previous[rows], len(self.filters)) @ self.filters
                torch.mm(seen, self.location, out=compared.view(-1, size))
                compared.add_(keys).add_(query[rows, :, None])
            active = compared.tanh_() if self.tanh else compared.relu_()
            torch.matmul(active, self.v, out=found[rows])
        return found


class StepsState(NamedTuple):
    """State of `LASSteps`: of R hypotheses, and what of the memory they still need."""

    kept: Tensor
    """(R, W) context, states and cells; see `StepWeights`."""
    weights: Tensor
    """(R, J) alpha_i."""
    attended: Tensor | None
    """(R, J) attention summed over the characters so far, if it counts."""
    memory: Memory
    padding: Tensor
    """(B, 1, J) bool, True on padding."""


class LASSteps:
    """Scores of the next token, row by row: a `StepModel`.

    Args:
        weights: of the speller.
        memory: of B utterances.
        start: (B, J) weights before the first character.
        coverage: bonus for each listener step that a hypothesis has looked at for more
            than half a character; 0 leaves log P as it is.
    """

    def __init__(
        self, weights: StepWeights, memory: Memory, start: Tensor, coverage: float
    ) -> None:
        self.weights, self.memory, self.coverage = weights, memory, coverage
        self._start = start

    def start(self) -> StepsState:
        """State of B rows that hold nothing but <sos>."""
        h = self.memory.h
        return StepsState(
            kept=h.new_zeros(h.size(0), self.weights.width),
            weights=self._start,
            attended=torch.zeros_like(self._start) if self.coverage else None,
            memory=self.memory,
            padding=~self.memory.valid[:, None],
        )

    @torch.no_grad()
    def step(self, tokens: Tensor, state: StepsState) -> tuple[Tensor, StepsState]:
        """(R,) last tokens -> (R, V) log P of the next, and the new state."""
        model, memory, old = self.weights, state.memory, state.kept
        batch = memory.h.size(0)
        new = torch.empty_like(old)
        below = old[:, model.lowest]
        for layer, product in enumerate(model.recurrent):
            if layer == 0:
                gates = model.table.index_select(0, tokens)
            else:
                gates = model.biases[layer].repeat(len(old), 1)
                own = old[:, model.states[layer]]
                below = torch.cat((new[:, model.states[layer - 1]], own), dim=1)
            product.add_to(gates, below)
            cell, hidden = model.cells[layer], model.states[layer]
            step_forward(gates, old[:, cell], new[:, cell], new[:, hidden])
        query = model.query(new[:, model.states[-1]]).view(batch, -1, model.query.size)
        previous = state.weights.view(batch, -1, state.weights.size(1))
        energies = model.energies(query, memory, previous)
        weights = energies.masked_fill_(state.padding, -torch.inf).softmax(dim=-1)
        context = torch.bmm(weights, memory.h)  # (B, K, J) x (B, J, H)
        new[:, model.context] = context.flatten(0, 1)
        logits = model.output(model.hidden(new[:, model.highest]).tanh_())
        scores, weights = logits.log_softmax(dim=-1), weights.flatten(0, 1)
        attended = state.attended
        if attended is not None:
            after = attended + weights
            newly = (after > COVERED) & (attended <= COVERED)
            scores = scores + self.coverage * newly.sum(dim=-1, keepdim=True)
            attended = after
        return scores, StepsState(new, weights, attended, memory, state.padding)

    def select(self, state: StepsState, rows: Tensor) -> StepsState:
        """Keep the rows (B', K') of the B' utterances that they belong to."""
        batch = state.memory.h.size(0)
        memory, padding = state.memory, state.padding
        if rows.size(0) != batch:
            utterances = rows[:, 0] // (state.kept.size(0) // batch)
            memory, padding = memory.select(utterances), padding[utterances]
        rows = rows.flatten()
        return StepsState(
            state.kept.index_select(0, rows),
            state.weights.index_select(0, rows),
            None if state.attended is None else state.attended.index_select(0, rows),
            memory,
            padding,
        )
