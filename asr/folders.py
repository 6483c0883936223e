"""Files of a folder: written whole or not at all, read only where they should be.

A file is written under another name, flushed to the disk and only then given its own,
so that whatever stops the program leaves the old file or the new one. A name that a
description of foreign origin gives is a name in its folder, or an error.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PureWindowsPath

from asr.errors import CheckpointError
from asr.files import sync_folder, temporary_path

MOST_FILES = 1000
"""Of a folder; a model has five."""


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file by another one, whole or not at all.

    Raises:
        CheckpointError: the disk is full, or the folder may not be written to.
    """
    write_files(path.parent, {path.name: content})


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Replace files that belong together: each whole, and all within an instant.

    Raises:
        CheckpointError: the disk is full, or the folder may not be written to.
    """
    partial = {name: temporary_path(folder) for name in contents}
    path = folder
    try:
        for name, content in contents.items():
            path = folder / name
            flush(partial[name], content)
        for name in contents:
            path = folder / name
            partial[name].replace(path)
        sync_folder(folder)
    except OSError as error:
        for left in partial.values():
            with suppress(OSError):  # the error may be the folder's
                left.unlink()
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror})"
        ) from error


def flush(path: Path, content: bytes) -> None:
    """Write a file, and see to it that it is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


# Names in descriptions


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove files, of which some may not be there, for good.

    Raises:
        OSError: the folder may not be written to.
    """
    for name in names:
        (folder / name).unlink(missing_ok=True)
    sync_folder(folder)


def inside(folder: Path, name: str, place: Path) -> Path:
    """Return the path of a file of a folder, and refuse one that is anywhere else.

    Raises:
        CheckpointError: the name, or a link of that name, leads out of the folder; or
            there is no such file.
    """
    path = folder / name
    if not is_plain(name):
        raise CheckpointError(
            f"{place}: names {name!r}, which is not in its folder (do not trust it)"
        )
    try:
        there = path.is_file()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if not there:
        raise CheckpointError(f"{path}: cannot be read (no such file; {again(folder)})")
    found = path.resolve()
    if not any(found.is_relative_to(one) for one in _stores(folder)):
        raise CheckpointError(
            f"{path}: is a link that leads out of its folder (copy the file itself)"
        )
    return path


def is_plain(name: object) -> bool:
    """Return whether a name is that of a file, and no path.

    >>> is_plain("model.json"), is_plain("../model.json"), is_plain("C:model.json")
    (True, False, False)
    """
    return (
        isinstance(name, str)
        and name == PureWindowsPath(name).name
        and name.isprintable()
        and name not in ("", ".", "..")
    )


# Folders in the cache of the Hugging Face Hub, whose files are links:
# models--USER--NAME/snapshots/COMMIT/FILE -> models--USER--NAME/blobs/CHECKSUM, which
# may be a link to blobs/ beside the repositories.


def cached_repository(folder: Path) -> Path | None:
    """Return where the cache keeps a repository that a folder is a commit of, if so."""
    snapshots = folder.resolve().parent
    repository = snapshots.parent
    is_one = snapshots.name == "snapshots" and repository.name.startswith("models--")
    return repository if is_one else None


def _stores(folder: Path) -> list[Path]:
    """Return the folders that the files of a folder can really be in."""
    repository = cached_repository(folder)
    own = [folder.resolve()]
    if repository is None:
        return own
    return [*own, repository / "blobs", repository.parent / "blobs"]


def again(folder: Path) -> str:
    """Return what to do about a folder that is damaged."""
    repository = cached_repository(folder)
    if repository is None:
        return "copy the whole folder again"
    return f"delete {repository} and load the model again"
