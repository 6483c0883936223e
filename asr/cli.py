"""The `asr` command. Each subcommand is one function that calls the Python API."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from asr.errors import AsrError

# Imports of the rest stand in the functions: `asr --help` must answer at once.


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 after telling the user what to mend."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except AsrError as error:
        print(f"asr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("asr: stopped", file=sys.stderr)
        return 130
    return 0


def _train(args: argparse.Namespace) -> None:
    from asr.config import load_config
    from asr.experiment import train

    train(load_config(args.config, args.overrides), args.folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asr", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train a model")
    train.add_argument("config", type=Path)
    train.add_argument("folder", type=Path)
    train.add_argument("overrides", nargs="*", metavar="key=value")
    train.set_defaults(run=_train)
    return parser


if __name__ == "__main__":
    sys.exit(main())
