"""Publish a model on the Hugging Face Hub, with its card.

The repository gets the files of the model folder and, as the README.md that the Hub
shows, the card below a head of metadata (https://huggingface.co/docs/hub/model-cards):

    licence    of the card's row `Licence`, where it begins with a name the Hub knows
    language   of the card's row `Language`: codes, as `en` or `de, fr`
    tags       automatic-speech-recognition, listen-attend-spell

A card that has such a head keeps its own.
What is read by nobody is not looked for: error rates stand in the card for people.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from asr.errors import CheckpointError
from asr.folders import inside
from asr.foreign import as_text, read_file, read_text
from asr.model.export import TO_FILL_IN, check_model
from asr.model.hub import push
from asr.model.storage import (
    CARD,
    DESCRIPTION,
    PARTS,
    WEIGHTS,
    find_model,
    further_files,
)
from asr.version import DISTRIBUTION, version

README = "README.md"
LICENCES = {
    *("apache-2.0", "mit", "bsd-3-clause", "mpl-2.0", "gpl-3.0", "lgpl-3.0"),
    *("agpl-3.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *("cc-by-nc-sa-4.0", "odc-by", "unlicense"),
}
"""Of the names that the Hub knows, those that people give models."""
_TEXTS = (".json", ".md")
_ABSOLUTE = re.compile(r"(?<![\w/.:~}>-])(?:/[\w.+-]+){2,}|\b[A-Za-z]:\\\w+")
"""A path from the root on: it has a user's name in it, or that of a machine."""


class Published(NamedTuple):
    """A model that was pushed."""

    url: str
    name: str
    """`hf:USER/NAME@COMMIT`, to load it by."""
    notes: list[str]
    """What its card does not have for the Hub."""


def publish(
    model: str | Path | None, name: str, *, private: bool = False, message: str = ""
) -> Published:
    """Check a model, and upload it in one commit.

    Args:
        model: as for `find_model`.
        name: `hf:USER/NAME`; the repository is made if there is none.
        private: whether a new repository is to be.
        message: of the commit.

    Raises:
        CheckpointError: the model is damaged, or its card is missing or has gaps; or a
            text names a path of this machine; or as `push`.
    """
    folder = find_model(model)
    check_model(folder)
    card = _card(folder)
    contents: dict[str, Path | bytes] = {
        file: inside(folder, file, folder / DESCRIPTION)
        for file in (DESCRIPTION, WEIGHTS, *further_files(folder), CARD)
    }
    for file in contents:
        if file.endswith(_TEXTS):
            _check_paths(folder / file)
    metadata, notes = _metadata(card)
    if card.startswith("---\n"):
        contents[README], notes = card.encode(), []
    else:
        contents[README] = f"{_head(metadata)}\n{card}".encode()
    message = message or f"Model of {DISTRIBUTION} {version()}"
    pushed = push(name, contents, PARTS, private=private, message=message)
    return Published(pushed.url, pushed.name, notes)


def _card(folder: Path) -> str:
    path = folder / CARD
    try:
        card = read_text(inside(folder, CARD, path))
    except (OSError, ValueError, CheckpointError) as error:
        raise CheckpointError(
            f"{path}: cannot be read (a model is pushed with its card: asr export "
            "writes one)"
        ) from error
    for number, line in enumerate(card.split("\n"), 1):
        if TO_FILL_IN in line:
            raise CheckpointError(f"{path}:{number}: is still {TO_FILL_IN.lower()}")
    return card


def _check_paths(path: Path) -> None:
    """Refuse a text that tells strangers where things are on this machine."""
    text = as_text(read_file(path))
    for number, line in enumerate(text.split("\n"), 1):
        if found := _ABSOLUTE.search(line):
            raise CheckpointError(
                f"{path}:{number}: names {found[0]}, a path of this machine (all can "
                "read it there: write it as a relative one)"
            )


def _metadata(card: str) -> tuple[dict[str, list[str]], list[str]]:
    """Return what the head of the card has, and notes on what is missing."""
    notes = []
    licence, language = _row(card, "Licen[cs]e"), _row(card, "Language")
    slug = re.sub(r"[\s-]+", "-", re.split("[;,(]", licence)[0].strip().lower())
    if slug not in LICENCES:
        slug = "other"
        notes.append(f"its licence is 'other': row Licence of {CARD} has no known name")
    codes = re.split(r"\s*,\s*", language)
    if not all(re.fullmatch("[a-z]{2,3}", code) for code in codes):
        codes = []
        notes.append(f"its language is open: row Language of {CARD} has no code (en)")
    metadata = {
        "license": [slug],
        "language": codes,
        "library_name": [DISTRIBUTION],
        "pipeline_tag": ["automatic-speech-recognition"],
        "tags": ["automatic-speech-recognition", "listen-attend-spell"],
    }
    return metadata, notes


def _row(card: str, key: str) -> str:
    """Return the cell beside a key in the card's table; nothing if there is none."""
    found = re.search(rf"^\|\s*{key}\s*\|\s*(.*?)\s*\|\s*$", card, re.MULTILINE)
    return found[1] if found else ""


def _head(metadata: Mapping[str, list[str]]) -> str:
    """Write metadata as the Hub reads it; all values are plain words."""
    lines = ["---"]
    for key, values in metadata.items():
        if key in ("language", "tags"):
            lines += [f"{key}:", *(f"- {value}" for value in values)] if values else []
        else:
            lines.append(f"{key}: {values[0]}")
    return "\n".join([*lines, "---", ""])
