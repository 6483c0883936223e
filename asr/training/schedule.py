"""How settings change over a training, as functions of how much of it is done.

`progress` goes from 0 to 1: the share of the epochs or of the minutes that are over.
The learning rate rises in a line over the first steps, stays, and falls in a line to
its last value at the end (warm-up, stable, decay: Hu et al., 2024, arXiv:2404.06395,
section 4): the stable part needs no knowledge of the end, so a run can be prolonged.
It may fall along half a cosine instead, the quickest in the middle (Loshchilov and
Hutter, 2017, arXiv:1608.03983, without the restarts).
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ScheduleConfig:
    """When what changes."""

    learning_rate: float = 1e-3
    """The highest learning rate."""
    warmup_steps: int = 300
    """Steps in which the learning rate rises."""
    decay_from: float = 0.5
    """Progress from which the learning rate falls."""
    decay: str = "linear"
    """How the learning rate falls: linear or cosine."""
    final_rate: float = 0.02
    """Share of the learning rate that is left at the end."""
    augment_from: float = 0.1
    """Progress from which SpecAugment's stripes grow from nothing."""
    augment_full: float = 0.4
    """Progress from which they have their full width."""
    sampling: float = 0.0
    """Chance of an input character to be the speller's own guess, at the end."""
    sampling_from: float = 0.5
    """Progress from which that chance grows from nothing."""

    def __post_init__(self) -> None:
        """Refuse what would only be noticed after hours of training."""
        if self.learning_rate <= 0:
            raise ValueError(
                f"schedule.learning_rate must be above 0, not {self.learning_rate}"
            )
        if self.warmup_steps < 0:
            raise ValueError(
                f"schedule.warmup_steps must be at least 0, not {self.warmup_steps}"
            )
        for name in (
            *("decay_from", "final_rate", "augment_from", "augment_full"),
            *("sampling", "sampling_from"),
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"schedule.{name} is a share from 0 to 1, not {getattr(self, name)}"
                )
        if self.decay not in ("linear", "cosine"):
            raise ValueError(f"schedule.decay is linear or cosine, not {self.decay!r}")
        if self.augment_full < self.augment_from:
            raise ValueError("schedule.augment_full must not be before augment_from")


def learning_rate(config: ScheduleConfig, step: int, progress: float) -> float:
    """Return the learning rate of an update (counted from 0).

    >>> config = ScheduleConfig(learning_rate=1.0, warmup_steps=4, final_rate=0.0)
    >>> [learning_rate(config, s, p) for s, p in [(0, 0.0), (9, 0.5), (9, 0.75)]]
    [0.25, 1.0, 0.5]
    """
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    decayed = _ramp(progress, config.decay_from, 1.0)
    if config.decay == "cosine":
        decayed = 0.5 - 0.5 * math.cos(math.pi * decayed)
    return config.learning_rate * warm * (1 - (1 - config.final_rate) * decayed)


def augment_strength(config: ScheduleConfig, progress: float) -> float:
    """Return how wide SpecAugment's stripes may be: 0 to 1 of their full width."""
    return _ramp(progress, config.augment_from, config.augment_full)


def sampling_chance(config: ScheduleConfig, progress: float) -> float:
    """Return the chance of an input character to be the speller's own guess."""
    return config.sampling * _ramp(progress, config.sampling_from, 1.0)


def validations_due(progress: float, validations: int) -> int:
    """Return how many of so many validations, spread evenly, are due by now.

    >>> [validations_due(progress, 4) for progress in (0.0, 0.24, 0.25, 1.0)]
    [0, 0, 1, 4]
    """
    return math.floor(progress * validations + 1e-9)


def _ramp(progress: float, start: float, end: float) -> float:
    """0 before start, 1 from end on, a line between them."""
    if progress >= end:
        return 1.0
    return (progress - start) / (end - start) if progress > start else 0.0
