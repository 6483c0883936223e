"""Fetch LibriSpeech from OpenSLR: download, check, unpack.

    <subset>.tar.gz.partial    what came so far; a later run goes on from there
    <subset>.tar.gz            whole, and its MD5 sum is the published one
    .<subset>.unpacking        what is unpacked so far; a later run starts again
    <subset>                   whole: it is moved here, with its marker, in one step

Whatever stops a run, the next one finds each of these either whole or known not to be.
The archive is kept. A whole one that was put there by hand spares the download.

Source: https://www.openslr.org/12 and /31 (Mini LibriSpeech); the MD5 sums are those of
https://www.openslr.org/resources/12/md5sum.txt and /31/md5sum.txt.
"""

import hashlib
import re
import shutil
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from asr.errors import DownloadError, one_line


class Archive(NamedTuple):
    """A published archive, <subset>.tar.gz."""

    resource: int
    """Number of its corpus at OpenSLR."""
    md5: str
    size: int
    """Bytes."""


ARCHIVES = {
    "train-clean-5": Archive(31, "5df7d4e78065366204ca6845bb08f490", 332_954_390),
    "dev-clean-2": Archive(31, "6d7ab67ac6a1d2c993d050e16d61080d", 126_046_265),
    "train-clean-100": Archive(12, "2a93770f6d5c6c964bc36631d331a522", 6_387_309_499),
    "train-clean-360": Archive(12, "c0e676e450a7ff2f54aeade5171606fa", 23_049_477_885),
    "train-other-500": Archive(12, "d1a0fd59409feb2c614ce4d30c387708", 30_593_501_606),
    "dev-clean": Archive(12, "42e2234ba48799c1f50f24a7926300a1", 337_926_286),
    "dev-other": Archive(12, "c8d0bcc9cca99d4f8b62fcc847357931", 314_305_928),
    "test-clean": Archive(12, "32fa31d27d2e1cad72775fee3f4849a9", 346_663_984),
    "test-other": Archive(12, "fb5a50374b501bb3bac4815ee91d3135", 328_757_843),
}

OPENSLR = "https://www.openslr.org/resources"

MARKER = ".complete"
"""Name of the file that stands in a subset that was unpacked to its end."""

WAITS = (1, 2, 5, 10, 20, 40, 60)
"""Seconds to wait before each new attempt; after the last, give up."""

TIMEOUT = 60
"""Seconds without a byte after which a connection counts as lost."""

SLOWEST = 1000
"""Bytes a second on average: below that a connection counts as lost."""

_MOST = 1.05  # of the published size: what is longer is something else
_MOST_UNPACKED = 1.25  # of that size: a part of dev-clean has 1.07 of it
_ROOM = 2**24  # bytes more, for the ends of small archives
_DEEPEST = 10  # folders inside of each other; an utterance is in the fourth
_BLOCK = 2**20  # bytes
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP answers that may change soon


class _LostError(Exception):
    """A connection was lost, or refused for now: another attempt may do better."""


class _TooLargeError(Exception):
    """What comes is larger than what was published."""


def download(
    subset: str,
    corpus: Path,
    *,
    base: str = OPENSLR,
    waits: Sequence[float] = WAITS,
    timeout: float = TIMEOUT,
) -> Path:
    """Bring a subset into the folder of the corpus, if it is not there yet.

    Args:
        subset: its published name.
        corpus: the folder of the subsets, or its parent; made where it is missing.
        base: address that the numbers of OpenSLR's resources are appended to.
        waits: seconds to wait before each new attempt.
        timeout: seconds without a byte after which a connection counts as lost.

    Returns:
        The folder of the subset.

    Raises:
        DownloadError: the archive cannot be had, is not the published one, or cannot
            be unpacked here; or there is such a folder, not known to be whole.
    """
    root = corpus / "LibriSpeech" if (corpus / "LibriSpeech").is_dir() else corpus
    target, archive = root / subset, root / f"{subset}.tar.gz"
    if (target / MARKER).exists():
        return target
    if target.exists():
        raise DownloadError(
            f"{target}: is there, but may not be whole (move it away to download it, "
            "or prepare it as it is)"
        )
    resource, md5, size = ARCHIVES[subset]
    try:
        root.mkdir(parents=True, exist_ok=True)
        came = archive
        if not archive.exists():
            url = f"{base}/{resource}/{archive.name}"
            most = int(_MOST * size)
            came = fetch(url, archive, most, waits=waits, timeout=timeout)
        _check(came, archive, md5)
        unpack(archive, target, int(_MOST_UNPACKED * size) + _ROOM)
    except OSError as error:
        place = error.filename or root
        raise DownloadError(f"{place}: {error.strerror}") from error
    return target


# Downloading


def fetch(
    url: str, path: Path, most: int, *, waits: Sequence[float], timeout: float
) -> Path:
    """Download a file, going on after what an earlier attempt left.

    Args:
        url: its address.
        path: for it.
        most: bytes that it can have.
        waits: as for `download`.
        timeout: as for `download`.

    Returns:
        Where it is: `path` with .partial at the end of its name.

    Raises:
        DownloadError: the server does not have it, or something larger under its name;
            or too many attempts failed.
    """
    partial = path.with_name(f"{path.name}.partial")
    for wait in (*waits, None):
        try:
            _fetch_once(url, partial, most, timeout)
            break
        except _LostError as error:
            if wait is None:
                raise DownloadError(
                    f"{url}: {error} ({len(waits) + 1} attempts; run again to go on)"
                ) from error
            note = f"prepare: {url}: {error}; next attempt in {wait} s"
            tqdm.write(one_line(note), file=sys.stderr)
            time.sleep(wait)
    return partial


def _fetch_once(url: str, partial: Path, most: int, timeout: float) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    if have > most:
        partial.unlink()
        have = 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(request, timeout=timeout)
    except HTTPError as error:
        error.close()
        if error.code == 416 and have:  # there is nothing after what we have
            if error.headers.get("Content-Range", "").endswith(f"/{have}"):
                return
            partial.unlink()
            raise _LostError("what came before is no part of it") from error
        what = f"the server answers {error.code} {error.reason}"
        if error.code in _PASSING:
            raise _LostError(what) from error
        raise DownloadError(f"{url}: {what}") from error
    except (OSError, HTTPException) as error:
        raise _LostError(_why(error)) from error
    except ValueError as error:  # of an address that is none
        raise DownloadError(f"{url}: leads nowhere ({error})") from error
    with response:
        try:
            _append(response, partial, have, most, timeout)
        except _TooLargeError as error:
            partial.unlink(missing_ok=True)
            raise DownloadError(
                f"{url}: is not what was published: it has over {most} bytes"
            ) from error


def _append(
    response: HTTPResponse, partial: Path, have: int, most: int, timeout: float
) -> None:
    """Write the body of an answer behind the `have` bytes that are there.

    A server that knows no ranges sends all from the start; then so does the file.
    """
    total = response.headers["Content-Length"]
    if response.status == 206:
        content_range = response.headers.get("Content-Range", "")
        found = re.fullmatch(rf"bytes {have}-\d+/(\d+)", content_range)
        if not found:
            partial.unlink()
            raise _LostError(f"the server sends a wrong range ({content_range!r})")
        total = found[1]
    else:
        have = 0
    if total and not re.fullmatch(r"[0-9]{1,15}", total):
        raise _LostError(f"the server sends a wrong length ({total!r:.40})")
    size = int(total) if total else None
    if size and size > most:
        raise _TooLargeError
    name = partial.name.removesuffix(".partial")
    with partial.open("ab" if have else "wb") as file, _bar(name, size, have) as bar:
        checkpoint, since = file.tell(), time.monotonic()
        while file.tell() != size and (block := _read(response)):
            file.write(block)
            bar.update(len(block))
            if file.tell() > most:
                raise _TooLargeError
            if (seconds := time.monotonic() - since) > timeout:
                if file.tell() - checkpoint < SLOWEST * seconds:
                    raise _LostError(f"under {SLOWEST} bytes came a second")
                checkpoint, since = file.tell(), time.monotonic()
        if size and file.tell() < size:
            raise _LostError(f"the connection ended at byte {file.tell()} of {size}")


def _read(response: HTTPResponse) -> bytes:
    """Read what came; an OSError of the net must not be taken for one of the disk."""
    try:
        return response.read1(_BLOCK)
    except (OSError, HTTPException) as error:
        raise _LostError(_why(error)) from error


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", error)  # of a URLError
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__)


def _check(file: Path, name: Path, md5: str) -> None:
    """Give a downloaded file its name if it is the published one.

    Another is moved aside, so that the next run starts afresh.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as blocks, _bar("checking", file.stat().st_size) as bar:
        while block := blocks.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() == md5:
        file.replace(name)
        return
    aside = name.with_name(f"{name.name}.damaged")
    file.replace(aside)
    raise DownloadError(
        f"{aside}: is not what was published: its MD5 sum is {digest.hexdigest()}, "
        f"not {md5} (run again to download it afresh)"
    )


# Unpacking


def unpack(archive: Path, target: Path, most: int) -> None:
    """Unpack a subset beside its archive, whole or not at all.

    Args:
        archive: holds LibriSpeech/<name of target>, and texts about the corpus.
        target: where that folder shall be; the texts come to stand beside it.
        most: bytes that all its files can have.

    Raises:
        DownloadError: the archive is damaged, holds something else, or something that
            no archive of speech should hold.
    """
    with _emptied(target.with_name(f".{target.name}.unpacking")) as folder:
        try:
            _extract(archive, folder, most)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DownloadError(f"{archive}: is damaged ({error})") from error
        unpacked = folder / "LibriSpeech" / target.name
        if not unpacked.is_dir():
            raise DownloadError(f"{archive}: holds no LibriSpeech/{target.name}")
        for text in (folder / "LibriSpeech").glob("*.TXT"):
            if not (target.parent / text.name).exists():
                text.replace(target.parent / text.name)
        (unpacked / MARKER).touch()
        unpacked.replace(target)


@contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    """Make a folder that is empty to begin with, and gone in the end."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _extract(archive: Path, folder: Path, most: int) -> None:
    unpacked = 0
    with (
        archive.open("rb") as packed,
        _bar("unpacking", archive.stat().st_size) as bar,
        tarfile.open(fileobj=packed, mode="r|gz") as members,
    ):
        for member in members:
            bar.update(packed.tell() - bar.n)
            unpacked += tarfile.BLOCKSIZE + member.size
            if unpacked > most:
                raise DownloadError(
                    f"{archive}: holds over {most} bytes, more than was published "
                    "(nothing was unpacked)"
                )
            path = _checked_path(member, archive, folder)
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            content = members.extractfile(member)
            assert content is not None
            with path.open("xb") as file:
                shutil.copyfileobj(content, file)


def _checked_path(member: tarfile.TarInfo, archive: Path, folder: Path) -> Path:
    """Return where a member goes: only files and folders, and only inside `folder`."""
    path = folder / member.name
    outside = not path.resolve().is_relative_to(folder.resolve())
    if outside or ".." in Path(member.name).parts:
        what = "leads out of the archive"
    elif not (member.isreg() or member.isdir()):
        what = "is neither a file nor a folder"
    elif member.name.count("/") > _DEEPEST:
        what = f"is in over {_DEEPEST} folders"
    else:
        return path
    raise DownloadError(f"{archive}: {member.name!r} {what} (nothing was unpacked)")


def _bar(what: str, total: int | None, done: int = 0) -> "tqdm[Any]":
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        leave=False,
        unit="B",
        unit_scale=True,
        disable=None,
    )
