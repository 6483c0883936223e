"""Subtitles: words laid out as cues, each of as many as there is room and time for.

Sources: Netflix's Timed Text Style Guide (42 characters, two lines, 7 s); BBC Subtitle
Guidelines ("Gaps").
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple

from asr.output.speech import in_order, milliseconds
from asr.transcript import Segment, Word

_LONGEST_CUE = 7.0
"""Seconds: Netflix's Timed Text Style Guide, where 42 characters and two lines are the
most, too."""
_SHORTEST_CUE = 1.0
"""Seconds, if the next cue leaves them: Netflix asks for 5/6, others for 1."""
_PAUSE = 1.0
"""Seconds of silence; a longer one parts cues: gaps between subtitles that are shorter
than a second only disturb (BBC Subtitle Guidelines, "Gaps")."""
_SEGMENT_PAUSE = 0.25
"""The same where segments meet: what counts as a pause in speech since Goldman-Eisler
(1968). A segment that ends in a shorter one was only cut because it was long."""


@dataclass(frozen=True)
class SubtitleConfig:
    """Settings of the subtitles."""

    line_length: int = 42
    """Most characters of a line; a word that is longer has a line of its own."""
    lines: int = 2
    """Most lines of a subtitle."""
    words: int | None = None
    """Most words of a subtitle; None for as many as there is room for."""
    join: bool = True
    """Whether a subtitle may go on with the next segment, if that follows at once."""

    def __post_init__(self) -> None:
        """Refuse subtitles without room for a word."""
        for name in ("line_length", "lines", "words"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"subtitles.{name} must be at least 1, not {value}")


class Cue(NamedTuple):
    """What stands on the screen at one time."""

    start: float
    end: float
    lines: list[str]


def cues(segments: Sequence[Segment], layout: SubtitleConfig) -> list[Cue]:
    """Lay words out as cues, each with as many words as there is room and time for."""
    origins = list[Segment]()  # of the words
    words = list[Word]()
    for segment in segments:
        for word in segment.words:
            words.append(replace(word, end=min(word.end, word.start + _LONGEST_CUE)))
        if not segment.words:  # the whole text, as one word: it stays together
            words.append(Word(segment.text, segment.start, segment.end, 0.0))
        origins += [segment] * (len(words) - len(origins))
    groups, last = list[list[Word]](), None
    for word, segment in zip(in_order(words), origins, strict=True):
        pause = _PAUSE if segment is last else _SEGMENT_PAUSE
        joins = layout.join or segment is last
        timed = joins and last is not None and last.words and segment.words
        if not (timed and _has_room(groups[-1], word, pause, layout)):
            groups.append([])
        groups[-1].append(word)
        last = segment
    next_starts = [group[0].start for group in groups[1:]] + [inf]
    laid_out = list[Cue]()
    for group, next_start in zip(groups, next_starts, strict=False):
        start, end = group[0].start, group[-1].end
        end = min(max(end, start + _SHORTEST_CUE), next_start)
        laid_out.append(Cue(start, end, _balanced(group, layout)))
    return laid_out


def _has_room(
    cue: Sequence[Word], word: Word, pause: float, layout: SubtitleConfig
) -> bool:
    """Return whether a word may follow in a cue.

    Args:
        cue: the words that it has.
        word: the next one.
        pause: seconds of silence between them that are too many.
        layout: settings.
    """
    return (
        word.start - cue[-1].end <= pause
        and word.end - cue[0].start <= _LONGEST_CUE
        and (layout.words is None or len(cue) < layout.words)
        and len(_wrapped([*cue, word], layout.line_length)) <= layout.lines
    )


def _balanced(words: Sequence[Word], layout: SubtitleConfig) -> list[str]:
    """Break words into as few lines as possible, the longest as short as possible."""
    fewest = len(_wrapped(words, layout.line_length))
    widths = range(1, layout.line_length + 1)
    return next(
        lines for width in widths if len(lines := _wrapped(words, width)) <= fewest
    )


def _wrapped(words: Sequence[Word], width: int) -> list[str]:
    text = " ".join(word.text for word in words)
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def times(cue: Cue, point: str) -> str:
    """Write when a cue stands on the screen."""
    return f"{timestamp(cue.start, point)} --> {timestamp(cue.end, point)}"


def timestamp(seconds: float, point: str) -> str:
    """Write hours (at least two digits), minutes, seconds and milliseconds.

    >>> timestamp(3723.5, ",")
    '01:02:03,500'
    """
    whole, thousandths = divmod(milliseconds(seconds), 1000)
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{whole:02}{point}{thousandths:03}"
