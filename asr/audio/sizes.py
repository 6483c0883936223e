"""Boxes, elements, packets: does one start where the last one ends?

FFmpeg takes a file that was cut short for a shorter one, leaves out what it does not
understand, and goes on behind it. MPEG-4 and QuickTime files are a row of boxes, each
with its size; a Matroska file is a header and one segment, which is a row of elements,
of which clusters are rows of blocks; ADTS and AMR are rows of frames.

Source: ISO/IEC 14496-12, section 4.2; RFC 8794 (EBML), sections 4, 5 and 11.3; RFC 9559
(Matroska), section 5; ISO/IEC 14496-3, 1.A.2.2; RFC 4867, section 5.
"""

import os
import zlib
from functools import partial
from typing import BinaryIO, Final, NamedTuple

from asr.audio.errors import cut_short, damaged_because
from asr.audio.remarks import remark

_BOXES = (
    *(b"ftyp", b"styp", b"moov", b"moof", b"mfra", b"mdat", b"sidx", b"pdin"),
    *(b"free", b"skip", b"wide", b"uuid", b"meta", b"udta", b"emsg", b"prft", b"ssix"),
)
_EBML = 0x1A45_DFA3
_SEGMENT = 0x1853_8067
_CLUSTER = 0x1F43_B675
_CRC, _VOID = 0xBF, 0xEC
_IN_SEGMENT = {
    *(0x114D_9B74, 0x1549_A966, 0x1654_AE6B, 0x1C53_BB6B, 0x1941_A469, 0x1043_A770),
    *(0x1254_C367, _CLUSTER, _CRC, _VOID),
}
_IN_CLUSTER = {0xE7, 0xA3, 0xA0, 0xA7, 0xAB, 0x5854, 0xAF, _CRC, _VOID}
_MOST_CHECKED: Final = 2**26  # bytes of an element with a checksum that are read


def check_boxes(file: BinaryIO, place: str) -> None:
    """Refuse an MPEG-4 file that is shorter than its boxes are.

    Raises:
        AudioError: it is cut short.
    """
    size, end = file.seek(0, os.SEEK_END), 0
    while end < size:
        file.seek(end)
        header = file.read(16)
        length = int.from_bytes(header[:4])
        if length == 1:  # the size follows, as it needs 8 bytes
            length = int.from_bytes(header[8:])
        if header[4:8] in _BOXES and length == 0:  # up to the end
            return
        if header[4:8] not in _BOXES or length < 8:
            _look_behind(file, end, size, place)
            return
        end += length
    if end > size:
        raise cut_short(place, size, end, "bytes")


class _Element(NamedTuple):
    name: int
    content: int
    """Where it starts, in bytes."""
    size: int | None
    """Of the content, in bytes; None where it is unknown."""

    @property
    def end(self) -> int:
        assert self.size is not None
        return self.content + self.size


def check_segment(file: BinaryIO, place: str) -> None:
    """Refuse a Matroska file whose elements do not fill it one after the other.

    Raises:
        AudioError: it is damaged or cut short.
    """
    size = file.seek(0, os.SEEK_END)
    header = _element(file, 0)
    if header is None or header.name != _EBML or header.size is None:
        raise damaged_because(place, "its header is none")
    segment = _element(file, header.end)
    if segment is None or segment.name != _SEGMENT:
        raise damaged_because(place, f"no segment starts at byte {header.end}")
    end = size if segment.size is None else segment.end
    if end > size:
        raise cut_short(place, size, end, "bytes")
    start = segment.content
    while start < end:
        element = _element(file, start)
        if element is None or element.name not in _IN_SEGMENT:
            raise damaged_because(place, f"no element starts at byte {start}")
        if element.size is not None and element.end > end:
            raise cut_short(place, end, element.end, "bytes")
        if element.name == _CLUSTER:
            start = _check_cluster(file, element, end, place)
        elif element.size is None:
            raise damaged_because(place, f"an element at byte {start} has no size")
        else:
            start = element.end
        _check_crc(file, element, place)
    if end < size:
        _look_behind(file, end, size, place)


def _check_cluster(file: BinaryIO, cluster: _Element, end: int, place: str) -> int:
    """Go through the blocks of a cluster; return where it ends."""
    start = cluster.content
    last = end if cluster.size is None else cluster.end
    while start < last:
        element = _element(file, start)
        name = element.name if element else None
        if cluster.size is None and name in _IN_SEGMENT - {_CRC, _VOID}:
            return start
        if element is None or element.size is None or name not in _IN_CLUSTER:
            raise damaged_because(place, f"no block starts at byte {start}")
        start = element.end
    if start > last and cluster.size is None:
        raise cut_short(place, end, start, "bytes")
    if start > last:
        raise damaged_because(place, f"a block reaches over byte {last}")
    return start


def _check_crc(file: BinaryIO, element: _Element, place: str) -> None:
    """Compare an element with the checksum that may be the first in it."""
    if element.size is None or not 6 <= element.size <= _MOST_CHECKED:
        return
    file.seek(element.content)
    head = file.read(6)
    if head[:2] != bytes([_CRC, 0x84]):  # of four bytes
        return
    if zlib.crc32(file.read(element.size - 6)) != int.from_bytes(head[2:], "little"):
        raise damaged_because(
            place, f"the element at byte {element.content} has a wrong checksum"
        )


def _element(file: BinaryIO, start: int) -> _Element | None:
    """Read the name and the size of an element; None where none can be."""
    file.seek(start)
    header = file.read(12)
    if not header or (num_bytes := 9 - header[0].bit_length()) > 4:
        return None
    name, rest = int.from_bytes(header[:num_bytes]), header[num_bytes:]
    if not rest or (width := 9 - rest[0].bit_length()) > 8 or len(rest) < width:
        return None
    size = int.from_bytes(rest[:width]) - (1 << 7 * width)
    is_unknown = size == (1 << 7 * width) - 1  # only ones
    content = start + num_bytes + width
    return _Element(name, content, None if is_unknown else size)


def check_frames(file: BinaryIO, place: str) -> None:
    """Refuse an ADTS or AMR file in which a frame does not follow the last one.

    Raises:
        AudioError: it is damaged or cut short.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start, length_of, first = 0, _adts, None
    for signature, sizes in _AMR.items():
        if file.read(len(signature)) == signature:
            start, length_of = len(signature), partial(_amr, sizes)
        file.seek(0)
    while start < size:
        file.seek(start)
        kind, length = length_of(file.read(8))
        if length == 0 or kind != (first or kind):
            _look_behind(file, start, size, place)
            return
        first, start = kind, start + length
    if start > size:
        raise cut_short(place, size, start, "bytes")


def begins_as_adts(head: bytes) -> bool:
    """Return whether what starts like this has two ADTS frames in a row there."""
    kind, length = _adts(head)
    return length > 0 and _adts(head[length:])[0] == kind


def _adts(header: bytes) -> tuple[int, int]:
    """Return what all ADTS frames of a file have in common, and the size of one."""
    bits = int.from_bytes(header[:7])
    length = bits >> 13 & 0x1FFF
    if len(header) < 7 or bits >> 44 != 0xFFF or bits >> 41 & 3 or length < 7:
        return 0, 0
    return bits >> 28 & 0xFFF_EFDC, length  # but for four bits that say little


def _amr(sizes: tuple[int, ...], header: bytes) -> tuple[int, int]:
    """Return the same for an AMR frame, of which only the size is in its header."""
    kind = header[0] >> 3 & 15
    is_frame = not header[0] & 0b1000_0011 and kind < len(sizes) and sizes[kind] >= 0
    return (1, 1 + sizes[kind]) if is_frame else (0, 0)


_AMR = {  # bytes of a frame of each kind; -1 where there is no such kind
    b"#!AMR\n": (12, 13, 15, 17, 19, 20, 26, 31, 5, *6 * (-1,), 0),
    b"#!AMR-WB\n": (17, 23, 32, 36, 40, 46, 50, 58, 60, 5, *4 * (-1,), 0, 0),
}

_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def check_packets(file: BinaryIO, place: str) -> None:
    """Refuse a Windows Media file whose packets are not where they must be.

    Raises:
        AudioError: it is damaged or cut short.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    header = file.read(24)
    data = int.from_bytes(header[16:24], "little")
    if data + 50 > size:
        raise cut_short(place, size, data + 50, "bytes")
    file.seek(0)
    header = file.read(min(data, 2**24))
    about = header.find(_ASF_FILE)
    packet = int.from_bytes(header[about + 92 : about + 96], "little")
    file.seek(data)
    head = file.read(50)
    length = int.from_bytes(head[16:24], "little")
    number = int.from_bytes(head[40:48], "little")
    if about < 0 or not head.startswith(_ASF_DATA) or packet == 0:
        raise damaged_because(place, "its header is none")
    if length == 0:  # a live stream
        return
    if data + length > size:
        raise cut_short(place, size, data + length, "bytes")
    if length != 50 + number * packet:
        raise damaged_because(
            place, f"{number} packets of {packet} bytes are not {length - 50} bytes"
        )
    file.seek(data + 50)
    first = file.read(1)
    for start in range(data + 50, data + length, packet):
        file.seek(start)
        if file.read(1) != first:
            raise damaged_because(place, f"no packet starts at byte {start}")


def _look_behind(file: BinaryIO, end: int, size: int, place: str) -> None:
    """Remark on what follows the end, unless it is a tag or zeros."""
    file.seek(end)
    rest = file.read(_MOST_CHECKED)
    if rest.startswith((b"TAG", b"ID3", b"APETAGEX")) or not rest.strip(b"\0"):
        return
    remark(
        place,
        f"has {size - end} bytes from byte {end} on that are no part of it (they are "
        "not read; it may be damaged there)",
    )
