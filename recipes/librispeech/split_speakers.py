"""Cut a manifest in two by its speakers.

    python recipes/librispeech/split_speakers.py DATA/dev-clean.jsonl --every 3

writes every third speaker's utterances, in the order of the speakers' numbers, to
DATA/dev-clean.held.jsonl and the others' to DATA/dev-clean.rest.jsonl: once everything
has been chosen on dev, the last training may learn from the rest, too, and the speakers
that are held out still show how good it is.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # so that it runs as a script, too

from asr.cli.scripts import run_main
from asr.data.manifest import read_manifest, write_manifest
from asr.errors import ManifestError


def main(arguments: Sequence[str] | None = None) -> int:
    """Cut what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="split_speakers", description="Cut a manifest in two by its speakers."
    )
    add = parser.add_argument
    add("manifest", type=Path, metavar="MANIFEST")
    add("--every", type=int, default=3, metavar="N", help="hold out every Nth speaker")
    options = parser.parse_args(arguments)
    return run_main("split_speakers", lambda: _split(options.manifest, options.every))


def _split(manifest: Path, every: int) -> None:
    utterances = read_manifest(manifest)
    unknown = [u.id for u in utterances if not u.speaker]
    if unknown:
        raise ManifestError(f"{manifest}: {unknown[0]} names no speaker")
    speakers = sorted({u.speaker for u in utterances}, key=_order)
    if not 2 <= every <= len(speakers):
        raise ManifestError(
            f"{manifest}: --every must be from 2 to its {len(speakers)} speakers, "
            f"not {every}"
        )
    held = set(speakers[every - 1 :: every])
    for name, chosen in (
        ("held", [u for u in utterances if u.speaker in held]),
        ("rest", [u for u in utterances if u.speaker not in held]),
    ):
        path = manifest.with_name(
            f"{manifest.name.removesuffix('.jsonl')}.{name}.jsonl"
        )
        write_manifest(path, chosen)
        hours = sum(u.duration for u in chosen) / 3600
        count = len({u.speaker for u in chosen})
        print(
            f"{path}: {count} speakers, {len(chosen)} utterances, {hours:.2f} h",
            flush=True,
        )


def _order(speaker: str) -> tuple[int, str, str]:
    """Numbers by size, then names.

    >>> sorted(["b", "10", "9", "09"], key=_order)
    ['09', '9', '10', 'b']
    """
    if not speaker.isdecimal():
        return sys.maxsize, speaker, speaker
    digits = speaker.lstrip("0")
    return len(digits), digits, speaker


if __name__ == "__main__":
    sys.exit(main())
