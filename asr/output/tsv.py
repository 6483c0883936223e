"""tsv: start, end (whole milliseconds) and text, a line a segment, as Whisper's."""

from asr.output.document import Document
from asr.output.speech import in_order, milliseconds


def render(document: Document) -> str:
    """Write the segments under a header."""
    rows = (
        f"{milliseconds(s.start)}\t{milliseconds(s.end)}\t{s.text}\n"
        for s in in_order(document.segments)
    )
    return "start\tend\ttext\n" + "".join(rows)
