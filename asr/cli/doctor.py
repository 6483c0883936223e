"""`asr doctor`: what is wrong here."""

import argparse
from typing import Any

from asr.cli.options import add_command


def add(commands: Any) -> None:
    """Add `asr doctor`."""
    add_command(
        *(commands, "doctor", _doctor),
        "check this machine and installation, and print how to repair them",
        "asr doctor && asr demo demo.html",
    )


def _doctor(args: argparse.Namespace) -> int:
    from asr.doctor import examine

    failed = 0
    for check in examine():
        print(check, flush=True)
        failed += bool(check.remedy)
    print(f"failed checks: {failed or 'none'}")
    return 1 if failed else 0
