"""M4a, mp4, webm, mka, aac, wma, amr: what FFmpeg reads and libsndfile does not.

FFmpeg comes with PyAV, the optional extra: `pip install "listen-attend-spell[av]"`. A
file is recognised by its signature, so that nothing but these formats is ever tried: no
playlist that names other files, and no device.

FFmpeg takes a file that was cut short for a shorter one, and leaves out what it cannot
decode. Here, the sizes in the file (`asr.audio.sizes`) and the seconds that its header
promises are compared with what is there. AAC and AMR streams promise nothing; of these
a cut between two frames is not noticed.

A stream has a clock: its packets have time stamps. Where it starts after the recording
does, or has a gap, there is silence, so that what follows is where it belongs.

Shapes: N samples of each channel.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asr.audio import ogg, riff
from asr.audio.archives import Member
from asr.audio.errors import cut_short, damaged, damaged_because, no_samples
from asr.audio.remarks import remark
from asr.audio.sizes import check_boxes, check_frames, check_packets, check_segment
from asr.audio.stretches import BUFFER
from asr.audio.waveforms import Samples, scaled
from asr.errors import AudioError
from asr.version import DISTRIBUTION

_TOLERANCE = Fraction(1, 10)  # seconds: lengths and time stamps are rounded
_LONGEST_GAP = 3600  # seconds: a longer one is damage, or a live stream's start


class Kind(NamedTuple):
    """A format that FFmpeg reads, and how it is recognised."""

    offset: int
    signature: bytes
    name: str
    demuxer: str
    """What FFmpeg calls it."""
    is_coding: bool = False
    """Whether the name is that of a coding, in a file that libsndfile reads."""

    def __str__(self) -> str:
        """Return what an error calls it."""
        return (
            f"unsupported coding {self.name}" if self.is_coding else f"is {self.name}"
        )


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


def foreign(path: Path | Member, head: bytes) -> Kind | None:
    """Return what an Ogg or WAV file is, if libsndfile does not read its coding."""
    for module, demuxer in ((ogg, "ogg"), (riff, "wav")):
        if head.startswith(module.SIGNATURE):
            coding = module.foreign_coding(path)
            return Kind(0, head, coding, demuxer, is_coding=True) if coding else None
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
                f'{place}: {kind} (pip install "{DISTRIBUTION}[av]" reads it, '
                "or convert it to wav or flac)"
            ) from error
        self._place, self._demuxer = place, kind.demuxer
        _check_sizes(path, kind, place)
        self._ends: dict[int, Fraction] = {}  # of the packets of each stream, seconds
        with ExitStack() as opened:
            with _errors_of_the_library(place, kind):
                # file: as FFmpeg takes some names for addresses.
                file = (
                    f"file:{path.absolute()}" if isinstance(path, Path) else path.open()
                )
                self._container: Any = av.open(file, format=kind.demuxer)
                opened.callback(self._container.close)
                self._stream = self._first_stream(kind)
                self._zero = self._recording_start()
            frames = self._frames()
            first = self._first_frame(frames, kind)
            self.num_channels: int = first.layout.nb_channels
            self.rate: int = first.sample_rate
            self._decoded = chain([first], frames)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def duration(self) -> float:
        """Return when the stream ends, in seconds: by the header, or by all packets."""
        with _errors_of_the_library(self._place):
            end = self._promised_end()
            if end is None:
                for packet in self._container.demux():
                    self._note_end(packet)
                end = self._ends.get(self._stream.index, self._zero)
            return float(end - self._zero)

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
        for block in self._on_the_clock():
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

    def _first_stream(self, kind: Kind) -> Any:
        if not self._container.streams.audio:
            raise AudioError(
                f"{self._place}: has no audio stream (choose a file with sound)"
            )
        stream = self._container.streams.audio[0]
        if stream.codec_context is None:
            what = kind if kind.is_coding else "holds audio of an unknown kind"
            raise AudioError(f"{self._place}: {what} (convert it to wav or flac)")
        return stream

    def _first_frame(self, frames: Iterator[Any], kind: Kind) -> Any:
        with _errors_of_the_library(self._place, kind):
            first = next(frames, None)
        if first is None:
            raise no_samples(self._place)
        return first

    def _frames(self) -> Iterator[Any]:
        for packet in self._container.demux():
            self._note_end(packet)
            if packet.stream.index == self._stream.index:
                yield from packet.decode()

    def _on_the_clock(self) -> Iterator[Samples]:
        """Yield the samples, and silence where the stream has none."""
        there, lag, num_missing = 0, None, 0
        for frame in self._frames_or_error():
            block = self._samples(frame)
            position = self._position(frame)
            if lag is None:
                lag = self._decoder_lag(position, len(block))
            gap = 0 if position is None else position - lag - there
            if there == 0:
                block = block[max(0, -gap) :]  # what comes before the start
            elif -_TOLERANCE * self.rate < gap < _TOLERANCE * self.rate:
                gap = 0
            elif gap < 0:
                self._remark_on_leap(gap, there)
                lag += gap
            else:
                num_missing += gap
            yield from self._silence(gap)
            yield block
            there += max(0, gap) + len(block)
        if num_missing:
            remark(
                self._place,
                f"has gaps of {num_missing / self.rate:.2f} s in all (silence stands "
                "there)",
            )
        self._check_end(self._zero + Fraction(there, self.rate))

    def _frames_or_error(self) -> Iterator[Any]:
        while True:
            with _errors_of_the_library(self._place):
                frame = next(self._decoded, None)
            if frame is None:
                return
            yield frame

    def _silence(self, num_samples: int) -> Iterator[Samples]:
        if num_samples > _LONGEST_GAP * self.rate:
            raise damaged_because(
                self._place, f"its time stamps leap by {num_samples // self.rate} s"
            )
        for start in range(0, num_samples, self.rate):
            size = min(self.rate, num_samples - start)
            yield np.zeros((size, self.num_channels), np.float32)

    def _remark_on_leap(self, gap: int, there: int) -> None:
        remark(
            self._place,
            f"its time stamps go back by {-gap / self.rate:.2f} s at "
            f"{there / self.rate:.2f} s (times behind that may be wrong)",
        )

    def _position(self, frame: Any) -> int | None:
        """Return where a frame lies, in samples from the start of the recording."""
        if frame.pts is None or not frame.time_base:
            return None
        seconds = Fraction(frame.pts * frame.time_base) - self._zero
        return round(seconds * self.rate)

    def _decoder_lag(self, position: int | None, frame_size: int) -> int:
        """Return how late the time stamps of the frames are, in samples.

        Of Windows Media, a frame has that of the packet after its own.
        """
        if self._demuxer != "asf" or position is None:
            return 0
        start = Fraction((self._stream.start_time or 0) * self._stream.time_base)
        return min(position - round((start - self._zero) * self.rate), frame_size)

    def _recording_start(self) -> Fraction:
        """Return at which time the recording starts, of all its streams, in seconds.

        That is 0, but a piece of a live stream has the times of the stream.
        """
        start = Fraction(self._container.start_time or 0, 10**6)  # microseconds
        is_whole = self._container.duration and self._demuxer in ("mov", "matroska")
        if start < 0 or (is_whole and start < _LONGEST_GAP):
            return Fraction(0)
        return start

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

    def _check_end(self, decoded: Fraction) -> None:
        """Raise an AudioError where there is less than the header or packets promise.

        Args:
            decoded: seconds up to which there is sound.
        """
        reached = self._ends.get(self._stream.index, self._zero)
        promised = self._promised_end() or reached
        last = max(self._ends.values(), default=reached)
        if last + _TOLERANCE < (end := self._promised_to_all()):
            promised = max(promised, end)
        there = min(reached, decoded)
        if there + _TOLERANCE < max(promised, reached):
            raise cut_short(
                self._place,
                f"{float(there):.2f}",
                f"{float(max(promised, reached)):.2f}",
                "seconds",
            )

    def _promised_end(self) -> Fraction | None:
        """Return when the audio stream ends, if the format itself has that, in seconds.

        FFmpeg guesses from the bit rate where a format has none.
        """
        if self._demuxer != "mov" or not self._stream.duration:
            return None
        end = (self._stream.start_time or 0) + self._stream.duration
        return Fraction(end * self._stream.time_base)

    def _promised_to_all(self) -> Fraction:
        """Return when the longest of the streams ends; 0 where the format has not."""
        if self._demuxer == "matroska":
            return Fraction(self._container.duration or 0, 10**6)  # microseconds
        if self._demuxer == "asf":
            return Fraction((self._stream.duration or 0) * self._stream.time_base)
        return Fraction(0)


def _check_sizes(path: Path | Member, kind: Kind, place: str) -> None:
    """Compare the sizes in a file with what is there.

    Raises:
        AudioError: it is damaged or cut short.
    """
    if kind.demuxer == "ogg":
        ogg.check_pages(path, place)
        return
    if kind.demuxer == "wav":
        riff.samples_in(path, place)
        return
    check = {
        "mov": check_boxes,
        "matroska": check_segment,
        "asf": check_packets,
        "amr": check_frames,
        "aac": check_frames,
    }[kind.demuxer]
    with path.open("rb", buffering=BUFFER) as file:
        check(file, place)


@contextmanager
def _errors_of_the_library(place: str, kind: Kind | None = None) -> Iterator[None]:
    """Turn whatever goes wrong in PyAV, with its many errors, into an AudioError.

    Args:
        place: what errors call the file.
        kind: what it is, as long as nothing of it was decoded.
    """
    try:
        yield
    except AudioError:
        raise
    except Exception as error:
        if kind and kind.is_coding:
            raise AudioError(f"{place}: {kind} (convert it to wav or flac)") from error
        raise damaged(place) from error
