"""`asr data`: what is done with a corpus before anything learns from it."""

import argparse
from pathlib import Path
from typing import Any

from asr.cli.options import add_command


def add(commands: Any) -> None:
    """Add `asr data shard`."""
    parser = commands.add_parser(
        "data",
        help="prepare a corpus: shards for large ones",
        description="Prepare a corpus.",
        epilog="`asr data COMMAND --help` shows an example of each command.",
    )
    _add_shard(parser.add_subparsers(required=True, metavar="COMMAND"))


def _add_shard(commands: Any) -> None:
    parser = add_command(
        *(commands, "shard", _shard),
        "write a corpus as shards: tar files of its audio that are read front to back",
        "asr data shard data/train.jsonl data/train-shards\n"
        "  asr train CONFIG RUN data.train=[data/train-shards/manifest.jsonl]",
    )
    parser.add_argument("manifest", type=Path, help="the corpus")
    parser.add_argument(
        "folder", type=Path, help="for shards and their manifest; must not exist"
    )
    parser.add_argument(
        "--hours",
        type=float,
        default=1.0,
        metavar="X",
        help="speech in a shard, about, at most (default: 1)",
    )


def _shard(args: argparse.Namespace) -> None:
    from asr.data.shards import write_shards

    print(write_shards(args.manifest, args.folder, args.hours))
