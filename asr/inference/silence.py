"""Which waveforms are not worth a search, because nothing can be said in them."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from asr.audio import SAMPLE_RATE

if TYPE_CHECKING:
    from torch import Tensor

SILENCE_AMPLITUDE = 1e-4
"""Largest sample, full scale being 1, of a piece that holds nothing: -80 dB."""
MIN_SPEECH_SECONDS = 0.1
"""There is no speech in less."""


def may_be_speech(waveform: "Tensor | npt.NDArray[np.float32]") -> bool:
    """Return whether a waveform (N,) is long and loud enough to hold speech."""
    is_long = len(waveform) >= MIN_SPEECH_SECONDS * SAMPLE_RATE
    return is_long and float(np.abs(np.asarray(waveform)).max()) >= SILENCE_AMPLITUDE
