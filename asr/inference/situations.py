"""Situations of a search, the settings for each in a file, and those of the user.

See `search_settings` for what the situations are.
"""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from asr.decoding.config import DecodingConfig, replaced
from asr.errors import CheckpointError
from asr.foreign import parse_table
from asr.lm.word_files import is_bundled

VERSION = 1
"""Of that file; raised when an older asr would misread a new one."""

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
            language_model: the folder that the user named; None or `words` for the
                bundled one.
            is_there: whether a language model is used at all.
        """
        if not is_there:
            return cls.WITHOUT
        return cls.BUNDLED if is_bundled(language_model) else cls.OTHER


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


def settled(
    own: DecodingConfig, situation: Situation, given: Decoding
) -> DecodingConfig:
    """Replace a model's settings by what a user gives.

    Args:
        own: of the model, for the situation.
        situation: in which it searches; without a language model its weight is 0.
        given: by the user.

    Raises:
        ConfigError: a setting that was given is unknown or impossible.
    """
    settings = (
        given if isinstance(given, DecodingConfig) else replaced(own, given or {})
    )
    if situation is Situation.WITHOUT:
        settings = replace(settings, lm_weight=0.0)
    return settings


def parse_decoding(content: bytes, place: Path) -> dict[str, Any]:
    """Read the settings of a file for each situation, not checked yet.

    Args:
        content: of the file.
        place: the file, for errors.

    Raises:
        CheckpointError: they cannot be read, or are not of this version.
    """
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
                f"{place}: {key!r:.40} is no table of settings of {place.name} "
                f"({', '.join(Situation)})"
            )
    return tree
