"""A model on disk: a folder that holds all that transcription needs.

model.safetensors    the weights, and the mean and deviation of the features
model.json           format, settings of the network, tokenizer, where it is from, and
                     size and SHA-256 of the other files
confidence.json      how sure its words are, if that is known (see `asr.confidence`)
MODEL_CARD.md        for people

Nothing in it is executed when it is read, and a file that is missing, altered or
outside the folder is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.errors import CheckpointError
from asr.model.attention import AttentionConfig
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.tensor_files import read_tensors, write_bytes, write_tensors
from asr.text import CharTokenizer

FORMAT = 2
"""1 is the same without checksums; it is read, too."""
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
CALIBRATION, CARD = "confidence.json", "MODEL_CARD.md"


class Model(NamedTuple):
    """A network, its tokenizer, and what is known about it."""

    las: LAS
    tokenizer: CharTokenizer
    facts: dict[str, Any]
    """Where the model is from: step, WER on dev, and the like."""


def save_model(
    folder: Path,
    las: LAS,
    tokenizer: CharTokenizer,
    facts: Mapping[str, Any],
    *,
    weights: Mapping[str, Tensor] | None = None,
    half: bool = False,
) -> None:
    """Write a model folder.

    Args:
        folder: is made where it is missing.
        las: the network.
        tokenizer: of its tokens.
        facts: where the model is from, as JSON can hold it.
        weights: in place of the network's own (averaged ones, say).
        half: write float16: half the size.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be made ({error.strerror})") from error
    dtype = torch.float16 if half else torch.float32
    chosen = las.state_dict() if weights is None else weights
    write_tensors(
        folder / WEIGHTS, {name: w.to(dtype) for name, w in chosen.items()}, {}
    )
    description = {
        "las": asdict(las.config),
        "tokenizer": tokenizer.to_dict(),
        "facts": dict(facts),
    }
    _write(folder, description)


def seal(folder: Path) -> None:
    """Note size and checksum of a model's files, after one was added or changed.

    Raises:
        CheckpointError: the folder holds no model, or cannot be written to.
    """
    _write(folder, _read(folder))


def _write(folder: Path, description: dict[str, Any]) -> None:
    files = {
        name: _fingerprint(folder / name)
        for name in (WEIGHTS, CALIBRATION)
        if (folder / name).exists()
    }
    text = json.dumps({**description, "format": FORMAT, "files": files}, indent=2)
    write_bytes(folder / DESCRIPTION, f"{text}\n".encode())


def _read(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{folder}: holds no model ({DESCRIPTION} cannot be read: {error.strerror})"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: does not describe a model ({error})") from error
    if not isinstance(description, dict) or "format" not in description:
        raise CheckpointError(f"{path}: does not describe a model (it has no format)")
    if description["format"] not in (1, FORMAT):
        raise CheckpointError(
            f"{path}: is a model of format {description['format']}, "
            f"this version reads format {FORMAT} (install the asr that made it)"
        )
    return description


def _fingerprint(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _verify(folder: Path, description: dict[str, Any]) -> None:
    """Refuse a folder whose files are not those that it was made of.

    Raises:
        CheckpointError: one is missing, altered, outside the folder, or not listed.
    """
    files = description.get("files")
    if not isinstance(files, dict) or WEIGHTS not in files:
        raise CheckpointError(f"{folder / DESCRIPTION}: does not list its {WEIGHTS}")
    for name, expected in files.items():
        if name != Path(name).name or name in ("", ".", ".."):
            raise CheckpointError(f"{folder}: lists {name!r}, which is not inside it")
        path = folder / name
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise CheckpointError(f"{path}: leads out of its folder")
        if _fingerprint(path) != expected:
            raise CheckpointError(
                f"{path}: is not the file that the model was made with (altered or "
                "cut short; get the model again)"
            )
    if (folder / CALIBRATION).exists() and CALIBRATION not in files:
        raise CheckpointError(
            f"{folder / CALIBRATION}: is not among the files that {DESCRIPTION} lists"
        )


def load_model(folder: Path) -> Model:
    """Read a model folder; the network comes in evaluation mode, in float32.

    Raises:
        CheckpointError: a part is missing, damaged, altered, or of another format.
    """
    description = _read(folder)
    if description["format"] > 1:
        _verify(folder, description)
    weights, _ = read_tensors(folder / WEIGHTS)
    try:
        config = las_config(description["las"])
        tokenizer = CharTokenizer.from_dict(description["tokenizer"])
        facts = dict(description["facts"])
        if config.speller.layers > len(weights):
            raise ValueError(f"it has no {config.speller.layers} layers")
        with torch.device("meta"):  # whatever sizes are told: nothing is made of them
            las = LAS(config, tokenizer.size)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / DESCRIPTION}: does not describe a model ({error})"
        ) from error
    try:
        las.load_state_dict({n: w.float() for n, w in weights.items()}, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder / WEIGHTS}: does not fit {DESCRIPTION} "
            f"({str(error).splitlines()[0]})"
        ) from error
    return Model(las.eval(), tokenizer, facts)


def las_config(tree: Mapping[str, Any]) -> LASConfig:
    """Rebuild the settings of a network from what `dataclasses.asdict` made of them.

    Raises:
        KeyError, TypeError, ValueError: they are not such settings.
    """
    return LASConfig(
        listener=ListenerConfig(**tree["listener"]),
        attention=AttentionConfig(**tree["attention"]),
        speller=SpellerConfig(**tree["speller"]),
    )
