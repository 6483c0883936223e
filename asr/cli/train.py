"""`asr train`: settings in, a trained model out."""

import argparse
from pathlib import Path
from typing import Any

from asr.cli.options import add_command


def add(commands: Any) -> None:
    """Add `asr train`."""
    parser = add_command(
        *(commands, "train", _train),
        "train a model; a run that was stopped goes on where it was",
        "asr train recipes/toy/las.yaml exp/toy/run training.epochs=12",
    )
    parser.add_argument("config", type=Path, help="YAML file with the settings")
    parser.add_argument("folder", type=Path, help="of the run; made if missing")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings that replace those of the file",
    )


def _train(args: argparse.Namespace) -> None:
    from asr.config import load_config
    from asr.train import train

    train(load_config(args.config, args.overrides), args.folder)
