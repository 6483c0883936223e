"""`asr export`: a model to hand on."""

import argparse
import sys
from pathlib import Path
from typing import Any

from asr.cli.options import add_command


def add(commands: Any) -> None:
    """Add `asr export`."""
    parser = add_command(
        *(commands, "export", _export),
        "pack the best model of a run into a folder, at half or a quarter of the size",
        "asr export exp/run my-model",
    )
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN", help="folder of a run or of a model"
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="for the model; made, or replaced where it holds one (RUN itself, say)",
    )
    parser.add_argument(
        "--weights",
        choices=("float16", "int8"),
        default="float16",
        help="what the weights become: float16, half the size, or int8, about a "
        "quarter, each row of a matrix as bytes with a scale (default: float16)",
    )


def _export(args: argparse.Namespace) -> None:
    from asr.model.export import export

    exported = export(args.run_folder, args.folder, args.weights)
    print(f"asr: wrote {args.folder}: {exported.card}", file=sys.stderr)
