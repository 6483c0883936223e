"""The plan of the house, checked: who may import whom, and one door per library."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import asr

FLOORS = [
    {"errors", "padding", "version"},
    {"audio", "text", "tensor_files", "progress", "device", "transcript", "loops"},
    {"features", "sources", "writers"},
    {"data", "model", "decoding", "scoring"},
    {"timing", "confidence"},
    {"segmenting", "finding"},
    {"recording"},
    {"training", "recognizer"},
    {"config", "explain", "report", "evaluation"},
    {"experiment", "corpus", "doctor", "export"},
    {"cli", "__init__"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

DOOR = {  # only this module may import that library
    "av": "asr.audio.containers",
    "jiwer": "asr.scoring",
    "librosa": None,  # for the tests: its import costs seconds
    "matplotlib": "asr.report",
    "num2words": "asr.text",
    "omegaconf": "asr.config",
    "packaging": "asr.doctor",
    "safetensors": "asr.tensor_files",
    "shtab": "asr.cli.completion",
    "soundfile": "asr.audio.soundfiles",
    "soxr": "asr.audio.waveforms",
    "torch.distributed": "asr.training.distributed",
    "torch.utils.tensorboard": "asr.training.metrics",
    "torchaudio": "asr.features",
    "torchaudio.functional.forced_align": "asr.timing",
    "tqdm": "asr.progress",
    "yaml": "asr.config",
}
LANGUAGE = {"torch", "numpy"}  # spoken everywhere
LAZY = {  # `asr --help` answers without torch, `asr doctor` where it is broken
    *("asr.__init__", "asr.doctor"),
    *("asr.cli.commands", "asr.cli.options", "asr.cli.transcribe"),
}

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted((ROOT / "asr").rglob("*.py"))
}
each_module = pytest.mark.parametrize("module", MODULES)


@each_module
def test_a_room_imports_only_from_floors_below(module: str) -> None:
    room = _room(module)
    for name in _imports(module):
        if _is_part(name, "asr"):
            other = name.split(".")[1]
            below = FLOOR[other] < FLOOR[room]
            assert below or other == room, f"{module} imports {name}"


@each_module
def test_each_library_has_one_door(module: str) -> None:
    for name in _imports(module):
        libraries = [library for library in DOOR if _is_part(name, library)]
        if libraries:
            door = DOOR[max(libraries, key=len)]
            assert module == door, f"{module} imports {name}: {door} is its door"


@each_module
def test_every_library_is_known_to_the_plan(module: str) -> None:
    known = LANGUAGE | DOOR.keys() | sys.stdlib_module_names | {"asr"}
    for name in _imports(module):
        assert name.split(".")[0] in known, f"{module} imports {name}"


@each_module
def test_only_the_doors_to_the_street_import_late(module: str) -> None:
    tree = _tree(module)
    at_once = {name for node in tree.body for name in _named_by(node)}
    rooms = {name for name in _imports(module) - at_once if _is_part(name, "asr")}
    assert not rooms or module in LAZY, f"{module} imports {rooms} late"


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {
        module: {m for name in _imports(module) for m in MODULES if _is_part(name, m)}
        for module in MODULES
    }
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_plan_has_no_room_that_was_torn_down() -> None:
    assert {_room(module) for module in MODULES} == FLOOR.keys()


# The names at the front door


def test_public_names_are_sorted_and_each_has_a_home() -> None:
    assert asr.__all__ == sorted(asr.__all__)
    assert set(asr.__all__) == asr._HOME.keys()
    assert dir(asr) == asr.__all__


@pytest.mark.parametrize("name", asr.__all__)
def test_a_public_name_is_that_of_its_home(name: str) -> None:
    public = getattr(asr, name)
    assert public is getattr(import_module(asr._HOME[name]), name)
    assert public.__module__ == asr._HOME[name]


def test_type_checkers_are_told_the_same_homes() -> None:
    block = next(
        node for node in _tree("asr.__init__").body if isinstance(node, ast.If)
    )
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    told = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == asr._HOME


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'asr' has no attribute 'Las'"):
        _ = asr.Las


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_does_not_wait_for_torch(arguments: list[str]) -> None:
    program = (
        "import sys, asr.cli\n"
        f"try: asr.cli.main({arguments})\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )

    printed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    *help_lines, modules = printed.splitlines()
    assert help_lines[0].startswith("usage: asr")
    heavy = {name.split(".")[0] for name in DOOR} | LANGUAGE
    assert not heavy & set(modules.split())


# How the plan is read


def _room(module: str) -> str:
    return module.split(".")[1]


def _is_part(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def _imports(module: str) -> set[str]:
    """All that is imported anywhere in a module, with its full name."""
    return {name for node in ast.walk(_tree(module)) for name in _named_by(node)}


def _named_by(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "write the import in full"
        return {f"{node.module}.{alias.name}" for alias in node.names}
    return set()
