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
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from asr.audio import mp3
from asr.audio.archives import Member, source
from asr.audio.channels import Channel, Mixer, check_channel
from asr.audio.containers import Container, foreign, recognized
from asr.audio.errors import AGAIN, no_samples
from asr.audio.sizes import begins_as_adts
from asr.audio.soundfiles import NAMES, SoundFile
from asr.audio.waveforms import (
    RATES,
    SAMPLE_RATE,
    Samples,
    check_finite,
    check_rates,
    check_scale,
    resampled,
    scaled,
    too_short,
)
from asr.errors import AudioError

if TYPE_CHECKING:
    from torch import Tensor

AUDIO_SUFFIXES: Final = frozenset(
    [
        *[".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"],
        *[".aif", ".aiff", ".au", ".caf", ".w64"],
        *[".m4a", ".m4b", ".mp4", ".webm", ".mka", ".aac", ".wma", ".amr"],
    ]
)
"""The endings, in lower case, of the files that count as audio in a folder."""

_BLOCK_SECONDS = 10
_BLOCK_SIZE = 2**22  # samples of all channels read at once at most: 16 MiB
_SAMPLES = "samples"  # what errors call those in memory
_BY_CHANCE = 2  # bytes of a signature that a sample may have, too
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
) -> "Tensor":
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
    import torch

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
) -> "Iterator[Tensor]":
    """Read an audio file piece by piece, in little memory however long it is.

    A clip has the very samples that the whole waveform has there.

    Args:
        path: the file; its contents decide its format, not its name.
        rate: sample rate in Hz that the waveform shall have.
        channel: "mix" for the mean of all, "left" or "right", or a number from 1 on.
            The one channel of a mono file is its left one.
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
    import torch

    found = read_arrays(
        path, rate=rate, channel=channel, start=start, end=end, name=name
    )
    for block in found:
        yield torch.from_numpy(block)


def read_arrays(
    path: str | Path,
    *,
    rate: int = SAMPLE_RATE,
    channel: Channel = "mix",
    start: float = 0.0,
    end: float | None = None,
    name: str | None = None,
) -> Iterator[Samples]:
    """Do what `read_blocks` does, without torch: the blocks are arrays of numpy."""
    path, place = Path(path), name or str(path)
    check_rates(rate, rate)
    check_channel(channel)
    end = _clip_end(start, end, place)
    with _opened(path, place) as sound:
        yield from _blocks(sound, rate, channel, start, end, place)


def from_samples(
    samples: "npt.NDArray[Any] | Tensor",
    rate: float,
    *,
    channel: Channel = "mix",
    start: float = 0.0,
    end: float | None = None,
) -> "Tensor":
    """Make a waveform at `SAMPLE_RATE` of samples that are in memory already.

    Args:
        samples: (N,) or (channels, N), of floats with full scale -1 to 1, or of int16,
            int32 or uint8, which are scaled to that.
        rate: their sample rate in Hz.
        channel: as for `read_blocks`.
        start: as for `read_blocks`.
        end: as for `read_blocks`.

    Returns:
        (N,) float32.

    Raises:
        AudioError: there are no samples, or some that are no numbers; or none from
            `start` to `end`, or no such channel.
        TypeError: the samples are of another type.
        ValueError: their shape or scale is another, or the rate, the channel or the
            start is impossible.
    """
    import torch

    if isinstance(samples, torch.Tensor):  # numpy has no bfloat16
        samples = samples.float() if samples.is_floating_point() else samples
        samples = samples.numpy(force=True)
    found = waveform_of(samples, rate, channel=channel, start=start, end=end)
    return torch.from_numpy(found)


def waveform_of(
    array: npt.NDArray[Any],
    rate: float,
    *,
    channel: Channel = "mix",
    start: float = 0.0,
    end: float | None = None,
) -> Samples:
    """Do what `from_samples` does, without torch: from an array to an array."""
    if array.ndim not in (1, 2):
        raise ValueError(f"(N,) or (channels, N) is needed, got {array.shape}")
    if array.ndim == 2 and array.shape[0] > array.shape[1] > 0:
        raise ValueError(f"(channels, N) is needed, got {array.shape}: transpose it")
    rate = _whole(rate)
    check_channel(channel)
    if array.size == 0:
        raise no_samples(_SAMPLES)
    check_scale(array)
    end = _clip_end(start, end, _SAMPLES)
    sound = _InMemory(array[None] if array.ndim == 1 else array, rate)
    blocks = _blocks(sound, SAMPLE_RATE, channel, start, end, _SAMPLES)
    return np.concatenate(list(blocks))


def _whole(rate: float) -> int:
    """Return a rate that may have come as a float.

    Raises:
        ValueError: it is none that audio has.
    """
    if isinstance(rate, Real) and RATES[0] <= rate <= RATES[1] and rate == int(rate):
        return int(rate)
    raise ValueError(f"a rate of {RATES[0]} to {RATES[1]} Hz is needed, not {rate!r}")


class _InMemory:
    """Samples, (channels, N), as an open file."""

    def __init__(self, samples: npt.NDArray[Any], rate: int) -> None:
        self._samples, self.rate = samples, rate
        self.num_channels = len(samples)

    def duration(self) -> float:
        """Return the length in seconds."""
        return float(self._samples.shape[1] / self.rate)

    def blocks(self, start: int, stop: int | None, size: int) -> Iterator[Samples]:
        """Yield (N, channels) each."""
        samples = self._samples[:, start:stop]
        for first in range(0, samples.shape[1], size):
            yield scaled(samples[:, first : first + size].T)

    def close(self) -> None:
        """Do nothing."""


def _clip_end(start: float, end: float | None, place: str) -> float:
    """Return the second at which a clip ends, infinite for that of the recording.

    Raises:
        AudioError: it is not after the start.
        ValueError: the start is none.
    """
    if not 0 <= start < math.inf:
        raise ValueError(f"start must be a number of seconds from 0 on, not {start}")
    end = math.inf if end is None else end
    if not end > start:
        raise AudioError(
            f"{place}: cannot be read from {start:g} s to {end:g} s "
            "(the end must be after the start)"
        )
    return end


def _blocks(
    sound: Sound, rate: int, channel: Channel, start: float, end: float, place: str
) -> Iterator[Samples]:
    mixer = Mixer(channel, sound.num_channels, place)
    mono = map(mixer.mixed, _early_to_late(sound, start, end))
    blocks = resampled(_finite(mono, place), sound.rate, rate)
    num_read = 0
    for block in _clip(_finite(blocks, place), rate, start, end):
        num_read += len(block)
        yield block
    if num_read == 0:
        raise _nothing_read(sound, start, end, place)
    mixer.remark_on_cancelling()


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


def file_kind(head: bytes) -> str | None:
    """Return what kind of file starts like this; None where it may be raw PCM.

    Args:
        head: its first bytes, and as many that there are two frames of an MP3.
    """
    for signature, name in NAMES.items():
        if head.startswith(signature):
            return name
    kind = recognized(head)
    if kind and (len(kind.signature) > _BY_CHANCE or begins_as_adts(head)):
        return kind.name
    return "MP3" if mp3.begins_at_once(head) else None


@contextmanager
def _opened(path: Path, place: str) -> Iterator[Sound]:
    try:
        with closing(_sound(path, place)) as sound:
            if not RATES[0] <= sound.rate <= RATES[1]:
                raise AudioError(
                    f"{place}: has a sample rate of {sound.rate} Hz "
                    f"({RATES[0]} to {RATES[1]} Hz can be read)"
                )
            yield sound
    except OSError as error:  # of any read: a disk or a network may fail on the way
        reason = error.strerror or str(error)
        raise AudioError(f"{place}: cannot be read ({reason})") from error


def _sound(path: Path, place: str) -> Sound:
    file = source(path, place)
    head = _head(file, place)
    kind = recognized(head) or foreign(file, head)
    if kind is not None:
        return Container(file, kind, place)
    return SoundFile(file, head, place)


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


def _early_to_late(sound: Sound, start: float, end: float) -> Iterator[Samples]:
    """Yield what lies between two seconds, and some more on both sides."""
    stop = (math.ceil(end) + _MARGIN) * sound.rate if end < math.inf else None
    size = min(_BLOCK_SECONDS * sound.rate, _BLOCK_SIZE // sound.num_channels)
    return sound.blocks(_early(start) * sound.rate, stop, max(1, size))


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
