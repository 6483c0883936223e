"""Features: from a waveform to the listener's input, and its augmentation in training.

    X_t   = |FFT(window * x[160 t - 256 : 160 t + 256])|^2        power spectrum
    m_tf  = max(log(sum_k M_fk X_tk), peak - 80 dB)               log-mel
    y_tf  = m_tf - mean_t m_tf                                    what is kept

The mean over the utterance is taken off each band: it holds the gain and the colour of
the microphone, the room and the codec, and no speech. What remains is scaled in the
model by the mean and deviation over the training set (`FeatureNorm`).

Features are those of one utterance alone, whatever it stands beside, so they are the
same alone, in a batch, in training and in transcription. `log_mel` makes them of one
waveform, in blocks that stay in a processor's cache; `batch_log_mel` makes the same of
a padded batch, as a GPU likes it.

Shapes: B utterances, N samples, T = 1 + N // 160 frames, F = 80 mel bands, K = 257
        frequencies.

Source: the filters and the framing are librosa's defaults (Slaney's Auditory Toolbox),
within 1e-3 of `librosa.feature.melspectrogram`. SpecAugment: Park et al. (2019),
arXiv:1904.08779. Speed perturbation: Ko et al. (2015), Interspeech.
"""

import math
import random
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.audio import SAMPLE_RATE, resample
from asr.padding import valid_mask
from asr.runtime import full_float32

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
_STRETCHES = ((0, 32), (32, 64), (64, 128), (128, FFT // 2 + 1))
"""Of frequencies, each of which has a share in some neighbouring bands only."""


@cache
def _window() -> Tensor:
    """(WINDOW,) a Hann window of 25 ms."""
    return torch.hann_window(WINDOW)


@cache
def _mel_filters() -> Tensor:
    """(K, F) the share of each frequency in each band."""
    from torchaudio.functional import melscale_fbanks

    filters: Tensor = melscale_fbanks(
        FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, NUM_MELS, SAMPLE_RATE, "slaney", "slaney"
    )
    return filters


@cache
def _mel_blocks() -> list[tuple[slice, slice, Tensor]]:
    """Cut the shares into blocks: frequencies, bands, and the shares of these in those.

    Three quarters of the filters are zeros that no block holds.
    """
    blocks = []
    for first, end in _STRETCHES:
        filters = _mel_filters()[first:end]
        bands = filters.any(dim=0).nonzero()
        some = slice(int(bands[0]), int(bands[-1]) + 1)
        blocks.append((slice(first, end), some, filters[:, some].contiguous()))
    return blocks


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
    mels = waveform.new_zeros(len(frames), NUM_MELS)
    rows, num_frequencies = min(len(frames), _AT_ONCE), FFT // 2 + 1
    windowed = waveform.new_zeros(rows, FFT)
    spectrum = torch.empty(rows, num_frequencies, dtype=torch.complex64)
    power = waveform.new_empty(rows, num_frequencies)
    inside = slice((FFT - WINDOW) // 2, (FFT + WINDOW) // 2)
    for start in range(0, len(frames), _AT_ONCE):
        some = frames[start : start + _AT_ONCE]
        if len(some) < rows:  # the last ones
            rows = len(some)
            windowed, spectrum, power = windowed[:rows], spectrum[:rows], power[:rows]
        torch.mul(some, _window(), out=windowed[:, inside])
        torch.fft.rfft(windowed, out=spectrum)
        squares = torch.view_as_real(spectrum).square_()
        torch.add(squares[..., 0], squares[..., 1], out=power)
        for frequencies, bands, filters in _mel_blocks():
            found = mels[start : start + rows, bands]
            found.addmm_(power[:, frequencies], filters)
    return mels


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


def mel_filters(stretch: float = 1.0) -> Tensor:
    """Return the (K, F) share of each frequency in each band.

    Args:
        stretch: of the frequencies, up to a bend below the highest, as a vocal tract
            that is shorter (above 1) or longer has them; near 1.

    Source: Jaitly and Hinton (2013), "Vocal Tract Length Perturbation improves speech
    recognition", for training; the bend as in Kaldi's piecewise warp.
    """
    filters = _mel_filters()
    if stretch == 1:
        return filters
    last = len(filters) - 1
    bend = 0.6 * last * min(1.0, 1 / stretch)
    steps = torch.arange(last + 1, dtype=torch.float64)
    above = (last - stretch * bend) / (last - bend)
    bent = stretch * bend + (steps - bend) * above
    warped = torch.where(steps <= bend, steps * stretch, bent).clamp(0, last)
    below = warped.floor().long().clamp(max=last - 1)
    share = (warped - below).float()[:, None]
    return (1 - share) * filters[below] + share * filters[below + 1]


def batch_log_mel(waveforms: Tensor, num_samples: Tensor, filters: Tensor) -> Tensor:
    """Make the features of several utterances, each as `log_mel` makes them.

    Args:
        waveforms: (B, N) float32 samples at 16 kHz, zero on padding.
        num_samples: (B,) at least one each, on the same device.
        filters: (K, F) of `mel_filters`, or (B, K, F) of each utterance its own.

    Returns:
        (B, T, F), zero on padding.
    """
    reach, margin = WINDOW // 2, (FFT - WINDOW) // 2
    frames = nn.functional.pad(waveforms, (reach, reach)).unfold(1, WINDOW, HOP)
    windowed = frames * _window().to(waveforms.device)
    windowed = nn.functional.pad(windowed, (margin, margin))
    squares = torch.view_as_real(torch.fft.rfft(windowed)).square().sum(dim=-1)
    with full_float32():
        power = squares @ filters  # (B, T, K) @ (K, F)
    num_frames = 1 + num_samples // HOP
    valid = valid_mask(num_frames, power.size(1))[:, :, None]
    peak = power.masked_fill(~valid, 0.0).amax(dim=(1, 2), keepdim=True)
    floor = (peak * 10 ** (-DYNAMIC_RANGE / 10)).clamp_min(1e-20)
    log_power = torch.maximum(power, floor).log().masked_fill(~valid, 0.0)
    mean = log_power.sum(dim=1, keepdim=True) / num_frames[:, None, None]
    return (log_power - mean).masked_fill(~valid, 0.0)


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


SHARES = ("noise", "babble", "room", "band", "clipping", "characters", "join")
"""Settings of `AugmentConfig` that are shares."""


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
    noise: float = 0.0
    """Share of the utterances with noise of some colour, 5 to 30 dB below speech."""
    babble: float = 0.0
    """Share of the utterances with other voices behind them, 5 to 30 dB below."""
    room: float = 0.0
    """Share of the utterances that are played in a room that rings 0.1 to 0.5 s."""
    band: float = 0.0
    """Share of the utterances whose band is as narrow as a telephone's, or nearly."""
    clipping: float = 0.0
    """Share of the utterances that are recorded too loud."""
    stretch: float = 0.0
    """Most by which the frequencies are stretched or pressed together, such as 0.1:
    as vocal tracts of other lengths have them."""
    characters: float = 0.0
    """Share of the speller's inputs that are replaced by any other character."""
    join: float = 0.0
    """Share of the utterances that go on with the next one of the same speaker; where
    no speaker is named, with one whose id differs only behind the last hyphen."""

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
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"augment.{name} is a share from 0 to 1, not {getattr(self, name)}"
                )
        if self.noise + self.babble > 1:
            raise ValueError(
                "augment.noise and augment.babble are shares of the same utterances, "
                f"at most 1 together, not {self.noise} and {self.babble}"
            )
        if not 0 <= self.stretch <= 0.3:
            raise ValueError(
                f"augment.stretch must be from 0 to 0.3, not {self.stretch}"
            )


def change_speed(waveform: Tensor, speed: float) -> Tensor:
    """(N,) -> (N / speed,): play a recording faster (and higher) or slower.

    >>> change_speed(torch.zeros(1100), 1.1).shape
    torch.Size([1000])
    """
    return resample(waveform, SAMPLE_RATE * speed, SAMPLE_RATE)


class Stripes(NamedTuple):
    """What SpecAugment blanks of an utterance: (start, end) of each stripe."""

    bands: list[tuple[int, int]]
    frames: list[tuple[int, int]]


def draw_stripes(
    num_frames: int, config: AugmentConfig, strength: float, rng: random.Random
) -> Stripes:
    """Draw the stripes of an utterance; see `spec_augment`."""
    time_width = min(config.time_width, math.floor(num_frames / 5))
    widths = strength * config.frequency_width, strength * time_width
    return Stripes(
        [_stripe(NUM_MELS, widths[0], rng) for _ in range(config.frequency_masks)],
        [_stripe(num_frames, widths[1], rng) for _ in range(config.time_masks)],
    )


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
    bands, frames = draw_stripes(len(features), config, strength, rng)
    for start, end in bands:
        features[:, start:end] = 0.0
    for start, end in frames:
        features[start:end] = 0.0
    return features


def blank_stripes(features: Tensor, bands: Tensor, frames: Tensor) -> Tensor:
    """Blank the stripes of several utterances.

    Args:
        features: (B, T, F).
        bands: (B, M, 2) start and end of M stripes each.
        frames: (B, M', 2) likewise.
    """
    for axis, stripes in ((2, bands), (1, frames)):
        places = torch.arange(features.size(axis), device=features.device)
        inside = (places >= stripes[:, :, :1]) & (places < stripes[:, :, 1:])
        inside = inside.any(dim=1)  # (B, T) or (B, F)
        features = features.masked_fill(inside.unsqueeze(3 - axis), 0.0)
    return features


def _stripe(length: int, widest: float, rng: random.Random) -> tuple[int, int]:
    width = min(rng.randint(0, round(widest)), length)
    start = rng.randint(0, length - width)
    return start, start + width
