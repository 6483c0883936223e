"""Which settings serve an adaptation, by how much there is to learn from.

The network is the start's. The rate is that of a training that goes on, not of one that
begins, and falls from the start. What little there is, is soon learned by heart: then
the rate is lower, more is dropped, and the recordings are disturbed more often. What
was measured stands in docs/adapting.md.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from asr.config import Config, DataConfig
from asr.data.manifest import Utterance
from asr.errors import ConfigError
from asr.features import AugmentConfig
from asr.model.storage import StoredModel
from asr.text import CharTokenizer, Tokenizer
from asr.tokenizers import TokenizerConfig
from asr.training.config import TrainingConfig
from asr.training.loss import LossConfig
from asr.training.schedule import ScheduleConfig
from asr.wording import counted

SEED = 1
_SPEEDS = [0.9, 1.0, 1.1]
_BATCH_SECONDS = 40.0
"""Of each process: many small updates get further in ten minutes than few large ones.
"""
_MOST_PROCESSES = 4


class Amount(NamedTuple):
    """What serves up to so much to learn from."""

    hours: float
    """Up to this."""
    learning_rate: float
    dropout: float
    disturbed: float
    """Share of the recordings with noise; of each other disturbance half as many."""
    freeze: tuple[str, ...]


AMOUNTS = (
    Amount(0.05, 1e-4, 0.3, 0.2, ("listener",)),
    Amount(0.5, 3e-4, 0.3, 0.2, ()),
    Amount(5.0, 3e-4, 0.2, 0.1, ()),
    Amount(float("inf"), 5e-4, 0.15, 0.1, ()),
)
"""From little to much."""


def amount_of(hours: float) -> Amount:
    """Return what serves so much to learn from.

    >>> amount_of(0.02).freeze, amount_of(2.0).learning_rate
    (('listener',), 0.0003)
    """
    return next(amount for amount in AMOUNTS if hours <= amount.hours)


def choose_settings(
    start: Path,
    stored: StoredModel,
    tokenizer: Tokenizer,
    utterances: Sequence[Utterance],
    manifests: tuple[Path, Path],
    *,
    alphabet: Path | None,
    minutes: float,
    device: str,
    processes: int | None,
) -> Config:
    """Choose the settings of an adaptation.

    Args:
        start: folder of the model.
        stored: what is in it.
        tokenizer: of what is to come.
        utterances: to learn from.
        manifests: of those, and of what is held out.
        alphabet: file of the new alphabet; None where the old one stays.
        minutes: how long training may take.
        device: where.
        processes: None for one a core, at most four; one where there is a GPU.

    Raises:
        ConfigError: a number is impossible.
    """
    hours = sum(utterance.duration for utterance in utterances) / 3600
    amount = amount_of(hours)
    longest = max(utterance.duration for utterance in utterances) / min(_SPEEDS)
    las = stored.config
    size = None if isinstance(tokenizer, CharTokenizer) else tokenizer.size
    kind = "characters" if size is None else "subwords"
    words = TokenizerConfig(kind, size)
    if alphabet:
        words = TokenizerConfig(alphabet=str(alphabet))
    if processes is None:
        cores = len(os.sched_getaffinity(0))
        processes = min(_MOST_PROCESSES, cores) if device == "cpu" else 1
    try:
        training = TrainingConfig(
            start=str(start),
            freeze=list(amount.freeze) if alphabet is None else [],
            minutes=minutes,
            seed=SEED,
            batch_seconds=max(_BATCH_SECONDS, longest + 1),
            batch_size=16,
            short_first=False,
            clip_norm=2.0,
            average_decay=0.98,
            validations=4,
            dev_utterances=100,
            checkpoint_minutes=2.0,
            device=device,
            processes=processes,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Config(
        data=DataConfig([str(manifests[0])], str(manifests[1])),
        tokenizer=words,
        listener=replace(las.listener, dropout=amount.dropout),
        attention=las.attention,
        speller=replace(las.speller, dropout=amount.dropout),
        augment=_augment(amount.disturbed),
        loss=LossConfig(ctc_weight=0.4, guide_weight=0.0),
        schedule=ScheduleConfig(
            learning_rate=amount.learning_rate,
            warmup_steps=10,
            decay_from=0.1,
            augment_from=0.0,
            augment_full=0.01,
        ),
        training=training,
    )


def describe(config: Config) -> str:
    """Write in a line what was chosen."""
    training, frozen = config.training, ", ".join(config.training.freeze)
    minutes, number = training.minutes, training.processes
    long = (
        counted(training.epochs, "epoch")
        if minutes is None
        else f"{minutes:g} minute{'' if minutes == 1 else 's'}"
    )
    parts = [
        f"learning rate {config.schedule.learning_rate:g}",
        f"dropout {config.listener.dropout:g}",
        f"noise on {config.augment.noise:.0%} of the recordings",
        f"{long} in {number} process{'es' if number > 1 else ''}",
        f"batches of {training.batch_seconds:.0f} s",
    ]
    return ", ".join(parts) + (f", frozen: {frozen}" if frozen else "")


def _augment(disturbed: float) -> AugmentConfig:
    half = disturbed / 2
    return AugmentConfig(
        speeds=_SPEEDS,
        frequency_width=15,
        time_width=35,
        noise=disturbed,
        babble=half,
        room=half,
        band=half,
        clipping=half / 2,
        stretch=0.06,
        characters=0.03,
    )
