"""`asr calibrate`: fit the confidence of words to a model."""

import argparse
from pathlib import Path
from typing import Any

from asr.cli.options import add_command, number, own_process


def add(commands: Any) -> None:
    """Add `asr calibrate`."""
    parser = add_command(
        *(commands, "calibrate", _calibrate),
        "fit the confidence of words to a model, and write it into the model's folder",
        "asr calibrate data/dev.jsonl exp/run",
    )
    parser.add_argument(
        "manifest",
        type=Path,
        help="what to fit it to: recordings that the model did not learn from",
    )
    parser.add_argument(
        "model",
        type=Path,
        help="a model's or a run's folder; gets a confidence.json",
    )
    parser.add_argument(
        "--language-model",
        type=Path,
        metavar="FOLDER",
        help="of a word n-gram (default: the bundled one)",
    )
    parser.add_argument(
        "--processes", **number(None, "worker processes (default: one a core)")
    )


def _calibrate(args: argparse.Namespace) -> None:
    from asr.evaluation.calibration import calibrate
    from asr.model.storage import CALIBRATION, find_model

    own_process()
    print(
        calibrate(
            args.manifest,
            args.model,
            language_model=args.language_model,
            processes=args.processes,
        )
    )
    print(f"wrote {find_model(args.model) / CALIBRATION}")
