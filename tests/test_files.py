import subprocess
import sys
import threading
from pathlib import Path

import pytest

from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.errors import AudioError, CheckpointError
from asr.files import errors_of, temporary_path
from asr.folders import write_bytes, write_files

ROOT = Path(__file__).parents[1]


def test_no_two_temporary_paths_are_the_same(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from asr.files import temporary_path\n"
        "print(temporary_path(Path(sys.argv[1])).name)"
    )

    other = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()
    own = {temporary_path(tmp_path).name for _ in range(3)}

    assert len({other, *own}) == 4
    assert all(name.startswith(".") and len(name) < 60 for name in (other, *own))


@pytest.mark.parametrize("name", ["a" * 255, "ü" * 127, "\udcff.txt", "a b\n.txt"])
def test_a_file_with_any_name_that_the_system_takes_is_written(
    name: str, tmp_path: Path
) -> None:
    write_bytes(tmp_path / name, b"GO")

    assert (tmp_path / name).read_bytes() == b"GO"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_manifest_with_a_long_name_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("m" * 249 + ".jsonl")

    write_manifest(path, [Utterance("a", "a.wav", 1.0, "GO")])

    assert [utterance.id for utterance in read_manifest(path)] == ["a"]


def test_several_threads_replace_one_file_without_an_error(tmp_path: Path) -> None:
    errors = list[BaseException]()

    def write(letter: bytes) -> None:
        try:
            for _ in range(50):
                write_files(tmp_path, {"a": 1000 * letter, "b": letter})
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=write, args=(letter,)) for letter in (b"x", b"y")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not errors
    assert (tmp_path / "a").read_bytes() in (1000 * b"x", 1000 * b"y")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from asr.files import temporary_path\n"
        "temporary_path(Path(sys.argv[1])).write_bytes(b'half')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT)
    (left,) = tmp_path.iterdir()
    elsewhere = left.name.replace(left.name.split("-")[1], "01234567")
    (tmp_path / elsewhere).write_bytes(b"of another machine")
    running = temporary_path(tmp_path.parent).name
    (tmp_path / running).write_bytes(b"of a process that runs")

    write_bytes(tmp_path / "a", b"")

    assert {path.name for path in tmp_path.iterdir()} == {"a", elsewhere, running}


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()

    with pytest.raises(CheckpointError, match="b: cannot be written"):
        write_files(tmp_path, {"b": b""})

    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(36, "File name too long"), r"a: cannot be read \(File name too long"),
        (OSError("odd"), r"a: cannot be read \(odd\)"),
        (OSError(), r"a: cannot be read \(OSError\)"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), "a: .* are not UTF-8: "),
        (UnicodeEncodeError("ascii", "ü", 0, 1, "no"), "a: .* are not UTF-8: "),
        (RecursionError("deep"), r"a: cannot be read \(its contents are nested too"),
        (AudioError("a: is empty"), "^a: is empty$"),
    ],
)
def test_what_a_file_makes_raise_is_an_error_of_that_file(
    error: Exception, message: str
) -> None:
    with pytest.raises(AudioError, match=message), errors_of("a"):
        raise error


def test_what_no_file_can_do_is_not_taken_for_its_error() -> None:
    with pytest.raises(ZeroDivisionError), errors_of("a"):
        raise ZeroDivisionError
