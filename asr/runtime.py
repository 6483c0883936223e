"""Where a network runs, and how the machine is made use of."""

import atexit
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

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


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """Turn the name of a precision into how matrices are multiplied in training.

    tf32 is float32 that a GPU multiplies with fewer bits (see `allow_tf32`). auto is
    bfloat16 where the hardware multiplies it several times as fast: on a GPU,
    and on a CPU with AMX (Intel Xeon from 2023 on).

    Raises:
        ConfigError: there is no such precision.
    """
    if name == "auto":
        fast = device.type == "cuda" or torch.cpu._is_amx_tile_supported()
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


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors of up to 32 MiB for others.

    glibc hands all but small ones back to the system, which blanks them again page by
    page: up to a sixth of a training step on a CPU. Kept, larger ones would leave holes
    of gigabytes. Other C libraries have no such setting.
    """
    trim_threshold, mmap_threshold, most = -1, -3, 2**25
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, most)
        libc.mallopt(trim_threshold, 2**31 - 1)


def return_freed_memory() -> None:
    """Hand freed memory back to the system, even after `keep_freed_memory`."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


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


def end_process(status: int) -> NoReturn:
    """End this process without Python's taking torch to pieces: 0.3 s and 120 MB.

    A process of a team ends so, too: a thread of gloo frees the last tensor when it
    comes to it, and where Python is being taken to pieces by then, it aborts the
    process.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream:  # a closed one is None
            stream.flush()
    os._exit(status)
