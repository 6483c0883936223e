"""The speller's loop on a GPU: what `teacher_forcing` does, in few kernels a character.

On a GPU the loop of `teacher_forcing` waits for its launches, about 22 a character
forward and 50 back. Here they are 5 and 7: products are torch's (so the switches for
TF32 count), and what is between two of them is one kernel of `fused_kernels`. Nothing
waits for the GPU, and all shapes follow from those of the arguments, so the loop can be
captured into a CUDA graph once it has run.

`spell_loop` takes this loop for float32 on a GPU where Triton works; a hierarchical
attention keeps the plain loop. `choose_fused` says otherwise, for comparisons.

Shapes: see `teacher_forcing`. Rows are B * N heads of utterances.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor

from asr.model.loop_weights import LoopSettings, LoopWeights

_chosen = ContextVar[bool | None]("fused", default=None)


@contextmanager
def choose_fused(fused: bool) -> Iterator[None]:
    """Take the fused loop, or the plain one, in this block, whatever the device.

    A hierarchical attention has the plain loop only.
    """
    token = _chosen.set(fused)
    try:
        yield
    finally:
        _chosen.reset(token)


def is_fused(gates: Tensor, settings: LoopSettings) -> bool:
    """Return whether the loop over these gates is to be fused."""
    chosen = _chosen.get()
    if chosen is False or settings.block_size:
        return False
    if chosen:
        return True
    return gates.is_cuda and gates.dtype == torch.float32 and kernels_work(gates.device)


@cache
def kernels_work(device: torch.device) -> bool:
    """Return whether Triton can build and run a kernel here; try it once.

    It cannot where it is not installed or has no C compiler, say. Then one line is
    printed to stderr.
    """
    try:
        from asr.model.fused_kernels import lstm_forward

        sums, cell, *out = torch.zeros(5, 4, device=device)[:, None].unbind()
        lstm_forward(sums, cell[:, :1], *(x[:, :1] for x in out))
    except Exception as error:  # Triton has no class for all that can be missing
        print(
            f"asr: Triton does not work on {device} ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}): the speller's loop is not fused, "
            "and slower",
            file=sys.stderr,
            flush=True,
        )
        return False
    return True


class FusedLoop(torch.autograd.Function):
    """The loop itself; arguments and results are those of the plain one."""

    @staticmethod
    def forward(
        ctx: Any, settings: LoopSettings, gates: Tensor, *flat: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        from asr.model.fused_kernels import lstm_forward

        weights = LoopWeights.of(flat)
        recurrent, biases = weights.recurrent, weights.biases
        num_tokens, batch, _ = gates.shape
        query_size, size = weights.query.shape
        rows, steps, _ = weights.h.shape

        # Of a layer: what is below (the context, or the states of the layer below),
        # then its own state before. Kernels write straight into them.
        inputs = [gates.new_empty(num_tokens + 1, batch, w.size(1)) for w in recurrent]
        acts = [gates.clone(memory_format=torch.contiguous_format)]
        acts += [bias.repeat(num_tokens, batch, 1) for bias in biases]
        cells = [gates.new_empty(num_tokens + 1, batch, size) for _ in recurrent]
        for start in (*inputs, *cells):
            start[0].zero_()
        states = gates.new_empty(num_tokens, batch, size)
        alphas = gates.new_empty(num_tokens + 1, rows, steps)
        alphas[0] = settings.start
        queries = gates.new_empty(num_tokens, batch, query_size)
        transposed = [weight.t() for weight in recurrent]
        query_transposed = weights.query.t()
        look = _look(settings, weights)
        above = [*(x[:, :, :size] for x in inputs[1:]), states]

        with torch.cuda.device_of(gates):
            for i in range(num_tokens):
                for layer, weight in enumerate(transposed):
                    act, cell = acts[layer][i], cells[layer]
                    act.addmm_(inputs[layer][i], weight)
                    hidden = inputs[layer][i + 1, :, -size:]
                    lstm_forward(act, cell[i], cell[i + 1], hidden, above[layer][i])
                torch.mm(states[i], query_transposed, out=queries[i])
                query = queries[i].view(rows, -1)
                look.forward(query, alphas[i], alphas[i + 1], inputs[0][i + 1])

        ctx.save_for_backward(alphas, queries, *flat)
        ctx.settings = settings
        ctx.buffers = inputs, acts, cells, states
        contexts = inputs[0][1:, :, :-size]
        return states.view_as(states), contexts, alphas[1:]

    @staticmethod
    def backward(
        ctx: Any, d_states: Tensor, d_contexts: Tensor, d_alphas: Tensor
    ) -> tuple[Tensor | None, ...]:
        from asr.model.fused_kernels import lstm_backward

        alphas, queries, *flat = ctx.saved_tensors
        weights = LoopWeights.of(flat)
        recurrent = weights.recurrent
        inputs, acts, cells, states = ctx.buffers
        d_states, d_contexts = d_states.contiguous(), d_contexts.contiguous()
        d_alphas = d_alphas.contiguous()
        num_tokens, batch, size = d_states.shape
        rows, top = len(weights.h), len(recurrent) - 1

        d_gates = [torch.empty_like(act) for act in acts]
        d_queries, d_context = torch.empty_like(queries), torch.empty_like(d_contexts)
        d_inputs = [d_states.new_zeros(batch, w.size(1)) for w in recurrent]
        d_cells = [torch.zeros_like(cell[0]) for cell in cells]
        d_looked = torch.empty_like(states[0])
        look = _look(ctx.settings, weights)
        look.prepare_backward(num_tokens)

        for i in reversed(range(num_tokens)):
            query, d_query = (x[i].view(rows, -1) for x in (queries, d_queries))
            around = alphas[i], alphas[i + 1]
            d_outside = d_contexts[i], d_inputs[0], d_alphas[i]
            look.backward(i, query, *around, *d_outside, d_context[i], d_query)
            torch.mm(d_queries[i], weights.query, out=d_looked)
            for layer in reversed(range(top + 1)):
                lstm_backward(
                    acts[layer][i],
                    cells[layer][i],
                    cells[layer][i + 1],
                    d_states[i] if layer == top else d_inputs[layer + 1][:, :size],
                    d_inputs[layer][:, -size:],
                    d_looked if layer == top else None,
                    d_cells[layer],
                    d_gates[layer][i],
                )
                torch.mm(d_gates[layer][i], recurrent[layer], out=d_inputs[layer])

        d_context = d_context.view(num_tokens, rows, -1)
        gradients = look.gradients(queries.view(num_tokens, rows, -1), alphas)._replace(
            h=alphas[1:].permute(1, 2, 0) @ d_context.transpose(0, 1),
            query=d_queries.flatten(0, 1).t() @ states.flatten(0, 1),
            recurrent=tuple(
                d.flatten(0, 1).t() @ x[:-1].flatten(0, 1)
                for d, x in zip(d_gates, inputs, strict=True)
            ),
            biases=tuple(d.sum(dim=(0, 1)) for d in d_gates[1:]),
        )
        return None, d_gates[0], *gradients.flat()


class _Look:
    """Energies, weights and context of a character, and the way back.

    What the query gets from each of T tiles of steps is added up by torch.
    """

    def __init__(self, settings: LoopSettings, weights: LoopWeights) -> None:
        from asr.model import fused_kernels

        self.kernels, self.settings, self.weights = fused_kernels, settings, weights
        self.h, self.keys = weights.h.contiguous(), weights.keys.contiguous()
        self.penalty = self.h.new_zeros(self.h.shape[:2])  # (rows, J)
        self.penalty.masked_fill_(~settings.valid, -torch.inf)
        self.energies = torch.empty_like(self.penalty)
        self.d_filtered: Tensor | None = None

    def forward(
        self, query: Tensor, previous: Tensor, alpha: Tensor, context: Tensor
    ) -> None:
        """(rows, A), (rows, J) -> alpha (rows, J), context (B, N * H + …) are filled."""
        self._energies(query, previous)
        self.kernels.look(self.energies, self.h, alpha, context)

    def prepare_backward(self, num_tokens: int) -> None:
        """Make the buffers of the way back."""
        rows, steps, size = self.keys.shape
        self.d_alpha = torch.empty_like(self.penalty)
        self.d_energies = self.h.new_empty(num_tokens, rows, steps)
        self.tiles = -(-steps // self.kernels.tile_of(size))  # T
        self.d_query_parts = self.h.new_empty(rows, self.tiles, size)

    def backward(
        self,
        i: int,
        query: Tensor,
        previous: Tensor,
        alpha: Tensor,
        d_contexts: Tensor,
        d_inputs: Tensor,
        d_alphas: Tensor,
        d_context: Tensor,
        d_query: Tensor,
    ) -> None:
        """Go back through character i; d_context (B, N * H) and d_query are filled."""
        self.kernels.alphas_backward(
            self.h,
            d_contexts,
            d_inputs,
            d_alphas,
            self.d_filtered,
            self.weights.filters,
            d_context,
            self.d_alpha,
        )
        self._energies_backward(query, previous, alpha, self.d_energies[i])
        torch.sum(self.d_query_parts, dim=1, out=d_query)

    def gradients(self, queries: Tensor, alphas: Tensor) -> LoopWeights:
        """(I, rows, A), (I + 1, rows, J) -> what keys and energies' weights get."""
        raise NotImplementedError

    def _energies(self, query: Tensor, previous: Tensor) -> None:
        raise NotImplementedError

    def _energies_backward(
        self, query: Tensor, previous: Tensor, alpha: Tensor, d_energies: Tensor
    ) -> None:
        raise NotImplementedError


class _LookDot(_Look):
    def _energies(self, query: Tensor, previous: Tensor) -> None:
        self.kernels.dot_energies(query, self.keys, self.penalty, self.energies)

    def _energies_backward(
        self, query: Tensor, previous: Tensor, alpha: Tensor, d_energies: Tensor
    ) -> None:
        self.kernels.dot_backward(
            self.keys, alpha, self.d_alpha, d_energies, self.d_query_parts
        )

    def gradients(self, queries: Tensor, alphas: Tensor) -> LoopWeights:
        d_keys = self.d_energies.permute(1, 2, 0) @ queries.transpose(0, 1)
        return self.weights._replace(keys=d_keys / self.keys.size(2) ** 0.5)


class _LookAdditive(_Look):
    def __init__(self, settings: LoopSettings, weights: LoopWeights) -> None:
        super().__init__(settings, weights)
        v, filters, location = weights.v, weights.filters, weights.location
        assert v is not None
        self.v, self.filters, self.location = v.contiguous(), filters, location
        if filters is not None and location is not None:
            self.filters = filters.contiguous()  # (F, R)
            self.location = location.t().contiguous()  # (F, A)

    def prepare_backward(self, num_tokens: int) -> None:
        super().prepare_backward(num_tokens)
        rows, steps, _ = self.keys.shape
        if self.filters is not None:
            self.d_filtered = self.h.new_zeros(rows, len(self.filters), steps)

    def _energies(self, query: Tensor, previous: Tensor) -> None:
        self.kernels.additive_energies(
            query,
            self.keys,
            previous,
            self.penalty,
            self.v,
            self.filters,
            self.location,
            self.settings.activation,
            self.energies,
        )

    def _energies_backward(
        self, query: Tensor, previous: Tensor, alpha: Tensor, d_energies: Tensor
    ) -> None:
        self.kernels.additive_backward(
            query,
            self.keys,
            previous,
            self.v,
            self.filters,
            self.location,
            self.settings.activation,
            alpha,
            self.d_alpha,
            d_energies,
            self.d_query_parts,
            self.d_filtered,
        )

    def gradients(self, queries: Tensor, alphas: Tensor) -> LoopWeights:
        d_keys, v, filters, location = torch.empty_like(self.keys), self.v, None, None
        parts = len(self.keys), self.tiles
        d_v = v.new_empty(*parts, *v.shape)
        if self.filters is not None and self.location is not None:
            filters = v.new_empty(*parts, *self.filters.shape)
            location = v.new_empty(*parts, *self.location.shape)
        self.kernels.weights_backward(
            queries,
            self.keys,
            alphas,
            v,
            self.filters,
            self.location,
            self.settings.activation,
            self.d_energies,
            d_keys,
            d_v,
            filters,
            location,
        )
        return self.weights._replace(
            keys=d_keys,
            v=d_v.sum(dim=(0, 1)),
            filters=None if filters is None else filters.sum(dim=(0, 1)),
            location=None if location is None else location.sum(dim=(0, 1)).t(),
        )


def _look(settings: LoopSettings, weights: LoopWeights) -> _Look:
    """Build the look that these weights are of."""
    kind = _LookDot if weights.v is None else _LookAdditive
    return kind(settings, weights)
