"""What a corpus says of its recordings, before one of them is opened."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from asr.audio import AUDIO_SUFFIXES


class Kind(StrEnum):
    """What can be wrong with an utterance. All but the dense ones are left out."""

    MALFORMED = "malformed line"
    NO_AUDIO = "text without audio"
    NO_TEXT = "audio without text"
    NO_TEXT_FILE = "unreadable text"
    EMPTY = "empty text"
    UNREADABLE = "unreadable audio"
    CHANNEL = "one channel of several"
    BEYOND = "ends after its recording"
    LONG = "too long"
    ALPHABET = "text outside the alphabet"
    DUPLICATE = "duplicate"
    DENSE = "too dense for CTC, kept"


class Problem(NamedTuple):
    """Something wrong with one utterance."""

    kind: Kind
    what: str
    """`place: what is wrong`, for the user to read."""


class Entry(NamedTuple):
    """What was said in a recording, or in a part of one."""

    id: str
    audio: str
    """Path of the recording."""
    text: str
    """As it stands in the corpus."""
    speaker: str = ""
    start: float | None = None
    """Second where a part begins; None where it is the whole recording."""
    duration: float | None = None
    """Seconds of a part; None to the end of the recording."""


class Subset(NamedTuple):
    """A part of a corpus that has a name of its own."""

    name: str
    """Of its manifest."""
    entries: list[Entry]
    problems: list[Problem]
    folder: Path
    """Where it was found, for messages."""
    notices: tuple[str, ...] = ()
    """What was guessed of it, a line each."""


ALL = "all"
"""Name of the one subset of a corpus that has none."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are what; None to find out."""

    audio: str | None = None
    text: str | None = None
    speaker: str | None = None


def id_of(path: Path, root: Path) -> str:
    """Make an id of a recording's path: unique below a root, without spaces.

    Only the ending of a known kind of audio is left out: a name may have dots.

    >>> id_of(Path("/corpus/ann/take 1.wav"), Path("/corpus"))
    'ann-take_1'
    >>> id_of(Path("/corpus/take.1"), Path("/corpus"))
    'take.1'
    """
    if path.is_relative_to(root):
        path = path.relative_to(root)
    if path.suffix.lower() in AUDIO_SUFFIXES:
        path = path.with_suffix("")
    parts = [part for part in path.parts if part != path.anchor]
    return "-".join("_".join(part.split()) for part in parts)


def part_id(id: str, start: float) -> str:
    """Make an id of a part of a recording, in milliseconds.

    >>> part_id("talk", 12.5)
    'talk-00012500'
    """
    return f"{id}-{round(1000 * start):08d}"
