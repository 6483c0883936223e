"""The features of `asr.features`, by numpy: from a waveform to the listener's input.

    m_tf = max(log(sum_k M_fk |FFT(window * x_t)_k|^2), peak - 80 dB)
    y_tf = m_tf - mean_t m_tf

Tests hold both modules together, within 1e-4.

Shapes: N samples, T = 1 + N // 160 frames, F = 80 mel bands, K = 257 frequencies.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from asr.audio import SAMPLE_RATE

NUM_MELS = 80
"""F: bands."""
HOP = 160
"""Samples from frame to frame: 10 ms."""
FRAMES_PER_SECOND = SAMPLE_RATE // HOP
_WINDOW, _FFT = 400, 512
_DYNAMIC_RANGE = 80.0  # dB
_AT_ONCE = 256  # frames: what is made of them stays in a processor's cache

Floats = npt.NDArray[np.float32]


def log_mel(waveform: Floats) -> Floats:
    """Make the features of one utterance; see `asr.features.log_mel`.

    Args:
        waveform: (N,) float32 samples at 16 kHz, at least one.

    Returns:
        (T, F).
    """
    power = _mel_spectrogram(waveform)
    floor = max(float(power.max()) * 10 ** (-_DYNAMIC_RANGE / 10), 1e-20)
    log_power = np.log(np.maximum(power, np.float32(floor)))
    features: Floats = log_power - log_power.mean(axis=0, dtype=np.float64)
    return features.astype(np.float32)


def _mel_spectrogram(waveform: Floats) -> Floats:
    reach = _WINDOW // 2
    padded = np.pad(waveform, (reach, reach))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::HOP]
    power = np.empty((len(frames), NUM_MELS), dtype=np.float32)
    margin = (_FFT - _WINDOW) // 2
    buffer = np.zeros((min(len(frames), _AT_ONCE), _FFT), dtype=np.float32)
    for start in range(0, len(frames), _AT_ONCE):
        some = frames[start : start + _AT_ONCE]
        windowed = buffer[: len(some)]
        np.multiply(some, _window(), out=windowed[:, margin : margin + _WINDOW])
        spectrum = np.fft.rfft(windowed)
        squares = np.square(spectrum.real) + np.square(spectrum.imag)
        power[start : start + len(some)] = squares @ mel_filters()
    return power


@cache
def _window() -> Floats:
    """(WINDOW,) a Hann window of 25 ms that would go on periodically."""
    places = 2 * np.pi * np.arange(_WINDOW) / _WINDOW
    return (0.5 - 0.5 * np.cos(places)).astype(np.float32)


@cache
def mel_filters() -> Floats:
    """Return the (K, F) share of each frequency in each band: Slaney's triangles.

    Each triangle has an area of one, from the centre of the band before to that of
    the band behind.
    """
    low, high = _hz_to_mel(np.array([0.0, SAMPLE_RATE / 2]))
    points = _mel_to_hz(np.linspace(low, high, NUM_MELS + 2))
    frequencies = np.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1)[:, None]
    widths = np.diff(points)
    up = (frequencies - points[:-2]) / widths[:-1]
    down = (points[2:] - frequencies) / widths[1:]
    filters = np.maximum(0.0, np.minimum(up, down))
    filters *= 2.0 / (points[2:] - points[:-2])
    return filters.astype(np.float32)


_LINEAR, _BEND = 200 / 3, 1000.0  # Hz a mel below the bend
_LOG_STEP = np.log(6.4) / 27


def _hz_to_mel(hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above = _BEND / _LINEAR + np.log(np.maximum(hz, _BEND) / _BEND) / _LOG_STEP
    return np.where(hz < _BEND, hz / _LINEAR, above)


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    bend = _BEND / _LINEAR
    above = _BEND * np.exp(_LOG_STEP * (np.maximum(mel, bend) - bend))
    return np.where(mel < bend, mel * _LINEAR, above)
