"""The files around the code agree with each other and with the code."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())[
    "project"
]
YAMLS = sorted(
    path
    for pattern in ("*.yml", "*.yaml", "*.cff", ".github/**/*.yml")
    for path in ROOT.glob(pattern)
)


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_each_yaml_file_is_read_as_a_tree(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert isinstance(yaml.safe_load(text), dict)
    assert "\t" not in text


def test_the_version_is_the_same_everywhere() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    dated = re.findall(r"^## \[([\d.]+)\] - (\d{4}-\d\d-\d\d)$", changes, re.M)
    citation = read("CITATION.cff")

    assert dated[0] == (PROJECT["version"], citation["date-released"])
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def test_ci_tries_the_versions_of_python_that_the_project_names() -> None:
    named = [
        found[1]
        for one in PROJECT["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", one))
    ]
    tried = read(".github/workflows/ci.yml")["jobs"]["tests"]["strategy"]["matrix"]

    assert tried["python"] == named
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_ci_and_the_container_install_the_torch_that_is_required() -> None:
    required = {one for one in PROJECT["dependencies"] if one.startswith("torch")}
    container = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    workflow = read(".github/workflows/ci.yml")["env"]["TORCH"]

    assert len(required) == 2
    assert set(re.findall(r'"(torch[^"]+)"', container)) == required
    assert set(re.findall(r"torch\w*==\S+", workflow)) == required


def test_the_container_transcribes_as_a_user_without_rights() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()

    assert 'ENTRYPOINT ["asr"]' in lines
    assert lines.index("USER asr") < lines.index('ENTRYPOINT ["asr"]')


def test_what_the_container_is_built_of_is_not_ignored() -> None:
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    container = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", container, re.M)

    assert {f"!{name}" for line in copied for name in line.split()} <= set(kept)


def test_the_site_loads_nothing_from_a_network() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")

    assert yaml.safe_load(site)["theme"]["font"] is False
    assert "http" not in site
