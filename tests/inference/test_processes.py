import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from asr.data.manifest import Utterance
from asr.errors import ConfigError
from asr.inference.long_audio import BATCH, GPU_SECONDS
from asr.inference.processes import (
    batches,
    number_of_processes,
    recognizer_map,
)
from asr.inference.recognizer import Recognizer

ROOT = Path(__file__).parents[2]


def named(recognizer: Recognizer, number: int) -> str:
    return f"{Path(recognizer.name).name} {recognizer.decoding.beam_size} {number}"


@pytest.mark.parametrize(
    "processes", [1, pytest.param(2, marks=pytest.mark.slow)], ids=str
)
def test_a_function_runs_with_the_recognizer_of_its_process(
    processes: int, model_folder: Path
) -> None:
    load = partial(
        Recognizer.load, model_folder, decoding={"beam_size": 3, "lm_weight": 0}
    )

    with recognizer_map(load, processes) as run:
        first, second = list(run(named, [1, 2, 3])), list(run(named, [4]))

    assert first == ["model 3 1", "model 3 2", "model 3 3"]
    assert second == ["model 3 4"]


def test_the_longest_utterances_come_first() -> None:
    durations = [1.0, 3.0, 2.0] * 9
    utterances = [Utterance(str(i), "a", d, "") for i, d in enumerate(durations)]

    parts = batches(utterances)

    flat = [utterance.duration for part in parts for utterance in part]
    assert flat == sorted(durations, reverse=True)
    assert len(parts) > 1


def test_batches_for_a_gpu_are_measured_in_seconds_with_their_padding() -> None:
    durations = [0.5] * 600 + [30.0] * 60 + [7.0, 900.0]
    utterances = [Utterance(str(i), "a", d, "") for i, d in enumerate(durations)]

    parts = batches(utterances, "cuda")

    flat = [utterance.duration for part in parts for utterance in part]
    assert flat == sorted(durations, reverse=True)
    assert [len(part) for part in parts] == [1, 26, 26, 26, 256, 256, 71]
    padded = [len(part) * part[0].duration for part in parts]
    assert max(padded[1:]) <= GPU_SECONDS
    assert batches(utterances) == batches(utterances, "cpu")
    assert len(batches(utterances)[1]) == BATCH


def test_on_a_gpu_there_is_one_process_unless_more_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)

    assert [number_of_processes(n, "cuda") for n in (None, 3)] == [1, 3]
    assert [number_of_processes(n, "cpu") for n in (None, 3)] == [4, 3]


def test_an_impossible_number_of_processes_is_refused() -> None:
    with pytest.raises(ConfigError, match="processes must be at least 1, not 0"):
        number_of_processes(0)
    assert number_of_processes(3) == 3
    assert number_of_processes(None) >= 1


def killed(recognizer: Recognizer, item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_process_that_is_killed_is_an_error_of_one_line(model_folder: Path) -> None:
    load = partial(Recognizer.load, model_folder, decoding={"lm_weight": 0})

    with (
        pytest.raises(ConfigError, match=r"processes: a worker was killed twice over"),
        recognizer_map(load, 2) as run,
    ):
        list(run(killed, [1, 2]))


@pytest.mark.slow
def test_where_the_main_process_is_killed_none_is_left(
    model_folder: Path, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal\n"
        "from functools import partial\n"
        "from asr.inference.processes import recognizer_map\n"
        "from asr.inference.recognizer import Recognizer\n"
        "def own_id(recognizer, item):\n"
        "    return os.getpid()\n"
        "if __name__ == '__main__':\n"
        f"    load = partial(Recognizer.load, {str(model_folder)!r},\n"
        "                   decoding={'lm_weight': 0})\n"
        "    with recognizer_map(load, 2) as run:\n"
        "        print(*set(run(own_id, range(8))), flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    ended = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    workers = [int(id) for id in ended.stdout.split()]
    deadline = time.monotonic() + 10
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert ended.returncode == -signal.SIGKILL
    assert workers
    assert not any(map(is_running, workers))


def is_running(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.slow
def test_what_stops_one_pool_leaves_another_alone(model_folder: Path) -> None:
    load = partial(
        Recognizer.load, model_folder, decoding={"beam_size": 3, "lm_weight": 0}
    )

    with contextlib.ExitStack() as stack:
        first = contextlib.ExitStack()
        run = first.enter_context(recognizer_map(load, 2))
        list(run(named, [1]))
        other = stack.enter_context(recognizer_map(load, 2))
        list(other(named, [1]))
        with pytest.raises(KeyboardInterrupt), first:
            raise KeyboardInterrupt
        after = list(other(named, [2, 3]))

    assert after == ["model 3 2", "model 3 3"]
