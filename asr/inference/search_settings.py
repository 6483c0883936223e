"""Which settings a search has: a model brings its own, and a user replaces some.

The settings that serve a model best depend on the language model beside it, so
decoding.json in the model's folder has them for three situations:

with_bundled_language_model    the one that comes with the package
with_other_language_model      one that the user names
without_language_model         none, or the bundled one does not fit the model

Later ones win: the defaults of `DecodingConfig`, decoding.json, what the user gives.
"""

import json
from pathlib import Path
from typing import Any

from asr.decoding.config import DecodingConfig, replaced
from asr.errors import CheckpointError, ConfigError
from asr.inference.situations import (
    VERSION,
    Decoding,
    Situation,
    parse_decoding,
    settled,
)
from asr.model.storage import DECODING, add_further, read_further

_OF_LANGUAGE_MODEL = ("lm_weight", "word_bonus", "ilm_weight")
_OF_A_RECORDING = ("hotwords", "hotword_weight")


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
    own = DecodingConfig()
    if not isinstance(given, DecodingConfig):
        own = load_decoding(folder, situation)
    return settled(own, situation, given)


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
    settings = decoding.to_dict()
    settings = {k: v for k, v in settings.items() if k not in _OF_A_RECORDING}
    if decoding.attention_window is None:
        del settings["attention_window"]  # which versions before this cannot read
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
    return parse_decoding(content, place)
