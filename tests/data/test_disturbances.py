import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.data.disturbances import (
    NOTHING,
    Disturbance,
    DisturbanceBank,
    draw_disturbance,
)
from asr.features import AugmentConfig

EVERYTHING = AugmentConfig(
    [1.0], noise=0.5, babble=0.5, room=1, band=1, clipping=1, stretch=0.1
)
N = 8000


@pytest.fixture(scope="module")
def bank() -> DisturbanceBank:
    generator = torch.Generator().manual_seed(3)
    voices = [torch.randn(5000, generator=generator) for _ in range(4)]
    return DisturbanceBank(EVERYTHING, 1, voices)


def tone(hertz: float) -> Tensor:
    return torch.sin(2 * torch.pi * hertz * torch.arange(N) / SAMPLE_RATE)


def disturbed(bank: DisturbanceBank, x: Tensor, **how: float) -> Tensor:
    drawn = Disturbance(**how)  # type: ignore[arg-type]
    return bank.disturb(x[None], torch.tensor([len(x)]), [drawn])[0]


def power(x: Tensor) -> float:
    return float(x.square().mean())


# What is drawn


def drawn(config: AugmentConfig, strength: float = 1.0) -> list[Disturbance]:
    return [
        draw_disturbance(config, strength, random.Random(seed)) for seed in range(400)
    ]


@pytest.mark.parametrize(
    ("name", "happened"),
    [
        ("noise", lambda d: 0 <= d.noise < 6),
        ("babble", lambda d: d.noise >= 6),
        ("room", lambda d: d.room >= 0),
        ("band", lambda d: d.high < 8000),
        ("clipping", lambda d: d.level < 1),
    ],
)
def test_a_share_of_the_recordings_is_disturbed(name: str, happened: object) -> None:
    assert callable(happened)
    shares: dict[str, Any] = {name: 0.4}
    config = AugmentConfig([1.0], **shares)

    found = [d for d in drawn(config) if d != NOTHING]

    assert 120 < len(found) < 200
    assert all(happened(d) for d in found)
    assert 40 < sum(d != NOTHING for d in drawn(config, strength=0.5)) < 120


def test_noise_and_babble_share_what_there_is() -> None:
    config = replace(AugmentConfig([1.0]), noise=0.3, babble=0.1)

    found = drawn(config)

    assert 80 < sum(0 <= d.noise < 6 for d in found) < 160
    assert 20 < sum(d.noise >= 6 for d in found) < 70


def test_without_settings_nothing_happens() -> None:
    assert set(drawn(AugmentConfig([1.0]))) == {NOTHING}
    assert set(drawn(EVERYTHING, strength=0.0)) == {NOTHING}


# What it does


def test_nothing_changes_nothing(bank: DisturbanceBank) -> None:
    x = torch.randn(N)

    assert torch.equal(disturbed(bank, x), x)


@pytest.mark.parametrize("noise", range(14))
@pytest.mark.parametrize("snr", [5.0, 20.0])
def test_noise_is_as_loud_as_drawn(
    bank: DisturbanceBank, noise: int, snr: float
) -> None:
    x = 0.3 * torch.randn(N)

    added = disturbed(bank, x, noise=noise, start=0.99, snr=snr) - x

    # a brown noise or a voice is not as loud everywhere
    decibels = 10 * torch.tensor(power(x) / power(added)).log10()
    assert abs(float(decibels) - snr) < 6


def test_a_room_rings_on_and_keeps_the_beginning(bank: DisturbanceBank) -> None:
    click = torch.zeros(N)
    click[100] = 1.0

    rung = disturbed(bank, click, room=3)

    assert rung[:100].abs().max() < 1e-5
    assert rung[100] > 0.3
    assert rung[101:3000].abs().max() > 1e-3
    assert abs(float(rung.square().sum()) - 1) < 0.1


@pytest.mark.parametrize(
    ("hertz", "passes"), [(200, False), (1000, True), (5000, False)]
)
def test_a_telephone_lets_only_its_band_through(
    bank: DisturbanceBank, hertz: float, passes: bool
) -> None:
    heard = power(disturbed(bank, tone(hertz), low=300, high=3400)) / power(tone(hertz))

    assert (heard > 0.9) if passes else (heard < 0.01)


def test_a_recording_that_is_too_loud_is_clipped(bank: DisturbanceBank) -> None:
    x = 0.5 * tone(100)

    clipped = disturbed(bank, x, level=0.4)

    assert float(clipped.max()) == pytest.approx(0.2, abs=1e-3)
    assert torch.equal(clipped[x.abs() < 0.19], x[x.abs() < 0.19])


def test_frequencies_are_stretched(bank: DisturbanceBank) -> None:
    lowest, same, highest = (
        bank.mel_filters([NOTHING._replace(stretch=s)]) for s in (0, 3, 6)
    )
    centre = torch.arange(80.0)

    def middle(filters: Tensor) -> float:
        bands = filters.squeeze(0)[64]  # 2 kHz
        return float((bands * centre).sum() / bands.sum())

    assert middle(lowest) < middle(same) - 1
    assert middle(highest) > middle(same) + 1


def test_a_batch_is_disturbed_as_each_alone(bank: DisturbanceBank) -> None:
    config = replace(EVERYTHING, noise=0.5, room=0.5, band=0.5, clipping=0.5)
    lengths = [N, N // 2, N // 3, 700]
    rows = [0.1 * torch.randn(n) for n in lengths]
    padded = torch.zeros(4, N)
    for row, samples in enumerate(rows):
        padded[row, : len(samples)] = samples
    how = [draw_disturbance(config, 1.0, random.Random(s)) for s in (1, 2, 3, 5)]
    assert len({d == NOTHING for d in how}) == 1

    together = bank.disturb(padded, torch.tensor(lengths), how)

    for row, samples in enumerate(rows):
        alone = bank.disturb(samples[None], torch.tensor([len(samples)]), [how[row]])[0]
        # a narrow band of a padded row is cut at other points of the spectrum
        assert float((together[row, : len(samples)] - alone).abs().max()) < 0.02
        assert not together[row, len(samples) :].any()


def test_the_same_seed_makes_the_same_bank() -> None:
    one, same = (DisturbanceBank(EVERYTHING, 1) for _ in range(2))
    other = DisturbanceBank(EVERYTHING, 2)

    assert torch.equal(one.noises, same.noises)
    assert torch.equal(one.rooms, same.rooms)
    assert not torch.equal(one.rooms, other.rooms)
