"""`asr decode`: transcribe a manifest."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.cli.options import (
    add_command,
    add_device,
    add_machines,
    add_search,
    add_settings,
    cluster_of,
    decoding_of,
    device_of,
    one_line,
    own_process,
    shard_of,
)

if TYPE_CHECKING:
    from asr.inference.hypotheses import Decoded


def add(commands: Any) -> None:
    """Add `asr decode`."""
    parser = add_command(
        *(commands, "decode", _decode),
        "transcribe all utterances of a manifest, in processes or on many machines",
        "asr decode data/test-clean.jsonl exp/decoded --model exp/run",
    )
    parser.add_argument("manifest", type=Path, help="the utterances to transcribe")
    parser.add_argument("folder", type=Path, help="for the hypotheses; made if missing")
    add_settings(parser, "settings of the search, in place of the model's")
    add_search(parser)
    add_device(parser)
    add_machines(parser, "manifest (asr merge FOLDER puts them together)")


def _decode(args: argparse.Namespace) -> int:
    from asr.inference.parallel import decode

    own_process()
    cluster = cluster_of(args)
    decoded = decode(
        args.model,
        args.manifest,
        args.folder,
        decoding_of(args),
        precision=args.precision,
        processes=args.processes,
        language_model=args.language_model,
        device=args.device if cluster else device_of(args.device).type,
        shard=shard_of(args),
        cluster=cluster,
    )
    status = show_decoded(decoded)
    if args.shard is None:
        _show_rate(args.manifest, args.folder)
    return status


def _show_rate(manifest: Path, folder: Path) -> None:
    """Print the word error rate and what comes next, if it is known what was said."""
    from asr.data.manifest import read_paired
    from asr.inference.hypotheses import HYPOTHESES
    from asr.scoring import word_error_rate

    path = folder / HYPOTHESES
    said, found = read_paired(manifest, path)
    references = [utterance.text for utterance in said]
    if any(references):
        print(f"%WER {word_error_rate(references, [one.text for one in found])}")
        command = shlex.join(["asr", "score", str(manifest), str(path), "--details"])
        print(one_line(f"next: {command}"))


def show_decoded(decoded: "Decoded") -> int:
    """Print what came of a manifest; return the exit status."""
    for error in decoded.errors:
        print(one_line(f"asr: {error}"), file=sys.stderr)
    print(decoded)
    return 1 if decoded.errors else 0
