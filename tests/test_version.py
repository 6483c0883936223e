from importlib import metadata
from pathlib import Path

import pytest

import asr
from asr import version as module
from asr.version import DISTRIBUTION, version

Patch = pytest.MonkeyPatch


@pytest.fixture
def uninstalled(monkeypatch: Patch) -> None:
    monkeypatch.setattr(module, "DISTRIBUTION", "listen-attend-spell-of-nobody")


def test_the_version_is_that_of_the_installed_distribution(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    info = tmp_path / "listen_attend_spell-7.8.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {DISTRIBUTION}\nVersion: 7.8.9\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert version() == asr.__version__ == "7.8.9"


def test_a_source_tree_that_is_not_installed_has_the_version_of_its_pyproject(
    uninstalled: None, monkeypatch: Patch, tmp_path: Path
) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(f'[project]\nname = "{module.DISTRIBUTION}"\nversion = "7.8"\n')
    monkeypatch.setattr(module, "_PYPROJECT", path)

    assert version() == "7.8+source"


@pytest.mark.parametrize(
    "text", ["", "no toml", '[project]\nname = "another"\nversion = "1"\n']
)
def test_without_a_pyproject_of_its_own_the_version_is_unknown(
    uninstalled: None, monkeypatch: Patch, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(text)
    monkeypatch.setattr(module, "_PYPROJECT", path)
    assert version() == "0+unknown"

    path.unlink()
    assert version() == "0+unknown"


def test_the_distribution_is_named_as_in_the_project_file() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")

    assert f'name = "{DISTRIBUTION}"' in text
    assert metadata.version(DISTRIBUTION)  # what the tests run on is installed
