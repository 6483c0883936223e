import errno
import os
import pickle
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from asr.errors import CheckpointError
from asr.folders import write_bytes
from asr.tensor_files import (
    Undrawn,
    dequantize_rows,
    quantize_rows,
    read_tensors,
    write_tensors,
)

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7)}
METADATA = {"step": 3, "of": {"cer": 0.5, "best": None}, "name": "Müller\u2028"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.safetensors"


def refuses(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: ") + message):
        read_tensors(path)


# Round trip


def test_tensors_and_facts_come_back(path: Path) -> None:
    write_tensors(path, TENSORS, METADATA)

    tensors, metadata = read_tensors(path)

    assert metadata == METADATA
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3).half(),
        torch.randn(3).bfloat16(),
        torch.randn(3).double(),
        torch.tensor([True, False]),
        torch.tensor([2**62, -1]),
        torch.empty(0, 5),
        torch.tensor(float("nan")),
        torch.randn(4, 3).t(),
        torch.randn(4, 3)[:, 1],
        torch.nn.Parameter(torch.randn(2)),
    ],
    ids=[
        *("half", "bfloat16", "double", "bool", "int", "empty", "nan"),
        *("transposed", "column", "parameter"),
    ],
)
def test_a_tensor_of_any_kind_comes_back(path: Path, tensor: Tensor) -> None:
    write_tensors(path, {"x": tensor}, {})

    found = read_tensors(path)[0]["x"]

    expected = tensor.detach()
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_a_file_without_tensors_holds_its_facts(path: Path) -> None:
    write_tensors(path, {}, METADATA)

    assert read_tensors(path) == ({}, METADATA)


def test_nothing_else_is_left_in_the_folder(path: Path) -> None:
    write_tensors(path, TENSORS, METADATA)
    write_tensors(path, TENSORS, METADATA)

    assert list(path.parent.iterdir()) == [path]


# Writing that fails


def test_a_write_that_fails_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes(path, b"old")
    found_when_it_failed = list[bytes]()

    def full(descriptor: int) -> None:
        found_when_it_failed.append(path.read_bytes())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot be written \(No space left"):
        write_bytes(path, b"new")

    assert found_when_it_failed == [b"old"]  # flushed before it took the old one's name
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_the_new_content_is_on_the_disk_before_it_has_its_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = list[tuple[bytes, bytes]]()

    def flush(descriptor: int) -> None:
        for partial in path.parent.glob(".*.partial"):
            flushed.append((partial.read_bytes(), path.read_bytes()))

    write_bytes(path, b"old")
    monkeypatch.setattr(os, "fsync", flush)
    write_bytes(path, b"new")

    assert flushed == [(b"new", b"old")]
    assert path.read_bytes() == b"new"


def test_a_folder_that_is_a_file_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    path = tmp_path / "folder" / "some.safetensors"

    message = re.escape(f"{path}: cannot be written (Not a directory)")
    with pytest.raises(CheckpointError, match=message):
        write_tensors(path, TENSORS, METADATA)


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "none" / "some.safetensors"

    message = re.escape(f"{path}: cannot be written (No such file or directory)")
    with pytest.raises(CheckpointError, match=message):
        write_tensors(path, TENSORS, METADATA)


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()

    with pytest.raises(CheckpointError, match="taken: cannot be written"):
        write_bytes(tmp_path / "taken", b"new")

    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


# Reading what is not there, damaged, or another's


def test_a_missing_file_is_reported(path: Path) -> None:
    refuses(path, r"cannot be read \([Nn]o such file")


def test_a_folder_cannot_be_read(path: Path) -> None:
    path.mkdir()

    refuses(path, r"cannot be read \(")


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 50, -25, -1])
def test_a_truncated_file_is_damaged(path: Path, length: int) -> None:
    write_tensors(path, TENSORS, METADATA)
    path.write_bytes(path.read_bytes()[:length])

    refuses(path, "is damaged, or was not written by asr")


def test_no_change_of_a_byte_makes_another_error(path: Path) -> None:
    write_tensors(path, TENSORS, METADATA)
    whole = path.read_bytes()
    num_refused = 0

    for place in range(len(whole) - 32):  # 32 bytes of numbers, which may be anything
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            read_tensors(path)
        except CheckpointError:
            num_refused += 1

    assert num_refused > len(whole) // 2


@pytest.mark.parametrize("content", [b"RIFF....WAVEfmt ", b"\xff" * 100, b"{}" * 50])
def test_a_file_of_another_kind_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    refuses(path, "is damaged, or was not written by asr")


@pytest.mark.parametrize(
    "header", [None, {}, {"format": "pt"}, {"facts": "{"}, {"facts": ""}]
)
def test_tensors_of_another_program_are_refused(
    path: Path, header: dict[str, str] | None
) -> None:
    safetensors.torch.save_file(TENSORS, path, header)

    refuses(path, "is damaged, or was not written by asr")


@pytest.mark.parametrize("metadata", ["[]", "3", '"text"', "null"])
def test_facts_that_are_no_table_are_refused(path: Path, metadata: str) -> None:
    safetensors.torch.save_file(TENSORS, path, {"facts": metadata})

    refuses(path, r"was not written by asr \(its metadata is no table\)")


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_reading_executes_nothing(path: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for content in (pickle.dumps(Trap(sprung)), _saved_by_torch(sprung, tmp_path)):
        path.write_bytes(content)

        refuses(path, "is damaged, or was not written by asr")

        assert not sprung.exists()
    torch.load(tmp_path / "torch.pt", weights_only=False)  # the trap does work
    assert sprung.exists()


def _saved_by_torch(folder: Path, tmp_path: Path) -> bytes:
    torch.save({"weights": Trap(folder)}, tmp_path / "torch.pt")
    return (tmp_path / "torch.pt").read_bytes()


# Networks whose weights come from a file


def test_what_comes_from_a_file_is_not_drawn_first() -> None:
    state = torch.get_rng_state()
    with Undrawn():
        for layer in (nn.LSTM(3, 4), nn.Linear(3, 4), nn.Embedding(3, 4)):
            assert all(p.requires_grad for p in layer.parameters())
        assert torch.zeros(2).tolist() == [0.0, 0.0]
        assert (torch.ones(2) + 1).tolist() == [2.0, 2.0]
    assert torch.get_rng_state().equal(state)
    nn.Linear(3, 4)
    assert not torch.get_rng_state().equal(state)


# Matrices as bytes


def test_each_row_becomes_bytes_with_a_scale_of_its_own() -> None:
    weight = torch.tensor([[127.0, -63.6, 0.4], [0.0, 0.25, -0.0625]])

    stored = quantize_rows("w", weight)

    assert stored["w"].tolist() == [[127, -64, 0], [0, 127, -32]]  # 31.75 steps
    assert stored["w"].dtype == torch.int8
    scales = stored["w.scale"]  # 1, and 0.25 / 127 to the 8 bits of bfloat16
    assert scales.dtype == torch.bfloat16
    assert scales.tolist() == [1, pytest.approx(0.25 / 127, rel=2**-8)]
    assert dequantize_rows("w", stored)[0].tolist() == [127, -64, 0]


def of_all_magnitudes() -> Tensor:
    """Rows from 1e-38 to 1e37, and one of zeros."""
    scales = 10.0 ** torch.arange(-38, 38)
    return torch.cat(
        (scales[:, None] * torch.randn(len(scales), 40), torch.zeros(1, 40))
    )


def test_rows_come_back_within_half_a_step() -> None:
    weight = of_all_magnitudes()
    stored = quantize_rows("w", weight)

    found = dequantize_rows("w", stored)

    assert found.dtype == torch.float32
    half_a_step = stored["w.scale"].float()[:, None] / 2
    assert ((found - weight).abs() <= 1.0001 * half_a_step).all()
    assert (found[-1] == 0).all()


def test_rows_that_came_back_become_the_same_bytes_again() -> None:
    stored = quantize_rows("w", of_all_magnitudes())

    again = quantize_rows("w", dequantize_rows("w", stored))

    assert again.keys() == stored.keys()
    for name, tensor in stored.items():
        assert torch.equal(again[name], tensor), name


def test_a_row_with_a_weight_that_is_no_number_comes_back_as_such() -> None:
    weight = torch.ones(3, 4)
    weight[1, 2], weight[2, 2] = float("nan"), float("inf")

    found = dequantize_rows("w", quantize_rows("w", weight))

    assert found.isfinite().all(dim=1).tolist() == [True, False, False]


@pytest.mark.parametrize(
    "change",
    [
        {"w.scale": None},
        {"w.scale": torch.ones(3)},
        {"w.scale": torch.ones(2, 1)},
        {"w.scale": torch.ones(2, dtype=torch.int8)},
        {"w": torch.ones((), dtype=torch.int8)},
        {"w": torch.ones(2, dtype=torch.int8)},
        {"w": torch.ones(2, 3, 4, dtype=torch.int8)},
    ],
    ids=str,
)
def test_rows_without_a_scale_each_are_refused(
    change: dict[str, Tensor | None],
) -> None:
    stored = {**quantize_rows("w", torch.ones(2, 3)), **change}
    kept = {name: tensor for name, tensor in stored.items() if tensor is not None}

    with pytest.raises(ValueError, match="w has no scale for each row"):
        dequantize_rows("w", kept)
