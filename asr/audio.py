"""Audio files in, waveforms out: mono, float32, at one sample rate.

What soundfile (libsndfile) reads can be read: wav, flac, ogg vorbis, opus, mp3 and its
other formats, of any rate, width and number of channels. Much of what is wrong with a
file goes unnoticed there: an Ogg or WAV file that was cut short reads as a shorter one,
a sample that is no number reads as it stands, an MP3 without a Xing header or joined of
two ends where it is guessed to end. Here it is an `AudioError`, or read to its end.

Shapes: N samples of a waveform.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch
from torch import Tensor

from asr.errors import AudioError

SAMPLE_RATE: Final = 16_000
"""Hz: the rate of all waveforms, unless another is asked for."""

_RATES = (1_000, 1_000_000)  # Hz; a rate outside is a damaged header, not a recording
_BLOCK_SIZE = 2**22  # samples of all channels read at once: 16 MiB
_UNKNOWN_SIZE = 2**31 - 2**16  # a WAV that was piped promises so many bytes, or more
_UNKNOWN_FRAMES = 2**62  # libsndfile's answer for a stream that does not tell

_MP3_TOLERANCE = 2 * 1152  # samples: an encoder may count a frame too many
_MPEG_1_RATES = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG_2_RATES = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)

_MP3 = (
    b"ID3",
    b"\xff\xe2",
    b"\xff\xe3",
    b"\xff\xf2",
    b"\xff\xf3",
    b"\xff\xfa",
    b"\xff\xfb",
)
_READABLE = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"FORM", *_MP3)
_UNREADABLE = [  # offset of the signature, signature, what the file is
    (4, b"ftyp", "MPEG-4 audio (m4a, mp4)"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska (mka, webm)"),
    (0, b"\x30\x26\xb2\x75", "Windows Media audio"),
    (0, b"#!AMR", "AMR audio"),
    (0, b"\xff\xf1", "AAC audio"),
    (0, b"\xff\xf9", "AAC audio"),
]
_CAN_BE_READ = "wav, flac, ogg vorbis, opus and mp3 can be read"
_AGAIN = "copy or download it again"

_Samples = npt.NDArray[np.float32]


def read_waveform(path: str | Path, rate: int = SAMPLE_RATE) -> Tensor:
    """Read a whole audio file.

    Args:
        path: the file; its contents tell its format, not its name.
        rate: sample rate in Hz that the waveform shall have.

    Returns:
        (N,) float32, the mean of all channels, full scale -1 to 1.

    Raises:
        AudioError: there is no such file, it is no audio that can be read, it is
            damaged or cut short, or it holds no samples.
    """
    path = Path(path)
    with _opened(path) as sound:
        samples = np.concatenate([np.empty(0, np.float32), *_mono_blocks(sound)])
        tolerance = _MP3_TOLERANCE if sound.format == "MP3" else 0
        if len(samples) + tolerance < sound.frames:
            raise _cut_short(path, len(samples), sound.frames, "samples")
        return _finished(samples, sound.samplerate, rate, str(path))


def duration(path: str | Path) -> float:
    """Tell the length of an audio file in seconds, without decoding it.

    Raises:
        AudioError: as `read_waveform`, but for damage behind the header.
    """
    path = Path(path)
    with _opened(path) as sound:
        if sound.frames == 0:
            raise AudioError(_no_samples(str(path)))
        return float(sound.frames / sound.samplerate)


def resample(waveform: Tensor, from_rate: float, to_rate: float) -> Tensor:
    """Change the sample rate.

    Resampled from 1.1 to 1 and then played at the old rate, speech is 1.1 times as
    fast and as high.

    Args:
        waveform: (N,) float32 on the CPU.
        from_rate: Hz, or any unit that `to_rate` has too.
        to_rate: the wished rate.

    Returns:
        (N * to_rate / from_rate,) float32, the very same waveform where the rates are
        equal.

    Raises:
        ValueError: a rate is not above zero, or there is more than one channel.
    """
    if not (0 < from_rate < float("inf") and 0 < to_rate < float("inf")):
        raise ValueError(f"rates must be above zero, got {from_rate} and {to_rate}")
    if waveform.dim() != 1:
        raise ValueError(f"a waveform (N,) is needed, got {tuple(waveform.shape)}")
    if from_rate == to_rate:
        return waveform
    samples = soxr.resample(waveform.numpy(), from_rate, to_rate, quality="HQ")
    return torch.from_numpy(samples)


def encode_vorbis(waveform: Tensor) -> bytes:
    """Pack a waveform as Ogg Vorbis, at an eighth of its size as WAV, to be played.

    Args:
        waveform: (N,) float32 at `SAMPLE_RATE`.
    """
    packed = BytesIO()
    with soundfile.SoundFile(
        packed, "w", SAMPLE_RATE, 1, format="OGG", subtype="VORBIS"
    ) as sound:
        # Second by second: libsndfile overruns its stack on millions at once.
        samples = waveform.clamp(-1, 1).numpy()
        for start in range(0, len(samples), SAMPLE_RATE):
            sound.write(samples[start : start + SAMPLE_RATE])
    return packed.getvalue()


def from_samples(samples: npt.NDArray[Any] | Tensor, rate: int) -> Tensor:
    """Make a waveform at `SAMPLE_RATE` of samples that are in memory already.

    Args:
        samples: (N,) or (channels, N), of floats with full scale -1 to 1, or of int16,
            int32 or uint8, which are scaled to that.
        rate: their sample rate in Hz.

    Returns:
        (N,) float32, the mean of all channels.

    Raises:
        AudioError: there are no samples, or some that are no numbers.
        TypeError: the samples are of another type.
        ValueError: their shape is another, or the rate is impossible.
    """
    array = samples.numpy(force=True) if isinstance(samples, Tensor) else samples
    if array.ndim not in (1, 2):
        raise ValueError(f"(N,) or (channels, N) is needed, got {array.shape}")
    if array.ndim == 2 and array.shape[0] > array.shape[1] > 0:
        raise ValueError(f"(channels, N) is needed, got {array.shape}: transpose it")
    if not _RATES[0] <= rate <= _RATES[1]:
        raise ValueError(
            f"a rate of {_RATES[0]} to {_RATES[1]} Hz is needed, not {rate}"
        )
    if array.size == 0:
        raise AudioError(_no_samples("samples"))
    scaled = _scaled(array)
    mono = scaled if scaled.ndim == 1 else scaled.mean(axis=0)
    return _finished(mono, rate, SAMPLE_RATE, "samples")


def _scaled(samples: npt.NDArray[Any]) -> _Samples:
    if np.issubdtype(samples.dtype, np.floating):
        return samples.astype(np.float32)  # a copy: the caller's array stays its own
    if samples.dtype == np.uint8:
        return np.asarray((samples.astype(np.float32) - 128) / 128, np.float32)
    if samples.dtype in (np.int16, np.int32):
        full_scale = -float(np.iinfo(samples.dtype).min)
        return (samples / full_scale).astype(np.float32)
    raise TypeError(
        f"samples must be floats, int16, int32 or uint8, not {samples.dtype}"
    )


def _finished(samples: _Samples, rate: int, wished: int, place: str) -> Tensor:
    if len(samples) == 0:
        raise AudioError(_no_samples(place))
    waveform = resample(torch.from_numpy(samples), rate, wished)
    if len(waveform) == 0:
        raise AudioError(f"{place}: is too short: {len(samples)} samples at {rate} Hz")
    if not np.isfinite(samples).all() or not waveform.isfinite().all():
        raise AudioError(
            f"{place}: holds samples that are infinite or no numbers (make it again)"
        )
    return waveform


def _cut_short(path: Path, there: int, promised: int, what: str) -> AudioError:
    return AudioError(
        f"{path}: is damaged or cut short: {there} of {promised} {what} are there "
        f"({_AGAIN})"
    )


def _no_samples(place: str) -> str:
    return f"{place}: holds no samples (record or convert it again)"


# Files: what libsndfile does not tell


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open a file, and tell whatever goes wrong until it is closed as an AudioError."""
    head = _checked_head(path)
    try:
        with _hushed(head), soundfile.SoundFile(_source(path, head)) as sound:
            _check_header(sound, path)
            yield sound
    except (
        soundfile.SoundFileError,
        TypeError,
    ) as error:  # TypeError: it is named .raw
        raise AudioError(f"{path}: {_why_unreadable(head)}") from error


def _checked_head(path: Path) -> bytes:
    """Return the first bytes of a file, once it is sure that they are all there."""
    try:
        if path.is_dir():
            raise AudioError(f"{path}: is a folder (a file was expected)")
        if path.exists() and not path.is_file():
            raise AudioError(f"{path}: is a pipe or a device (a file was expected)")
        with path.open("rb") as file:
            head = file.read(16)
            if not head:
                raise AudioError(f"{path}: is empty ({_AGAIN})")
            if head.startswith(b"OggS"):
                _check_pages(head + file.read(), path)
            return head
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # a zero byte in the path
        raise AudioError(f"{str(path)!r}: cannot be read ({error})") from error


def _check_pages(contents: bytes, path: Path) -> None:
    """Refuse an Ogg file that was cut short or joined of two.

    libsndfile reads the one up to where it was cut, and of the other the first part.

    Source: RFC 3533, section 6. Byte 5 of a page is 2 where a stream starts, byte 26
    tells how many segments it has, and the bytes that follow tell their sizes.
    """
    page = contents[contents.rfind(b"OggS") :].ljust(27, b"\xff")
    segments = page[27 : 27 + page[26]]
    if len(segments) < page[26] or len(page) < 27 + page[26] + sum(segments):
        raise AudioError(f"{path}: is cut short ({_AGAIN})")
    later = re.search(rb"OggS\x00[\x00\x01\x04\x05]", contents)
    if later and contents.rfind(b"OggS\x00\x02") > later.start():
        raise AudioError(f"{path}: is several files joined (convert each by itself)")


def _check_header(sound: soundfile.SoundFile, path: Path) -> None:
    if not _RATES[0] <= sound.samplerate <= _RATES[1]:
        raise AudioError(
            f"{path}: has a sample rate of {sound.samplerate} Hz "
            f"({_RATES[0]} to {_RATES[1]} Hz can be read)"
        )
    # libsndfile corrects the number of samples of a WAV file, and only logs it.
    corrected = re.search(r"data : (\d+) \(should be (\d+)\)", sound.extra_info)
    if corrected:
        promised, there = int(corrected[1]), int(corrected[2])
        if there + 1 < promised < _UNKNOWN_SIZE:
            raise _cut_short(path, there, promised, "bytes of samples")
    if sound.frames >= _UNKNOWN_FRAMES:
        raise AudioError(
            f"{path}: does not tell its length (convert it again, and not into a pipe)"
        )


def _mono_blocks(sound: soundfile.SoundFile) -> Iterator[_Samples]:
    """Read by blocks, as a damaged header may promise more samples than memory has."""
    num_frames = max(1, _BLOCK_SIZE // sound.channels)
    while len(block := sound.read(num_frames, dtype="float32", always_2d=True)):
        yield block.mean(axis=1) if sound.channels > 1 else block[:, 0]


def _why_unreadable(head: bytes) -> str:
    for offset, signature, name in _UNREADABLE:
        if head[offset:].startswith(signature):
            return f"is {name} (convert it: {_CAN_BE_READ})"
    if head.startswith(_READABLE):
        return f"is damaged or cut short ({_AGAIN})"
    return f"is no audio that can be read ({_CAN_BE_READ})"


_stderr_lock = threading.RLock()


@contextmanager
def _hushed(head: bytes) -> Iterator[None]:
    """Keep off stderr what libmpg123 has to say about a file that may be an MP3."""
    if head.startswith((b"RIFF", b"fLaC", b"OggS")):
        yield
        return
    with _stderr_lock:
        try:
            stderr = os.dup(2)
        except OSError:  # it is closed, as a service may have it
            yield
            return
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


# MP3: how long is it?


class _Mp3Frame(NamedTuple):
    """Where a frame of an MP3 file lies."""

    start: int
    end: int


def _source(path: Path, head: bytes) -> Path | BytesIO:
    """Return the path, or a copy in memory of an MP3 file whose header misleads.

    libsndfile trusts the Xing header. Without one it guesses from the first frame's bit
    rate and the size of the file, and reads no further than it guessed; of files that
    were joined it reads the first.

    Raises:
        AudioError: there are fewer frames than the Xing header promises.
    """
    if not head.startswith(_MP3):
        return path
    contents = path.read_bytes()
    frames = list(_mp3_frames(contents))
    if not frames:
        return path
    promised = _promised_frames(contents[frames[0].start : frames[0].end])
    if promised is not None:
        frames = frames[1:]
        if len(frames) + 1 < promised:
            raise _cut_short(path, len(frames), promised, "frames")
        if len(frames) <= promised + 1:  # some encoders count the header
            return path
    audio = contents[frames[0].start : frames[-1].end]
    return BytesIO(_xing_frame(audio[:4], len(frames)) + audio)


def _mp3_frames(contents: bytes) -> Iterator[_Mp3Frame]:
    """Find the whole frames, and skip tags and what else lies between them."""
    start, is_synchronous = 0, False
    while 0 <= start < len(contents):
        if contents.startswith(b"ID3", start) and start + 10 <= len(contents):
            a, b, c, d = contents[start + 6 : start + 10]
            start += 10 + (a << 21 | b << 14 | c << 7 | d)
            continue
        end = start + _mp3_frame_size(contents[start : start + 4])
        is_frame = start < end <= len(contents) and (
            is_synchronous or _mp3_frame_size(contents[end : end + 4]) > 0
        )
        if is_frame:
            yield _Mp3Frame(start, end)
        is_synchronous = is_frame
        start = end if is_frame else contents.find(b"\xff", start + 1)


def _mp3_frame_size(header: bytes) -> int:
    """Return the size in bytes of the layer III frame with this header, or else 0.

    Source: ISO/IEC 11172-3, 2.4.1.3, and for the low sample rates 13818-3.
    """
    bits = int.from_bytes(header)
    version, layer = bits >> 19 & 3, bits >> 17 & 3
    bit_rate, sample_rate = bits >> 12 & 15, bits >> 10 & 3
    is_layer_3 = (
        len(header) == 4 and bits >> 21 == 0x7FF and version != 1 and layer == 1
    )
    if not is_layer_3 or bit_rate in (0, 15) or sample_rate == 3:
        return 0
    is_mpeg_1 = version == 3
    kilobits = (_MPEG_1_RATES if is_mpeg_1 else _MPEG_2_RATES)[bit_rate]
    hertz = (44_100, 48_000, 32_000)[sample_rate] >> (0, 1, 2)[(3, 2, 0).index(version)]
    return (144_000 if is_mpeg_1 else 72_000) * kilobits // hertz + (bits >> 9 & 1)


def _xing_place(header: bytes) -> int:
    """Return where a frame has its Xing header: behind its side information."""
    is_mpeg_1, is_mono = header[1] >> 3 & 3 == 3, header[3] >> 6 == 3
    return 4 + {(1, 0): 32, (1, 1): 17, (0, 0): 17, (0, 1): 9}[is_mpeg_1, is_mono]


def _promised_frames(frame: bytes) -> int | None:
    """Return how many frames a Xing header promises; None if this frame has none."""
    xing = frame[_xing_place(frame) :][:12]
    if xing[:4] not in (b"Xing", b"Info") or len(xing) < 12 or not xing[7] & 1:
        return None
    return int.from_bytes(xing[8:])


def _xing_frame(first: bytes, num_frames: int) -> bytes:
    """Make a frame with a Xing header that promises so many frames like the first."""
    header = bytes([first[0], first[1] | 1, *first[2:]])  # | 1: without a checksum
    xing = b"Xing" + (1).to_bytes(4) + num_frames.to_bytes(4)
    return (header.ljust(_xing_place(header), b"\0") + xing).ljust(
        _mp3_frame_size(header), b"\0"
    )
