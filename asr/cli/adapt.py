"""`asr adapt`: a model and recordings of one's own in, a model that knows them out."""

import argparse
import sys
from pathlib import Path
from typing import Any

from asr.cli.options import add_command, number, one_line


def add(commands: Any) -> None:
    """Add `asr adapt`."""
    parser = add_command(
        *(commands, "adapt", run),
        "adapt a model to recordings of your own; one that was stopped goes on",
        "asr adapt bundled data exp/adapted",
    )
    parser.add_argument(
        "model", help="bundled, or the folder of a model or of a run to start from"
    )
    parser.add_argument(
        "data",
        type=Path,
        help="folder with train.jsonl (and dev.jsonl, else some speakers are held "
        "out), or a manifest",
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="RUN",
        help="for the new model and all that comes with it; made if missing",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="settings of the training that replace those that are chosen",
    )
    parser.add_argument(
        "--dev", type=Path, metavar="FILE", help="manifest of what is held out"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=10.0,
        metavar="N",
        help="of training; decoding before and after comes on top (default: 10)",
    )
    parser.add_argument(
        "--processes",
        **number(None, "that train and decode (default: one a core, at most four)"),
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda or auto (default: auto)"
    )


def run(args: argparse.Namespace) -> None:
    """Adapt a model."""
    from asr.adaptation.adapt import adapt
    from asr.cli.options import own_process

    own_process()
    try:
        adapt(
            args.model,
            args.data,
            args.folder,
            dev=args.dev,
            minutes=args.minutes,
            device=args.device,
            processes=args.processes,
            overrides=args.overrides,
            report=lambda line: print(one_line(line), flush=True),
        )
    except KeyboardInterrupt:
        note = f"asr: {args.folder}: the same command goes on from where it was"
        print(one_line(note), file=sys.stderr)
        raise
