import itertools
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from asr.data.batching import Batch, collate
from asr.data.dataset import Example
from asr.features import NUM_MELS
from asr.model.attention import AttentionConfig
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig, ListenerOutput
from asr.model.speller import SpellerConfig, Spelling
from asr.text import CharTokenizer, collapse_ctc
from asr.training.loss import (
    LossConfig,
    Losses,
    losses,
    off_path,
    teacher_inputs,
)

AB = CharTokenizer("AB")  # V = 5: <pad>, <sos>, <eos>, A, B
PAD, SOS, EOS, A, B = range(5)


@pytest.fixture
def las() -> LAS:
    """A tiny network, evaluated."""
    config = LASConfig(
        ListenerConfig(size=4, reductions=[2, 2]),
        AttentionConfig(size=4, reach=2, filters=2),
        SpellerConfig(size=4, embedding_size=3),
    )
    return LAS(config, AB.size).eval()


def utterance(num_frames: int, *tokens: int) -> Example:
    return Example(torch.randn(num_frames, NUM_MELS), torch.tensor(tokens).long())


def batch_of(*examples: Example) -> Batch:
    return collate([f"{i}" for i in range(len(examples))], examples, seconds=1.0)


class Told:
    """A network that puts out what it is given; two CTC steps a listener step."""

    listener = SimpleNamespace(ctc_reduction=4, reduction=8)

    def __init__(
        self, logits: Tensor, weights: Tensor, ctc: Tensor, num_ctc_steps: list[int]
    ) -> None:
        steps, nothing = torch.tensor(num_ctc_steps), torch.empty(0)
        listened = ListenerOutput(nothing, (steps + 1) // 2, nothing, steps)
        self.said = Spelling(logits, weights), ctc, listened

    def __call__(
        self, *_: object, detach_keys: bool
    ) -> tuple[Spelling, Tensor, ListenerOutput]:
        return self.said


# Golden: worked by hand


def test_a_loss_worked_by_hand() -> None:
    # Two utterances, "A" and "": three characters to write, <eos> counted.
    batch = batch_of(utterance(8, A), utterance(4))
    # The right token has P = 1/2 each time, the other four 1/8; padding is garbage.
    logits = torch.full((2, 2, 5), 1 / 8)
    logits[0, 0, A] = logits[0, 1, EOS] = logits[1, 0, EOS] = 1 / 2
    logits[1, 1] = torch.tensor([0.9, 0.04, 0.03, 0.02, 0.01])
    # CTC: one step each, P(A) = 1/4 and P(blank) = 1/2.
    ctc = torch.full((2, 2, 5), 1 / 8)
    ctc[0, 0, A], ctc[1, 0, PAD] = 1 / 4, 1 / 2
    # So all is expected on step 0. "A" is looked for on step 4, its <eos> on step 0,
    # the other <eos> on both, padding anywhere.
    weights = torch.zeros(2, 2, 5)
    weights[0, 0, 4] = weights[0, 1, 0] = weights[1, 1, 3] = 1.0
    weights[1, 0, 0] = weights[1, 0, 4] = 0.5
    las = cast(LAS, Told(logits.log(), weights, ctc.log(), num_ctc_steps=[1, 1]))

    config = LossConfig(ctc_weight=0.25, label_smoothing=0.1)
    found, spelling = losses(las, batch, AB, config, guide=0.5)

    # Smoothed, a character costs, with L = log 2 and V = 5:
    # 0.9 * L + 0.1 / 5 * (L + 4 * 3 L) = 1.16 L.
    # CTC: -log(1/4) - log(1/2) = 3 L for three characters.
    # Guide: four steps away is 4^2 / (2 * 4^2) = 1/2.
    two, half = math.log(2), math.log((1 + math.exp(-1 / 2)) / 2)
    guide = (1 / 2 - half) / 3
    assert found.spelling.item() == pytest.approx(1.16 * two)
    assert found.ctc.item() == pytest.approx(two)
    assert found.guide.item() == pytest.approx(guide)
    assert found.total.item() == pytest.approx(
        0.75 * 1.16 * two + 0.25 * two + 0.5 * guide
    )
    assert spelling.weights is weights


def test_teacher_and_pupil_worked_by_hand() -> None:
    batch = batch_of(utterance(9, A, B), utterance(9, B), utterance(9))

    inputs, targets = teacher_inputs(batch, AB)

    assert inputs.tolist() == [[SOS, A, B], [SOS, B, PAD], [SOS, PAD, PAD]]
    assert targets.tolist() == [[A, B, EOS], [B, EOS, PAD], [EOS, PAD, PAD]]


# The guide


def test_the_guide_points_where_ctc_found_the_character() -> None:
    # CTC finds A at step 8 of 0 to 8: that is listener step 4.
    ctc = torch.full((1, 9, 5), 0.025)
    ctc[0, :8, PAD] = ctc[0, 8, A] = 0.9
    for step, cost in ((4, 0.0), (0, 1 / 2), (6, 1 / 8)):
        weights = torch.zeros(1, 2, 7)
        weights[0, :, step] = 1.0
        las = Told(torch.zeros(1, 2, 5), weights, ctc.log(), num_ctc_steps=[9])

        found, _ = losses(
            cast(LAS, las), batch_of(utterance(36, A)), AB, LossConfig(), guide=1.0
        )

        assert found.guide.item() == pytest.approx(cost), step


def test_what_is_near_is_cheap_and_padding_is_free() -> None:
    # -log(sum of alpha exp(-d^2 / 32)), d steps away.
    weights = torch.zeros(2, 2, 9)
    weights[0, 0, 1] = weights[0, 1, 8] = weights[1, 0, 2] = weights[1, 1, 5] = 1.0
    steps = torch.tensor([[1.0, 4.0], [4.5, 0.0]])

    found = off_path(weights, steps, torch.tensor([2, 1]))

    assert found.item() == pytest.approx(0 + 4**2 / 32 + 2.5**2 / 32)


def test_looking_far_away_costs_much_but_not_all() -> None:
    weights = torch.zeros(1, 1, 500)
    weights[0, 0, 499] = 1.0
    found = off_path(weights, torch.zeros(1, 1), torch.tensor([1]))
    assert found.item() == pytest.approx(math.log(1e6))


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, 0.0), (0.19, 0.0), (0.2, 3.0), (0.4, 1.5), (0.59, 0.075), (0.6, 0), (1, 0)],
)
def test_the_guide_comes_late_and_goes_in_a_line(
    progress: float, expected: float
) -> None:
    config = LossConfig(guide_weight=3.0, guide_from=0.2, guide_until=0.6)
    assert config.guide(progress) == pytest.approx(expected)


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_a_guide_that_goes_when_it_comes_is_none(progress: float) -> None:
    assert LossConfig(guide_from=0.3, guide_until=0.3).guide(progress) == 0


def test_while_there_is_a_guide_the_keys_teach_the_listener_nothing(las: LAS) -> None:
    batch = batch_of(utterance(60, A, B, A))
    config = LossConfig(ctc_weight=0)
    keys = las.speller.attention.key.weight
    free, _ = losses(las, batch, AB, config)
    led, _ = losses(las, batch, AB, config, guide=1e-9)
    torch.testing.assert_close(free.total, led.total)

    weights = [*las.listener.parameters()]
    with_keys = torch.autograd.grad(free.total, [keys, *weights])
    without = torch.autograd.grad(led.total, [keys, *weights])
    torch.testing.assert_close(with_keys[0], without[0])
    assert any(
        not torch.allclose(ours, other, rtol=1e-3)
        for ours, other in zip(with_keys[1:], without[1:], strict=True)
    )


def test_without_a_guide_attention_is_free(las: LAS) -> None:
    batch, config = batch_of(utterance(30, A, B)), LossConfig(ctc_weight=0.0)

    free, _ = losses(las, batch, AB, config)
    guided, _ = losses(las, batch, AB, config, guide=2.0)

    assert free.guide.item() == 0
    assert guided.guide.item() > 0
    torch.testing.assert_close(guided.total, free.total + 2.0 * guided.guide)


# Parity


def test_ctc_is_the_sum_over_all_paths(las: LAS) -> None:
    batch = batch_of(utterance(13, A, B), utterance(16, B, B), utterance(9))
    with torch.no_grad():
        found, _ = losses(las, batch, AB, LossConfig())
        listened = las.listen(batch.features, batch.num_frames)
        log_probs = las.ctc_log_probs(listened).double()

    total = 0.0
    for row, example in enumerate([[A, B], [B, B], []]):
        steps = int(listened.num_ctc_steps[row])
        total -= math.log(
            sum(
                math.exp(sum(float(log_probs[row, j, k]) for j, k in enumerate(path)))
                for path in itertools.product(range(5), repeat=steps)
                if collapse_ctc(path, PAD) == example
            )
        )
    assert found.ctc.item() == pytest.approx(total / 7, rel=1e-4)  # 3 + 3 + 1


def test_spelling_is_cross_entropy(las: LAS) -> None:
    batch = batch_of(utterance(13, A, B), utterance(16, B))
    config = LossConfig(label_smoothing=0.0, ctc_weight=0.0)

    with torch.no_grad():
        found, spelling = losses(las, batch, AB, config)

    log_probs = spelling.logits.log_softmax(dim=-1)
    right = [(0, 0, A), (0, 1, B), (0, 2, EOS), (1, 0, B), (1, 1, EOS)]
    expected = -sum(float(log_probs[place]) for place in right) / 5
    assert found.spelling.item() == pytest.approx(expected, rel=1e-5)
    assert found.total.item() == found.spelling.item()


# Invariance


def test_padding_changes_nothing(las: LAS) -> None:
    examples = [utterance(13, A, B), utterance(31, B, A, A, B), utterance(8)]
    config = LossConfig()
    characters = [3, 5, 1]

    together = measured(las, batch_of(*examples), config)
    alone = [measured(las, batch_of(example), config) for example in examples]

    for part, parts in zip(together, zip(*alone, strict=True), strict=True):
        summed = sum(x * n for x, n in zip(parts, characters, strict=True))
        torch.testing.assert_close(part, summed / 9)


def test_what_stands_in_the_padding_does_not_matter(las: LAS) -> None:
    batch = batch_of(utterance(13, A, B), utterance(31, B, A))
    features = batch.features.clone()
    features[0, 13:] = torch.nan
    noisy = replace(batch, features=features)

    for ours, other in zip(
        measured(las, batch, LossConfig()),
        measured(las, noisy, LossConfig()),
        strict=True,
    ):
        assert torch.equal(ours, other)


def measured(las: LAS, batch: Batch, config: LossConfig) -> Losses:
    with torch.no_grad():
        return losses(las, batch, AB, config, guide=0.7)[0]


# What happens at the edges


def test_an_utterance_too_dense_for_ctc_teaches_the_speller_only(las: LAS) -> None:
    dense = batch_of(utterance(4, A, B, A))  # one step for three characters

    found, _ = losses(las, dense, AB, LossConfig())
    torch.autograd.backward(found.total)

    assert found.ctc.item() == 0
    assert found.spelling.item() > 0
    for parameter in las.parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all())


@pytest.mark.parametrize("guide", [0.0, 0.3])
def test_where_nothing_is_said_the_end_and_blanks_are_taught(
    las: LAS, guide: float
) -> None:
    config = LossConfig(ctc_weight=0.5, label_smoothing=0.0)
    batch = batch_of(utterance(40), utterance(24))

    found, spelling = losses(las, batch, AB, config, guide=guide)
    _, ctc_log_probs, listened = las(
        batch.features, batch.num_frames, torch.full((2, 1), AB.sos)
    )

    ends = spelling.logits.log_softmax(dim=-1)[:, 0, AB.eos]
    blanks = ctc_log_probs[:, :, AB.pad].detach()
    steps = listened.num_ctc_steps.tolist()
    silent = sum(blanks[row, :count].sum() for row, count in enumerate(steps))
    assert found.spelling.item() == pytest.approx(-ends.mean().item(), rel=1e-4)
    assert found.ctc.item() == pytest.approx(-float(silent) / 2, rel=1e-4)
    torch.autograd.backward(found.total)  # no error


def test_a_network_that_has_lost_itself_has_a_loss_that_shows_it(las: LAS) -> None:
    """No error: the trainer leaves such a step out by its loss."""
    batch = batch_of(utterance(40, A, B, A), utterance(30, B))

    lost = replace(batch, features=batch.features * torch.nan)
    found, _ = losses(las, lost, AB, LossConfig(), guide=1.0)

    assert math.isnan(found.total.item())


def test_sampling_changes_what_the_speller_is_fed(las: LAS) -> None:
    batch = batch_of(utterance(60, *[A] * 15))
    config = LossConfig()

    fed, _ = losses(las, batch, AB, config)
    again, _ = losses(las, batch, AB, config)
    sampled, _ = losses(las, batch, AB, config, sampling=1.0)

    assert fed.spelling.item() == again.spelling.item()
    assert fed.spelling.item() != sampled.spelling.item()
    assert fed.ctc.item() == sampled.ctc.item()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ctc_weight": 1.5}, r"loss\.ctc_weight is a share from 0 to 1, not 1\.5"),
        ({"label_smoothing": -0.1}, r"loss\.label_smoothing is a share .*, not -0\.1"),
        ({"guide_from": -1.0}, r"loss\.guide_from is a share from 0 to 1, not -1\.0"),
        ({"guide_until": 2.0}, r"loss\.guide_until is a share from 0 to 1, not 2\.0"),
        ({"guide_from": 0.6}, r"loss\.guide_until must not be before guide_from"),
        ({"guide_weight": -1.0}, r"loss\.guide_weight must be at least 0, not -1\.0"),
        ({"mwer_weight": -1.0}, r"loss\.mwer_weight must be at least 0, not -1\.0"),
        ({"mwer_weight": math.inf}, r"loss\.mwer_weight must be at least 0, not inf"),
        ({"mwer_beam": 1}, r"loss\.mwer_beam must be at least 2, not 1 \(of one"),
    ],
)
def test_an_impossible_loss_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**settings)
