"""Prepare LibriSpeech: one manifest for each subset of it.

    python recipes/librispeech/prepare.py CORPUS DATA

reads CORPUS/train-clean-100/19/198/19-198-0001.flac and 19-198.trans.txt, and so on,
and writes DATA/train-clean-100.jsonl. The audio stays where it is. CORPUS may also be
the folder that holds a `LibriSpeech` folder; the audio may end in .flac, .wav, .ogg,
.opus or .mp3. What is wrong with single utterances is listed in
DATA/<subset>.problems.txt and does not stop the others.

    python recipes/librispeech/prepare.py CORPUS DATA --download train-clean-5

fetches a subset into CORPUS first, if it is not there.

Source: Panayotov, Chen, Povey and Khudanpur (2015), "Librispeech: an ASR corpus based
on public domain audio books"; https://www.openslr.org/12 and /31 (Mini LibriSpeech).
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from asr.cli.scripts import run_main
from asr.data.manifest import write_manifest
from asr.errors import CorpusError, one_line

sys.path.append(str(Path(__file__).parents[2]))  # so that it runs as a script, too

from recipes.librispeech.corpus import (
    Kind,
    Prepared,
    Problem,
    dense,
    find_chapters,
    find_subsets,
    read_chapters,
    readers,
)
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
    folders = find_subsets(options.corpus, options.subsets)
    chapters = {subset: find_chapters(folder) for subset, folder in folders.items()}
    _make_folder(options.data)
    rows = []
    with readers(options.processes) as map_chapters:
        for subset, paths in chapters.items():
            found = read_chapters(paths, map_chapters, subset)
            found.problems.extend(dense(found.utterances, options.steps_per_second))
            if not found.utterances:
                raise CorpusError(_nothing_usable(folders[subset], found.problems))
            _write(options.data, subset, found)
            rows.append((subset, measure(found.utterances)))
    print(table(rows))


def _nothing_usable(folder: Path, problems: Iterable[Problem]) -> str:
    counts = ", ".join(_count(problems)) or "the transcripts are empty"
    return f"{folder}: holds no usable speech ({counts})"


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be made ({error.strerror})") from error


def _write(data: Path, subset: str, found: Prepared) -> None:
    listing = data / f"{subset}.problems.txt"
    lines = sorted(one_line(f"{one.kind}: {one.what}") + "\n" for one in found.problems)
    try:
        write_manifest(data / f"{subset}.jsonl", found.utterances)
        if lines:
            listing.write_text("".join(lines), encoding="utf-8")
        else:
            listing.unlink(missing_ok=True)
    except OSError as error:
        raise CorpusError(f"{data}: cannot be written ({error.strerror})") from error
    for count in _count(found.problems):
        print(f"prepare: {listing}: {count}", file=sys.stderr)


def _count(problems: Iterable[Problem]) -> list[str]:
    counts = Counter(problem.kind for problem in problems)
    return [f"{counts[kind]} x {kind}" for kind in Kind if kind in counts]


if __name__ == "__main__":
    sys.exit(main())
