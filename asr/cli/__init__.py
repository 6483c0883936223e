"""The `asr` command. Each subcommand is one function that calls the Python API.

What is heavy (torch, and all that stands on it) is imported inside the subcommands:
`asr --help` answers in a tenth of a second.
"""

import argparse
import atexit
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from asr.cli import (
    ablate,
    decode,
    demo,
    doctor,
    explain,
    export,
    lm,
    report,
    score,
    train,
    transcribe,
)
from asr.cli.scripts import run_main
from asr.cli.transcribe import PARTIAL

__all__ = ["PARTIAL", "main", "run"]
_COMMANDS = (
    *(transcribe, explain, train, lm, decode, score, report, ablate, export, demo),
    doctor,
)


def run() -> NoReturn:
    """Be the `asr` command, and leave at once where all went well.

    Python would take torch to pieces first, for 0.3 s and 120 MB.
    """
    status = main()
    if status:
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream:  # a closed one is None
            stream.flush()
    os._exit(0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 after printing what the user can correct."""
    args = _parser().parse_args(argv)
    return run_main("asr", lambda: args.run(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asr",
        description="Listen, Attend and Spell: speech recognition from audio to text.",
        epilog="`asr COMMAND --help` shows an example of each command.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser
