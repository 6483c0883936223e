"""What users of the Python API pass as audio: paths, uploads, or what is none.

An upload, be it bytes or an open file, is copied into a temporary file that is there
only while it is read: most formats are read from more than one place.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import iscoroutinefunction
from io import BytesIO, TextIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from asr.audio import Channel, read_blocks
from asr.audio.spooling import spooled
from asr.errors import AudioError
from asr.inference.long_audio import Clip, Recording

if TYPE_CHECKING:
    from torch import Tensor

Upload = bytes | bytearray | memoryview | BinaryIO
"""The content of an audio file, or such a file opened for reading bytes."""
if TYPE_CHECKING:
    Audio: TypeAlias = str | Path | Upload | npt.NDArray[Any] | Tensor
else:  # where there is no torch, there are no tensors
    Audio = str | Path | Upload | npt.NDArray[Any]

_UPLOAD = "the audio given"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WANTED = (
    "a path, bytes, a file opened with 'rb', an array or tensor of samples, or a list "
    "of such was expected"
)


def is_one(audio: Audio | Sequence[Audio]) -> bool:
    """Return whether something is a recording, and not several of them.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(audio, str | Path | bytes | bytearray | memoryview):
        return True
    if is_samples(audio) or hasattr(audio, "read"):
        return True
    if not isinstance(audio, Sequence | Iterator):
        raise TypeError(f"{_WANTED}, not {_kind(audio)}")
    return False


def is_samples(audio: object) -> bool:
    """Return whether something is an array, or a tensor of torch."""
    torch = sys.modules.get("torch")  # without it there are no tensors
    return isinstance(audio, np.ndarray) or bool(
        torch and isinstance(audio, torch.Tensor)
    )


def recording_of(
    audio: object,
    channel: Channel,
    clip: Clip,
    read: Callable[..., Iterable[Any]] = read_blocks,
) -> Recording:
    """Return the recording that a path or an upload stands for.

    Args:
        audio: a path or an `Upload`.
        channel: of it.
        clip: from which second to which.
        read: `read_blocks`, or `read_arrays` where there is no torch.

    Raises:
        AudioError: it is an address on the web.
        TypeError: it is no path and no upload.
    """
    if isinstance(audio, str | Path):
        if _ADDRESS.match(str(audio)) and not Path(audio).exists():
            raise AudioError(f"{audio}: is an address, not a file (download it first)")
        return Recording.of_file(audio, channel, clip, read=read)
    if isinstance(audio, bytes | bytearray | memoryview):
        stream, name = cast(BinaryIO, BytesIO(audio)), _UPLOAD
    else:
        stream, name = _stream(audio)
    start, end = clip

    def blocks() -> Iterator[Any]:
        with spooled(stream, name) as path:
            yield from read(path, channel=channel, start=start, end=end, name=name)

    return Recording(blocks, name, channel, start)


def _stream(audio: object) -> tuple[BinaryIO, str]:
    """Return an open file, and what errors call it."""
    read = getattr(audio, "read", None)
    if not callable(read):
        kind = _kind(audio)
        raise TypeError(f"{_WANTED}, not {kind} in a list (of numbers make an array)")
    if isinstance(audio, TextIOBase):
        raise TypeError("a file was opened as text (open it with 'rb')")
    if iscoroutinefunction(read):
        raise TypeError("a file has a read() that is async (read it, and pass bytes)")
    name = getattr(audio, "name", None)
    return cast(BinaryIO, audio), name if isinstance(name, str) else _UPLOAD


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
