"""What is wrong with one file, or with its name, does not cost the others."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import soundfile
import torch

from asr import audio
from asr.cli import main
from asr.cli.inputs import Source, find_sources
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.errors import AsrError, AudioError
from asr.inference import long_audio, segmentation

ROOT = Path(__file__).parents[2]
PARTIAL = 3
Capture = pytest.CaptureFixture[str]


class Transcribe(NamedTuple):
    """The command with a small model, and a folder for its files."""

    model: Path
    folder: Path
    out: Path

    def __call__(self, *arguments: object) -> int:
        """Run the command; return its status."""
        return main(["transcribe", *map(str, [*arguments, *self.options])])

    @property
    def options(self) -> list[object]:
        """What stands behind the recordings."""
        small = ["--beam-size", 1, "--lm-weight", 0, "--processes", 1]
        return ["--model", self.model, *small, "-o", self.out]

    def good(self, name: str = "good.wav") -> Path:
        """Make a recording."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            soundfile.write(
                file, (0.1 * torch.randn(8000)).numpy(), 16_000, format="WAV"
            )
        return path


@pytest.fixture
def transcribe(model_folder: Path, tmp_path: Path) -> Transcribe:
    return Transcribe(model_folder, tmp_path / "in", tmp_path / "out")


def one_line_each(printed: str) -> list[str]:
    assert "Traceback" not in printed
    return printed.splitlines()


@pytest.mark.parametrize(
    "bad",
    ["n" * 300, "n" * 300 + "/*.wav", "d/" * 3000, "\udcff.wav", "good.wav/a.wav", ""],
    ids=["300 letters", "pattern", "6000 letters", "not UTF-8", "no folder", "empty"],
)
def test_an_argument_that_is_no_path_is_one_line_and_the_rest_is_written(
    bad: str, transcribe: Transcribe, capsys: Capture
) -> None:
    good = transcribe.good()

    assert transcribe(bad, good) == PARTIAL

    first, wrote = one_line_each(capsys.readouterr().err)[:2]
    assert first.startswith("asr: ")
    assert wrote.endswith("good.{txt}")
    assert (transcribe.out / "good.txt").exists()


@pytest.mark.parametrize(
    "name",
    ["n" * 246 + ".wav", "\udcff\udcfe.wav", "a\nb.wav", "ü" * 120 + ".wav", "'\".wav"],
    ids=["250 letters", "not UTF-8", "two lines", "umlauts", "quotes"],
)
def test_a_recording_with_any_name_is_written(
    name: str, transcribe: Transcribe, capsys: Capture
) -> None:
    path = transcribe.good(name)

    assert transcribe(path, "--output-format", "txt,json") == 0

    one_line_each(capsys.readouterr().err)
    assert {file.name for file in transcribe.out.iterdir()} == {
        f"{path.stem}.txt",
        f"{path.stem}.json",
    }


def test_a_name_that_is_too_long_with_its_ending_is_that_files_error(
    transcribe: Transcribe, capsys: Capture
) -> None:
    long, good = transcribe.good("n" * 249 + ".wav"), transcribe.good()

    status = transcribe(long, good, "-f", "TextGrid,txt", "--skip-existing")

    assert status == PARTIAL
    lines = one_line_each(capsys.readouterr().err)
    assert "TextGrid: cannot be written (File name too long)" in lines[0]
    assert (transcribe.out / "good.TextGrid").exists()


def test_what_macos_notes_beside_a_recording_is_no_recording(
    transcribe: Transcribe,
) -> None:
    good = transcribe.good("deep/good.wav")
    good.with_name("._good.wav").write_bytes(b"\0\5\x16\7")
    transcribe.good(".hidden.wav")

    found = find_sources([str(transcribe.folder)])

    assert [one.name for one in found if isinstance(one, Source)] == [
        *(".hidden", "deep/good")
    ]


def test_a_folder_of_nothing_else_holds_no_audio(tmp_path: Path) -> None:
    (tmp_path / "._good.wav").write_bytes(b"\0\5\x16\7")

    (error,) = find_sources([str(tmp_path)])

    assert isinstance(error, AudioError)
    assert str(error) == f"{tmp_path}: holds no audio files"


@contextmanager
def another_user(folder: Path) -> Iterator[None]:
    """Have another user's rights, with which the folder itself can be reached."""
    for parent in folder.parents[:-1]:
        parent.chmod(parent.stat().st_mode | 0o111)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's rights")
def test_a_closed_folder_is_reported_and_what_lies_beside_it_is_found(
    transcribe: Transcribe,
) -> None:
    transcribe.good("open/a.wav")
    transcribe.good("closed/b.wav").parent.chmod(0)
    transcribe.good("listed/c.wav").parent.chmod(0o444)

    with another_user(transcribe.folder):
        found = find_sources([str(transcribe.folder)])
        (alone,) = find_sources([str(transcribe.folder / "closed")])

    assert [one.name for one in found if isinstance(one, Source)] == ["open/a"]
    errors = [str(one) for one in found if isinstance(one, AsrError)]
    closed = f"{transcribe.folder / 'closed'}: cannot be read (Permission denied)"
    assert closed in errors
    assert str(alone) == closed


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), RecursionError(), UnicodeError("odd")]
)
@pytest.mark.parametrize("where", ["length", "read"])
def test_whatever_a_file_makes_raise_is_its_own_error(
    error: Exception,
    where: str,
    transcribe: Transcribe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    bad, good = transcribe.good("bad.wav"), transcribe.good()
    broken = {"length": "asr.audio.duration", "read": f"{long_audio.__name__}.pieces"}
    work: dict[str, Callable[..., object]] = {
        **{"length": audio.duration, "read": segmentation.pieces}
    }
    calls = list[object]()

    def breaks(*given: object) -> object:
        calls.append(given)
        if len(calls) == 1:
            raise error
        return work[where](*given)

    monkeypatch.setattr(broken[where], breaks)
    status = transcribe(bad, good)

    lines = one_line_each(capsys.readouterr().err)
    assert (transcribe.out / "good.txt").exists()
    if where == "read":
        assert status == PARTIAL
        assert f"{bad}: cannot be read (" in lines[0]
    else:  # of the length for the progress bar alone
        assert status == 0


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "ascii:strict"])
def test_every_encoding_of_the_terminal_takes_every_text(
    encoding: str, tmp_path: Path
) -> None:
    program = (
        "from asr.cli.scripts import run_main\n"
        "run_main('toy', lambda: print('G\\u00fc\\u0142 \\udcff'))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )

    expected = {
        "ascii": rb"G\xfc\u0142 \udcff",
        "cp1252": b"G\xfc" + rb"\u0142 \udcff",
        "utf-8": "Gü\u0142 ".encode() + rb"\udcff",
    }[encoding.partition(":")[0]]
    assert done.stdout == expected + b"\n"
    assert done.stderr == b""


@pytest.mark.parametrize("command", ["explain", "transcribe"])
@pytest.mark.parametrize("name", ["n" * 300, "\udcff.wav"])
def test_other_commands_have_one_line_for_such_a_name_too(
    command: str, name: str, transcribe: Transcribe, capsys: Capture
) -> None:
    assert main([command, name, "--model", str(transcribe.model)]) == 1

    assert len(one_line_each(capsys.readouterr().err)) == 1


def test_an_error_of_the_system_with_a_path_is_one_line(
    capsys: Capture, tmp_path: Path
) -> None:
    missing = tmp_path / "none" / "\udcff"

    assert main(["export", str(missing), str(missing / "out")]) == 1
    assert main(["score", "n" * 300, "n" * 300]) == 1

    assert len(one_line_each(capsys.readouterr().err)) == 2


def test_a_recording_that_is_missing_does_not_have_the_model_loaded(
    transcribe: Transcribe, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def load(*given: object, **further: object) -> None:
        raise AssertionError("it is loaded")

    monkeypatch.setattr("asr.inference.recognizer.load_model", load)

    assert transcribe("nope.wav", "nope.mp3") == 1
    lines = one_line_each(capsys.readouterr().err)
    assert [line.partition(" cannot")[0] for line in lines] == [
        *("asr: nope.wav:", "asr: nope.mp3:")
    ]


@pytest.mark.parametrize("command", ["transcribe", "decode", "explain"])
def test_a_language_model_that_is_missing_does_not_have_the_model_loaded(
    command: str,
    transcribe: Transcribe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    tmp_path: Path,
) -> None:
    def load(*given: object, **further: object) -> None:
        raise AssertionError("it is loaded")

    good = transcribe.good()
    manifest = tmp_path / "set.jsonl"
    manifest.write_text(
        '{"id": "a", "audio": "in/good.wav", "duration": 0.5, "text": ""}'
    )
    assert read_manifest(manifest)
    arguments: dict[str, list[object]] = {
        "transcribe": [good],
        "decode": [manifest, tmp_path / "out"],
        "explain": [good, "-o", tmp_path / "page.html"],
    }
    monkeypatch.setattr("asr.inference.recognizer.load_model", load)
    options = ["--model", transcribe.model, "--language-model", tmp_path / "none"]

    assert main([command, *map(str, [*arguments[command], *options])]) == 1

    error = (
        f"asr: {tmp_path / 'none'}: holds no language model (asr lm build makes one of "
        "texts, asr lm convert of a file in ARPA's format)"
    )
    assert capsys.readouterr().err == f"{error}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's rights")
def test_an_output_folder_that_is_closed_is_refused_before_any_work(
    transcribe: Transcribe, capsys: Capture
) -> None:
    good = transcribe.good()
    transcribe.out.mkdir(mode=0o555)

    with another_user(transcribe.out):
        status = transcribe(good)

    assert status == 1
    error = f"asr: {transcribe.out}: may not be written to (name another)\n"
    assert capsys.readouterr().err == error


Mount = Callable[[int], Path]


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Mount:
    """Make a disk of so many bytes, in memory."""

    def mount(size: int) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if (
            not shutil.which("mount")
            or subprocess.run(command, capture_output=True, check=False).returncode
        ):
            pytest.skip("this process may not mount a disk")
        request.addfinalizer(
            lambda: subprocess.run(["umount", "--lazy", str(folder)], check=False)
        )
        return folder

    return mount


def test_a_full_disk_ends_transcribing_with_one_line_and_whole_files(
    transcribe: Transcribe, small_disk: Mount, capsys: Capture
) -> None:
    out = small_disk(4096 * 4)
    paths = [transcribe.good(f"{number}.wav") for number in range(9)]

    assert transcribe._replace(out=out)(*paths, "-f", "json") == 1

    *wrote, error = one_line_each(capsys.readouterr().err)
    assert "cannot be written (No space left on device)" in error
    wrote = [line for line in wrote if line.startswith("asr: wrote ")]
    files = list(out.iterdir())
    assert 0 < len(files) == len(wrote) < 9
    assert all(file.read_text().endswith("}\n") for file in files)


def test_a_full_disk_costs_a_decoding_at_most_the_batch_in_hand(
    transcribe: Transcribe, small_disk: Mount, tmp_path: Path, capsys: Capture
) -> None:
    paths = [transcribe.good(f"{number}.wav") for number in range(120)]
    said = [Utterance(path.stem * 40, str(path), 0.5, "") for path in paths]
    write_manifest(tmp_path / "set.jsonl", said)
    out = small_disk(4096 * 4)  # two are the locks'
    filler = out / "filler"
    (out / "o").mkdir()
    filler.write_bytes(bytes(4096))
    command = ["decode", str(tmp_path / "set.jsonl"), str(out / "o")]
    command += ["--beam-size", "1", "--lm-weight", "0", "--processes", "1"]
    command += ["--model", str(transcribe.model)]

    assert main(command) == 1
    printed = one_line_each(capsys.readouterr().err)
    assert "0-of-1.jsonl: cannot be written (No space left on device)" in printed[0]
    kept = (out / "o" / "shards" / "0-of-1.jsonl").read_bytes()
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=1m", str(out)], check=True)
    assert main(command) == 0

    assert kept.count(b"\n") >= 2
    assert len(read_manifest(out / "o" / "hypotheses.jsonl")) == 120
