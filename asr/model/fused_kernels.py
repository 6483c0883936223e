"""Kernels of the speller's loop for a GPU, in Triton; `fused_steps` calls them.

One character forward is five launches: the product of the gates, `lstm_forward`, the
product of the query, energies, `look`. One character back is six: `alphas_backward`,
energies, the sum of their parts, the product of the query, `lstm_backward`, and the
product of the gates. Each further layer adds two to both. What keys and weights of the
additive energies get is worked out after the loop, in one launch (`weights_backward`).

A program works on one utterance (head) and a tile of its steps, so that 32 utterances
fill a GPU, too. Where tiles have to be added up, each writes its own part and the parts
are added in a fixed order: nothing depends on which program ends first.

Only float32, and only contiguous tensors but where a stride is named. Block sizes
follow from the shapes alone (nothing is tuned by trying), and the number of steps is no
constant of a kernel, so that few of them are compiled.

Shapes: B utterances, N heads, J listener steps, H listener size, S speller size,
        A attention size, F filters of R steps, I characters, T tiles of steps. A head
        of an utterance is an utterance of its own, B * N *rows*, with H / N and A / N
        numbers a step, which are called H and A here.

Source: the formulas are those of `attention` and `lstm`.
"""

import math
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

LSTM_BLOCK = 256
"""Units that a program of an LSTM works on."""
LOOK_TILE = (64, 64)
"""Steps and numbers of each that a program of `look` adds up at a time."""
STEPS_TILE = 16
"""Steps that a program works on where it compares: as few as `tl.dot` takes."""
BACK_TILE = (16, 128)
"""The same of `alphas_backward`."""


# The LSTM


def lstm_forward(
    gates: Tensor, cell: Tensor, new_cell: Tensor, hidden: Tensor, above: Tensor
) -> None:
    """Do one step, as `lstm.step_forward` does.

    Args:
        gates: (B, 4 * S) their sums, which become the gates i, f, o and g.
        cell: (B, S) c_{t-1}.
        new_cell: (B, S) is filled with c_t.
        hidden: (B, S) is filled with h_t; rows may stand apart.
        above: the same once more.
    """
    count = cell.numel()
    _lstm_forward[(triton.cdiv(count, LSTM_BLOCK),)](
        gates,
        cell,
        new_cell,
        hidden,
        above,
        hidden.stride(0),
        above.stride(0),
        count,
        size=cell.size(1),
        block=LSTM_BLOCK,
    )


@triton.jit(do_not_specialize=["hidden_stride", "above_stride", "count"])
def _lstm_forward(
    gates: tl.tensor,
    cell: tl.tensor,
    new_cell: tl.tensor,
    hidden: tl.tensor,
    above: tl.tensor,
    hidden_stride: tl.tensor,
    above_stride: tl.tensor,
    count: tl.tensor,
    size: tl.constexpr,
    block: tl.constexpr,
) -> None:
    at = tl.program_id(0) * block + tl.arange(0, block)
    real = at < count
    row, unit = at // size, at % size
    gate = gates + row * (4 * size) + unit
    i = _sigmoid(tl.load(gate, mask=real, other=0.0))
    f = _sigmoid(tl.load(gate + size, mask=real, other=0.0))
    o = _sigmoid(tl.load(gate + 2 * size, mask=real, other=0.0))
    g = _tanh(tl.load(gate + 3 * size, mask=real, other=0.0))
    c = f * tl.load(cell + at, mask=real, other=0.0) + i * g
    h = o * _tanh(c)
    tl.store(gate, i, mask=real)
    tl.store(gate + size, f, mask=real)
    tl.store(gate + 2 * size, o, mask=real)
    tl.store(gate + 3 * size, g, mask=real)
    tl.store(new_cell + at, c, mask=real)
    tl.store(hidden + row * hidden_stride + unit, h, mask=real)
    tl.store(above + row * above_stride + unit, h, mask=real)


def lstm_backward(
    gates: Tensor,
    cell: Tensor,
    new_cell: Tensor,
    d_above: Tensor,
    d_later: Tensor,
    d_looked: Tensor | None,
    d_cell: Tensor,
    d_gates: Tensor,
) -> None:
    """Go one step back, as `lstm.step_backward` does.

    Args:
        gates: (B, 4 * S) as `lstm_forward` left them.
        cell: (B, S) c_{t-1}.
        new_cell: (B, S) c_t.
        d_above: (B, S) a part of the gradient of h_t; rows may stand apart.
        d_later: (B, S) another, likewise.
        d_looked: (B, S) another, contiguous; None if there is none.
        d_cell: (B, S) gradient of c_t, which becomes that of c_{t-1}.
        d_gates: (B, 4 * S) is filled with the gradient of the gates' sums.
    """
    count = cell.numel()
    _lstm_backward[(triton.cdiv(count, LSTM_BLOCK),)](
        gates,
        cell,
        new_cell,
        d_above,
        d_later,
        d_cell if d_looked is None else d_looked,
        d_cell,
        d_gates,
        d_above.stride(0),
        d_later.stride(0),
        count,
        size=cell.size(1),
        looked=d_looked is not None,
        block=LSTM_BLOCK,
    )


@triton.jit(do_not_specialize=["above_stride", "later_stride", "count"])
def _lstm_backward(
    gates: tl.tensor,
    cell: tl.tensor,
    new_cell: tl.tensor,
    d_above: tl.tensor,
    d_later: tl.tensor,
    d_looked: tl.tensor,
    d_cell: tl.tensor,
    d_gates: tl.tensor,
    above_stride: tl.tensor,
    later_stride: tl.tensor,
    count: tl.tensor,
    size: tl.constexpr,
    looked: tl.constexpr,
    block: tl.constexpr,
) -> None:
    at = tl.program_id(0) * block + tl.arange(0, block)
    real = at < count
    row, unit = at // size, at % size
    gate = gates + row * (4 * size) + unit
    i = tl.load(gate, mask=real, other=0.0)
    f = tl.load(gate + size, mask=real, other=0.0)
    o = tl.load(gate + 2 * size, mask=real, other=0.0)
    g = tl.load(gate + 3 * size, mask=real, other=0.0)
    d_h = tl.load(d_above + row * above_stride + unit, mask=real, other=0.0)
    d_h += tl.load(d_later + row * later_stride + unit, mask=real, other=0.0)
    if looked:
        d_h += tl.load(d_looked + at, mask=real, other=0.0)
    tanh_c = _tanh(tl.load(new_cell + at, mask=real, other=0.0))
    d_c = tl.load(d_cell + at, mask=real, other=0.0) + d_h * o * (1 - tanh_c * tanh_c)
    d_f = d_c * tl.load(cell + at, mask=real, other=0.0) * f * (1 - f)
    d_gate = d_gates + row * (4 * size) + unit
    tl.store(d_gate, d_c * g * i * (1 - i), mask=real)
    tl.store(d_gate + size, d_f, mask=real)
    tl.store(d_gate + 2 * size, d_h * tanh_c * o * (1 - o), mask=real)
    tl.store(d_gate + 3 * size, d_c * i * (1 - g * g), mask=real)
    tl.store(d_cell + at, d_c * f, mask=real)


# Weights and context


def look(energies: Tensor, h: Tensor, alpha: Tensor, context: Tensor) -> None:
    """Work out weights and context of one character.

    Args:
        energies: (rows, J), -inf on padding.
        h: (rows, J, H).
        alpha: (rows, J) is filled with the weights.
        context: (B, N * H + …) is filled in its first N * H; rows may stand apart.
    """
    rows, steps, size = h.shape
    tile, width = LOOK_TILE
    _look[(rows, triton.cdiv(size, width))](
        energies,
        h,
        alpha,
        context,
        steps,
        context.stride(0),
        heads=rows // len(context),
        size=size,
        tile=tile,
        width=width,
        block=triton.next_power_of_2(steps),
        num_stages=1,
    )


@triton.jit(
    do_not_specialize=["steps", "context_stride"],
    do_not_specialize_on_alignment=["energies", "alpha"],
)
def _look(
    energies: tl.tensor,
    h: tl.tensor,
    alpha: tl.tensor,
    context: tl.tensor,
    steps: tl.tensor,
    context_stride: tl.tensor,
    heads: tl.constexpr,
    size: tl.constexpr,
    tile: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
) -> None:
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    energies += row * steps
    h += row * steps * size
    all_j = tl.arange(0, block)
    all_e = tl.load(energies + all_j, mask=all_j < steps, other=-float("inf"))
    highest = tl.max(all_e, axis=0)
    grown = tl.exp(all_e - highest)
    total = tl.sum(grown, axis=0)
    if part == 0:
        tl.store(alpha + row * steps + all_j, grown / total, mask=all_j < steps)
    c = part * width + tl.arange(0, width)
    found = tl.zeros([tile, width], dtype=tl.float32)
    for start in range(0, steps, tile):
        j = start + tl.arange(0, tile)
        e = tl.load(energies + j, mask=j < steps, other=-float("inf"))
        real = (j < steps)[:, None] & (c < size)[None, :]
        x = tl.load(h + j[:, None] * size + c[None, :], mask=real, other=0.0)
        found += (tl.exp(e - highest) / total)[:, None] * x
    to = context + (row // heads) * context_stride + (row % heads) * size + c
    tl.store(to, tl.sum(found, axis=0), mask=c < size)


def alphas_backward(
    h: Tensor,
    d_contexts: Tensor,
    d_inputs: Tensor,
    d_alphas: Tensor,
    d_filtered: Tensor | None,
    filters: Tensor | None,
    d_context: Tensor,
    d_alpha: Tensor,
) -> None:
    """Work out the gradients of a character's context and weights.

    Args:
        h: (rows, J, H).
        d_contexts: (B, N * H) what c_i gets from outside the loop.
        d_inputs: (B, N * H + …) what it gets from the gates of the next character.
        d_alphas: (rows, J) what alpha_i gets from outside the loop.
        d_filtered: (rows, F, J) gradient of what the next character's filters made of
            alpha_i; None without filters.
        filters: (F, R).
        d_context: (B, N * H) is filled with the whole gradient of c_i.
        d_alpha: (rows, J) is filled with that of alpha_i.
    """
    rows, steps, size = h.shape
    num_filters, taps = (1, 1) if filters is None else filters.shape
    tile, width = BACK_TILE
    _alphas_backward[(rows, triton.cdiv(steps, tile))](
        h,
        d_contexts,
        d_inputs,
        d_alphas,
        h if d_filtered is None else d_filtered,
        h if filters is None else filters,
        d_context,
        d_alpha,
        steps,
        d_inputs.stride(0),
        heads=rows // len(d_context),
        size=size,
        num_filters=num_filters,
        taps=taps,
        located=filters is not None,
        tile=tile,
        width=width,
        taps_block=triton.next_power_of_2(taps),
        num_stages=1,
    )


@triton.jit(
    do_not_specialize=["steps", "input_stride"],
    do_not_specialize_on_alignment=["d_alphas", "d_filtered", "d_alpha"],
)
def _alphas_backward(
    h: tl.tensor,
    d_contexts: tl.tensor,
    d_inputs: tl.tensor,
    d_alphas: tl.tensor,
    d_filtered: tl.tensor,
    filters: tl.tensor,
    d_context: tl.tensor,
    d_alpha: tl.tensor,
    steps: tl.tensor,
    input_stride: tl.tensor,
    heads: tl.constexpr,
    size: tl.constexpr,
    num_filters: tl.constexpr,
    taps: tl.constexpr,
    located: tl.constexpr,
    tile: tl.constexpr,
    width: tl.constexpr,
    taps_block: tl.constexpr,
) -> None:
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    j = part * tile + tl.arange(0, tile)
    h += row * steps * size
    d_inputs += (row // heads) * input_stride + (row % heads) * size
    found = tl.zeros([tile, width], dtype=tl.float32)
    for start in range(0, size, width):
        c = start + tl.arange(0, width)
        d = tl.load(d_contexts + row * size + c, mask=c < size, other=0.0)
        d += tl.load(d_inputs + c, mask=c < size, other=0.0)
        if part == 0:
            tl.store(d_context + row * size + c, d, mask=c < size)
        real = (j < steps)[:, None] & (c < size)[None, :]
        x = tl.load(h + j[:, None] * size + c[None, :], mask=real, other=0.0)
        found += x * d[None, :]
    d_j = tl.sum(found, axis=1)
    d_j += tl.load(d_alphas + row * steps + j, mask=j < steps, other=0.0)
    if located:  # step j stood at tap r of what was filtered for step j - r + reach
        r = tl.arange(0, taps_block)
        place = j[:, None] - r[None, :] + taps // 2
        real = (r < taps)[None, :] & (place >= 0) & (place < steps)
        d_filtered += row * num_filters * steps
        given = tl.zeros([tile, taps_block], dtype=tl.float32)
        for f in range(num_filters):
            taken = tl.load(d_filtered + f * steps + place, mask=real, other=0.0)
            taps_f = tl.load(filters + f * taps + r, mask=r < taps, other=0.0)
            given += taken * taps_f[None, :]
        d_j += tl.sum(given, axis=1)
    tl.store(d_alpha + row * steps + j, d_j, mask=j < steps)


# Energies


def dot_energies(
    query: Tensor, keys: Tensor, penalty: Tensor, energies: Tensor
) -> None:
    """Work out query_b . keys_bj / sqrt(A).

    Args:
        query: (rows, A).
        keys: (rows, J, A).
        penalty: (rows, J) is added: -inf on padding.
        energies: (rows, J) is filled.
    """
    rows, steps, size = keys.shape
    _dot_energies[(rows, triton.cdiv(steps, STEPS_TILE))](
        query,
        keys,
        penalty,
        energies,
        steps,
        scale=1 / math.sqrt(size),
        size=size,
        tile=STEPS_TILE,
        block=triton.next_power_of_2(size),
    )


@triton.jit(do_not_specialize=["steps"], do_not_specialize_on_alignment=["energies"])
def _dot_energies(
    query: tl.tensor,
    keys: tl.tensor,
    penalty: tl.tensor,
    energies: tl.tensor,
    steps: tl.tensor,
    scale: tl.constexpr,
    size: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1) * tile + tl.arange(0, tile)
    a = tl.arange(0, block)
    q = tl.load(query + row * size + a, mask=a < size, other=0.0)
    x = _steps_of(keys + row * steps * size, j, a, steps, size)
    e = tl.sum(x * q[None, :], axis=1) * scale
    e += tl.load(penalty + row * steps + j, mask=j < steps, other=0.0)
    tl.store(energies + row * steps + j, e, mask=j < steps)


def dot_backward(
    keys: Tensor, alpha: Tensor, d_alpha: Tensor, d_energies: Tensor, d_query: Tensor
) -> None:
    """Go back through the softmax and `dot_energies`.

    Args:
        keys: (rows, J, A).
        alpha: (rows, J) weights.
        d_alpha: (rows, J) their gradient.
        d_energies: (rows, J) is filled.
        d_query: (rows, T, A) is filled with what the query gets from each tile.
    """
    rows, steps, size = keys.shape
    _dot_backward[(rows, triton.cdiv(steps, STEPS_TILE))](
        keys,
        alpha,
        d_alpha,
        d_energies,
        d_query,
        steps,
        scale=1 / math.sqrt(size),
        size=size,
        tile=STEPS_TILE,
        block=triton.next_power_of_2(size),
        steps_block=triton.next_power_of_2(steps),
    )


@triton.jit(
    do_not_specialize=["steps"],
    do_not_specialize_on_alignment=["alpha", "d_alpha", "d_energies"],
)
def _dot_backward(
    keys: tl.tensor,
    alpha: tl.tensor,
    d_alpha: tl.tensor,
    d_energies: tl.tensor,
    d_query: tl.tensor,
    steps: tl.tensor,
    scale: tl.constexpr,
    size: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
    steps_block: tl.constexpr,
) -> None:
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    j = part * tile + tl.arange(0, tile)
    a = tl.arange(0, block)
    d_e = _softmax_backward(
        alpha + row * steps, d_alpha + row * steps, j, steps, steps_block
    )
    tl.store(d_energies + row * steps + j, d_e, mask=j < steps)
    x = _steps_of(keys + row * steps * size, j, a, steps, size)
    d_q = tl.sum(x * (d_e * scale)[:, None], axis=0)
    to = d_query + (row * tl.num_programs(1) + part) * size + a
    tl.store(to, d_q, mask=a < size)


def additive_energies(
    query: Tensor,
    keys: Tensor,
    previous: Tensor,
    penalty: Tensor,
    v: Tensor,
    filters: Tensor | None,
    location: Tensor | None,
    activation: str,
    filtered: Tensor | None,
    energies: Tensor,
) -> None:
    """Work out v . act(query_b + keys_bj [+ L f_bj], f = filters * previous weights).

    Args:
        query: (rows, A).
        keys: (rows, J, A).
        previous: (rows, J) weights of the character before.
        penalty: (rows, J) is added: -inf on padding.
        v: (A,).
        filters: (F, R); None without.
        location: (F, A) L, transposed; None without.
        activation: tanh or relu.
        filtered: (rows, F, J) is filled with f; None without filters.
        energies: (rows, J) is filled.
    """
    rows, steps, size = keys.shape
    taps = 1 if filters is None else filters.size(1)
    _additive_energies[(rows, triton.cdiv(steps, STEPS_TILE))](
        query,
        keys,
        previous,
        penalty,
        v,
        v if filters is None else filters,
        v if location is None else location,
        energies if filtered is None else filtered,
        energies,
        steps,
        **_constants(size, location, activation),
        taps=taps,
        taps_block=_dot_block(taps),
        num_stages=1,
    )


def _dot_block(count: int) -> int:
    """Return a power of 2 that `tl.dot` takes."""
    block: int = max(16, triton.next_power_of_2(count))
    return block


def _constants(size: int, location: Tensor | None, activation: str) -> dict[str, Any]:
    """Return what all kernels of the additive energies are compiled for."""
    return {
        "size": size,
        "num_filters": 1 if location is None else len(location),
        "located": location is not None,
        "tanh": activation == "tanh",
        "tile": STEPS_TILE,
        "block": _dot_block(size),
        "num_warps": 8,  # with 4 the products run out of registers
        "filters_block": _dot_block(1 if location is None else len(location)),
    }


@triton.jit(
    do_not_specialize=["steps"],
    do_not_specialize_on_alignment=["previous", "filtered", "energies"],
)
def _additive_energies(
    query: tl.tensor,
    keys: tl.tensor,
    previous: tl.tensor,
    penalty: tl.tensor,
    v: tl.tensor,
    filters: tl.tensor,
    location: tl.tensor,
    filtered: tl.tensor,
    energies: tl.tensor,
    steps: tl.tensor,
    size: tl.constexpr,
    num_filters: tl.constexpr,
    located: tl.constexpr,
    tanh: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
    filters_block: tl.constexpr,
    taps: tl.constexpr,
    taps_block: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1) * tile + tl.arange(0, tile)
    a, r = tl.arange(0, block), tl.arange(0, taps_block)
    x = _steps_of(keys + row * steps * size, j, a, steps, size)
    x += tl.load(query + row * size + a, mask=a < size, other=0.0)[None, :]
    if located:
        fs = tl.arange(0, filters_block)
        seen = _neighbours(previous + row * steps, j, r, steps, taps)
        real = (r < taps)[:, None] & (fs < num_filters)[None, :]
        taps_f = tl.load(
            filters + fs[None, :] * taps + r[:, None], mask=real, other=0.0
        )
        f_j = tl.dot(seen, taps_f, input_precision="ieee")  # (tile, F)
        real = (j < steps)[:, None] & (fs < num_filters)[None, :]
        to = filtered + (row * num_filters + fs[None, :]) * steps + j[:, None]
        tl.store(to, f_j, mask=real)
        l_f = _filters_of(location, fs, a, num_filters, size)
        x += tl.dot(f_j, l_f, input_precision="ieee")
    v_a = tl.load(v + a, mask=a < size, other=0.0)
    e = tl.sum(_act(x, tanh) * v_a[None, :], axis=1)
    e += tl.load(penalty + row * steps + j, mask=j < steps, other=0.0)
    tl.store(energies + row * steps + j, e, mask=j < steps)


def additive_backward(
    query: Tensor,
    keys: Tensor,
    filtered: Tensor | None,
    v: Tensor,
    location: Tensor | None,
    activation: str,
    alpha: Tensor,
    d_alpha: Tensor,
    d_energies: Tensor,
    d_query: Tensor,
    d_filtered: Tensor | None,
) -> None:
    """Go back through the softmax and `additive_energies`, but for the weights.

    Args:
        query: (rows, A).
        keys: (rows, J, A).
        filtered: (rows, F, J) f; None without filters.
        v: (A,).
        location: (F, A) L, transposed; None without.
        activation: tanh or relu.
        alpha: (rows, J) weights.
        d_alpha: (rows, J) their gradient.
        d_energies: (rows, J) is filled.
        d_query: (rows, T, A) is filled with what the query gets from each tile.
        d_filtered: (rows, F, J) is filled with the gradient of f; None without.
    """
    rows, steps, size = keys.shape
    _additive_backward[(rows, triton.cdiv(steps, STEPS_TILE))](
        query,
        keys,
        alpha if filtered is None else filtered,
        v,
        v if location is None else location,
        alpha,
        d_alpha,
        d_energies,
        d_query,
        d_energies if d_filtered is None else d_filtered,
        steps,
        **_constants(size, location, activation),
        steps_block=triton.next_power_of_2(steps),
        num_stages=1,
    )


@triton.jit(
    do_not_specialize=["steps"],
    do_not_specialize_on_alignment=[
        *("filtered", "alpha", "d_alpha", "d_energies", "d_filtered"),
    ],
)
def _additive_backward(
    query: tl.tensor,
    keys: tl.tensor,
    filtered: tl.tensor,
    v: tl.tensor,
    location: tl.tensor,
    alpha: tl.tensor,
    d_alpha: tl.tensor,
    d_energies: tl.tensor,
    d_query: tl.tensor,
    d_filtered: tl.tensor,
    steps: tl.tensor,
    size: tl.constexpr,
    num_filters: tl.constexpr,
    located: tl.constexpr,
    tanh: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
    filters_block: tl.constexpr,
    steps_block: tl.constexpr,
) -> None:
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    j = part * tile + tl.arange(0, tile)
    a, fs = tl.arange(0, block), tl.arange(0, filters_block)
    d_e = _softmax_backward(
        alpha + row * steps, d_alpha + row * steps, j, steps, steps_block
    )
    tl.store(d_energies + row * steps + j, d_e, mask=j < steps)
    x = _steps_of(keys + row * steps * size, j, a, steps, size)
    x += tl.load(query + row * size + a, mask=a < size, other=0.0)[None, :]
    if located:
        at_f = (row * num_filters + fs[None, :]) * steps + j[:, None]
        real = (j < steps)[:, None] & (fs < num_filters)[None, :]
        f_j = tl.load(filtered + at_f, mask=real, other=0.0)
        l_f = _filters_of(location, fs, a, num_filters, size)
        x += tl.dot(f_j, l_f, input_precision="ieee")
    v_a = tl.load(v + a, mask=a < size, other=0.0)
    d_x = d_e[:, None] * v_a[None, :] * _slope(_act(x, tanh), tanh)
    to = d_query + (row * tl.num_programs(1) + part) * size + a
    tl.store(to, tl.sum(d_x, axis=0), mask=a < size)
    if located:
        l_f = _filters_of(location, fs, a, num_filters, size)
        d_f = tl.dot(d_x, tl.trans(l_f), input_precision="ieee")  # (tile, F)
        tl.store(d_filtered + at_f, d_f, mask=real)


def weights_backward(
    queries: Tensor,
    keys: Tensor,
    alphas: Tensor,
    filtered: Tensor | None,
    v: Tensor,
    location: Tensor | None,
    activation: str,
    d_energies: Tensor,
    d_filtered: Tensor | None,
    d_keys: Tensor,
    d_v: Tensor,
    d_filters: Tensor | None,
    d_location: Tensor | None,
) -> None:
    """Work out what keys and weights of additive energies get from all characters.

    Args:
        queries: (I, rows, A).
        keys: (rows, J, A).
        alphas: (I, rows, J) weights of the characters before.
        filtered: (I, rows, F, J) f; None without filters.
        v: (A,).
        location: (F, A) L, transposed; None without.
        activation: tanh or relu.
        d_energies: (I, rows, J) gradients of the energies.
        d_filtered: (I, rows, F, J) gradients of f; None without.
        d_keys: (rows, J, A) is filled.
        d_v: (rows, T, A) is filled with the part of each tile.
        d_filters: (rows, T, F, R), likewise; None without.
        d_location: (rows, T, F, A), likewise; None without.
    """
    rows, steps, size = keys.shape
    constants = _constants(size, location, activation)
    taps = 1 if d_filters is None else d_filters.size(3)
    _weights_backward[(rows, triton.cdiv(steps, STEPS_TILE))](
        queries,
        keys,
        alphas,
        alphas if filtered is None else filtered,
        v,
        v if location is None else location,
        d_energies,
        d_energies if d_filtered is None else d_filtered,
        d_keys,
        d_v,
        d_v if d_filters is None else d_filters,
        d_v if d_location is None else d_location,
        len(queries),
        rows,
        steps,
        **constants,
        taps=taps,
        taps_block=_dot_block(taps),
        num_stages=1,
    )


@triton.jit(
    do_not_specialize=["num_tokens", "rows", "steps"],
    do_not_specialize_on_alignment=["alphas", "filtered", "d_energies", "d_filtered"],
)
def _weights_backward(
    queries: tl.tensor,
    keys: tl.tensor,
    alphas: tl.tensor,
    filtered: tl.tensor,
    v: tl.tensor,
    location: tl.tensor,
    d_energies: tl.tensor,
    d_filtered: tl.tensor,
    d_keys: tl.tensor,
    d_v: tl.tensor,
    d_filters: tl.tensor,
    d_location: tl.tensor,
    num_tokens: tl.tensor,
    rows: tl.tensor,
    steps: tl.tensor,
    size: tl.constexpr,
    num_filters: tl.constexpr,
    located: tl.constexpr,
    tanh: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
    filters_block: tl.constexpr,
    taps: tl.constexpr,
    taps_block: tl.constexpr,
) -> None:
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    part_of_row = row * tl.num_programs(1) + part
    j = part * tile + tl.arange(0, tile)
    a, r = tl.arange(0, block), tl.arange(0, taps_block)
    fs = tl.arange(0, filters_block)
    if located:
        at_f = fs[None, :] * steps + j[:, None]
        real_f = (j < steps)[:, None] & (fs < num_filters)[None, :]
        l_f = _filters_of(location, fs, a, num_filters, size)
        place = j[None, :] + r[:, None] - taps // 2
        near = (r < taps)[:, None] & (place >= 0) & (place < steps)
    key = _steps_of(keys + row * steps * size, j, a, steps, size)
    v_a = tl.load(v + a, mask=a < size, other=0.0)
    sum_keys = tl.zeros([tile, block], dtype=tl.float32)
    sum_v = tl.zeros([block], dtype=tl.float32)
    sum_filters = tl.zeros([taps_block, filters_block], dtype=tl.float32)
    sum_location = tl.zeros([filters_block, block], dtype=tl.float32)
    all_rows = rows.to(tl.int64)
    queries += row * size
    alphas += row * steps
    d_energies += row * steps
    filtered += row * num_filters * steps
    d_filtered += row * num_filters * steps
    for _ in range(num_tokens):
        d_e = tl.load(d_energies + j, mask=j < steps, other=0.0)
        x = key + tl.load(queries + a, mask=a < size, other=0.0)[None, :]
        if located:
            f_j = tl.load(filtered + at_f, mask=real_f, other=0.0)  # (tile, F)
            x += tl.dot(f_j, l_f, input_precision="ieee")
        active = _act(x, tanh)
        d_x = d_e[:, None] * v_a[None, :] * _slope(active, tanh)
        sum_keys += d_x
        sum_v += tl.sum(d_e[:, None] * active, axis=0)
        if located:
            seen = tl.load(alphas + place, mask=near, other=0.0)  # (R, tile)
            d_f = tl.load(d_filtered + at_f, mask=real_f, other=0.0)
            sum_location += tl.dot(tl.trans(f_j), d_x, input_precision="ieee")
            sum_filters += tl.dot(seen, d_f, input_precision="ieee")
        queries += all_rows * size
        alphas += all_rows * steps
        d_energies += all_rows * steps
        filtered += all_rows * num_filters * steps
        d_filtered += all_rows * num_filters * steps
    real = (j < steps)[:, None] & (a < size)[None, :]
    to = d_keys + row * steps * size + j[:, None] * size + a[None, :]
    tl.store(to, sum_keys, mask=real)
    tl.store(d_v + part_of_row * size + a, sum_v, mask=a < size)
    if located:
        f_at = part_of_row * num_filters + fs
        real = (r < taps)[:, None] & (fs < num_filters)[None, :]
        to = d_filters + f_at[None, :] * taps + r[:, None]
        tl.store(to, sum_filters, mask=real)
        real = (fs < num_filters)[:, None] & (a < size)[None, :]
        tl.store(
            d_location + f_at[:, None] * size + a[None, :], sum_location, mask=real
        )


# Parts of kernels


@triton.jit
def _steps_of(
    x: tl.tensor, j: tl.tensor, a: tl.tensor, steps: tl.tensor, size: tl.constexpr
) -> tl.tensor:
    """(J, A) at x, steps j -> (tile, block), zeros beyond."""
    real = (j < steps)[:, None] & (a < size)[None, :]
    return tl.load(x + j[:, None] * size + a[None, :], mask=real, other=0.0)


@triton.jit
def _filters_of(
    location: tl.tensor,
    fs: tl.tensor,
    a: tl.tensor,
    num_filters: tl.constexpr,
    size: tl.constexpr,
) -> tl.tensor:
    """(F, A) at location -> (filters_block, block), zeros beyond."""
    real = (fs < num_filters)[:, None] & (a < size)[None, :]
    return tl.load(location + fs[:, None] * size + a[None, :], mask=real, other=0.0)


@triton.jit
def _neighbours(
    weights: tl.tensor, j: tl.tensor, r: tl.tensor, steps: tl.tensor, taps: tl.constexpr
) -> tl.tensor:
    """(J,) at weights -> (tile, taps_block) around each step j, zeros beyond."""
    place = j[:, None] + r[None, :] - taps // 2
    real = (r < taps)[None, :] & (place >= 0) & (place < steps)
    return tl.load(weights + place, mask=real, other=0.0)


@triton.jit
def _softmax_backward(
    alpha: tl.tensor,
    d_alpha: tl.tensor,
    j: tl.tensor,
    steps: tl.tensor,
    steps_block: tl.constexpr,
) -> tl.tensor:
    """(J,), (J,) -> (tile,) gradient of the energies of steps j, zeros beyond."""
    all_j = tl.arange(0, steps_block)
    weight = tl.load(alpha + all_j, mask=all_j < steps, other=0.0)
    d_weight = tl.load(d_alpha + all_j, mask=all_j < steps, other=0.0)
    mean = tl.sum(weight * d_weight, axis=0)
    weight = tl.load(alpha + j, mask=j < steps, other=0.0)
    d_weight = tl.load(d_alpha + j, mask=j < steps, other=0.0)
    return weight * (d_weight - mean)


@triton.jit
def _act(x: tl.tensor, tanh: tl.constexpr) -> tl.tensor:
    if tanh:  # noqa: SIM108
        y = _tanh(x)
    else:
        y = tl.where(x < 0, 0.0, x)
    return y


@triton.jit
def _slope(y: tl.tensor, tanh: tl.constexpr) -> tl.tensor:
    """Derivative where the activation has the value y."""
    if tanh:  # noqa: SIM108
        slope = 1 - y * y
    else:
        slope = tl.where(y > 0, 1.0, 0.0)
    return slope


@triton.jit
def _tanh(x: tl.tensor) -> tl.tensor:
    shrunk = tl.exp(-2 * tl.abs(x))  # at most 1: nothing overflows
    y = (1 - shrunk) / (1 + shrunk)
    return tl.where(x < 0, -y, y)


@triton.jit
def _sigmoid(x: tl.tensor) -> tl.tensor:
    return 1 / (1 + tl.exp(-x))
