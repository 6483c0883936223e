"""The `asr` command. Each subcommand is one function that calls the Python API.

What is heavy (torch, and all that stands on it) is imported inside the subcommands:
`asr --help` answers in a tenth of a second.
"""

import argparse
import atexit
import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from asr.cli import (
    decode,
    demo,
    doctor,
    explain,
    export,
    report,
    score,
    train,
    transcribe,
)
from asr.cli.options import one_line
from asr.cli.transcribe import PARTIAL
from asr.errors import AsrError

__all__ = ["PARTIAL", "main", "run"]
_COMMANDS = (transcribe, explain, train, decode, score, report, export, demo, doctor)
_LEAVE_AT_ONCE = (transcribe.run,)
"""Commands that people wait for, and that keep nothing open when they are done."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run() -> NoReturn:
    """Be the `asr` command."""
    args = _parser().parse_args()
    status = _status(args)
    if status == 0 and args.run in _LEAVE_AT_ONCE:
        _leave()
    sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    return _status(_parser().parse_args(argv))


def _leave() -> NoReturn:
    """End this process without Python's taking torch to pieces: 0.3 s and 120 MB."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream:  # a closed one is None
            stream.flush()
    os._exit(0)


def _status(args: argparse.Namespace) -> int:
    """Run a command; return 0, or 1 after a line about what went wrong."""
    try:
        status = int(args.run(args) or 0)
        if sys.stdout:  # closed, it is None
            sys.stdout.flush()  # a full disk is noticed here at the latest
        return status
    except AsrError as error:
        print(one_line(f"asr: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("asr: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, say) has had enough
        return 1
    except OSError as error:
        if error.errno not in _FULL:
            raise
        print(f"asr: cannot write what it found: {error.strerror}", file=sys.stderr)
        return 1


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
