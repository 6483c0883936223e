import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.training.schedule import (
    ScheduleConfig,
    augment_strength,
    learning_rate,
    sampling_chance,
)

SHARES = st.floats(0, 1)

# Golden


@pytest.mark.parametrize(
    ("step", "progress", "expected"),
    [
        (0, 0.0, 0.5),  # 1 / 4 of 2.0
        (2, 0.0, 1.5),
        (3, 0.0, 2.0),
        (900, 0.5, 2.0),  # the stable part
        (900, 0.75, 1.1),  # half way from 2.0 to 0.1 * 2.0
        (900, 1.0, 0.2),
        (900, 1.5, 0.2),
        (1, 0.75, 0.55),  # both at once
    ],
)
def test_the_learning_rate_rises_stays_and_falls(
    step: int, progress: float, expected: float
) -> None:
    config = ScheduleConfig(
        learning_rate=2.0, warmup_steps=4, decay_from=0.5, final_rate=0.1
    )
    assert learning_rate(config, step, progress) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0.5, 2.0),
        (0.625, 1.7364),  # 0.2 + 1.8 * (0.5 + 0.5 cos 45 degrees)
        (0.75, 1.1),  # half way, as on a line
        (1.0, 0.2),
        (1.5, 0.2),
    ],
)
def test_the_learning_rate_may_fall_along_a_cosine(
    progress: float, expected: float
) -> None:
    config = ScheduleConfig(
        learning_rate=2.0, decay="cosine", decay_from=0.5, final_rate=0.1
    )
    assert learning_rate(config, 900, progress) == pytest.approx(expected, abs=5e-5)


def test_there_may_be_no_warmup() -> None:
    config = ScheduleConfig(learning_rate=2.0, warmup_steps=0)
    assert learning_rate(config, 0, 0.0) == 2.0


@pytest.mark.parametrize(
    ("progress", "strength"),
    [(0.0, 0.0), (0.2, 0.0), (0.3, 0.25), (0.4, 0.5), (0.6, 1.0), (1.0, 1.0)],
)
def test_masks_grow_in_a_line(progress: float, strength: float) -> None:
    config = ScheduleConfig(augment_from=0.2, augment_full=0.6)
    assert augment_strength(config, progress) == pytest.approx(strength)


@pytest.mark.parametrize(
    ("progress", "chance"), [(0.0, 0.0), (0.5, 0.0), (0.75, 0.1), (1.0, 0.2)]
)
def test_sampling_grows_in_a_line(progress: float, chance: float) -> None:
    config = ScheduleConfig(sampling=0.2, sampling_from=0.5)
    assert sampling_chance(config, progress) == pytest.approx(chance)


@pytest.mark.parametrize("progress", [0.0, 0.29, 0.3, 0.99, 1.0])
def test_what_begins_where_it_ends_is_a_step(progress: float) -> None:
    config = ScheduleConfig(
        learning_rate=1.0,
        warmup_steps=0,
        decay_from=1.0,
        final_rate=0.5,
        augment_from=0.3,
        augment_full=0.3,
        sampling=0.2,
        sampling_from=1.0,
    )
    assert learning_rate(config, 9, progress) == (0.5 if progress == 1 else 1.0)
    assert augment_strength(config, progress) == (progress >= 0.3)
    assert sampling_chance(config, progress) == (0.2 if progress == 1 else 0.0)


# Property


@settings(deadline=None)
@given(
    warmup=st.integers(0, 9),
    shares=st.tuples(SHARES, SHARES),
    step=st.integers(0, 20),
    early=SHARES,
    late=SHARES,
)
def test_the_learning_rate_stays_in_its_bounds_and_falls_with_progress(
    warmup: int, shares: tuple[float, float], step: int, early: float, late: float
) -> None:
    config = ScheduleConfig(
        learning_rate=3.0,
        warmup_steps=warmup,
        decay_from=shares[0],
        final_rate=shares[1],
    )
    early, late = sorted((early, late))

    before, after = (learning_rate(config, step, p) for p in (early, late))

    assert 0 <= after <= before <= 3.0


@settings(deadline=None)
@given(start=SHARES, end=SHARES, early=SHARES, late=SHARES)
def test_shares_grow_from_nothing_to_all(
    start: float, end: float, early: float, late: float
) -> None:
    start, end = sorted((start, end))
    early, late = sorted((early, late))
    config = ScheduleConfig(augment_from=start, augment_full=end)

    before, after = (augment_strength(config, p) for p in (early, late))

    assert 0 <= before <= after <= 1
    assert augment_strength(config, 1.0) == 1


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, r"schedule\.learning_rate must be above 0, not 0"),
        ({"warmup_steps": -1}, r"schedule\.warmup_steps must be at least 0, not -1"),
        ({"decay_from": 1.5}, r"schedule\.decay_from is a share from 0 to 1, not 1.5"),
        ({"final_rate": -0.5}, r"schedule\.final_rate is a share from 0 to 1"),
        ({"augment_from": 2.0}, r"schedule\.augment_from is a share from 0 to 1"),
        ({"augment_full": 2.0}, r"schedule\.augment_full is a share from 0 to 1"),
        ({"sampling": -1.0}, r"schedule\.sampling is a share from 0 to 1, not -1"),
        ({"sampling_from": 2.0}, r"schedule\.sampling_from is a share from 0 to 1"),
        ({"augment_from": 0.6}, r"augment_full must not be before augment_from"),
    ],
)
def test_an_impossible_schedule_is_refused(
    settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**settings)  # type: ignore[arg-type]
