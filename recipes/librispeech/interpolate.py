"""Write the model between the start of a training and its end (`growth.interpolate`).

interpolate.py exp/librispeech/las_mini_stage5 exp/librispeech/las_gpu exp/between

Of several trainings from one start the end is the mean of their ends:

interpolate.py START RUN-1 RUN-2 RUN-3 exp/between --share 1
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from asr.cli.scripts import run_main
from asr.config import load_config
from asr.errors import ConfigError
from asr.model.storage import (
    DESCRIPTION,
    Model,
    find_model,
    load_model,
    save_model,
    stage_folders,
)
from asr.runs.claim import CONFIG
from asr.training.best_model import MODEL
from asr.training.checkpoint import CHECKPOINT
from asr.training.config import TrainingConfig
from asr.training.growth import averaged, interpolate
from asr.training.token_rows import match_tokens


def main() -> None:
    """Read the command line, and write the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("start", help="folder of the model that training started from")
    parser.add_argument("trained", nargs="+", help="folders of runs, or of models")
    parser.add_argument("folder", type=Path, help="for the model between")
    parser.add_argument("--share", type=float, default=0.8, help="of what was trained")
    parser.add_argument(
        "--seed",
        type=int,
        help="training.seed of the training in which the network grew (default: that "
        "of the first run)",
    )
    args = parser.parse_args()
    if not 0 <= args.share <= 1:
        raise ConfigError(f"--share: is from 0 to 1, not {args.share}")
    _check_folder(args.folder)
    start = load_model(find_model(args.start))
    ends = [load_model(find_model(trained)) for trained in args.trained]
    try:
        rows = _rows(start, ends)
        end = averaged([one.las for one in ends])
        seed = _seed(args.trained[0]) if args.seed is None else args.seed
        between = interpolate(start.las, end, args.share, seed, rows)
    except ValueError as error:
        names = ", ".join(args.trained)
        raise ConfigError(f"{names}: did not come of {args.start} ({error})") from error
    measured = ends[0].metadata if len(ends) == 1 else {"mean of trainings": len(ends)}
    metadata = {**measured, "share of the training": args.share}
    save_model(args.folder, between, ends[0].tokenizer, metadata)
    print(f"wrote {args.folder}")


def _check_folder(folder: Path) -> None:
    """Refuse to write over a model or a run: the last folder may have been forgotten.

    Raises:
        ConfigError: it holds one.
    """
    if stage_folders(folder) or any(
        (folder / name).exists() for name in (DESCRIPTION, MODEL, CHECKPOINT)
    ):
        raise ConfigError(
            f"{folder}: holds a model or a run (the last folder is for the model "
            "between: name a new one)"
        )


def _seed(trained: str) -> int:
    """Return a run's seed; that of a model alone is taken for the usual one."""
    settings = find_model(trained).parent / CONFIG
    usual = TrainingConfig.seed
    return load_config(settings).training.seed if settings.exists() else usual


def _rows(start: Model, ends: Sequence[Model]) -> Sequence[int | None] | None:
    """Return where the tokens of the trainings started; None where they are the same.

    Raises:
        ValueError: the trainings write different tokens, or others than the start, and
            not all are characters.
    """
    first, *others = (one.tokenizer for one in ends)
    if any(other.to_dict() != first.to_dict() for other in others):
        raise ValueError("they write different tokens")
    if start.tokenizer.to_dict() == first.to_dict():
        return None
    return match_tokens(start.tokenizer, first).rows


if __name__ == "__main__":
    sys.exit(run_main("interpolate", main))
