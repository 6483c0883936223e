"""Features: from a waveform to the listener's input, and its augmentation in training.

    X_t   = |FFT(window * x[160 t - 256 : 160 t + 256])|^2        power spectrum
    m_tf  = max(log(sum_k M_fk X_tk), peak - 80 dB)               log-mel
    y_tf  = m_tf - mean_t m_tf                                    what is kept

The mean over the utterance is taken off each band: it holds the gain and the colour of
the microphone, the room and the codec, and no speech. What remains is scaled in the
model by the mean and deviation over the training set (`FeatureNorm`).

Features are always made of one utterance alone, never of a padded batch, so they are
the same alone, in a batch, in training and in transcription.

Shapes: N samples, T = 1 + N // 160 frames, F = 80 mel bands.

Source: the filters and the framing are librosa's defaults (Slaney's Auditory Toolbox),
within 1e-3 of `librosa.feature.melspectrogram`. SpecAugment: Park et al. (2019),
arXiv:1904.08779. Speed perturbation: Ko et al. (2015), Interspeech.
"""

import math
import random
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from asr.audio import SAMPLE_RATE, resample

NUM_MELS = 80
"""F: bands."""
WINDOW = 400
"""Samples that a frame sees: 25 ms."""
HOP = 160
"""Samples from frame to frame: 10 ms."""
FRAMES_PER_SECOND = SAMPLE_RATE // HOP
FFT = 512
"""Points of the Fourier transform; the window stands in their middle."""
DYNAMIC_RANGE = 80.0
"""dB below the loudest band of an utterance at which the floor is laid."""


_AT_ONCE = 256
"""Frames that are worked on together: what is made of them stays in the cache."""


@cache
def _window() -> Tensor:
    """(WINDOW,) a Hann window of 25 ms."""
    return torch.hann_window(WINDOW)


@cache
def _mel_filters() -> Tensor:
    """(2 * (FFT // 2 + 1), F) the share of each frequency in each band.

    Each row stands there twice, for the real and the imaginary part.
    """
    from torchaudio.functional import melscale_fbanks

    filters: Tensor = melscale_fbanks(
        FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, NUM_MELS, SAMPLE_RATE, "slaney", "slaney"
    )
    return filters.repeat_interleave(2, dim=0)


def mel_spectrogram(waveform: Tensor) -> Tensor:
    """Sum the power spectrum of each frame into mel bands.

    Args:
        waveform: (N,) float32 samples at 16 kHz, at least one.

    Returns:
        (T, F) power, T = 1 + N // 160.
    """
    if waveform.dim() != 1 or not len(waveform):
        raise ValueError(f"(N,) samples were needed, got {tuple(waveform.shape)}")
    reach = WINDOW // 2
    frames = nn.functional.pad(waveform, (reach, reach)).unfold(0, WINDOW, HOP)
    power = waveform.new_empty(len(frames), NUM_MELS)
    margin = (FFT - WINDOW) // 2
    buffer = waveform.new_zeros(min(len(frames), _AT_ONCE), FFT)
    for start in range(0, len(frames), _AT_ONCE):
        some = frames[start : start + _AT_ONCE]
        windowed = buffer[: len(some)]
        torch.mul(some, _window(), out=windowed[:, margin : margin + WINDOW])
        spectrum = torch.view_as_real(torch.fft.rfft(windowed))  # (T', FFT / 2 + 1, 2)
        squares = spectrum.flatten(1).square_()
        torch.mm(squares, _mel_filters(), out=power[start : start + len(some)])
    return power


def log_mel(waveform: Tensor) -> Tensor:
    """Make the features of one utterance.

    Args:
        waveform: (N,) float32 samples at 16 kHz, at least one.

    Returns:
        (T, F) natural log of mel power, at most 80 dB below its peak, each band's mean
        taken off. A change of gain changes nothing; digital silence gives zeros.
    """
    power = mel_spectrogram(waveform)
    floor = power.max() * 10 ** (-DYNAMIC_RANGE / 10)
    log_power = power.clamp_(min=floor.clamp_min(1e-20)).log_()
    return log_power.sub_(log_power.mean(dim=0))


class FeatureNorm(nn.Module):
    """Bring each band to mean 0 and deviation 1 over the training set."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(NUM_MELS))
        self.register_buffer("std", torch.ones(NUM_MELS))

    def measure(self, features: list[Tensor]) -> None:
        """Set mean and deviation (F,) to those of some utterances, each (T, F)."""
        frames = torch.cat(features)
        self.mean.copy_(frames.mean(dim=0))
        self.std.copy_(frames.std(dim=0).clamp_min(1e-3))

    def forward(self, features: Tensor) -> Tensor:
        """(..., F) -> (..., F)."""
        return (features - self.mean) / self.std


@dataclass(frozen=True)
class AugmentConfig:
    """Settings of the augmentation, which keeps the network from learning by heart."""

    speeds: list[float]
    """Speeds to draw from, each as likely; 1.0 is the recording as it is."""
    frequency_masks: int = 2
    """SpecAugment: stripes of neighbouring bands that are blanked."""
    frequency_width: int = 15
    """Widest such stripe, in bands."""
    time_masks: int = 2
    """SpecAugment: stripes of neighbouring frames that are blanked."""
    time_width: int = 40
    """Widest such stripe, in frames; never more than a fifth of the utterance."""

    def __post_init__(self) -> None:
        """Refuse speeds and widths that cannot be."""
        if not self.speeds or not all(0.5 <= speed <= 2 for speed in self.speeds):
            raise ValueError(
                f"augment.speeds must be some of 0.5 to 2, not {self.speeds}"
            )
        for name in ("frequency_masks", "frequency_width", "time_masks", "time_width"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"augment.{name} must be at least 0, not {getattr(self, name)}"
                )


def change_speed(waveform: Tensor, speed: float) -> Tensor:
    """(N,) -> (N / speed,): play a recording faster (and higher) or slower.

    >>> change_speed(torch.zeros(1100), 1.1).shape
    torch.Size([1000])
    """
    return resample(waveform, SAMPLE_RATE * speed, SAMPLE_RATE)


def spec_augment(
    features: Tensor, config: AugmentConfig, strength: float, rng: random.Random
) -> Tensor:
    """Blank stripes of bands and of frames.

    Args:
        features: (T, F) with mean zero, so that 0 is the blank.
        config: how many stripes, and how wide.
        strength: 0 to 1, a factor on all widths: training begins gently.
        rng: where chance comes from.

    Returns:
        (T, F) an augmented copy.
    """
    features = features.clone()
    num_frames, num_bands = features.shape
    time_width = min(config.time_width, math.floor(num_frames / 5))
    for _ in range(config.frequency_masks):
        start, end = _stripe(num_bands, strength * config.frequency_width, rng)
        features[:, start:end] = 0.0
    for _ in range(config.time_masks):
        start, end = _stripe(num_frames, strength * time_width, rng)
        features[start:end] = 0.0
    return features


def _stripe(length: int, widest: float, rng: random.Random) -> tuple[int, int]:
    width = min(rng.randint(0, round(widest)), length)
    start = rng.randint(0, length - width)
    return start, start + width
