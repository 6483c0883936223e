"""A folder or a file for one process at a time, on one machine or several.

>>> with locked(Path("exp/run"), "asr train"):                      # doctest: +SKIP
...     train()

The lock is one of the operating system on a small file, FOLDER/.lock, or .NAME.lock
beside a file. It ends with the process that has it, however that ends: a file that a
killed process left is no lock. What stands in it is for people, and for file systems
that have no locks: there, a process of the same machine that still runs is recognised.
"""

import contextlib
import errno
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname
from typing import BinaryIO, NamedTuple

from asr.errors import InUseError
from asr.forking import is_running

_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)
_MOST_BYTES = 4096
"""Of a file of a lock that are read."""

_open = set[BinaryIO]()
"""Files of the locks that this process has."""


class Holder(NamedTuple):
    """The process that has a lock."""

    pid: int
    host: str
    since: str
    purpose: str
    started: str
    """When the process began, as the system counts it; empty where it does not."""

    def __str__(self) -> str:
        """Write which process it is."""
        return f"process {self.pid} on host {self.host} since {self.since}"

    @property
    def may_run(self) -> bool:
        """Whether it still runs, as far as this machine knows."""
        if self.host != gethostname():
            return True
        if not is_running(self.pid):
            return False
        return not self.started or self.started == _start_of(self.pid)


@contextmanager
def locked(path: Path, purpose: str) -> Iterator[None]:
    """Keep a folder or a file for this process until the block ends.

    Nobody waits: what is in use is refused at once. Processes that this one forks do
    not have the lock.

    Args:
        path: a folder that is there, or a file that may be.
        purpose: for the message that another process prints, such as "asr train".

    Raises:
        InUseError: another process has it, or this one already; or the file of the
            lock cannot be written.
    """
    place = path / ".lock" if path.is_dir() else path.with_name(f".{path.name}.lock")
    try:
        file = _take(place, path)
    except OSError as error:
        raise InUseError(f"{place}: cannot be written ({error.strerror})") from error
    _open.add(file)
    try:
        _write(file, purpose, place)
        yield
    finally:
        if file in _open:  # not in a process that was forked
            _open.remove(file)
            with contextlib.suppress(OSError):  # the folder may be gone
                place.unlink()
            file.close()


def _take(place: Path, path: Path) -> BinaryIO:
    """Open the file of a lock, and lock it.

    Raises:
        InUseError: another process has the lock.
        OSError: the file cannot be opened.
    """
    while True:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            _lock(file, place, path)
        except BaseException:
            file.close()
            raise
        if _is_at(file, place):
            return file
        file.close()  # whoever had the lock has removed it meanwhile


def _lock(file: BinaryIO, place: Path, path: Path) -> None:
    """Lock a file.

    Raises:
        InUseError: another process has done so.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _read(file)
        if error.errno in _TAKEN:
            raise _in_use(path, holder, "wait for it, or name another") from error
        if holder and holder.may_run:
            advice = f"wait for it; delete {place} if it has ended"
            raise _in_use(path, holder, advice) from error
        print(
            f"asr: {path}: its file system has no locks ({error.strerror}): let no "
            "other machine write to it",
            file=sys.stderr,
        )


def _in_use(path: Path, holder: Holder | None, advice: str) -> InUseError:
    who = f"{holder} ({holder.purpose}; {advice})" if holder else f"another ({advice})"
    return InUseError(f"{path}: is in use by {who}")


def _is_at(file: BinaryIO, place: Path) -> bool:
    """Return whether an open file is still that of a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(place))
    except FileNotFoundError:
        return False


def _write(file: BinaryIO, purpose: str, place: Path) -> None:
    """Write into the file of a lock who has it."""
    pid = os.getpid()
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = Holder(pid, gethostname(), since, purpose, _start_of(pid))
    try:
        file.truncate(0)
        file.seek(0)
        file.write(json.dumps(holder._asdict()).encode() + b"\n")
    except OSError as error:
        raise InUseError(f"{place}: cannot be written ({error.strerror})") from error


def _read(file: BinaryIO) -> Holder | None:
    """Read who has a lock; None where that is not written there."""
    try:
        file.seek(0)
        holder = Holder(**json.loads(file.read(_MOST_BYTES)))
    except (OSError, TypeError, ValueError, RecursionError):
        return None
    texts = (holder.host, holder.since, holder.purpose, holder.started)
    plain = all(isinstance(text, str) and text.isprintable() for text in texts)
    return holder if plain and isinstance(holder.pid, int) and holder.pid > 0 else None


def _start_of(pid: int) -> str:
    """Return when a process began, in ticks since the machine did; "" if unknown."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return status.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _leave_to_parent() -> None:
    """Close the files of the locks in a process that was forked: they are not its."""
    while _open:
        _open.pop().close()


os.register_at_fork(after_in_child=_leave_to_parent)
