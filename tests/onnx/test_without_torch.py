"""The command line where torch is not installed, or only the model does without it."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest
import soundfile
import torch

from asr.cli import main
from asr.doctor import ASSETS
from asr.onnx.export import export_onnx

ROOT = Path(__file__).parents[2]
NO_TORCH = """
import importlib.metadata, importlib.util, sys
GONE = ("torch", "torchaudio", "onnx", "librosa", "omegaconf", "safetensors", "jiwer")
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in GONE else found(name)
version = importlib.metadata.version
def installed(name):
    if name in GONE:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = installed
from asr.cli import run
run()
"""


def asr(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run `asr` in a Python that has no torch."""
    return subprocess.run(
        [sys.executable, "-c", NO_TORCH, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    export_onnx(model_folder, tmp_path / "onnx")
    return tmp_path / "onnx"


def test_a_recording_is_transcribed_without_torch(folder: Path, tmp_path: Path) -> None:
    noise = tmp_path / "noise.wav"
    soundfile.write(noise, 0.1 * torch.randn(8000).numpy(), 16_000)
    options = ("decoding.beam_size=2", "--lm-weight", "0", "-f", "json,srt,txt")

    found = asr("transcribe", noise, "--model", folder, *options, "-o", tmp_path / "o")

    assert found.returncode == 0, found.stderr
    assert {path.suffix for path in (tmp_path / "o").iterdir()} == {
        *(".json", ".srt", ".txt")
    }
    written = (tmp_path / "o" / "noise.json").read_text()
    assert '"beam_size": 2' in written
    main(
        [
            *("transcribe", str(noise), "--model", str(folder.parent / "model")),
            *(*options, "-o", str(tmp_path / "with")),
        ]
    )
    for kind in ("srt", "txt"):
        ours, theirs = (tmp_path / of / f"noise.{kind}" for of in ("o", "with"))
        assert ours.read_text() == theirs.read_text()


def test_what_needs_torch_is_refused_in_a_line() -> None:
    found = asr("transcribe", "talk.wav")

    assert found.returncode == 1
    assert found.stderr.startswith("asr: torch is not installed, so that only models")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        (["export", "bundled", "out"], "torch"),
        (["explain", "talk.wav"], "torch"),
        (["score", "references.jsonl", "hypotheses.jsonl"], "jiwer"),
    ],
)
def test_a_command_that_needs_more_is_refused_in_a_line(
    command: list[str], missing: str
) -> None:
    found = asr(*command)

    assert found.returncode == 1
    assert found.stderr.startswith(
        f"asr: {missing} is not installed, which this command needs (pip install "
        "listen-attend-spell for all"
    )
    assert found.stderr.count("\n") == 1


def test_an_export_names_the_extra_that_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "asr.onnx.export")
    monkeypatch.delitem(sys.modules, "asr.model.onnx_graphs", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)

    assert main(["export", "bundled", "out", "--onnx"]) == 1

    printed = capsys.readouterr().err
    assert printed == (
        "asr: onnx is not installed, which this command needs (pip install "
        '"listen-attend-spell[onnx]")\n'
    )


def test_a_pipe_is_not_followed_by_a_model_for_onnxruntime(folder: Path) -> None:
    found = asr("transcribe", "--follow", "-", "--model", folder)

    assert found.returncode == 1
    assert found.stderr.startswith(f"asr: {folder}: --follow needs torch")
    assert found.stderr.count("\n") == 1


def test_help_needs_nothing() -> None:
    found = asr("--help")

    assert found.returncode == 0
    assert found.stdout.startswith("usage: asr")


def test_the_doctor_looks_at_what_is_needed_without_torch() -> None:
    found = asr("doctor")

    assert "torch       is not installed: models of asr export --onnx" in found.stdout
    assert "wav, flac, ogg vorbis, opus, mp3 can be read" in found.stdout
    assert "language    words, 65,000 words" in found.stdout
    assert "failed checks: none" in found.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--backend", "torch"), "is for --backend onnx only"),
        (("--device", "cuda"), "--device: is for --backend torch"),
        (("--processes", "2"), "--processes: is for --backend torch"),
        (("--precision", "int8"), "--precision: is for --backend torch"),
        (("--engine", "ray"), "--engine: is for --backend torch"),
    ],
)
def test_options_that_need_torch_are_refused(
    options: tuple[str, str],
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["transcribe", "a.wav", "--model", str(folder), *options]) == 1

    assert message in capsys.readouterr().err


def test_a_model_in_torch_does_not_run_in_onnxruntime(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["transcribe", "a.wav", "--model", str(model_folder)]

    assert main([*command, "--backend", "onnx"]) == 1

    assert "is no ONNX export (asr export" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--onnx", "--web"], "--onnx and --web are two folders"),
        (["--onnx", "--weights", "int8"], "--weights is for a model in torch"),
        (["--precision", "int8"], "--precision is for --onnx and --web"),
    ],
)
def test_options_of_export_that_contradict_each_other_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "bundled", "out", *options]) == 1

    assert message in capsys.readouterr().err


def test_export_prints_how_to_use_the_folder(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new"

    assert main(["export", str(model_folder), str(folder), "--onnx"]) == 0

    printed = capsys.readouterr().err
    assert printed.endswith(f"asr transcribe talk.mp3 --model {folder}\n")


@pytest.mark.slow
def test_a_fresh_environment_of_few_packages_transcribes(tmp_path: Path) -> None:
    # Needs a package index.
    home, folder = tmp_path / "venv", tmp_path / "onnx"
    export_onnx("bundled", folder)
    venv.create(home, with_pip=True)
    pip = [str(home / "bin" / "pip"), "install", "-q"]
    subprocess.run([*pip, "-r", ROOT / "requirements-onnx.txt"], check=True)
    subprocess.run([*pip, "--no-deps", ROOT], check=True)

    printed = subprocess.run(
        [home / "bin" / "asr", "transcribe", ASSETS / "sample.opus", "--model", folder],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert printed.split()[:4] == ["BUT", "SOMETHING", "HAD", "TO"]
