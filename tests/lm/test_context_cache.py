"""What a search keeps of the LSTM's contexts is what the plain formula works out."""

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from asr.lm.context_cache import ContextCache, ContextWeights, product
from asr.lm.word_lstm import Contexts, WordLSTM
from asr.tensor_files import dequantize_rows, quantize_rows

WORDS, SIZE = 30, 16


def as_stored(weight: Tensor) -> Tensor:
    """Return a matrix as it is after it was saved and loaded."""
    return dequantize_rows("", quantize_rows("", weight))


def contexts(*, stored: bool) -> Contexts:
    torch.manual_seed(0)
    ranks = torch.cat([torch.randperm(WORDS + 1), torch.tensor([WORDS + 1])])
    model = WordLSTM(ranks, embedding_size=3, size=SIZE, cutoffs=[5, 12], share=0.3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_()
            if stored and weight.dim() == 2:
                weight.copy_(as_stored(weight))
    return Contexts(model.eval())


@pytest.mark.parametrize("stored", [False, True])
def test_it_foretells_what_the_plain_formula_foretells(stored: bool) -> None:
    plain, rng = contexts(stored=stored), np.random.default_rng(0)
    cache = ContextWeights(plain).start(np.array([-0.5]))
    rows, at = plain.start(4), np.zeros(4, dtype=np.int64)
    goes_on, everything = np.full(4, -0.5), np.arange(WORDS + 1)

    for _ in range(9):
        for row in range(4):
            expected = plain.log_prob(
                torch.from_numpy(everything), rows[row].expand(WORDS + 1, -1)
            )
            found = cache.log_prob(everything, np.full(WORDS + 1, at[row]))
            np.testing.assert_allclose(found, expected + goes_on[row], atol=1e-4)
        sums, clusters = cache.ahead()
        expected_sums, expected_clusters = plain.ahead(rows)
        np.testing.assert_allclose(sums[at], expected_sums, atol=1e-5)
        np.testing.assert_allclose(clusters[at], expected_clusters, atol=1e-5)
        words, goes_on = rng.integers(0, WORDS + 1, 4), rng.uniform(-2, 0, 4)
        rows = plain.read(torch.from_numpy(words), rows)
        at = cache.read(words, at, goes_on)


@pytest.mark.parametrize("stored", [False, True])
def test_a_product_can_be_pickled(stored: bool) -> None:
    weight, x = torch.randn(6, 4), torch.randn(3, 4)
    multiply = product(as_stored(weight) if stored else weight)

    again = pickle.loads(pickle.dumps(multiply))

    assert torch.equal(again(x), multiply(x))


def test_with_bytes_it_foretells_nearly_the_same() -> None:
    plain, everything = contexts(stored=True), np.arange(WORDS + 1)
    caches = [
        ContextWeights(plain, precision).start(np.zeros(1))
        for precision in ("float32", "int8")
    ]
    at, words = np.zeros(2, dtype=np.int64), np.array([3, 7])
    exact, found = (
        cache.log_prob(
            everything, np.repeat(cache.read(words, at, np.zeros(2)), [16, 15])
        )
        for cache in caches
    )
    assert 0 < np.abs(found - exact).max() < 0.2
    assert np.corrcoef(found, exact)[0, 1] > 0.99


def test_a_row_stays_as_it_is_when_others_are_added_or_dropped() -> None:
    cache = ContextWeights(contexts(stored=True)).start(np.zeros(1))
    everything, rng = np.arange(WORDS + 1), np.random.default_rng(0)
    at = np.zeros(3, dtype=np.int64)
    at = cache.read(np.array([3, 7, 1]), at, np.zeros(3))
    expected = [_all_of(cache, everything, row) for row in at.tolist()]
    old, kept = cache, at

    for _ in range(200):
        new = cache.read(rng.integers(0, WORDS, 3), kept, np.zeros(3))
        assert len({*new, *kept}) == 6
        cache, kept = cache.keep(kept)

    assert cache is not old
    assert cache.count < 300  # of 600 that were read
    for row, before, wanted in zip(kept.tolist(), at.tolist(), expected, strict=True):
        np.testing.assert_array_equal(_all_of(cache, everything, row), wanted)
        np.testing.assert_array_equal(_all_of(old, everything, before), wanted)


def _all_of(cache: ContextCache, words: "np.ndarray", row: int) -> "np.ndarray":
    return cache.log_prob(words, np.full(len(words), row))


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_products_lose_nothing(stored: bool, rows: int) -> None:
    torch.manual_seed(0)
    weight, x = 3 * torch.randn(70, 50), torch.randn(rows, 50)
    weight[4] = 0.0
    if stored:
        weight = as_stored(weight)

    found = product(weight)(x)

    torch.testing.assert_close(found, linear(x, weight), rtol=1e-5, atol=1e-5)


def test_scales_in_half_precision_are_found_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = torch.randint(-127, 128, (9, 40)).float()
    steps[:, 0] = 127
    weight = steps * torch.rand(9).half().float()[:, None]
    packed, real = list[Tensor](), torch.ops.quantized.linear_prepack_fp16

    def pack(weight: Tensor, bias: Tensor | None) -> object:
        packed.append(weight)
        return real(weight, bias)

    monkeypatch.setattr(torch.ops.quantized, "linear_prepack_fp16", pack)

    product(weight)

    torch.testing.assert_close(packed[0].abs(), steps.abs(), rtol=0, atol=0)


def test_a_cpu_without_half_precision_multiplies_as_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("unknown operation")

    monkeypatch.setattr(torch.ops.quantized, "linear_prepack_fp16", refuse)
    weight, x = as_stored(torch.randn(7, 5)), torch.randn(3, 5)

    torch.testing.assert_close(product(weight)(x), linear(x, weight))
