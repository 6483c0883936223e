"""Files that belong together: replaced as one, and read as one.

A description lists the files of a folder with their sizes and checksums (SHA-256),
which shows whether one was damaged or exchanged. It is no signature: whoever may change
a file may change its table, too.

A set is replaced in three steps, each of which leaves a whole one, whatever stops it:

    .NAME.SUM.next     the new files, beside the old ones                  the old set
    DESCRIPTION        the new one takes its name: now the new set counts  the new set
    NAME               each new file takes its own name                    the new set

Whoever reads takes of NAME and .NAME.SUM.next the one that the description means, and
begins again where the description changed meanwhile. (SUM begins the checksum, so that
no two contents ever have this name.) Nothing but the renaming of a file is asked of the
file system.
"""

import fcntl
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, TypeVar

from asr.errors import AsrWarning, CheckpointError
from asr.files import PARTIAL, sync_folder, temporary_path
from asr.folders import (
    MOST_FILES,
    again,
    flush,
    inside,
    is_plain,
)
from asr.foreign import check_file, parse_table, read_file

Item = TypeVar("Item")

_NEXT = ".next"
_PATIENCE = 30.0
"""Seconds for which a set is read again that was replaced meanwhile."""

# Checksums


def checksums(contents: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Return the table of files that `check_files` reads: size in bytes, SHA-256."""
    return {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }


def check_files(
    folder: Path, table: object, place: Path, editable: Collection[str] = ()
) -> dict[str, Path]:
    """Compare files of a folder with a table of their sizes and checksums.

    Args:
        folder: where they are.
        table: what `checksums` returned, as it came out of JSON.
        place: the file that the table is from.
        editable: names of files that have to be there, and may hold anything.

    Returns:
        Where each file is, by its name.

    Raises:
        CheckpointError: a file is missing, or not the one that was written; or a name
            leads out of the folder; or this is no such table.
    """
    if not isinstance(table, dict) or len(table) > MOST_FILES:
        raise CheckpointError(f"{place}: has no table of files ({again(folder)})")
    found = dict[str, Path]()
    for name, expected in table.items():
        if not _is_there(_upcoming(folder, name, expected)):
            inside(folder, name, place)
        if not isinstance(expected, dict) or expected.keys() != {"size", "sha256"}:
            raise CheckpointError(
                f"{place}: has no size and sha256 of {name!r} ({again(folder)})"
            )
        found[name] = _found(folder, name, expected, place, name in editable)
    return found


def _found(
    folder: Path, name: str, expected: Mapping[str, Any], place: Path, is_editable: bool
) -> Path:
    """Return which file of a name the table means: the one there, or the one to come.

    Raises:
        CheckpointError: neither.
    """
    upcoming, path = _upcoming(folder, name, expected), folder / name
    size = expected["size"]
    if _is_there(upcoming):
        try:
            if _sum(inside(folder, upcoming.name, place), size) == expected:
                return upcoming
        except CheckpointError:
            if _is_there(upcoming):
                raise
            # Or else it has taken its own name meanwhile.
    measured = _sum(inside(folder, name, place), size)
    if measured != expected and not is_editable:
        size = measured["size"]
        reason = (
            f"its checksum is another: {size} bytes are there, as there should be"
            if size == expected["size"]
            else f"{size} of {expected['size']!r:.40} bytes are there"
        )
        raise CheckpointError(
            f"{path}: is damaged, or not the file that {place.name} lists "
            f"({reason}; {again(folder)})"
        )
    return path


def _sum(path: Path, expected: object) -> dict[str, Any]:
    """Return size and checksum of a file; none of one that has not the expected size.

    Such a file may be of any size, or no file at all.
    """
    try:
        check_file(path)
        with path.open("rb") as file:
            size, checksum = os.fstat(file.fileno()).st_size, None
            if size == expected:
                checksum = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}; {again(path.parent)})"
        ) from error
    return {"size": size, "sha256": checksum}


def note_edited(path: Path, description: str) -> None:
    """Warn that a file is not as asr wrote it; other processes need not repeat it."""
    if parent_process() is None:
        warnings.warn(
            f"{path}: is not the file that {description} lists; it is used as it "
            "stands",
            AsrWarning,
            stacklevel=2,
        )


def listed(folder: Path, description: str) -> list[str]:
    """Name the files of a set that is replaced: it may be damaged, or say anything.

    Names that lead out of the folder are left out.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):
        names = parse_table(read_file(folder / description))["files"]
        return [name for name in names if is_plain(name)]
    return []


def is_rest(name: str) -> bool:
    """Return whether a file of this name may be left of a process that was killed."""
    return name.startswith(".") and name.endswith((_NEXT, PARTIAL))


def _upcoming(folder: Path, name: str, expected: object) -> Path:
    """Return where a file is before it takes its name; see `checksums`."""
    found = str(expected.get("sha256")) if isinstance(expected, Mapping) else ""
    known = "".join(letter for letter in found[:16] if letter.isalnum())
    return folder / f".{name}.{known}{_NEXT}"


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


# Replacing


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Let no other process change the sets of a folder meanwhile: it waits.

    Where the file system has no locks, nobody waits.

    Raises:
        CheckpointError: there is no such folder.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written ({error.strerror})"
        ) from error
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace_set(
    folder: Path, contents: Mapping[str, bytes], description: str, content: bytes
) -> None:
    """Replace files and the description that lists them, all at one instant.

    It is called within `changing`. Files that only the description before lists stay.

    Args:
        folder: where they are.
        contents: of the files.
        description: name of the file that has their sizes and checksums.
        content: of the description.

    Raises:
        CheckpointError: the disk is full, or the folder may not be written to. The set
            is the old one or the new one then, too.
    """
    path, partial = folder / description, temporary_path(folder)
    upcoming = {
        name: _upcoming(folder, name, about)
        for name, about in checksums(contents).items()
    }
    try:
        _finish(folder, description, contents)
        try:
            for name, one in contents.items():
                path = folder / name
                flush(upcoming[name], one)
            path = folder / description
            flush(partial, content)
            sync_folder(folder)
            partial.replace(path)
        except BaseException:
            with suppress(OSError):  # the error may be the folder's
                partial.unlink()
            with suppress(OSError, CheckpointError):
                _finish(folder, description, contents)
            raise
        sync_folder(folder)
        for name in contents:
            path = folder / name
            upcoming[name].replace(path)
        sync_folder(folder)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror})"
        ) from error


def _finish(folder: Path, description: str, names: Collection[str]) -> None:
    """Finish, or take back, a replacement that was stopped.

    Args:
        folder: where the set is.
        description: name of the file that lists it.
        names: of files of the set that it may not list yet.

    Raises:
        CheckpointError: a file cannot be read.
        OSError: one cannot be renamed or removed.
    """
    try:
        table = parse_table(read_file(folder / description))["files"]
        listed = dict[str, Any](table)
    except (OSError, KeyError, TypeError, ValueError):
        listed = {}  # nothing that would have to be kept
    for name in {*listed, *names}:
        for upcoming in folder.glob(f".{escape(name)}.*{_NEXT}"):
            is_right = upcoming == _upcoming(folder, name, listed.get(name))
            if is_right and _sum(upcoming, listed[name]["size"]) == listed[name]:
                upcoming.replace(folder / name)
            else:
                upcoming.unlink()


# A file with a description of its own


def write_checked(folder: Path, name: str, content: bytes, description: str) -> None:
    """Write a file of a folder, and a description with its size and checksum, as one.

    Raises:
        CheckpointError: they cannot be written.
    """
    about = json.dumps({"files": checksums({name: content})}, indent=2) + "\n"
    with changing(folder):
        replace_set(folder, {name: content}, description, about.encode())


def checked(folder: Path, name: str, description: str, kind: str) -> Path:
    """Return the path of what `write_checked` wrote, once it is the very same.

    Args:
        folder: where it is.
        name: of the file.
        description: name of the file that has its checksum.
        kind: what it is, for the message where the description is no table.

    Raises:
        CheckpointError: one of them is missing or damaged, or they do not belong
            together.
    """
    place = folder / description
    inside(folder, description, place)
    try:
        table = parse_table(read_file(place))["files"]
        unknown = name not in table
    except OSError as error:
        raise CheckpointError(f"{place}: cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{place}: does not describe a {kind} ({error})"
        ) from error
    found = check_files(folder, table, place)
    if unknown:
        raise CheckpointError(
            f"{place}: has no checksum of {name} (copy the whole folder again)"
        )
    return found[name]


# Reading


def read_whole(
    folder: Path, descriptions: Sequence[str], read: Callable[[], Item]
) -> Item:
    """Read sets of a folder, again where one was replaced while it was being read.

    Args:
        folder: where they are.
        descriptions: names of their descriptions.
        read: reads them.

    Raises:
        CheckpointError: whatever `read` raises where nothing was replaced.
    """
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        before, all_before = _state(folder, descriptions), _state(folder)
        try:
            found = read()
        except CheckpointError:
            if _state(folder) == all_before:
                raise
        else:  # a file that takes its own name meanwhile has the same content
            if _state(folder, descriptions) == before:
                return found
    return read()


def _state(folder: Path, names: Collection[str] = ()) -> list[tuple[str, int, int]]:
    """Return what tells the files of a folder from others of the same names."""
    state = list[tuple[str, int, int]]()
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not names or entry.name in names:
                with suppress(OSError):
                    found = entry.stat()
                    state.append((entry.name, found.st_ino, found.st_mtime_ns))
    return sorted(state)
