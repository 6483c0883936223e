import builtins
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest

import asr.doctor
from asr.cli import main
from asr.doctor import CHECKS, Finding, examine


def look(about: str) -> list[Finding]:
    return list(CHECKS[about](about))


def replaced_version(
    monkeypatch: pytest.MonkeyPatch, package: str, version: str | None
) -> None:
    """Let a package have another version, or be missing."""
    true = metadata.version

    def fake(name: str) -> str:
        if name != package:
            return true(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr("importlib.metadata.version", fake)


def without(monkeypatch: pytest.MonkeyPatch, module: str, error: Exception) -> None:
    """Let the import of a module fail."""
    true = import_module

    def fake(name: str) -> Any:
        if name == module:
            raise error
        return true(name)

    monkeypatch.setattr("asr.doctor.import_module", fake)


def test_here_all_is_well() -> None:
    findings = list(examine())

    assert [f for f in findings if f.remedy and f.about != "speed"] == []
    assert {finding.about for finding in findings} >= set(CHECKS)
    (test,) = (finding for finding in findings if finding.about == "self-test")
    assert "BUT SOMETHING" in test.result


def test_a_finding_is_a_line_and_its_remedy_another() -> None:
    assert str(Finding("disk", "9 GB free")) == f"ok       {'disk':16} 9 GB free"
    problem = str(Finding("disk", "none free", "make room"))
    assert problem.startswith("PROBLEM ")
    assert problem.split("\n")[1].strip() == "-> make room"


@pytest.mark.parametrize(
    ("package", "version", "result"),
    [
        ("torch", "2.15.0", "torch 2.15.0, 2.11 is needed"),
        ("torchaudio", "2.9.1", "torchaudio 2.9.1, 2.11 is needed"),
        ("torchaudio", None, "torchaudio is not installed"),
        ("torch", "2.110.0", "torch 2.110.0, 2.11 is needed"),
    ],
)
def test_a_pair_that_does_not_fit_is_told_with_the_command_that_mends_it(
    package: str, version: str | None, result: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced_version(monkeypatch, package, version)

    (finding,) = look("torch")

    assert finding.result == result
    assert finding.remedy == 'pip install "torch==2.11.*" "torchaudio==2.11.*"'


@pytest.mark.parametrize(
    "error", [OSError("libcudart.so: no such file\nmore"), ImportError("x")]
)
def test_a_library_that_cannot_be_loaded_is_told(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "torchaudio", error)

    (finding,) = look("torch")

    assert finding.result.startswith("torchaudio cannot be loaded (")
    assert "\n" not in finding.result
    assert finding.remedy


@pytest.mark.parametrize(
    ("version", "told"), [("3.0.9", "3.0.9"), (None, "is missing")]
)
def test_a_package_that_is_old_or_missing_is_told(
    version: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced_version(monkeypatch, "jiwer", version)

    (finding,) = look("packages")

    assert finding.result == f"jiwer {told}, 4 is needed"
    assert finding.remedy == 'pip install "jiwer>=4"'


def test_without_pyav_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced_version(monkeypatch, "av", None)

    (finding,) = look("audio")

    assert 'pip install "asr[av]"' in finding.result
    assert not finding.remedy  # nothing is wrong


def test_a_format_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    true = asr.audio.encode

    def fake(waveform: Any, kind: str) -> bytes:
        return b"" if kind == "opus" else true(waveform, kind)

    monkeypatch.setattr("asr.audio.encode", fake)

    (finding,) = look("audio")

    assert finding.result.startswith("opus cannot be read (")
    assert "soundfile" in finding.remedy


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 10**8

    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage)

    (finding,) = look("disk")

    assert finding.result.startswith("0.1 GB free in ")
    assert finding.remedy


def test_an_altered_model_is_told(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (model_folder / "model.safetensors").open("ab") as file:
        file.write(b"x")
    monkeypatch.setattr("asr.recognizer.find_model", lambda folder: model_folder)

    model, words = look("models")

    assert "altered" in model.result
    assert model.remedy
    assert not words.remedy


def test_a_model_that_hears_something_else_is_told(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.recognizer.find_model", lambda folder: model_folder)

    test, _ = look("self-test")

    assert "it should begin like 'BUT SOMETHING" in test.remedy


def test_what_breaks_is_a_finding_and_stops_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    true = builtins.__import__

    def broken(name: str, *args: Any) -> Any:
        if name == "torch":
            raise ImportError("libtorch.so: undefined symbol\nand more")
        return true(name, *args)

    monkeypatch.setattr("builtins.__import__", broken)

    findings = list(examine())

    assert {finding.about for finding in findings} >= set(CHECKS)
    (gpu,) = (finding for finding in findings if finding.about == "GPU")
    assert gpu.result == "ImportError: libtorch.so: undefined symbol"
    assert gpu.remedy


def test_the_exit_status_tells_whether_all_is_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("asr.doctor.CHECKS", {"disk": CHECKS["disk"]})
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("no problems\n")

    monkeypatch.setattr("asr.doctor.SPACE", 10**9)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.endswith("\n1 problem\n")
