"""Audio files in, waveforms out: mono, float32, at one sample rate."""

from asr.audio.channels import Channel, channel_number, check_channel
from asr.audio.pcm import PCMStream
from asr.audio.reading import (
    AUDIO_SUFFIXES,
    duration,
    file_kind,
    from_samples,
    num_channels,
    probe,
    read_arrays,
    read_blocks,
    read_waveform,
    waveform_of,
)
from asr.audio.soundfiles import KINDS, encode
from asr.audio.spooling import STANDARD_INPUT, spooled
from asr.audio.waveforms import SAMPLE_RATE, resample

__all__ = [
    "AUDIO_SUFFIXES",
    "KINDS",
    "SAMPLE_RATE",
    "STANDARD_INPUT",
    "Channel",
    "PCMStream",
    "channel_number",
    "check_channel",
    "duration",
    "encode",
    "file_kind",
    "from_samples",
    "num_channels",
    "probe",
    "read_arrays",
    "read_blocks",
    "read_waveform",
    "resample",
    "spooled",
    "waveform_of",
]
