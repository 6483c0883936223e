"""What a format is given: a transcript, and how it is to be written."""

from typing import NamedTuple

from asr.output.subtitles import SubtitleConfig
from asr.transcript import Segment, Transcript


class Document(NamedTuple):
    """A transcript that is about to be written in some format."""

    transcript: Transcript
    """All of it: what is silence or noise too."""
    segments: list[Segment]
    """Those with speech, each text in one line."""
    name: str
    """Of the recording, in formats that name it."""
    layout: SubtitleConfig
    """Of subtitles."""
