"""Write the model between the start of a training and its end (`growth.interpolate`).

interpolate.py exp/librispeech/las_mini_stage5 exp/librispeech/las_gpu exp/between

Of several trainings from one start the end is the mean of their ends:

interpolate.py START RUN-1 RUN-2 RUN-3 exp/between --share 1
"""

import argparse
import sys
from pathlib import Path

from asr.cli.scripts import run_main
from asr.errors import ConfigError
from asr.model.storage import find_model, load_model, save_model
from asr.training.growth import averaged, interpolate


def main() -> None:
    """Read the command line, and write the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("start", help="folder of the model that training started from")
    parser.add_argument("trained", nargs="+", help="folders of runs, or of models")
    parser.add_argument("folder", type=Path, help="for the model between")
    parser.add_argument("--share", type=float, default=0.8, help="of what was trained")
    parser.add_argument("--seed", type=int, default=7, help="training.seed")
    args = parser.parse_args()
    if not 0 <= args.share <= 1:
        raise ConfigError(f"--share: is from 0 to 1, not {args.share}")
    start = load_model(find_model(args.start))
    ends = [load_model(find_model(trained)) for trained in args.trained]
    try:
        end = averaged([one.las for one in ends])
        between = interpolate(start.las, end, args.share, args.seed)
    except ValueError as error:
        names = ", ".join(args.trained)
        raise ConfigError(f"{names}: did not come of {args.start} ({error})") from error
    measured = ends[0].metadata if len(ends) == 1 else {"mean of trainings": len(ends)}
    metadata = {**measured, "share of the training": args.share}
    save_model(args.folder, between, ends[0].tokenizer, metadata)
    print(f"wrote {args.folder}")


if __name__ == "__main__":
    sys.exit(run_main("interpolate", main))
