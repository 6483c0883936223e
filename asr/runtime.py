"""Where a network runs, and how the machine is made use of."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from asr.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """Turn auto, cpu or cuda into a device.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: torch finds no GPU here (use cpu or auto)")
    if name == "mps":
        raise ConfigError("device mps: has no float64, which CTC needs (use cpu)")
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"device {name}: is not known (use cpu, cuda or auto)")
    return torch.device(name)


def cpu_multiplies_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 faster than float32.

    It does with AMX (Intel Xeon from 2023 on) or AVX512_BF16 (AMD EPYC from 2022 on).
    """
    cpu = torch.cpu
    return bool(cpu._is_amx_tile_supported() or cpu._is_avx512_bf16_supported())


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """Turn the name of a precision into how matrices are multiplied in training.

    tf32 is float32 that a GPU multiplies with fewer bits (see `allow_tf32`). auto is
    bfloat16 where the hardware multiplies it faster: on a GPU, and on some CPUs.

    Raises:
        ConfigError: there is no such precision.
    """
    if name == "auto":
        fast = device.type == "cuda" or cpu_multiplies_bfloat16()
        return torch.bfloat16 if fast else torch.float32
    if name == "tf32" and device.type != "cuda":
        raise ConfigError("precision tf32: is for a GPU (use auto or float32)")
    if name not in ("float32", "tf32", "bfloat16"):
        raise ConfigError(
            f"precision {name}: is not known (use auto, float32, tf32 or bfloat16)"
        )
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def allow_tf32(allowed: bool) -> None:
    """Let a GPU multiply float32 numbers with 10 bits of their fraction, or with all.

    TF32 is several times as fast. It is torch's default for LSTMs and not for
    products of matrices; here both are alike.
    """
    backends: Any = torch.backends  # its stubs know no precision
    for part in (backends.cuda.matmul, backends.cudnn.rnn, backends.cudnn.conv):
        part.fp32_precision = "tf32" if allowed else "ieee"


@contextmanager
def full_float32() -> Iterator[None]:
    """Multiply with all bits of float32 on a GPU for a while."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def send(values: Tensor, device: torch.device) -> Tensor:
    """Bring a tensor from the CPU to a device without waiting for what runs there."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def use_one_thread() -> None:
    """Let each of this process's operations run on one CPU core.

    The small steps of a search gain next to nothing from a second core, and where that
    has other work, each of them waits for it: a transcription of 2 s then takes 15.
    """
    torch.set_num_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let the operations of a block run on one CPU core; see `use_one_thread`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
