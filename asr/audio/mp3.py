"""MP3: how long is it? libsndfile trusts a header, or guesses.

It trusts the Xing header. Without one it guesses from the first frame's bit rate and
the size of the file, and reads no further than it guessed; of files that were joined it
reads the first. So the frames are counted here, and where they are not those promised,
libsndfile is given a correct header. Of a file of any length only a buffer
is in memory.

Source: ISO/IEC 11172-3, 2.4.1.3, and for the low sample rates 13818-3.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from asr.audio.archives import Member
from asr.audio.errors import cut_short

SIGNATURES: Final = (
    b"ID3",
    b"\xff\xe2",
    b"\xff\xe3",
    b"\xff\xf2",
    b"\xff\xf3",
    b"\xff\xfa",
    b"\xff\xfb",
)
"""How MP3 files start."""

TOLERANCE: Final = 2 * 1152
"""Samples: an encoder may count a frame too many."""

_MPEG_1_RATES = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG_2_RATES = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_BUFFER = 2**16  # bytes


class _Frame(NamedTuple):
    """Where a frame lies in the file, in bytes."""

    start: int
    end: int


class Corrected(io.RawIOBase):
    """A header, and then a stretch of a file, read as one file.

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


def corrected(path: Path | Member, place: str) -> Corrected | None:
    """Give an MP3 file whose header is wrong one with its true length.

    Args:
        path: a file that starts with one of `SIGNATURES`.
        place: what an error calls it.

    Returns:
        None where the file can be read as it is.

    Raises:
        AudioError: there are fewer frames than the Xing header promises.
    """
    with path.open("rb", buffering=_BUFFER) as file:
        frames = _frames(file)
        first = next(frames, None)
        if first is None:
            return None
        promised = _promised_frames(_bytes(file, *first))
        start, end, num_frames = first.start, first.end, 1
        if promised is not None:  # the first frame is but a header
            start, num_frames = end, 0
        for frame in frames:
            if num_frames == 0:
                start = frame.start
            num_frames, end = num_frames + 1, frame.end
        if promised is not None:
            if num_frames + 1 < promised:
                raise cut_short(place, num_frames, promised, "frames")
            if num_frames <= promised + 1:  # some encoders count the header
                return None
        header = _xing_frame(_bytes(file, start, start + 4), num_frames)
    return Corrected(header, path.open("rb", buffering=_BUFFER), start, end)


def _bytes(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _frames(file: BinaryIO) -> Iterator[_Frame]:
    """Find the whole frames, and skip tags and what else lies between them."""
    size = file.seek(0, os.SEEK_END)
    start, is_synchronous = 0, False
    while 0 <= start < size:
        header = _bytes(file, start, start + 10)
        if header.startswith(b"ID3") and len(header) == 10:
            a, b, c, d = header[6:]
            start += 10 + (a << 21 | b << 14 | c << 7 | d)
            continue
        end = start + _frame_size(header[:4])
        is_frame = start < end <= size and (
            is_synchronous or _frame_size(_bytes(file, end, end + 4)) > 0
        )
        if is_frame:
            yield _Frame(start, end)
        is_synchronous = is_frame
        start = end if is_frame else _find_ff(file, start + 1)


def _find_ff(file: BinaryIO, start: int) -> int:
    """Return where the next byte of ones is, with which frames start; -1 if nowhere."""
    file.seek(start)
    while chunk := file.read(_BUFFER):
        if (place := chunk.find(b"\xff")) >= 0:
            return start + place
        start += len(chunk)
    return -1


def _frame_size(header: bytes) -> int:
    """Return the size in bytes of the layer III frame with this header, or else 0."""
    bits = int.from_bytes(header)
    version, layer = bits >> 19 & 3, bits >> 17 & 3
    bit_rate, sample_rate = bits >> 12 & 15, bits >> 10 & 3
    is_layer_3 = (
        len(header) == 4 and bits >> 21 == 0x7FF and version != 1 and layer == 1
    )
    if not is_layer_3 or bit_rate in (0, 15) or sample_rate == 3:
        return 0
    is_mpeg_1 = version == 3
    kilobits = (_MPEG_1_RATES if is_mpeg_1 else _MPEG_2_RATES)[bit_rate]
    hertz = (44_100, 48_000, 32_000)[sample_rate] >> (0, 1, 2)[(3, 2, 0).index(version)]
    return (144_000 if is_mpeg_1 else 72_000) * kilobits // hertz + (bits >> 9 & 1)


def _xing_place(header: bytes) -> int:
    """Return where a frame has its Xing header: behind its side information."""
    is_mpeg_1, is_mono = header[1] >> 3 & 3 == 3, header[3] >> 6 == 3
    return 4 + {(1, 0): 32, (1, 1): 17, (0, 0): 17, (0, 1): 9}[is_mpeg_1, is_mono]


def _promised_frames(frame: bytes) -> int | None:
    """Return how many frames a Xing header promises; None if this frame has none."""
    xing = frame[_xing_place(frame) :][:12]
    if xing[:4] not in (b"Xing", b"Info") or len(xing) < 12 or not xing[7] & 1:
        return None
    return int.from_bytes(xing[8:])


def _xing_frame(first: bytes, num_frames: int) -> bytes:
    """Make a frame with a Xing header that promises so many frames like the first."""
    header = bytes([first[0], first[1] | 1, *first[2:]])  # | 1: without a checksum
    xing = b"Xing" + (1).to_bytes(4) + num_frames.to_bytes(4)
    return (header.ljust(_xing_place(header), b"\0") + xing).ljust(
        _frame_size(header), b"\0"
    )
