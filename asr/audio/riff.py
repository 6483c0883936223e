"""WAV: what its chunks are, and whether their sizes can be true.

A recorder writes the size of the samples when it stops. Where it died before, or wrote
into a pipe, the header has 0 or a size that no file has; libsndfile finds no samples
then. Here the size is that of the file, and a remark is made.

Source: Multimedia Programming Interface and Data Specifications 1.0 (IBM, Microsoft
1991), "Resource Interchange File Format"; registered codings: RFC 2361.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from asr.audio.archives import Member
from asr.audio.errors import cut_short
from asr.audio.remarks import remark
from asr.audio.stretches import BUFFER, Corrected

SIGNATURE: Final = b"RIFF"
"""How WAV files start, but for those of over 4 GiB."""

_UNKNOWN_SIZE = 2**31 - 2**16  # bytes: what is written to a pipe promises that or more
MP3: Final = 0x55
"""The number of a coding: the samples are an MP3 file."""

_LINEAR = (1, 3)  # codings by which the sizes in the header follow from each other
_OF_LIBSNDFILE = (*_LINEAR, 2, 6, 7, 0x11, 0x31, 0x38, 0x50, MP3, 0xFFFE)
_CODINGS = {
    0x14: "G.723",
    0x22: "TrueSpeech",
    0x40: "G.721",
    0x42: "G.723.1",
    0x45: "G.726",
    0x64: "G.726",
    0x65: "G.722",
    0x83: "G.729",
    0x160: "Windows Media audio",
    0x161: "Windows Media audio",
    0xFF: "AAC",
    0x2000: "AC-3",
}


class Stretch(NamedTuple):
    """Where something lies in a file, in bytes."""

    start: int
    end: int


class _Wav(NamedTuple):
    """What a header has."""

    coding: int
    num_channels: int
    rate: int
    bytes_a_second: int
    bytes_a_frame: int
    bits: int
    riff_size: int
    data: int
    """Where the samples start; 0 where the file has none."""
    data_size: int
    """As promised, in bytes."""
    file_size: int

    @property
    def there(self) -> int:
        """Bytes from the start of the samples to the end of the file."""
        return self.file_size - self.data


def coding(path: Path | Member) -> int | None:
    """Return the number of a WAV file's coding; None for what is no WAV file."""
    with path.open("rb", buffering=BUFFER) as file:
        wav = _wav(file)
    return wav.coding if wav and wav.data else None


def foreign_coding(path: Path | Member) -> str | None:
    """Return the coding of a WAV file, if libsndfile does not read it."""
    number = coding(path)
    if number is None or number in _OF_LIBSNDFILE:
        return None
    return _CODINGS.get(number, f"0x{number:04x} in WAV")


def samples_in(path: Path | Member, place: str) -> Stretch:
    """Return where in a WAV file the samples lie.

    Raises:
        AudioError: it is cut short.
    """
    with path.open("rb", buffering=BUFFER) as file:
        wav = _wav(file)
    assert wav is not None
    size = wav.there if _is_unknown(wav) else wav.data_size
    if size > wav.there:
        raise cut_short(place, wav.there, size, "bytes of samples")
    return Stretch(wav.data, wav.data + size)


def corrected(path: Path | Member, place: str) -> Corrected | None:
    """Give a WAV file whose header was never finished one with its true size.

    What else is odd about its sizes is remarked on.

    Returns:
        None where the file can be read as it is.
    """
    with path.open("rb", buffering=BUFFER) as file:
        wav = _wav(file)
        if wav is None or not wav.data:
            return None
        if _is_unknown(wav):
            remark(
                place,
                "has no length in its header, as after a pipe or a crash (it is read "
                "to the end of the file, and may be cut short)",
            )
            file.seek(0)
            header = bytearray(file.read(wav.data))
            size = min(wav.there, 2**32 - 2**12)
            header[4:8] = (min(wav.data + size - 8, 2**32 - 2)).to_bytes(4, "little")
            header[-4:] = size.to_bytes(4, "little")
            stretch = (wav.data, wav.data + size)
            return Corrected(bytes(header), path.open("rb", buffering=BUFFER), *stretch)
        _look_at_sizes(wav, file, place)
    return None


def _is_unknown(wav: _Wav) -> bool:
    """Return whether the size of the samples was never written."""
    if wav.data_size == 0:
        return wav.there > 0 and wav.riff_size + 8 <= wav.data
    return wav.data_size > wav.there and wav.data_size >= _UNKNOWN_SIZE


def _look_at_sizes(wav: _Wav, file: BinaryIO, place: str) -> None:
    """Remark on a header that contradicts itself, and on what follows the end."""
    frame = wav.num_channels * ((wav.bits + 7) // 8)
    if wav.coding in _LINEAR and (
        wav.bytes_a_frame != frame or wav.bytes_a_second != frame * wav.rate
    ):
        remark(
            place,
            f"its header contradicts itself ({wav.num_channels} channels of {wav.bits} "
            f"bits at {wav.rate} Hz are not {wav.bytes_a_second} bytes a second)",
        )
    end = wav.data + wav.data_size
    while end < wav.file_size:
        file.seek(end + end % 2)
        header = file.read(8)
        size = int.from_bytes(header[4:], "little")
        if not header.strip(b"\0") or header.startswith(b"TAG"):
            return  # filled up; or a tag as MP3 files have it
        if not (len(header) == 8 and header[:4].isascii() and header[:4].isalnum()) or (
            end + 8 + size > wav.file_size
        ):
            break
        end += end % 2 + 8 + size
    if end < wav.file_size:
        remark(
            place,
            f"has {wav.file_size - end} bytes behind its end (they are not read; if "
            "they are sound, its header is wrong)",
        )


def _wav(file: BinaryIO) -> _Wav | None:
    """Read the chunks up to the samples; None for what is no WAV file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] != SIGNATURE or head[8:] != b"WAVE":
        return None
    about: tuple[int, int, int, int, int, int] | None = None
    place = 12
    while place + 8 <= size:
        file.seek(place)
        header = file.read(8)
        length = int.from_bytes(header[4:], "little")
        place += 8
        if header[:4] == b"fmt " and length >= 16:
            coding, channels, rate, second, frame, bits = struct.unpack(
                "<HHIIHH", file.read(16).ljust(16, b"\0")
            )
            about = (coding, channels, rate, second, frame, bits)
        if header[:4] == b"data" and about:
            riff_size = int.from_bytes(head[4:8], "little")
            return _Wav(*about, riff_size, place, length, size)
        place += length + length % 2
    return _Wav(*about, 0, 0, 0, size) if about else None
