"""Recordings inside of a tar file: `shard-000003.tar:1536:40321`.

The two numbers are the byte at which the recording starts and its size in bytes, so
that it is read without looking through the archive. The 512 bytes before it are its
entry in the tar file, which shows whether this is the archive that was meant.

Source: POSIX.1-1988, ustar interchange format, which `tarfile` reads.
"""

import os
import re
import tarfile
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from asr.audio.errors import cut_short
from asr.errors import AudioError

_LOCATION = re.compile(r"(.+\.tar):([0-9]+):([0-9]+)", re.DOTALL)


class Location(NamedTuple):
    """Where a recording lies in an archive."""

    archive: str
    """Its path."""
    offset: int
    """Bytes before it."""
    size: int
    """In bytes."""

    def __str__(self) -> str:
        """Write it as it stands in a manifest."""
        return f"{self.archive}:{self.offset}:{self.size}"


class Member:
    """A recording of an archive, which is opened as a `Path` is.

    Args:
        location: where it is.
        place: what errors call it.

    Raises:
        AudioError: the archive ends before it, or has no recording there.
        OSError: the archive cannot be read.
    """

    def __init__(self, location: Location, place: str) -> None:
        with open(location.archive, "rb") as archive:
            there = os.fstat(archive.fileno()).st_size
            if there < location.offset + location.size:
                raise cut_short(place, there, location.offset + location.size, "bytes")
            archive.seek(max(0, location.offset - tarfile.BLOCKSIZE))
            about = _entry(archive.read(tarfile.BLOCKSIZE))
            if about is None or about.size != location.size:
                raise AudioError(
                    f"{place}: no recording starts there (the archive is damaged, or "
                    "not the one that the manifest was written with)"
                )
            self._content = archive.read(location.size)
        self.suffix = Path(about.name).suffix

    def open(self, mode: Literal["rb"] = "rb", buffering: int = -1) -> BinaryIO:
        """Open it for reading; it is in memory already."""
        del mode, buffering
        return BytesIO(self._content)


def location(path: str | Path) -> Location | None:
    """Return where in an archive a recording is, if its path is of such a form.

    >>> location("corpus/shard-000003.tar:1536:40321")
    Location(archive='corpus/shard-000003.tar', offset=1536, size=40321)
    >>> location("corpus/a.wav")
    """
    found = _LOCATION.fullmatch(str(path))
    return Location(found[1], int(found[2]), int(found[3])) if found else None


def source(path: Path, place: str) -> Path | Member:
    """Return what can be opened: the path of a file, or a recording of an archive.

    Raises:
        AudioError: the archive is not what the path describes.
        OSError: the archive cannot be read.
    """
    found = location(path)
    try:
        return path if found is None else Member(found, place)
    except ValueError as error:  # a zero byte in the path
        raise AudioError(f"{place!r}: cannot be read ({error})") from error


def _entry(block: bytes) -> tarfile.TarInfo | None:
    """Return the entry of an archive that a block is, if it is one."""
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
