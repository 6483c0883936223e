"""`asr ablate`: the same training with one difference a run."""

import argparse
from pathlib import Path
from typing import Any

from asr.cli.options import add_command, number


def add(commands: Any) -> None:
    """Add `asr ablate`."""
    parser = add_command(
        *(commands, "ablate", _ablate),
        "train models that differ in one setting each, and compare them in a table; a "
        "run that was stopped goes on",
        "asr ablate recipes/librispeech/ablation.yaml exp/ablation",
    )
    parser.add_argument(
        "plan",
        type=Path,
        metavar="PLAN.yaml",
        help="config: what all runs share (a path beside the plan); runs: the name of "
        "each and its own settings, as `asr train` takes them; scaling: names of runs "
        "on more and more hours, if wished",
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="for the folders of the runs"
    )
    parser.add_argument(
        "names", nargs="*", metavar="RUN", help="some of the runs (default: all)"
    )
    parser.add_argument(
        "--jobs", **number(2, "trainings at a time, one thread each (default: 2)")
    )


def _ablate(args: argparse.Namespace) -> None:
    from asr.evaluation.ablation import ablate

    ablate(args.plan, args.folder, args.names, args.jobs)
