import itertools
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn

from asr.model.attention import Attention, AttentionConfig
from asr.model.speller import Speller, SpellerConfig, Spelling
from asr.model.teacher_forcing import spell_loop
from tests.spelling import gradients_of, weighed

V = 5
COMPARISONS = [
    ("location", "tanh"),
    ("location", "relu"),
    ("additive", "tanh"),
    ("additive", "relu"),
    ("dot", "tanh"),
    ("dot 2", "tanh"),
    ("dot 3", "tanh"),
    ("location 2", "tanh"),
    ("location 3", "relu"),
    ("additive 4", "tanh"),
    ("additive 2", "relu"),
]
"""Kind, with the heads of a dot or the steps of others' blocks, and activation."""


def attention_of(
    kind: str, size: int, activation: str, filters: int, reach: int
) -> AttentionConfig:
    kind, _, number = kind.partition(" ")
    n = int(number or 1)
    heads, block_size = (n, 0) if kind == "dot" else (1, n if number else 0)
    return AttentionConfig(
        kind, heads * size, activation, filters, reach, heads, block_size
    )


class Case:
    """A speller, utterances of random lengths to look at, and targets."""

    def __init__(
        self,
        kind: str = "location",
        activation: str = "tanh",
        layers: int = 1,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        torch.manual_seed(seed)
        batch, tokens, steps, h, size, a, e = torch.randint(1, 8, (7,)).tolist()
        reach = seed % 4  # may be more than there are steps
        attention = attention_of(kind, a, activation, 2, reach)
        n = attention.heads
        self.speller = Speller(
            SpellerConfig(size, layers, e, dropout=0.0),
            attention,
            listener_size=n * h,
            vocab_size=V,
        )
        self.speller.to(dtype)
        with torch.no_grad():  # sharper, so that the attention does look somewhere
            for parameter in self.speller.attention.parameters():
                parameter.mul_(2.0)
        self.h = torch.randn(batch, steps, n * h, dtype=dtype, requires_grad=True)
        self.num_steps = torch.randint(1, steps + 1, (batch,))
        self.inputs = torch.randint(V, (batch, tokens))

    def spell(self, *, by_steps: bool = False) -> Spelling:
        memory = self.speller.attention.precompute(self.h, self.num_steps)
        if by_steps:
            return self.speller.spell_by_steps(memory, self.inputs)
        return self.speller.spell(memory, self.inputs)

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        return gradients_of(self.speller, self.h, loss)


def losses(spelling: Spelling) -> Iterator[Tensor]:
    """Yield scalars that weigh all outputs, the logits, the weights, and one place."""
    logits, weights = weighed(spelling)
    yield logits.sum() + weights.sum()
    yield logits.sum()
    yield weights.sum()
    yield logits[:, logits.size(1) // 2].sum()


def assert_near(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float
) -> None:
    """Compare by the largest error, relative to the largest value.

    Some gradients are zero by nature (of the bias of a dot product's keys, say): there
    a tenth of the largest value of all is the measure.
    """
    assert found.keys() == expected.keys()
    largest = {name: float(x.detach().abs().max()) for name, x in expected.items()}
    least = 0.1 * max(largest.values())
    for name, value in expected.items():
        error = float((found[name] - value).detach().abs().max())
        assert error <= tolerance * max(largest[name], least), name


# Parity: the loop with its backward by hand against one step after the other


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("kind", "activation"), COMPARISONS)
def test_values_and_gradients_are_those_of_single_steps(
    kind: str, activation: str, layers: int
) -> None:
    for seed in range(4):
        case = Case(kind, activation, layers, seed)

        fast, plain = case.spell(), case.spell(by_steps=True)

        assert_near(fast._asdict(), plain._asdict(), 1e-12)
        for ours, theirs in zip(losses(fast), losses(plain), strict=True):
            assert_near(case.gradients(ours), case.gradients(theirs), 1e-9)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("kind", "activation"), COMPARISONS)
def test_single_precision_is_near_too(kind: str, activation: str, layers: int) -> None:
    for seed in range(6, 8):
        case = Case(kind, activation, layers, seed, torch.float32)

        fast, plain = case.spell(), case.spell(by_steps=True)

        assert fast.logits.dtype == torch.float32
        assert_near(fast._asdict(), plain._asdict(), 1e-5)
        for ours, theirs in zip(losses(fast), losses(plain), strict=True):
            assert_near(case.gradients(ours), case.gradients(theirs), 1e-5)


# Parity: against differences of the values themselves


class Whole(nn.Module):
    """From h to the spelling, so that every parameter can be put in its place."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.speller, self.case = case.speller, case

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.speller.attention.precompute(h, self.case.num_steps)
        logits, weights = self.speller.spell(memory, self.case.inputs)
        return logits, weights


@pytest.mark.parametrize(("kind", "activation"), COMPARISONS)
def test_gradients_are_the_slopes_of_the_values(kind: str, activation: str) -> None:
    attention = attention_of(kind, 2, activation, 1, 1)
    n = attention.heads
    case = Case(kind, activation, layers=2)
    case.speller = Speller(
        SpellerConfig(2, 2, 1, dropout=0.0),
        attention,
        listener_size=2 * n,
        vocab_size=2,
    ).double()
    case.h = torch.randn(2, 3, 2 * n, dtype=torch.float64, requires_grad=True)
    case.num_steps, case.inputs = torch.tensor([3, 2]), torch.tensor([[0, 1], [1, 1]])
    whole = Whole(case)
    names, parameters = zip(*whole.named_parameters(), strict=True)

    def spell(h: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        chosen = dict(zip(names, values, strict=True))
        spelling: tuple[Tensor, Tensor] = torch.func.functional_call(whole, chosen, h)
        return spelling

    assert torch.autograd.gradcheck(spell, (case.h, *parameters), fast_mode=True)


# Invariance


def test_the_order_of_layers_and_kinds_leaves_no_state_behind() -> None:
    cases = [
        Case(kind, layers=layers)
        for kind, layers in itertools.product(("location", "dot"), (1, 2))
    ]
    before = [case.spell().logits for case in cases]

    after = [case.spell().logits for case in reversed(cases)]

    for one, other in zip(before, reversed(after), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("kind", "activation"), COMPARISONS)
def test_going_back_twice_gives_the_same_gradients(kind: str, activation: str) -> None:
    case = Case(kind, activation, layers=2)
    loss = next(losses(case.spell()))

    first, second = case.gradients(loss), case.gradients(loss)

    for name, gradient in first.items():
        assert torch.equal(second[name], gradient), name


def test_values_are_the_same_without_gradients() -> None:
    case = Case(layers=2)

    with torch.no_grad():
        without = case.spell()

    assert not without.logits.requires_grad
    assert torch.equal(without.logits, case.spell().logits)


def test_the_gates_that_are_handed_in_are_left_as_they_were() -> None:
    case = Case()
    cells = [cell for cell in case.speller.cells if isinstance(cell, nn.LSTMCell)]
    memory = case.speller.attention.precompute(case.h, case.num_steps)
    gates = torch.randn(3, len(case.h), 4 * cells[0].hidden_size, dtype=torch.float64)
    before = gates.clone()

    spell_loop(gates, cells, case.speller.attention, memory)

    assert torch.equal(gates, before)


def test_frozen_parts_get_no_gradient_and_the_others_theirs() -> None:
    case = Case(layers=2, seed=3)
    expected = case.gradients(next(losses(case.spell())))
    case.h.requires_grad_(False)
    case.speller.cells.requires_grad_(False)

    torch.autograd.backward(next(losses(case.spell())))

    for name, parameter in case.speller.named_parameters():
        if name.startswith("cells."):
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, expected[name])


def test_a_padded_step_gets_no_gradient() -> None:
    case = Case(layers=1, seed=5)
    case.h = torch.randn(2, 4, case.h.size(2), dtype=torch.float64, requires_grad=True)
    case.num_steps, case.inputs = torch.tensor([4, 2]), case.inputs[:1].expand(2, -1)

    gradient = case.gradients(next(losses(case.spell())))["h"]

    assert gradient[1, :2].any()
    assert not gradient[1, 2:].any()


# Errors


class OtherAttention(Attention):
    """An attention that the loop does not know."""

    def energies(self, s: Tensor, memory: object, previous: Tensor) -> Tensor:
        return previous


def test_an_attention_without_a_backward_is_refused() -> None:
    case = Case()
    size, listener_size = case.speller.hidden.out_features, case.h.size(2)
    other = OtherAttention(AttentionConfig(), listener_size, size).double()
    memory = other.precompute(case.h, case.num_steps)
    gates = torch.zeros(1, len(case.h), 4 * size, dtype=torch.float64)
    cells = [cell for cell in case.speller.cells if isinstance(cell, nn.LSTMCell)]

    with pytest.raises(TypeError, match="no backward is written for OtherAttention"):
        spell_loop(gates, cells, other, memory)
