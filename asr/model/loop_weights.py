"""What the speller's loop reads, in both its forms: `teacher_forcing`, `fused_steps`.

Shapes: see `teacher_forcing`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor


class LoopSettings(NamedTuple):
    """What the loop reads and no gradient flows back to."""

    activation: str
    block_size: int
    valid: Tensor
    """(B, J) bool."""
    start: Tensor
    """(B, J) alpha_0."""


class LoopWeights(NamedTuple):
    """What the loop reads and gradients flow back to; and, in its place, these.

    An `autograd.Function` sees only tensors that are arguments of their own: `flat`
    lays them out, `of` puts them together again.
    """

    h: Tensor
    """(B, J, H)."""
    keys: Tensor
    """(B, J, A) U h_j + b."""
    query: Tensor
    """(A, S) W."""
    recurrent: tuple[Tensor, ...]
    """(4 * S, D) of each layer, in the order of `gates_last`."""
    biases: tuple[Tensor, ...]
    """(4 * S,) of each layer but the lowest, whose gates have theirs."""
    v: Tensor | None = None
    """(A,), of an additive attention."""
    across: Tensor | None = None
    """(A,) v', of a hierarchical one."""
    filters: Tensor | None = None
    """(F, R), of a location-aware one."""
    location: Tensor | None = None
    """(A, F) L, of a location-aware one."""

    def flat(self) -> tuple[Tensor | None, ...]:
        """Lay out all tensors, in the order that `of` reads."""
        return (
            *(self.h, self.keys, self.query),
            *(self.v, self.across, self.filters, self.location),
            *self.recurrent,
            *self.biases,
        )

    @classmethod
    def of(cls, flat: Sequence[Any]) -> "LoopWeights":
        """Put together what `flat` laid out."""
        h, keys, query, v, across, filters, location, *layers = flat
        num_layers = (len(layers) + 1) // 2
        recurrent, biases = tuple(layers[:num_layers]), tuple(layers[num_layers:])
        return cls(h, keys, query, recurrent, biases, v, across, filters, location)
