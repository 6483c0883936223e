"""Training data made of transcripts: of recordings that were aligned with their text,
or that a model wrote the text of (pseudo-labels).

Each utterance is a part of its recording, `start` and `duration`, with a little of the
pause around it. Its line in the manifest has its confidence, too.

Source: Lee (2013), ICML workshop on challenges in representation learning
(pseudo-labels); Kahn et al. (2020), arXiv:1909.09116 (of speech, chosen by confidence).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import NamedTuple

from asr.data.manifest import Utterance, write_manifest
from asr.errors import ConfigError, ManifestError
from asr.transcript import Flag, Segment, Transcript, mean_confidence
from asr.wording import counted

MARGIN = 0.25
"""Seconds of a pause that stay with the words before and behind it."""
LONGEST = 15.0
"""Seconds: a longer utterance is split at its pauses."""
UNUSABLE = (
    *(Flag.LOOP, Flag.NOISE, Flag.UNFINISHED, Flag.SILENCE),
    *(Flag.UNSAID, Flag.UNTOLD),
)
"""Flags of segments that nothing should be learned from."""
_TICK = 0.001  # seconds: no utterance lasts no time


class Label(NamedTuple):
    """An utterance, and how sure its text is."""

    utterance: Utterance
    confidence: float


class Labels:
    """The utterances of some transcripts, those left out counted.

    Args:
        min_confidence: segments with less are left out.

    Raises:
        ConfigError: it is not from 0 to 1.
    """

    def __init__(self, min_confidence: float) -> None:
        if not 0 <= min_confidence <= 1:
            raise ConfigError(
                f"--min-confidence {min_confidence:g}: is not from 0 to 1"
            )
        self.min_confidence = min_confidence
        self.kept = list[Label]()
        self.left_out = Counter[str]()

    def add(
        self,
        transcript: Transcript,
        name: Callable[[int, float], str],
        spelled: Callable[[str], str] = str,
    ) -> None:
        """Take the utterances of a transcript that are good enough.

        Args:
            transcript: of a file.
            name: makes the id of an utterance of its number, from 1, and its start.
            spelled: makes the text of an utterance of a segment's.

        Raises:
            ManifestError: an id cannot be in a manifest.
        """
        sounds = [part for segment in transcript.segments for part in _parts(segment)]
        number, before = 0, 0.0
        for place, part in enumerate(sounds):
            problem = self._problem(part)
            if problem is None:
                after = _first_sound(sounds[place + 1 :], transcript)
                start, end = _cut(part, before, after)
                number += 1
                self._take(part, transcript, name(number, start), (start, end), spelled)
            else:
                self.left_out[problem] += 1
            before = max(before, _sound(part)[1])

    def _problem(self, part: Segment) -> str | None:
        """Return what is wrong with a segment, whatever its confidence is."""
        for flag in part.flags:
            if flag in UNUSABLE:
                return str(flag)
        return None if part.words else "without words"

    def _take(
        self,
        part: Segment,
        transcript: Transcript,
        id: str,
        place: tuple[float, float],
        spelled: Callable[[str], str],
    ) -> None:
        text = spelled(part.text)
        if not text:
            self.left_out["without letters"] += 1
        elif part.confidence < self.min_confidence:
            self.left_out[f"below {self.min_confidence:g}"] += 1
        else:
            start, end = round(place[0], 3), round(place[1], 3)
            try:
                utterance = Utterance(
                    id, transcript.audio, round(end - start, 3), text, start=start
                )
            except ValueError as error:
                raise ManifestError(
                    f"{transcript.audio}: is left out of the manifest: its {error} "
                    "(rename the file)"
                ) from error
            self.kept.append(Label(utterance, part.confidence))

    def write(self, path: Path) -> None:
        """Write the manifest.

        Raises:
            ManifestError: it cannot be written, or nothing is left to write.
        """
        if not self.kept:
            raise ManifestError(f"{path}: is not written ({self})")
        further = {
            utterance.id: {"confidence": round(confidence, 3)}
            for utterance, confidence in self.kept
        }
        write_manifest(path, [utterance for utterance, _ in self.kept], further)

    def __str__(self) -> str:
        """Write how much it is, and what was left out."""
        hours = sum(utterance.duration for utterance, _ in self.kept) / 3600
        text = f"{counted(len(self.kept), 'utterance')}, {hours:.2f} h"
        if self.left_out:
            reasons = (f"{number} {name}" for name, number in self.left_out.items())
            text += f"; left out {self.left_out.total()}: {', '.join(reasons)}"
        return text


def _parts(segment: Segment) -> Iterator[Segment]:
    """Split a segment at its widest pauses, until no part is too long."""
    words = segment.words
    if len(words) < 2 or words[-1].end - words[0].start <= LONGEST:
        yield segment
        return
    pauses = [
        (after.start - before.end, min(place, len(words) - place), place)
        for place, (before, after) in enumerate(pairwise(words), 1)
    ]
    middle = max(pauses)[2]
    for some in (words[:middle], words[middle:]):
        text = " ".join(word.text for word in some)
        sure = mean_confidence(some)
        yield from _parts(replace(segment, words=some, text=text, confidence=sure))


def _sound(part: Segment) -> tuple[float, float]:
    """Return from when to when something is said: by the words, if there are any."""
    if part.words:
        return part.words[0].start, part.words[-1].end
    return (part.start, part.end) if Flag.UNTOLD in part.flags else (inf, 0.0)


def _first_sound(parts: Sequence[Segment], transcript: Transcript) -> float:
    """Return when something is said again, or the end of the recording."""
    for part in parts:
        if (start := _sound(part)[0]) < inf:
            return start
    ends = [segment.end for segment in transcript.segments]
    return max(transcript.duration, *ends)


def _cut(part: Segment, before: float, after: float) -> tuple[float, float]:
    """Return from where to where an utterance is cut, half of each pause at most."""
    first, last = _sound(part)
    start = first - min(MARGIN, max(0.0, first - before) / 2)
    end = last + min(MARGIN, max(0.0, after - last) / 2)
    return start, max(end, start + _TICK)
