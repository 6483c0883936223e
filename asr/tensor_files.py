"""Tensors on disk: written whole or not at all, read without executing anything.

A file holds named tensors and, in its header, facts as JSON. It is written under
another name, flushed to the disk and only then given its own, so that whatever stops
the program leaves the old file or the new one.

The format is safetensors: https://github.com/huggingface/safetensors.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from asr.errors import CheckpointError

_FACTS = "facts"


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Write tensors, and facts that JSON can hold.

    Raises:
        CheckpointError: the disk is full, or the folder may not be written to.
    """
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        {_FACTS: json.dumps(facts)},
    )
    write_bytes(path, content)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file by another one, whole or not at all.

    Raises:
        CheckpointError: the disk is full, or the folder may not be written to.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):  # it may be the folder that is at fault
            partial.unlink()
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror})"
        ) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        CheckpointError: there is no such file, or it is damaged or of another make.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = json.loads(header[_FACTS])
    except OSError as error:
        reason = error.strerror or "no such file"
        raise CheckpointError(f"{path}: cannot be read ({reason})") from error
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: is damaged, or was not written by asr ({error})"
        ) from error
    if not isinstance(facts, dict):
        raise CheckpointError(
            f"{path}: was not written by asr (its facts are no table)"
        )
    return tensors, facts
