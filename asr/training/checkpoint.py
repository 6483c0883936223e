"""Checkpoints: all that a training needs to go on exactly where it was.

One file holds the weights, their average, and the optimiser's moments; its header the
place in the data, the time spent and the run's settings. Chance needs no place: all of
it is drawn anew from (seed, update) or (seed, epoch, utterance).
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.errors import CheckpointError
from asr.foreign import settings_of
from asr.tensor_files import (
    check_weights,
    read_metadata,
    read_tensors,
    write_tensors,
)

CHECKPOINT = "checkpoint.safetensors"
"""In the folder of a run."""
_LARGEST_MOMENT = 1e9
"""Of a gradient, which is clipped, and of its square; and of a count of updates."""


@dataclass
class Place:
    """Where a training is."""

    step: int = 0
    """Updates tried."""
    updates: int = 0
    """Updates done: those tried whose loss and gradient were finite."""
    epoch: int = 0
    position: int = 0
    """Batches of the epoch that were used."""
    num_batches: int = 0
    """Batches of the epoch; 0 where an older checkpoint does not know."""
    seconds: float = 0.0
    """Time spent in updates."""
    validations: int = 0
    """Validations done."""
    best_loss: float | None = None
    """The lowest of the validations so far; None before the first."""
    bad_steps: int = 0
    """Updates in a row that were not finite."""


def save_checkpoint(
    path: Path,
    place: Place,
    model: torch.nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    config: dict[str, Any],
) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        for name, value in moments.items():
            tensors[f"optimizer.{index}.{name}"] = value
    write_tensors(path, tensors, {"place": asdict(place), "config": config})


def load_checkpoint(
    path: Path,
    model: torch.nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> Place:
    """Read a checkpoint into model, average and optimiser; return where it was.

    Raises:
        CheckpointError: it is missing, damaged, or of another network.
    """
    place, tensors = read_place(path), read_tensors(path)[0]
    try:
        check_weights(_part(tensors, "model."))
        check_weights(_part(tensors, "average."))
        model.load_state_dict(_part(tensors, "model."))
        for name, value in _part(tensors, "average.").items():
            average[name].copy_(value)
        _load_optimizer(optimizer, _part(tensors, "optimizer."))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: is of another network ({reason})") from error
    return place


def read_place(path: Path) -> Place:
    """Read only where a training was.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    try:
        return settings_of(Place, read_metadata(path)["place"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: is no checkpoint ({error})") from error


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _load_optimizer(
    optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]
) -> None:
    state = dict[int, dict[str, Tensor]]()
    for key, value in moments.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
        _check_moment(optimizer, int(index), name, value)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _check_moment(
    optimizer: torch.optim.Optimizer, index: int, name: str, value: Tensor
) -> None:
    """Refuse a moment that no update can begin with; torch would notice there.

    Raises:
        ValueError: it is of another weight, or impossible.
    """
    weights = [w for group in optimizer.param_groups for w in group["params"]]
    if not 0 <= index < len(weights):
        raise ValueError(f"there is no weight {index}")
    is_count = name == "step"  # updates so far; a weight may be one number, too
    if not is_count and value.shape != weights[index].shape:
        raise ValueError(f"{name} of weight {index} has another shape")
    positive = is_count or name.endswith("_sq")
    low, high = (float(end) for end in value.aminmax())
    least, most = 0.0 if positive else -_LARGEST_MOMENT, _LARGEST_MOMENT
    if not (value.is_floating_point() and least <= low and high <= most):
        raise ValueError(f"{name} of weight {index} holds an impossible number")
