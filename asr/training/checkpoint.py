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
from asr.tensor_files import read_tensors, write_tensors


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
    tensors, metadata = read_tensors(path)
    try:
        place = Place(**metadata["place"])
        model.load_state_dict(_part(tensors, "model."))
        for name, value in _part(tensors, "average.").items():
            average[name].copy_(value)
        _load_optimizer(optimizer, _part(tensors, "optimizer."))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: is of another network ({reason})") from error
    return place


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
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
