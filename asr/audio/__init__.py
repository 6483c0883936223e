"""Audio files in, waveforms out: mono, float32, at one sample rate."""

from asr.audio.reading import (
    AUDIO_SUFFIXES,
    Channel,
    duration,
    num_channels,
    read_blocks,
    read_waveform,
)
from asr.audio.soundfiles import encode_vorbis
from asr.audio.spooling import STANDARD_INPUT, spooled
from asr.audio.waveforms import SAMPLE_RATE, from_samples, resample

__all__ = [
    "AUDIO_SUFFIXES",
    "SAMPLE_RATE",
    "STANDARD_INPUT",
    "Channel",
    "duration",
    "encode_vorbis",
    "from_samples",
    "num_channels",
    "read_blocks",
    "read_waveform",
    "resample",
    "spooled",
]
