"""Damaged audio from a seed, and what reading makes of it.

>>> table = judge_mutants("opus", folder, number=400)               # doctest: +SKIP
>>> table[Verdict.SILENT]                                           # doctest: +SKIP
0

Only audio is decoded, no model runs: a mutant is compared with the waveform of the
undamaged file. Of a table for several formats:

    python -m tests.faults.mutants --number 400 opus mp3 m4a
"""

import argparse
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from asr.audio import SAMPLE_RATE, read_waveform
from asr.errors import AudioError
from tests.sounds import CODECS, FORMATS, Samples, contained, encoded

KINDS = ("headerless mp3", *FORMATS, *CODECS)
"""The formats that are damaged."""

_WINDOW = SAMPLE_RATE // 4
_ALIKE = 0.9  # correlation from which two windows are the same sound
_UNLIKE = 0.5
_LENGTHS = SAMPLE_RATE // 100  # samples: a difference that no time shows
_LOUD = 0.01  # RMS of a window that is compared


class Verdict(Enum):
    """What became of a damaged file."""

    REPORTED = "reported"
    """An `AudioError`."""
    REMARKED = "remarked"
    """It was read, with a remark."""
    HARMLESS = "harmless"
    """It was read; it is as long as the whole file, and nothing in it has moved."""
    SILENT = "silent"
    """It was read, shorter, longer or shifted, and without a word."""


def judge_mutants(
    kind: str,
    folder: Path,
    number: int,
    seed: int = 0,
    silent: Callable[[str, bytes], object] | None = None,
) -> Counter[Verdict]:
    """Damage a file of speech many times, and count what reading makes of it.

    Args:
        kind: one of `KINDS`.
        folder: for the files; each is removed again.
        number: of mutants.
        seed: decides them all.
        silent: is called with a description and the bytes of each mutant that was
            believed.
    """
    draws = random.Random(f"{kind} {seed}")
    whole = speech(kind)
    path = folder / "whole"
    path.write_bytes(whole)
    expected = read_waveform(path).numpy()
    found = Counter[Verdict]()
    for count in range(number):
        what, contents = mutant(whole, draws)
        if contents == whole:  # a stretch of zeros where zeros were
            found[Verdict.HARMLESS] += 1
            continue
        path = folder / f"{kind} {seed} {count}"  # remarks are made once for each path
        path.write_bytes(contents)
        verdict = judged(path, expected)
        path.unlink()
        found[verdict] += 1
        if silent and verdict is Verdict.SILENT:
            silent(what, contents)
    return found


def judged(path: Path, expected: Samples) -> Verdict:
    """Read a damaged file, and compare it with what the whole one has."""
    with remarks() as made:
        try:
            samples = read_waveform(path).numpy()
        except AudioError as error:
            assert "\n" not in str(error)  # noqa: PT017
            return Verdict.REPORTED
    if made:
        return Verdict.REMARKED
    if abs(len(samples) - len(expected)) > _LENGTHS or is_shifted(samples, expected):
        return Verdict.SILENT
    return Verdict.HARMLESS


def is_shifted(samples: Samples, expected: Samples) -> bool:
    """Return whether some of the sound is what should have been at another time.

    A window that is only spoilt resembles nothing; one that has moved is like another
    place, and unlike its own.
    """
    length = min(len(samples), len(expected))
    for start in range(0, length - _WINDOW + 1, _WINDOW):
        window = expected[start : start + _WINDOW]
        if np.sqrt(np.mean(window**2)) < _LOUD:
            continue
        first = max(0, start - 4 * _WINDOW)
        likeness = _likeness(window, samples[first : start + 5 * _WINDOW])
        here = likeness[start - first]
        if here < _UNLIKE and likeness.max() > _ALIKE:
            return True
    return False


def _likeness(window: Samples, around: Samples) -> Samples:
    """Correlate a window with each place of a longer stretch; -1 to 1 each."""
    size = len(window) + len(around)
    spectrum = np.fft.rfft(around, size) * np.conj(np.fft.rfft(window, size))
    product = np.fft.irfft(spectrum, size)[: len(around) - len(window) + 1]
    energy = np.cumsum(np.concatenate([[0], around.astype(np.float64) ** 2]))
    energies = energy[len(window) :] - energy[: -len(window)]
    norms = np.sqrt(np.maximum(energies, 1e-6) * np.sum(window**2))
    return np.asarray(product / norms, np.float32)


def mutant(whole: bytes, draws: random.Random) -> tuple[str, bytes]:
    """Damage a file in one place; return what was done, and the file."""
    place, size = draws.randrange(len(whole)), _size(len(whole), draws)
    end = min(len(whole), place + size)
    match draws.randrange(6):
        case 0 | 1:
            bit = draws.randrange(8)
            changed = bytes([whole[place] ^ 1 << bit])
            return (
                f"bit {bit} of byte {place} flipped",
                whole[:place] + changed + whole[place + 1 :],
            )
        case 2:
            zeros = bytes(end - place)
            return f"{place}:{end} zeroed", whole[:place] + zeros + whole[end:]
        case 3:
            return f"cut at {place}", whole[: max(1, place)]
        case 4:
            return f"{place}:{end} removed", whole[:place] + whole[end:] or b"\0"
        case _:
            return f"{place}:{end} repeated", whole[:end] + whole[place:]


def _size(whole: int, draws: random.Random) -> int:
    """Draw how long a stretch is: some bytes, a packet, or a tenth of the file."""
    return draws.randrange(1, draws.choice([16, 512, 4096, max(2, whole // 10)]))


def speech(kind: str) -> bytes:
    """Make a file of the bundled recording."""
    waveform = read_waveform(str(files("asr") / "assets" / "sample.opus"))
    samples = waveform.numpy()[:, None]
    if kind == "headerless mp3":
        return _without_header(encoded("mp3", samples))
    if kind in FORMATS:
        return encoded(kind, samples)
    rate = {"amr": 8_000, "webm": 48_000}.get(kind, SAMPLE_RATE)
    return contained(kind, _at(waveform, rate), rate)


def _without_header(mp3: bytes) -> bytes:
    """Leave out the frame with the Xing header."""
    return mp3[mp3.index(mp3[:2], 16) :]


def _at(waveform: torch.Tensor, rate: int) -> Samples:
    from asr.audio import resample

    return resample(waveform, SAMPLE_RATE, rate).numpy()[:, None]


@contextmanager
def remarks() -> Iterator[list[str]]:
    """Collect the remarks that reading makes."""
    made = list[str]()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            made.append(record.getMessage())

    logger, handler = logging.getLogger("asr.audio"), Collector()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield made
    finally:
        logger.propagate = True
        logger.removeHandler(handler)


def main() -> None:
    """Print a table: a row a format."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", default=KINDS)
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write what was believed there")
    args = parser.parse_args()
    names = [verdict.value for verdict in Verdict]
    print(f"{'format':16s} {'mutants':>8s}", *(f"{name:>9s}" for name in names))
    for kind in args.kinds:
        believed = list[str]()

        def note(
            what: str, contents: bytes, kind: str = kind, found: list[str] = believed
        ) -> None:
            found.append(what)
            if args.keep:
                name = f"{kind} {args.seed} {what}".replace(" ", "-")
                (args.keep / name).write_bytes(contents)

        with TemporaryDirectory() as folder:
            table = judge_mutants(kind, Path(folder), args.number, args.seed, note)
        row = (f"{table[verdict]:9d}" for verdict in Verdict)
        print(f"{kind:16s} {args.number:8d}", *row, flush=True)
        for what in believed:
            print(f"    silent: {what}", flush=True)


if __name__ == "__main__":
    main()
