"""Commands that are killed at a moment or a point, and what is left of them.

A command is started with a mark in its environment, which all processes that come of
it have, too: `Command.processes` finds them wherever they are.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
"""Seconds after which a test gives up; a busy machine is slow."""
_MARK = "ASR_TEST_MARK"


class Command:
    """A command that runs, and all processes that came of it."""

    def __init__(self, process: "subprocess.Popen[str]", mark: str) -> None:
        self.process, self._mark = process, f"{_MARK}={mark}".encode()

    def processes(self) -> list[int]:
        """Return the processes of the command that run."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and self._mark in _environment(entry):
                found.append(int(entry.name))
        return [pid for pid in found if is_alive(pid)]

    def workers(self) -> list[int]:
        """Return its workers: forked by a process that multiprocessing has spawned."""
        spawned = [pid for pid in self.processes() if b"spawn_main" in _words(pid)]
        return [pid for pid in spawned if _parent(pid) in spawned]

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send it a signal, to itself alone; return its status and what it printed."""
        self.process.send_signal(number)
        printed = self.process.communicate(timeout=PATIENCE)[0]
        return self.process.returncode, printed

    def wait_for_nobody(self) -> None:
        """Wait until none of its processes runs."""
        wait_until(lambda: not self.processes(), "no process is left")


@contextmanager
def started(arguments: Sequence[str | Path], **variables: str) -> Iterator[Command]:
    """Start a command of Python; whatever is left of it ends with the block.

    Args:
        arguments: behind `python`.
        variables: further ones of its environment.
    """
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), _MARK: mark, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    command = Command(process, mark)
    try:
        yield command
    finally:
        for pid in command.processes():
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that only waits to be reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def wait_until(reached: Callable[[], object], what: str = "it is reached") -> None:
    """Wait for a state.

    Args:
        reached: whether it is there.
        what: the state, for the message when it does not come.
    """
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


def _environment(entry: Path) -> bytes:
    try:
        return (entry / "environ").read_bytes()
    except OSError:  # it has ended, or is another user's
        return b""


def _parent(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0
    return int(status.rpartition(")")[2].split()[1])


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
