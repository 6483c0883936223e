"""One experiment as one tree of settings.

Each part of the tree is a frozen dataclass that stands beside the class it configures;
this file only plants them together and reads them from YAML and `key=value` overrides.
It is the one door for OmegaConf: what leaves here are plain dataclasses.
"""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, SafeLoader, YAMLError, parse
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    ScalarEvent,
)

from asr.errors import ConfigError
from asr.features import AugmentConfig
from asr.foreign import MOST_DEPTH, MOST_SETTINGS, check_text, read_text
from asr.model.attention import AttentionConfig
from asr.model.las import LASConfig
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.tokenizers import TokenizerConfig
from asr.training.loss import LossConfig
from asr.training.schedule import ScheduleConfig
from asr.training.trainer import TrainingConfig

Settings = TypeVar("Settings")

RENAMED = {"attention.segment": "attention.block_size"}
"""Settings of version 0.1, and what they are called now; read for one release more."""
MOVED = {
    "decoding": "a training never used it: the settings of a search are in the "
    "model's decoding.json, which `asr tune` writes"
}
"""Sections of version 0.1 that are no settings of an experiment any more, and why."""


@dataclass(frozen=True)
class DataConfig:
    """Which corpus to learn from."""

    train: list[str]
    """Manifests to learn from, all together; all of them name shards, or none does."""
    dev: str
    """Manifest to validate on."""
    every: int = 1
    """Learn from every Nth utterance only, to see what more of them are worth."""

    def __post_init__(self) -> None:
        """Refuse a part that is none."""
        if self.every < 1:
            raise ValueError(f"data.every must be at least 1, not {self.every}")


@dataclass(frozen=True)
class Config:
    """All settings of one experiment."""

    data: DataConfig
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    listener: ListenerConfig = field(default_factory=ListenerConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    speller: SpellerConfig = field(default_factory=SpellerConfig)
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(speeds=[0.9, 1.0, 1.1])
    )
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together."""
        LASConfig(self.listener, self.attention, self.speller)
        if self.loss.mwer_weight and self.training.fixed_shapes == "always":
            raise ValueError(
                "loss.mwer_weight is for batches as they come: a search has no fixed "
                "shapes (training.fixed_shapes=auto takes none then)"
            )


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read an experiment; later settings win: defaults, then file, then overrides.

    Args:
        path: YAML file with any of the settings in `Config`.
        overrides: settings such as "training.epochs=3".

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown, missing, of the
            wrong type, or impossible.
    """
    return read_settings(Config, path, overrides)


def read_settings(
    kind: type[Settings], path: str | Path, overrides: Sequence[str] = ()
) -> Settings:
    """Read settings of any kind, a dataclass; see `load_config`."""
    try:
        given = [_read(Path(path)), *map(_parse, overrides)]
        tree = OmegaConf.merge(OmegaConf.structured(kind), *map(_renamed, given))
        return cast(Settings, OmegaConf.to_object(tree))
    except OSError as error:
        reason = error.strerror or f"settings were expected: {error}"
        raise ConfigError(f"{path}: cannot be read ({reason})") from error
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {_reason(error)}") from error


def parse_settings(section: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Read settings of one section from a command line; of two the later wins.

    Args:
        section: such as "decoding".
        arguments: such as "decoding.beam_size=4".

    Returns:
        The values by name, as YAML reads them; the names are not checked.

    Raises:
        ConfigError: an argument is not of this form.
    """
    found = dict[str, Any]()
    for argument in arguments:
        if not argument.startswith(f"{section}.") or "=" not in argument:
            raise ConfigError(
                f"{argument}: is not a setting ({section}.key=value was expected)"
            )
        found |= cast(dict[str, Any], OmegaConf.to_container(_parse(argument)))[section]
    return found


def _read(path: Path) -> DictConfig | ListConfig:
    """Read a YAML file, which is data: nothing in it stands for anything else.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no text, or nested too deep, or refers to something.
    """
    text = read_text(path, MOST_SETTINGS)
    _check_plain(text)
    return OmegaConf.load(io.StringIO(text))


def _parse(override: str) -> DictConfig:
    key, _, value = override.partition("=")
    try:
        if not re.fullmatch(r"\w[\w.-]*", key) or key.count(".") > MOST_DEPTH:
            raise ValueError("is not the name of a setting and its value")
        _check_plain(value)
        return OmegaConf.from_dotlist([override])
    except YAMLError as error:
        raise ConfigError(
            f"{override}: is not key=value with a value in YAML"
        ) from error
    except (ValueError, OmegaConfBaseException) as error:
        raise ConfigError(f"{override}: {_reason(error)}") from error


def _check_plain(text: str) -> None:
    """Refuse YAML that is more than data, before anything is made of it.

    An alias (`*name`) repeats a part, and that in turn others: a short file can stand
    for a tree without end. An interpolation (`${name}`) stands for another setting, or
    for what is in the environment.

    Raises:
        ValueError: it has such, or is nested deeper than `MOST_DEPTH`, or holds what no
            file can.
    """
    check_text(text, "the text")
    depth = 0
    for event in parse(text, Loader=SafeLoader):
        assert event.start_mark
        line = f"line {event.start_mark.line + 1}"
        if isinstance(event, AliasEvent):
            raise ValueError(f"{line}: *{event.anchor} is no value (write it out)")
        if isinstance(event, ScalarEvent) and "${" in event.value:
            raise ValueError(f"{line}: ${{…}} is no value (write it out)")
        if isinstance(event, ScalarEvent) and "\0" in event.value:
            raise ValueError(f"{line}: a zero byte is no text")
        depth += isinstance(event, CollectionStartEvent)
        depth -= isinstance(event, CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise ValueError(f"{line}: is nested deeper than {MOST_DEPTH} times")


def _renamed(tree: Any) -> Any:
    """Move settings with an old name to their new one, and drop those that moved."""
    for section, reason in MOVED.items() if isinstance(tree, DictConfig) else ():
        if section in tree:
            del tree[section]
            warnings.warn(
                f"{section}: is ignored ({reason})", FutureWarning, stacklevel=2
            )
    for old, new in RENAMED.items() if isinstance(tree, DictConfig) else ():
        value = OmegaConf.select(tree, old)
        if value is not None:
            OmegaConf.update(tree, new, value, force_add=True)
            parent, _, name = old.rpartition(".")
            del OmegaConf.select(tree, parent)[name]
            warnings.warn(
                f"{old} is called {new} now (the old name works in 0.2 only)",
                FutureWarning,
                stacklevel=2,
            )
    return tree


def _reason(error: Exception) -> str:
    """Return in one line what is wrong, with which setting or in which line."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    reason = (str(error).splitlines() or ["is not YAML"])[0]
    setting = getattr(error, "full_key", None)
    if setting and "is not a ListConfig" in reason:
        reason = f"is a list ({setting}=[…] was expected)"
    return f"{setting}: {reason}" if setting else reason


def to_yaml(config: Config) -> str:
    """Write all settings, defaults too, in the form that `load_config` reads."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))
