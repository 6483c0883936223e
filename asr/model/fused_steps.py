"""The speller's loop on a GPU: what `teacher_forcing` does, in few kernels a character.

On a GPU the loop of `teacher_forcing` waits for its launches, about 22 a character
forward and 50 back. Here they are 5 and 6: products are torch's (so the switches for
TF32 count), and what is between two of them is one kernel of `fused_kernels`. Nothing
waits for the GPU, and all shapes follow from those of the arguments, so the loop can be
captured into a CUDA graph once it has run.

`spell_loop` takes this loop for float32 on a GPU where Triton works; a hierarchical
attention keeps the plain loop. `choose_fused` says otherwise, for comparisons.

Shapes: see `teacher_forcing`. Rows are B * N heads of utterances.
"""

import math
import sys
from abc import ABC, abstractmethod
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
        """Return states (I, B, S), contexts (I, B, N * H) and weights (I, rows, J)."""
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
        look = _look(settings, weights, num_tokens)
        above = [*(x[:, :, :size] for x in inputs[1:]), states]

        with torch.cuda.device_of(gates):  # type: ignore[no-untyped-call]
            for i in range(num_tokens):
                for layer, weight in enumerate(transposed):
                    act, cell = acts[layer][i], cells[layer]
                    act.addmm_(inputs[layer][i], weight)
                    hidden = inputs[layer][i + 1, :, -size:]
                    lstm_forward(act, cell[i], cell[i + 1], hidden, above[layer][i])
                torch.mm(states[i], query_transposed, out=queries[i])
                query = queries[i].view(rows, -1)
                look.forward(i, query, alphas[i], alphas[i + 1], inputs[0][i + 1])

        ctx.save_for_backward(alphas, queries, *flat)
        ctx.settings = settings
        ctx.buffers = inputs, acts, cells, states, look.filtered
        contexts = inputs[0][1:, :, :-size]
        return states.view_as(states), contexts, alphas[1:]

    @staticmethod
    def backward(
        ctx: Any, d_states: Tensor, d_contexts: Tensor, d_alphas: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of what `forward` was given."""
        from asr.model.fused_kernels import lstm_backward

        alphas, queries, *flat = ctx.saved_tensors
        weights = LoopWeights.of(flat)
        recurrent = weights.recurrent
        inputs, acts, cells, states, filtered = ctx.buffers
        d_states, d_contexts = d_states.contiguous(), d_contexts.contiguous()
        d_alphas = d_alphas.contiguous()
        num_tokens, batch, size = d_states.shape
        rows, top = len(weights.h), len(recurrent) - 1

        d_gates = [torch.empty_like(act) for act in acts]
        d_queries, d_context = torch.empty_like(queries), torch.empty_like(d_contexts)
        d_inputs = [d_states.new_zeros(batch, w.size(1)) for w in recurrent]
        d_cells = [torch.zeros_like(cell[0]) for cell in cells]
        d_looked = torch.empty_like(states[0])
        look = _look(ctx.settings, weights, num_tokens, filtered)
        look.prepare_backward()

        for i in reversed(range(num_tokens)):
            query, d_query = (x[i].view(rows, -1) for x in (queries, d_queries))
            d_outside = d_contexts[i], d_inputs[0], d_alphas[i]
            look.backward(i, query, alphas[i + 1], *d_outside, d_context[i], d_query)
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


class _Look(ABC):
    """Energies, weights and context of a character, and the way back.

    What the query gets from each of T tiles of steps is added up by torch.
    """

    def __init__(
        self,
        settings: LoopSettings,
        weights: LoopWeights,
        num_tokens: int,
        filtered: Tensor | None = None,
    ) -> None:
        from asr.model import fused_kernels

        self.kernels, self.weights, self.num_tokens = fused_kernels, weights, num_tokens
        self.h, self.keys = weights.h.contiguous(), weights.keys.contiguous()
        self.penalty = self.h.new_zeros(self.h.shape[:2])  # (rows, J)
        self.penalty.masked_fill_(~settings.valid, -torch.inf)
        self.energies = torch.empty_like(self.penalty)
        self.activation = settings.activation
        self.filters: Tensor | None = None
        self.location: Tensor | None = None
        self.d_filtered: Tensor | None = None
        self.filtered = filtered  # (I, rows, F, J), if there are filters
        if weights.filters is not None and weights.location is not None:
            self.filters = weights.filters.contiguous()  # (F, R)
            self.location = weights.location.t().contiguous()  # (F, A)
            if filtered is None:
                self.filtered = self._for_filters(num_tokens)

    def prepare_backward(self) -> None:
        """Make the buffers of the way back."""
        rows, steps, size = self.keys.shape
        self.d_alpha = torch.empty_like(self.penalty)
        self.d_energies = self.h.new_empty(self.num_tokens, rows, steps)
        self.tiles = -(-steps // self.kernels.STEPS_TILE)  # T
        self.d_query_parts = self.h.new_empty(rows, self.tiles, size)
        if self.filters is not None:
            self.d_filtered = self._for_filters(self.num_tokens + 1)
            self.d_filtered[-1].zero_()  # no character comes after the last one

    def forward(
        self,
        i: int,
        query: Tensor,
        previous: Tensor,
        alpha: Tensor,
        context: Tensor,
    ) -> None:
        """Look for character i.

        Args:
            i: which.
            query: (rows, A).
            previous: (rows, J) alpha_{i-1}.
            alpha: (rows, J) is filled.
            context: (B, N * H + …) is filled in its first N * H.
        """
        self._energies(query, previous, _at(self.filtered, i))
        self.kernels.look(self.energies, self.h, alpha, context)

    def backward(
        self,
        i: int,
        query: Tensor,
        alpha: Tensor,
        d_contexts: Tensor,
        d_inputs: Tensor,
        d_alphas: Tensor,
        d_context: Tensor,
        d_query: Tensor,
    ) -> None:
        """Go back through character i.

        Args:
            i: which.
            query: (rows, A).
            alpha: (rows, J).
            d_contexts: (B, N * H) what c_i gets from outside the loop.
            d_inputs: (B, N * H + …) what it gets from the next character's gates.
            d_alphas: (rows, J) what alpha_i gets from outside.
            d_context: (B, N * H) is filled.
            d_query: (rows, A) is filled.
        """
        self.kernels.alphas_backward(
            self.h,
            d_contexts,
            d_inputs,
            d_alphas,
            _at(self.d_filtered, i + 1),
            self.filters,
            d_context,
            self.d_alpha,
        )
        self._energies_backward(
            query,
            alpha,
            _at(self.filtered, i),
            self.d_energies[i],
            _at(self.d_filtered, i),
        )
        torch.sum(self.d_query_parts, dim=1, out=d_query)

    @abstractmethod
    def gradients(self, queries: Tensor, alphas: Tensor) -> LoopWeights:
        """Once the loop is through: what keys and the energies' weights get.

        All other fields hold anything.

        Args:
            queries: (I, rows, A).
            alphas: (I + 1, rows, J), from alpha_0 on.
        """

    @abstractmethod
    def _energies(
        self, query: Tensor, previous: Tensor, filtered: Tensor | None
    ) -> None:
        """Fill `energies`, and filtered (rows, F, J) if there are filters."""

    @abstractmethod
    def _energies_backward(
        self,
        query: Tensor,
        alpha: Tensor,
        filtered: Tensor | None,
        d_energies: Tensor,
        d_filtered: Tensor | None,
    ) -> None:
        """Take `d_alpha`; fill d_energies, `d_query_parts` and d_filtered."""

    def _for_filters(self, count: int) -> Tensor:
        """Make a buffer (count, rows, F, J)."""
        assert self.filters is not None
        rows, steps, _ = self.keys.shape
        return self.h.new_empty(count, rows, len(self.filters), steps)


def _at(x: Tensor | None, i: int) -> Tensor | None:
    return None if x is None else x[i]


class _LookDot(_Look):
    """query_b . keys_bj / sqrt(A)."""

    def _energies(
        self, query: Tensor, previous: Tensor, filtered: Tensor | None
    ) -> None:
        self.kernels.dot_energies(query, self.keys, self.penalty, self.energies)

    def _energies_backward(
        self,
        query: Tensor,
        alpha: Tensor,
        filtered: Tensor | None,
        d_energies: Tensor,
        d_filtered: Tensor | None,
    ) -> None:
        self.kernels.dot_backward(
            self.keys, alpha, self.d_alpha, d_energies, self.d_query_parts
        )

    def gradients(self, queries: Tensor, alphas: Tensor) -> LoopWeights:
        d_keys = self.d_energies.permute(1, 2, 0) @ queries.transpose(0, 1)
        return self.weights._replace(keys=d_keys / math.sqrt(self.keys.size(2)))


class _LookAdditive(_Look):
    """v . act(query_b + keys_bj [+ L f_bj], f = filters * previous weights)."""

    @property
    def v(self) -> Tensor:
        assert self.weights.v is not None
        return self.weights.v

    def _energies(
        self, query: Tensor, previous: Tensor, filtered: Tensor | None
    ) -> None:
        self.kernels.additive_energies(
            query,
            self.keys,
            previous,
            self.penalty,
            self.v,
            self.filters,
            self.location,
            self.activation,
            filtered,
            self.energies,
        )

    def _energies_backward(
        self,
        query: Tensor,
        alpha: Tensor,
        filtered: Tensor | None,
        d_energies: Tensor,
        d_filtered: Tensor | None,
    ) -> None:
        self.kernels.additive_backward(
            query,
            self.keys,
            filtered,
            self.v,
            self.location,
            self.activation,
            alpha,
            self.d_alpha,
            d_energies,
            self.d_query_parts,
            d_filtered,
        )

    def gradients(self, queries: Tensor, alphas: Tensor) -> LoopWeights:
        d_keys, d_filters, d_location = torch.empty_like(self.keys), None, None
        parts = len(self.keys), self.tiles
        d_v = self.h.new_empty(*parts, *self.v.shape)
        if self.filters is not None and self.location is not None:
            d_filters = self.h.new_empty(*parts, *self.filters.shape)
            d_location = self.h.new_empty(*parts, *self.location.shape)
        self.kernels.weights_backward(
            queries,
            self.keys,
            alphas,
            self.filtered,
            self.v,
            self.location,
            self.activation,
            self.d_energies,
            self.d_filtered,
            d_keys,
            d_v,
            d_filters,
            d_location,
        )
        found = self.weights._replace(keys=d_keys, v=d_v.sum(dim=(0, 1)))
        if d_filters is None or d_location is None:
            return found
        return found._replace(
            filters=d_filters.sum(dim=(0, 1)),
            location=d_location.sum(dim=(0, 1)).t().contiguous(),
        )


def _look(
    settings: LoopSettings,
    weights: LoopWeights,
    num_tokens: int,
    filtered: Tensor | None = None,
) -> _Look:
    """Build the look that these weights are of."""
    kind = _LookDot if weights.v is None else _LookAdditive
    return kind(settings, weights, num_tokens, filtered)
