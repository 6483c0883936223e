"""Tensors on disk: written whole or not at all, read without executing anything.

A file holds named tensors and, in its header, metadata as JSON. It is written under
another name, flushed to the disk and only then given its own, so that whatever stops
the program leaves the old file or the new one.

The format is safetensors: https://github.com/huggingface/safetensors.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

from asr.errors import CheckpointError
from asr.folders import (
    write_bytes,
)
from asr.foreign import check_file, parse_json

LARGEST_WEIGHT = 65504.0
"""The largest float16: no weight of a network that works is near it."""
_KEY = "facts"
"""Of the metadata in the header; on disk it keeps the name of version 0.1."""
_LEAST_SCALE = 1e-30
"""For rows of zeros; far from the least that bfloat16 holds."""
_DRAWS = (init.uniform_, init.normal_, init.kaiming_uniform_)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write tensors, and metadata that JSON can hold.

    Raises:
        CheckpointError: the disk is full, or the folder may not be written to.
    """
    write_bytes(path, as_bytes(tensors, metadata))


def as_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    """Return what `write_tensors` writes."""
    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        {_KEY: json.dumps(metadata)},
    )


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        CheckpointError: there is no such file, or it is damaged or of another make.
    """
    return _read(path, lambda file: {n: file.get_tensor(n) for n in file.keys()})  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, Any]:
    """Read only the metadata of what `write_tensors` wrote.

    Raises:
        CheckpointError: as `read_tensors`.
    """
    return _read(path, lambda file: {})[1]


def _read(
    path: Path, take: Callable[[Any], dict[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        check_file(path)
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = take(file)
        metadata = parse_json(header[_KEY])
    except OSError as error:
        reason = error.strerror or "no such file"
        raise CheckpointError(f"{path}: cannot be read ({reason})") from error
    except (
        *(safetensors.SafetensorError, KeyError, TypeError, ValueError),
        *(AttributeError, RuntimeError),  # a type of numbers that torch has not
    ) as error:
        raise CheckpointError(
            f"{path}: is damaged, or was not written by asr ({error})"
        ) from error
    if not isinstance(metadata, dict):
        raise CheckpointError(
            f"{path}: was not written by asr (its metadata is no table)"
        )
    return tensors, metadata


def check_weights(weights: Mapping[str, Tensor], most: float = LARGEST_WEIGHT) -> None:
    """Refuse weights that no network works with; those in bytes are what they are.

    Args:
        weights: by their names.
        most: that one may be, in both directions.

    Raises:
        ValueError: one is infinite, no number, or above that.
    """
    for name, weight in weights.items():
        if not weight.is_floating_point() or not weight.numel():
            continue
        low, high = (float(end) for end in weight.aminmax())
        finite = math.isfinite(low) and math.isfinite(high)
        if not (finite and -most <= low and high <= most):
            wrong = f"above {most:g}" if finite else "infinite, or no number"
            raise ValueError(f"{name:.80} holds a weight that is {wrong}")


# Matrices as bytes


def quantize_rows(name: str, weight: Tensor) -> dict[str, Tensor]:
    """Bring each row of a matrix to bytes with a scale of its own.

        w_nd ~ q_nd s_n        s_n = max_d |w_nd| / 127

    The scales are bfloat16: then q_nd s_n is a float32 without rounding, and the rows
    that `dequantize_rows` returns become the same bytes again.

    Args:
        name: of the matrix.
        weight: (N, D).

    Returns:
        The two tensors to write, by their names: (N, D) int8 and (N,) scales.
    """
    scale = (weight.abs().amax(dim=1) / 127).clamp_min(_LEAST_SCALE).bfloat16()
    steps = (weight / scale.float()[:, None]).round().clamp(-127, 127)
    return {name: steps.to(torch.int8), scale_name(name): scale}


def dequantize_rows(name: str, stored: Mapping[str, Tensor]) -> Tensor:
    """Return in float32 the (N, D) matrix that `quantize_rows` brought to bytes.

    Raises:
        ValueError: it has no scale for each row.
    """
    steps, scale = quantized_rows(name, stored)
    return steps.float().mul_(scale.float()[:, None])


def quantized_rows(name: str, stored: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the bytes of such a matrix and its scales, as they are stored.

    Raises:
        ValueError: it has no scale for each row.
    """
    steps, scale = stored[name], stored.get(scale_name(name))
    fits = scale is not None and scale.is_floating_point() and steps.dim() == 2
    if scale is None or not fits or scale.shape != steps.shape[:1]:
        raise ValueError(f"{name} has no scale for each row")
    return steps, scale


def scale_name(name: str) -> str:
    """Return under which name the scales of a matrix are stored."""
    return f"{name}.scale"


class Undrawn(TorchFunctionMode):
    """Leaves new weights undrawn where they will come from a file: that takes time.

    They hold anything, as `torch.empty` does; the state of chance stays as it is. (The
    meta device does the same, but its first use imports a second's worth of torch.)
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, but for those that draw."""
        del types
        given = kwargs or {}
        if function in _DRAWS:
            return given["tensor"]
        return function(*args, **given)
