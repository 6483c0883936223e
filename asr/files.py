"""Names for files that are being written, and what belongs to one file alone.

A file that is written whole or not at all has another name until it is whole. That
name is short, whatever the file's own, and no other process uses it. What a killed
process left under such a name is removed by the next one that writes there.
"""

import contextlib
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from socket import gethostname

from asr.errors import AsrError, AudioError, ManifestError
from asr.forking import is_running

PARTIAL = ".partial"
"""Ending of these names."""
_NAME = re.compile(r"\.asr-([0-9a-f]{8})-([0-9]{1,19})-[0-9]+\.partial")
_numbers = itertools.count()


def temporary_path(folder: Path) -> Path:
    """Return a new path in a folder, for what is moved to its own when it is whole."""
    pid = os.getpid()
    _remove_left(os.path.abspath(folder), pid)
    return folder / f".asr-{_machine()}-{pid}-{next(_numbers)}.partial"


@cache
def _remove_left(folder: str, pid: int) -> None:
    """Remove what processes of this machine left that no longer run.

    Args:
        folder: is looked through once by each process.
        pid: of this process.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = _NAME.fullmatch(entry.name)
            if name and name[1] == _machine() and not is_running(int(name[2])):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


@cache
def _machine() -> str:
    """Return a short name of the machine, or of the container: where a pid is valid."""
    container = ""
    with contextlib.suppress(OSError):
        container = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{gethostname()} {container}".encode()).hexdigest()[:8]


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write a corpus into; at the end it gets its own name.

    Args:
        folder: its own; must not hold anything.

    Raises:
        ManifestError: it does, or cannot be written.
    """
    partial = folder.with_name(f".{folder.name}{PARTIAL}")
    _make(folder, partial)
    try:
        yield partial
        sync_folder(partial)
        partial.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise ManifestError(
            f"{folder}: cannot be written ({error.strerror})"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _make(folder: Path, partial: Path) -> None:
    """Make a folder to write to, beside the one that will be there in the end."""
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ManifestError(f"{folder}: is not empty (a new folder was expected)")
        partial.mkdir(parents=True)
    except FileExistsError as error:
        raise ManifestError(
            f"{partial}: is being written, or is left of a command that was killed "
            "(delete it then)"
        ) from error
    except OSError as error:
        raise ManifestError(f"{folder}: cannot be made ({error.strerror})") from error


def sync_folder(folder: Path) -> None:
    """Make sure that the names of the files in a folder are on the disk.

    Raises:
        OSError: they cannot be written.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def errors_of(name: object) -> Iterator[None]:
    """Report whatever a file's name or contents make a block raise as that file's.

    Args:
        name: of the file, for the message.

    Raises:
        AudioError: the system refuses its name, or it cannot be read.
        AsrError: as the block raises it.
    """
    try:
        yield
    except AsrError:
        raise
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise AudioError(f"{name}: cannot be read ({reason})") from error
    except UnicodeError as error:
        raise AudioError(
            f"{name}: cannot be read (its name or its contents are not UTF-8: {error})"
        ) from error
    except RecursionError as error:
        raise AudioError(
            f"{name}: cannot be read (its contents are nested too deeply)"
        ) from error
