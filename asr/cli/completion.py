"""`asr --print-completion SHELL`: what a shell needs to complete `asr` at a tab."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Add `--print-completion` to the parser of the whole command."""
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=SHELLS,
        help="print a script for this shell that completes commands and options",
    )


class _PrintCompletion(argparse.Action):
    """Print the script and end; shtab is imported only here, as it takes 40 ms."""

    def __call__(
        self, parser: argparse.ArgumentParser, *given: Any, **others: Any
    ) -> None:
        import shtab

        shell = given[1]
        for action in _actions(parser):
            if action.type is Path or action.dest == "paths":
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        print(shtab.complete(parser, shell))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield all options and arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
