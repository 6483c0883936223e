"""How long may speech be that is transcribed in one piece?

An attention reads a recording from its first step to its last for each character. Of
minutes of speech it must not lose its place, and its work grows with the square of the
length. `by_length` joins the same utterances by one, two, four and more, transcribes
each recording in one piece and, beside it, as `transcribe` does, cut in pauses, and
compares word error rate, time and memory.
"""

import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.data.joining import by_number, joined_waveform, neighbours
from asr.data.manifest import Utterance
from asr.errors import ConfigError
from asr.inference.recognizer import Recognizer
from asr.scoring import ErrorRate, word_error_rate

COUNTS = (1, 2, 4, 8, 16)
"""Utterances that are joined; 16 of LibriSpeech's make about two minutes."""
_RESET = "5"  # what makes Linux forget a process's highest memory so far


class Measured(NamedTuple):
    """What a way to transcribe some recordings gives, and takes."""

    errors: ErrorRate
    seconds: float
    """CPU seconds a second of audio."""
    memory: float
    """Highest memory of the process, MiB, without what it had before."""


class Length(NamedTuple):
    """Recordings of so many utterances each."""

    num_utterances: int
    """In each."""
    num_recordings: int
    seconds: float
    """Mean length of a recording."""
    whole: Measured
    cut: Measured


def by_length(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    seconds: float,
    counts: Sequence[int] = COUNTS,
) -> list[Length]:
    """Transcribe the same utterances joined by one, two, four and more.

    Args:
        recognizer: to try.
        utterances: of a manifest; see `asr.data.joining` for which are neighbours.
        seconds: of audio to use, about.
        counts: how many are joined; each divides the greatest.

    Raises:
        ConfigError: nowhere are so many neighbours.
        AudioError: a recording cannot be read.
    """
    groups = _chosen(utterances, seconds, max(counts))
    recognizer.recognize([joined_waveform(groups[0][:1])])  # the first takes longer
    return [_measured(recognizer, groups, count) for count in counts]


def _chosen(
    utterances: Sequence[Utterance], seconds: float, count: int
) -> list[list[Utterance]]:
    """Choose groups of so many neighbours, one of a chapter after the other."""
    groups = list(by_number(neighbours(utterances), count))
    if not groups:
        raise ConfigError(
            f"the manifest has nowhere {count} neighbours (utterances whose ids differ "
            "only behind the last hyphen)"
        )
    chosen, total = list[list[Utterance]](), 0.0
    for group in groups:
        if total >= seconds:
            break
        chosen.append(group)
        total += sum(utterance.duration for utterance in group)
    return chosen


def _measured(
    recognizer: Recognizer, groups: Sequence[Sequence[Utterance]], count: int
) -> Length:
    parts = list(by_number(groups, count))
    said = [" ".join(one.text for one in part) for part in parts]
    waveforms = [joined_waveform(part) for part in parts]
    total = sum(map(len, waveforms)) / SAMPLE_RATE

    def measured(transcribe: Callable[[Tensor], str]) -> Measured:
        before, started = _reset_peak(), time.process_time()
        texts = [transcribe(waveform) for waveform in waveforms]
        seconds = (time.process_time() - started) / total
        return Measured(word_error_rate(said, texts), seconds, _peak() - before)

    return Length(
        count,
        len(parts),
        total / len(parts),
        measured(lambda waveform: recognizer.search([waveform])[0].texts[0]),
        measured(lambda w: recognizer.transcribe(w, sample_rate=SAMPLE_RATE).text),
    )


def table(lengths: Sequence[Length]) -> str:
    """Write what was measured as a table in Markdown."""
    head = (
        "| utterances | s | recordings | one piece: WER | CPU s / s | MiB "
        "| cut: WER | CPU s / s | MiB |"
    )
    rows = [
        f"| {one.num_utterances} | {one.seconds:.1f} | {one.num_recordings} | "
        + " | ".join(
            f"{100 * way.errors.rate:.1f} % | {way.seconds:.3f} | {way.memory:.0f}"
            for way in (one.whole, one.cut)
        )
        + " |"
        for one in lengths
    ]
    return "\n".join([head, "|" + "---|" * 9, *rows])


def _reset_peak() -> float:
    """Forget the highest memory so far, where the system can; return what is used."""
    try:
        Path("/proc/self/clear_refs").write_text(_RESET)
    except OSError:  # the peak of all is then that of the largest
        return 0.0
    return _peak()


def _peak() -> float:
    """Return the highest memory of this process since it was reset, in MiB."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
