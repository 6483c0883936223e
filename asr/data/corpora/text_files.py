"""Text files of others: their encoding is found out, and their lines are numbered."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from asr.errors import CorpusError

MOST_BYTES = 2**31
"""Of a text file: a corpus of 10,000 hours has a tenth of that."""
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class Text(NamedTuple):
    """What stands in a file."""

    content: str
    encoding: str
    is_guessed: bool
    """Whether the encoding is none that the file itself proves."""


def read_text(path: Path) -> Text:
    """Read a text file: UTF-8, UTF-16 with its mark, or else Windows' Western one.

    Raises:
        CorpusError: it cannot be read, or is no text.
    """
    raw = read_bytes(path)
    for mark, encoding in _MARKS.items():
        if raw.startswith(mark):
            return Text(_decoded(raw, encoding, path), encoding, False)
    try:
        return Text(raw.decode("utf-8"), "utf-8", False)
    except UnicodeDecodeError:
        if b"\0" in raw:
            raise CorpusError(f"{path}: is no text") from None
    return Text(_decoded(raw, "cp1252", path), "cp1252", True)


def read_bytes(path: Path) -> bytes:
    """Read a file, unpacked where its name ends in .gz.

    Raises:
        CorpusError: it cannot be read, is damaged, or is too large for a text.
    """
    try:
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise CorpusError(f"{path}: {what} (a text file was expected)")
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rb") as file:
            content: bytes = file.read(MOST_BYTES + 1)
    except EOFError as error:
        raise CorpusError(f"{path}: is cut short") from error
    except zlib.error as error:
        raise CorpusError(f"{path}: is damaged ({error})") from error
    except OSError as error:
        why = error.strerror or error
        raise CorpusError(f"{path}: cannot be read ({why})") from error
    if len(content) > MOST_BYTES:
        raise CorpusError(f"{path}: is too large for a text (2 GiB at most)")
    return content


def _decoded(raw: bytes, encoding: str, path: Path) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: is no text ({encoding} was tried)") from error


def lines(content: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that hold something, with their numbers from 1.

    >>> list(lines("a\\r\\n\\nb c\\n"))
    [(1, 'a'), (3, 'b c')]
    """
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r")
