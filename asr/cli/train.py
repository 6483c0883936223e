"""`asr train`: settings in, a trained model out."""

import argparse
import sys
from pathlib import Path
from typing import Any

from asr.cli.options import add_command, one_line


def add(commands: Any) -> None:
    """Add `asr train`."""
    parser = add_command(
        *(commands, "train", run),
        "train a model; a run that was stopped goes on where it was",
        "asr train recipes/toy/las.yaml exp/toy/run training.epochs=12\n"
        "  torchrun --standalone --nproc-per-node 8 -m asr train CONFIG RUN",
    )
    parser.add_argument("config", type=Path, help="YAML file with the settings")
    parser.add_argument("folder", type=Path, help="of the run; made if missing")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="settings that replace those of the file; where it has stages, of all of "
        "them, or of one as stages.2.key=value",
    )


def run(args: argparse.Namespace) -> None:
    """Train a model."""
    from asr.config import load_config, load_stages
    from asr.runs.claim import is_finished
    from asr.stages import are_finished, train_stages
    from asr.train import train
    from asr.training.distributed import errors_for_torchrun, leads_by_environment

    with errors_for_torchrun():
        try:
            if stages := load_stages(args.config, args.overrides):
                was_finished = are_finished(stages, args.folder)
                train_stages(stages, args.folder)
            else:
                config = load_config(args.config, args.overrides)
                was_finished = is_finished(config, args.folder)
                train(config, args.folder)
        except KeyboardInterrupt as stop:
            if leads_by_environment():
                place = _last_stage(args.folder)
                _note(place, str(stop) or _after_interrupt(place))
            raise
    if was_finished and leads_by_environment():
        _note(args.folder, _how_to_go_on(len(stages)))


def _how_to_go_on(num_stages: int) -> str:
    """Return how to train longer what is finished, a run in stages or without (0)."""
    last = f"stages.{num_stages}." if num_stages else ""
    return (
        f"was finished before (a larger {last}training.epochs or "
        f"{last}training.minutes trains longer)"
    )


def _last_stage(folder: Path) -> Path:
    """Return the folder of the last stage that a run has begun, if it has stages."""
    from asr.model.storage import stage_folders

    return [folder, *stage_folders(folder).values()][-1]


def _after_interrupt(folder: Path) -> str:
    """Return from where the same command will go on."""
    from asr.training.checkpoint import CHECKPOINT

    if (folder / CHECKPOINT).exists():
        return "the same command goes on from the last checkpoint"
    return (
        "holds no checkpoint yet, the same command begins anew "
        "(training.checkpoint_minutes is the time between two)"
    )


def _note(folder: Path, note: str) -> None:
    print(one_line(f"asr: {folder}: {note}"), file=sys.stderr)
