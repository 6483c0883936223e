import math

import pytest
import torch
from torch import Tensor, nn

from asr.model.lstm import (
    BidirectionalLSTM,
    gates_last,
    read_both_ways,
    step_backward,
    step_forward,
)
from asr.padding import valid_mask

D, S = 3, 4


def read(
    layer: BidirectionalLSTM, x: Tensor, lengths: Tensor, dtype: torch.dtype
) -> Tensor:
    """The loop's output, with zeros on all padding."""
    read = read_both_ways(x, lengths, (layer.forwards, layer.backwards), dtype)
    return read * valid_mask(lengths, x.size(1))[:, :, None]


def plain(layer: BidirectionalLSTM, x: Tensor, lengths: Tensor) -> Tensor:
    valid = valid_mask(lengths, x.size(1))[:, :, None]
    return layer.read_in_two_passes(x, lengths) * valid


# Golden


def test_a_step_worked_by_hand() -> None:
    gates = torch.tensor([0.0, math.log(3), 0.0, 100.0])  # i f o g: one unit
    cell, hidden = torch.zeros(1), torch.zeros(1)

    step_forward(gates, torch.tensor([2.0]), cell, hidden)

    # c = 3/4 * 2 + 1/2 * tanh(100) = 2; h = 1/2 * tanh(2)
    assert cell.item() == pytest.approx(2.0)
    assert hidden.item() == pytest.approx(0.5 * math.tanh(2))


def test_the_gate_that_is_no_sigmoid_comes_last() -> None:
    weights = torch.tensor([[1.0], [2.0], [3.0], [4.0]])  # torch's i f g o
    assert gates_last(weights).flatten().tolist() == [1.0, 2.0, 4.0, 3.0]


# Parity


def test_a_step_back_agrees_with_autograd() -> None:
    torch.manual_seed(0)
    sums = torch.randn(2, 5, 4 * S, dtype=torch.float64, requires_grad=True)
    cell = torch.randn(2, 5, S, dtype=torch.float64, requires_grad=True)
    i, f, o, g = sums.chunk(4, dim=-1)
    new_cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    hidden = o.sigmoid() * new_cell.tanh()
    d_hidden, d_cell = torch.randn_like(hidden), torch.randn_like(hidden)
    expected = torch.autograd.grad((hidden, new_cell), (sums, cell), (d_hidden, d_cell))

    with torch.no_grad():
        gates, d_gates = sums.clone(), torch.empty_like(sums)
        ours, h = torch.empty_like(cell), torch.empty_like(cell)
        step_forward(gates, cell, ours, h)
        step_backward(gates, cell, ours, d_hidden, d_cell, d_gates)

    torch.testing.assert_close(h, hidden)
    torch.testing.assert_close(d_gates, expected[0])
    torch.testing.assert_close(d_cell, expected[1])


@pytest.mark.parametrize("seed", range(6))
def test_the_loop_agrees_with_two_passes_of_torch(seed: int) -> None:
    torch.manual_seed(seed)
    batch = seed % 3 + 1
    lengths = torch.randint(1, 9, (batch,))
    width = int(lengths.max()) + seed % 2  # padded further than it need be, or not
    layer = BidirectionalLSTM(D, S).double()
    x = torch.randn(batch, width, D, dtype=torch.float64, requires_grad=True)
    wanted = torch.randn(batch, width, 2 * S, dtype=torch.float64)
    inputs = [x, *layer.parameters()]

    ours = read(layer, x, lengths, torch.float64)

    torchs = plain(layer, x, lengths)
    torch.testing.assert_close(ours, torchs)
    for found, expected in zip(
        torch.autograd.grad((ours * wanted).sum(), inputs),
        torch.autograd.grad((torchs * wanted).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


def test_in_bfloat16_the_loop_is_as_exact_as_its_products() -> None:
    torch.manual_seed(0)
    layer, lengths = BidirectionalLSTM(40, 32), torch.tensor([50, 31])
    x = torch.randn(2, 50, 40, requires_grad=True)
    inputs = [x, *layer.parameters()]

    ours = read(layer, x, lengths, torch.bfloat16)

    torchs = plain(layer, x, lengths)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, torchs, atol=0.02, rtol=0.0)
    for found, expected in zip(
        torch.autograd.grad(ours.sum(), inputs),
        torch.autograd.grad(torchs.sum(), inputs),
        strict=True,
    ):
        assert (found - expected).norm() < 0.02 * expected.norm()


# Where it is used


def test_under_autocast_the_loop_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, lengths = BidirectionalLSTM(D, S), torch.tensor([5])
    x = torch.randn(1, 5, D)
    monkeypatch.setattr(nn.LSTM, "forward", None)

    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x, lengths)

    assert y.dtype == torch.float32
    assert y.shape == (1, 5, 2 * S)


def test_what_stands_in_the_padding_of_a_row_is_not_read_backwards() -> None:
    layer, lengths = BidirectionalLSTM(D, S), torch.tensor([6, 2])
    x = torch.randn(2, 6, D)
    other = x.clone()
    other[1, 2:] = 9.0

    y, z = (read(layer, v, lengths, torch.float32) for v in (x, other))

    assert torch.equal(y, z)
