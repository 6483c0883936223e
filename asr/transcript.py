"""What was said in a recording, when, and how sure that is.

A transcript is plain data: the Python API returns it, the command line prints it, and
each file format of `asr.output` holds as much of it as the format can. As JSON it is
whole, under a version of its own:

    {"version": 1, "audio": "talk.flac", "channel": "mix", "duration": 4.2, "text": ...,
     "model": "las_mini", "settings": {...},
     "segments": [{"start": 0.0, "end": 4.2, "text": ..., "confidence": 0.8,
                   "flags": [], "words": [{"text", "start", "end", "confidence"}, ...],
                   "nbest": [{"text", "score"}, ...], "alignment": null}]}

All times are seconds on the clock of the recording as it was given.

Shapes: I tokens with the end, J listener steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
"""Of the JSON form: raised when a program that reads the older one would err."""
_DIGITS = 3  # of seconds, confidence and weights in JSON: milliseconds and thousandths


class Flag(StrEnum):
    """What a reader should know about a segment before relying on it."""

    SILENCE = "silence"
    """Silence."""
    NOISE = "noise"
    """Sound, but no speech: no word was found, or only what the search made up."""
    LOOP = "loop"
    """The text repeats itself, with other settings too."""
    UNFINISHED = "unfinished"
    """The search reached its longest text: the end may be invented."""
    RETRIED = "retried"
    """The first text was no good; this one was found with other settings."""
    UNSAID = "unsaid"
    """A line of the given text that was not found in the recording (`align`)."""
    UNTOLD = "untold"
    """Speech that no line of the given text stands for (`align`)."""


@dataclass(frozen=True)
class Word:
    """One word of a transcript."""

    text: str
    start: float
    """Seconds."""
    end: float
    confidence: float
    """0 to 1: how likely the word is right; see `asr.inference.confidence`."""


@dataclass(frozen=True)
class Alternative:
    """One of the things that may have been said."""

    text: str
    score: float
    """log P per token: the nearer to 0, the surer."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where the model looked for each token of a segment."""

    tokens: tuple[str, ...]
    """What each row writes: a character; or a subword, with a space where a word
    begins. A last character stands for the end of the text, if it has one."""
    weights: "Tensor"
    """(I, J) alpha; an array of numpy where there is no torch."""
    seconds_per_step: float
    """Length of a listener step."""
    start: float = 0.0
    """Seconds: column j begins at start + j * seconds_per_step."""
    block_size: int = 0
    """G: steps of the blocks of a hierarchical attention, the first of which begins at
    column 0; 0 without blocks. See `asr.reports.attention_blocks` for its two looks."""

    @property
    def characters(self) -> str | None:
        """The tokens in one string, one a row; None where one is longer."""
        if any(len(token) != 1 for token in self.tokens):
            return None
        return "".join(self.tokens)

    def __eq__(self, other: object) -> bool:
        """Return whether both looked at the same, to the bit."""
        if not isinstance(other, Alignment):
            return NotImplemented
        return (
            self._about == other._about
            and self.weights.shape == other.weights.shape
            and bool((self.weights == other.weights).all())
        )

    def __hash__(self) -> int:
        """Follow `__eq__`, without the weights."""
        return hash(self._about)

    @property
    def _about(self) -> tuple[object, ...]:
        return self.tokens, self.seconds_per_step, self.start, self.block_size


@dataclass(frozen=True)
class Segment:
    """What was said in one piece of a recording."""

    start: float
    """Seconds."""
    end: float
    text: str
    words: tuple[Word, ...]
    """Those of `text`, in order; their times do not overlap."""
    confidence: float
    """Mean of the words' confidence; 0 where there are none."""
    flags: tuple[Flag, ...]
    nbest: tuple[Alternative, ...]
    """What the search found for the piece, best first, before pieces were joined."""
    alignment: Alignment | None
    """None unless it was asked for, and where there is no text."""


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording."""

    segments: tuple[Segment, ...]
    duration: float
    """Seconds that were listened to: of the recording, or of the clip of it."""
    audio: str = ""
    """Path of the recording; empty where samples were given."""
    channel: str = "mix"
    """Which channel was listened to: mix, left, right, or a number from 1 on."""
    model: str = ""
    """Name of the model."""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Those of the search, and the precision of the weights."""

    @property
    def text(self) -> str:
        """The words of all segments."""
        return " ".join(" ".join(segment.text for segment in self.segments).split())

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all segments."""
        return tuple(word for segment in self.segments for word in segment.words)

    def to_dict(self) -> dict[str, Any]:
        """Return the transcript as JSON can hold it; times in whole milliseconds."""
        return {
            "version": VERSION,
            "audio": self.audio,
            "channel": self.channel,
            "duration": round(self.duration, _DIGITS),
            "text": self.text,
            "model": self.model,
            "settings": dict(self.settings),
            "segments": [_segment_to_dict(segment) for segment in self.segments],
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Transcript":
        """Rebuild a transcript from what `to_dict` made of it.

        Raises:
            ValueError: it is no such tree, or of another version.
        """
        try:
            if tree["version"] != VERSION:
                raise ValueError(
                    f"is a transcript of version {tree['version']}, not {VERSION}"
                )
            return cls(
                tuple(map(_segment_from_dict, tree["segments"])),
                float(tree["duration"]),
                *(tree[name] for name in ("audio", "channel", "model", "settings")),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"is not a transcript ({error!r})") from error


def mean_confidence(words: Sequence[Word]) -> float:
    """Return the confidence of a segment: the mean of its words', 0 without any."""
    return sum(word.confidence for word in words) / max(1, len(words))


def silence(duration: float) -> Segment:
    """Return the segment of so many seconds of silence."""
    return Segment(0.0, duration, "", (), 0.0, (Flag.SILENCE,), (), None)


def moved(segment: Segment, seconds: float) -> Segment:
    """Return a segment that begins later by so many seconds."""
    alignment = segment.alignment
    return replace(
        segment,
        start=segment.start + seconds,
        end=segment.end + seconds,
        words=tuple(
            replace(word, start=word.start + seconds, end=word.end + seconds)
            for word in segment.words
        ),
        alignment=alignment and replace(alignment, start=alignment.start + seconds),
    )


def _segment_to_dict(segment: Segment) -> dict[str, Any]:
    alignment = segment.alignment
    return {
        "start": round(segment.start, _DIGITS),
        "end": round(segment.end, _DIGITS),
        "text": segment.text,
        "confidence": round(segment.confidence, _DIGITS),
        "flags": [str(flag) for flag in segment.flags],
        "words": [
            {
                name: round(value, _DIGITS) if isinstance(value, float) else value
                for name, value in asdict(word).items()
            }
            for word in segment.words
        ],
        "nbest": [asdict(alternative) for alternative in segment.nbest],
        "alignment": alignment and _alignment_to_dict(alignment),
    }


def _alignment_to_dict(alignment: Alignment) -> dict[str, Any]:
    blocks = {"block_size": alignment.block_size} if alignment.block_size else {}
    return {
        "tokens": list(alignment.tokens),
        "characters": alignment.characters,
        "start": round(alignment.start, _DIGITS),
        "seconds_per_step": alignment.seconds_per_step,
        **blocks,
        "weights": [
            [round(weight, _DIGITS) for weight in row]
            for row in alignment.weights.tolist()
        ],
    }


def _segment_from_dict(tree: Mapping[str, Any]) -> Segment:
    alignment = tree["alignment"]
    return Segment(
        start=float(tree["start"]),
        end=float(tree["end"]),
        text=tree["text"],
        words=tuple(Word(**word) for word in tree["words"]),
        confidence=float(tree["confidence"]),
        flags=tuple(map(Flag, tree["flags"])),
        nbest=tuple(Alternative(**alternative) for alternative in tree["nbest"]),
        alignment=alignment and _alignment_from_dict(alignment),
    )


def _alignment_from_dict(tree: Mapping[str, Any]) -> Alignment:
    tokens = tree["tokens"] if "tokens" in tree else tree["characters"]  # of 0.1
    return Alignment(
        tuple(tokens),
        _weights(tree["weights"]),
        tree["seconds_per_step"],
        tree["start"],
        tree.get("block_size", 0),
    )


def _weights(rows: Any) -> Any:
    try:
        import torch
    except ImportError:
        import numpy as np

        return np.array(rows, dtype=np.float32)
    return torch.tensor(rows)
