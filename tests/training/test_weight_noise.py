import pytest
import torch
from torch import Tensor

from asr.data.length_classes import LengthClass
from asr.model.las import LAS
from asr.training.config import TrainingConfig
from asr.training.distributed import Team
from asr.training.loss import LossConfig, losses
from asr.training.parts import freeze
from asr.training.plain_updates import PlainUpdates
from asr.training.recorded_updates import RecordedUpdates
from asr.training.weight_noise import WeightNoise
from tests.training.test_graphs import TOKENIZER, batch, filled, network

SHAPE = LengthClass(80, 8, 4)
STEP = {"guide": 0.0, "sampling": 0.0, "decay": 0.5}


def weights(las: LAS) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in las.state_dict().items()}


def test_noise_is_on_recurrent_weights_and_nowhere_else() -> None:
    las = network()
    before = weights(las)

    with WeightNoise(las, 0.1).added():
        during = weights(las)

    changed = {name for name in before if not during[name].equal(before[name])}
    assert changed == {name for name in before if "weight_hh" in name}
    assert {name.split(".")[0] for name in changed} == {"listener", "speller"}


def test_it_has_the_deviation_that_was_asked_for() -> None:
    las = network()
    before = weights(las)

    with WeightNoise(las, 0.075).added():
        during = weights(las)

    noise = torch.cat([(during[n] - before[n]).flatten() for n in before])
    assert noise[noise != 0].std().item() == pytest.approx(0.075, rel=0.2)


def test_afterwards_the_weights_are_what_they_were_to_the_bit() -> None:
    las = network()
    before = weights(las)

    with pytest.raises(RuntimeError), WeightNoise(las, 1.0).added():
        raise RuntimeError("in between")

    assert all(weight.equal(before[name]) for name, weight in weights(las).items())


def test_each_time_it_is_drawn_anew_and_by_the_seed() -> None:
    las = network()
    noise, seen = WeightNoise(las, 0.1), []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        with noise.added():
            seen.append(las.speller.cells[0].state_dict()["weight_hh"].clone())

    assert seen[0].equal(seen[2])
    assert not seen[0].equal(seen[1])


def test_what_is_frozen_gets_none() -> None:
    las = network()
    freeze(las, ["listener"])

    assert len(WeightNoise(las, 0.1).weights) == len(las.speller.cells)


def moved(kind: str, deviation: float) -> dict[str, Tensor]:
    """What an update by plain gradient descent takes off the weights."""
    las, spoken = network(), batch()
    before = weights(las)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(
        las.parameters(), lr=1.0, fused=True
    )
    average = {n: t.detach().clone() for n, t in las.state_dict().items()}
    parts = (las, TOKENIZER, LossConfig(), optimizer, average, Team())
    torch.manual_seed(3)
    if kind == "plain":
        plain = PlainUpdates(*parts, torch.float32, 1e9, deviation)
        plain.update([spoken], 1, **STEP)
    else:
        recorded = RecordedUpdates(
            *parts,
            precision=torch.float32,
            clip_norm=1e9,
            sampled=False,
            records=False,
            weight_noise=deviation,
        )
        recorded.update([filled(spoken, SHAPE)], SHAPE, num_batches=1, **STEP)
    return {name: before[name] - weight for name, weight in weights(las).items()}


def gradient(deviation: float) -> dict[str, Tensor]:
    """The gradient at weights with the noise of that update, worked out beside it."""
    las, spoken = network(), batch()
    torch.manual_seed(3)
    for name, weight in las.named_parameters():
        if "weight_hh" in name:
            weight.detach().add_(deviation * torch.randn_like(weight))
    total = losses(las, spoken, TOKENIZER, LossConfig(), guide=0.0)[0].total
    torch.autograd.backward(total)
    return {n: p.grad for n, p in las.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["plain", "recorded"])
def test_weights_move_by_the_gradient_at_other_weights(kind: str) -> None:
    without, found = moved(kind, 0.0), moved(kind, 0.3)

    for name, expected in gradient(0.3).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-5)
    assert any(
        not torch.allclose(found[name], without[name], rtol=1e-2) for name in found
    )


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf")])
def test_noise_that_cannot_be_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"training\.weight_noise must be at least 0"):
        TrainingConfig(weight_noise=bad)
