import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asr.errors import CheckpointError
from asr.file_sets import (
    changing,
    check_files,
    checksums,
    is_rest,
    read_whole,
    replace_set,
)

TABLE = "table.json"
OLD = {"a.bin": b"old a", "b.bin": b"old b", "same.bin": b"same"}
NEW = {"a.bin": b"new a, longer", "c.bin": b"new c", "same.bin": b"same"}
ROOT = Path(__file__).parents[1]


def write(folder: Path, contents: dict[str, bytes]) -> None:
    table = json.dumps({"files": checksums(contents)}).encode()
    with changing(folder):
        replace_set(folder, contents, TABLE, table)


def read(folder: Path) -> dict[str, bytes]:
    table = json.loads((folder / TABLE).read_bytes())["files"]
    found = check_files(folder, table, folder / TABLE)
    return {name: path.read_bytes() for name, path in found.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a set."""
    write(tmp_path, OLD)
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def next_of(name: str, contents: dict[str, bytes]) -> str:
    """Return the name that a file has before it takes its own."""
    return f".{name}.{checksums(contents)[name]['sha256'][:16]}.next"


def killed_at(folder: Path, number: int, write: Callable[[], None]) -> bool:
    """Write in another process that is killed before its nth change of the folder.

    Returns:
        Whether it was killed; or it had come to its end.
    """
    pid = os.fork()
    if pid == 0:
        left = number

        def dying(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return call

        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
            setattr(owner, name, dying(getattr(owner, name)))
        try:
            write()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_a_set_is_replaced_and_nothing_else_is_left(folder: Path) -> None:
    assert read(folder) == OLD

    write(folder, NEW)

    assert read(folder) == NEW
    assert names(folder) == {*OLD, *NEW, TABLE}


def test_wherever_a_replacement_is_killed_a_whole_set_is_there(folder: Path) -> None:
    found, number = list[bool](), 0
    while killed_at(folder, number, lambda: write(folder, NEW)):
        there = read_whole(folder, [TABLE], lambda: read(folder))
        assert there in (OLD, NEW), number
        found.append(there == NEW)

        write(folder, OLD)  # nothing of the attempt before is in the way
        assert read(folder) == OLD
        left = {name for name in names(folder) if is_rest(name)}
        assert left <= {  # what is left half written the next process removes
            path.name
            for pattern in (".c.bin.*.next", ".asr-*.partial")
            for path in folder.glob(pattern)
        }
        number += 1

    assert len(found) > 8
    assert found == sorted(found)  # first the old, from some point on the new
    assert {*found} == {False, True}
    assert read(folder) == NEW


@pytest.mark.slow
def test_a_replacement_that_is_killed_twice_leaves_a_whole_set(folder: Path) -> None:
    number = 0
    while killed_at(folder, number, lambda: write(folder, NEW)):
        for again in range(6):
            killed_at(folder, again, lambda: write(folder, OLD))
            assert read(folder) in (OLD, NEW), (number, again)
        write(folder, OLD)
        number += 1


@pytest.mark.parametrize("call", range(7))
def test_a_replacement_that_fails_leaves_a_whole_set_and_no_rest(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    fsync, calls = os.fsync, iter(range(99))

    def full(descriptor: int) -> None:
        if next(calls) == call:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"cannot be written \(No space left"):
            write(folder, NEW)

    counts = call > 4  # three files, the description, the folder: then it counts
    assert read(folder) == (NEW if counts else OLD)
    if not counts:
        assert names(folder) == {*OLD, TABLE}


def test_a_replacement_that_is_interrupted_leaves_the_set_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def interrupted(path: Path, target: Path) -> Path:
        found = replace(path, target)
        if target == folder / TABLE:
            raise KeyboardInterrupt  # just after the new set began to count
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(folder, NEW)

    assert read(folder) == NEW
    assert not [name for name in names(folder) if is_rest(name)]


def test_a_file_that_has_yet_to_take_its_name_must_be_the_right_one(
    folder: Path,
) -> None:
    (folder / next_of("a.bin", OLD)).write_bytes(b"old x")

    assert read(folder) == OLD
    (folder / "a.bin").unlink()
    with pytest.raises(CheckpointError, match=r"a\.bin: cannot be read \(no such file"):
        read(folder)


def test_a_link_that_leads_out_is_not_taken_for_a_new_file(folder: Path) -> None:
    outside = folder.parent / "outside.bin"
    outside.write_bytes(OLD["a.bin"])
    (folder / "a.bin").unlink()
    (folder / next_of("a.bin", OLD)).symlink_to(outside)

    with pytest.raises(CheckpointError, match="is a link that leads out of its folder"):
        read(folder)


def test_a_folder_that_is_gone_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none: cannot be written \(No such"):
        write(tmp_path / "none", NEW)


WRITER = """
import json, sys
from pathlib import Path
from asr.file_sets import changing, checksums, replace_set

folder, number = Path(sys.argv[1]), 0
while not (folder / "stop").exists():
    contents = {name: bytes([number % 256]) * 50_000 for name in ("a.bin", "b.bin")}
    table = json.dumps({"files": checksums(contents), "number": number % 256})
    with changing(folder):
        replace_set(folder, contents, "table.json", table.encode())
    number += 1
print(number)
"""


def test_who_reads_while_a_set_is_replaced_again_and_again_is_never_refused(
    tmp_path: Path,
) -> None:
    def read_it() -> tuple[int, set[int]]:
        tree = json.loads((tmp_path / TABLE).read_bytes())
        found, numbers = check_files(tmp_path, tree["files"], tmp_path / TABLE), set()
        for path in found.values():
            try:
                numbers |= {*path.read_bytes()}
            except OSError as error:
                raise CheckpointError(str(error)) from error
        return tree["number"], numbers

    contents = {name: bytes(50_000) for name in ("a.bin", "b.bin")}
    table = json.dumps({"files": checksums(contents), "number": 0}).encode()
    with changing(tmp_path):
        replace_set(tmp_path, contents, TABLE, table)
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as writer:
        try:
            seen, end = set[int](), time.monotonic() + 60
            while len(seen) < 100 and time.monotonic() < end:
                number, numbers = read_whole(tmp_path, [TABLE], read_it)
                assert numbers == {number}  # all is of one set
                seen.add(number)
        finally:
            (tmp_path / "stop").touch()
        printed, _ = writer.communicate()

    assert len(seen) > 20
    assert int(printed) > 20


def test_what_is_damaged_is_an_error_and_not_read_again(folder: Path) -> None:
    (folder / "a.bin").write_bytes(b"damaged")
    calls = list[int]()

    def count() -> dict[str, bytes]:
        calls.append(1)
        return read(folder)

    with pytest.raises(CheckpointError, match=r"a\.bin: is damaged"):
        read_whole(folder, [TABLE], count)
    assert len(calls) == 1


def test_a_set_that_changes_at_each_reading_is_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.file_sets._PATIENCE", 0.3)

    def changes() -> None:
        write(folder, NEW)
        raise CheckpointError("read too late")

    with pytest.raises(CheckpointError, match="read too late"):
        read_whole(folder, [TABLE], changes)
