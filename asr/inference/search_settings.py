"""Which settings a search has: a model brings its own, and a user replaces some.

The settings that serve a model best depend on the language model beside it, so
decoding.json in the model's folder has them for three situations:

with_bundled_language_model    the one that comes with the package
with_other_language_model      one that the user names
without_language_model         none, or the bundled one does not fit the model

Later ones win: the defaults of `DecodingConfig`, decoding.json, what the user gives.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from asr.decoding.config import DecodingConfig, replaced
from asr.errors import CheckpointError, ConfigError
from asr.foreign import parse_table
from asr.model.storage import DECODING, add_further, read_further

VERSION = 1
"""Of that file; raised when an older asr would misread a new one."""
_OF_LANGUAGE_MODEL = ("lm_weight", "word_bonus", "ilm_weight")

Decoding = DecodingConfig | Mapping[str, Any] | None
"""What a user gives: all settings; or some by name, the rest is the model's; or none.
"""


class Situation(StrEnum):
    """What stands beside the model in a search; its values are keys of the file."""

    BUNDLED = "with_bundled_language_model"
    OTHER = "with_other_language_model"
    WITHOUT = "without_language_model"

    @property
    def description(self) -> str:
        """What it is in words.

        >>> Situation.BUNDLED.description
        'with the bundled language model'
        """
        return {
            Situation.BUNDLED: "with the bundled language model",
            Situation.OTHER: "with another language model",
            Situation.WITHOUT: "without a language model",
        }[self]

    @classmethod
    def of(cls, language_model: str | Path | None, is_there: bool) -> "Situation":
        """Find the situation.

        Args:
            language_model: the folder that the user named; None for the bundled one.
            is_there: whether a language model is used at all.
        """
        if not is_there:
            return cls.WITHOUT
        return cls.BUNDLED if language_model is None else cls.OTHER


def wants_language_model(given: Decoding) -> bool:
    """Return whether the user leaves room for a language model: a weight of 0 does not.

    Raises:
        TypeError: what was given is no settings.

    >>> wants_language_model(None), wants_language_model({"lm_weight": 0})
    (True, False)
    """
    if isinstance(given, DecodingConfig):
        return given.lm_weight != 0
    if not isinstance(given, Mapping | None):
        raise TypeError(
            'decoding is settings by name, such as {"beam_size": 4}, or a '
            f"DecodingConfig, not {given!r:.40}"
        )
    return (given or {}).get("lm_weight") != 0


def search_settings(
    folder: Path, situation: Situation, given: Decoding
) -> DecodingConfig:
    """Work out the settings of a search; without a language model its weight is 0.

    Args:
        folder: of the model.
        situation: in which it searches.
        given: by the user.

    Raises:
        CheckpointError: the model's settings are damaged.
        ConfigError: a setting that was given is unknown or impossible.
    """
    if isinstance(given, DecodingConfig):
        settings = given
    else:
        settings = replaced(load_decoding(folder, situation), given or {})
    if situation is Situation.WITHOUT:
        settings = replace(settings, lm_weight=0.0)
    return settings


def load_decoding(folder: Path, situation: Situation) -> DecodingConfig:
    """Read the settings of a model for a situation; the defaults where it has none.

    Raises:
        CheckpointError: they are damaged, or of a newer asr.
    """
    try:
        return replaced(DecodingConfig(), _read(folder).get(situation, {}))
    except ConfigError as error:
        raise CheckpointError(f"{folder / DECODING}: {situation}: {error}") from error


def save_decoding(folder: Path, situation: Situation, decoding: DecodingConfig) -> None:
    """Write the settings of a model for a situation; those for others stay.

    Raises:
        CheckpointError: the settings before are damaged, or the folder cannot be
            written.
    """
    settings = asdict(decoding)
    if situation is Situation.WITHOUT:
        settings = {k: v for k, v in settings.items() if k not in _OF_LANGUAGE_MODEL}
    tree = {"version": VERSION, **_read(folder), situation: settings}
    ordered = {key: tree[key] for key in ("version", *Situation) if key in tree}
    add_further(folder, DECODING, (json.dumps(ordered, indent=2) + "\n").encode())


def _read(folder: Path) -> dict[str, Any]:
    """Read the settings for each situation, not checked yet.

    Raises:
        CheckpointError: they cannot be read, or are not of this version.
    """
    content, place = read_further(folder, DECODING), folder / DECODING
    if content is None:
        return {}
    try:
        tree = parse_table(content)
        version = tree.pop("version")
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{place}: holds no settings of a search ({error!r:.60})"
        ) from error
    if version != VERSION:
        raise CheckpointError(
            f"{place}: is of version {version!r:.40}, this asr reads version {VERSION} "
            "(update asr)"
        )
    for key, settings in tree.items():
        if key not in list(Situation) or not isinstance(settings, dict):
            raise CheckpointError(
                f"{place}: {key!r:.40} is no table of settings of {DECODING} "
                f"({', '.join(Situation)})"
            )
    return tree
