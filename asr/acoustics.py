"""What librosa measures in a recording, and how it draws one.

librosa is imported inside of the functions: it costs seconds.

Shapes: N samples of a waveform at 16 kHz.

Sources: McFee et al. (2015), "librosa: Audio and music signal analysis in Python"; de
Cheveigné and Kawahara (2002), "YIN, a fundamental frequency estimator".
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.features import HOP, mel_spectrogram

Floats = npt.NDArray[np.float32]

SILENCE_DECIBELS = 40.0
"""What is so much softer than the loudest part counts as silence."""
_FRAME, _HOP = 1024, 256  # samples: 64 and 16 ms
_PITCH = 65.0, 400.0  # Hz: from low men's to high children's voices
_CLIPPED = 0.999  # of full scale
_FLOOR = 1e-10
_VOICED = -30.0  # dB below the loudest frame


class Measures(NamedTuple):
    """What was measured in a recording."""

    seconds: float
    speech: float
    """Share that is no silence, 0 to 1."""
    low_pitch: float
    """Hz: a tenth of the voiced frames is lower; nan where there is no voice."""
    high_pitch: float
    """Hz: a tenth is higher."""
    clipped: float
    """Share of samples at full scale."""
    level: float
    """dB of the root mean square of what is no silence; 0 is full scale."""
    noise: float
    """dB of the softest tenth of the frames."""


def speech_limits(
    waveform: Tensor, decibels: float = SILENCE_DECIBELS
) -> tuple[float, float]:
    """Find the silence at both ends of (N,) samples.

    Args:
        waveform: of a recording.
        decibels: what is so much softer than the loudest frame is silence.

    Returns:
        From which second to which there is sound; nothing, 0 to 0, in silence.
    """
    import librosa

    if not len(waveform) or not float(waveform.abs().max()):
        return 0.0, 0.0
    _, (start, end) = librosa.effects.trim(
        waveform.numpy(), top_db=decibels, frame_length=_FRAME, hop_length=_HOP
    )
    return int(start) / SAMPLE_RATE, int(end) / SAMPLE_RATE


def measure(waveform: Tensor) -> Measures:
    """Measure (N,) samples."""
    import librosa

    samples: Floats = waveform.numpy()
    seconds = len(samples) / SAMPLE_RATE
    if not len(samples) or not np.abs(samples).max():
        return Measures(seconds, 0.0, np.nan, np.nan, 0.0, -100.0, -100.0)
    spoken = librosa.effects.split(
        samples, top_db=SILENCE_DECIBELS, frame_length=_FRAME, hop_length=_HOP
    )
    share = sum(int(end) - int(start) for start, end in spoken) / len(samples)
    rms = librosa.feature.rms(y=samples, frame_length=_FRAME, hop_length=_HOP)[0]
    speech = np.concatenate([samples[start:end] for start, end in spoken])
    low, high = _pitch(samples, rms)
    return Measures(
        seconds,
        share,
        low,
        high,
        float((np.abs(samples) >= _CLIPPED).mean()),
        _decibels(float(np.sqrt(np.square(speech, dtype=np.float64).mean()))),
        _decibels(float(np.quantile(rms, 0.1))),
    )


def _decibels(amplitude: float) -> float:
    return float(20 * np.log10(max(amplitude, _FLOOR)))


def _pitch(samples: Floats, rms: Floats) -> tuple[float, float]:
    """Return the 10th and the 90th percentile of the pitch, in Hz, where it is loud."""
    import librosa

    if len(samples) < 2 * _FRAME:
        return np.nan, np.nan
    low, high = _PITCH
    pitch: Any = librosa.yin(
        samples,
        fmin=low,
        fmax=high,
        sr=SAMPLE_RATE,
        frame_length=2 * _FRAME,
        hop_length=_HOP,
    )
    loud = rms[: len(pitch)] > rms.max() * 10 ** (_VOICED / 20)
    voiced = pitch[: len(loud)][loud]
    voiced = voiced[(voiced > 1.02 * low) & (voiced < 0.98 * high)]
    if not len(voiced):
        return np.nan, np.nan
    return float(np.quantile(voiced, 0.1)), float(np.quantile(voiced, 0.9))


def draw_spectrogram(axes: Any, waveform: Tensor) -> None:
    """Draw the mel spectrogram of (N,) samples into a part of a figure.

    Args:
        axes: matplotlib's.
        waveform: of a recording.
    """
    from librosa.display import specshow

    power = mel_spectrogram(waveform)
    decibels = 10 * (power / power.max().clamp_min(_FLOOR)).clamp_min(1e-6).log10()
    specshow(
        decibels.t().numpy(),  # (T, F) -> (F, T)
        sr=SAMPLE_RATE,
        hop_length=HOP,
        x_axis="time",
        y_axis="mel",
        fmax=SAMPLE_RATE / 2,
        cmap="Greys",
        ax=axes,
    )
    axes.set(xlabel="", ylabel="frequency [Hz]", xlim=(0, len(waveform) / SAMPLE_RATE))
