"""vtt: WebVTT subtitles, laid out anew from the words.

Source: https://www.w3.org/TR/webvtt1/.
"""

import html

from asr.output.document import Document
from asr.output.subtitles import cues, times


def render(document: Document) -> str:
    """Write the cues."""
    blocks = (
        f"\n{times(cue, '.')}\n"
        + "".join(f"{html.escape(line, quote=False)}\n" for line in cue.lines)
        for cue in cues(document.segments, document.layout)
    )
    return "WEBVTT\n" + "".join(blocks)
