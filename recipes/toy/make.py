"""Make a corpus in which each letter is a tone: speech for a network in a hurry.

    python recipes/toy/make.py exp/toy/data

writes train.jsonl, dev.jsonl and test.jsonl with their recordings. A text is one to
three made-up words; each of its letters sounds for 60 to 120 ms at a pitch of its own,
a space is silence, and there is a little noise over all. Nothing is downloaded, and
the same seed makes the same corpus.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from asr.audio import SAMPLE_RATE
from asr.cli.scripts import run_main
from asr.data.manifest import Utterance, write_manifest
from asr.errors import CorpusError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ'"
LOWEST, RATIO = 250.0, 1.12
"""Hz of the letter A, and how much higher each letter sounds than the one before."""
SIZES = {"train": 600, "dev": 60, "test": 60}

Samples = npt.NDArray[np.float32]


def make(folder: Path, seed: int = 0) -> None:
    """Write the corpus into a folder, which is made if it is missing.

    Raises:
        CorpusError: it cannot be made.
    """
    for subset, size in SIZES.items():
        rng = random.Random(f"{subset} {seed}")
        audio = folder / subset
        try:
            audio.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CorpusError(f"{audio}: cannot be made ({error.strerror})") from error
        utterances = []
        for number in range(size):
            text = make_text(rng)
            samples = sing(text, rng)
            path = audio / f"{number:04d}.wav"
            soundfile.write(path, samples, SAMPLE_RATE)
            utterances.append(
                Utterance(
                    id=f"{subset}-{number:04d}",
                    audio=str(path),
                    duration=len(samples) / SAMPLE_RATE,
                    text=text,
                    speaker="flute",
                )
            )
        write_manifest(folder / f"{subset}.jsonl", utterances)


def make_text(rng: random.Random) -> str:
    """Make up one to three words of two to five letters."""
    words = [
        rng.choices(LETTERS, k=rng.randint(2, 5)) for _ in range(rng.randint(1, 3))
    ]
    return " ".join("".join(word) for word in words)


def sing(text: str, rng: random.Random) -> Samples:
    """(N,) samples at 16 kHz that say a text."""
    noise = np.random.default_rng(rng.getrandbits(32))
    notes = [_note(character, rng) for character in text]
    pause = np.zeros(round(0.05 * SAMPLE_RATE))
    samples = np.concatenate([pause, *notes, pause])
    return (samples + noise.normal(0, 0.005, len(samples))).astype(np.float32)


def _note(character: str, rng: random.Random) -> npt.NDArray[np.float64]:
    """A tone with soft ends, and a little silence behind it."""
    length = round(rng.uniform(0.06, 0.12) * SAMPLE_RATE)
    gap = np.zeros(round(0.04 * SAMPLE_RATE))
    if character == " ":
        return np.concatenate([np.zeros(length), gap])
    hertz = LOWEST * RATIO ** LETTERS.index(character)
    time = np.arange(length) / SAMPLE_RATE
    tone = rng.uniform(0.2, 0.4) * np.sin(2 * np.pi * hertz * time)
    return np.concatenate([tone * np.hanning(length) ** 0.3, gap])


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="make", description="Make a corpus in which each letter is a tone."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="made if missing")
    options = parser.parse_args(arguments)
    return run_main("make", lambda: make(options.folder))


if __name__ == "__main__":
    sys.exit(main())
