"""M4a, mp4, webm, mka, aac, wma and amr: what FFmpeg reads and libsndfile does not.

FFmpeg comes with PyAV, the optional extra: `pip install "listen-attend-spell[av]"`. A
file is recognised by its signature, so that nothing but these formats is ever tried: no
playlist that names other files, and no device.

FFmpeg takes a file that was cut short for a shorter one. Here, the bytes and the
seconds that the header promises are compared with what is there. AAC and AMR streams
promise nothing; of these only a broken last packet is noticed.

Shapes: N samples of each channel.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asr.audio.archives import Member
from asr.audio.errors import cut_short, damaged, no_samples
from asr.audio.sizes import boxes_end, segment_end
from asr.audio.waveforms import Samples, scaled
from asr.errors import AudioError
from asr.version import DISTRIBUTION

_TOLERANCE = Fraction(1, 10)  # seconds: lengths are rounded


class Kind(NamedTuple):
    """A format that FFmpeg reads, and how it is recognised."""

    offset: int
    signature: bytes
    name: str
    demuxer: str
    """What FFmpeg calls it."""


_KINDS = [
    Kind(4, b"ftyp", "MPEG-4 audio (m4a, mp4)", "mov"),
    Kind(4, b"moov", "QuickTime (mov)", "mov"),
    Kind(4, b"mdat", "QuickTime (mov)", "mov"),
    Kind(4, b"wide", "QuickTime (mov)", "mov"),
    Kind(0, b"\x1a\x45\xdf\xa3", "Matroska (mka, webm)", "matroska"),
    Kind(0, b"\x30\x26\xb2\x75", "Windows Media audio", "asf"),
    Kind(0, b"#!AMR", "AMR audio", "amr"),
    Kind(0, b"\xff\xf0", "AAC audio", "aac"),
    Kind(0, b"\xff\xf1", "AAC audio", "aac"),
    Kind(0, b"\xff\xf8", "AAC audio", "aac"),
    Kind(0, b"\xff\xf9", "AAC audio", "aac"),
]


def recognized(head: bytes) -> Kind | None:
    """Return what a file is that starts like this, if it is for FFmpeg."""
    for kind in _KINDS:
        if head[kind.offset :].startswith(kind.signature):
            return kind
    return None


class Container:
    """An open file, of which the first audio stream is read.

    Args:
        path: the file.
        kind: what it is.
        place: what errors call it.

    Raises:
        AudioError: PyAV is missing, the file is damaged, or it has no audio stream.
    """

    def __init__(self, path: Path | Member, kind: Kind, place: str) -> None:
        try:
            import av
        except ImportError as error:
            raise AudioError(
                f'{place}: is {kind.name} (pip install "{DISTRIBUTION}[av]" reads it, '
                "or convert it to wav or flac)"
            ) from error
        self._place, self._demuxer = place, kind.demuxer
        _check_size(path, kind, place)
        self._ends: dict[int, Fraction] = {}  # of the packets of each stream, seconds
        with ExitStack() as opened:
            with _errors_of_the_library(place):
                # file: as FFmpeg takes some names for addresses.
                file = (
                    f"file:{path.absolute()}" if isinstance(path, Path) else path.open()
                )
                self._container: Any = av.open(file, format=kind.demuxer)
                opened.callback(self._container.close)
                self._stream = self._first_stream()
                frames = self._frames()
                first = next(frames, None)
                if first is None:
                    raise no_samples(place)
                self.num_channels: int = first.layout.nb_channels
                self.rate: int = first.sample_rate
            self._decoded = chain([first], frames)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def duration(self) -> float:
        """Return the length in seconds: as the header has it, or of all packets."""
        with _errors_of_the_library(self._place):
            if (promised := self._promised_to_the_stream()) is not None:
                return float(promised)
            for packet in self._container.demux():
                self._note_end(packet)
            return float(self._ends.get(self._stream.index, 0))

    def blocks(self, start: int, stop: int | None, size: int) -> Iterator[Samples]:
        """Read a stretch, once: what lies before it is decoded too.

        Not all formats have to the sample where a packet lies, so nothing is sought.

        Args:
            start: its first sample.
            stop: the sample that it ends before; None for the end of the file.
            size: samples of a channel in a block, about, at most.

        Yields:
            (N, channels) each.

        Raises:
            AudioError: it is damaged, or is shorter than its header states.
        """
        there, num_waiting = 0, 0
        waiting: list[Samples] = []
        for frame in self._decoded:
            block = self._samples(frame)
            first, last = max(0, start - there), None if stop is None else stop - there
            there += len(block)
            waiting.append(block[first:last])
            num_waiting += len(waiting[-1])
            is_over = stop is not None and there >= stop
            if num_waiting >= size or is_over:
                yield np.concatenate(waiting)
                waiting, num_waiting = [], 0
            if is_over:
                return
        if num_waiting:
            yield np.concatenate(waiting)
        self._check_end()

    def _first_stream(self) -> Any:
        if not self._container.streams.audio:
            raise AudioError(
                f"{self._place}: has no audio stream (choose a file with sound)"
            )
        stream = self._container.streams.audio[0]
        if stream.codec_context is None:
            raise AudioError(
                f"{self._place}: holds audio of an unknown kind (convert it to wav or "
                "flac)"
            )
        return stream

    def _frames(self) -> Iterator[Any]:
        with _errors_of_the_library(self._place):
            for packet in self._container.demux():
                self._note_end(packet)
                if packet.stream.index == self._stream.index:
                    yield from packet.decode()

    def _samples(self, frame: Any) -> Samples:
        """Return the samples of a frame, (N, channels)."""
        if (frame.sample_rate, frame.layout.nb_channels) != (
            self.rate,
            self.num_channels,
        ):
            raise AudioError(
                f"{self._place}: changes its sample rate or its channels on the way "
                "(convert it to wav or flac)"
            )
        with _errors_of_the_library(self._place):
            samples = frame.to_ndarray()
            if frame.format.is_planar:
                return scaled(samples.T)
            return scaled(samples.reshape(-1, self.num_channels))

    def _note_end(self, packet: Any) -> None:
        if packet.pts is not None and packet.duration and packet.time_base:
            end = (packet.pts + packet.duration) * packet.time_base
            index = packet.stream.index
            self._ends[index] = max(end, self._ends.get(index, end))

    def _check_end(self) -> None:
        """Raise an AudioError where packets are missing that the header promises."""
        promised = self._promised_to_the_stream()
        reached = self._ends.get(self._stream.index, Fraction(0))
        if self._demuxer == "matroska" and self._stream.duration is None:
            promised = Fraction(self._container.duration or 0, 10**6)  # microseconds
            reached = max(self._ends.values(), default=reached)
        if promised is not None and reached + _TOLERANCE < promised:
            there, whole = (f"{float(seconds):.2f}" for seconds in (reached, promised))
            raise cut_short(self._place, there, whole, "seconds")

    def _promised_to_the_stream(self) -> Fraction | None:
        """Return the seconds of the audio stream, if the format itself has them.

        FFmpeg guesses from the bit rate where a format has none.
        """
        if self._demuxer not in ("mov", "asf") or not self._stream.duration:
            return None
        return Fraction(self._stream.duration * self._stream.time_base)


def _check_size(path: Path | Member, kind: Kind, place: str) -> None:
    promised = 0
    with path.open("rb") as file:
        if kind.demuxer == "mov":
            promised = boxes_end(file)
        elif kind.demuxer == "matroska":
            promised = segment_end(file)
        there = file.seek(0, os.SEEK_END)
    if there < promised:
        raise cut_short(place, there, promised, "bytes")


@contextmanager
def _errors_of_the_library(place: str) -> Iterator[None]:
    """Turn whatever goes wrong in PyAV, with its many errors, into an AudioError."""
    try:
        yield
    except AudioError:
        raise
    except Exception as error:
        raise damaged(place) from error
