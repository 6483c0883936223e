"""txt: a line a segment."""

from asr.output.document import Document


def render(document: Document) -> str:
    """Write the texts of the segments."""
    return "".join(f"{segment.text}\n" for segment in document.segments)
