"""`asr explain`: the page of a recording."""

import argparse
import sys
from pathlib import Path
from typing import Any

from asr.cli.options import (
    add_command,
    add_device,
    add_search,
    add_settings,
    check_output,
    load_recognizer,
)


def add(commands: Any) -> None:
    """Add `asr explain`."""
    parser = add_command(
        *(commands, "explain", _explain),
        "write a page with the words, their confidence and times, sound and attention",
        "asr explain talk.flac --output talk.html",
    )
    parser.add_argument("audio", type=Path, metavar="FILE", help="the recording")
    add_settings(parser, "settings of the search, in place of the model's")
    parser.add_argument(
        *("--output", "-o"),
        type=Path,
        metavar="PAGE",
        help="HTML file (default: named as FILE is, in this folder)",
    )
    add_search(parser)
    add_device(parser)


def _explain(args: argparse.Namespace) -> None:
    from asr.reports.recording_page import write_page

    page = args.output or Path(f"{args.audio.stem}.html")
    check_output(page, args.audio)
    transcript = load_recognizer(args).transcribe(args.audio, return_alignment=True)
    write_page(page, args.audio, transcript)
    print(f"asr: wrote {page}", file=sys.stderr)
