r"""A transcript in the formats that other programs read.

txt       a line a segment
json      everything: see `asr.transcript`
srt, vtt  subtitles, laid out anew from the words
tsv       start, end (both whole milliseconds) and text, a line a segment, as Whisper's
trn       `TEXT (name)`, one line, for NIST's sclite
ctm       `name channel start duration word confidence`, a line a word, for sclite too
TextGrid  for Praat: the tiers "segments" and "words"

Segments without text, or flagged as silence or noise, are in the JSON only. Times are
written in milliseconds or seconds with three decimals. What is said begins at zero or
later, lasts at least a millisecond and does not overlap, in whatever order the times of
a transcript that another program made may be. A segment without words has no line in
the ctm and no interval among the words, because nobody knows when they were said.

Sources: trn and ctm: https://github.com/usnistgov/SCTK, doc/infmts.htm;
TextGrid: https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html;
vtt: https://www.w3.org/TR/webvtt1/.
"""

import html
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path
from typing import NamedTuple, TypeVar

from asr.errors import CheckpointError
from asr.tensor_files import write_bytes
from asr.transcript import Flag, Segment, Transcript, Word

FORMATS: tuple[str, ...] = (
    "txt",
    "json",
    "srt",
    "vtt",
    "tsv",
    "trn",
    "ctm",
    "TextGrid",
)
"""What `render` knows; also the endings of the files that `write` makes."""

_NOT_SPEECH = {Flag.SILENCE, Flag.NOISE}
_DIGITS = 3  # of seconds: milliseconds
_TICK = 0.001  # seconds; neither vtt nor Praat has room for what lasts no time
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

_Timed = TypeVar("_Timed", Word, Segment)


@dataclass(frozen=True)
class SubtitleConfig:
    """Settings of the subtitles."""

    line_length: int = 42
    """Most characters of a line; a word that is longer has a line of its own."""
    lines: int = 2
    """Most lines of a subtitle."""
    words: int | None = None
    """Most words of a subtitle; None for as many as there is room for."""

    def __post_init__(self) -> None:
        """Refuse subtitles without room for a word."""
        for name in ("line_length", "lines", "words"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"subtitles.{name} must be at least 1, not {value}")


_STANDARD = SubtitleConfig()


def render(
    transcript: Transcript,
    format: str,
    layout: SubtitleConfig = _STANDARD,
    *,
    name: str | None = None,
) -> str:
    """Write a transcript in one of `FORMATS`.

    Args:
        transcript: what was said.
        format: one of `FORMATS`.
        layout: of subtitles.
        name: of the recording in trn and ctm; None for its file's, without the ending.

    Raises:
        ValueError: there is no such format, or a time or confidence is no number.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    _check(transcript)
    if name is None:
        name = Path(transcript.audio).stem or "recording"
    segments = _spoken(transcript)
    match format:
        case "json":
            tree = transcript.to_dict()
            text = json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False)
            return text + "\n"
        case "txt":
            return "".join(f"{segment.text}\n" for segment in segments)
        case "srt":
            return _srt(_cues(segments, layout))
        case "vtt":
            return _vtt(_cues(segments, layout))
        case "tsv":
            return _tsv(segments)
        case "trn":
            return trn_line(" ".join(segment.text for segment in segments), name)
        case "ctm":
            return _ctm(segments, name, channel=1 + (transcript.channel == "right"))
        case _:
            return _text_grid(segments, transcript.duration)


def write(
    transcript: Transcript,
    folder: Path,
    name: str,
    formats: Iterable[str],
    layout: SubtitleConfig = _STANDARD,
) -> list[Path]:
    """Write the files `name.format` into a folder, which is made if there is none.

    All are worked out before the first is written, and each is written whole or not at
    all, in UTF-8.

    Args:
        transcript: what was said.
        folder: where the files go; those of an earlier transcript are replaced.
        name: of the files, and of the recording in trn and ctm.
        formats: some of `FORMATS`.
        layout: of subtitles.

    Returns:
        The files, in the order of `formats`.

    Raises:
        CheckpointError: the disk is full, or the folder may not be written to.
        ValueError: there is no such format, or a time or confidence is no number.
    """
    contents = {
        folder / f"{name}.{format}": render(transcript, format, layout, name=name)
        for format in formats
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be made ({error.strerror})") from error
    for path, content in contents.items():
        # A file name that is no UTF-8 comes as lone surrogates: as \udcff, JSON has it.
        write_bytes(path, content.encode(errors="backslashreplace"))
    return list(contents)


def trn_line(text: str, id: str) -> str:
    r"""Write what sclite reads, a line an utterance.

    >>> trn_line("GO ON", "84-1-0")
    'GO ON (84-1-0)\n'
    """
    return f"{_one_line(text)} ({_nist_id(id)})\n"


def _check(transcript: Transcript) -> None:
    parts: list[Segment | Word] = [*transcript.segments, *transcript.words]
    numbers = [n for part in parts for n in (part.start, part.end, part.confidence)]
    for number in (transcript.duration, *numbers):
        if not isfinite(number):
            raise ValueError(f"times and confidence must be finite, got {number}")


def _spoken(transcript: Transcript) -> list[Segment]:
    """Give the segments with text; text and words have single spaces only."""
    return [
        replace(
            segment,
            text=_one_line(segment.text),
            words=tuple(
                replace(word, text=_one_line(word.text))
                for word in segment.words
                if word.text.strip()
            ),
        )
        for segment in transcript.segments
        if segment.text.strip() and not _NOT_SPEECH.intersection(segment.flags)
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _in_order(parts: Iterable[_Timed]) -> Iterator[_Timed]:
    """Round to milliseconds; let each part begin where the last one ends, or later."""
    clock = 0.0
    for part in parts:
        start = max(clock, round(part.start, _DIGITS))
        clock = max(round(start + _TICK, _DIGITS), round(part.end, _DIGITS))
        yield replace(part, start=start, end=clock)


# Subtitles


class _Cue(NamedTuple):
    """What stands on the screen at one time."""

    start: float
    end: float
    lines: list[str]


def _cues(segments: Sequence[Segment], layout: SubtitleConfig) -> list[_Cue]:
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
    for word, segment in zip(_in_order(words), origins, strict=True):
        pause = _PAUSE if segment is last else _SEGMENT_PAUSE
        timed = last is not None and last.words and segment.words
        if not (timed and _has_room(groups[-1], word, pause, layout)):
            groups.append([])
        groups[-1].append(word)
        last = segment
    next_starts = [group[0].start for group in groups[1:]] + [inf]
    cues = list[_Cue]()
    for group, next_start in zip(groups, next_starts, strict=False):
        start, end = group[0].start, group[-1].end
        end = min(max(end, start + _SHORTEST_CUE), next_start)
        cues.append(_Cue(start, end, _balanced(group, layout)))
    return cues


def _has_room(
    cue: Sequence[Word], word: Word, pause: float, layout: SubtitleConfig
) -> bool:
    """Tell whether a word may follow in a cue.

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


def _srt(cues: Sequence[_Cue]) -> str:
    return "\n".join(
        f"{number}\n{_times(cue, ',')}\n" + "".join(f"{line}\n" for line in cue.lines)
        for number, cue in enumerate(cues, 1)
    )


def _vtt(cues: Sequence[_Cue]) -> str:
    blocks = (
        f"\n{_times(cue, '.')}\n"
        + "".join(f"{html.escape(line, quote=False)}\n" for line in cue.lines)
        for cue in cues
    )
    return "WEBVTT\n" + "".join(blocks)


def _times(cue: _Cue, point: str) -> str:
    return f"{_timestamp(cue.start, point)} --> {_timestamp(cue.end, point)}"


def _timestamp(seconds: float, point: str) -> str:
    """Write hours (at least two digits), minutes, seconds and milliseconds.

    >>> _timestamp(3723.5, ",")
    '01:02:03,500'
    """
    whole, milliseconds = divmod(_milliseconds(seconds), 1000)
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{whole:02}{point}{milliseconds:03}"


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


# Tables, and Praat


def _tsv(segments: Sequence[Segment]) -> str:
    rows = (
        f"{_milliseconds(s.start)}\t{_milliseconds(s.end)}\t{s.text}\n"
        for s in _in_order(segments)
    )
    return "start\tend\ttext\n" + "".join(rows)


def _ctm(segments: Sequence[Segment], name: str, channel: int) -> str:
    words = _in_order(word for segment in segments for word in segment.words)
    return "".join(
        f"{_nist_id(name)} {channel} {word.start:.3f} {word.end - word.start:.3f}"
        f" {word.text.replace(' ', '_')} {word.confidence:.3f}\n"
        for word in words
    )


def _nist_id(name: str) -> str:
    """Make a name one column; parentheses belong to the trn line.

    >>> _nist_id("my talk (2)")
    'my_talk_2_'
    """
    return re.sub(r"[\s()]+", "_", name)


def _text_grid(segments: Sequence[Segment], duration: float) -> str:
    tiers: dict[str, list[Segment] | list[Word]] = {
        "segments": list(_in_order(segments)),
        "words": list(_in_order(word for s in segments for word in s.words)),
    }
    ends = [part.end for parts in tiers.values() for part in parts]
    end = max(_TICK, round(duration, _DIGITS), *ends)
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        *("xmin = 0", f"xmax = {end:.3f}"),
        *("tiers? <exists>", f"size = {len(tiers)}", "item []:"),
    ]
    for number, (tier, parts) in enumerate(tiers.items(), 1):
        intervals = list(_without_gaps(parts, end))
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{tier}"',
            *("        xmin = 0", f"        xmax = {end:.3f}"),
            f"        intervals: size = {len(intervals)}",
        ]
        for index, (start, stop, text) in enumerate(intervals, 1):
            quoted = text.replace('"', '""')
            lines += [
                f"        intervals [{index}]:",
                f"            xmin = {start:.3f}",
                f"            xmax = {stop:.3f}",
                f'            text = "{quoted}"',
            ]
    return "\n".join(lines) + "\n"


def _without_gaps(
    parts: Sequence[Segment] | Sequence[Word], end: float
) -> Iterator[tuple[float, float, str]]:
    """Put empty intervals where nothing is said, up to the end: a tier has no gaps."""
    clock = 0.0
    for part in parts:
        if clock < part.start:
            yield clock, part.start, ""
        yield part.start, part.end, part.text
        clock = part.end
    if clock < end:
        yield clock, end, ""
