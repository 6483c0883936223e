"""How well is a long recording transcribed, and its words found in time?

`join_utterances` makes one of the utterances of a manifest with pauses between them, so
that its words and where utterances begin and end are known. `report` transcribes it
twice, as a whole and utterance by utterance, and compares: both word error rates, the
real-time factor, the peak memory, and how far the first and the last word of an
utterance are from where its sound begins and ends, by the CTC head's times and by
attention's.

Shapes: N samples.
"""

import math
import random
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.data.joining import neighbours
from asr.data.manifest import Utterance
from asr.data.recordings import read_utterance
from asr.decoding.word_times import word_places
from asr.inference.long_audio import BATCH
from asr.inference.recognizer import Recognizer
from asr.scoring import word_error_rate
from asr.transcript import Segment, Transcript
from asr.wording import counted

SOUND = 30.0
"""dB below an utterance's loudest 10 ms, from which on it is sound."""
_HOP = SAMPLE_RATE // 100


class Joined(NamedTuple):
    """A recording made of utterances."""

    waveform: Tensor
    utterances: list[Utterance]
    waveforms: list[Tensor]
    begins: list[float]
    """Seconds where each utterance begins."""


def join_utterances(utterances: Sequence[Utterance], seconds: float) -> Joined:
    """Join utterances with pauses of 0.2 to 1.5 s.

    Neighbours (see `asr.data.joining`) stay together and in their order.

    Args:
        utterances: as many as are needed are taken.
        seconds: length of the recording.

    Raises:
        AudioError: a recording cannot be read.
    """
    rng = random.Random(1)
    chapters = neighbours(utterances)
    rng.shuffle(chapters)
    order = [utterance for chapter in chapters for utterance in chapter]
    parts, taken, waveforms, begins = list[Tensor](), list[Utterance](), [], []
    length = 0
    for utterance in order:
        waveform = read_utterance(utterance)
        begins.append(length / SAMPLE_RATE)
        pause = torch.zeros(round(rng.uniform(0.2, 1.5) * SAMPLE_RATE))
        parts += [waveform, pause]
        taken.append(utterance)
        waveforms.append(waveform)
        length += len(waveform) + len(pause)
        if length >= seconds * SAMPLE_RATE:
            break
    return Joined(torch.cat(parts), taken, waveforms, begins)


def _sound(waveform: Tensor) -> tuple[float, float]:
    """Find from which second to which there is sound in (N,) samples."""
    power = waveform[: len(waveform) // _HOP * _HOP].view(-1, _HOP).square().mean(dim=1)
    loud = (power >= power.max() * 10 ** (-SOUND / 10)).nonzero()[:, 0]
    return int(loud[0]) / 100, (int(loud[-1]) + 1) / 100


def report(joined: Joined, path: Path, recognizer: Recognizer) -> str:
    """Transcribe a recording in both ways, and compare.

    Args:
        joined: what it is made of.
        path: the recording itself.
        recognizer: to try.
    """
    before = _peak()
    started, used = time.perf_counter(), time.process_time()
    whole = recognizer.transcribe(path)
    wall, used = time.perf_counter() - started, time.process_time() - used
    peak = _peak()
    alone = _recognize(joined.waveforms, recognizer)
    said = [utterance.text for utterance in joined.utterances]
    by_utterance = word_error_rate(said, [one.text for one in alone])
    together = word_error_rate([" ".join(said)], [whole.text])
    ratio = _ratio(together.rate, by_utterance.rate)
    flags = [flag for segment in whole.segments for flag in segment.flags]
    return "\n".join(
        [
            f"{whole.duration / 60:.1f} min, {counted(len(said), 'utterance')}, "
            f"{len(whole.segments)} pieces, flags {sorted(map(str, set(flags)))}",
            f"by utterance   %WER {by_utterance}",
            f"as a whole     %WER {together} ({ratio:.3f})",
            f"real-time factor {wall / whole.duration:.4f} "
            f"({used / whole.duration:.4f} CPU seconds a second)",
            f"peak memory    {peak:.0f} MiB ({before:.0f} MiB before)",
            "",
            "first word's start and last word's end, from where sound begins and ends:",
            _errors("CTC", [_ctc_times(one) for one in alone], joined),
            _errors("attention", [_attention_times(one) for one in alone], joined),
            _errors("CTC, in the whole", _times_in_whole(whole, joined), joined),
        ]
    )


def _ratio(rate: float, other: float) -> float:
    """Return how many times another rate it is; one where both are zero."""
    return 1.0 if rate == other else rate / other if other else math.inf


def _recognize(waveforms: Sequence[Tensor], recognizer: Recognizer) -> list[Segment]:
    """Recognise waveforms by themselves, those of like length together."""
    order = sorted(range(len(waveforms)), key=lambda i: -len(waveforms[i]))
    found = dict[int, Segment]()
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        segments = recognizer.recognize(
            [waveforms[i] for i in some], return_alignment=True
        )
        found |= dict(zip(some, segments, strict=True))
    return [found[i] for i in range(len(waveforms))]


def _peak() -> float:
    """Return the most memory that this process had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


Times = tuple[float, float] | None
"""Start of the first word and end of the last."""


def _ctc_times(segment: Segment) -> Times:
    return (segment.words[0].start, segment.words[-1].end) if segment.words else None


def _attention_times(segment: Segment) -> Times:
    """Take the steps where attention looked for the first and last character."""
    alignment = segment.alignment
    if alignment is None or not segment.words:
        return None
    places = word_places(segment.text)
    steps = alignment.weights.argmax(dim=1)
    first, last = steps[places[0].start], steps[places[-1].stop - 1]
    seconds = alignment.seconds_per_step
    return float(first) * seconds, float(last + 1) * seconds


def _times_in_whole(whole: Transcript, joined: Joined) -> list[Times]:
    """Find for each utterance the words of the whole that lie in it."""
    found = list[Times]()
    for begin, waveform in zip(joined.begins, joined.waveforms, strict=True):
        end = begin + len(waveform) / SAMPLE_RATE
        words = [w for w in whole.words if begin < (w.start + w.end) / 2 < end]
        times = (words[0].start - begin, words[-1].end - begin) if words else None
        found.append(times)
    return found


def _errors(name: str, found: Sequence[Times], joined: Joined) -> str:
    """Describe how far times are from the truth: their median and spread."""
    starts, ends = list[float](), list[float]()
    for times, waveform in zip(found, joined.waveforms, strict=True):
        if times is not None:
            start, end = _sound(waveform)
            starts.append(times[0] - start)
            ends.append(times[1] - end)
    return f"{name:18} start {_spread(starts)}   end {_spread(ends)}"


def _spread(errors: Sequence[float]) -> str:
    if not errors:
        return "(no words)"
    values = torch.tensor(errors)
    middle = values.median()
    within = float((values - middle).abs().quantile(0.8))
    return f"{float(middle):+.3f} s, 80 % within {within:.3f} s of that"
