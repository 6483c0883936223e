"""Long short-term memory as loops of a few large operations, backward by hand.

    a_t = W x_t + U h_{t-1} + b                      sums of the four gates
    i, f, o = sigmoid(a_t)     g = tanh(a_t)         each its quarter of a_t
    c_t = f c_{t-1} + i g      h_t = o tanh(c_t)

`BidirectionalLSTM` reads a batch both ways. `nn.LSTM` holds its weights and is the
plain formula; in float32 and on a GPU it does the work, too. On a CPU that multiplies
bfloat16 in hardware nn.LSTM gains little from that (its backward hardly anything), and
there `read_both_ways` works out the same: W x_t of all steps is one product before the
loop, the gradients of the weights are one product after it, both directions share each
operation of the loop, and what is not multiplied stays float32.

`step_forward` and `step_backward` are one step of any LSTM; the speller's loop (see
`teacher_forcing`) is made of them, too.

Shapes: B utterances, J steps, D input size, S units of a direction, 2 directions.

Source: Hochreiter and Schmidhuber (1997), Neural Computation 9(8); Graves and
Schmidhuber (2005), Neural Networks 18(5-6) (two directions).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from asr.padding import valid_mask


class BidirectionalLSTM(nn.Module):
    """One layer of LSTM, read both ways, in which padding is never read.

    Both ways of working it out give exactly what packed sequences give, which torch
    2.11 trains 20 times slower on a CPU.
    """

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__()
        self.forwards: Any = nn.LSTM(input_size, size, batch_first=True)
        self.backwards: Any = nn.LSTM(input_size, size, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, J, D) with (B,) lengths -> (B, J, 2 * S); padding holds anything."""
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            with torch.autocast("cpu", enabled=False):
                return read_both_ways(
                    x.float(), lengths, (self.forwards, self.backwards), dtype
                )
        return self.read_in_two_passes(x, lengths)

    def read_in_two_passes(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Do what `forward` does by two passes of nn.LSTM: the plain formula.

        The backward direction reads each row reversed within its own length, so that
        both directions meet the padding only after the last step.
        """
        reverse = _reversal(lengths, x.size(1)).to(x.device)[:, :, None]
        with _beside(x.device):
            backwards, _ = self.backwards(x.gather(1, reverse.expand_as(x)))
            backwards = backwards.gather(1, reverse.expand_as(backwards))
        forwards, _ = self.forwards(x)
        _wait_for_side(x.device)
        return torch.cat((forwards, backwards), dim=-1)


_SIDES = dict[torch.device, "torch.cuda.Stream"]()
"""The second stream of each GPU that was used."""


@contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """On a GPU let the work of a block run beside what comes after it.

    A step of an LSTM is too small for a GPU: two directions take little longer than
    one. Elsewhere a block is a block.
    """
    if device.type != "cuda":
        yield
        return
    side = _SIDES.setdefault(
        device,
        torch.cuda.Stream(device),  # type: ignore[no-untyped-call]
    )
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        yield


def _wait_for_side(device: torch.device) -> None:
    """Let what comes next on a GPU wait for what runs beside."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).wait_stream(_SIDES[device])


def _reversal(lengths: Tensor, width: int) -> Tensor:
    """(B,) -> (B, width) positions that turn each row around, padding left in place."""
    positions = torch.arange(width, device=lengths.device).expand(len(lengths), width)
    mirrored = lengths[:, None] - 1 - positions
    return torch.where(mirrored >= 0, mirrored, positions)


def read_both_ways(
    x: Tensor, lengths: Tensor, lstms: tuple[nn.LSTM, nn.LSTM], dtype: torch.dtype
) -> Tensor:
    """Read a batch forwards and backwards in one loop.

    Args:
        x: (B, J, D) float32; the forward direction may meet anything in the padding.
        lengths: (B,) real steps of each row.
        lstms: of one layer each, the weights of the forward and backward direction.
        dtype: in which matrices are multiplied.

    Returns:
        (B, J, 2 * S) float32, zero on the padding of the backward direction.
    """
    w, u, bias_w, bias_u = (
        torch.stack([gates_last(lstm.get_parameter(f"{name}_l0")) for lstm in lstms])
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    output: Tensor = _BothWays.apply(  # type: ignore[no-untyped-call]
        x, w, u, bias_w + bias_u, lengths, dtype
    )
    return output


def gates_last(weights: Tensor) -> Tensor:
    """Bring torch's order of the gates, i f g o, into that of the loops: i f o g.

    So one operation makes all three sigmoids.
    """
    i, f, g, o = weights.chunk(4)
    return torch.cat((i, f, o, g))


class _BothWays(torch.autograd.Function):
    """Both directions side by side: when one reads step k, the other reads J - 1 - k.

    Buffers are (2, J, B, ...), by direction and by where a step stands in the
    recording. Those of states have one place more: step j of the forward direction
    goes from place j to j + 1, that of the backward direction from j + 1 to j.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        u: Tensor,
        bias: Tensor,
        lengths: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        batch, steps, _ = x.shape
        size = u.size(2)
        x_major = x.transpose(0, 1).to(dtype).contiguous().flatten(0, 1)  # (J * B, D)
        w, u = w.to(dtype), u.to(dtype)
        u_transposed = u.transpose(1, 2).contiguous()  # (2, S, 4 * S)
        sums = x_major.new_empty(2, steps, batch, 4 * size)
        for direction in (0, 1):
            torch.addmm(
                bias[direction].to(dtype),
                x_major,
                w[direction].t(),
                out=sums[direction].flatten(0, 1),
            )
        gates = sums if dtype == x.dtype else x.new_empty(sums.shape)
        hidden = x_major.new_zeros(2, steps + 1, batch, size)
        cells = x.new_zeros(2, steps + 1, batch, size)
        padding = _padding(lengths, steps)

        for k in range(steps):
            j = steps - 1 - k
            a, h = _both(gates, k, j), _both(hidden, k + 1, j)
            old_h, c = _both(hidden, k, j + 1), _both(cells, k + 1, j)
            if gates is sums:
                a.baddbmm_(old_h, u_transposed)
            else:
                a.copy_(torch.baddbmm(_both(sums, k, j), old_h, u_transposed))
            step_forward(a, _both(cells, k, j + 1), c, h)
            if (blank := padding[j]) is not None:  # the backward direction begins later
                c[1].masked_fill_(blank, 0.0)
                h[1].masked_fill_(blank, 0.0)

        ctx.save_for_backward(x_major, w, u)
        ctx.buffers = gates, hidden, cells, padding
        output = x.new_empty(batch, steps, 2 * size)
        output[:, :, :size] = hidden[0, 1:].transpose(0, 1)
        output[:, :, size:] = hidden[1, :-1].transpose(0, 1)
        return output

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        x_major, w, u = ctx.saved_tensors
        gates, hidden, cells, padding = ctx.buffers
        _, steps, batch, size = gates.shape
        size //= 4
        d_out = d_output.new_empty(2, steps, batch, size)
        d_out[0] = d_output[:, :, :size].transpose(0, 1)
        d_out[1] = d_output[:, :, size:].transpose(0, 1)
        d_sums = x_major.new_empty(gates.shape)
        d_gates = None if d_sums.dtype == gates.dtype else torch.empty_like(gates[:, 0])
        d_hidden = d_output.new_zeros(2, batch, size)
        d_cell = d_output.new_zeros(2, batch, size)

        for k in reversed(range(steps)):
            j = steps - 1 - k
            d_hidden = d_hidden + _both(d_out, k, j)
            if (blank := padding[j]) is not None:
                d_hidden[1].masked_fill_(blank, 0.0)
                d_cell[1].masked_fill_(blank, 0.0)
            d_a = _both(d_sums, k, j)
            step_backward(
                _both(gates, k, j),
                _both(cells, k, j + 1),
                _both(cells, k + 1, j),
                d_hidden,
                d_cell,
                d_a if d_gates is None else d_gates,
            )
            if d_gates is not None:
                d_a.copy_(d_gates)
            d_hidden = torch.bmm(d_a, u).to(d_output.dtype)

        d_flat = d_sums.flatten(1, 2)  # (2, J * B, 4 * S)
        before = hidden[0, :-1], hidden[1, 1:]
        d_x = (d_flat[0] @ w[0]).addmm_(d_flat[1], w[1])
        d_w = torch.stack([d.t() @ x_major for d in d_flat])
        d_u = torch.stack(
            [d.t() @ h.flatten(0, 1) for d, h in zip(d_flat, before, strict=True)]
        )
        d_bias = d_flat.sum(dim=1, dtype=torch.float32)
        d_x = d_x.view(steps, batch, -1).transpose(0, 1)
        return d_x.to(d_output), d_w.to(d_output), d_u.to(d_output), d_bias, None, None


def _padding(lengths: Tensor, steps: int) -> list[Tensor | None]:
    """Return for each step the rows (B, 1) that have it as padding; None for no row."""
    padding = ~valid_mask(lengths, steps)
    shortest = int(lengths.min())
    return [None] * shortest + [padding[:, j, None] for j in range(shortest, steps)]


def _both(buffer: Tensor, forwards: int, backwards: int) -> Tensor:
    """(2, J, B, D) -> (2, B, D): a step of each direction, as a view."""
    _, steps, batch, size = buffer.shape
    block = batch * size
    between = (steps + backwards - forwards) * block
    return buffer.as_strided((2, batch, size), (between, size, 1), forwards * block)


def step_forward(gates: Tensor, cell: Tensor, new_cell: Tensor, hidden: Tensor) -> None:
    """Do one step.

    Args:
        gates: (..., 4 * S) their sums, which become the gates i, f, o and g.
        cell: (..., S) c_{t-1}.
        new_cell: (..., S) is filled with c_t.
        hidden: (..., S) is filled with h_t; may be of a lower precision.
    """
    size = cell.size(-1)
    gates[..., : 3 * size].sigmoid_()
    gates[..., 3 * size :].tanh_()
    i, f, o, g = gates.chunk(4, dim=-1)
    torch.mul(f, cell, out=new_cell).addcmul_(i, g)
    if hidden.dtype == new_cell.dtype:
        torch.tanh(new_cell, out=hidden).mul_(o)
    else:
        hidden.copy_(new_cell.tanh().mul_(o))


def step_backward(
    gates: Tensor,
    cell: Tensor,
    new_cell: Tensor,
    d_hidden: Tensor,
    d_cell: Tensor,
    d_gates: Tensor,
) -> None:
    """Go one step back.

    Args:
        gates: (..., 4 * S) as `step_forward` left them.
        cell: (..., S) c_{t-1}.
        new_cell: (..., S) c_t.
        d_hidden: (..., S) gradient of h_t; is used up.
        d_cell: (..., S) gradient of c_t, which becomes that of c_{t-1}.
        d_gates: (..., 4 * S) is filled with the gradient of the gates' sums.
    """
    size = cell.size(-1)
    i, f, o, g = gates.chunk(4, dim=-1)
    d_i, d_f, d_o, d_g = d_gates.chunk(4, dim=-1)
    tanh_cell = new_cell.tanh()
    torch.mul(d_hidden, tanh_cell, out=d_o)
    d_hidden.mul_(o)
    d_cell.add_(d_hidden).addcmul_(d_hidden, tanh_cell.square_(), value=-1)
    torch.mul(d_cell, g, out=d_i)
    torch.mul(d_cell, cell, out=d_f)
    torch.mul(d_cell, i, out=d_g)
    d_g.addcmul_(d_g, g.square(), value=-1)
    open_gates = gates[..., : 3 * size]
    d_gates[..., : 3 * size].mul_(
        torch.addcmul(open_gates, open_gates, open_gates, value=-1)
    )
    d_cell.mul_(f)
