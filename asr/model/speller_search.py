"""The speller as a search sees it: one more character of many hypotheses at a time.

It gives what `plain_steps` gives by `Speller.step`, the plain formula; tests hold the
two together. It knows the built-in attentions only. It is faster because what does not
change from step to step is worked out beforehand:

- the embedded tokens' share of the gates, as a table;
- the context's shares: W c_i is a product with a sum, W sum_j alpha_ij h_j, and as well
  the sum sum_j alpha_ij (W h_j). All W h_j of an utterance are one product before the
  search; in a step there are then J columns to read in place of the H of W;
- the filters of location-aware attention, as a matrix that gives some steps at a time:
  it reads the previous weights four times, not once for each tap;
- the other weights, in the order in which a search reads them, in float32 or as bytes;
- beside bytes, W h_j are kept in bfloat16 where the CPU multiplies that faster;
- tanh x as 2 sigmoid(2 x) - 1: torch's sigmoid takes a sixth of the time of its tanh on
  a CPU, what is doubled is doubled before the search, and a softmax takes no notice of
  the -1. Where x is a query and a key and nothing else, exp(-2 x) is a product of their
  exponentials, 1 / (1 + exp(-2 q) exp(-2 k)), and those of the keys are made once.

States, cells and the context's share of a hypothesis are one row of one tensor, so that
the search reorders them by one operation. The K hypotheses of an utterance look at the
same memory, which is not copied, and as many look at a time as stay in the cache; where
they are many, a compiled loop compares them (`compiled_energies`).

Shapes: B utterances, K hypotheses of each, R = B * K rows, J listener steps, H listener
        size, S speller size, A attention size, V vocabulary size, N heads of the
        attention, W = 2 * layers * S numbers of all states and cells of a hypothesis.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.model.attention import (
    AdditiveAttention,
    AttentionMemory,
    Blocks,
    LocationAwareAttention,
    attend_across,
    cut_blocks,
    seen_together,
    shifted,
    split_heads,
)
from asr.model.compiled_energies import WORTH_COMPILING, compiled_energies
from asr.model.lstm import gates_last, step_forward
from asr.model.plain_steps import newly_covered
from asr.model.speller import Speller
from asr.quantized import Float32Linear, Int8Linear
from asr.runtime import cpu_multiplies_bfloat16

_IN_CACHE = 2**18
"""Numbers in a buffer that a CPU core's own cache holds with room to spare: 1 MiB."""
_LARGEST_EXPONENT = 80.0
"""Its exponential and the inverse of that are float32 numbers, neither 0 nor infinite;
a product of two may be, and gives the right sigmoid."""


class StepWeights:
    """The weights of a speller, prepared for searching; may be shared by threads.

    Args:
        speller: is read once, here; a later change of its weights is not noticed.
        precision: float32 or int8.

    Raises:
        TypeError: its attention is not a built-in one; see `PlainSteps`.
    """

    @torch.no_grad()
    def __init__(self, speller: Speller, precision: str = "float32") -> None:
        if not speller.attention.has_fast_path():
            name = type(speller.attention).__name__
            raise TypeError(f"no fast step is written for {name}")
        in_bytes = precision == "int8"
        product = Int8Linear if in_bytes else Float32Linear
        self.rounds_shares = in_bytes and cpu_multiplies_bfloat16()
        cells = [cell for cell in speller.cells if isinstance(cell, nn.LSTMCell)]
        attention, size = speller.attention, cells[0].hidden_size
        embedded = speller.embedding.embedding_dim
        biases = [gates_last(cell.bias_ih + cell.bias_hh) for cell in cells]
        from_token, from_context = (
            gates_last(weight)
            for weight in cells[0].weight_ih.tensor_split([embedded], dim=1)
        )
        self.layers, self.size = len(cells), size
        self.table = speller.embedding.weight @ from_token.t() + biases[0]  # (V, 4 * S)
        inputs = [cells[0].weight_hh]
        inputs += [torch.cat((c.weight_ih, c.weight_hh), dim=1) for c in cells[1:]]
        self.recurrent = [product(gates_last(weight), None) for weight in inputs]
        self.biases = biases

        query = attention.query.weight
        if not isinstance(attention, AdditiveAttention):
            query = query / math.sqrt(len(query) / attention.heads)
        self.heads = attention.heads
        self.v = self.filters = None
        self.times = query.new_ones(len(query))  # (A,) or (2 * A,), of queries and keys
        if isinstance(attention, AdditiveAttention):
            self.v = attention.energy.weight[0].clone()
            self.activation, self.block_size = (
                attention.activation,
                attention.block_size,
            )
            if attention.block_size:
                self.across = attention.across.weight[0].clone()
        if isinstance(attention, LocationAwareAttention):
            self.filters = shifted(attention.filters)
            self.location = attention.location.weight.t().contiguous()
        if self.v is not None and self.activation == "tanh":
            self._double(len(self.v))
        query = query * self.times[:, None]
        self.query = product(query, None)
        self.by_products = (  # s_i is above -1 and below 1
            self.v is not None
            and self.activation == "tanh"
            and self.filters is None
            and bool(query.abs().sum(dim=1).max() < _LARGEST_EXPONENT)
        )
        hidden, from_context_too = speller.hidden.weight.tensor_split([size], dim=1)
        self.shares = product(torch.cat((from_context, from_context_too)), None)
        self.hidden = product(hidden, speller.hidden.bias)
        self.output = product(speller.output.weight, speller.output.bias)

    def _double(self, size: int) -> None:
        """Let sigmoids stand for the A tanhs of a comparison: see above."""
        assert self.v is not None
        self.times[:size] = 2
        self.v = 2 * self.v
        if self.filters is not None:
            self.location = 2 * self.location

    @property
    def width(self) -> int:
        """W."""
        return 2 * self.layers * self.size

    def read(self, gates: Tensor, old: Tensor, new: Tensor) -> Tensor:
        """Read one more token.

        Args:
            gates: (R, 4 * S) what token and context add to those of the first layer;
                is used up.
            old: (R, W) states and cells, first all states.
            new: (R, W) is filled with those after the token.

        Returns:
            (R, S) s_i, a part of `new`.
        """
        count = 2 * self.layers
        old_parts, new_parts = old.chunk(count, dim=1), new.chunk(count, dim=1)
        s = new_parts[0]
        for layer, product in enumerate(self.recurrent):
            below, cell = old_parts[layer], old_parts[self.layers + layer]
            if layer > 0:
                gates = self.biases[layer].repeat(len(old), 1)
                below = torch.cat((s, below), dim=1)
            product.add_to(gates, below)
            s = new_parts[layer]
            step_forward(gates, cell, new_parts[self.layers + layer], s)
        return s


class StepsState(NamedTuple):
    """State of `LASSteps`: of R hypotheses, and what of the memory they still need."""

    kept: Tensor
    """(R, 4 * S + W) the context's share of the next gates, all states, all cells."""
    weights: Tensor
    """(R, J) alpha_i."""
    attended: Tensor | None
    """(R, J) attention summed over the characters so far, if it counts."""
    memory: AttentionMemory
    """Its h holds (B, N * J, 5 * S) shares of the gates and of the MLP in place of h_j,
    one head's after the other's, perhaps in bfloat16; its keys are those that are
    compared."""
    padding: Tensor
    """(B, 1, 1, J) bool, True on padding."""
    blocks: Blocks | None
    """Of a hierarchical attention."""


class LASSteps:
    """Scores of the next token, row by row: a `StepModel` for one search at a time.

    Args:
        weights: of the speller.
        memory: of B utterances.
        start: (B, J) weights before the first character.
        coverage: bonus for each listener step that a hypothesis has looked at for more
            than half a character; 0 leaves log P as it is.
    """

    @torch.no_grad()
    def __init__(
        self,
        weights: StepWeights,
        memory: AttentionMemory,
        start: Tensor,
        coverage: float,
    ) -> None:
        self.weights, self.coverage = weights, coverage
        self._buffer, self._one = memory.h.new_empty(0), memory.h.new_ones(1)
        shares = weights.shares(_seen_by_heads(memory.h, weights.heads).flatten(0, 2))
        shares = shares.view(len(memory.h), -1, shares.size(1))
        if weights.rounds_shares:
            shares = shares.bfloat16()
        keys = memory.keys * weights.times
        self.by_products = weights.by_products and self._to_exponentials(keys)
        self._start = StepsState(
            kept=memory.h.new_zeros(len(start), 4 * weights.size + weights.width),
            weights=start,
            attended=torch.zeros_like(start) if coverage else None,
            memory=memory._replace(h=shares, keys=keys),
            padding=~memory.valid[:, None, None],
            blocks=self._cut_blocks(memory),
        )

    def _to_exponentials(self, keys: Tensor) -> bool:
        """Make exp(-2 k) of (B, J, A or 2 * A) keys times 2, where that can be."""
        assert self.weights.v is not None
        inside = keys[:, :, : len(self.weights.v)]
        if not bool(inside.abs().max() < _LARGEST_EXPONENT):
            return False
        inside.neg_().exp_()
        return True

    def start(self) -> StepsState:
        """State of B rows that hold nothing but <sos>."""
        return self._start

    @torch.no_grad()
    def step(self, tokens: Tensor, state: StepsState) -> tuple[Tensor, StepsState]:
        """(R,) last tokens -> (R, V) log P of the next, and the new state."""
        model, old = self.weights, state.kept
        share = 4 * model.size
        new = torch.empty_like(old)
        gates = model.table.index_select(0, tokens).add_(old[:, :share])
        s = model.read(gates, old[:, share:], new[:, share:])
        weights, shares = self._attend(s, state)
        new[:, :share] = shares[:, :share]
        hidden_layer = model.hidden(s).add_(shares[:, share:]).tanh_()
        scores = model.output(hidden_layer).log_softmax(dim=-1)
        attended = state.attended
        if attended is not None:
            after = attended + weights
            scores = scores + self.coverage * newly_covered(attended, after)
            attended = after
        state = state._replace(kept=new, weights=weights, attended=attended)
        return scores, state

    def _attend(self, s: Tensor, state: StepsState) -> tuple[Tensor, Tensor]:
        """(R, S) s_i -> (R, J) alpha_i, and (R, 5 * S) the context's shares."""
        model, memory = self.weights, state.memory
        batch, steps = len(memory.h), state.weights.size(1)
        query = model.query(s).view(batch, -1, model.query.size)
        previous = state.weights.view(batch, -1, steps)
        energies = self.energies(query, memory, previous)
        if state.blocks:
            energies = self._across(energies, query, state.blocks)
        weights = energies.masked_fill_(state.padding, -torch.inf).softmax(dim=-1)
        shares = torch.bmm(weights.flatten(2).to(memory.h.dtype), memory.h)
        weights = weights[:, :, 0] if model.heads == 1 else weights.mean(dim=2)
        return weights.flatten(0, 1), shares.flatten(0, 1)

    def energies(
        self, query: Tensor, memory: AttentionMemory, previous: Tensor
    ) -> Tensor:
        """(B, K, A) W s_i, (B, K, J) previous weights -> (B, K, N, J) e_i.

        Of an additive attention, e_i but for a number that is the same for all steps of
        a row. Of a hierarchical one queries and keys hold 2 * A numbers; the first half
        of them is compared here.
        """
        model = self.weights
        if model.v is None:
            queries = split_heads(query, model.heads)
            keys = split_heads(memory.keys, model.heads)
            return (queries @ keys.transpose(2, 3)).transpose(1, 2)
        batch, hypotheses, _ = query.shape
        steps, size = memory.keys.size(1), len(model.v)
        inside, keys = query[:, :, :size], memory.keys[:, :, :size]
        seen = self._seen(previous)
        many = batch * hypotheses * steps >= WORTH_COMPILING
        if many and query.device.type == "cpu" and model.activation == "relu":
            features = None if seen is None else self._features(seen)
            location = None if seen is None else model.location
            num_steps = memory.valid.sum(dim=1)
            parts = (keys, inside, features, location, model.v, num_steps)
            found = compiled_energies(*parts)
            if found is not None:
                return found[:, :, None]
        return self._compare_in_parts(inside, keys, seen)[:, :, None]

    def _compare_in_parts(
        self, query: Tensor, keys: Tensor, seen: Tensor | None
    ) -> Tensor:
        """(B, K, A) queries, (B, J, A) keys, what filters see -> (B, K, J) energies."""
        model = self.weights
        assert model.v is not None
        batch, hypotheses, size = query.shape
        steps = keys.size(1)
        most = batch * hypotheses  # rows at once
        if query.device.type == "cpu":
            most = min(most, max(1, _IN_CACHE // (steps * size)))
        few, utterances = min(most, hypotheses), max(1, most // hypotheses)
        buffer = self._scratch(most * steps * size)
        if self.by_products:
            query = query.neg().exp_()
        found = query.new_empty(batch, hypotheses, steps)
        for start in range(0, batch, utterances):
            for first in range(0, hypotheses, few):
                at = slice(start, start + utterances), slice(first, first + few)
                asked, out = query[at], found[at]
                compared = buffer[: out.numel() * size].view(*out.shape, size)
                x = keys[at[0], None]
                if seen is not None:
                    features = self._features(seen[at])[:, :, :steps]
                    x = compared.copy_(x)
                    features = features.reshape(-1, len(model.location))
                    x.view(-1, size).addmm_(features, model.location)
                if self.by_products:
                    torch.addcmul(self._one, x, asked[:, :, None], out=compared)
                    torch.matmul(compared.reciprocal_(), model.v, out=out)
                elif model.activation == "tanh":
                    torch.add(x, asked[:, :, None], out=compared)
                    torch.matmul(compared.sigmoid_(), model.v, out=out)
                else:  # max(0, x + y) = max(x, -y) + y; the softmax cancels v y
                    torch.maximum(x, -asked[:, :, None], out=compared)
                    torch.matmul(compared, model.v, out=out)
        return found

    def _features(self, seen: Tensor) -> Tensor:
        """(B, K, ...) what filters see -> (B, K, J or more, F) location features."""
        model = self.weights
        assert model.filters is not None
        features = seen.flatten(0, 2) @ model.filters
        return features.view(*seen.shape[:2], -1, len(model.location))

    def _seen(self, previous: Tensor) -> Tensor | None:
        """(B, K, J) weights -> (B, K, ceil(J / TOGETHER), ...) what filters see."""
        if self.weights.filters is None:
            return None
        return seen_together(previous, len(self.weights.filters))

    def _cut_blocks(self, memory: AttentionMemory) -> Blocks | None:
        model = self.weights
        if model.v is None or not model.block_size:
            return None
        return cut_blocks(
            memory.keys[:, :, len(model.v) :], memory.valid, model.block_size
        )

    def _across(self, energies: Tensor, query: Tensor, blocks: Blocks) -> Tensor:
        """(B, K, 1, J) e_i inside -> (B, K, 1, J) log(alpha_i beta_i)."""
        model = self.weights
        assert model.v is not None
        query = query[:, :, len(model.v) :]
        looked = attend_across(
            energies[:, :, 0], query, blocks, model.across, model.activation
        )
        return looked.log_weights[:, :, None]

    def _scratch(self, count: int) -> Tensor:
        """Give memory to work in: the same in each step, as new pages cost time."""
        if self._buffer.numel() < count:
            self._buffer = self._buffer.new_empty(count)
        return self._buffer

    def select(self, state: StepsState, rows: Tensor) -> StepsState:
        """Keep the rows (B', K') of the B' utterances that they belong to."""
        batch = len(state.memory.h)
        memory, padding, blocks = state.memory, state.padding, state.blocks
        if len(rows) != batch:
            utterances = rows[:, 0] // (len(state.kept) // batch)
            memory, padding = memory.select(utterances), padding[utterances]
            blocks = blocks.select(utterances) if blocks else None
        rows = rows.flatten()
        return StepsState(
            state.kept.index_select(0, rows),
            state.weights.index_select(0, rows),
            None if state.attended is None else state.attended.index_select(0, rows),
            memory,
            padding,
            blocks,
        )


class InternalLMSteps:
    """The language model inside the speller: its scores where all c_i are zero.

    A `StepModel`, whose state is (R, W) all states and cells of the hypotheses.

    Args:
        weights: of the speller.
        num_utterances: B.

    Source: Meng et al. (2020), arXiv:2011.01991, section 3.2.
    """

    def __init__(self, weights: StepWeights, num_utterances: int) -> None:
        self.weights = weights
        self._start = weights.table.new_zeros(num_utterances, weights.width)

    def start(self) -> Tensor:
        """State of B rows that hold nothing but <sos>."""
        return self._start

    @torch.no_grad()
    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(R,) last tokens -> (R, V) log P of the next, and the new state."""
        model, new = self.weights, torch.empty_like(state)
        s = model.read(model.table.index_select(0, tokens), state, new)
        return model.output(model.hidden(s).tanh_()).log_softmax(dim=-1), new

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        """Keep the rows (B', K')."""
        return state.index_select(0, rows.flatten())


def _seen_by_heads(h: Tensor, heads: int) -> Tensor:
    """(B, J, H) -> (B, N, J, H) what each head sees of h_j, zeros for the rest."""
    if heads == 1:
        return h[:, None]
    size = h.size(2) // heads
    sees = torch.eye(heads, dtype=h.dtype, device=h.device)
    sees = sees.repeat_interleave(size, dim=1)  # (N, H)
    return h[:, None] * sees[:, None]
