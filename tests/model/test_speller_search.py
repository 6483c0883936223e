from pathlib import Path
from typing import Any

import pytest
import torch

from asr.decoding.hypothesis import Hypothesis, SearchConfig
from asr.decoding.search import StepModel, beam_search
from asr.model import compiled_energies as compiling
from asr.model import speller_search
from asr.model.attention import (
    ACTIVATIONS,
    KINDS,
    AdditiveAttention,
    AttentionConfig,
    AttentionMemory,
)
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.plain_steps import PlainSteps
from asr.model.speller import Speller, SpellerConfig
from asr.model.speller_search import LASSteps, StepWeights
from asr.model.windowed_search import WindowedSteps

V, SOS, EOS, H = 9, 1, 2, 6
HEADS = [("dot", heads, 0) for heads in (2, 3, 6)]
BLOCKS = [("location", 1, block_size) for block_size in (1, 2, 7, 9)]
BLOCKS += [("additive", 1, 3)]


def build(
    kind: str = "location",
    layers: int = 1,
    activation: str = "tanh",
    heads: int = 1,
    block_size: int = 0,
) -> Speller:
    torch.manual_seed(0)
    attention = AttentionConfig(kind, 5 * heads, activation, 2, 2, heads, block_size)
    speller = Speller(SpellerConfig(4, layers, 3), attention, H, V).eval()
    with torch.no_grad():  # sharper, so that hypotheses differ
        for parameter in speller.parameters():
            parameter.mul_(2.0)
    return speller


def memory_of(speller: Speller, *num_steps: int) -> AttentionMemory:
    h = torch.randn(len(num_steps), max(num_steps), H)
    return speller.attention.precompute(h, torch.tensor(num_steps))


def steps_of(
    speller: Speller,
    memory: AttentionMemory,
    coverage: float = 0.0,
    precision: str = "float32",
) -> LASSteps:
    weights = StepWeights(speller, precision)
    return LASSteps(weights, memory, speller.attention.start(memory), coverage)


def search(model: StepModel[Any], count: int) -> list[list[Hypothesis]]:
    limits = torch.full((count,), 12)
    config = SearchConfig(beam_size=4)
    return beam_search(model, config, sos=SOS, eos=EOS, max_lengths=limits)


# Parity with the plain formula


@pytest.mark.parametrize("coverage", [0.0, 0.3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "heads", "block_size"),
    [*((kind, 1, 0) for kind in KINDS), *HEADS, *BLOCKS],
)
@torch.no_grad()
def test_a_search_finds_what_it_finds_by_the_plain_formula(
    kind: str,
    heads: int,
    block_size: int,
    layers: int,
    activation: str,
    coverage: float,
) -> None:
    speller = build(kind, layers, activation, heads, block_size)
    memory = memory_of(speller, 7, 3, 5)

    fast = search(steps_of(speller, memory, coverage), 3)

    plain = search(PlainSteps(speller, memory, coverage), 3)
    for ours, theirs in zip(fast, plain, strict=True):
        assert [h.tokens for h in ours] == [h.tokens for h in theirs]
        assert [h.log_prob for h in ours] == pytest.approx(
            [h.log_prob for h in theirs], abs=1e-5
        )


@pytest.mark.parametrize("block_size", [0, 3])
@pytest.mark.parametrize(
    ("queries", "keys", "by_products"),
    [
        (1.0, 1.0, True),
        (39.0, 39.9, True),
        (39.0, 40.1, False),
        (41.0, 1.0, False),
        (200.0, 500.0, False),
    ],
)
@torch.no_grad()
def test_energies_of_large_queries_and_keys_are_those_of_tanh(
    queries: float, keys: float, by_products: bool, block_size: int
) -> None:
    """No products of exponentials where one of them would be no float32 number."""
    speller = build("additive", block_size=block_size)
    attention, size = speller.attention, 5
    weight = attention.query.weight[:size]
    weight *= queries / weight.abs().sum(dim=1).max()
    memory = memory_of(speller, 7, 3)
    inside = memory.keys[:, :, :size]
    inside *= keys / inside.abs().max()
    steps = steps_of(speller, memory)
    s = torch.cat((torch.ones(1, 4), weight.sign()[:3])) * 0.999
    previous = attention.start(memory)[:, None].expand(-1, 2, -1)
    query = steps.weights.query(s).view(2, 2, -1)

    energies = steps.energies(query, steps.start().memory, previous)[:, :, 0]

    assert steps.by_products == by_products
    assert isinstance(attention, AdditiveAttention)
    plain_query = attention.query(s).view(2, 2, -1)[..., None, :size]
    compared = (plain_query + inside[:, None]).tanh() @ attention.energy.weight[0]
    torch.testing.assert_close(
        energies.log_softmax(dim=-1), compared.log_softmax(dim=-1), rtol=0, atol=2e-5
    )


@pytest.mark.parametrize("kind", ["location", "additive"])
@pytest.mark.parametrize("block_size", [0, 3])
@torch.no_grad()
def test_the_compiled_loop_finds_what_it_finds_by_the_plain_formula(
    kind: str, block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    speller = build(kind, activation="relu", block_size=block_size)
    memory = memory_of(speller, 7, 3, 5)
    calls = list[tuple[int, ...]]()

    def compiled(*parts: torch.Tensor) -> torch.Tensor | None:
        found = compiling.compiled_energies(*parts)
        calls.append(() if found is None else found.shape)
        return found

    monkeypatch.setattr(speller_search, "WORTH_COMPILING", 1)
    monkeypatch.setattr(speller_search, "compiled_energies", compiled)
    fast = search(steps_of(speller, memory), 3)

    plain = search(PlainSteps(speller, memory), 3)
    for ours, theirs in zip(fast, plain, strict=True):
        assert [h.tokens for h in ours] == [h.tokens for h in theirs]
        assert [h.log_prob for h in ours] == pytest.approx(
            [h.log_prob for h in theirs], abs=1e-5
        )
    assert calls[0] == (3, 1, 7)
    assert (3, 4, 7) in calls


def test_a_damaged_cache_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    keys, query, v = torch.randn(4, 3), torch.randn(2, 3), torch.randn(3)
    expected = torch.maximum(keys, -query[:, None]) @ v
    for _ in range(2):
        compiling._loop.cache_clear()
        parts = (keys[None], query[None], None, None, v, torch.tensor([3]))
        found = compiling.compiled_energies(*parts)
        assert found is not None
        torch.testing.assert_close(found[0, :, :3], expected[:, :3])
        assert found[0, :, 3].tolist() == [0.0, 0.0]  # there is no such step
        kept = [path for path in tmp_path.rglob("*") if path.is_file()]
        for path in kept:
            path.write_bytes(b"x")
    compiling._loop.cache_clear()
    assert kept


@torch.no_grad()
def test_without_numba_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    speller = build(activation="relu")
    memory = memory_of(speller, 7, 5)
    expected = search(steps_of(speller, memory), 2)
    monkeypatch.setattr(speller_search, "WORTH_COMPILING", 1)
    monkeypatch.setattr(compiling, "_loop", lambda num_features: None)

    found = search(steps_of(speller, memory), 2)

    assert found == expected


@pytest.mark.parametrize(("kind", "heads", "block_size"), [*HEADS, *BLOCKS])
@torch.no_grad()
def test_each_step_is_that_of_the_plain_formula(
    kind: str, heads: int, block_size: int
) -> None:
    speller = build(kind, heads=heads, block_size=block_size)
    memory = memory_of(speller, 7, 3, 5)
    fast, plain = steps_of(speller, memory), PlainSteps(speller, memory)
    state, plain_state = fast.start(), plain.start()
    for tokens in torch.randint(V, (5, 3)):
        scores, state = fast.step(tokens, state)
        expected, plain_state = plain.step(tokens, plain_state)
        torch.testing.assert_close(scores, expected)
        torch.testing.assert_close(state.weights, plain_state.speller.weights)


@pytest.mark.parametrize("coverage", [0.0, 0.3])
@pytest.mark.parametrize(
    ("kind", "heads", "block_size"), [*((kind, 1, 0) for kind in KINDS), *HEADS]
)
@torch.no_grad()
def test_with_one_listener_step_it_is_the_plain_formula_too(
    kind: str, heads: int, block_size: int, coverage: float
) -> None:
    speller = build(kind, heads=heads, block_size=block_size)
    memory = memory_of(speller, 1, 1)

    fast = search(steps_of(speller, memory, coverage), 2)

    plain = search(PlainSteps(speller, memory, coverage), 2)
    for ours, theirs in zip(fast, plain, strict=True):
        assert [h.tokens for h in ours] == [h.tokens for h in theirs]
        assert [h.log_prob for h in ours] == pytest.approx(
            [h.log_prob for h in theirs], abs=1e-5
        )


@pytest.mark.parametrize("layers", [1, 2])
def test_a_step_leaves_weights_and_state_as_they_were(layers: int) -> None:
    speller = build(layers=layers)
    steps = steps_of(speller, memory_of(speller, 6))
    _, state = steps.step(torch.tensor([SOS]), steps.start())

    first, _ = steps.step(torch.tensor([4]), state)
    second, _ = steps.step(torch.tensor([4]), state)

    assert torch.equal(first, second)


@pytest.mark.parametrize("block_size", [0, 3])
@pytest.mark.parametrize("rows", [1, 3, 4, 8])
def test_what_is_beyond_the_cache_is_looked_at_in_pieces(
    rows: int, block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    speller = build(block_size=block_size)
    memory = memory_of(speller, 7, 3, 5)
    whole = search(steps_of(speller, memory), 3)

    monkeypatch.setattr("asr.model.speller_search._IN_CACHE", rows * 7 * 5)

    pieces = search(steps_of(speller, memory), 3)
    for ours, others in zip(pieces, whole, strict=True):
        assert [h.tokens for h in ours] == [h.tokens for h in others]
        assert [h.log_prob for h in ours] == pytest.approx(
            [h.log_prob for h in others], abs=1e-5
        )


# In bytes


@pytest.mark.parametrize(
    ("kind", "heads", "block_size"), [("location", 1, 0), *HEADS[:1], *BLOCKS[:2]]
)
@pytest.mark.parametrize("layers", [1, 2])
def test_bytes_are_nearly_as_exact(
    layers: int, kind: str, heads: int, block_size: int
) -> None:
    speller = build(kind, layers, heads=heads, block_size=block_size)
    memory = memory_of(speller, 7, 3)
    tokens = torch.tensor([SOS, SOS])
    steps, exact = (steps_of(speller, memory, 0.0, p) for p in ("int8", "float32"))

    scores, _ = steps.step(tokens, steps.start())

    expected, _ = exact.step(tokens, exact.start())
    difference = (scores - expected).abs().max()
    assert 0 < float(difference) < 0.05


@pytest.mark.parametrize("is_fast", [True, False])
@pytest.mark.parametrize("precision", ["int8", "float32"])
@pytest.mark.parametrize("window", [0, 9])
@torch.no_grad()
def test_beside_bytes_what_is_looked_at_has_few_digits_where_that_is_fast(
    window: int, precision: str, is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speller_search, "cpu_multiplies_bfloat16", lambda: is_fast)
    speller = build("location")
    memory = memory_of(speller, 9, 5)
    weights, start = StepWeights(speller, precision), speller.attention.start(memory)
    steps = LASSteps(weights, memory, start, 0.0)
    if window:
        steps = WindowedSteps(weights, memory, start, 0.0, window)
    plain = PlainSteps(speller, memory, 0.0)

    kept = steps.start().memory.h
    first, state = steps.step(torch.tensor([SOS, SOS]), steps.start())
    second, _ = steps.step(torch.tensor([EOS + 1, EOS + 2]), state)

    rounded = precision == "int8" and is_fast
    assert kept.dtype == (torch.bfloat16 if rounded else torch.float32)
    _, after = plain.step(torch.tensor([SOS, SOS]), plain.start())
    expected, _ = plain.step(torch.tensor([EOS + 1, EOS + 2]), after)
    assert first.dtype == second.dtype == torch.float32
    difference = float((second - expected).abs().max())
    assert difference < (0.1 if precision == "int8" else 1e-5)


# The coverage bonus: golden


def bonuses(
    looks: list[list[list[float]]], moves: list[list[int]]
) -> list[list[float]]:
    """Let rows look as given and change places; return what each was paid for."""
    speller = build("additive")
    memory = memory_of(speller, 3)
    steps, plain = steps_of(speller, memory, coverage=0.25), steps_of(speller, memory)
    state, paid = steps.start(), list[list[float]]()
    for look, move in zip(looks, moves, strict=True):
        energies = torch.tensor(look).log()[None, :, None]
        tokens = torch.full((len(look),), SOS)
        steps.energies = plain.energies = (  # type: ignore[method-assign]
            lambda *_, energies=energies: energies.clone()
        )
        unpaid, _ = plain.step(tokens, state._replace(attended=None))
        scores, state = steps.step(tokens, state)
        difference = (scores - unpaid) / 0.25
        torch.testing.assert_close(difference, difference[:, :1].expand_as(difference))
        paid.append([round(x, 4) for x in difference[:, 0].tolist()])
        state = steps.select(state, torch.tensor([move]))
    return paid


def test_each_step_is_paid_for_once_when_half_a_character_looked_at_it() -> None:
    looks = [[[0.6, 0.4, 0.0]], [[0.1, 0.2, 0.7]], [[0.5, 0.0, 0.5]]]

    # Attended: (0.6, 0.4, 0), then (0.7, 0.6, 0.7), then (1.2, 0.6, 1.2).
    assert bonuses(looks, [[0], [0], [0]]) == [[1], [2], [0]]


def test_coverage_follows_the_hypotheses() -> None:
    looks = [
        [[0.6, 0.4, 0.0]],
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
        [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]],
    ]

    # The third step is new to the first row only once the rows have changed places.
    assert bonuses(looks, [[0, 0], [1, 0], [0, 1]]) == [[1], [1, 0], [1, 0]]


def test_half_a_character_exactly_is_not_enough() -> None:
    assert bonuses([[[0.5, 0.5, 0.0]]], [[0]]) == [[0]]


# Without ears


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 2])
def test_the_internal_language_model_writes_as_if_all_contexts_were_zero(
    kind: str, layers: int
) -> None:
    config = LASConfig(
        ListenerConfig(size=H // 2, reductions=[2], dropout=0.0),
        AttentionConfig(kind, 5, filters=2, reach=2),
        SpellerConfig(4, layers, 3),
    )
    las = LAS(config, V).eval()
    model, speller = las.internal_lm(2), las.speller
    state, tokens = model.start(), torch.full((2,), SOS)
    hidden = [torch.zeros(2, 4) for _ in range(layers)]
    cells = [torch.zeros(2, 4) for _ in range(layers)]

    for written in ([4, 5], [6, 4], [3, 3]):
        scores, state = model.step(tokens, state)
        below = torch.cat((speller.embedding(tokens), torch.zeros(2, H)), dim=1)
        for layer, cell in enumerate(speller.cells):
            hidden[layer], cells[layer] = cell(below, (hidden[layer], cells[layer]))
            below = hidden[layer]
        seen = torch.cat((below, torch.zeros(2, H)), dim=1)
        logits = speller.output(speller.hidden(seen).tanh())

        torch.testing.assert_close(scores, logits.log_softmax(dim=-1))
        tokens = torch.tensor(written)
