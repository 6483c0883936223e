"""How long must a file be? The sizes in its outermost boxes against its own.

FFmpeg takes a file that was cut short for a shorter one, or for one without sound.
MPEG-4 and QuickTime files are a row of boxes, each with its size; a Matroska file is a
header and one segment.

Source: ISO/IEC 14496-12, section 4.2; RFC 8794 (EBML), sections 4 and 5.
"""

import os
from typing import BinaryIO

_BOXES = (
    *(b"ftyp", b"styp", b"moov", b"moof", b"mfra", b"mdat", b"sidx", b"pdin"),
    *(b"free", b"skip", b"wide", b"uuid", b"meta", b"udta"),
)
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"


def boxes_end(file: BinaryIO) -> int:
    """Return where the boxes of an MPEG-4 file end, in bytes.

    What follows the last box that is known does not count.
    """
    size, end = file.seek(0, os.SEEK_END), 0
    while end < size:
        file.seek(end)
        header = file.read(16)
        length = int.from_bytes(header[:4])
        if length == 1:  # the size follows, as it needs 8 bytes
            length = int.from_bytes(header[8:])
        if header[4:8] not in _BOXES or length < 8:  # 0: up to the end
            break
        end += length
    return end


def segment_end(file: BinaryIO) -> int:
    """Return where the segment of a Matroska file ends, in bytes; 0 if it is untold."""
    size, end = file.seek(0, os.SEEK_END), 0
    for name in (_EBML, _SEGMENT):
        if end > size:
            return end
        file.seek(end)
        header = file.read(12)
        if len(header) < 12 or not header.startswith(name):
            return 0
        width = 9 - header[4].bit_length()  # bytes of the size; from its first one bit
        length = int.from_bytes(header[4 : 4 + width]) - (1 << 7 * width)
        if width > 8 or length == (1 << 7 * width) - 1:  # only ones: unknown
            return 0
        end += 4 + width + length
    return end
