"""One experiment as one tree of settings.

Each part of the tree is a frozen dataclass that stands beside the class it configures;
this file only plants them together and reads them from YAML and `key=value` overrides.
It is the one door for OmegaConf: what leaves here are plain dataclasses.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from asr.model.storage import stage_folder
from asr.tokenizers import TokenizerConfig
from asr.training.config import TrainingConfig
from asr.training.loss import LossConfig
from asr.training.schedule import ScheduleConfig

Settings = TypeVar("Settings")

RENAMED = {"attention.segment": "attention.block_size"}
"""Settings of version 0.1, and what they are called now; read for one release more."""
STAGES = "stages"
"""The list of a training in stages: what each has in place of the common settings."""
_ONE_STAGE = re.compile(rf"{STAGES}\.([0-9]+)\.(.+)", re.DOTALL)
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
        if self.training.fixed_shapes == "always" and self.no_fixed_shapes:
            raise ValueError(
                f"{self.no_fixed_shapes} (training.fixed_shapes=auto takes none then)"
            )

    @property
    def no_fixed_shapes(self) -> str:
        """What rules out batches of fixed shapes; empty where nothing does."""
        if self.loss.mwer_weight:
            return (
                "loss.mwer_weight is for batches as they come: a search has no fixed "
                "shapes"
            )
        if self.augment.join:
            return "augment.join is for batches of any shape: joined speech is longer"
        return ""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read an experiment; later settings win: defaults, then file, then overrides.

    Args:
        path: YAML file with any of the settings in `Config`.
        overrides: settings such as "training.epochs=3".

    Raises:
        ConfigError: the file cannot be read, or has stages; or a setting is unknown,
            missing, of the wrong type, or impossible.
    """
    with _errors_at(path):
        tree = _read(Path(path))
        if STAGES in tree:
            raise ValueError(
                f"{STAGES}: is for asr train only (one experiment was expected)"
            )
        for override in overrides:
            if override.startswith(f"{STAGES}."):
                raise ValueError(f"has no {STAGES} ({override} was given)")
        return _settings(Config, [tree, *map(_parse, overrides)])


def overridden(config: Config, overrides: Sequence[str]) -> Config:
    """Replace some settings of an experiment, such as "training.epochs=3".

    Raises:
        ConfigError: a setting is unknown, of the wrong type, or impossible.
    """
    with _errors_at("settings"):
        return _settings(
            Config, [OmegaConf.create(to_yaml(config)), *map(_parse, overrides)]
        )


def load_stages(path: str | Path, overrides: Sequence[str] = ()) -> list[Config]:
    """Read a training in stages: all settings of each, first to last.

    A stage is a part of an experiment, merged over what stands beside `stages`: that is
    common to all. What one stage sets means nothing to the next. `training.start` of
    the common part is for the first stage; that of each other one is the name of the
    folder of the stage before, in the folder of the whole run.

    Args:
        path: YAML file with the settings in `Config`, and a list of `stages`.
        overrides: settings of all stages, such as "training.processes=2", and of one,
            the first being 1: "stages.2.training.minutes=60". The later wins.

    Returns:
        The stages; none where the file has no such list.

    Raises:
        ConfigError: as `load_config`, for any of the stages; or one after the first
            sets `training.start`.
    """
    with _errors_at(path):
        common = _read(Path(path))
        if STAGES not in common:
            return []
        entries = _entries(common)
        given = [_addressed(override, len(entries)) for override in overrides]
        shared = [common, *(tree for number, tree in given if number is None)]
        OmegaConf.merge(OmegaConf.structured(Config), *map(_renamed, shared))
    stages = list[Config]()
    for number, entry in enumerate(entries, 1):
        with _errors_at(f"{path}: stage {number}"):
            own = [entry, *(tree for n, tree in given if n == number)]
            trees = [entry, *(tree for n, tree in given if n in (None, number))]
            start = _start_of(number, own)
            stages.append(_settings(Config, [common, *trees, start]))
    return stages


def _entries(common: DictConfig | ListConfig) -> list[DictConfig]:
    """Take the list of stages out of a file's settings.

    Raises:
        ValueError: it is no list of settings.
    """
    entries = common.pop(STAGES) if isinstance(common, DictConfig) else None
    if not isinstance(entries, ListConfig) or not entries:
        raise ValueError(f"{STAGES}: is no list of stages")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, DictConfig):
            raise ValueError(
                f"{STAGES}: stage {number} holds no settings ({{}} has none of its own)"
            )
    return list(entries)


def _addressed(override: str, num_stages: int) -> tuple[int | None, DictConfig]:
    """Read an override, and the number of the one stage that it is for, if it is.

    Raises:
        ValueError: there is no such stage.
    """
    match = _ONE_STAGE.fullmatch(override)
    if match and 1 <= int(match[1]) <= num_stages:
        return int(match[1]), _parse(match[2])
    if override.startswith((f"{STAGES}.", f"{STAGES}=")):
        raise ValueError(
            f"{override}: is no setting of a stage ({STAGES}.1.key=value was expected, "
            f"with a stage from 1 to {num_stages})"
        )
    return None, _parse(override)


def _start_of(number: int, own: Sequence[DictConfig]) -> DictConfig:
    """Return where a stage starts: at the end of the one before.

    Raises:
        ValueError: its own settings have a start.
    """
    if number == 1:
        return OmegaConf.create({})
    for tree in own:
        training = tree.get("training")
        if isinstance(training, DictConfig) and "start" in training:
            raise ValueError(
                "training.start: is only for the first stage (each other one starts "
                "from the one before)"
            )
    before = str(stage_folder(Path(), number - 1))
    return OmegaConf.create({"training": {"start": before}})


def read_settings(
    kind: type[Settings], path: str | Path, overrides: Sequence[str] = ()
) -> Settings:
    """Read settings of any kind, a dataclass; see `load_config`."""
    with _errors_at(path):
        return _settings(kind, [_read(Path(path)), *map(_parse, overrides)])


def _settings(
    kind: type[Settings], trees: Sequence[DictConfig | ListConfig]
) -> Settings:
    """Merge settings; the later win."""
    tree = OmegaConf.merge(OmegaConf.structured(kind), *map(_renamed, trees))
    return cast(Settings, OmegaConf.to_object(tree))


@contextmanager
def _errors_at(place: str | Path) -> Iterator[None]:
    """Report what is wrong with settings as an error of their place.

    Raises:
        ConfigError: something is.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or f"settings were expected: {error}"
        raise ConfigError(f"{place}: cannot be read ({reason})") from error
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"{place}: {_reason(error)}") from error


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
