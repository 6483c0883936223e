import json
import os
import shutil
import signal
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from asr.config import Config, to_yaml
from asr.errors import AudioError, CheckpointError, ConfigError, TrainingError
from asr.memory import end_process
from asr.train import train
from asr.training import distributed
from asr.training.distributed import (
    Team,
    errors_for_torchrun,
    join_team,
    leave_team,
    started_by_torchrun,
    torchrun_team,
)
from tests.training.test_trainer import (
    ROOT,
    assert_same_run,
    draw_nothing,
    metrics,
    saving,
    settings,
    write_corpus,
)

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, "train", ["GO", "ON", "DO IT", "I", "SAW", "US", "AT", "TEA"])
    write_corpus(folder, "dev", ["GO AT", "SEE", "IT"])
    return folder


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr.train.draw_attention", draw_nothing)
    monkeypatch.setattr(distributed, "_SECONDS_FOR_THE_FIRST", 0.0)
    monkeypatch.setattr(distributed, "_SECONDS_FOR_THE_CAUSE", 0.0)


def torchrun(
    config: Config, folder: Path, *options: str, site: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Train in two processes that torchrun starts.

    Args:
        config: of the training.
        folder: of the run.
        options: of torchrun.
        site: a `sitecustomize` that each process runs first.
        environment: of all.
    """
    path, customized = folder.with_suffix(".yaml"), folder.with_suffix(".site")
    path.write_text(to_yaml(config))
    customized.mkdir(exist_ok=True)
    (customized / "sitecustomize.py").write_text(site)
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", *options),
            *("-m", "asr", "train", str(path), str(folder)),
        ],
        cwd=ROOT,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{customized}{os.pathsep}{ROOT}"}
        | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def in_environment(monkeypatch: pytest.MonkeyPatch, **variables: object) -> None:
    """Set what torchrun sets."""
    usual: dict[str, object] = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
    usual |= {"MASTER_ADDR": "localhost", "MASTER_PORT": 29500}
    for name, value in (usual | variables).items():
        monkeypatch.setenv(name, str(value))


# Two processes that torchrun has started


@slow
def test_torchrun_gives_the_run_of_as_many_local_processes(
    corpus: Path, tmp_path: Path
) -> None:
    local, ours = tmp_path / "local", tmp_path / "torchrun"
    train(settings(corpus, processes=2), local)

    done = torchrun(settings(corpus), ours)

    assert done.returncode == 0, done.stderr
    assert_same_run(ours, local)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, "of the validations, and of one process only"


DIES_ONCE = """
import os, signal
from pathlib import Path
from asr.training.distributed import Team

sum_gradients, updates, flag = Team.sum_gradients, 0, Path(os.environ["FLAG"])

def sum_or_die(team, parameters):
    global updates
    updates += 1
    if team.rank == 1 and updates == 7 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    sum_gradients(team, parameters)

Team.sum_gradients = sum_or_die
"""


@slow
def test_a_process_that_is_killed_comes_back_and_the_run_is_the_same(
    corpus: Path, tmp_path: Path
) -> None:
    local, ours = tmp_path / "local", tmp_path / "torchrun"
    flag = tmp_path / "flag"
    train(settings(corpus, processes=2, batch_size=1), local)

    done = torchrun(
        saving(corpus, batch_size=1),
        ours,
        *("--max-restarts", "1"),
        site=DIES_ONCE,
        FLAG=str(flag),
    )

    assert done.returncode == 0, done.stderr
    assert flag.exists()
    assert f"exitcode: {-signal.SIGKILL}" in done.stderr
    assert_same_run(ours, local)


@slow
def test_the_error_of_one_process_ends_all_with_one_line(
    corpus: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(corpus, tmp_path / "corpus")
    folder = tmp_path / "run"
    train(settings(moved, batch_size=1, epochs=1), folder)
    (moved / "train-5.wav").unlink()

    done = torchrun(settings(moved, batch_size=1, epochs=50), folder)

    assert done.returncode == 1
    message = f"{moved}/train-5.wav: cannot be read (No such file or directory)"
    lines = [line for line in done.stderr.splitlines() if line.startswith("asr:")]
    assert lines == [f"asr: {message}"]
    assert f"traceback : {message}" in done.stderr, "torchrun has it, too"


def _work(rank: int, meeting_point: str, answers: Any) -> None:
    team = join_team(rank, 2, meeting_point)
    number = torch.tensor(float(rank + 1))
    answers.put(
        (
            rank,
            team.share(f"of {rank}"),
            team.gather([rank]),
            float(team.sum(number)),
        )
    )
    leave_team(team)
    end_process(0)


@slow
def test_what_processes_hand_each_other_arrives(tmp_path: Path) -> None:
    context = get_context("spawn")
    answers = context.SimpleQueue()
    point = str(tmp_path / "point")
    team = [context.Process(target=_work, args=(r, point, answers)) for r in (0, 1)]

    for process in team:
        process.start()
    for process in team:
        process.join()

    found = sorted(answers.get() for _ in team)
    assert found == [(r, "of 0", [[0], [1]], 3.0) for r in (0, 1)]


def _sum_on_both(rank: int, meeting_point: str, answers: Any) -> None:
    join_team(rank, 1, meeting_point)
    sums = [torch.ones(2), torch.ones(2, device="cuda")]
    for values in sums:
        torch.distributed.all_reduce(values)
    answers.put([values.tolist() for values in sums])
    end_process(0)


@pytest.mark.gpu
def test_tensors_on_the_cpu_and_on_a_gpu_are_added_up(tmp_path: Path) -> None:
    context = get_context("spawn")
    answers = context.SimpleQueue()
    point = str(tmp_path / "point")
    process = context.Process(target=_sum_on_both, args=(0, point, answers))

    process.start()
    process.join()

    assert process.exitcode == 0
    assert answers.get() == [[1.0, 1.0], [1.0, 1.0]]


# What is read from the environment


def test_without_torchrun_the_environment_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert not started_by_torchrun()
    monkeypatch.setenv("RANK", "0")
    assert started_by_torchrun()


def test_one_process_of_torchrun_is_a_team_of_one(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(settings(corpus, epochs=1), tmp_path / "alone")
    in_environment(monkeypatch)

    train(settings(corpus, epochs=1), tmp_path / "torchrun")

    assert_same_run(tmp_path / "torchrun", tmp_path / "alone")


def test_another_number_of_processes_than_that_of_torchrun_is_refused(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_environment(monkeypatch, WORLD_SIZE=16)

    message = r"^training\.processes: is 3 and torchrun has started 16 \(leave it at 1"
    with pytest.raises(ConfigError, match=message):
        train(settings(corpus, processes=3), tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_half_of_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    in_environment(monkeypatch)
    monkeypatch.delenv("MASTER_ADDR")

    message = r"^RANK is set, MASTER_ADDR is not \(start by torchrun, or unset RANK\)$"
    with pytest.raises(ConfigError, match=message), torchrun_team(1):
        pass


def test_a_rank_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    in_environment(monkeypatch, LOCAL_RANK="first")

    message = r"^RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE must be.*'first'\)$"
    with pytest.raises(ConfigError, match=message), torchrun_team(1):
        pass


def test_a_process_without_a_gpu_of_its_own_is_refused() -> None:
    count = torch.cuda.device_count()
    team = Team(rank=8 + count, size=64, local_rank=count)

    message = rf"^process {count + 1} of this machine has no GPU of its own \(there are"
    with pytest.raises(ConfigError, match=message):
        team.device(torch.device("cuda"))


def test_the_device_of_one_process_and_the_cpu_stay_what_they_are() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert Team(rank=9, size=16, local_rank=1).device(cpu) == cpu
    assert Team().device(gpu) == gpu


@pytest.mark.gpu
def test_the_gpu_is_that_of_the_local_rank() -> None:
    team = Team(rank=8, size=16, local_rank=0)
    assert team.device(torch.device("cuda")) == torch.device("cuda", 0)


# What becomes of errors


def test_an_error_is_written_where_torchrun_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "error.json"
    in_environment(monkeypatch, RANK=3, TORCHELASTIC_ERROR_FILE=path)

    with pytest.raises(AudioError), errors_for_torchrun():
        raise AudioError("a.wav: is\nempty")

    message = json.loads(path.read_text())["message"]
    assert message["message"] == r"a.wav: is\nempty"
    assert int(message["extraInfo"]["timestamp"]) > 0


def test_without_torchrun_an_error_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))

    with pytest.raises(AudioError), errors_for_torchrun():
        raise AudioError("a.wav: is empty")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("rank", "waits"), [(0, []), (3, [2.0])])
def test_the_first_process_reports_what_all_have_to_report(
    monkeypatch: pytest.MonkeyPatch, rank: int, waits: list[float]
) -> None:
    in_environment(monkeypatch, RANK=rank)
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    monkeypatch.setattr(distributed, "_SECONDS_FOR_THE_FIRST", 2.0)
    waited = list[float]()
    monkeypatch.setattr("time.sleep", waited.append)

    with pytest.raises(AudioError), errors_for_torchrun():
        raise AudioError("a.wav: is empty")

    assert waited == waits


def test_a_process_that_lost_another_reports_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def all_reduce(values: torch.Tensor) -> None:
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1234")

    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)

    message = r"^process 1 of 2 lost another one, .+ \(Connection closed by peer .+\)$"
    with pytest.raises(TrainingError, match=message):
        Team(1, 2).sum(torch.zeros(1))


def test_another_folder_on_another_machine_is_refused(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Team, "share", lambda team, item: 7)

    with pytest.raises(CheckpointError, match=r"run: is another folder here than wh"):
        train(settings(corpus), tmp_path / "run")

    assert not metrics_of(tmp_path / "run")


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return metrics(folder) if (folder / "metrics.jsonl").exists() else []
