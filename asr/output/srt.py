"""srt: SubRip subtitles, laid out anew from the words."""

from asr.output.document import Document
from asr.output.subtitles import cues, times


def render(document: Document) -> str:
    """Write the cues, with their numbers."""
    return "\n".join(
        f"{number}\n{times(cue, ',')}\n" + "".join(f"{line}\n" for line in cue.lines)
        for number, cue in enumerate(cues(document.segments, document.layout), 1)
    )
