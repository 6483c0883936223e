"""Which waveforms are not worth a search, because nothing can be said in them."""

from torch import Tensor

from asr.audio import SAMPLE_RATE

SILENCE_AMPLITUDE = 1e-4
"""Largest sample, full scale being 1, of a piece that holds nothing: -80 dB."""
MIN_SPEECH_SECONDS = 0.1
"""There is no speech in less."""


def may_be_speech(waveform: Tensor) -> bool:
    """Return whether a waveform (N,) is long and loud enough to hold speech."""
    is_long = len(waveform) >= MIN_SPEECH_SECONDS * SAMPLE_RATE
    return is_long and float(waveform.abs().max()) >= SILENCE_AMPLITUDE
