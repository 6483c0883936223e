import math

import pytest
import torch
from torch import Tensor

from asr.model.attention import KINDS, AttentionConfig, AttentionMemory
from asr.model.speller import Speller, SpellerConfig, SpellerState, Spelling

J, H, V, SOS = 6, 4, 7, 1


def build(kind: str = "location", layers: int = 2, dropout: float = 0.0) -> Speller:
    return Speller(
        SpellerConfig(size=5, layers=layers, embedding_size=3, dropout=dropout),
        AttentionConfig(kind, size=3, filters=2, reach=1),
        listener_size=H,
        vocab_size=V,
    )


def memory_of(speller: Speller, *num_steps: int) -> AttentionMemory:
    h = torch.randn(len(num_steps), J, H)
    return speller.attention.precompute(h, torch.tensor(num_steps))


def targets(num_utterances: int, num_tokens: int) -> Tensor:
    """(B, I) inputs of the speller: <sos>, then anything."""
    inputs = torch.randint(V, (num_utterances, num_tokens))
    inputs[:, 0] = SOS
    return inputs


# Invariance: step by step, as a whole, alone, in a batch


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_single_steps_spell_what_the_whole_does(kind: str, layers: int) -> None:
    speller = build(kind, layers)
    memory, inputs = memory_of(speller, 6, 3), targets(2, 5)

    whole, by_steps = speller.spell(memory, inputs), list[Tensor]()
    state = speller.start(memory)
    for i in range(5):
        logits, state = speller.step(inputs[:, i], state, memory)
        by_steps.append(logits)
        torch.testing.assert_close(state.weights, whole.weights[:, i])
        torch.testing.assert_close(
            state.context, (state.weights[:, None] @ memory.h)[:, 0]
        )

    assert whole.logits.shape == (2, 5, V)
    assert whole.weights.shape == (2, 5, J)
    torch.testing.assert_close(whole.logits, torch.stack(by_steps, dim=1))
    again = speller.spell_by_steps(memory, inputs)
    torch.testing.assert_close(whole.logits, again.logits)
    torch.testing.assert_close(whole.weights, again.weights)


@pytest.mark.parametrize("kind", KINDS)
def test_an_utterance_is_spelled_alone_as_in_a_batch(kind: str) -> None:
    speller = build(kind)
    h, inputs, num_steps = torch.randn(3, J, H), targets(3, 4), torch.tensor([6, 2, 4])
    memory = speller.attention.precompute(h, num_steps)

    together = speller.spell(memory, inputs)

    for b, length in enumerate(num_steps.tolist()):
        memory = speller.attention.precompute(
            h[b : b + 1, :length], num_steps[b : b + 1]
        )
        alone = speller.spell(memory, inputs[b : b + 1])
        torch.testing.assert_close(together.logits[b], alone.logits[0])
        torch.testing.assert_close(together.weights[b, :, :length], alone.weights[0])


def test_padding_of_the_target_does_not_change_earlier_logits() -> None:
    speller = build()
    memory, inputs = memory_of(speller, 6, 3), targets(2, 4)
    padded = torch.cat([inputs, torch.randint(V, (2, 5))], dim=1)

    short, long = speller.spell(memory, inputs), speller.spell(memory, padded)

    torch.testing.assert_close(long.logits[:, :4], short.logits)
    torch.testing.assert_close(long.weights[:, :4], short.weights)


def test_each_input_changes_all_logits_from_its_place_on() -> None:
    speller = build()
    memory, inputs = memory_of(speller, 6), targets(1, 5)
    other = inputs.clone()
    other[0, 2] = (other[0, 2] + 1) % V

    before, after = speller.spell(memory, inputs), speller.spell(memory, other)

    changed = (before.logits - after.logits).abs().amax(dim=-1)[0] > 0
    assert changed.tolist() == [False, False, True, True, True]


def test_the_hypotheses_of_an_utterance_are_spelled_as_if_each_were_alone() -> None:
    speller = build()
    memory, inputs = memory_of(speller, 6, 3), targets(6, 4)
    state = speller.start(memory).select(torch.tensor([0, 0, 0, 1, 1, 1]))

    for i in range(4):
        logits, state = speller.step(inputs[:, i], state, memory)

    each = memory.select(torch.tensor([0, 0, 0, 1, 1, 1]))
    expected = speller.spell(each, inputs)
    torch.testing.assert_close(logits, expected.logits[:, -1])
    torch.testing.assert_close(state.weights, expected.weights[:, -1])


# The state


def test_the_state_before_the_first_character_is_blank() -> None:
    speller = build(layers=3)

    state = speller.start(memory_of(speller, 6, 3))

    assert state.hidden.shape == state.cell.shape == (3, 2, 5)
    assert state.context.shape == (2, H)
    assert not any(part.any() for part in state[:3])
    assert state.weights.tolist() == [[1.0] + [0.0] * (J - 1)] * 2


def test_rows_of_a_state_are_reordered_repeated_and_dropped() -> None:
    rows = torch.tensor([2, 0, 2, 2])
    state = SpellerState(
        torch.randn(2, 3, 5), torch.randn(2, 3, 5), torch.randn(3, H), torch.rand(3, J)
    )

    selected = state.select(rows)

    for layer in range(2):
        for new, old in enumerate(rows.tolist()):
            assert torch.equal(selected.hidden[layer, new], state.hidden[layer, old])
            assert torch.equal(selected.cell[layer, new], state.cell[layer, old])
            assert torch.equal(selected.context[new], state.context[old])
            assert torch.equal(selected.weights[new], state.weights[old])


def test_a_step_leaves_the_state_it_was_given_alone() -> None:
    speller = build()
    memory = memory_of(speller, 6, 3)
    _, state = speller.step(torch.tensor([SOS, SOS]), speller.start(memory), memory)
    before = SpellerState(*(part.clone() for part in state))

    speller.step(torch.tensor([2, 3]), state, memory)

    for part, old in zip(state, before, strict=True):
        assert torch.equal(part, old)


# Scheduled sampling


class Fake(Speller):
    """A speller that says one more than each input, and notes what it was fed."""

    def __init__(self) -> None:
        config = AttentionConfig(size=1, filters=1)
        super().__init__(SpellerConfig(size=1, embedding_size=1), config, H, 100)
        self.fed = list[Tensor]()
        self.graphs = list[bool]()
        """Whether gradients were to be kept."""
        self.said: Tensor | None = None
        """(V,) logits in place of one more than each input."""

    def spell(self, memory: AttentionMemory, inputs: Tensor) -> Spelling:
        self.fed.append(inputs)
        self.graphs.append(torch.is_grad_enabled())
        logits = 1e4 * torch.nn.functional.one_hot(inputs + 1, 100).float()
        if self.said is not None:
            logits = self.said.expand_as(logits)
        return Spelling(logits, torch.zeros(*inputs.shape, J))


def test_without_sampling_the_right_characters_are_fed() -> None:
    speller = Fake()
    memory, inputs = memory_of(speller, J), torch.tensor([[SOS, 10, 20, 30]])
    before = torch.get_rng_state()

    speller.spell_sampled(memory, inputs, 0.0)

    (fed,) = speller.fed  # one pass, and no chance
    assert torch.equal(fed, inputs)
    assert torch.equal(torch.get_rng_state(), before)


def test_with_full_sampling_all_but_sos_are_the_spellers_own() -> None:
    speller = Fake()
    inputs = torch.tensor([[SOS, 10, 20, 30], [SOS, 40, 50, 60]])

    spelling = speller.spell_sampled(memory_of(speller, J, J), inputs, 1.0)

    # In the place of a character stands what was said after the one before it.
    first, second = speller.fed
    assert torch.equal(first, inputs)
    assert second.tolist() == [[SOS, 2, 11, 21], [SOS, 2, 41, 51]]
    assert spelling.logits.argmax(dim=-1).tolist() == (second + 1).tolist()


def test_only_the_second_pass_keeps_what_gradients_need() -> None:
    speller = Fake()

    speller.spell_sampled(memory_of(speller, J), torch.tensor([[SOS, 10]]), 1.0)

    assert speller.graphs == [False, True]


def test_the_asked_for_share_is_replaced() -> None:
    speller = Fake()
    inputs = torch.full((20, 101), 50)
    inputs[:, 0] = SOS

    speller.spell_sampled(memory_of(speller, *[J] * 20), inputs, 0.3)

    fed = speller.fed[1]
    assert (fed[:, 0] == SOS).all()
    assert float((fed[:, 1:] != 50).float().mean()) == pytest.approx(0.3, abs=0.03)


def test_guesses_are_drawn_as_likely_as_the_speller_finds_them() -> None:
    speller = Fake()
    speller.said = torch.full((100,), -math.inf)
    speller.said[3], speller.said[4] = math.log(0.2), math.log(0.8)
    inputs = torch.full((20, 101), 50)

    speller.spell_sampled(memory_of(speller, *[J] * 20), inputs, 1.0)

    drawn = speller.fed[1][:, 1:]
    assert set(drawn.flatten().tolist()) == {3, 4}
    assert float((drawn == 4).float().mean()) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("num_tokens", [1, 2])
def test_an_empty_target_can_be_sampled(num_tokens: int) -> None:
    speller = build()

    spelling = speller.spell_sampled(memory_of(speller, 6), targets(1, num_tokens), 1.0)

    assert spelling.logits.shape == (1, num_tokens, V)


def test_sampling_trains_every_weight() -> None:
    speller = build()

    spelling = speller.spell_sampled(memory_of(speller, 6, 4), targets(2, 6), 0.5)
    torch.autograd.backward(spelling.logits.square().sum())

    for name, parameter in speller.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


# Dropout


def test_dropout_disturbs_training_only() -> None:
    speller = build(dropout=0.3)
    memory, inputs = memory_of(speller, 6), targets(1, 5)

    trained = [speller.train().spell(memory, inputs).logits for _ in range(2)]
    used = [speller.eval().spell(memory, inputs).logits for _ in range(2)]

    assert not torch.equal(*trained)
    assert torch.equal(*used)


@pytest.mark.parametrize("by_steps", [False, True])
def test_characters_and_both_inputs_of_the_mlp_are_dropped(by_steps: bool) -> None:
    speller = build(dropout=0.4).train()
    memory, inputs = memory_of(speller, *[6] * 30), targets(30, 8)
    dropped = dict[int, list[Tensor]]()
    speller.dropout.register_forward_hook(
        lambda layer, x, output: dropped.setdefault(output.size(-1), []).append(output)
    )

    (speller.spell_by_steps if by_steps else speller.spell)(memory, inputs)

    assert dropped.keys() == {3, 5 + H, 5}  # embedding; state and context; hidden layer
    for outputs in dropped.values():
        every = torch.cat([output.flatten() for output in outputs])
        assert len(every) == 30 * 8 * outputs[0].size(-1)
        assert float((every == 0).float().mean()) == pytest.approx(0.4, abs=0.07)


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, r"speller\.size must be at least 1, not 0"),
        ({"layers": 0}, r"speller\.layers must be at least 1, not 0"),
        ({"embedding_size": -1}, r"speller\.embedding_size must be at least 1, not -1"),
        ({"dropout": -0.1}, r"speller\.dropout is a share .* below 1, not -0\.1"),
        ({"dropout": 1.0}, r"speller\.dropout is a share .* below 1, not 1\.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    settings: dict[str, int | float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SpellerConfig(**settings)  # type: ignore[arg-type]
