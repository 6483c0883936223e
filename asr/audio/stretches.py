"""A header, and then a stretch of a file, read as one file.

So a library that trusts a header is given a right one, of a file of any length, and
only a buffer of it is in memory.
"""

import io
import os
from typing import Any, BinaryIO, Final

BUFFER: Final = 2**16
"""Bytes that are read from a file at once."""


class Corrected(io.RawIOBase):
    """A header, and then a stretch of a file.

    Args:
        header: the bytes to come first.
        file: what follows; it is closed together with this.
        start: where in the file the stretch starts, in bytes.
        end: where it ends.
    """

    def __init__(self, header: bytes, file: BinaryIO, start: int, end: int) -> None:
        super().__init__()
        self._header, self._file, self._start = header, file, start
        self._size = len(header) + end - start
        self._position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Return the position in bytes from the start of the header."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to another position, as in any file."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        self._position = max(0, origin[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, or what of it there are bytes for."""
        view = memoryview(buffer).cast("B")
        left = self._header[self._position :][: len(view)]
        view[: len(left)] = left
        place = self._position + len(left) - len(self._header)
        self._file.seek(self._start + max(0, place))
        wished = max(
            0, min(len(view) - len(left), self._size - len(self._header) - place)
        )
        rest = self._file.read(wished)
        view[len(left) : len(left) + len(rest)] = rest
        self._position += len(left) + len(rest)
        return len(left) + len(rest)

    def close(self) -> None:
        """Close the file too."""
        self._file.close()
        super().close()
