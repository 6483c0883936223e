"""The speller's loop over a whole target as one function, with its backward by hand.

Computes what `Speller.step` computes, character by character, when all characters that
are fed are known beforehand. Three things make it fast and small:

- the embedding's share of the gates is one product before the loop, and the gradients
  of all weights are one product after it;
- the comparison of state and steps, (B, J, A) a character, is not kept for the backward
  pass but worked out again;
- everything is written into buffers that were made once.

On a GPU `fused_steps` does the same with a few kernels a character.

The plain formula is `Speller.spell_by_steps`; tests hold values and gradients together.
Only the attentions of `attention.BUILT_IN` have their backward written here; with any
other `Speller.spell` takes the plain formula.

Shapes: B utterances, I tokens, J listener steps, H listener size, S speller size,
        A attention size, R steps that each of F location filters spans, D input size of
        a layer, N heads. In the loop a head of an utterance is an utterance of its own:
        B * N of them with H / N and A / N numbers a step. A hierarchical attention has
        M blocks of G steps and queries and keys of 2 * A.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from asr.model.attention import (
    TOGETHER,
    Across,
    AdditiveAttention,
    Attention,
    AttentionMemory,
    LocationAwareAttention,
    attend_across,
    cut_blocks,
    seen_together,
    shifted,
    split_heads,
)
from asr.model.fused_steps import FusedLoop, is_fused
from asr.model.loop_weights import LoopSettings, LoopWeights
from asr.model.lstm import gates_last, step_backward, step_forward


class Spelled(NamedTuple):
    """What the speller's loop went through."""

    states: Tensor
    """(I, B, S) s_i of the highest layer."""
    contexts: Tensor
    """(I, B, H) c_i."""
    weights: Tensor
    """(I, B, J) alpha_i."""


def spell_loop(
    gates: Tensor,
    cells: Sequence[nn.LSTMCell],
    attention: Attention,
    memory: AttentionMemory,
) -> Spelled:
    """Run the speller over a whole target.

    Args:
        gates: (I, B, 4 * S) share of the embedded tokens, and the biases, in the gates
            of the lowest layer, in the order of `gates_last`.
        cells: the speller's layers; the lowest reads [embedded token ; context].
        attention: what looks at the memory.
        memory: what it looks at.
    """
    context_size = memory.h.size(2)
    recurrent = [
        gates_last(torch.cat((cell.weight_ih[:, -size:], cell.weight_hh), dim=1))
        for cell, size in zip(
            cells, [context_size, *(cell.hidden_size for cell in cells)], strict=False
        )
    ]
    biases = [gates_last(cell.bias_ih + cell.bias_hh) for cell in cells[1:]]
    if not attention.has_fast_path():
        raise TypeError(f"no backward is written for {type(attention).__name__}")
    heads = attention.heads
    h, keys = (split_heads(x, heads).flatten(0, 1) for x in (memory.h, memory.keys))
    weights = LoopWeights(h, keys, attention.query.weight, (*recurrent,), (*biases,))
    activation = "tanh"
    if isinstance(attention, AdditiveAttention):
        activation = attention.activation
        weights = weights._replace(v=attention.energy.weight[0])
        if attention.block_size:
            weights = weights._replace(across=attention.across.weight[0])
    if isinstance(attention, LocationAwareAttention):
        weights = weights._replace(
            filters=attention.filters, location=attention.location.weight
        )
    settings = LoopSettings(
        activation,
        attention.block_size,
        memory.valid.repeat_interleave(heads, dim=0),
        attention.start(memory).repeat_interleave(heads, dim=0),
    )
    loop = FusedLoop if is_fused(gates, settings) else _Loop
    states, contexts, alphas = loop.apply(  # type: ignore[no-untyped-call]
        settings, gates, *weights.flat()
    )
    return Spelled(states, contexts, alphas.unflatten(1, (-1, heads)).mean(dim=2))


class _Energy(Protocol):
    """Energies, and how a gradient flows back through them.

    The gradients of the weights add up from one `backward` to the next. None stands
    for a weight that there is not.
    """

    @property
    def d_keys(self) -> Tensor:
        """(B, J, A), once the loop is through."""

    @property
    def d_v(self) -> Tensor | None:
        """(A,)."""

    @property
    def d_across(self) -> Tensor | None:
        """(A,)."""

    @property
    def d_filters(self) -> Tensor | None:
        """(F, R)."""

    @property
    def d_location(self) -> Tensor | None:
        """(A, F)."""

    def forward(self, query: Tensor, previous: Tensor) -> Tensor:
        """(B, A), (B, J) -> (B, J)."""

    def backward(
        self, d_energies: Tensor, query: Tensor, previous: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """(B, J) -> gradients of query (B, A) and of previous (B, J); adds the rest."""


class _Compared(NamedTuple):
    """What an additive attention compares for one character."""

    active: Tensor
    """(B, J, A) in a buffer."""
    seen: Tensor | None
    """(B * J' / TOGETHER, R - 1 + TOGETHER) previous weights around some steps, if they
    count; J' is J filled up."""
    filtered: Tensor | None
    """(B * J, F) the same, filtered."""


class _Additive:
    """v . act(query_b + keys_bj [+ L f_bj]), f = filters * previous weights.

    With tanh x = 2 sigmoid(2 x) - 1, as torch's sigmoid takes a sixth of the time of
    its tanh on a CPU. The energies are then 2 v . sigmoid(...): more than they were by
    the same number for all steps, of which a softmax takes no notice.
    """

    def __init__(
        self,
        keys: Tensor,
        v: Tensor,
        filters: Tensor | None,
        location: Tensor | None,
        activation: str,
    ) -> None:
        self.tanh = activation == "tanh"
        self.times = 2 if self.tanh else 1  # of x and of v
        self.keys, self.v = keys * self.times, v * self.times
        self.slope = self.v * self.times  # of the energies, but for that of act
        self.filters, self.location = filters, location  # (F, R), (A, F)
        self.shifted = torch.empty(0) if filters is None else shifted(filters)
        self.flat = (keys.size(0) * keys.size(1), keys.size(2))  # (B * J, A)
        self.d_keys, self.d_v = torch.zeros_like(keys), torch.zeros_like(v)
        self.d_across: Tensor | None = None
        self._d_shifted = torch.zeros_like(self.shifted)
        self.d_location = None if location is None else torch.zeros_like(location)
        self.buffer, self.d_buffer = torch.empty_like(keys), torch.empty_like(keys)

    @property
    def d_filters(self) -> Tensor | None:
        """(F, R), once the loop is through."""
        if self.filters is None:
            return None
        count, taps = self.filters.shape
        d = self._d_shifted.t().view(TOGETHER, count, -1)
        return sum(
            (d[step, :, step : step + taps] for step in range(TOGETHER)),
            start=torch.zeros_like(self.filters),
        )

    def forward(self, query: Tensor, previous: Tensor) -> Tensor:
        return self.energies(self.compare(query, previous))

    def energies(self, compared: "_Compared") -> Tensor:
        """(B, J) of what was compared."""
        return compared.active @ self.v

    def backward(
        self, d_energies: Tensor, query: Tensor, previous: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        return self.give_back(d_energies, self.compare(query, previous))

    def compare(self, query: Tensor, previous: Tensor) -> "_Compared":
        """(B, A), (B, J) -> what is compared, until the next call."""
        if self.filters is None:
            return _Compared(self._active(query, None), None, None)
        batch, steps = previous.shape
        seen = seen_together(previous, len(self.shifted)).flatten(0, 1)
        filtered = (seen @ self.shifted).view(batch, -1, len(self.filters))
        filtered = filtered[:, :steps].flatten(0, 1)  # (B * J, F)
        return _Compared(self._active(query, filtered), seen, filtered)

    def give_back(
        self, d_energies: Tensor, compared: "_Compared"
    ) -> tuple[Tensor, Tensor | None]:
        """Do what `backward` does, with what was compared before."""
        active, seen, filtered = compared
        self.d_v.addmv_(
            active.view(self.flat).t(), d_energies.reshape(-1), alpha=self.times
        )
        d_compared = self._through_activation(d_energies, active)
        self.d_keys += d_compared
        d_query = d_compared.sum(dim=1)
        if filtered is None or self.d_location is None:
            return d_query, None
        assert seen is not None
        assert self.location is not None
        d_compared = d_compared.view(self.flat)
        self.d_location.addmm_(d_compared.t(), filtered)
        batch, steps = d_energies.shape
        d_filtered = (d_compared @ self.location).view(batch, steps, -1)
        d_filtered = nn.functional.pad(d_filtered, (0, 0, 0, -steps % TOGETHER))
        d_filtered = d_filtered.view(-1, self.shifted.size(1))
        self._d_shifted.addmm_(seen.t(), d_filtered)
        given = d_filtered @ self.shifted.t()
        return d_query, _given_back(given.view(batch, -1, given.size(1)), steps)

    def _active(self, query: Tensor, filtered: Tensor | None) -> Tensor:
        """(B, A), (B * J, F) -> (B, J, A), in the buffer."""
        x, query, times = self.buffer, query[:, None], self.times
        if self.location is None or filtered is None:
            torch.add(self.keys, query, alpha=times, out=x)
        else:
            flat, location = x.view(self.flat), self.location.t()
            torch.addmm(
                self.keys.view(self.flat), filtered, location, alpha=times, out=flat
            )
            x.add_(query, alpha=times)
        return x.sigmoid_() if self.tanh else x.relu_()

    def _through_activation(self, d_energies: Tensor, active: Tensor) -> Tensor:
        """(B, J), (B, J, A) -> (B, J, A) gradient of what is compared."""
        d_compared = torch.mul(d_energies[:, :, None], self.slope, out=self.d_buffer)
        operators = torch.ops.aten
        if self.tanh:
            operators.sigmoid_backward.grad_input(
                d_compared, active, grad_input=d_compared
            )
        else:
            operators.threshold_backward.grad_input(
                d_compared, active, 0.0, grad_input=d_compared
            )
        return d_compared


def _given_back(given: Tensor, steps: int) -> Tensor:
    """(B, J' / TOGETHER, ...) gradients of what is seen together -> (B, J)."""
    batch, groups, width = given.shape
    padded = [batch, groups * TOGETHER + width - TOGETHER]  # as `seen_together` pads
    found: Tensor = torch.ops.aten.unfold_backward(given, padded, 1, width, TOGETHER)
    reach = (width - TOGETHER) // 2
    return found[:, reach : reach + steps]


class _Hierarchical:
    """log(alpha beta) of `attend_across`; inside it is additive or location-aware."""

    def __init__(
        self,
        inside: _Additive,
        valid: Tensor,
        keys: Tensor,
        v: Tensor,
        block_size: int,
        activation: str,
    ) -> None:
        self.inside, self.v, self.activation = inside, v, activation
        self.blocks = cut_blocks(keys, valid, block_size)
        self.d_across = torch.zeros_like(v)
        self.d_v, self.d_location = inside.d_v, inside.d_location
        self._alphas, self._d_contexts = list[Tensor](), list[Tensor]()

    @property
    def d_keys(self) -> Tensor:
        """(B, J, 2 * A): of inside and across, once the loop is through."""
        alphas = torch.stack(self._alphas, dim=3)  # (B, M, G, I)
        d_across = alphas @ torch.stack(self._d_contexts, dim=2)  # (B, M, I, A)
        d_inside = self.inside.d_keys
        d_across = d_across.flatten(1, 2)[:, : d_inside.size(1)]
        return torch.cat((d_inside, d_across), dim=2)

    @property
    def d_filters(self) -> Tensor | None:
        """(F, R) of inside."""
        return self.inside.d_filters

    def forward(self, query: Tensor, previous: Tensor) -> Tensor:
        query_inside, query_across = query.chunk(2, dim=1)
        energies = self.inside.forward(query_inside, previous)
        return self._look(energies, query_across).log_weights[:, 0]

    def backward(
        self, d_energies: Tensor, query: Tensor, previous: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        query_inside, query_across = query.chunk(2, dim=1)
        compared = self.inside.compare(query_inside, previous)
        looked = self._look(self.inside.energies(compared), query_across)
        inside, active = looked.inside[:, 0], looked.active[:, 0]  # no axis K
        batch, blocks, size = inside.shape
        behind = blocks * size - d_energies.size(1)
        d = nn.functional.pad(d_energies, (0, behind)).view(batch, blocks, size)
        d_across = d.sum(dim=2)  # (B, M) of log beta; all d of an utterance sum to 0
        self.d_across += d_across.flatten() @ active.flatten(0, 1)
        slope = 1 - active.square() if self.activation == "tanh" else active > 0
        d_context = d_across[:, :, None] * self.v * slope  # (B, M, A) of U' c_im
        self._alphas.append(inside)
        self._d_contexts.append(d_context)
        d_alpha = (self.blocks.keys @ d_context[..., None])[..., 0]  # (B, M, G)
        d_inside = inside * d_alpha
        d_inside -= inside * (d_inside.sum(dim=2) + d_across)[:, :, None]
        d_inside = (d_inside + d).view(batch, -1)[:, : d_energies.size(1)]
        d_query, d_previous = self.inside.give_back(d_inside, compared)
        return torch.cat((d_query, d_context.sum(dim=1)), dim=1), d_previous

    def _look(self, energies: Tensor, query: Tensor) -> Across:
        return attend_across(
            energies[:, None], query[:, None], self.blocks, self.v, self.activation
        )


class _Dot:
    """query_b . keys_bj / sqrt(A)."""

    def __init__(self, keys: Tensor) -> None:
        self.keys, self.scale = keys, 1 / math.sqrt(keys.size(2))
        self.d_keys = torch.zeros_like(keys)
        self.d_v: Tensor | None = None
        self.d_across: Tensor | None = None
        self.d_filters: Tensor | None = None
        self.d_location: Tensor | None = None

    def forward(self, query: Tensor, previous: Tensor) -> Tensor:
        del previous
        return (self.keys @ query[:, :, None])[:, :, 0] * self.scale

    def backward(
        self, d_energies: Tensor, query: Tensor, previous: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        del previous
        d_energies = (d_energies * self.scale)[:, None]  # (B, J) -> (B, 1, J)
        self.d_keys.baddbmm_(d_energies.transpose(1, 2), query[:, None])
        return (d_energies @ self.keys)[:, 0], None


class _Loop(torch.autograd.Function):
    """The loop itself."""

    @staticmethod
    def forward(
        ctx: Any, settings: LoopSettings, gates: Tensor, *flat: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights = LoopWeights.of(flat)
        h, recurrent, biases = weights.h, weights.recurrent, weights.biases
        num_tokens, batch, _ = gates.shape
        query_size, size = weights.query.shape
        rows = len(h)  # B * N
        energy = _energy(settings, weights)
        padding = ~settings.valid

        inputs = [gates.new_empty(num_tokens, batch, w.size(1)) for w in recurrent]
        acts = [gates.clone()] + [bias.repeat(num_tokens, batch, 1) for bias in biases]
        hidden = [gates.new_zeros(num_tokens + 1, batch, size) for _ in recurrent]
        cell = [gates.new_zeros(num_tokens + 1, batch, size) for _ in recurrent]
        contexts = gates.new_zeros(num_tokens + 1, batch, rows // batch * h.size(2))
        alphas = gates.new_empty(num_tokens + 1, rows, h.size(1))
        alphas[0] = settings.start
        queries = gates.new_empty(num_tokens, batch, query_size)
        transposed = [weight.t() for weight in recurrent]
        query_transposed = weights.query.t()

        for i in range(num_tokens):
            below = contexts[i]
            for layer, weight in enumerate(transposed):
                torch.cat((below, hidden[layer][i]), dim=1, out=inputs[layer][i])
                act = acts[layer][i]
                act.addmm_(inputs[layer][i], weight)
                below = hidden[layer][i + 1]
                step_forward(act, cell[layer][i], cell[layer][i + 1], below)
            torch.mm(below, query_transposed, out=queries[i])
            energies = energy.forward(queries[i].view(rows, -1), alphas[i])
            energies.masked_fill_(padding, -torch.inf)
            torch.softmax(energies, dim=-1, out=alphas[i + 1])
            torch.bmm(alphas[i + 1][:, None], h, out=contexts[i + 1].view(rows, 1, -1))

        ctx.save_for_backward(alphas, queries, *flat)
        ctx.settings = settings
        ctx.buffers = inputs, acts, hidden, cell
        return hidden[-1][1:], contexts[1:], alphas[1:]

    @staticmethod
    def backward(
        ctx: Any, d_states: Tensor, d_contexts: Tensor, d_alphas: Tensor
    ) -> tuple[Tensor | None, ...]:
        alphas, queries, *flat = ctx.saved_tensors
        weights = LoopWeights.of(flat)
        h, recurrent = weights.h, weights.recurrent
        inputs, acts, hidden, cell = ctx.buffers
        num_tokens, batch, context_size = d_contexts.shape
        size, rows = weights.query.size(1), len(h)
        energy = _energy(ctx.settings, weights)
        h_transposed = h.transpose(1, 2)

        d_gates = [torch.empty_like(act) for act in acts]
        d_queries = torch.empty_like(queries)
        d_context_all = torch.empty_like(d_contexts)
        d_hidden = [h.new_zeros(batch, size) for _ in recurrent]
        d_cell = [h.new_zeros(batch, size) for _ in recurrent]
        d_context = h.new_zeros(batch, context_size)
        d_previous: Tensor | None = None

        for i in reversed(range(num_tokens)):
            torch.add(d_contexts[i], d_context, out=d_context_all[i])
            d_looked = d_context_all[i].view(rows, 1, -1) @ h_transposed
            d_alpha = d_looked[:, 0] + d_alphas[i]
            if d_previous is not None:
                d_alpha += d_previous
            alpha = alphas[i + 1]
            d_alpha -= (alpha * d_alpha).sum(dim=-1, keepdim=True)
            d_queries[i].view(rows, -1)[:], d_previous = energy.backward(
                d_alpha.mul_(alpha), queries[i].view(rows, -1), alphas[i]
            )
            above = d_states[i] + d_hidden[-1]
            above.addmm_(d_queries[i], weights.query)
            for layer in reversed(range(len(recurrent))):
                step_backward(
                    acts[layer][i],
                    cell[layer][i],
                    cell[layer][i + 1],
                    above,
                    d_cell[layer],
                    d_gates[layer][i],
                )
                d_input = d_gates[layer][i] @ recurrent[layer]
                below, d_hidden[layer] = d_input[:, :-size], d_input[:, -size:]
                if layer:
                    above = below + d_hidden[layer - 1]
                else:
                    d_context = below

        d_contexts = d_context_all.view(num_tokens, rows, -1)
        gradients = LoopWeights(
            h=alphas[1:].permute(1, 2, 0) @ d_contexts.transpose(0, 1),
            keys=energy.d_keys,
            query=d_queries.flatten(0, 1).t() @ hidden[-1][1:].flatten(0, 1),
            recurrent=tuple(
                d.flatten(0, 1).t() @ x.flatten(0, 1)
                for d, x in zip(d_gates, inputs, strict=True)
            ),
            biases=tuple(d.sum(dim=(0, 1)) for d in d_gates[1:]),
            v=energy.d_v,
            across=energy.d_across,
            filters=energy.d_filters,
            location=energy.d_location,
        )
        return None, d_gates[0], *gradients.flat()


def _energy(settings: LoopSettings, weights: LoopWeights) -> _Energy:
    """Build the energies that these weights are of."""
    keys, v, activation = weights.keys, weights.v, settings.activation
    if v is None:
        return _Dot(keys)
    located = weights.filters, weights.location
    if weights.across is None:
        return _Additive(keys, v, *located, activation)
    keys, keys_across = keys.chunk(2, dim=2)
    return _Hierarchical(
        _Additive(keys.contiguous(), v, *located, activation),
        settings.valid,
        keys_across,
        weights.across,
        settings.block_size,
        activation,
    )
