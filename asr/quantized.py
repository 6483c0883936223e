"""Products with the weights of a trained layer, prepared once for many uses.

    y = x W^T + b

`Float32Linear` keeps a large W as oneDNN likes it on a CPU: 8 rows of a search are
multiplied in half to four fifths of the time. A small W it keeps transposed, which is
faster than the order in which training keeps it. `Int8Linear` keeps each row of W as
bytes with a scale of its own, and brings each row of x to bytes by one of its own, so
that what comes of a row does not depend on the rows beside it:

    W_nk ~ q_nk |W_n|max / 127        x_mk ~ r_mk |x_m|max / 127.5

so that the product reads a quarter of the memory, which is what a search waits for.

Shapes: R rows, D input size, M output size.

Source: Jacob et al. (2018), arXiv:1712.05877, section 2 (affine quantisation of
weights, and of activations as they come).
"""

from typing import Any

import torch
from torch import Tensor, nn

from asr.errors import ConfigError

PRECISIONS = ("float32", "int8")
"""How the weights of a model can be kept for decoding."""


def check_precision(precision: str) -> None:
    """Raise a ConfigError where a precision of weights is not known."""
    if precision not in PRECISIONS:
        raise ConfigError(
            f"precision {precision}: is not known (use {' or '.join(PRECISIONS)})"
        )


_WORTH_PACKING = 2**18
"""Numbers in a matrix from which on oneDNN's product is the faster."""
_PACKED_FOR = 512
"""Rows whose order of W is fast for any number of rows."""


class Float32Linear:
    """x W^T + b in float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Keep (M, D) weights and (M,) biases."""
        self.size, self.num_inputs = weight.shape
        weight = weight.detach()
        self.bias = weight.new_zeros(len(weight)) if bias is None else bias.detach()
        packed = _pack_for_onednn(weight)
        self._weight = weight.t().contiguous() if packed is None else packed

    def __call__(self, x: Tensor) -> Tensor:
        """(R, D) -> (R, M)."""
        if self._weight.is_mkldnn:
            return self._multiply(x, self.bias)
        return torch.addmm(self.bias, x, self._weight)

    def add_to(self, sums: Tensor, x: Tensor) -> Tensor:
        """Add x W^T to (R, M) sums, in place."""
        if self._weight.is_mkldnn:
            return sums.add_(self._multiply(x, None))
        return sums.addmm_(x, self._weight)

    def __reduce__(self) -> tuple[type["Float32Linear"], tuple[Tensor, Tensor]]:
        """Be copied and pickled by the plain weights: those of oneDNN cannot be."""
        packed = self._weight.is_mkldnn
        weight = self._weight.to_dense() if packed else self._weight.t()
        return Float32Linear, (weight, self.bias)

    def _multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, bias, "none", [], ""
        )
        return y


def _pack_for_onednn(weight: Tensor) -> Tensor | None:
    """Bring (M, D) weights into oneDNN's order; None where that is of no use."""
    is_plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    if weight.numel() < _WORTH_PACKING or not is_plain:
        return None
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    try:
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_FOR)
    except (AttributeError, RuntimeError):  # an operation of this torch's own
        return None
    return packed


class Int8Linear:
    """x W^T + b with bytes, on a CPU."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Bring (M, D) weights to bytes."""
        self.size, weight = len(weight), weight.detach()
        self.bias = None if bias is None else bias.detach()
        self._ends = torch.linspace(-1, 1, weight.size(1))
        self.packed = pack(weight, None)

    def __call__(self, x: Tensor) -> Tensor:
        """(R, D) -> (R, M).

        torch has one scale for all rows, from the least and the largest number. It is
        always the same here: each row is divided by its own, and one with -1 and 1
        comes last.
        """
        scale = x.abs().amax(dim=1, keepdim=True).clamp_min_(torch.finfo().tiny)
        rows = x.new_empty(len(x) + 1, x.size(1))
        torch.div(x, scale, out=rows[:-1])
        rows[-1] = self._ends
        y: Tensor = torch.ops.quantized.linear_dynamic(rows, self.packed)[:-1]
        y.mul_(scale)
        return y if self.bias is None else y.add_(self.bias)

    def add_to(self, sums: Tensor, x: Tensor) -> Tensor:
        """Add x W^T to (R, M) sums, in place."""
        return sums.add_(self(x))


def pack(weight: Tensor, bias: Tensor | None) -> Any:
    """Bring (M, D) weights to bytes, each row with its own scale."""
    weight = weight.detach()
    scales = weight.abs().amax(dim=1).clamp_min(1e-8) / 127
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    bias = weight.new_zeros(len(weight)) if bias is None else bias.detach()
    return torch.ops.quantized.linear_prepack(quantized, bias)


class Int8LSTM(nn.Module):
    """One layer with its weights as bytes, read both ways, for decoding on a CPU.

    Rows are read one after the other, each as long as it is: torch has one scale for
    all that it reads at a time, and what comes of a row would depend on those beside
    it.
    """

    def __init__(self, forwards: nn.LSTM, backwards: nn.LSTM) -> None:
        super().__init__()
        self.size = forwards.hidden_size
        self.cells = [_pack_cell(lstm) for lstm in (forwards, backwards)]

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, J, D) with (B,) lengths -> (B, J, 2 * S), zero on padding."""
        y = x.new_zeros(*x.shape[:2], 2 * self.size)
        for row, length in enumerate(lengths.tolist()):
            steps, out = x[row, None, :length], y[row, None, :length]
            out[:, :, : self.size] = self._read(steps, 0)
            out[:, :, self.size :] = self._read(steps.flip(1), 1).flip(1)
        return y

    def _read(self, x: Tensor, direction: int) -> Tensor:
        """(1, J, D) -> (1, J, S)."""
        zeros = x.new_zeros(1, 1, self.size)
        y: Tensor = torch.quantized_lstm(
            x,
            [zeros, zeros],
            [self.cells[direction]],
            *(True, 1, 0.0, False, False, True),
            dtype=torch.qint8,
            use_dynamic=True,
        )[0]
        return y


def _pack_cell(lstm: nn.LSTM) -> Any:
    biases = [lstm.get_parameter(f"bias_{x}_l0").detach() for x in ("ih", "hh")]
    weights = [
        pack(lstm.get_parameter(f"weight_{x}_l0"), bias)
        for x, bias in zip(("ih", "hh"), biases, strict=True)
    ]
    prepare: Any = torch.ops.quantized.make_quantized_cell_params_dynamic
    return prepare(*weights, *biases, True)
