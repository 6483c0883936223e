"""Which recordings are meant: files, folders, patterns, and times in them."""

import glob
import os
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from typing import NamedTuple

from asr.audio import AUDIO_SUFFIXES
from asr.errors import AudioError


class Source(NamedTuple):
    """A recording that was asked for."""

    path: Path
    name: str
    """For what is written about it: its path below the folder given, without ending."""


def find_sources(arguments: Sequence[str]) -> list[Source | AudioError]:
    """Find the recordings that files, folders and patterns stand for.

    Args:
        arguments: a file stands for itself, whether it is there or not; a folder for
            all audio in it and below; a pattern (`talks/**/*.mp3`) for what it matches.

    Returns:
        Each recording once, in the order of the arguments, those of a folder or pattern
        in alphabetical order; in place of a folder or pattern without any, what is
        wrong with it. No two names are the same.
    """
    found = dict[Path, str | AudioError]()
    for argument in arguments:
        for source in _expanded(argument):
            if isinstance(source, AudioError):
                found.setdefault(Path(argument), source)
            else:
                found.setdefault(source.path, source.name)
    taken = set[str]()
    return [
        name if isinstance(name, AudioError) else Source(path, _free(path, name, taken))
        for path, name in found.items()
    ]


def _expanded(argument: str) -> Iterator[Source | AudioError]:
    path = Path(argument)
    if not argument:
        yield AudioError("'': is no path (is a variable empty?)")
    elif path.is_dir():
        inside = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in AUDIO_SUFFIXES and file.is_file()
        )
        for file in inside:
            yield Source(file, str(file.relative_to(path).with_suffix("")))
        if not inside:
            yield AudioError(f"{path}: holds no audio files")
    elif glob.has_magic(argument) and not os.path.lexists(path):
        matches = sorted(glob.glob(argument, recursive=True))
        files = [Path(match) for match in matches if not os.path.isdir(match)]
        for file in files:
            yield Source(file, file.stem)
        if not files:
            yield AudioError(f"{argument}: matches no file")
    else:
        yield Source(path, path.stem)


def _free(path: Path, name: str, taken: set[str]) -> str:
    """Find a name that no other recording has: with its ending, then with a number."""
    candidate, number = name, 1
    while candidate.casefold() in taken:
        candidate = (
            name + path.suffix if number == 1 else f"{name}{path.suffix}-{number}"
        )
        number += 1
    taken.add(candidate.casefold())
    return candidate


def parse_clip(text: str) -> tuple[float, float | None]:
    """Read START:END, in seconds; either may be missing.

    >>> parse_clip("90:120.5"), parse_clip("90:"), parse_clip(":2")
    ((90.0, 120.5), (90.0, None), (0.0, 2.0))

    Raises:
        ValueError: it is not of this form, or ends before it starts.
    """
    start_text, colon, end_text = text.partition(":")
    try:
        start = float(start_text or 0)
        end = float(end_text) if end_text else None
    except ValueError:
        colon = ""
    if not colon or not 0 <= start < inf:
        raise ValueError(f"{text} is not START:END in seconds (say 90:120.5)")
    if end is not None and not start < end:
        raise ValueError(f"{text} is not START:END in seconds (it ends too early)")
    return start, end
