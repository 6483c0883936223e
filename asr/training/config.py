"""Settings of the training loop."""

import math
from dataclasses import dataclass, field

from asr.foreign import LARGEST


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the training loop."""

    start: str | None = None
    """Folder of a model or run, or name of a model, whose weights training starts from;
    None for chance. Its listener may be narrower: it grows. Its attention may have
    other settings: it is drawn anew, though an additive one becomes location-aware as
    it is. Its alphabet may be another one: characters that both have keep their
    weights."""
    kept_rate: float = 1.0
    """Share of the learning rate for weights that were taken over whole from `start`;
    those with new rows or units, and those of another alphabet's characters, learn at
    the full rate."""
    freeze: list[str] = field(default_factory=list)
    """Parts of the network that stay as they are, by name: listener, or
    speller.attention."""
    epochs: int = 20
    """How often the whole corpus is read."""
    minutes: float | None = None
    """In place of epochs: how long training may take, validation included."""
    seed: int = 1
    batch_seconds: float = 120.0
    """Most audio in a batch, padding counted."""
    batch_size: int = 32
    """Most utterances in a batch."""
    accumulate: int = 1
    """Batches of each process whose gradients make one update."""
    short_first: bool = True
    """Whether the first epoch goes from short to long utterances."""
    weight_decay: float = 1e-3
    weight_noise: float = 0.0
    """Deviation of noise on the recurrent weights while gradients are worked out."""
    clip_norm: float = 5.0
    """Largest norm of the gradient; a longer one is shortened."""
    average_decay: float = 0.998
    """Of the moving average of the weights, per update; it is what is validated."""
    validations: int = 20
    """How often, spread evenly, dev is looked at."""
    dev_utterances: int = 200
    """How many of dev's utterances are looked at, spread evenly over it."""
    checkpoint_minutes: float = 5.0
    """Time between checkpoints; there is one at each validation too."""
    bad_steps: int = 5
    """Steps in a row that are not finite after which training stops."""
    cache_hours: float = 12.0
    """Hours of audio kept in memory (0.23 GB each)."""
    device: str = "auto"
    """auto, cpu or cuda."""
    device_hours: float = 200.0
    """Hours of audio, at all speeds, kept in the memory of a GPU (0.12 GB each); a
    larger corpus is read ahead by processes."""
    fixed_shapes: str = "auto"
    """Whether batches have few fixed shapes and are made on the device, and updates are
    recorded there: always, never, or auto for where there is a GPU."""
    precision: str = "auto"
    """How matrices are multiplied: float32, tf32 (a GPU's shorter float32), bfloat16
    (in the listener; the rest is tf32), or auto for the fastest."""
    processes: int = 1
    """Processes that share each update: each has a batch, and one thread on a CPU."""

    def __post_init__(self) -> None:
        """Refuse what would only be noticed after hours of training."""
        for name in (
            *("epochs", "minutes", "batch_seconds", "batch_size", "accumulate"),
            *("clip_norm", "validations", "dev_utterances", "bad_steps", "processes"),
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"training.{name} must be above 0, not {value}")
        if abs(self.seed) > LARGEST:  # no checkpoint that holds it could be read
            raise ValueError(
                f"training.seed must be from {-LARGEST} to {LARGEST}, not {self.seed}"
            )
        if self.fixed_shapes not in ("auto", "always", "never"):
            raise ValueError(
                "training.fixed_shapes is auto, always or never, not "
                f"{self.fixed_shapes!r}"
            )
        if not 0 < self.kept_rate <= 1:
            raise ValueError(
                "training.kept_rate is a share above 0 and at most 1 (training.freeze "
                f"lets parts stay as they are), not {self.kept_rate}"
            )
        if self.kept_rate != 1 and self.start is None:
            raise ValueError(
                "training.kept_rate: is for a training with training.start only "
                "(nothing else is taken over)"
            )
        for name in ("weight_decay", "weight_noise"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"training.{name} must be at least 0, not {value}")
        if not 0 <= self.average_decay < 1:
            raise ValueError(
                "training.average_decay is a share from 0 to below 1, "
                f"not {self.average_decay}"
            )
