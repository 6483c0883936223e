"""README and documentation keep their word.

Their Python runs, their commands have the options that they are shown with, what a
command is shown to print is what it prints, and their links lead somewhere.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import soundfile

from asr.audio import SAMPLE_RATE, read_waveform
from asr.cli import _parser, main

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "asr" / "assets" / "sample.opus"
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("recipes/**/*.md"),
        *ROOT.glob("asr/assets/**/*.md"),
    ]
)
SHELL = {"console", "bash", "sh"}
ENDS = {"|", "||", "&&", "&", ";", ">", ">>", "<"}
"""Signs of a shell after which another command, or none, begins."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    """Number of the line that opens it."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


class Command(NamedTuple):
    """A line for a shell, and what it is shown to print."""

    block: Block
    line: str
    printed: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found[1], found[2])


def commands(block: Block) -> Iterator[Command]:
    """Read a block: all of its lines, or, if some begin with "$ ", those."""
    text = block.text.replace("\\\n", " ")
    if re.search(r"^\$ ", text, re.M):
        for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
            line, _, printed = part.partition("\n")
            yield Command(block, line, printed)
    else:
        for line in text.splitlines():
            yield Command(block, line, "")


def programs(line: str) -> Iterator[list[str]]:
    """Cut a line into the programs that a shell would start, without `python -m`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word in ENDS:
            if words[:2] == ["python", "-m"]:
                words = words[2:]
            if words:
                yield words
            words = []
        else:
            words.append(word)


LONG = ("extending-attention.md", "aligning.md")
"""Pages that train something, or transcribe for long."""
BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [
    command
    for block in BLOCKS
    if block.language in SHELL
    for command in commands(block)
]
ASR_LINES = sorted(
    {
        (str(command.block), shlex.join(words))
        for command in COMMANDS
        for words in programs(command.line)
        if words[0] == "asr"
    }
)
INLINE = sorted(
    {
        (str(page.relative_to(ROOT)), code)
        for page in PAGES
        for code in re.findall(r"(?<!`)`(asr [^`]+)`", page.read_text(encoding="utf-8"))
    }
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow) if page.name in LONG else page
        for page in sorted({b.page for b in BLOCKS if b.language == "python"})
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_python_runs(page: Path, tmp_path: Path) -> None:
    """One block after the other, as a reader would type them."""
    soundfile.write(tmp_path / "talk.flac", read_waveform(SAMPLE).numpy(), SAMPLE_RATE)
    lines = [""] * page.read_text(encoding="utf-8").count("\n")
    for block in blocks(page):
        if block.language == "python":
            code = block.text.splitlines()
            lines[block.line : block.line + len(code)] = code  # as numbered in the page
    program = tmp_path / f"{page.stem}.py"
    program.write_text("\n".join(lines), encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-W", "error", program.name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("place", "line"), ASR_LINES)
def test_the_commands_have_these_options(place: str, line: str) -> None:
    status: object = 0
    try:
        strict_parser().parse_args(shlex.split(line)[1:])
    except SystemExit as stopped:  # so do --help and the like, with 0
        status = stopped.code

    assert status == 0, f"{place}: {line}"


@pytest.mark.parametrize(("page", "code"), INLINE)
def test_a_command_within_a_sentence_exists(page: str, code: str) -> None:
    parser, words = _parser(), re.findall(r"[^\s…]+", code)[1:]
    while words and (command := _subparsers(parser).get(words[0])):
        parser, words = command, words[1:]
    options = {option for action in parser._actions for option in action.option_strings}

    assert {word for word in words if word.startswith("--")} <= options, page
    assert not (_subparsers(parser) and words) or words[0].startswith("--"), page


@pytest.mark.parametrize(
    ("line", "printed"),
    sorted({(c.line, c.printed) for c in COMMANDS if "asr/assets/" in c.line}),
)
def test_what_is_printed_is_shown(
    line: str,
    printed: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)

    main(shlex.split(line)[1:])

    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("place", "path"),
    sorted(
        {
            (str(command.block), word)
            for command in COMMANDS
            for words in programs(command.line)
            for word in words
            if word.startswith(("recipes/", "tools/", "tests/", "asr/"))
        }
    ),
)
def test_the_files_of_commands_are_there(place: str, path: str) -> None:
    assert (ROOT / path).exists(), place


@pytest.mark.parametrize(
    ("page", "link"),
    sorted(
        {
            (page, link)
            for page in PAGES
            for link in re.findall(
                r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")
            )
        }
    ),
    ids=str,
)
def test_the_links_lead_somewhere(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    if target == ROOT / "docs" / "reference" / "index.md":
        return  # made while the site is built, which finds broken links there itself

    assert target.exists()
    if anchor:
        assert anchor in anchors(target)


def test_there_is_something_to_try() -> None:
    languages = {block.language for block in BLOCKS if block.page.name == "README.md"}
    assert {"python", "console", "bash"} <= languages
    assert len(ASR_LINES) > 20
    assert len(INLINE) > 20


def strict_parser() -> argparse.ArgumentParser:
    """Return that of `asr`, without options cut short: `--out` for `--output-dir`."""
    parsers = [parser := _parser()]
    while parsers:
        one = parsers.pop()
        one.allow_abbrev = False
        parsers.extend(_subparsers(one).values())
    return parser


def anchors(page: Path) -> set[str]:
    """Return those of the headings, as mkdocs and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    words = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"\s+", "-", one) for one in words}


def _subparsers(
    parser: argparse.ArgumentParser,
) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def test_each_promise_names_tests_that_are_there() -> None:
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[^`]+)`", text)

    assert len(named) > 20
    for name in named:
        path, _, function = name.partition("::")
        assert f"def {function}" in (ROOT / path).read_text(encoding="utf-8"), name
