"""A model on disk: a folder that holds all that transcription needs.

model.safetensors    the weights, and the mean and deviation of the features
model.json           format, settings of the network, tokenizer, and where it is from
"""

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

FORMAT = 1
"""Raised when a model of an older format could no longer be read."""
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


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
        "format": FORMAT,
        "las": asdict(las.config),
        "tokenizer": tokenizer.to_dict(),
        "facts": dict(facts),
    }
    text = json.dumps(description, indent=2) + "\n"
    write_bytes(folder / DESCRIPTION, text.encode())


def load_model(folder: Path) -> Model:
    """Read a model folder; the network comes in evaluation mode, in float32.

    Raises:
        CheckpointError: a part is missing, damaged, or of another format.
    """
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if description["format"] != FORMAT:
            raise CheckpointError(
                f"{path}: is a model of format {description['format']}, "
                f"this version reads format {FORMAT}"
            )
        config = las_config(description["las"])
        tokenizer = CharTokenizer.from_dict(description["tokenizer"])
        facts = dict(description["facts"])
        las = LAS(config, tokenizer.size)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: holds no model ({DESCRIPTION} cannot be read: {error.strerror})"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: does not describe a model ({error})") from error
    weights, _ = read_tensors(folder / WEIGHTS)
    try:
        las.load_state_dict({name: w.float() for name, w in weights.items()})
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
