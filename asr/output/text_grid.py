"""TextGrid: for Praat; the tiers "segments" and "words".

A segment without words has no interval among the words, because nobody knows when they
were said.

Source: https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html.
"""

from collections.abc import Iterator, Sequence

from asr.output.document import Document
from asr.output.speech import DIGITS, TICK, in_order
from asr.transcript import Segment, Word


def render(document: Document) -> str:
    """Write both tiers."""
    segments, duration = document.segments, document.transcript.duration
    tiers: dict[str, list[Segment] | list[Word]] = {
        "segments": list(in_order(segments)),
        "words": list(in_order(word for s in segments for word in s.words)),
    }
    ends = [part.end for parts in tiers.values() for part in parts]
    # On the clock of the recording: a clip of it may end later than it is long.
    ends += [round(segment.end, DIGITS) for segment in document.transcript.segments]
    end = max(TICK, round(duration, DIGITS), *ends)
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
