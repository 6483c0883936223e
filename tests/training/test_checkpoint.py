from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.errors import CheckpointError
from asr.tensor_files import read_tensors, write_tensors
from asr.training.checkpoint import (
    Place,
    load_checkpoint,
    read_place,
    save_checkpoint,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    network, average, optimizer = parts()
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, Place(step=3, seconds=1.5), network, average, optimizer, {})
    return path


def parts() -> tuple[torch.nn.Module, dict[str, Tensor], torch.optim.Optimizer]:
    network = torch.nn.Linear(3, 2)
    average = {name: weight.clone() for name, weight in network.state_dict().items()}
    return network, average, torch.optim.AdamW(network.parameters())


def alter(path: Path, place: object = None, **changed: Tensor) -> None:
    tensors, metadata = read_tensors(path)
    if place is not None:
        metadata["place"] = place
    if isinstance(place, Mapping):
        metadata["place"] = {**Place().__dict__, **place}
    names = {name.replace("__", "."): tensor for name, tensor in changed.items()}
    write_tensors(path, {**tensors, **names}, metadata)


def test_the_place_comes_back(path: Path) -> None:
    assert read_place(path) == load_checkpoint(path, *parts()) == Place(3, seconds=1.5)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"epoch": "x"}, "epoch: int was expected, not 'x'"),
        ({"epoch": 1.5}, "epoch: int was expected, not 1.5"),
        ({"seconds": None}, "seconds: float was expected, not None"),
        ({"best_loss": "low"}, "best_loss: float . None was expected"),
        ({"verse": 7}, "Place has no 'verse'"),
        ([1], "a table of Place was expected"),
    ],
)
def test_a_place_of_another_type_is_refused(
    path: Path, place: Any, message: str
) -> None:
    alter(path, place)
    for read in (read_place, lambda path: load_checkpoint(path, *parts())):
        with pytest.raises(CheckpointError, match=rf"is no checkpoint \({message}"):
            read(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "model__bias",
            torch.tensor([1.0, torch.nan]),
            "bias holds a weight that is inf",
        ),
        (
            "average__bias",
            torch.tensor([1.0, 1e30]),
            "bias holds a weight that is above",
        ),
        (
            "optimizer__0__exp_avg",
            torch.full((2, 3), 1e30),
            "holds an impossible number",
        ),
        (
            "optimizer__0__exp_avg",
            torch.full((2, 3), torch.nan),
            "an impossible number",
        ),
        ("optimizer__0__exp_avg_sq", torch.full((2, 3), -1.0), "an impossible number"),
        ("optimizer__0__exp_avg", torch.ones(2, 3).bool(), "an impossible number"),
        ("optimizer__0__exp_avg", torch.ones(3, 2), "of weight 0 has another shape"),
        (
            "optimizer__1__step",
            torch.tensor(1e30),
            "step of weight 1 holds an impossible",
        ),
        (
            "optimizer__1__step",
            torch.tensor(-1.0),
            "step of weight 1 holds an impossible",
        ),
        ("optimizer__9__step", torch.tensor(1.0), "there is no weight 9"),
    ],
)
def test_numbers_that_no_training_goes_on_from_are_refused(
    path: Path, name: str, value: Tensor, message: str
) -> None:
    alter(path, **{name: value})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, *parts())


def test_a_long_training_has_many_updates(path: Path) -> None:
    alter(path, optimizer__0__step=torch.tensor(1e7))
    load_checkpoint(path, *parts())
