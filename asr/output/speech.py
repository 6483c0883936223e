"""What of a transcript is written: its speech, in order, on a clock of milliseconds."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from asr.transcript import Flag, Segment, Transcript, Word

DIGITS = 3
"""Of seconds: milliseconds."""
TICK = 0.001
"""Seconds; neither vtt nor Praat has room for what lasts no time."""
_NOT_SPEECH = {Flag.SILENCE, Flag.NOISE, Flag.UNSAID, Flag.UNTOLD}

_Timed = TypeVar("_Timed", Word, Segment)


def spoken(transcript: Transcript) -> list[Segment]:
    """Return the segments with text; text and words have single spaces only."""
    return [
        replace(
            segment,
            text=one_line(segment.text),
            words=tuple(
                replace(word, text=one_line(word.text))
                for word in segment.words
                if word.text.strip()
            ),
        )
        for segment in transcript.segments
        if segment.text.strip() and not _NOT_SPEECH.intersection(segment.flags)
    ]


def one_line(text: str) -> str:
    """Leave single spaces only."""
    return " ".join(text.split())


def in_order(parts: Iterable[_Timed]) -> Iterator[_Timed]:
    """Round to milliseconds; let each part begin where the last one ends, or later."""
    clock = 0.0
    for part in parts:
        start = max(clock, round(part.start, DIGITS))
        clock = max(round(start + TICK, DIGITS), round(part.end, DIGITS))
        yield replace(part, start=start, end=clock)


def milliseconds(seconds: float) -> int:
    """Round seconds to whole milliseconds."""
    return round(seconds * 1000)
