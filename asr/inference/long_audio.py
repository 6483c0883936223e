"""From recordings of any length to transcripts, whoever it is that recognises.

A recording is read block by block and cut into pieces (`segmentation`); batches of
pieces go to a recogniser, in this process or in several; what comes back is put
together in the order of the recordings. No more is in memory than the pieces that are
under way.

Shapes: N samples.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from asr.audio import SAMPLE_RATE, Channel, check_channel, read_blocks
from asr.errors import AsrError
from asr.files import errors_of
from asr.inference.segmentation import LONGEST, Piece, merge_segments, pieces
from asr.transcript import Segment, Transcript, moved, silence

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 8
"""Most pieces or utterances that are recognised together on a CPU."""
GPU_SECONDS = 800.0
"""Audio that is recognised together on a GPU, padding counted."""
GPU_PIECES = int(GPU_SECONDS / LONGEST)
"""So many pieces are that at most."""

Clip = tuple[float, float | None]
"""From which second to which; None for the end."""
Progress = Callable[[float], object]
"""Is called with the seconds that were done since the last call."""
Recognize: TypeAlias = "Callable[[Iterator[list[Tensor]]], Iterable[list[Segment]]]"
"""Takes batches of waveforms (N,), perhaps some of them ahead, and gives the segments
of each batch, in the order of the batches."""


@dataclass(frozen=True)
class Recording:
    """What is to be transcribed."""

    blocks: "Callable[[], Iterable[Tensor]]"
    """Gives (N,) float32 at 16 kHz each, one after the other."""
    name: str = ""
    """Its path, if it has one."""
    channel: Channel = "mix"
    start: float = 0.0
    """Seconds: where in the recording the first block begins."""

    @classmethod
    def of_file(
        cls,
        path: str | Path,
        channel: Channel = "mix",
        clip: Clip = (0.0, None),
        name: str | None = None,
        read: Callable[..., Iterable[Any]] = read_blocks,
    ) -> "Recording":
        """Take a file, one channel or the mean of all, whole or a clip of it.

        Args:
            path: the file.
            channel: mix for the mean of all, left, right, or a number from 1 on.
            clip: from which second to which.
            name: what it is called, where that is not its path.
            read: `read_blocks`, or `read_arrays` where there is no torch.

        Raises:
            ValueError: the channel is none.
        """
        check_channel(channel)
        start, end = clip
        blocks = partial(read, path, channel=channel, start=start, end=end, name=name)
        return cls(blocks, name or str(path), channel, start)


class _Read(NamedTuple):
    """A piece that was read, or the end of a recording."""

    recording: Recording
    piece: Piece | None
    duration: float = 0.0
    """Seconds, at the end."""
    error: AsrError | None = None
    """What is wrong with the recording, at its end."""

    @property
    def is_loud(self) -> bool:
        """Whether there is something to recognise."""
        return self.piece is not None and not self.piece.silent


def transcripts(
    recordings: Iterable[Recording],
    recognize: Recognize,
    *,
    batch_size: int = BATCH,
    progress: Progress | None = None,
) -> Iterator[Transcript | AsrError]:
    """Transcribe recordings.

    Args:
        recordings: one after the other.
        recognize: turns batches of waveforms into segments.
        batch_size: most pieces in a batch, of one recording or of several.
        progress: is called for each piece.

    Yields:
        For each recording its transcript, or what is wrong with it, in their order.
    """
    waiting = deque[list[_Read]]()
    batches = _batches(recordings, batch_size, waiting)
    said = list[Segment]()
    for segments in recognize(batches):
        found = iter(segments)
        for read in waiting.popleft():
            if read.piece is None:
                yield read.error or _transcript(read, said)
                said = []
                continue
            segment = next(found) if read.is_loud else silence(read.piece.seconds)
            start = read.recording.start + read.piece.start / SAMPLE_RATE
            said.append(moved(segment, start))
            if read.piece.overlap:
                said[-2:] = merge_segments(*said[-2:])
            if progress:
                progress(read.piece.seconds - read.piece.overlap / SAMPLE_RATE)


def _batches(
    recordings: Iterable[Recording], size: int, waiting: deque[list[_Read]]
) -> "Iterator[list[Tensor]]":
    """Read pieces into batches, and note whose they are."""
    batch = list[_Read]()
    for recording in recordings:
        for read in _read(recording):
            batch.append(read)
            if sum(one.is_loud for one in batch) == size:
                waiting.append(batch)
                yield _waveforms(batch)
                batch = []
    if batch:
        waiting.append(batch)
        yield _waveforms(batch)


def _read(recording: Recording) -> Iterator[_Read]:
    """Read the pieces of a recording, and what became of it."""
    end = 0
    try:
        with errors_of(recording.name or "recording"):
            for piece in pieces(recording.blocks()):
                end = piece.end
                yield _Read(recording, _kept(piece))
    except AsrError as error:
        yield _Read(recording, None, error=error)
    else:
        yield _Read(recording, None, end / SAMPLE_RATE)


def _kept(piece: Piece) -> Piece:
    """Return a piece as it waits: of a silent one, only how long it is.

    Silence is in no batch, and waits for the batch that is next, however late that is.
    """
    if not piece.silent:
        return piece
    length: Any = np.broadcast_to(np.float32(0.0), len(piece.waveform))  # one number
    return piece._replace(waveform=length)


def _waveforms(batch: list[_Read]) -> "list[Tensor]":
    return [read.piece.waveform for read in batch if read.piece and read.is_loud]


def _transcript(read: _Read, said: list[Segment]) -> Transcript:
    return Transcript(
        tuple(said), read.duration, read.recording.name, str(read.recording.channel)
    )
