"""Compile all kernels of the fused loop in sizes of trainings, without a GPU.

Prints a line a kernel: name, registers, bytes of spilled registers, bytes of shared
memory, programs. Run as `python -m tests.model.compile_fused_kernels`, by hand or by
`test_fused_steps`, in a process in which Triton does not interpret.

The loop itself runs, on the CPU, with a driver that only names the GPU: what launches
would compile is compiled, and nothing is launched. What comes out of it is nonsense.
"""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from asr.model.attention import AttentionConfig
from asr.model.fused_steps import choose_fused
from asr.model.speller import Speller, SpellerConfig

# Attention, listener size, listener steps, utterances, speller
CASES = [
    (AttentionConfig("location", 160, "relu"), 768, 300, 32, SpellerConfig(384)),
    (AttentionConfig("location", 256, "tanh"), 1024, 450, 32, SpellerConfig(512)),
    (
        AttentionConfig("location", 96, "tanh", reach=10),
        768,
        101,
        33,
        SpellerConfig(192, layers=2),
    ),
    (AttentionConfig("additive", 160, "tanh"), 768, 300, 32, SpellerConfig(384)),
    (AttentionConfig("dot", 256), 768, 300, 32, SpellerConfig(384)),
    (AttentionConfig("dot", 256, heads=4), 768, 300, 32, SpellerConfig(384)),
]


class Named:
    """A driver of a GPU that is not there: an H100 or H200."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def run_case(
    attention: AttentionConfig,
    listener_size: int,
    steps: int,
    batch: int,
    config: SpellerConfig,
) -> None:
    """Go forward and back through two characters."""
    speller = Speller(config, attention, listener_size, vocab_size=5)
    h = torch.randn(batch, steps, listener_size)
    memory = speller.attention.precompute(h, torch.full((batch,), steps))
    with choose_fused(True):
        spelling = speller.spell(memory, torch.zeros(batch, 2, dtype=torch.int64))
    torch.autograd.backward(spelling.logits.sum() + spelling.weights.sum())


def report(kernel: Any, name: str, grid: tuple[int, ...]) -> None:
    """Print what a compiled kernel needs."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(kernel.asm["cubin"])
        usage = subprocess.run(
            [tool, "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    registers, stack = re.findall(r"(?:REG|STACK):(\d+)", usage)
    print(name, registers, stack, kernel.metadata.shared, *grid, flush=True)


def main() -> None:
    """Compile all, each once."""
    driver.set_active(Named())
    run, seen = JITFunction.run, set[str]()

    def compile_only(
        self: Any, *args: Any, grid: Any, warmup: bool, **more: Any
    ) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **more)
        if kernel.hash not in seen:
            seen.add(kernel.hash)
            report(kernel, self.fn.__name__, grid)
        return kernel

    JITFunction.run = compile_only
    for case in CASES:
        run_case(*case)


if __name__ == "__main__":
    main()
