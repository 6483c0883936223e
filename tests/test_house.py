"""The plan of the house, checked: who may import whom, and one door per library.

A *room* is a folder of `asr`, or a module beside the folders. Which room is above which
follows from the imports; there is no list of floors to keep. What must never be:
a circle of rooms or modules, or one of the arrows that are forbidden below.
"""

import ast
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

import asr

STRANGERS = ("model", "decoding", "lm", "scoring")
"""Rooms that know nothing of each other: a search asks any `StepModel`."""
STREET = ("cli", "server")
"""Rooms that nobody imports."""

DOOR = {  # only this module, or those of this folder., may import that library
    "av": "asr.audio.containers",
    "datasets": "asr.data.corpora.hugging_face",
    "fastapi": "asr.server.",
    "huggingface_hub": "asr.model.hub",
    "jinja2": "asr.reports.templates",
    "jiwer": "asr.scoring",
    "librosa": "asr.acoustics",
    "markupsafe": "asr.reports.templates",
    "matplotlib": "asr.reports.attention_plot",
    "num2words": "asr.text",
    "numba": "asr.model.compiled_energies",
    "onnx": "asr.model.onnx_graphs",
    "onnxruntime": "asr.onnx.sessions",
    "onnxruntime.quantization": "asr.model.onnx_graphs",
    "omegaconf": "asr.config",
    "packaging": "asr.doctor",
    "prometheus_client": "asr.server.health",
    "ray": "asr.inference.cluster",
    "safetensors": "asr.tensor_files",
    "shtab": "asr.cli.completion",
    "sounddevice": "asr.audio.microphone",
    "sentencepiece": "asr.tokenizers",
    "soundfile": "asr.audio.soundfiles",
    "soxr": "asr.audio.waveforms",
    "starlette": "asr.server.",
    "torch.distributed": "asr.training.distributed",
    "torch.utils.tensorboard": "asr.training.metrics",
    "torchaudio": "asr.features",
    "torchaudio.functional.forced_align": "asr.decoding.ctc_alignment",
    "tqdm": "asr.progress",
    "triton": "asr.model.fused_kernels",
    "uvicorn": "asr.server.serving",
    "yaml": "asr.config",
}
LANGUAGE = {"torch", "numpy"}  # spoken everywhere
LAZY = (
    *("asr.__init__", "asr.decoding.__init__", "asr.doctor", "asr.cli."),
    "asr.model.fused_steps",
)
"""Modules that import late: `asr --help` answers without torch, `asr doctor` where it
fails, and the kernels for a GPU are imported where there is one."""

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted((ROOT / "asr").rglob("*.py"))
}
each_module = pytest.mark.parametrize("module", MODULES)

Graph = Mapping[str, set[str]]


def test_rooms_import_each_other_in_one_direction_only() -> None:
    arrows = dict[str, set[str]]()
    witnesses = dict[tuple[str, str], list[str]]()
    for module, imported in _module_graph().items():
        for other in imported:
            above, below = _room(module), _room(other)
            if above != below:
                arrows.setdefault(above, set()).add(below)
                witnesses.setdefault((above, below), []).append(f"{module} -> {other}")
    circle = _circle(arrows)
    steps = list(pairwise(circle))
    thin = min(steps, key=lambda arrow: len(witnesses[arrow]), default=None)

    assert not circle, (
        f"rooms in a circle: {' -> '.join(circle)}; the thinnest arrow is "
        f"{thin}: {'; '.join(witnesses[thin]) if thin else ''}"
    )


def test_no_module_imports_itself_in_a_circle() -> None:
    circle = _circle(_module_graph())
    assert not circle, f"modules in a circle: {' -> '.join(circle)}"


@each_module
def test_the_network_the_search_and_the_language_model_are_strangers(
    module: str,
) -> None:
    if _room(module) in STRANGERS:
        others = {
            other for other in _module_graph()[module] if _room(other) in STRANGERS
        }
        assert not {o for o in others if _room(o) != _room(module)}, module


@each_module
def test_nobody_imports_the_doors_to_the_street(module: str) -> None:
    entrances = module == "asr.__main__" or _room(module) in STREET
    inside = {other for other in _module_graph()[module] if _room(other) in STREET}
    assert entrances or not inside, f"{module} imports {inside}"


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m.startswith(("asr.training.", "asr.train"))]
)
def test_training_does_not_pass_through_inference(module: str) -> None:
    path = _way(module, "inference")
    assert not path, f"training reaches inference: {' -> '.join(path)}"


@each_module
def test_each_library_has_one_door(module: str) -> None:
    for name in _imports(module):
        libraries = [library for library in DOOR if _is_part(name, library)]
        if libraries:
            door = DOOR[max(libraries, key=len)]
            inside = door.endswith(".") and module.startswith(door)
            assert inside or module == door, (
                f"{module} imports {name}: {door} is its door"
            )


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
    assert not rooms or module.startswith(LAZY), f"{module} imports {rooms} late"


# How a circle or a forbidden way is found


def test_a_circle_is_named() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})[0] in "abc"
    assert _circle({"a": {"b", "c"}, "b": {"c"}}) == []


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


def test_type_checkers_find_the_same_homes() -> None:
    block = next(
        node for node in _tree("asr.__init__").body if isinstance(node, ast.If)
    )
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    homes = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == asr._HOME


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


@cache
def _module_graph() -> dict[str, set[str]]:
    """Each module, and the modules of `asr` that it imports anywhere."""
    return {module: set(_modules_of(_imports(module))) for module in MODULES}


def _modules_of(names: set[str]) -> Iterator[str]:
    for name in names:
        found = [m for m in MODULES if _is_part(name, m.removesuffix(".__init__"))]
        if found:
            yield max(found, key=lambda module: len(module.removesuffix(".__init__")))


def _circle(graph: Graph) -> list[str]:
    """Return one circle, its first node again at its end; nothing if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle[::-1]  # graphlib lists who is imported before who imports
    return []


def _way(start: str, room: str) -> list[str]:
    """Return the shortest way of imports from a module into a room, if there is one."""
    graph = _module_graph()
    ways = deque([[start]])
    seen = {start}
    while ways:
        way = ways.popleft()
        if _room(way[-1]) == room:
            return way
        for other in sorted(graph[way[-1]] - seen):
            seen.add(other)
            ways.append([*way, other])
    return []


def _room(module: str) -> str:
    return module.split(".")[1]


def _is_part(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
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
