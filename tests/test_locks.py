import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname
from typing import NoReturn

import pytest

from asr.errors import InUseError
from asr.locks import locked

ROOT = Path(__file__).parents[1]


@contextmanager
def another(folder: Path, *, first: str = "") -> Iterator[int]:
    """Have another process lock a folder; it ends with the block at the latest."""
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from asr.locks import locked\n"
        "with locked(Path(sys.argv[1]), 'asr train'):\n"
        "    process = os.getpid()\n"
        f"    {first}\n"
        "    print(process, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        yield int(process.stdout.readline())
        process.kill()


def test_a_folder_in_use_is_refused_with_who_uses_it_and_since_when(
    tmp_path: Path,
) -> None:
    with (
        another(tmp_path) as process,
        pytest.raises(
            InUseError,
            match=rf"{tmp_path}: is in use by process {process} on host "
            rf"{gethostname()} since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d \(asr train; "
            r"wait for it, or name another\)",
        ),
        locked(tmp_path, "asr decode"),
    ):
        pass


def test_a_lock_ends_with_its_block_and_leaves_no_file(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path, "asr train"):
            assert [path.name for path in tmp_path.iterdir()] == [".lock"]
            with (
                pytest.raises(InUseError, match=f"by process {os.getpid()} "),
                locked(tmp_path, "asr train"),
            ):
                pass
        assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_no_lock(tmp_path: Path) -> None:
    with another(tmp_path) as process:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)

    assert (tmp_path / ".lock").exists()
    with locked(tmp_path, "asr train"):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_killed_process_leaves_no_lock_to_those_that_it_forked(
    tmp_path: Path,
) -> None:
    first = "os.fork() and sys.stdin.read()"  # the forked one prints

    with another(tmp_path, first=first) as process:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        with locked(tmp_path, "asr train"):  # the forked one still runs
            pass


def test_a_forked_process_does_not_end_the_lock_of_its_parent(tmp_path: Path) -> None:
    with locked(tmp_path, "asr train"):
        if not (child := os.fork()):
            os._exit(0)
        os.waitpid(child, 0)
        with another_is_refused(tmp_path):
            pass


@contextmanager
def another_is_refused(folder: Path) -> Iterator[None]:
    with (
        pytest.raises(ValueError, match="invalid literal"),  # it prints no number
        another(folder),
    ):
        pass
    yield


def test_a_file_has_a_lock_of_its_own(tmp_path: Path) -> None:
    with locked(tmp_path / "0-of-2.jsonl", "asr decode"):
        with locked(tmp_path / "1-of-2.jsonl", "asr decode"):
            pass
        with (
            pytest.raises(InUseError, match=r"0-of-2\.jsonl: is in use by process"),
            locked(tmp_path / "0-of-2.jsonl", "asr decode"),
        ):
            pass


def test_a_lock_whose_file_was_deleted_meanwhile_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, calls = fcntl.flock, list[int]()

    def late(file: int, operation: int) -> None:
        calls.append(operation)
        if len(calls) == 1:  # as the process that had it does at its end
            (tmp_path / ".lock").unlink()
        flock(file, operation)

    monkeypatch.setattr("fcntl.flock", late)
    with locked(tmp_path, "asr train"):
        assert (tmp_path / ".lock").exists()

    assert len(calls) == 2


def no_locks(file: object, operation: int) -> NoReturn:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.fixture
def _without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", no_locks)


@pytest.mark.usefixtures("_without_locks")
def test_a_file_system_without_locks_is_remarked_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path, "asr train"):
        pass

    assert capsys.readouterr().err == (
        f"asr: {tmp_path}: its file system has no locks (No locks available): let no "
        "other machine write to it\n"
    )


@pytest.mark.usefixtures("_without_locks")
def test_without_locks_a_process_that_runs_is_recognised(tmp_path: Path) -> None:
    with another(tmp_path) as process:
        advice = rf"\(asr train; wait for it; delete {tmp_path / '.lock'} if it has"
        with (
            pytest.raises(InUseError, match=f"by process {process} .*{advice}"),
            locked(tmp_path, "asr train"),
        ):
            pass
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)

        with locked(tmp_path, "asr train"):
            pass


@pytest.mark.usefixtures("_without_locks")
@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({}, True),
        ({"started": "1"}, False),  # another process has the number now
        ({"host": "elsewhere"}, True),
        ({"pid": -1}, False),
        ({"pid": 10**400}, False),
        ({"host": "a\nb"}, False),
        ({"more": 1}, False),
    ],
)
def test_without_locks_what_stands_in_the_file_decides(
    change: dict[str, object], refused: bool, tmp_path: Path
) -> None:
    with locked(tmp_path, "asr train"):
        holder = json.loads((tmp_path / ".lock").read_text())
    (tmp_path / ".lock").write_text(json.dumps({**holder, **change}))

    if refused:
        with pytest.raises(InUseError, match="is in use"), locked(tmp_path, "x"):
            pass
    else:
        with locked(tmp_path, "asr train"):
            pass


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 4096, b"[]"])
def test_a_lock_whose_holder_cannot_be_read_is_one_all_the_same(
    content: bytes, tmp_path: Path
) -> None:
    with another(tmp_path):
        (tmp_path / ".lock").write_bytes(content)
        with (
            pytest.raises(InUseError, match=r"is in use by another \(wait for it"),
            locked(tmp_path, "asr train"),
        ):
            pass


def test_a_lock_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(InUseError, match=r"none/\.run\.lock: cannot be written \(No su"),
        locked(tmp_path / "none" / "run", "asr train"),
    ):
        pass


def test_a_lock_on_a_full_disk_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("json.dumps", full)
    with (
        pytest.raises(InUseError, match=r"\.lock: cannot be written \(No space left"),
        locked(tmp_path, "asr train"),
    ):
        pass
    assert not list(tmp_path.iterdir())
