"""What an utterance sounds like: a recording, or a part of a long one.

Shapes: N samples of a waveform.
"""

from torch import Tensor

from asr.audio import SAMPLE_RATE, read_waveform
from asr.data.manifest import Utterance
from asr.errors import AudioError

TOLERANCE = 0.1
"""Seconds that a part may reach beyond the end of its recording: others round."""


def read_utterance(utterance: Utterance) -> Tensor:
    """Read the recording of an utterance, or its part of one, by seeking.

    Returns:
        (N,) float32 at 16 kHz.

    Raises:
        AudioError: the recording cannot be read, or ends before the part does.
    """
    start, end = utterance.clip
    waveform = read_waveform(utterance.audio, start=start, end=end)
    if end is None:
        return waveform
    missing = utterance.duration - len(waveform) / SAMPLE_RATE
    if missing > TOLERANCE:
        raise AudioError(
            f"{utterance.audio}: ends {missing:.2f} s before {utterance.id} does, "
            f"which is from {start:g} s to {end:g} s (prepare the data again)"
        )
    return waveform
