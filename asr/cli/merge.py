"""`asr merge`: the shards of a manifest, put together."""

import argparse
from pathlib import Path
from typing import Any

from asr.cli.decode import show_decoded
from asr.cli.options import add_command


def add(commands: Any) -> None:
    """Add `asr merge`."""
    parser = add_command(
        *(commands, "merge", _merge),
        "put together what `asr decode --shard` wrote, as one run would have",
        "asr merge exp/decoded",
    )
    parser.add_argument("folder", type=Path, help="that all shards were decoded into")


def _merge(args: argparse.Namespace) -> int:
    from asr.inference.shards import merge

    return show_decoded(merge(args.folder))
