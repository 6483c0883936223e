"""A run's folder is claimed with its settings, which it goes on with."""

from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any

from asr.config import Config, load_config, to_yaml
from asr.errors import ConfigError
from asr.folders import write_files
from asr.runs.material import TrainingData
from asr.tensor_files import read_metadata
from asr.text import CharTokenizer, Tokenizer
from asr.training.checkpoint import CHECKPOINT, read_place

CONFIG = "config.yaml"
_FIXED = (
    *("tokenizer", "listener", "attention", "speller", "augment"),
    *("training.seed", "training.start", "training.kept_rate", "training.freeze"),
    *("training.batch_seconds", "training.batch_size", "training.short_first"),
)
"""Settings that a run cannot change midway. What it learns from cannot, either, see
`claim`."""
_OF_THE_MACHINE = {
    *("training.device", "training.processes", "training.precision"),
    *("training.cache_hours", "training.device_hours", "training.checkpoint_minutes"),
    *("training.fixed_shapes", "training.bad_steps"),
}
"""Settings that may change when a run is over: they say where and how it is done."""


def claim(
    folder: Path,
    config: Config,
    tokenizer: Tokenizer,
    attention: str | None,
    data: TrainingData,
) -> None:
    """Write the settings into the run's folder, or compare with those there.

    Args:
        folder: of the run.
        config: all settings.
        tokenizer: of this training.
        attention: name of the attention's class, if it is not built in.
        data: to learn from, which is compared by what it holds, not by where it is.

    Raises:
        ConfigError: the folder holds a run that cannot go on with these settings, or
            one that has nothing more to train with them, and had others.
    """
    path = folder / CONFIG
    if (folder / CHECKPOINT).exists() and path.exists():
        before = load_config(path)
        changed = [
            name
            for name in _FIXED
            if not _are_same(name, attrgetter(name)(before), attrgetter(name)(config))
        ]
        written = read_metadata(folder / CHECKPOINT).get("config", {})
        tokens = written.get("tokenizer", CharTokenizer().to_dict())
        if tokens != tokenizer.to_dict() and "tokenizer" not in changed:
            changed.append("tokenizer")
        _check_class(folder, written.get("attention_class"), attention)
        corpus = written.get("corpus")
        if not isinstance(corpus, dict):  # of a version that did not look into it
            changed += ["data"] if before.data != config.data else []
        elif not changed and corpus.get("train") != data.digests["train"]:
            raise ConfigError(
                f"{folder}: holds a run on another corpus than data.train names now: "
                "its ids, texts, durations or their order have changed, or with "
                "augment.join its speakers (bring it back, or take another folder)"
            )
        if changed:
            raise ConfigError(
                f"{folder}: holds a run with other settings of {', '.join(changed)} "
                "(take another folder, or delete this one)"
            )
        if is_finished(config, folder):
            _check_over(folder, before, config)
    write_files(folder, {**tokenizer.files(), CONFIG: to_yaml(config).encode()})


def _check_over(folder: Path, before: Config, now: Config) -> None:
    """Refuse other settings of a run that is over: they would change nothing.

    What cannot change midway was compared before, by what it means: a path may be
    spelled otherwise.
    """
    compared = ("data.", *_FIXED)
    changed = [
        name for name in changed_settings(before, now) if not name.startswith(compared)
    ]
    if changed:
        raise ConfigError(
            f"{folder}: is finished, with other settings of {', '.join(changed)}: "
            "they would change nothing (bring them back, or train longer, or take "
            "another folder)"
        )


def is_finished(config: Config, folder: Path) -> bool:
    """Return whether a folder holds a run that has nothing more to train.

    Raises:
        CheckpointError: its checkpoint is damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return False
    place, training = read_place(path), config.training
    if training.minutes is None:
        trained = place.epoch >= training.epochs
    else:
        trained = place.seconds >= 60 * training.minutes
    return trained and place.validations >= training.validations


def changed_settings(before: Config, now: Config) -> list[str]:
    """Name the settings that differ, such as "training.minutes"; not of the machine."""
    old, new = _flat(before), _flat(now)
    return [n for n in new if old[n] != new[n] and n not in _OF_THE_MACHINE]


def _flat(config: Config) -> dict[str, Any]:
    """Return all settings by their names, such as "training.minutes"."""
    return {
        f"{section}.{name}": value
        for section, settings in asdict(config).items()
        for name, value in settings.items()
    }


def _are_same(name: str, before: Any, now: Any) -> bool:
    """Return whether a setting is what it was; a path may be spelled otherwise.

    Of an alphabet it is compared elsewhere what it holds.
    """
    if name == "tokenizer":
        return bool((before.kind, before.size) == (now.kind, now.size))
    if name == "training.start" and before and now:
        return bool(before == now or Path(before).resolve() == Path(now).resolve())
    return bool(before == now)


def _check_class(folder: Path, before: str | None, now: str | None) -> None:
    """Refuse to go on with another class of attention than a run began with."""
    if before != now:
        was, given = (
            f"the attention {name}" if name else "a built-in attention"
            for name in (before, now)
        )
        raise ConfigError(
            f"{folder}: holds a run with {was}, not with {given} (in Python, "
            f"train(config, folder, attention={before}) goes on with it)"
        )
