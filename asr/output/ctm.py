"""ctm: `name channel start duration word confidence`, a line a word, for NIST's sclite.

A segment without words has no line, because nobody knows when they were said.

Source: https://github.com/usnistgov/SCTK, doc/infmts.htm.
"""

from asr.output.document import Document
from asr.output.speech import in_order
from asr.output.trn import nist_id


def render(document: Document) -> str:
    """Write the words of all segments."""
    name, channel = document.name, document.transcript.channel
    if not channel.isdecimal():
        channel = "2" if channel == "right" else "1"
    words = in_order(word for segment in document.segments for word in segment.words)
    return "".join(
        f"{nist_id(name)} {channel} {word.start:.3f} {word.end - word.start:.3f}"
        f" {word.text.replace(' ', '_')} {word.confidence:.3f}\n"
        for word in words
    )
