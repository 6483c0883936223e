"""`asr decode`: transcribe a manifest."""

import argparse
import sys
from pathlib import Path
from typing import Any

from asr.cli.options import (
    add_command,
    add_search,
    add_settings,
    decoding_of,
    number,
    one_line,
    own_process,
)


def add(commands: Any) -> None:
    """Add `asr decode`."""
    parser = add_command(
        *(commands, "decode", _decode),
        "transcribe all utterances of a manifest, in several processes",
        "asr decode data/test-clean.jsonl exp/decoded --model exp/run",
    )
    parser.add_argument("manifest", type=Path, help="the utterances to transcribe")
    parser.add_argument("folder", type=Path, help="for the hypotheses; made if missing")
    add_settings(parser, "settings of the search, in place of the model's")
    add_search(parser)
    parser.add_argument(
        "--processes", **number(None, "worker processes (default: one a core)")
    )


def _decode(args: argparse.Namespace) -> int:
    from asr.inference.parallel import decode

    own_process()
    decoded = decode(
        args.model,
        args.manifest,
        args.folder,
        decoding_of(args),
        precision=args.precision,
        processes=args.processes,
        language_model=args.language_model,
    )
    for error in decoded.errors:
        print(one_line(f"asr: {error}"), file=sys.stderr)
    print(decoded)
    return 1 if decoded.errors else 0
