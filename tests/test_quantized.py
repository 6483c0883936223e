import pickle
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn

from asr.quantized import Float32Linear, Int8Linear, Int8LSTM


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_product_is_that_of_the_layer(bias: bool) -> None:
    layer, x = nn.Linear(7, 5, bias=bias), torch.randn(3, 7)
    product = Float32Linear(layer.weight, layer.bias)

    torch.testing.assert_close(product(x), layer(x))
    assert product.size == 5


LARGE = (512, 700)
"""Inputs and outputs of a layer whose weights are kept as oneDNN likes them."""


@pytest.mark.parametrize("rows", [0, 1, 8, 64])
@torch.no_grad()
def test_a_large_product_is_that_of_the_layer(rows: int) -> None:
    layer, wide = nn.Linear(*LARGE), torch.randn(rows, 1000)
    x = wide[:, 100:612]
    product, sums = Float32Linear(layer.weight, layer.bias), torch.ones(rows, 700)

    torch.testing.assert_close(product(x), layer(x), rtol=1e-4, atol=1e-5)
    product = Float32Linear(layer.weight, None)
    product.add_to(sums, x)

    assert (product.num_inputs, product.size) == LARGE
    expected = layer(x) - layer.bias + 1
    torch.testing.assert_close(sums, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lacking", ["oneDNN", "its operation"])
@torch.no_grad()
def test_a_large_product_is_the_same_without_onednn(
    lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[object]()

    def refuse(*_: object) -> None:
        calls.append(_)
        raise NotImplementedError("no such operation")

    if lacking == "oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    else:
        monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuse)
    layer, x = nn.Linear(*LARGE), torch.randn(8, LARGE[0])

    y = Float32Linear(layer.weight, layer.bias)(x)

    assert len(calls) == (lacking == "its operation")
    torch.testing.assert_close(y, layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(7, 5), LARGE])
@pytest.mark.parametrize("again", [deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@torch.no_grad()
def test_a_product_can_be_copied_and_pickled(
    size: tuple[int, int], again: Callable[[Float32Linear], Float32Linear]
) -> None:
    layer, x = nn.Linear(*size), torch.randn(3, size[0])

    product = again(Float32Linear(layer.weight, layer.bias))

    torch.testing.assert_close(product(x), layer(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_int8_product_is_within_a_hundredth() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 48), torch.randn(8, 64)
    product = Int8Linear(layer.weight, layer.bias)

    error = (product(x) - layer(x)).norm() / layer(x).norm()

    assert 0 < float(error) < 0.02


@pytest.mark.parametrize("kind", [Float32Linear, Int8Linear])
@torch.no_grad()
def test_a_product_can_be_added_to_sums(kind: type[Float32Linear | Int8Linear]) -> None:
    layer, x = nn.Linear(7, 5), torch.randn(3, 7)
    product, sums = kind(layer.weight, None), torch.ones(3, 5)

    product.add_to(sums, x)

    torch.testing.assert_close(sums, 1 + product(x))


@torch.no_grad()
def test_a_small_row_keeps_its_own_scale() -> None:
    weight = torch.tensor([[100.0, -50.0], [0.001, 0.0005], [0.0, 0.0]])

    y = Int8Linear(weight, None)(torch.tensor([[1.0, 0.0]]))

    torch.testing.assert_close(y[0], weight[:, 0], rtol=0.02, atol=1e-6)


@torch.no_grad()
def test_what_comes_of_a_row_in_int8_does_not_depend_on_the_rows_beside_it() -> None:
    layer, x = nn.Linear(64, 48), torch.randn(3, 64)
    x[1] *= 50
    x[2] = 0
    product, sums = Int8Linear(layer.weight, layer.bias), torch.zeros(3, 48)

    together = product(x)
    product.add_to(sums, x)

    assert torch.equal(together, torch.cat([product(row[None]) for row in x]))
    assert torch.equal(sums, together)
    torch.testing.assert_close(together[2], layer.bias)
    error = (together - layer(x)).norm(dim=1) / layer(x).norm(dim=1)
    assert float(error.max()) < 0.02


def bidirectional(size: int, *, of: int) -> tuple[nn.LSTM, nn.LSTM]:
    forwards, backwards = (nn.LSTM(of, size, batch_first=True) for _ in range(2))
    return forwards, backwards


@torch.no_grad()
def test_an_int8_lstm_is_nearly_that_of_torch() -> None:
    torch.manual_seed(0)
    lstms, x = bidirectional(16, of=12), torch.randn(2, 30, 12)

    y = Int8LSTM(*lstms)(x, torch.tensor([30, 30]))

    backwards = lstms[1](x.flip(1))[0].flip(1)
    expected = torch.cat((lstms[0](x)[0], backwards), dim=2)
    assert y.shape == expected.shape
    assert 0 < float((y - expected).abs().max()) < 0.1


@torch.no_grad()
def test_an_int8_lstm_reads_a_row_as_if_it_were_alone() -> None:
    lstm, x = Int8LSTM(*bidirectional(16, of=12)), torch.randn(2, 30, 12)
    x[1] *= 50

    y = lstm(x, torch.tensor([11, 30]))

    assert torch.equal(y[:1, :11], lstm(x[:1, :11], torch.tensor([11])))
    assert torch.equal(y[1:], lstm(x[1:], torch.tensor([30])))
    assert not y[0, 11:].any()
