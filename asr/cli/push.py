"""`asr push`: a model for everybody, or for a team, on the Hugging Face Hub."""

import argparse
import sys
from pathlib import Path
from typing import Any

from asr.cli.options import add_command


def add(commands: Any) -> None:
    """Add `asr push`."""
    parser = add_command(
        *(commands, "push", _push),
        "upload a model with its card to the Hugging Face Hub (extra: hub)",
        "asr push my-model hf:ann/las-german --private",
    )
    parser.add_argument("model", type=Path, help="a model's folder, see asr export")
    parser.add_argument(
        "name", metavar="hf:USER/NAME", help="of the repository; made if there is none"
    )
    parser.add_argument(
        "--private", action="store_true", help="make a new repository private"
    )
    parser.add_argument("--message", default="", help="of the commit")


def _push(args: argparse.Namespace) -> None:
    from asr.model.publishing import publish

    published = publish(
        args.model, args.name, private=args.private, message=args.message
    )
    for note in published.notes:
        print(f"asr: {note}", file=sys.stderr)
    print(published.url)
    print(published.name)
