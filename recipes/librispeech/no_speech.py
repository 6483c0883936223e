"""Make recordings in which nobody speaks, and their manifest, to train with.

    python recipes/librispeech/no_speech.py FOLDER

writes FOLDER/no-speech.jsonl and the recordings beside it: noise that is even, swells
or knocks, hum, tones and sirens, alone and two at a time. Their texts are empty. In two
or three hundredths of what a network reads they teach it to write nothing where nothing
is said; a network that has only ever heard speech finds words in any noise. Recordings
of one's own (a workshop, a car, an empty office) go into a manifest alike.

Shapes: N samples.
"""

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2]))  # so that it runs as a script, too

from asr.audio import SAMPLE_RATE, encode
from asr.cli.scripts import run_main
from asr.data.disturbances import of_power_one
from asr.data.manifest import Utterance, write_manifest
from asr.errors import ConfigError
from asr.progress import progress_bar

_SECONDS = (1.0, 12.0)
_PEAK = (-40.0, -2.0)
"""dB below full scale."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="no_speech", description="Make recordings in which nobody speaks."
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER")
    add("--number", type=int, default=400, metavar="N", help="recordings (400)")
    add("--seed", type=int, default=0, metavar="N", help="another seed, others (0)")
    options = parser.parse_args(arguments)
    return run_main(
        "no_speech", lambda: _make(options.folder, options.number, options.seed)
    )


def _make(folder: Path, number: int, seed: int) -> None:
    if number < 1:
        raise ConfigError(f"--number must be at least 1, not {number}")
    found = list[Utterance]()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with progress_bar(number, "no_speech", "recordings") as bar:
            for place in range(number):
                name = f"no-speech-{seed}-{place:04d}"
                waveform = sound(random.Random(f"{seed} {place}"))
                path = folder / f"{name}.flac"
                path.write_bytes(encode(waveform, "flac"))
                duration = round(len(waveform) / SAMPLE_RATE, 3)
                found.append(Utterance(name, str(path), duration, ""))
                bar.update(1)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror})") from error
    manifest = folder / "no-speech.jsonl"
    write_manifest(manifest, found)
    hours = sum(utterance.duration for utterance in found) / 3600
    print(f"{manifest}: {number} recordings, {hours:.2f} h", flush=True)


def sound(rng: random.Random) -> Tensor:
    """Draw a recording without speech: (N,) float32, N / 16,000 from 1 to 12 s."""
    size = round(SAMPLE_RATE * rng.uniform(*_SECONDS))
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    drawn = rng.sample(_KINDS, rng.choice((1, 1, 2)))
    parts = [of_power_one(kind(size, rng, generator)) for kind in drawn]
    mixed = parts[0]
    for part in parts[1:]:
        mixed = mixed + part * 10 ** (-rng.uniform(0, 20) / 20)
    hiss = torch.randn(size, generator=generator) * 10 ** (-rng.uniform(30, 60) / 20)
    mixed = mixed + hiss
    peak: float = 10 ** (rng.uniform(*_PEAK) / 20)
    return mixed * (peak / mixed.abs().max())


def _noise(size: int, rng: random.Random, generator: torch.Generator) -> Tensor:
    """Noise whose power falls with frequency, from white (0) to beyond brown (2)."""
    spectrum = torch.fft.rfft(torch.randn(size, generator=generator))
    hertz = torch.linspace(0, SAMPLE_RATE / 2, len(spectrum)).clamp_min(40)
    shape = hertz ** -(rng.uniform(0, 2.4) / 2)
    if rng.random() < 0.3:  # of a band only: wind, a fan, a distant road
        low = rng.uniform(0, 3000)
        shape = shape * ((hertz >= low) & (hertz <= low + rng.uniform(300, 4000)))
    found: Tensor = torch.fft.irfft(spectrum * shape, size)
    return found


def _swelling(size: int, rng: random.Random, generator: torch.Generator) -> Tensor:
    """Noise that comes and goes as often as syllables do, evenly or not."""
    seconds, rate = torch.arange(size) / SAMPLE_RATE, rng.uniform(0.3, 9)
    phase = 2 * torch.pi * (rate * seconds + rng.random())
    if rng.random() < 0.5:
        wander = torch.randn(2 + size // 4000, generator=generator)
        phase = phase + 2 * _smooth(wander, size)
    swell = (1 + rng.uniform(0.4, 1) * phase.sin()) ** rng.uniform(0.7, 3)
    return _noise(size, rng, generator) * swell


def _knocks(size: int, rng: random.Random, generator: torch.Generator) -> Tensor:
    """Short bursts that die away: keys, steps, dishes, a ticking clock."""
    envelope, at = torch.zeros(size), 0.0
    gap, evenly = 1 / rng.uniform(0.7, 9), rng.random() < 0.4
    decay = 10 ** rng.uniform(-3, -0.7)
    tail = torch.exp(
        -torch.arange(round(6 * decay * SAMPLE_RATE)) / SAMPLE_RATE / decay
    )
    while (start := round(at * SAMPLE_RATE)) < size:
        end = min(size, start + len(tail))
        envelope[start:end] += tail[: end - start] * rng.uniform(0.2, 1)
        at += gap if evenly else rng.expovariate(1 / gap)
    return _noise(size, rng, generator) * envelope


def _hum(size: int, rng: random.Random, generator: torch.Generator) -> Tensor:
    """A machine: a tone that keeps its height, its harmonics, and some noise."""
    seconds = torch.arange(size) / SAMPLE_RATE
    base = rng.choice((50.0, 60.0, 100.0, 120.0, rng.uniform(40, 500)))
    found = _tone(base * seconds, rng.randint(1, 12), rng)
    noise = of_power_one(_noise(size, rng, generator))
    return of_power_one(found) + noise * rng.uniform(0, 0.5)


def _notes(size: int, rng: random.Random, generator: torch.Generator) -> Tensor:
    """Music of a kind: notes that begin at random, one or some at a time."""
    del generator
    found, at, key = torch.zeros(size), 0.0, rng.uniform(80, 500)
    gap, held = 1 / rng.uniform(1, 6), rng.uniform(0.1, 1.2)
    while (start := round(at * SAMPLE_RATE)) < size:
        seconds = torch.arange(min(size - start, SAMPLE_RATE * 3)) / SAMPLE_RATE
        strength = torch.exp(-seconds / held) * (seconds / 0.01).clamp_max(1)
        for _ in range(rng.choice((1, 1, 2, 3))):
            height = key * 2 ** (rng.choice(_SCALE) / 12)
            tone = _tone(height * seconds, rng.randint(1, 8), rng)
            found[start : start + len(seconds)] += tone * strength
        at += gap * rng.choice((0.5, 1, 1, 2))
    return found


def _siren(size: int, rng: random.Random, generator: torch.Generator) -> Tensor:
    """A tone that rises and falls, evenly or as it likes."""
    if rng.random() < 0.5:
        wander = torch.randn(2 + size // rng.randint(2000, 12_000), generator=generator)
        bend = _smooth(wander, size)
    else:
        seconds = torch.arange(size) / SAMPLE_RATE
        bend = (2 * torch.pi * rng.uniform(0.2, 5) * seconds).sin()
    height = rng.uniform(200, 2000) * 2 ** (bend * rng.uniform(0.1, 0.8))
    return _tone(torch.cumsum(height, 0) / SAMPLE_RATE, rng.randint(1, 6), rng)


_SCALE = (0, 2, 4, 5, 7, 9, 11, 12, 14, 16, 19, 24)
"""Half tones above the key."""
_KINDS: tuple[Callable[[int, random.Random, torch.Generator], Tensor], ...] = (
    *(_noise, _noise, _swelling, _swelling, _swelling),
    *(_knocks, _knocks, _hum, _notes, _siren),
)


def _tone(turns: Tensor, harmonics: int, rng: random.Random) -> Tensor:
    """Add up harmonics, the higher the softer; turns: (N,) of the first."""
    found = torch.zeros(len(turns))
    for number in range(1, harmonics + 1):
        share = rng.uniform(0.2, 1) / number
        found += share * torch.sin(2 * torch.pi * (number * turns + rng.random()))
    return found


def _smooth(points: Tensor, size: int) -> Tensor:
    """Draw a curve through points: (N,)."""
    found: Tensor = torch.nn.functional.interpolate(
        points[None, None], size=size, mode="linear", align_corners=True
    )
    return found[0, 0]


if __name__ == "__main__":
    sys.exit(main())
