"""MP3: is every frame there, and how long is it?

libsndfile trusts the Xing header. Without one it guesses from the first frame's bit
rate and the size of the file, and reads no further than it guessed; of files that were
joined it reads the first. What is damaged it leaves out, and moves the rest up. So the
frames are walked through here: each must start where the last one ends. Where they are
not those promised, libsndfile is given a correct header.

Source: ISO/IEC 11172-3, 2.4.1.3, and for the low sample rates 13818-3; the fields of
the header frame: "MP3 Info Tag revision 1 specifications" (LAME).
"""

import os
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from asr.audio.archives import Member
from asr.audio.errors import cut_short, damaged_because
from asr.audio.remarks import remark
from asr.audio.riff import Stretch
from asr.audio.stretches import BUFFER, Corrected
from asr.errors import AudioError

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

_CHAIN = 4  # frames in a row that cannot be there by chance
_SEARCHED = 2**17  # bytes in which the first frame must be, behind a tag
_TAG = 128  # bytes of an ID3v1 tag
_APE = 32  # bytes of an APE tag's header, and of its footer
_END_TAGS = (b"LYRICSBEGIN", b"APETAGEX", b"3DI")
_HEAD = 40  # bytes of a frame that reach to the name of a header frame
_NAMES = (b"Xing", b"Info")  # of a header frame
_LAME = 120  # bytes from there to the encoder's name
_LAME_CRC = 154  # and to the checksum
_ENCODERS = (b"LAME", b"Lavf", b"Lavc", b"L3.9")


class _Walk(NamedTuple):
    """The frames of a file."""

    first: Stretch
    """The first frame."""
    end: int
    """Where the last whole frame ends, in bytes."""
    num_frames: int
    num_headers: int
    """Tags and further header frames on the way: files were joined."""
    rest: bytes
    """The start of what follows the last frame and is no tag."""


class _Promise(NamedTuple):
    """What the header frame states."""

    num_frames: int
    num_bytes: int | None
    """Of the stream, this frame counted."""


def corrected(
    path: Path | Member, place: str, stretch: Stretch | None = None
) -> Corrected | None:
    """Give an MP3 file whose header is wrong one with its true length.

    Args:
        path: a file.
        place: what an error calls it.
        stretch: where in the file the MP3 file lies; None for all of it.

    Returns:
        None where the file can be read as it is, or has no frame.

    Raises:
        AudioError: what follows a frame is none, or there are fewer frames than the
            header promises.
    """
    with path.open("rb", buffering=BUFFER) as file:
        within = stretch or Stretch(0, file.seek(0, os.SEEK_END))
        first = _first_frame(file, within)
        if first is None:
            return None
        _look_at_start(file, within, first, place)
        walk = _walked(file, within, first)
        header = _bytes(file, *first)
        promise = _promise(header)
        if promise is None:
            _look_at_end(walk, place)
            start, num_frames = first.start, walk.num_frames
        elif _is_kept(promise, walk, place):
            if within.start == 0 and first.start == _behind_tags(file, 0):
                return None
            return Corrected(b"", path.open("rb", buffering=BUFFER), *within)
        else:  # the first frame is but a header
            start, num_frames = first.end, walk.num_frames - 1
            header = _bytes(file, start, start + 4)
        new = _xing_frame(header, num_frames)
    return Corrected(new, path.open("rb", buffering=BUFFER), start, walk.end)


def begins_at_once(head: bytes) -> bool:
    """Return whether what starts like this has two MP3 frames in a row there."""
    return head.startswith(b"ID3") or (
        len(_chain(BytesIO(head), Stretch(0, len(head)))) > 1
    )


def begins_late(path: Path | Member) -> bool:
    """Return whether a file that starts with something else has MP3 frames soon."""
    with path.open("rb", buffering=BUFFER) as file:
        return _first_frame(file, Stretch(0, file.seek(0, os.SEEK_END))) is not None


def _look_at_start(file: BinaryIO, within: Stretch, first: Stretch, place: str) -> None:
    """Remark on what is odd before the first frame and in it."""
    start = _behind_tags(file, within.start)
    if _bytes(file, start, first.start).strip(b"\0"):
        remark(
            place,
            f"begins within a frame ({first.start - start} bytes are left out; it may "
            "be cut short)",
        )
    if not _has_right_checksum(_bytes(file, *first)):
        remark(place, "has a damaged header (it may begin or end at another time)")


def _look_at_end(walk: _Walk, place: str) -> None:
    """Remark on what follows the last frame of a file without a header frame.

    Raises:
        AudioError: a frame may be in it.
    """
    if not walk.rest:
        return
    is_frame = _frame_size(walk.rest[:4]) > len(walk.rest)
    length = walk.first.end - walk.first.start
    if not is_frame and len(walk.rest) > length and walk.rest.strip(b"\0"):
        raise _broken(walk, place)
    remark(place, "ends within a frame, or was filled up (it may be cut short)")


def _is_kept(promise: _Promise, walk: _Walk, place: str) -> bool:
    """Return whether the header's promise is kept, or near enough for libsndfile.

    Raises:
        AudioError: there is less than it promises.
    """
    num_frames, num_bytes = walk.num_frames - 1, walk.end - walk.first.start
    is_shorter = num_frames + bool(not walk.rest) < promise.num_frames
    if is_shorter:  # some encoders count the header
        if len(walk.rest) > 4 and not _frame_size(walk.rest[:4]) > len(walk.rest):
            raise _broken(walk, place)
        raise cut_short(place, num_frames, promise.num_frames, "frames")
    is_longer = num_frames > promise.num_frames + 1
    is_other = promise.num_bytes and num_bytes != promise.num_bytes
    if (is_longer or is_other) and not walk.num_headers:
        remark(
            place,
            f"has {num_frames} frames in {num_bytes} bytes, not {promise.num_frames} "
            f"in {promise.num_bytes} as its header has it (something was added or "
            "taken away)",
        )
    return not is_longer


def _broken(walk: _Walk, place: str) -> AudioError:
    return damaged_because(
        place, f"no frame like the first starts at byte {walk.end}, where one ends"
    )


def _first_frame(file: BinaryIO, within: Stretch) -> Stretch | None:
    """Find the first frame: behind tags, or a little later."""
    start = behind = _behind_tags(file, within.start)
    while 0 <= start < min(behind + _SEARCHED, within.end):
        chain = _chain(file, Stretch(start, within.end))
        if chain and (len(chain) == _CHAIN or start == behind):
            return chain[0]
        start = _find_ff(file, start + 1)
    return None


def _chain(file: BinaryIO, within: Stretch) -> list[Stretch]:
    """Return frames in a row, some at most; none where another thing follows."""
    found, start, kind = list[Stretch](), within.start, None
    while len(found) < _CHAIN and start < within.end:
        head = _bytes(file, start, start + 11)
        this, size = _frame(head[:4])
        if size == 0 or this != (kind or this):
            is_end = _behind_tags(file, start) > start or not head.strip(b"\0")
            return found if is_end or head.startswith(_END_TAGS) else []
        if start + size > within.end:
            break
        found.append(Stretch(start, start + size))
        kind, start = this, start + size
    return found


def _walked(file: BinaryIO, within: Stretch, first: Stretch) -> _Walk:
    """Go from frame to frame, as long as one starts where the last one ends."""
    header = _bytes(file, *first)
    (kind, _), xing = _frame(header[:4]), _xing_place(header)
    num_frames, num_headers = 0, 0
    start = end = first.start
    while start < within.end:
        file.seek(start)
        head = file.read(_HEAD)
        this, size = _frame(head[:4])
        if this == kind and size and start + size <= within.end:
            num_headers += num_frames > 0 and head[xing : xing + 4] in _NAMES
            num_frames += 1
            start = end = start + size
        elif (behind := _behind_tags(file, start)) > start:
            num_headers, start = num_headers + (behind < within.end), behind
        else:
            break
    rest = _bytes(file, start, min(start + _SEARCHED, within.end))
    is_tag = not rest or rest.startswith(_END_TAGS)
    return _Walk(first, end, num_frames, num_headers, b"" if is_tag else rest)


def _behind_tags(file: BinaryIO, start: int) -> int:
    """Return where the tags end that start somewhere; there, if none does."""
    while True:
        header = _bytes(file, start, start + 16)
        if header.startswith(b"ID3") and len(header) >= 10:
            a, b, c, d = header[6:10]
            start += 10 + (a << 21 | b << 14 | c << 7 | d)
        elif header.startswith(b"TAG"):
            start += _TAG
        elif header.startswith(b"APETAGEX") and (
            (size := int.from_bytes(header[12:], "little")) >= _APE
        ):
            start += _APE + size
        else:
            return start


def _bytes(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(max(0, end - start))


def _find_ff(file: BinaryIO, start: int) -> int:
    """Return where the next byte of ones is, with which frames start; -1 if nowhere."""
    file.seek(start)
    while chunk := file.read(BUFFER):
        if (place := chunk.find(b"\xff")) >= 0:
            return start + place
        start += len(chunk)
    return -1


@lru_cache(maxsize=2**12)
def _frame(header: bytes) -> tuple[int, int]:
    """Return what all frames of a stream have in common, and the size of this one."""
    bits = int.from_bytes(header)
    is_mono = bits >> 6 & 3 == 3
    # The others: sync, version, layer and sample rate.
    return bits & 0xFFFE_0C00 | is_mono, _frame_size(header)


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


def _promise(frame: bytes) -> _Promise | None:
    """Return what a header frame promises; None if this frame is none."""
    xing = frame[_xing_place(frame) :][:16]
    if xing[:4] not in _NAMES or len(xing) < 16 or not xing[7] & 1:
        return None
    num_bytes = int.from_bytes(xing[12:]) if xing[7] & 2 else None
    return _Promise(int.from_bytes(xing[8:12]), num_bytes)


def _has_right_checksum(frame: bytes) -> bool:
    """Return whether a header frame is as it was written, if it has a checksum.

    LAME's is of all before it, FFmpeg's of 190 bytes, in which it itself is zero yet.
    """
    place = _xing_place(frame)
    crc = place + _LAME_CRC
    if frame[place + _LAME :][:4] not in _ENCODERS or len(frame) < 190:
        return True
    promised = int.from_bytes(frame[crc : crc + 2])
    as_ffmpeg = frame[:crc] + bytes(2) + frame[crc + 2 : 190]
    return promised in (0, _crc_16(frame[:crc]), _crc_16(as_ffmpeg[:190]))


def _crc_16(content: bytes) -> int:
    """Return the checksum of a header frame.

    >>> hex(_crc_16(b"123456789"))
    '0xbb3d'
    """
    crc, table = 0, _crc_16_table()
    for byte in content:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return crc


@cache
def _crc_16_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
        table.append(value)
    return table


def _xing_frame(first: bytes, num_frames: int) -> bytes:
    """Make a frame with a Xing header that promises so many frames like the first."""
    # Without a checksum (| 1), and of 64 kbit/s or more, so that there is room.
    header = bytes([first[0], first[1] | 1, first[2] & 0x0F | 0x80, first[3]])
    xing = b"Xing" + (1).to_bytes(4) + num_frames.to_bytes(4)
    return (header.ljust(_xing_place(header), b"\0") + xing).ljust(
        _frame_size(header), b"\0"
    )
