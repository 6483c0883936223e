"""Pack the model of a run into a folder that can be handed on.

The weights are those that training kept: averaged, of the best validation. Here they
become float16, half the size, or int8, about a quarter, and a card for people comes
with them. The new folder is written beside its place and read again before it takes it.
An attention that is not built in stays a name: its class is not needed, so whether the
weights fit it is not looked at.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from asr.errors import CheckpointError
from asr.file_sets import changing, is_rest, listed, read_whole, replace_set
from asr.files import sync_folder
from asr.folders import inside, remove, write_bytes
from asr.foreign import read_text
from asr.model.hub import is_on_hub
from asr.model.storage import (
    CARD,
    DESCRIPTION,
    SETTINGS,
    WEIGHTS,
    StoredModel,
    WeightType,
    find_model,
    further_files,
    load_model,
    read_further,
    read_model,
    write_model,
)
from asr.version import DISTRIBUTION, version

RUN_SETTINGS = "config.yaml"
"""Name of the settings in a run's folder, as `asr.train` writes them."""
TO_FILL_IN = "TO BE FILLED IN"
"""What a new card has where only a person knows what to write."""

_ABSOLUTE = re.compile(
    r"^( *(?:- )?(?:\w+: )?[\"']?)"  # of a line of YAML what is before the value
    r"((?:~?/|[A-Za-z]:[/\\]|\\\\).*?)"  # a path, perhaps on several lines
    r"(?=\n *(?:- |\w+:)|\s*\Z)",  # up to the next key or dash
    re.MULTILINE | re.DOTALL,
)


class Exported(NamedTuple):
    """A model that was packed, and a note about its card."""

    folder: Path
    card: str
    """Where its card is from, and what there is left to do."""


def export(
    run: str | Path | None, folder: Path, weights: WeightType = "float16"
) -> Exported:
    """Pack the model of a run.

    Args:
        run: folder of a run or of a model, or name of one: bundled, or on the Hub.
        folder: is made, or replaced where it holds a model or nothing. It may be the
            very folder that the model is in.
        weights: what they become; int8 that becomes int8 stays as it is, to the bit.

    Raises:
        CheckpointError: there is no model, or it is damaged; the folder holds what is
            no model; or it cannot be written. What was there then stays.
    """
    if is_on_hub(folder):
        raise CheckpointError(
            f"{folder}: is on the Hub (pack the model into a folder, and then: asr "
            f"push FOLDER {folder})"
        )
    source, folder = find_model(run), folder.resolve()
    model, further = read_whole(source, [DESCRIPTION], lambda: _parts(source))
    _check_replaceable(folder, further)
    card, note = _card(model, source, folder, weights)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        write_model(partial, model, dtype=weights, further=further)
        write_bytes(partial / CARD, card.encode())
        check_model(partial)
        _put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(folder, note)


def _parts(source: Path) -> tuple[StoredModel, dict[str, bytes]]:
    """Read a model, and the files that belong to it."""
    model = check_model(source)
    return model, {
        name: read_further(source, name) or b"" for name in further_files(source)
    }


def check_model(folder: Path) -> StoredModel:
    """Read a model, and build its network to see that all fits, if that is possible.

    Raises:
        CheckpointError: something is missing or damaged, or does not fit.
    """
    model = read_model(folder)
    if model.attention_class is None:
        load_model(folder)
    return model


def _check_replaceable(folder: Path, further: dict[str, bytes]) -> None:
    """Refuse to replace anything but a model, and to lose a file by that."""
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be replaced ({error.strerror})"
        ) from error
    if not names:
        return
    if DESCRIPTION not in names:
        raise CheckpointError(
            f"{folder}: holds other things than a model (give a new or empty folder)"
        )
    known = {
        DESCRIPTION,
        WEIGHTS,
        CARD,
        *further,
        *SETTINGS,
        *listed(folder, DESCRIPTION),
    }
    strange = sorted(
        name
        for name in names
        if not is_rest(name) and (name not in known or (folder / name).is_dir())
    )
    if strange:
        raise CheckpointError(
            f"{folder}: holds {strange[0]}, too, which is no part of a model (move it "
            "away, or give a new folder)"
        )


def _put_in_place(partial: Path, folder: Path) -> None:
    """Let a new folder take its place, or its files those of the model there, as one.

    Whoever reads the model meanwhile, or after a stop, finds the old one or the new.
    """
    try:
        if not folder.exists() or not any(folder.iterdir()):
            partial.rename(folder)
            sync_folder(folder.parent)
            return
        files = {path.name: path.read_bytes() for path in partial.iterdir()}
        description, card = files.pop(DESCRIPTION), files.pop(CARD)
        with changing(folder):
            before = {*listed(folder, DESCRIPTION), *SETTINGS}
            replace_set(folder, files, DESCRIPTION, description)
            write_bytes(folder / CARD, card)
            remove(folder, before - files.keys())
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be replaced ({error.strerror})"
        ) from error


# The card


def _card(
    model: StoredModel, source: Path, folder: Path, weights: WeightType
) -> tuple[str, str]:
    """Return the text of the card, and a note about it for the user."""
    run = source.parent if source.name == "model" else source
    for path in (source / CARD, run / CARD, folder / CARD):
        if (text := _read(path)) is None:
            continue
        if path.parent.resolve() == folder and source.resolve() != folder:
            return text, f"kept its {CARD} (check that it describes this model)"
        named = re.search(r"parameters, (float16|int8|float32)\b", text)
        stale = named is not None and named[1] != weights
        note = f" (correct it: the weights are {weights} now)" if stale else ""
        return text, f"{CARD} is that of {path.parent}{note}"
    settings = _without_places(_read(run / RUN_SETTINGS) or "")
    return _new_card(model, folder.name, settings, weights), f"fill in its {CARD}"


def _read(path: Path) -> str | None:
    """Read a text, if there is one.

    Raises:
        CheckpointError: there is one, and it cannot be read or is elsewhere.
    """
    if not path.is_file():
        return None
    try:
        return read_text(inside(path.parent, path.name, path))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error


def _new_card(model: StoredModel, name: str, settings: str, weights: WeightType) -> str:
    metadata, config = model.metadata, model.config
    num_weights = sum(weight.numel() for weight in model.weights.values())
    attention = model.attention_class or config.attention.kind
    rows = {
        "Network": f"{_front(config.listener.conv_channels)}listener "
        f"{config.listener.size} a direction x {len(config.listener.reductions)} "
        f"layers, {attention} attention, "
        f"speller {config.speller.size} x {config.speller.layers}; "
        f"{num_weights / 1e6:.1f} M parameters, {weights}",
        "Training": _training(metadata),
        "Dev": _dev(metadata),
        "Made by": f"{DISTRIBUTION} {version()}",
        "Language": f"{TO_FILL_IN}: its code, such as en or de",
        "Data": f"{TO_FILL_IN}: which recordings and texts, and their licences",
        "Licence": f"{TO_FILL_IN}: under which others may use this model",
    }
    table = "".join(f"| {key} | {value} |\n" for key, value in rows.items())
    card = f"# {name}\n\nA Listen, Attend and Spell recogniser.\n\n| | |\n|---|---|\n"
    card += table
    if settings:
        card += f"\n## Settings\n\n```yaml\n{settings.rstrip()}\n```\n"
    return card


def _front(channels: int) -> str:
    return f"two convolutions of {channels} channels, " if channels else ""


def _without_places(settings: str) -> str:
    """Shorten absolute paths to their last names: others need not know where it was.

    >>> _without_places("dev: /home/me/data/a b.jsonl")
    'dev: a b.jsonl'
    """
    return _ABSOLUTE.sub(
        lambda found: found[1] + re.split(r"[/\\]", found[2])[-1], settings
    )


def _training(metadata: dict[str, Any]) -> str:
    known = []
    if "step" in metadata:
        known.append(f"{metadata['step']} updates")
    if isinstance(metadata.get("minutes"), int | float):
        known.append(f"{metadata['minutes'] / 60:.1f} hours")
    return ", ".join(known) or "unknown"


def _dev(metadata: dict[str, Any]) -> str:
    """Return the rates of the validation that kept this model."""
    known = [
        f"{name.upper()} {metadata[f'dev/{name}']:.1%}"
        for name in ("wer", "cer")
        if isinstance(metadata.get(f"dev/{name}"), int | float)
    ]
    return f"{', '.join(known)} (greedy)" if known else "unknown"
