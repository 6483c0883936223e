"""Prepare LibriSpeech: one manifest for each subset of it.

    python recipes/librispeech/prepare.py CORPUS DATA

is `asr prepare CORPUS DATA --format librispeech`, and shows how much of what was
published is there. It reads CORPUS/train-clean-100/19/198/19-198-0001.flac and
19-198.trans.txt, and so on, and writes DATA/train-clean-100.jsonl. The audio stays
where it is. CORPUS may also be the folder that holds a `LibriSpeech` folder; the audio
may end in .flac, .wav, .ogg, .opus or .mp3. What is wrong with single utterances is
listed in DATA/<subset>.problems.txt and does not stop the others.

    python recipes/librispeech/prepare.py CORPUS DATA --download train-clean-5

fetches a subset into CORPUS first, if it is not there.

Source: Panayotov, Chen, Povey and Khudanpur (2015), "Librispeech: an ASR corpus based
on public domain audio books"; https://www.openslr.org/12 and /31 (Mini LibriSpeech).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # so that it runs as a script, too

from asr.cli.scripts import run_main
from asr.data.prepare import PrepareConfig, count, prepare
from recipes.librispeech.download import ARCHIVES, download
from recipes.librispeech.published import measure, table


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare what the command line asks for; return the exit status."""
    options = _parse(arguments)
    return run_main("prepare", lambda: _run(options))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="prepare", description="Write a manifest for each subset of LibriSpeech."
    )
    add = parser.add_argument
    add("corpus", type=Path, metavar="CORPUS", help="folder of the corpus")
    add("data", type=Path, metavar="DATA", help="folder for the manifests")
    add(
        "--download",
        nargs="+",
        default=[],
        choices=ARCHIVES,
        metavar="S",
        help=f"fetch these subsets from OpenSLR first: {', '.join(ARCHIVES)}",
    )
    add(
        "--subsets",
        nargs="+",
        metavar="S",
        help="folders of CORPUS to prepare (default: all known ones that are there)",
    )
    add(
        "--processes",
        type=_positive,
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="how many processes read the audio (default: %(default)s)",
    )
    add(
        "--steps-per-second",
        type=_positive,
        default=25,
        metavar="R",
        help="the model's rate, to find what is too dense for CTC (default: 25)",
    )
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above zero")
    return int(text)


def _run(options: argparse.Namespace) -> None:
    for subset in options.download:
        download(subset, options.corpus)
    config = PrepareConfig(
        format="librispeech",
        subsets=tuple(options.subsets) if options.subsets else None,
        steps_per_second=options.steps_per_second,
        processes=options.processes,
    )
    found = prepare(options.corpus, options.data, config)
    for subset in found.subsets:
        for line in count(subset.problems):
            print(f"prepare: {subset.listing}: {line}", file=sys.stderr)
    print(table((subset.name, measure(subset.utterances)) for subset in found.subsets))


if __name__ == "__main__":
    sys.exit(main())
