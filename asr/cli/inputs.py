"""Which recordings are meant: files, folders, patterns, and times in them."""

import glob
import os
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from typing import NamedTuple

from asr.audio import AUDIO_SUFFIXES
from asr.errors import AudioError
from asr.files import errors_of
from asr.real_folders import walk


class Source(NamedTuple):
    """A recording that was asked for."""

    path: Path
    name: str
    """For what is written about it: its path below the folder given, without ending."""


def find_sources(arguments: Sequence[str]) -> list[Source | AudioError]:
    """Find the recordings that files, folders and patterns stand for.

    Args:
        arguments: a file stands for itself, whether it is there or not; a folder for
            all audio in it and below, behind links too; a pattern (`talks/**/*.mp3`)
            for what it matches.

    Returns:
        Each recording once, in the order of the arguments, those of a folder or pattern
        in alphabetical order; in place of a folder or pattern without any, what is
        wrong with it. No two names are the same.
    """
    found = dict[Path, str | AudioError]()
    for argument in arguments:
        try:
            with errors_of(argument):
                for path, name in _expanded(argument):
                    found.setdefault(path, name)
        except AudioError as error:
            found.setdefault(Path(argument), error)
    taken = set[str]()
    return [
        name if isinstance(name, AudioError) else Source(path, _free(path, name, taken))
        for path, name in found.items()
    ]


def _expanded(argument: str) -> Iterator[tuple[Path, str | AudioError]]:
    """Yield paths, and the name of each or what is wrong with it."""
    path = Path(argument)
    if not argument:
        raise AudioError("'': is no path (is a variable empty?)")
    if path.is_dir():
        yield from _inside(path)
    elif glob.has_magic(argument) and not os.path.lexists(path):
        matches = sorted(glob.glob(argument, recursive=True))
        files = [Path(match) for match in matches if not os.path.isdir(match)]
        for file in files:
            yield file, file.stem
        if not files:
            raise AudioError(f"{argument}: matches no file")
    else:
        yield path, path.stem


def _inside(folder: Path) -> Iterator[tuple[Path, str | AudioError]]:
    """Yield the audio in a folder and below, and what of it cannot be looked into."""
    closed = list[OSError]()
    files = sorted(
        place / name
        for place, names in walk(folder, closed.append, hidden=True)
        for name in names
        if _is_audio(place, name)
    )
    for file in files:
        yield file, str(file.relative_to(folder).with_suffix(""))
    for error in closed:
        place = Path(error.filename)
        yield place, AudioError(f"{place}: cannot be read ({error.strerror})")
    if not files and not closed:
        raise AudioError(f"{folder}: holds no audio files")


def _is_audio(folder: Path, name: str) -> bool:
    """Return whether a file is audio by its name, and none of macOS's notes on one."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in AUDIO_SUFFIXES or name.startswith("._"):
        return False
    return os.path.isfile(folder / name)


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
