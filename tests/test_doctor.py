import json
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path

import pytest
import torch

from asr import doctor
from asr.cli import main
from asr.doctor import ASSETS, FORMATS, Check, examine

ROOT = Path(__file__).parents[1]
PAIR = 'pip install --force-reinstall "torch==2.11.0.*" "torchaudio==2.11.0.*"'
Patch = pytest.MonkeyPatch


def problems(checks: Iterator[Check]) -> list[str]:
    return [str(check) for check in checks if check.remedy]


def of(topic: str) -> list[Check]:
    """Carry out one check, as `examine` does."""
    (check,) = [check for name, check, _ in doctor._CHECKS if name == topic]
    return list(doctor._carried_out(topic, check))


def versions(patch: Patch, **others: str | None) -> None:
    """Let packages have other versions; None is not installed."""
    real = metadata.version

    def version(name: str) -> str:
        found = others[name] if name in others else real(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    other = types.SimpleNamespace(
        version=version,
        PackageNotFoundError=metadata.PackageNotFoundError,
        metadata=metadata.metadata,
        requires=metadata.requires,
        distributions=metadata.distributions,
    )
    patch.setattr(doctor, "metadata", other)


def breaks(patch: Patch, **errors: Exception) -> None:
    """Let the import of libraries fail; the checks themselves are not carried out."""

    def broken(name: str) -> types.ModuleType:
        if name in errors:
            raise errors[name]
        return import_module(name)

    patch.setattr(doctor, "import_module", broken)
    nothing = tuple[Check, ...]()
    whole = tuple((t, lambda: iter(nothing), needs) for t, _, needs in doctor._CHECKS)
    patch.setattr(doctor, "_CHECKS", whole)


def assets(patch: Patch, tmp_path: Path) -> Path:
    """Let the doctor look at a copy of what is bundled, but for the models."""
    folder = tmp_path / "asr" / "assets"
    shutil.copytree(ASSETS, folder, ignore=shutil.ignore_patterns("las_*", "words"))
    patch.setattr(doctor, "ASSETS", folder)
    return folder


# A machine on which all is well


def test_a_table_is_printed_and_the_status_shows_failed_checks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main(["doctor"])

    lines = capsys.readouterr().out.split("\n")
    assert status == 0
    assert not [line for line in lines if line.startswith("!")]
    topics = [line[2:14].strip() for line in lines if line[:3].isspace() is False]
    wanted = ["asr", "python", "torch", "packages", "system", "processor", "memory"]
    wanted += ["gpu", "disk", "audio", "model", "language", "self-test"]
    assert [topic for topic in wanted if topic not in topics] == []
    assert "torch 2.11" in "".join(lines)
    assert "wav, flac, ogg vorbis, opus, mp3 can be read" in "".join(lines)
    assert lines[-2:] == ["failed checks: none", ""]
    assert torch.get_num_threads() == 1  # as the tests have it


def test_a_problem_is_one_line_with_its_remedy_and_the_status_is_1(
    monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Check("a", "x " * 99), Check("b", "y " * 99 + "y", "mend it")]
    monkeypatch.setattr(doctor, "examine", lambda: iter(found))

    assert main(["doctor"]) == 1

    *first, second, last = capsys.readouterr().out.rstrip("\n").split("\n")
    assert len(first) == 3
    assert all(len(line) <= 88 for line in first)
    assert second == "! b           " + "y " * 99 + "y (mend it)"
    assert last == "failed checks: 1"


# What is installed


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"torch": "2.15.0+cu132"}, "torch 2.15.0+cu132 is not torch==2.11.0.*"),
        ({"torchaudio": "2.9.1"}, "torchaudio 2.9.1 is not torchaudio==2.11.0.*"),
        ({"torchaudio": None}, "torchaudio is not installed"),
        (
            {"torch": "2.10.0", "torchaudio": None},
            "torch 2.10.0 is not torch==2.11.0.*; torchaudio is not installed",
        ),
    ],
)
def test_torch_and_torchaudio_that_do_not_fit_are_reported(
    monkeypatch: Patch, others: dict[str, str | None], message: str
) -> None:
    versions(monkeypatch, **others)

    assert problems(doctor._packages()) == [f"! torch       {message} ({PAIR})"]


def test_a_pair_that_the_requirements_allow_must_fit_all_the_same(
    monkeypatch: Patch,
) -> None:
    found = {"torch": "2.12.1", "torchaudio": "2.11.0"}

    (check,) = doctor._pair(found, {})

    assert check.found == "torch 2.12.1 and torchaudio 2.11.0 do not fit together"
    assert check.remedy == PAIR


def test_a_local_version_and_one_before_its_release_fit(monkeypatch: Patch) -> None:
    versions(monkeypatch, torch="2.11.0+cpu", torchaudio="2.11.0a0+git", soxr="1.0b1")

    assert problems(doctor._packages()) == []


def test_other_packages_are_compared_with_what_is_required(monkeypatch: Patch) -> None:
    versions(monkeypatch, numpy="1.26.4", jiwer=None)

    assert sorted(problems(doctor._packages())) == [
        '! jiwer       is not installed (pip install --force-reinstall "jiwer>=4")',
        "! numpy       1.26.4 is not numpy>=2 (pip install --force-reinstall "
        '"numpy>=2")',
    ]


def test_an_old_python_is_reported(monkeypatch: Patch) -> None:
    monkeypatch.setattr("asr.doctor.platform.python_version", lambda: "3.10.2")

    assert problems(doctor._project_and_python()) == [
        "! python      3.10.2 is not >=3.11 (install asr in Python >=3.11)"
    ]


def test_without_its_source_pip_knows_what_asr_needs(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "ASSETS", tmp_path / "asr" / "assets")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n')

    project = doctor._project()

    assert project.python == ">=3.11"
    assert "torch==2.11.0.*" in project.requirements
    assert not [one for one in project.requirements if "pytest" in one]


def installed_elsewhere(patch: Patch, folder: Path, commands: str) -> None:
    """Let a package called asr be installed, in a folder that Python looks into."""
    info = folder / "asr-0.4.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: asr\nVersion: 0.4.1\n")
    (info / "entry_points.txt").write_text(f"[console_scripts]\n{commands}\n")
    patch.syspath_prepend(folder)


def test_the_package_of_another_project_called_asr_is_a_problem(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    installed_elsewhere(monkeypatch, tmp_path, "asr = asr.core.cli:main")

    assert problems(doctor._namesakes()) == [
        "! asr         the package asr 0.4.1 of another project is installed, too, and "
        "one overwrites files of the other (pip uninstall asr, then install asr again: "
        "pip install --force-reinstall --no-deps .)"
    ]


def test_this_project_under_its_former_name_is_no_problem(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    installed_elsewhere(monkeypatch, tmp_path, "asr = asr.cli:run")

    assert problems(doctor._namesakes()) == []


def test_without_packaging_there_is_a_line(monkeypatch: Patch) -> None:
    for name in [name for name in sys.modules if name.startswith("packaging")]:
        monkeypatch.setitem(sys.modules, name, None)

    (problem,) = problems(doctor._carried_out("packages", doctor._packages))

    assert problem.startswith("! packages    failed (ModuleNotFoundError: ")
    assert problem.endswith("(pip install packaging)")


# Imports that fail


@pytest.mark.parametrize(
    "error",
    [
        OSError("libcudart.so.13: cannot open shared object file"),
        ImportError("undefined symbol"),
        RuntimeError("two\nlines"),
    ],
)
def test_a_torchaudio_that_cannot_be_imported_is_reported(
    monkeypatch: Patch, error: Exception
) -> None:
    breaks(monkeypatch, torchaudio=error)

    found = list(examine())

    reported = f"{type(error).__name__}: {' '.join(str(error).split())}"
    assert problems(iter(found)) == [
        f"! torchaudio  cannot be imported ({reported}) ({PAIR})"
    ]
    assert Check("model", "not examined, for want of torchaudio") in found


def test_a_torch_that_cannot_be_imported_is_one_problem(monkeypatch: Patch) -> None:
    error = OSError("no kernel")
    breaks(monkeypatch, torch=error, torchaudio=error)

    found = list(examine())

    assert problems(iter(found)) == [
        f"! torch       cannot be imported (OSError: no kernel) ({PAIR})"
    ]
    assert Check("gpu", "not examined, for want of torch") in found
    assert "soundfile" not in "".join(map(str, found[4:]))


def test_what_is_not_installed_is_reported_once(monkeypatch: Patch) -> None:
    versions(monkeypatch, soxr=None)
    breaks(monkeypatch, soxr=ModuleNotFoundError("No module named 'soxr'", name="soxr"))

    (problem,) = problems(examine())

    assert problem.startswith("! soxr        is not installed")


def test_a_broken_torch_is_a_line_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: not found')")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])

    done = subprocess.run(
        [sys.executable, "-m", "asr", "doctor"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr == ""
    assert [line for line in done.stdout.split("\n") if line.startswith("!")] == [
        f"! torch       cannot be imported (OSError: libtorch.so: not found) ({PAIR})"
    ]
    assert "self-test   not examined, for want of torch, torchaudio" in done.stdout


# The machine


def test_little_memory_is_a_problem(monkeypatch: Patch) -> None:
    monkeypatch.setattr(doctor, "LEAST_MEMORY", 2**60)

    (check,) = of("memory")

    assert "GiB available" in check.found
    assert check.remedy.startswith("close other programs")


def test_a_full_disk_is_a_problem(monkeypatch: Patch) -> None:
    full = types.SimpleNamespace(free=2**20)
    monkeypatch.setattr("asr.doctor.shutil.disk_usage", lambda _: full)

    (check,) = of("disk")

    assert check.found.startswith("0.0 GiB free for temporary files in ")
    assert "TMPDIR" in check.remedy


def test_a_temp_folder_that_cannot_be_written_is_a_problem(monkeypatch: Patch) -> None:
    def refuse() -> None:
        raise FileNotFoundError(2, "No usable temporary directory")

    monkeypatch.setattr("asr.doctor.tempfile.NamedTemporaryFile", refuse)

    (check,) = of("disk")

    assert "no temporary file can be written" in check.found
    assert "TMPDIR" in check.remedy


@pytest.mark.parametrize("topic", ["system", "processor", "memory", "gpu"])
def test_where_linux_files_are_missing_there_is_a_line(
    monkeypatch: Patch, topic: str
) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError(2, "No such file")

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr("asr.doctor.platform.freedesktop_os_release", missing)
    monkeypatch.delattr(os, "sched_getaffinity")

    (check,) = of(topic)

    assert check.found
    assert not check.remedy


def test_a_driver_that_is_too_old_is_reported(monkeypatch: Patch) -> None:
    def warn() -> bool:
        import warnings

        warnings.warn("CUDA initialization: The driver\nis too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", warn)

    (check,) = of("gpu")

    reported = "none (CUDA initialization: The driver is too old): the CPU is used"
    assert check == Check("gpu", reported)


# What asr does


@pytest.mark.parametrize("ending", FORMATS)
def test_a_format_that_cannot_be_read_is_a_problem(
    monkeypatch: Patch, tmp_path: Path, ending: str
) -> None:
    path = assets(monkeypatch, tmp_path) / "formats" / f"tone.{ending}"
    path.write_bytes(b"no audio")

    (problem,) = problems(iter(of("audio")))

    assert problem.startswith(f"! audio       {FORMATS[ending]}: {path}: is no audio")
    assert problem.endswith('(pip install --force-reinstall "soundfile>=0.13")')


def test_a_format_that_is_read_as_silence_is_a_problem(
    monkeypatch: Patch,
) -> None:
    silence = torch.zeros(3200).numpy()
    monkeypatch.setattr("asr.audio.read_arrays", lambda _: [silence])

    assert len(problems(iter(of("audio")))) == len(FORMATS)


@pytest.mark.parametrize(
    ("topic", "home", "name", "file"),
    [
        ("model", "asr.model.storage", "find_model", "model.safetensors"),
        ("language", "asr.lm.ngram", "find_language_model", "ngram.safetensors"),
    ],
)
def test_a_bundled_model_that_is_damaged_is_a_problem(
    monkeypatch: Patch, tmp_path: Path, topic: str, home: str, name: str, file: str
) -> None:
    module = import_module(home)
    folder = tmp_path / "copy"
    shutil.copytree(getattr(module, name)(None), folder)
    content = bytearray((folder / file).read_bytes())
    content[-1] ^= 1
    (folder / file).write_bytes(content)
    monkeypatch.setattr(module, name, lambda _: folder)

    (check,) = of(topic)

    assert f"{file}: is damaged, or not the file" in check.found
    assert check.remedy.startswith("install asr again")


def test_a_self_test_that_is_not_understood_is_a_problem(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    said = json.dumps({"text": "QUITE ANOTHER UTTERANCE ABOUT XYLOPHONES"})
    (assets(monkeypatch, tmp_path) / "sample.json").write_text(said)

    (check,) = of("self-test")

    assert "is not how 'QUITE ANOTHER" in check.found
    assert check.remedy


def test_whatever_fails_is_a_line(monkeypatch: Patch, tmp_path: Path) -> None:
    (assets(monkeypatch, tmp_path) / "sample.json").write_text("{")

    (check,) = of("self-test")

    assert check.found.startswith("failed (JSONDecodeError: ")
    assert check.remedy
