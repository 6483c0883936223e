import pytest
import torch
from torch import Tensor

from asr.model.attention import KINDS, AttentionMemory
from asr.model.plain_steps import PlainSteps
from asr.model.speller import Speller
from asr.model.speller_search import StepWeights
from asr.model.windowed_search import WindowedSteps
from tests.model.test_speller_search import (
    BLOCKS,
    HEADS,
    V,
    build,
    memory_of,
    search,
    steps_of,
)

each_attention = pytest.mark.parametrize(
    ("kind", "heads", "block_size"),
    [*((kind, 1, 0) for kind in KINDS), *HEADS, *BLOCKS],
)


def windowed(
    speller: Speller, memory: AttentionMemory, window: int, coverage: float = 0.0
) -> WindowedSteps:
    start = speller.attention.start(memory)
    return WindowedSteps(StepWeights(speller), memory, start, coverage, window)


def through_a_window(speller: Speller, window: int, unit: int) -> None:
    """Have the plain formula see no step, and no weight, outside the window."""
    attention = speller.attention
    energies = type(attention).energies

    def within(s: Tensor, memory: AttentionMemory, previous: Tensor) -> Tensor:
        place = previous.argmax(dim=2, keepdim=True)
        first = (place - window).clamp(min=0) // unit * unit
        behind = ((place + window) // unit + 1) * unit
        steps = torch.arange(previous.size(2))
        inside = (steps >= first) & (steps < behind)  # (B, K, J)
        found = energies(attention, s, memory, previous * inside)
        return found.masked_fill(~inside[:, None], -torch.inf)

    attention.energies = within  # type: ignore[method-assign]


@each_attention
@pytest.mark.parametrize("window", [1, 3])
@torch.no_grad()
def test_a_search_finds_what_the_plain_formula_finds_through_the_window(
    kind: str, heads: int, block_size: int, window: int
) -> None:
    speller = build(kind, heads=heads, block_size=block_size)
    memory = memory_of(speller, 23, 6, 17)

    fast = search(windowed(speller, memory, window, coverage=0.1), 3)

    through_a_window(speller, window, block_size or 1)
    plain = search(PlainSteps(speller, memory, coverage=0.1), 3)
    for ours, theirs in zip(fast, plain, strict=True):
        assert [h.tokens for h in ours] == [h.tokens for h in theirs]
        assert [h.log_prob for h in ours] == pytest.approx(
            [h.log_prob for h in theirs], abs=1e-4
        )


@each_attention
@torch.no_grad()
def test_each_step_is_that_of_the_plain_formula_wherever_it_looked_before(
    kind: str, heads: int, block_size: int
) -> None:
    speller = build(kind, heads=heads, block_size=block_size)
    memory = memory_of(speller, 23, 16)
    fast, plain = windowed(speller, memory, 2), PlainSteps(speller, memory)
    rows = torch.tensor([[0, 0, 0], [1, 1, 1]])
    before = fast.select(fast.start(), rows)
    plain_before = plain.select(plain.start(), rows)
    through_a_window(speller, 2, block_size or 1)
    for _ in range(12):
        weights = (2 * torch.randn(6, 23)).softmax(dim=1)
        weights[3:, 16:] = 0.0  # the second utterance is shorter
        tokens = torch.randint(V, (6,))

        scores, state = fast.step(tokens, before._replace(weights=weights))

        looked = plain_before.speller._replace(weights=weights)
        expected, after = plain.step(tokens, plain_before._replace(speller=looked))
        torch.testing.assert_close(scores, expected)
        torch.testing.assert_close(state.weights, after.speller.weights)


@each_attention
@torch.no_grad()
def test_a_window_as_long_as_the_recording_changes_nothing(
    kind: str, heads: int, block_size: int
) -> None:
    speller = build(kind, heads=heads, block_size=block_size)
    memory = memory_of(speller, 12, 5)

    found = search(windowed(speller, memory, 12), 2)

    whole = search(steps_of(speller, memory), 2)
    for ours, theirs in zip(found, whole, strict=True):
        assert [h.tokens for h in ours] == [h.tokens for h in theirs]
        assert [h.log_prob for h in ours] == pytest.approx(
            [h.log_prob for h in theirs], abs=1e-5
        )


@each_attention
@torch.no_grad()
def test_what_is_far_away_is_not_seen(kind: str, heads: int, block_size: int) -> None:
    """Ends of the recording that are changed change nothing but what is near them."""
    speller = build(kind, heads=heads, block_size=block_size)
    memory = memory_of(speller, 40)
    other = memory_of(speller, 40)
    h = torch.cat((memory.h[:, :20], other.h[:, 20:]), dim=1)
    keys = torch.cat((memory.keys[:, :20], other.keys[:, 20:]), dim=1)
    changed = memory._replace(h=h, keys=keys)
    steps, with_other_end = windowed(speller, memory, 2), windowed(speller, changed, 2)

    state, same = steps.start(), with_other_end.start()
    seen = 0
    for token in torch.randint(V, (3,)):
        scores, state = steps.step(token[None], state)
        expected, same = with_other_end.step(token[None], same)
        torch.testing.assert_close(scores, expected)
        seen = max(seen, int(state.weights.nonzero().max()))
    assert seen < 20


@torch.no_grad()
def test_hypotheses_that_look_far_apart_do_not_see_each_others_windows() -> None:
    speller = build("location", block_size=3)
    memory = memory_of(speller, 30)
    steps = windowed(speller, memory, 3)
    tokens = torch.tensor([4, 4])
    apart = steps.select(steps.start(), torch.tensor([[0, 0]]))
    weights = torch.zeros(2, 30)
    weights[0, 2] = weights[1, 25] = 1.0

    scores, state = steps.step(tokens, apart._replace(weights=weights))

    for row in range(2):
        alone = steps.start()._replace(weights=weights[row : row + 1])
        expected, after = steps.step(tokens[:1], alone)
        torch.testing.assert_close(scores[row : row + 1], expected)
        torch.testing.assert_close(state.weights[row : row + 1], after.weights)
    assert state.weights[0, 10:].sum() == 0
    assert state.weights[1, :20].sum() == 0
