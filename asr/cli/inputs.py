"""Which recordings are meant: files, folders, patterns, and times in them."""

import glob
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from typing import NamedTuple

from asr.audio import AUDIO_SUFFIXES
from asr.errors import AudioError
from asr.files import errors_of
from asr.real_folders import walk

_CHANNEL = re.compile(r"\.(left|right|[0-9]+)$")
"""What `--channel split` adds to a name."""


class Source(NamedTuple):
    """A recording that was asked for."""

    path: Path
    name: str
    """For what is written about it: its path below the folder given, without ending, or
    more of its path where others would have the same name."""


def find_sources(
    arguments: Sequence[str], *, split: bool = False
) -> list[Source | AudioError]:
    """Find the recordings that files, folders and patterns stand for.

    Args:
        arguments: a file stands for itself, whether it is there or not; a folder for
            all audio in it and below, behind links too; a pattern (`talks/**/*.mp3`)
            for what it matches.
        split: whether `.left`, `.right` or a channel's number may be added to names.

    Returns:
        Each recording once, in the order of the arguments, those of a folder or pattern
        in alphabetical order; in place of a folder or pattern without any, what is
        wrong with it. No two write to the same files, whatever channel is added.
    """
    found = dict[Path, str | AudioError]()
    for argument in arguments:
        try:
            with errors_of(argument):
                for path, name in _expanded(argument):
                    found.setdefault(path, name)
        except AudioError as error:
            found.setdefault(Path(argument), error)
    sources = [Source(path, of) for path, of in found.items() if isinstance(of, str)]
    names = iter(_told_apart(sources, split))
    return [
        of if isinstance(of, AudioError) else Source(path, next(names))
        for path, of in found.items()
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


def _told_apart(sources: Sequence[Source], split: bool) -> list[str]:
    """Return names for recordings that write to files of their own.

    All that would share a name get more of their path: the ending, then the folders
    above. So none has the name that another had when it was alone, and whoever goes on
    with `--skip-existing` does not take the new one for done.
    """
    lengths = [0] * len(sources)
    while True:
        names = list(map(_name, sources, lengths))
        clashes = _clashes(names, split)
        if not clashes:
            return names
        longer = set[int]()
        for clash in clashes:
            growing = [i for i in clash if not _is_whole(sources[i], lengths[i])]
            longer.update(growing or clash[1:])  # the first keeps its name, at the end
        for index in longer:
            lengths[index] += 1


def _name(source: Source, length: int) -> str:
    """Return the name, with its ending from 1 on, then folders above, then a number."""
    if length == 0:
        return source.name
    parts, wanted = _parts(source, length)
    number = f"-{wanted - len(parts) + 1}" if wanted > len(parts) else ""
    return "/".join(parts[-wanted:]) + number


def _is_whole(source: Source, length: int) -> bool:
    """Return whether a name of this length has all folders."""
    parts, wanted = _parts(source, length)
    return wanted >= len(parts)


def _parts(source: Source, length: int) -> tuple[list[str], int]:
    """Return the parts of a recording's path, and how many a name has of them."""
    parts = [part for part in source.path.absolute().parts[1:] if part != ".."]
    return parts, len(Path(source.name).parts) + length - 1


def _clashes(names: Sequence[str], split: bool) -> list[list[int]]:
    """Find the names, by index, that would write to the same files as others.

    Some disks take letters for the same that differ in case, or in how their accents
    are written.
    """
    owners = defaultdict[str, list[int]](list)
    for index, name in enumerate(names):
        owners[unicodedata.normalize("NFC", name.casefold())].append(index)
    clashes = [indices for indices in owners.values() if len(indices) > 1]
    if split:
        for key, indices in owners.items():
            channel = _CHANNEL.search(key)
            if channel and (whole := owners.get(key[: channel.start()])):
                clashes.append(whole + indices)
    return clashes


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
