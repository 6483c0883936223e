"""Standard input, which can be read but once, as a file, which can be searched.

>>> from asr.audio import read_waveform
>>> with spooled(sys.stdin.buffer) as path:                         # doctest: +SKIP
...     waveform = read_waveform(path, name=STANDARD_INPUT)
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final

from asr.errors import AudioError

STANDARD_INPUT: Final = "standard input"
"""What errors call it: the `name` for the functions that read."""

_BUFFER = 2**20  # bytes copied at once


@contextmanager
def spooled(stream: BinaryIO, name: str = STANDARD_INPUT) -> Iterator[Path]:
    """Copy a stream into a temporary file that is gone when the block is left.

    Most formats are read from more than one place, or have their length at their end,
    so a pipe alone does not do. The copy needs disk, but next to no memory.

    Args:
        stream: such as `sys.stdin.buffer`.
        name: what errors call it.

    Raises:
        AudioError: nothing came, or it cannot be read, or there is no room for it.
    """
    with TemporaryDirectory(prefix="asr-", ignore_cleanup_errors=True) as folder:
        path = Path(folder, "standard-input")
        try:
            with path.open("wb") as file:
                shutil.copyfileobj(stream, file, _BUFFER)
                size = file.tell()
        except OSError as error:
            raise AudioError(
                f"{name}: cannot be copied to {folder} ({error.strerror})"
            ) from error
        if size == 0:
            raise AudioError(f"{name}: is empty (a recording was expected)")
        yield path
