"""The pages of the API reference, made while mkdocs builds the site: one a folder.

Nothing is listed by hand: a module that is added to `asr` has its place in them.
"""

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[1] / "asr"
_NOT_CALLED = {"cli", "server"}  # folders that only the command line leads to


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages at the end of the navigation."""
    assert config.nav is not None
    pages = [{title: f"reference/{name}.md"} for name, title in _titles().items()]
    config.nav.append({"API reference": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the files of the site."""
    contents = {"index": _index(), "modules": _page("Single modules", _modules())}
    for folder in _folders():
        modules = [f"asr.{folder}.{path.stem}" for path in _sources(PACKAGE / folder)]
        about = ast.get_docstring(_tree(f"asr.{folder}")) or ""
        contents[folder] = _page(f"asr.{folder}", modules, about)
    for name, content in contents.items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def _titles() -> dict[str, str]:
    folders = {folder: f"asr.{folder}" for folder in _folders()}
    return {"index": "Public names", **folders, "modules": "Single modules"}


def _folders() -> list[str]:
    parents = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return sorted(parents - _NOT_CALLED)


def _modules() -> list[str]:
    return [f"asr.{path.stem}" for path in _sources(PACKAGE)]


def _sources(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.glob("*.py")) if not p.stem.startswith("__")]


def _page(title: str, modules: list[str], about: str = "") -> str:
    return "\n\n".join([f"# {title}", about, *(f"::: {name}" for name in modules)])


def _index() -> str:
    """List what `from asr import …` offers, with the first lines of its docstrings."""
    rows = []
    (for_type_checkers,) = (n for n in _tree("asr").body if isinstance(n, ast.If))
    for node in for_type_checkers.body:
        if isinstance(node, ast.ImportFrom):
            tree = _tree(str(node.module))
            for alias in node.names:
                about = _first_line(tree, alias.name)
                rows.append(
                    f"| [`{alias.name}`][{node.module}.{alias.name}] | {about} |"
                )
    head = (
        "# Public names\n\n`from asr import …` offers these; their modules have more."
    )
    return "\n".join([head, "", "| name | |", "|---|---|", *sorted(rows)])


def _first_line(tree: ast.Module, name: str) -> str:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def _tree(module: str) -> ast.Module:
    path = PACKAGE.parent.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))
