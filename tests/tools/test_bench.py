import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tools.bench_asr import PARTS, measure_loader, measure_search, measure_train

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ROOT = Path(__file__).parents[2]


def bench(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tools.bench_asr", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_table_and_json_are_written(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"

    done = bench("--only", "features", "--repetitions", "1", "--output", str(path))

    assert done.returncode == 0, done.stderr
    assert "| log-mel of an hour of audio |" in done.stdout
    (result,) = json.loads(path.read_text())
    assert result["part"] == "features"
    assert 0 < result["ours"]["cpu"] < 3600
    assert result["ours"]["mib"] > 10


def test_a_part_that_is_not_known_is_refused() -> None:
    done = bench("--only", "trains")

    assert done.returncode != 0
    assert done.stderr == (
        f"bench: trains is no part (take some of {','.join(PARTS)})\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "features"], "--only: there is nothing of that here (but "),
    ],
)
def test_what_is_not_measured_on_a_device_is_refused(
    words: list[str], message: str
) -> None:
    done = bench("--device", "cpu", *words)

    assert done.returncode != 0
    assert done.stderr.startswith(f"bench: {message}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    done = bench("--device", "cuda")

    assert done.returncode != 0
    assert done.stderr == (
        "bench: device cuda: torch finds no GPU here (use cpu or auto)\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_training_and_search_can_be_measured_on_a_device(device: str) -> None:
    for figures in (
        measure_train("S", "location", "float32", 1, batch=1, device=device),
        measure_train("S", "location", "float32", 1, 1, device, recorded=True),
        measure_search("S", 1, "float32", 1, "location", device),
    ):
        assert 0 < figures["cpu"] < 1e6


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_step_can_be_measured(precision: str) -> None:
    assert measure_train("S", "location", precision, 1, batch=1)["cpu"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_search_can_be_measured(precision: str) -> None:
    figures = measure_search("S", 1, precision, 1)
    assert figures["cpu"] > 0
    assert figures["listen"] > 0


@pytest.mark.slow
def test_the_loader_can_be_measured(tmp_path: Path) -> None:
    from recipes.toy.make import make

    make(tmp_path)
    manifest = next(tmp_path.rglob("*.jsonl"))

    figures = measure_loader(str(manifest), True, 1)

    assert figures["cpu"] > 0
    assert figures["first"] > 0
    assert 0 <= figures["padding_share"] < 0.5
