"""Ogg: is every page there, and whole?

libsndfile leaves out a page whose checksum is wrong, moves what follows up, and repeats
the end to fill the gap. So each page is checked here before: it starts where the last
one ends, its checksum is right, its number is the next of its stream, and the last page
of a stream has the mark of the end. A file without that mark may be whole, as some
recorders never write it; this is a remark.

Source: RFC 3533, section 6.
"""

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from asr.audio.archives import Member
from asr.audio.errors import AGAIN, damaged_because
from asr.audio.remarks import remark
from asr.audio.stretches import BUFFER
from asr.errors import AudioError

SIGNATURE: Final = b"OggS"
"""How Ogg files and all of their pages start."""

_HEADER = 27  # bytes before the sizes of the segments
_STARTS, _ENDS = 2, 4  # bits of a page's flags

_CODINGS = {  # how the first packet of a stream starts
    b"\x01vorbis": "Vorbis",
    b"OpusHead": "Opus",
    b"Speex   ": "Speex",
    b"\x7fFLAC": "FLAC in Ogg",
    b"\x80theora": "Theora with sound",
    b"fishead\0": "Ogg with a skeleton",
}
_OF_LIBSNDFILE = ("Vorbis", "Opus")

# The checksum is zlib's, but for the order of the bits and what is inverted.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class _Page(NamedTuple):
    start: int
    """Where it starts in the file, in bytes."""
    flags: int
    serial: int
    """Of its stream."""
    number: int
    """Of the page in its stream."""
    is_right: bool
    """Whether its checksum is."""


class _Stream(NamedTuple):
    last: int
    """Number of its last page."""
    has_ended: bool


def foreign_coding(path: Path | Member) -> str | None:
    """Return the coding of the first stream, if libsndfile does not read it."""
    with path.open("rb") as file:
        header = file.read(_HEADER).ljust(_HEADER, b"\0")
        file.seek(header[26], 1)
        packet = file.read(16)
    for start, name in _CODINGS.items():
        if packet.startswith(start):
            return None if name in _OF_LIBSNDFILE else name
    return None


def check_pages(path: Path | Member, place: str) -> None:
    """Refuse an Ogg file of which a page is missing, damaged, or there twice.

    Args:
        path: a file that starts with `SIGNATURE`.
        place: what errors call it.

    Raises:
        AudioError: it is damaged, cut short, or joined of two.
    """
    streams = dict[int, _Stream]()
    have_begun = False
    with path.open("rb", buffering=BUFFER) as file:
        for page in _pages(file, place, streams):
            if not page.is_right:
                raise damaged_because(
                    place, f"the page at byte {page.start} has a wrong checksum"
                )
            if page.flags & _STARTS and have_begun:
                raise AudioError(
                    f"{place}: is several files joined (convert each by itself)"
                )
            _note(page, streams, place)
            have_begun = have_begun or not page.flags & _STARTS
    if not all(stream.has_ended for stream in streams.values()):
        remark(place, "has no mark of its end (it may be cut short)")


def _note(page: _Page, streams: dict[int, _Stream], place: str) -> None:
    """Compare a page with the one before it of the same stream."""
    before = streams.get(page.serial)
    if before is None and not page.flags & _STARTS:
        raise damaged_because(place, "its start is missing")
    if before and before.has_ended:
        raise damaged_because(place, f"a page at byte {page.start} follows the end")
    if before and page.number != (before.last + 1) % 2**32:
        raise damaged_because(
            place, f"page {page.number} follows page {before.last} of its stream"
        )
    streams[page.serial] = _Stream(page.number, bool(page.flags & _ENDS))


def _pages(file: BinaryIO, place: str, streams: dict[int, _Stream]) -> Iterator[_Page]:
    """Read page after page, up to what may follow the end of all streams, as a tag."""
    start = 0
    while header := file.read(_HEADER):
        if not header.startswith(SIGNATURE + b"\0"):
            rest = header + file.read()
            has_ended = streams and all(s.has_ended for s in streams.values())
            if has_ended and not re.search(SIGNATURE + rb"\0", rest):
                return
            if SIGNATURE.startswith(header[:4]) or len(rest) < 5:
                raise _cut_short(place)
            raise damaged_because(place, f"no page starts at byte {start}")
        sizes = file.read(header[26]) if len(header) == _HEADER else b""
        body = file.read(sum(sizes))
        if len(header) < _HEADER or len(sizes) < header[26] or len(body) < sum(sizes):
            raise _cut_short(place)
        promised = int.from_bytes(header[22:26], "little")
        content = header[:22] + bytes(4) + header[26:] + sizes + body
        yield _Page(
            start,
            header[5],
            int.from_bytes(header[14:18], "little"),
            int.from_bytes(header[18:22], "little"),
            checksum(content) == promised,
        )
        start += len(content)


def checksum(content: bytes) -> int:
    """Return the checksum of a page, in which the bytes of the checksum are zero.

    >>> hex(checksum(b"OggS"))
    '0x5fb0a94f'
    """
    found = zlib.crc32(content.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(found.to_bytes(4, "little").translate(_REVERSED))


def _cut_short(place: str) -> AudioError:
    return AudioError(f"{place}: is cut short ({AGAIN})")
