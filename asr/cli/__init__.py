"""The `asr` command. Each subcommand is one function that calls the Python API.

What is heavy (torch, and all that stands on it) is imported inside the subcommands:
`asr --help` answers in a tenth of a second.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from asr.cli import (
    ablate,
    adapt,
    align,
    calibrate,
    data,
    decode,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    live,
    lm,
    merge,
    prepare,
    push,
    report,
    score,
    serve,
    train,
    transcribe,
    tune,
)
from asr.cli.completion import add_completion
from asr.cli.options import Parser, add_version
from asr.cli.scripts import run_main
from asr.cli.transcribe import PARTIAL

__all__ = ["PARTIAL", "main", "run"]
_COMMANDS = (
    *(transcribe, live, serve, align, explain, prepare, data, train, adapt, lm),
    *(decode, merge, score, report, tune, calibrate, evaluate, ablate, export, push),
    *(demo, doctor),
)
_LEAVE_AT_ONCE = (transcribe.run,)
"""Commands that people wait for, and that keep nothing open when they are done."""


def run() -> NoReturn:
    """Be the `asr` command."""
    args = _parser().parse_args()
    status = _status(args)
    if status == 0 and args.run in _LEAVE_AT_ONCE:
        _end(status)
    if args.run is train.run and "torch" in sys.modules:
        _end(status)  # its threads may still be at work after an interrupt
    sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    return _status(_parser().parse_args(argv))


def _status(args: argparse.Namespace) -> int:
    """Run a command; return its exit status, 1 after a line about what went wrong."""
    return run_main("asr", lambda: args.run(args))


def _end(status: int) -> NoReturn:
    from asr.memory import end_process

    end_process(status)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="asr",
        description="Listen, Attend and Spell: speech recognition from audio to text.",
        epilog="`asr COMMAND --help` shows an example of each command.",
    )
    add_version(parser)
    add_completion(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser
