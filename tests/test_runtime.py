import subprocess
import sys
from typing import Any

import pytest
import torch

from asr.errors import ConfigError
from asr.memory import keep_freed_memory
from asr.runtime import allow_tf32, full_float32, pick_device, pick_precision

CPU = torch.device("cpu")


def test_the_cpu_is_always_there() -> None:
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:0", ""])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not known"):
        pick_device(name)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_named_precision_is_taken(name: str) -> None:
    assert pick_precision(name, CPU) == getattr(torch, name)


@pytest.mark.parametrize("has_amx", [True, False])
@pytest.mark.parametrize("has_bf16", [True, False])
def test_auto_is_what_the_hardware_multiplies_fastest(
    has_amx: bool, has_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)

    expected = torch.bfloat16 if has_amx or has_bf16 else torch.float32
    assert pick_precision("auto", CPU) == expected
    assert pick_precision("auto", torch.device("cuda")) == torch.bfloat16


def test_apples_gpu_has_an_error_of_its_own() -> None:
    with pytest.raises(ConfigError, match="device mps: has no float64"):
        pick_device("mps")


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="precision fp16: is not known"):
        pick_precision("fp16", CPU)


def test_tf32_is_float32_and_for_a_gpu_only() -> None:
    assert pick_precision("tf32", torch.device("cuda")) == torch.float32
    with pytest.raises(ConfigError, match="precision tf32: is for a GPU"):
        pick_precision("tf32", CPU)


@pytest.mark.parametrize(("allowed", "name"), [(True, "tf32"), (False, "ieee")])
def test_products_and_lstms_multiply_alike(allowed: bool, name: str) -> None:
    backends: Any = torch.backends
    allow_tf32(allowed)
    try:
        assert backends.cuda.matmul.fp32_precision == name
        assert backends.cudnn.rnn.fp32_precision == name
        with full_float32():
            assert backends.cuda.matmul.fp32_precision == "ieee"
        assert backends.cuda.matmul.fp32_precision == name
    finally:
        allow_tf32(True)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_taken_again() -> None:
    """Without it each large array costs a page fault for every 4 KiB, each time."""
    script = f"""
import resource, numpy
from asr.memory import keep_freed_memory
if {{keep}}:
    {keep_freed_memory.__name__}()
for _ in range(3):
    [numpy.ones(2**24, numpy.uint8) for _ in range(8)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    [numpy.ones(2**24, numpy.uint8) for _ in range(8)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    kept, returned = (
        int(subprocess.check_output([sys.executable, "-c", script.format(keep=keep)]))
        for keep in (True, False)
    )
    assert kept * 5 < returned
