"""Wav, flac, ogg vorbis, opus, mp3 and what else libsndfile reads.

Much of what is wrong with a file goes unnoticed there: an Ogg or WAV file that was cut
short reads as a shorter one, an MP3 without a Xing header or joined of two ends where
it is guessed to end. Here it is an `AudioError`, or read to its end.

Shapes: N samples of each channel.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import soundfile

from asr.audio import mp3, ogg, riff
from asr.audio.archives import Member
from asr.audio.errors import cut_short, damaged
from asr.audio.stretches import Corrected
from asr.audio.waveforms import SAMPLE_RATE, Samples
from asr.errors import AudioError

if TYPE_CHECKING:
    from torch import Tensor

NAMES = {
    **dict.fromkeys([b"RIFF", b"RF64", b"riff"], "WAV"),
    **{b"fLaC": "FLAC", b"OggS": "Ogg", b"FORM": "AIFF", b"caff": "CAF", b".snd": "AU"},
}
"""Formats by how their files start: surely no MP3, and no raw PCM."""

SIGNATURES = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"FORM", *mp3.SIGNATURES)
"""How the files start that libsndfile should be able to read."""

KINDS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
"""What `encode` can make, by libsndfile's names of format and coding."""

CAN_BE_READ = "wav, flac, ogg vorbis, opus, mp3 and aiff can be read"

_UNKNOWN_SIZE = 2**31 - 2**16  # a WAV that was piped promises so many bytes, or more
_UNKNOWN_FRAMES = 2**62  # what libsndfile returns for a stream without a length


class SoundFile:
    """An open file.

    Args:
        path: the file.
        head: its first bytes.
        place: what errors call it.

    Raises:
        AudioError: it cannot be read, or its header shows damage.
    """

    def __init__(self, path: Path | Member, head: bytes, place: str) -> None:
        self._place, self._head = place, head
        corrected = _looked_through(path, head, place)
        with ExitStack() as opened:
            if corrected is not None:
                opened.enter_context(corrected)
            file = os.fsencode(path) if isinstance(path, Path) else path.open()
            with self._errors_of_the_library():
                self._sound = soundfile.SoundFile(corrected or file)
            opened.callback(self._close_sound)
            self._check_header()
            self._opened = opened.pop_all()
        self.rate: int = self._sound.samplerate
        self.num_channels: int = self._sound.channels

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def duration(self) -> float:
        """Return the length in seconds that the header gives."""
        return float(self._sound.frames / self.rate)

    def blocks(self, start: int, stop: int | None, size: int) -> Iterator[Samples]:
        """Read a stretch.

        Args:
            start: its first sample.
            stop: the sample that it ends before; None for the end of the file.
            size: samples of a channel in a block at most.

        Yields:
            (N, channels) each.

        Raises:
            AudioError: it is damaged, or shorter than its header promises.
        """
        promised = self._sound.frames if stop is None else min(stop, self._sound.frames)
        if 0 < start >= promised:
            return
        there = start
        if start > 0:
            with self._errors_of_the_library():
                self._sound.seek(start)
        while stop is None or there < stop:
            wished = size if stop is None else min(size, stop - there)
            with self._errors_of_the_library():
                block = self._sound.read(wished, dtype="float32", always_2d=True)
            if len(block) == 0:
                break
            there += len(block)
            yield block
        tolerance = mp3.TOLERANCE if self._sound.format == "MP3" else 0
        if there + tolerance < promised:
            raise cut_short(self._place, there, promised, "samples")

    def _check_header(self) -> None:
        # libsndfile corrects the number of samples of a WAV file, and only logs it.
        size = re.search(r"data : (\d+) \(should be (\d+)\)", self._sound.extra_info)
        if size:
            promised, there = int(size[1]), int(size[2])
            if there + 1 < promised < _UNKNOWN_SIZE:
                raise cut_short(self._place, there, promised, "bytes of samples")
        if self._sound.frames >= _UNKNOWN_FRAMES:
            raise AudioError(
                f"{self._place}: has no length in its header "
                "(convert it again, and not into a pipe)"
            )

    def _close_sound(self) -> None:
        with self._errors_of_the_library():
            self._sound.close()

    @contextmanager
    def _errors_of_the_library(self) -> Iterator[None]:
        """Turn an error of libsndfile into an AudioError of one line."""
        try:
            with _hushed(self._head):
                yield
        except (soundfile.SoundFileError, TypeError) as error:  # TypeError: named .raw
            if self._head.startswith(SIGNATURES):
                raise damaged(self._place) from error
            raise AudioError(
                f"{self._place}: is no audio that can be read ({CAN_BE_READ})"
            ) from error


def _looked_through(path: Path | Member, head: bytes, place: str) -> Corrected | None:
    """Check what libsndfile does not, and correct a header that it would trust.

    Returns:
        What is to be read in place of the file, or None.

    Raises:
        AudioError: the file is damaged.
    """
    if head.startswith(ogg.SIGNATURE):
        ogg.check_pages(path, place)
    elif head.startswith(riff.SIGNATURE):
        if riff.coding(path) == riff.MP3:
            return mp3.corrected(path, place, riff.samples_in(path, place))
        return riff.corrected(path, place)
    elif head.startswith(mp3.SIGNATURES) or (
        not head.startswith(tuple(NAMES)) and mp3.begins_late(path)
    ):
        return mp3.corrected(path, place)
    return None


_stderr_lock = threading.RLock()
_OF_LIBMPG123 = re.compile(rb"(?m)^\n?(?:\[src/libmpg123/|Note: |Warning: )[^\n]*\n?")
"""What it writes on stderr."""


@contextmanager
def _hushed(head: bytes) -> Iterator[None]:
    """Keep off stderr what libmpg123 writes about a file that may be an MP3.

    stderr is the whole process's: what other threads write meanwhile comes afterwards.
    """
    if head.startswith((b"RIFF", b"fLaC", b"OggS")):
        yield
        return
    with _stderr_lock, ExitStack() as opened:
        try:
            written = opened.enter_context(TemporaryFile(buffering=0))
            stderr = os.dup(2)
        except OSError:  # it is closed, as a service may have it; or the disk is full
            yield
            return
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            end = _pass_on(written.fileno(), 0, stderr)
            os.dup2(stderr, 2)
            _pass_on(written.fileno(), end, stderr)  # what came since
            os.close(stderr)


def _pass_on(written: int, start: int, stderr: int) -> int:
    """Copy from one descriptor to another what is not libmpg123's; return the end."""
    content = os.pread(written, os.fstat(written).st_size - start, start)
    others = _OF_LIBMPG123.sub(b"", content)
    with suppress(OSError):  # nobody reads it
        while others:
            others = others[os.write(stderr, others) :]
    return start + len(content)


def encode(waveform: "Tensor", kind: str, compression: float | None = None) -> bytes:
    """Pack a waveform as a file, to be played or kept.

    Args:
        waveform: (N,) float32 at `SAMPLE_RATE`; what is over full scale is clipped.
        kind: one of `KINDS`.
        compression: from 0 to 1, the smallest file; None for libsndfile's own choice.
    """
    packed, (format, subtype) = BytesIO(), KINDS[kind]
    with soundfile.SoundFile(
        *(packed, "w", SAMPLE_RATE, 1),
        format=format,
        subtype=subtype,
        compression_level=compression,
    ) as sound:
        # Second by second: libsndfile overruns its stack on millions at once.
        samples = waveform.clamp(-1, 1).numpy()
        for start in range(0, len(samples), SAMPLE_RATE):
            sound.write(samples[start : start + SAMPLE_RATE])
    return packed.getvalue()
