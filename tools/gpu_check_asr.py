"""Prove on a GPU what only a GPU can prove, and print one table.

tests      the tests that are marked gpu
gradients  a replayed update against a plain one, gradient by gradient, in shapes of
           training: the largest share by which one differs
lstms      milliseconds of a listener's layer, forward and backward, by precision
steps      training steps beside SpeechBrain's (see `bench_asr`), if it is installed
training   a minute of `asr train`: audio seconds a second

A fault in one part does not stop the others; the exit status says whether there was
one.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
CLASSES = ((400, 60, 96), (1200, 200, 64))
"""Frames, tokens and rows of what is compared."""


class Finding(NamedTuple):
    """One line of the table."""

    what: str
    found: str
    good: bool = True


def check_tests(args: argparse.Namespace) -> Iterator[Finding]:
    """Run the tests that need a GPU."""
    del args
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [str(path) for path in paths if "pytest.mark.gpu" in path.read_text()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *marked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().split("\n")
    if done.returncode:
        print("\n".join(lines[-60:]), flush=True)
    yield Finding("gpu tests", lines[-1].strip("= "), done.returncode == 0)


def check_gradients(args: argparse.Namespace) -> Iterator[Finding]:
    """Compare replayed with plain gradients."""
    del args
    import torch

    from asr.data.batching import Batch
    from asr.data.length_classes import LengthClass
    from asr.model.attention import AttentionConfig
    from asr.model.las import LAS, LASConfig
    from asr.model.listener import ListenerConfig
    from asr.model.speller import SpellerConfig
    from asr.runtime import allow_tf32
    from asr.text import CharTokenizer
    from asr.training.graphs import MOST_DIFFERENT, RecordedStep, replay_difference
    from asr.training.loss import LossConfig

    tokenizer, cuda = CharTokenizer(), torch.device("cuda")
    for kind, precision in (
        *(("location", torch.float32), ("location", torch.bfloat16)),
        *(("additive", torch.bfloat16), ("dot", torch.bfloat16)),
    ):
        for frames, tokens, rows in CLASSES:
            allow_tf32(precision is not torch.float32)
            torch.manual_seed(0)
            config = LASConfig(
                ListenerConfig(512, [2, 2, 1], 0.3),
                AttentionConfig(kind, 96, activation="relu", reach=10),
                SpellerConfig(192, 1, 64, 0.3),
            )
            las = LAS(config, tokenizer.size).to(cuda).train()
            lengths = torch.randint(frames // 2, frames + 1, (rows - 2,))
            counts = torch.randint(tokens // 2, tokens + 1, (rows - 2,))
            batch = Batch(
                [str(row) for row in range(rows - 2)],
                torch.randn(rows, frames, 80, device=cuda),
                torch.cat((lengths, torch.ones(2, dtype=torch.int64))),
                torch.randint(3, tokenizer.size, (rows, tokens)),
                torch.cat((counts, torch.zeros(2, dtype=torch.int64))),
                1.0,
            )
            batch.tokens[rows - 2 :] = 0
            step = RecordedStep(
                *(las, tokenizer, LossConfig(), LengthClass(frames, tokens, rows)),
                *(precision,),
                guided=False,
            )
            difference = replay_difference(step, batch, 0.0)
            spent = _milliseconds(partial(step.run, batch, 0.0))
            yield Finding(
                f"replayed update, {kind}, {str(precision)[6:]}, {rows} x {frames} "
                f"frames, {tokens} tokens",
                f"{100 * difference:.3f} % off; {spent:.1f} ms, "
                f"{rows * frames / 100 / spent * 1000:.0f} audio s/s",
                difference <= MOST_DIFFERENT,
            )


def check_lstms(args: argparse.Namespace) -> Iterator[Finding]:
    """Measure a layer of the listener."""
    del args
    import torch

    from asr.model.lstm import BidirectionalLSTM
    from asr.runtime import allow_tf32

    for rows, steps, width, size in (
        *((64, 600, 160, 512), (64, 600, 256, 512), (64, 300, 2048, 512)),
        *((64, 300, 1024, 512), (128, 300, 1024, 512), (64, 300, 768, 384)),
    ):
        found = []
        for name, dtype, tf32 in (
            *(("float32", torch.float32, False), ("tf32", torch.float32, True)),
            *(("bfloat16", torch.bfloat16, True), ("float16", torch.float16, True)),
        ):
            allow_tf32(tf32)
            layer = BidirectionalLSTM(width, size).cuda().to(dtype)
            x = torch.randn(rows, steps, width, device="cuda", dtype=dtype)
            x.requires_grad_()
            lengths = torch.full((rows,), steps, device="cuda")

            def work(
                layer: BidirectionalLSTM = layer,
                x: torch.Tensor = x,
                lengths: torch.Tensor = lengths,
            ) -> None:
                torch.autograd.backward(layer(x, lengths).sum())

            found.append(f"{name} {_milliseconds(work):.1f}")
        yield Finding(
            f"listener's layer, {rows} x {steps} x {width} to 2 x {size}, ms",
            ", ".join(found),
        )


def _milliseconds(work: Callable[[], object], repetitions: int = 5) -> float:
    """Median of some repetitions by the clock, after two that are not counted."""
    import torch

    found = []
    for _ in range(repetitions + 2):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append(1000 * (time.perf_counter() - started))
    return sorted(found[2:])[repetitions // 2]


def check_steps(args: argparse.Namespace) -> Iterator[Finding]:
    """Measure training steps, beside SpeechBrain's."""
    del args
    words = ["--device", "cuda", "--only", "train"]
    if find_spec("speechbrain"):
        words += ["--peer-python", sys.executable]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "bench.json"
        subprocess.run(
            [sys.executable, "-m", "tools.bench_asr", *words, "--output", str(output)],
            cwd=ROOT,
            check=True,
        )
        results = json.loads(output.read_text())
    for result in results:
        ours = result["ours"]
        said = f"{ours['cpu']:.0f} audio s/s, {ours['mib']:.0f} MiB"
        if "peer" in result:
            peer = result["peer"]
            said += (
                f"; SpeechBrain {peer['cpu']:.0f}, {peer['mib']:.0f} MiB: "
                f"{result['ratio']['median']:.1f} times as fast"
            )
        yield Finding(result["name"], said)


def check_training(args: argparse.Namespace) -> Iterator[Finding]:
    """Train for a minute."""
    if not (args.train and args.dev):
        return
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "data.train": f"[{args.train}]",
            "data.dev": args.dev,
            "training.minutes": 1.0,
            "training.validations": 1,
            "training.dev_utterances": 20,
        }
        config = ROOT / "recipes/librispeech/configs/las_gpu.yaml"
        words = [f"{name}={value}" for name, value in settings.items()]
        subprocess.run(
            [sys.executable, "-m", "asr", "train", str(config), folder, *words],
            cwd=ROOT,
            check=True,
        )
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
        entries = [entry for entry in map(json.loads, lines) if "loss" in entry]
    rates = sorted(entry["audio_per_second"] for entry in entries[len(entries) // 3 :])
    yield Finding(
        "a minute of training",
        f"{rates[len(rates) // 2]:.0f} audio s/s, {entries[-1]['step']} updates, loss "
        f"{entries[0]['loss']:.3f} to {entries[-1]['loss']:.3f}, norm of the gradient "
        f"{entries[-1]['gradient_norm']:.2f}",
    )


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Finding]]] = {
    "tests": check_tests,
    "gradients": check_gradients,
    "lstms": check_lstms,
    "steps": check_steps,
    "training": check_training,
}


def main() -> None:
    """Read the command line, check, and print the table."""
    parser = argparse.ArgumentParser(prog="tools/gpu_check", description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas")
    parser.add_argument("--train", help="manifest to train on for a minute")
    parser.add_argument("--dev", help="manifest to validate on")
    args = parser.parse_args()
    chosen = args.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        sys.exit(
            f"gpu_check: {min(unknown)} is no part (take some of {','.join(PARTS)})"
        )
    from asr.runtime import pick_device

    pick_device("cuda")
    import torch

    print(f"| {torch.cuda.get_device_name()}, torch {torch.__version__} | | |")
    print("|---|---|---|")
    good = True
    for name in chosen:
        try:
            for finding in PARTS[name](args):
                good &= finding.good
                verdict = "" if finding.good else "WRONG"
                print(f"| {finding.what} | {finding.found} | {verdict} |", flush=True)
        except Exception as error:
            good = False
            print(f"| {name} | {type(error).__name__}: {error} | FAILED |", flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    from asr.cli.scripts import run_main

    sys.exit(run_main("gpu_check", main))
