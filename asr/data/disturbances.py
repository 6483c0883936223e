"""What real recordings have and read speech lacks: noise, voices, rooms, narrow bands.

    y = clip(band(room * x + noise))                 * is a convolution

Training disturbs some of its recordings anew in each epoch. What is drawn for an
utterance is a few numbers (`Disturbance`), a function of (seed, epoch, utterance)
alone; noises, voices and rooms lie ready in a `DisturbanceBank`. So a recording is
disturbed alike on a CPU and on a GPU, alone and in a batch.

Shapes: B utterances, N samples, M noises of L samples, R rooms of E samples, K
        frequencies, F mel bands, W stretches.

Source: noise, voices and simulated rooms in training: Ko et al. (2017), "A study on
data augmentation of reverberant speech for robust speech recognition", ICASSP. A room
is its direct sound and noise that dies away in a line of dB, as Polack (1988) models
late reverberation.
"""

import random
from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.features import AugmentConfig, mel_filters
from asr.padding import valid_mask
from asr.runtime import send

NO_BAND = (0.0, SAMPLE_RATE / 2)
COLOURS = (0.0, 0.5, 1.0, 0.0, 0.5, 1.0)
"""Of the noises: power falls as 1 / frequency ** (2 * colour), from white to brown."""
_BABBLES = 8
_SECONDS = 40
"""Length of each noise."""
_ROOMS = 64
_ROOM_SAMPLES = SAMPLE_RATE // 2
_RINGING = (0.1, 0.5)
"""Seconds in which a room's sound falls by 60 dB."""
_DIRECT = (-3.0, 12.0)
"""dB of the direct sound over the rest."""
_SNR = (5.0, 30.0)
"""dB of the speech over a noise."""
_STOPPED = 0.01
"""What is left of a frequency outside the band."""
_STRETCHES = 7


class Disturbance(NamedTuple):
    """What happens to one recording; the defaults are nothing."""

    room: int = -1
    """Of the bank; -1 for none."""
    noise: int = -1
    """Of the bank: a colour or voices; -1 for none."""
    start: float = 0.0
    """Where in the noise it begins, 0 to 1."""
    snr: float = 0.0
    """dB of the speech over the noise."""
    low: float = NO_BAND[0]
    """Hz below which the band ends."""
    high: float = NO_BAND[1]
    """Hz above which the band ends."""
    level: float = 1.0
    """Share of the peak at which samples are clipped; 1 for none."""
    stretch: int = _STRETCHES // 2
    """Of the bank's filters; the middle ones are those that are not stretched."""


NOTHING = Disturbance()


def draw_disturbance(
    config: AugmentConfig, strength: float, rng: random.Random
) -> Disturbance:
    """Draw what happens to a recording.

    Args:
        config: how often what happens.
        strength: 0 to 1, a factor on all chances.
        rng: where chance comes from; the same numbers are drawn at any strength.
    """
    room, noise, babble, band, clipping, stretch = (rng.random() for _ in range(6))
    which_room, which_colour, which_babble, which_stretch = (
        rng.randrange(count) for count in (_ROOMS, len(COLOURS), _BABBLES, _STRETCHES)
    )
    start, snr, telephone = rng.random(), rng.uniform(*_SNR), rng.random() < 0.5
    low, high, level = rng.uniform(100, 400), rng.uniform(3000, 5500), rng.random()
    drawn = NOTHING
    if room < config.room * strength:
        drawn = drawn._replace(room=which_room)
    if noise < (config.noise + config.babble) * strength:
        coloured = babble * (config.noise + config.babble) < config.noise
        which = which_colour if coloured else len(COLOURS) + which_babble
        drawn = drawn._replace(noise=which, start=start, snr=snr)
    if band < config.band * strength:
        drawn = drawn._replace(
            low=low if telephone else NO_BAND[0], high=3400.0 if telephone else high
        )
    if clipping < config.clipping * strength:
        drawn = drawn._replace(level=0.15 + 0.6 * level)
    if config.stretch and stretch < strength:
        drawn = drawn._replace(stretch=which_stretch)
    return drawn


class DisturbanceBank:
    """Noises, rooms and mel filters that lie ready.

    Args:
        config: what of it is needed.
        seed: another seed, other noises and rooms.
        speech: waveforms that voices in the background are made of; without any there
            are none of them, only noise of a colour that is like speech's.
    """

    def __init__(
        self,
        config: AugmentConfig,
        seed: int,
        speech: Sequence[Tensor] = (),
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.noises = torch.stack(
            [
                *(_colour(colour, generator) for colour in COLOURS),
                *(_babble(speech, generator) for _ in range(_BABBLES)),
            ]
            if config.noise or config.babble
            else [torch.zeros(1)]
        )
        self.rooms = torch.stack([_room(generator) for _ in range(_ROOMS)])
        stretches = torch.linspace(1 - config.stretch, 1 + config.stretch, _STRETCHES)
        filters = [mel_filters(stretch) for stretch in stretches.tolist()]
        self.filters = torch.stack(filters)

    def to(self, device: torch.device) -> "DisturbanceBank":
        """Return this bank on a device."""
        moved = copy(self)
        moved.noises, moved.rooms = self.noises.to(device), self.rooms.to(device)
        moved.filters = self.filters.to(device)
        return moved

    def disturb(
        self, x: Tensor, num_samples: Tensor, drawn: Sequence[Disturbance]
    ) -> Tensor:
        """Disturb some recordings.

        Args:
            x: (B, N) samples, zero on padding.
            num_samples: (B,) on the same device.
            drawn: what happens to each.

        Returns:
            (B, N), zero on padding.
        """
        valid = valid_mask(num_samples, x.size(1))
        table = torch.tensor(drawn, dtype=torch.float32)
        if any(d.room >= 0 for d in drawn):
            x = self._ring(x, table[:, 0].long())
        if any(d.noise >= 0 for d in drawn):
            x = self._add_noise(x * valid, num_samples, table)
        if any((d.low, d.high) != NO_BAND for d in drawn):
            x = _narrow(x, *send(table[:, 4:6], x.device).unbind(dim=1))
        if any(d.level < 1 for d in drawn):
            most = (x * valid).abs().amax(dim=1) * send(table[:, 6], x.device)
            x = torch.minimum(torch.maximum(x, -most[:, None]), most[:, None])
        return x * valid

    def mel_filters(self, drawn: Sequence[Disturbance]) -> Tensor:
        """Return (K, F) filters for all utterances, or (B, K, F) of each its own."""
        if all(d.stretch == NOTHING.stretch for d in drawn):
            return self.filters[NOTHING.stretch]
        which = torch.tensor([d.stretch for d in drawn])
        return self.filters[send(which, self.filters.device)]

    def _ring(self, x: Tensor, rooms: Tensor) -> Tensor:
        """Play recordings in rooms."""
        rooms = send(rooms, x.device)
        width = _fast_width(x.size(1) + _ROOM_SAMPLES)
        echoes = torch.fft.rfft(self.rooms[rooms.clamp_min(0)], width)
        rung = torch.fft.irfft(torch.fft.rfft(x, width) * echoes, width)
        return torch.where(rooms[:, None] >= 0, rung[:, : x.size(1)], x)

    def _add_noise(self, x: Tensor, num_samples: Tensor, table: Tensor) -> Tensor:
        which, start, snr = send(table[:, 1:4], x.device).unbind(dim=1)
        length = self.noises.size(1)
        begin = (start * length).long()[:, None]
        places = (begin + torch.arange(x.size(1), device=x.device)) % length
        noise = self.noises[which.long().clamp_min(0)[:, None], places]
        power = x.square().sum(dim=1) / num_samples
        gain = (power * 10 ** (-snr / 10)).sqrt() * (which >= 0)
        return x + gain[:, None] * noise


def _narrow(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Take away what lies outside the bands (B,) in Hz."""
    width = _fast_width(x.size(1))
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, width // 2 + 1, device=x.device)
    passes = (frequencies >= low[:, None]) & (frequencies <= high[:, None])
    shares = passes.float().clamp_min(_STOPPED)
    passed: Tensor = torch.fft.irfft(torch.fft.rfft(x, width) * shares, width)
    return passed[:, : x.size(1)]


def _fast_width(samples: int) -> int:
    """Round up to a length whose Fourier transform is fast."""
    return -(-samples // 4096) * 4096


def _colour(colour: float, generator: torch.Generator) -> Tensor:
    """(L,) noise of power 1."""
    spectrum = torch.fft.rfft(torch.randn(_SECONDS * SAMPLE_RATE, generator=generator))
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, len(spectrum)).clamp_min(50)
    return of_power_one(torch.fft.irfft(spectrum * frequencies**-colour))


def _babble(speech: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """(L,) a few voices at a time, together of power 1."""
    if not speech:
        return _colour(0.5, generator)
    length, found = _SECONDS * SAMPLE_RATE, torch.zeros(_SECONDS * SAMPLE_RATE)
    voices = int(torch.randint(3, 7, (), generator=generator))
    for _ in range(voices):
        at = 0
        while at < length:
            which = int(torch.randint(len(speech), (), generator=generator))
            piece = of_power_one(speech[which].float())[: length - at]
            found[at : at + len(piece)] += piece
            at += len(piece)
    return of_power_one(found)


def _room(generator: torch.Generator) -> Tensor:
    """(E,) the impulse response of a room, of energy 1, the direct sound first."""
    ringing, direct = torch.rand(2, generator=generator).tolist()
    ringing = _RINGING[0] + (_RINGING[1] - _RINGING[0]) * ringing
    direct = _DIRECT[0] + (_DIRECT[1] - _DIRECT[0]) * direct
    seconds = torch.arange(_ROOM_SAMPLES) / SAMPLE_RATE
    tail = torch.randn(_ROOM_SAMPLES, generator=generator)
    tail *= 10 ** (-3 * seconds / ringing)  # -60 dB where seconds = ringing
    tail[0] = 0.0
    tail *= 10 ** (-direct / 20) / tail.norm()
    tail[0] = 1.0
    response: Tensor = tail / tail.norm()
    return response


def of_power_one(x: Tensor) -> Tensor:
    """Bring (N,) samples to a mean square of one; silence stays silent."""
    return x / x.square().mean().sqrt().clamp_min(1e-9)
