"""Audio files in, waveforms out: mono, float32, at one sample rate.

What soundfile (libsndfile) reads can be read: wav, flac, ogg vorbis, opus, mp3 and its
other formats, of any rate, width and number of channels; and with PyAV installed m4a,
mp4, webm, mka, aac, wma and amr. What is wrong with a file is an `AudioError`, also
where those libraries do not notice. A recording inside of a tar file can be read, too:
its path is ARCHIVE.tar:OFFSET:SIZE then (`asr.audio.archives`).

A file is read in blocks, so an hour needs no more memory than a minute.

Shapes: N samples of a waveform.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from asr.audio.archives import Member, source
from asr.audio.containers import Container, recognized
from asr.audio.errors import AGAIN, no_samples
from asr.audio.soundfiles import SoundFile
from asr.audio.waveforms import (
    RATES,
    SAMPLE_RATE,
    Samples,
    check_finite,
    check_rates,
    resampled,
    too_short,
)
from asr.errors import AudioError

AUDIO_SUFFIXES: Final = frozenset(
    [
        *[".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"],
        *[".aif", ".aiff", ".au", ".caf", ".w64"],
        *[".m4a", ".m4b", ".mp4", ".webm", ".mka", ".aac", ".wma", ".amr"],
    ]
)
"""The endings, in lower case, of the files that count as audio in a folder."""

Channel = Literal["mix", "left", "right"]
"""The mean of all channels, or one of them."""

_BLOCK_SECONDS = 10
_BLOCK_SIZE = 2**22  # samples of all channels read at once at most: 16 MiB
_MARGIN = 1  # seconds read on both sides of a clip: filters and decoders look around


class Sound(Protocol):
    """An open file, whichever library reads it."""

    rate: int
    """Hz."""
    num_channels: int

    def duration(self) -> float:
        """Return the length in seconds."""
        ...

    def blocks(self, start: int, stop: int | None, size: int) -> Iterator[Samples]:
        """Yield (N, channels), from sample `start` to before sample `stop`."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def read_waveform(
    path: str | Path,
    rate: int = SAMPLE_RATE,
    *,
    channel: Channel = "mix",
    start: float = 0.0,
    end: float | None = None,
    name: str | None = None,
) -> Tensor:
    """Read a whole audio file, or a clip of it.

    Args:
        path: the file; its contents decide its format, not its name.
        rate: sample rate in Hz that the waveform shall have.
        channel: as for `read_blocks`.
        start: as for `read_blocks`.
        end: as for `read_blocks`.
        name: as for `read_blocks`.

    Returns:
        (N,) float32, full scale -1 to 1.

    Raises:
        AudioError: as `read_blocks`.
    """
    blocks = read_blocks(
        path, rate=rate, channel=channel, start=start, end=end, name=name
    )
    return torch.cat(list(blocks))


def read_blocks(
    path: str | Path,
    *,
    rate: int = SAMPLE_RATE,
    channel: Channel = "mix",
    start: float = 0.0,
    end: float | None = None,
    name: str | None = None,
) -> Iterator[Tensor]:
    """Read an audio file piece by piece, in little memory however long it is.

    A clip has the very samples that the whole waveform has there.

    Args:
        path: the file; its contents decide its format, not its name.
        rate: sample rate in Hz that the waveform shall have.
        channel: "mix" for the mean of all, or "left" or "right". The one channel of a
            mono file is its left one.
        start: seconds of the recording to leave out.
        end: second to stop at; None, or one that the recording has not, for its end.
        name: what errors call the file, where that is not its path.

    Yields:
        (N,) float32, full scale -1 to 1, about ten seconds at most, none of them empty.

    Raises:
        AudioError: there is no such file, it is no audio that can be read, it holds no
            samples, none from `start` to `end`, or no such channel; or, after some
            blocks, it is damaged or cut short.
        ValueError: the rate, the channel or the start is none.
    """
    check_rates(rate, rate)
    if channel not in get_args(Channel):
        raise ValueError(f"channel must be one of {get_args(Channel)}, not {channel!r}")
    if not 0 <= start < math.inf:
        raise ValueError(f"start must be a number of seconds from 0 on, not {start}")
    path, place = Path(path), name or str(path)
    end = math.inf if end is None else end
    if not end > start:
        raise AudioError(
            f"{place}: cannot be read from {start:g} s to {end:g} s "
            "(the end must be after the start)"
        )
    with _opened(path, place) as sound:
        if channel == "right" and sound.num_channels == 1:
            raise AudioError(f"{place}: is mono (has no right channel)")
        mono = _mono(sound, channel, start, end)
        blocks = resampled(_finite(mono, place), sound.rate, rate)
        num_read = 0
        for block in _clip(_finite(blocks, place), rate, start, end):
            num_read += len(block)
            yield torch.from_numpy(block)
        if num_read == 0:
            raise _nothing_read(sound, start, end, place)


def duration(path: str | Path, *, name: str | None = None) -> float:
    """Return the length of an audio file in seconds, without decoding it.

    Raises:
        AudioError: as `read_blocks`, but for damage behind the header.
    """
    place = name or str(path)
    with _opened(Path(path), place) as sound:
        seconds = sound.duration()
    if seconds == 0:
        raise no_samples(place)
    return seconds


def num_channels(path: str | Path, *, name: str | None = None) -> int:
    """Count the channels of an audio file.

    Raises:
        AudioError: as `duration`.
    """
    with _opened(Path(path), name or str(path)) as sound:
        return sound.num_channels


class AudioInfo(NamedTuple):
    """What the header of an audio file says."""

    rate: int
    """Hz."""
    num_channels: int
    seconds: float


def probe(path: str | Path, *, name: str | None = None) -> AudioInfo:
    """Return rate, channels and length of an audio file, without decoding it.

    Raises:
        AudioError: as `duration`.
    """
    with _opened(Path(path), name or str(path)) as sound:
        return AudioInfo(sound.rate, sound.num_channels, sound.duration())


@contextmanager
def _opened(path: Path, place: str) -> Iterator[Sound]:
    sound: Sound
    try:
        file = source(path, place)
        head = _head(file, place)
        kind = recognized(head)
        if kind is not None:
            sound = Container(file, kind, place)
        else:
            sound = SoundFile(file, head, place)
    except OSError as error:
        raise AudioError(f"{place}: cannot be read ({error.strerror})") from error
    with closing(sound):
        if not RATES[0] <= sound.rate <= RATES[1]:
            raise AudioError(
                f"{place}: has a sample rate of {sound.rate} Hz "
                f"({RATES[0]} to {RATES[1]} Hz can be read)"
            )
        yield sound


def _head(path: Path | Member, place: str) -> bytes:
    """Return the first bytes of a file."""
    try:
        if isinstance(path, Path) and path.is_dir():
            raise AudioError(f"{place}: is a folder (a file was expected)")
        if isinstance(path, Path) and path.exists() and not path.is_file():
            raise AudioError(f"{place}: is a pipe or a device (a file was expected)")
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise AudioError(f"{place}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # a zero byte in the path
        raise AudioError(f"{place!r}: cannot be read ({error})") from error
    if not head:
        raise AudioError(f"{place}: is empty ({AGAIN})")
    return head


def _mono(
    sound: Sound, channel: Channel, start: float, end: float
) -> Iterator[Samples]:
    """Yield what lies between two seconds, and some more on both sides."""
    stop = (math.ceil(end) + _MARGIN) * sound.rate if end < math.inf else None
    size = min(_BLOCK_SECONDS * sound.rate, _BLOCK_SIZE // sound.num_channels)
    for block in sound.blocks(_early(start) * sound.rate, stop, max(1, size)):
        if channel == "mix" and sound.num_channels > 1:
            yield block.mean(axis=1)
        else:
            yield np.ascontiguousarray(block[:, 1 if channel == "right" else 0])


def _early(start: float) -> int:
    """Return a whole second before the start: there samples of all rates meet."""
    return max(0, math.floor(start) - _MARGIN)


def _position(seconds: float, rate: int) -> int:
    return math.floor(seconds) * rate + round(seconds % 1 * rate)  # never infinite


def _clip(
    blocks: Iterable[Samples], rate: int, start: float, end: float
) -> Iterator[Samples]:
    """Cut off, to the sample, what `_mono` read too much."""
    there = _early(start) * rate
    first = _position(start, rate)
    last = _position(end, rate) if end < math.inf else None
    for block in blocks:
        clip = block[max(0, first - there) : last and max(0, last - there)]
        there += len(block)
        if len(clip):
            yield clip
        if last is not None and there >= last:
            return


def _finite(blocks: Iterable[Samples], place: str) -> Iterator[Samples]:
    for block in blocks:
        check_finite(block, place)
        yield block


def _nothing_read(sound: Sound, start: float, end: float, place: str) -> AudioError:
    seconds = sound.duration()
    if seconds == 0:
        return no_samples(place)
    if start >= seconds:
        return AudioError(
            f"{place}: lasts {seconds:.2f} s (nothing is there from {start:g} s on)"
        )
    if end < seconds:
        return AudioError(
            f"{place}: has no sample from {start:g} s to {end:g} s (ask for more)"
        )
    return too_short(place, round(seconds * sound.rate), sound.rate)
