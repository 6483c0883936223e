"""Raw PCM, as pipes, microphones and networks give it: bytes in blocks of any size.

G.711 is a byte a sample: the sign, three bits of exponent, four of mantissa, inverted
(μ-law), or every second bit of them (A-law); see ITU-T G.711, tables 1 and 2.

Shapes: N samples.
"""

from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from asr.audio.waveforms import RATES, SAMPLE_RATE, Samples, StreamResampler, scaled

if TYPE_CHECKING:
    from torch import Tensor

Encoding = Literal["s16le", "mulaw", "alaw"]
"""16-bit little-endian samples, or a byte a sample."""
_BYTES: Final = {"s16le": 2, "mulaw": 1, "alaw": 1}


def _mulaw() -> Samples:
    code = ~np.arange(256, dtype=np.uint8)
    exponent, mantissa = (code >> 4) & 7, (code & 15).astype(np.int32)
    size = ((2 * mantissa + 33) << exponent) - 33
    return _signed(np.where(code & 128, -size, size), 2**13)


def _alaw() -> Samples:
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = (code >> 4) & 7, (code & 15).astype(np.int32)
    flat = 2 * mantissa + 1
    steep = (flat + 32) << np.maximum(exponent, 1).astype(np.int32) - 1
    size = np.where(exponent == 0, flat, steep)
    return _signed(np.where(code & 128, size, -size), 2**12)


def _signed(sizes: npt.NDArray[np.int32], full_scale: int) -> Samples:
    return (sizes / full_scale).astype(np.float32)


_TABLES: Final = {"mulaw": _mulaw(), "alaw": _alaw()}


class PCMStream:
    """Turns raw PCM of one channel into waveforms at 16 kHz, as it comes.

    Joined, the waveforms are those of the joined bytes, whatever blocks they come in.

    Args:
        rate: Hz, of the samples.
        encoding: of a sample.

    Raises:
        ValueError: there is no such rate or encoding.

    >>> stream = PCMStream()
    >>> stream.feed(bytes([0, 64, 0])), stream.feed(bytes([192]))
    (tensor([0.5000]), tensor([-0.5000]))
    """

    def __init__(self, rate: int = SAMPLE_RATE, encoding: Encoding = "s16le") -> None:
        least, most = RATES
        if not least <= rate <= most:
            raise ValueError(f"a rate is {least} to {most} Hz, not {rate}")
        if encoding not in get_args(Encoding):
            raise ValueError(
                f"an encoding is {', '.join(get_args(Encoding))}, not {encoding!r}"
            )
        self._rate, self._encoding = rate, encoding
        self._rest = b""
        self.was_cut_off = False
        """Whether the stream ended within a sample."""
        self._resampler = StreamResampler(rate, SAMPLE_RATE)

    def feed(self, content: bytes) -> "Tensor":
        """Return (N,) float32 at 16 kHz of the bytes, and of those before them."""
        import torch  # only who reads a stream needs it

        content = self._rest + content
        whole = len(content) - len(content) % _BYTES[self._encoding]
        content, self._rest = content[:whole], content[whole:]
        if self._encoding == "s16le":
            samples = scaled(np.frombuffer(content, "<i2"))
        else:
            samples = _TABLES[self._encoding][np.frombuffer(content, np.uint8)]
        return torch.from_numpy(self._resampler.feed(samples))

    def end(self) -> "Tensor":
        """Return what was waiting for further samples, (N,), and begin anew.

        A sample that was cut off is dropped.
        """
        import torch

        rest = torch.from_numpy(self._resampler.end())
        self._resampler = StreamResampler(self._rate, SAMPLE_RATE)
        self.was_cut_off, self._rest = bool(self._rest), b""
        return rest
