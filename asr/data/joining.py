"""Neighbouring utterances joined into longer recordings.

A model that has only ever learned from single sentences loses its place in a minute of
speech: there are words that look alike, and it never had to tell them apart. Joined
recordings, from single utterances up to a given length, teach it; those of two, four or
eight utterances show how far it gets.

Neighbours are utterances whose ids differ only behind the last hyphen (in LibriSpeech:
those of a chapter), in their order in the manifest; where ids have no hyphen, they are
the utterances of a speaker.

Source: Chorowski et al. (2015), "Attention-Based Models for Speech Recognition",
arXiv:1506.07503, section 4 (recognition of long utterances, made by concatenation).
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE, encode
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.recordings import read_utterance
from asr.errors import ConfigError
from asr.files import whole_folder
from asr.progress import progress_bar
from asr.wording import counted

MANIFEST = "manifest.jsonl"
"""In the folder of joined recordings."""
_SEED = "join"


class Joined(NamedTuple):
    """What was written."""

    manifest: Path
    num_utterances: int
    """That were joined."""
    num_recordings: int
    """That they are now."""
    seconds: float

    def __str__(self) -> str:
        """Write it in one line."""
        return (
            f"{self.manifest}: {counted(self.num_utterances, 'utterance')} in "
            f"{counted(self.num_recordings, 'recording')}, {self.seconds / 3600:.2f} h"
        )


def join(
    manifest: str | Path,
    folder: str | Path,
    *,
    seconds: float | None = None,
    utterances: int | None = None,
) -> Joined:
    """Join neighbouring utterances of a manifest, each of them once.

    Args:
        manifest: of the corpus.
        folder: for the recordings and their manifest; is made, and must not hold
            anything.
        seconds: joined to at most so long, each to a length drawn anew between a
            single utterance and that: what a model learns from.
        utterances: so many in each: what it is tried on. What is left over at the end
            of a chapter is left out.

    Raises:
        ConfigError: not one of the two was given, or it is impossible.
        ManifestError: the manifest cannot be read, or the folder not be written to.
        AudioError: a recording cannot be read.
    """
    if (seconds is None) == (utterances is None):
        raise ConfigError("give either --seconds or --utterances")
    groups = neighbours(read_manifest(manifest))
    if seconds is not None:
        if not seconds > 0:
            raise ConfigError(f"--seconds must be above 0, not {seconds:g}")
        parts = list(_up_to(groups, seconds))
    else:
        assert utterances is not None
        if utterances < 1:
            raise ConfigError(f"--utterances must be at least 1, not {utterances}")
        parts = list(by_number(groups, utterances))
        if not parts:
            raise ConfigError(
                f"--utterances {utterances}: {manifest} has no so many neighbours"
            )
    with whole_folder(Path(folder)) as partial:
        written = _write(parts, partial)
    return Joined(
        Path(folder) / MANIFEST,
        sum(map(len, parts)),
        len(written),
        sum(one.duration for one in written),
    )


def neighbours(utterances: Iterable[Utterance]) -> list[list[Utterance]]:
    """Group utterances that follow each other, in their order.

    >>> names = ("84-1-0001", "84-1-0000", "84-2-0000", "clip")
    >>> found = neighbours(Utterance(name, "a.flac", 1.0, "") for name in names)
    >>> [[one.id for one in group] for group in found]
    [['84-1-0001', '84-1-0000'], ['84-2-0000'], ['clip']]
    """
    groups = dict[tuple[str, str], list[Utterance]]()
    for utterance in utterances:
        chapter, hyphen, _ = utterance.id.rpartition("-")
        alone = utterance.id if not hyphen and not utterance.speaker else ""
        groups.setdefault((utterance.speaker, chapter or alone), []).append(utterance)
    return list(groups.values())


def joined_waveform(utterances: Sequence[Utterance]) -> Tensor:
    """Read utterances one behind the other: (N,) at 16 kHz.

    Raises:
        AudioError: a recording cannot be read.
    """
    return torch.cat([read_utterance(utterance) for utterance in utterances])


def joined_text(utterances: Iterable[Utterance]) -> str:
    """Return what is said in utterances one behind the other."""
    return " ".join(one.text for one in utterances if one.text)


def _up_to(
    groups: Iterable[Sequence[Utterance]], most: float
) -> Iterator[list[Utterance]]:
    """Cut each group where a length that is drawn each time would be passed."""
    rng = random.Random(_SEED)
    for group in groups:
        part, length, wanted = list[Utterance](), 0.0, rng.uniform(0, most)
        for utterance in group:
            if part and length + utterance.duration > wanted:
                yield part
                part, length, wanted = [], 0.0, rng.uniform(0, most)
            part.append(utterance)
            length += utterance.duration
        yield part


def by_number(
    groups: Iterable[Sequence[Utterance]], number: int
) -> Iterator[list[Utterance]]:
    """Cut groups into parts of so many utterances; what is left over is left out."""
    for group in groups:
        for start in range(0, len(group) - number + 1, number):
            yield list(group[start : start + number])


def _write(parts: Sequence[Sequence[Utterance]], folder: Path) -> list[Utterance]:
    """Write recordings and their manifest."""
    written = list[Utterance]()
    with progress_bar(len(parts), "join", "recordings") as bar:
        for part in parts:
            waveform = joined_waveform(part)
            first, last = part[0].id, part[-1].id
            id = f"{first}..{last.rpartition('-')[2]}" if len(part) > 1 else first
            path = folder / f"{len(written):06d}.flac"
            path.write_bytes(encode(waveform, "flac"))
            text, seconds = joined_text(part), len(waveform) / SAMPLE_RATE
            written.append(Utterance(id, str(path), seconds, text, part[0].speaker))
            bar.update()
    write_manifest(folder / MANIFEST, written)
    return written
