"""Trainings that are killed at random moments, many a minute.

A process that has imported everything forks: what it costs to start Python and torch is
paid once. `python -m tests.faults.killed_trainings FOLDER KILLS SEED` prints what it
found, as JSON.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from asr.config import Config, load_config
from asr.errors import CheckpointError
from asr.model.storage import DESCRIPTION, load_model
from asr.tensor_files import read_metadata
from asr.train import train
from asr.training.checkpoint import CHECKPOINT


class Found(NamedTuple):
    """What came of many kills."""

    killed: int
    """Trainings that were killed at work."""
    ended: int
    """Trainings that came to their end first; the next one began anew."""
    checkpoints: int
    """How often a checkpoint was there after a kill: it was whole each time."""
    models: int
    """How often a model was there after a kill: it was whole each time."""
    steps: int
    """Different updates that checkpoints were of."""


def in_fork(work: Callable[[], None], seconds: float) -> bool:
    """Do work in another process that is killed after so many seconds.

    Returns:
        Whether it was killed; or it had come to its end.
    """
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, f"the training failed: {status}"
            return False
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), f"the training failed: {status}"
    return status != 0


def kill_again_and_again(config: Config, folder: Path, kills: int, seed: int) -> Found:
    """Train, and go on, until there were so many kills; then train to the end.

    Kills come within seven tenths of the time that a whole training takes.

    Args:
        config: of a short training that writes a checkpoint at each update.
        folder: of the runs: `whole`, which nobody kills, and `run-0`, `run-1` …
        kills: how many.
        seed: of the moments.
    """
    rng, killed, ended = random.Random(seed), 0, 0
    train(config, folder / "warm")  # imports what is imported late
    started = time.monotonic()
    train(config, folder / "whole")
    seconds = time.monotonic() - started
    checkpoints, models, steps = 0, 0, set[int]()
    while killed < kills:
        run = folder / f"run-{ended}"
        if not in_fork(lambda: _quietly(config, run), rng.uniform(0, 0.7 * seconds)):  # noqa: B023
            ended += 1
            continue
        killed += 1
        if (run / CHECKPOINT).exists():
            checkpoints += 1
            steps.add(read_metadata(run / CHECKPOINT)["place"]["step"])
        if (run / "model" / DESCRIPTION).exists():
            models += 1
            load_model(run / "model")
    train(config, folder / f"run-{ended}")
    return Found(killed, ended + 1, checkpoints, models, len(steps))


def _quietly(config: Config, folder: Path) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT), 2)
    train(config, folder)


def main() -> None:
    """Do it, without pictures, which cost more than the rest."""
    import asr.train

    asr.train.__dict__["draw_attention"] = lambda path, *_, **__: path.touch()
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    config = load_config(folder / "config.yaml")
    try:
        found = kill_again_and_again(config, folder, kills, seed)
    except CheckpointError as error:
        sys.exit(f"after a kill: {error}")
    print(json.dumps(found._asdict()))


if __name__ == "__main__":
    main()
