"""When was each line of a known text said in a recording of any length?

The listener runs over pieces of the recording (`segmentation`) and the log P of its
CTC head is kept for the letters of the text, in 16 bits: an hour of an English text
takes 6 MB. The path through all of them (`decoding.long_alignment`) gives every word
its time.

A line that is not said is flagged as unsaid, and what is said where no line is becomes
a segment without text that is flagged as untold: nothing is lost silently.

The confidence of a word and of a line is the geometric mean of P of its letters by the
CTC head, each at its best step, exp(FLOOR) at least. A line that was said has 0.1 or
more, and mostly 0.3 to 0.7; one that was not has less than 0.05 (`docs/aligning.md`).

Shapes: N samples, B pieces, J' steps of the CTC head, V vocabulary size, C columns: the
different letters of the text.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from math import inf, log10
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from asr.audio import SAMPLE_RATE
from asr.decoding.long_alignment import (
    FLOOR,
    Evidence,
    Floats,
    Ints,
    TextPath,
    align_words,
)
from asr.decoding.word_times import EARLY
from asr.errors import ConfigError
from asr.features import FRAMES_PER_SECOND, log_mel
from asr.inference.long_audio import BATCH, Progress, Recording
from asr.inference.script import Line
from asr.inference.segmentation import Piece, pieces
from asr.inference.silence import may_be_speech
from asr.model.las import LAS
from asr.padding import pad_rows
from asr.text import Tokenizer
from asr.transcript import Flag, Segment, Transcript, Word, moved

LEAST_CONFIDENCE = 0.1
"""Of a line that counts as said."""
SURE = 0.2
"""Confidence that no line of a text has that belongs to another recording."""
UNTOLD_SECONDS = 1.0
"""Speech without text that is shorter is not reported."""
_NEAR = 0.3
"""Seconds around a word in which letters belong to it."""
_LEAST_LETTERS = 4
"""That the head writes into a stretch which counts as speech."""
_REACH, _PAUSE = 60, 5
"""Frames of 10 ms: how far an edge of a line is moved at most, and how long it is
quiet there."""
_SOUND, _NOISE, _DEPTH = 30.0, 6.0, 15.0
"""dB: sound is not more than so much below the speech of the line; and more than so
much above the quietest frames; which are so much below the speech, or no pause."""
_SILENT_POWER = 1e-10
_CAPACITY = 15_000
"""Steps that there is room for at first; it is doubled as that is needed."""
_LEAST_WORD_CONFIDENCE = 0.01
"""A word with less has the time between its neighbours."""
_LETTER_SECONDS = 0.08
"""A word that the path left out lasts so long a letter, where there is room."""


class _Record(NamedTuple):
    """What the CTC head wrote into a part of a recording."""

    log_probs: Floats
    """(J', C + 2) as `Evidence` has it."""
    best: Floats
    written: Ints
    levels: Floats
    """(J', frames a step) how loud each frame is, in dB."""

    def followed_by(self, other: "_Record") -> "_Record":
        """Return both, one behind the other."""
        return _Record(
            np.concatenate((self.log_probs, other.log_probs)),
            np.concatenate((self.best, other.best)),
            np.concatenate((self.written, other.written)),
            np.concatenate((self.levels, other.levels)),
        )

    def until(self, step: int) -> "_Record":
        """Return the steps before one."""
        return _Record(
            self.log_probs[:step],
            self.best[:step],
            self.written[:step],
            self.levels[:step],
        )


class _Columns(NamedTuple):
    """Which tokens are looked for."""

    letters: list[int]
    blank: int
    spaces: list[int]


def align_recording(
    las: LAS,
    tokenizer: Tokenizer,
    recording: Recording,
    lines: Sequence[Line],
    progress: Progress | None = None,
) -> Transcript:
    """Find when the lines of a text were said.

    Args:
        las: the network.
        tokenizer: of its tokens.
        recording: in which they were said.
        lines: of the text.
        progress: is called now and then with the seconds that were done since.

    Returns:
        A segment for each line, and for each stretch of speech without text.

    Raises:
        ConfigError: the text has no letter of the model's alphabet, or is of another
            recording.
        AudioError: the recording cannot be read.
    """
    words = [tokens for line in lines for tokens in line.tokens if tokens]
    if not words:
        raise ConfigError(
            "the text has no letter that the model can write (is it the right model?)"
        )
    columns = _columns(tokenizer, words)
    evidence, levels, duration = _listen(las, columns, recording, progress)
    path = align_words(evidence, words)
    seconds = las.listener.ctc_reduction / FRAMES_PER_SECOND
    said = _lines(lines, path, seconds, duration)
    if all(segment.confidence < SURE for segment in said):
        raise ConfigError(
            f"{recording.name or 'the recording'}: none of the {len(lines)} lines was "
            "found in it (is it the text of this recording?)"
        )
    said = _with_edges(said, levels)
    untold = _untold(said, evidence, columns, seconds, duration)
    segments = sorted([*said, *untold], key=lambda segment: segment.start)
    start = recording.start
    return Transcript(
        tuple(moved(segment, start) for segment in segments),
        duration,
        recording.name,
        str(recording.channel),
    )


def _columns(tokenizer: Tokenizer, words: Sequence[Sequence[int]]) -> _Columns:
    written = tokenizer.pieces(range(tokenizer.size))
    return _Columns(
        sorted({token for word in words for token in word}),
        tokenizer.pad,
        [token for token, piece in enumerate(written) if piece == " "],
    )


# Listening


def _listen(
    las: LAS, columns: _Columns, recording: Recording, progress: Progress | None
) -> tuple[Evidence, Floats, float]:
    """Listen to all of a recording.

    Returns:
        What the head wrote, how loud each frame is (dB), and the duration in seconds.
    """
    step = las.listener.ctc_reduction * SAMPLE_RATE // FRAMES_PER_SECOND  # samples
    whole, num_steps, end = _nothing(las, columns, _CAPACITY), 0, 0
    for piece, record in _records(las, columns, recording):
        begin = round(piece.start / step)
        first = round((piece.start + piece.overlap / 2) / step)  # the seam of both
        num_steps, end = begin + len(record.best), piece.end
        while num_steps > len(whole.best):  # a few arrays, that no heap falls apart
            more = _nothing(las, columns, len(whole.best))
            whole = whole.followed_by(more)
        for all, some in zip(whole, record, strict=True):
            all[first:num_steps] = some[first - begin :]
        if progress:
            progress(piece.seconds - piece.overlap / SAMPLE_RATE)
    whole = whole.until(num_steps)
    places = {token: place for place, token in enumerate(columns.letters)}
    evidence = Evidence(whole.log_probs, whole.best, whole.written, places)
    return evidence, whole.levels.reshape(-1), end / SAMPLE_RATE


def _records(
    las: LAS, columns: _Columns, recording: Recording
) -> Iterator[tuple[Piece, _Record]]:
    """Listen to the pieces of a recording, several together."""
    found = pieces(recording.blocks())
    step = las.listener.ctc_reduction * SAMPLE_RATE // FRAMES_PER_SECOND
    while batch := list(islice(found, BATCH)):
        loud = [
            piece
            for piece in batch
            if not piece.silent and may_be_speech(piece.waveform)
        ]
        answers = iter(_write(las, columns, loud))
        for piece in batch:
            if any(piece is one for one in loud):
                yield piece, next(answers)
            else:
                yield piece, _nothing(las, columns, round(len(piece.waveform) / step))


@torch.inference_mode()
def _write(las: LAS, columns: _Columns, batch: Sequence[Piece]) -> Iterator[_Record]:
    """Have the CTC head write pieces."""
    if not batch:
        return
    device = las.ctc.weight.device
    features, num_frames = pad_rows([log_mel(piece.waveform) for piece in batch])
    output = las.listen(features.to(device), num_frames)
    log_probs = las.ctc_log_probs(output)
    for piece, row, num_steps in zip(
        batch, log_probs, output.num_ctc_steps.tolist(), strict=True
    ):
        steps = row[:num_steps]
        best, written = steps.max(dim=1)
        below = (steps - best[:, None]).clamp_min(FLOOR)
        gaps = below[:, [columns.blank, *columns.spaces]].amax(dim=1, keepdim=True)
        kept = torch.cat((below[:, [*columns.letters, columns.blank]], gaps), dim=1)
        yield _Record(
            kept.half().cpu().numpy(),
            best.half().cpu().numpy(),
            written.int().cpu().numpy(),
            _levels(piece.waveform, num_steps, las.listener.ctc_reduction),
        )


def _levels(waveform: Tensor, num_steps: int, frames: int) -> Floats:
    """Measure how loud (N,) samples are: (J', frames a step) in dB."""
    size = SAMPLE_RATE // FRAMES_PER_SECOND
    missing = num_steps * frames * size - len(waveform)
    padded = nn.functional.pad(waveform, (0, missing))  # or cut, where that is negative
    power = padded.view(num_steps, frames, size).square().mean(dim=2)
    decibels: Floats = (10 * power.clamp_min(_SILENT_POWER).log10()).half().numpy()
    return decibels


def _nothing(las: LAS, columns: _Columns, num_steps: int) -> _Record:
    """Return what the head writes where there is no sound: blanks."""
    log_probs = np.full((num_steps, len(columns.letters) + 2), FLOOR, dtype=np.float16)
    log_probs[:, -2:] = 0.0
    blanks = np.full(num_steps, columns.blank, dtype=np.int32)
    best = np.zeros(num_steps, dtype=np.float16)
    levels = np.full(
        (num_steps, las.listener.ctc_reduction), 10 * log10(_SILENT_POWER), np.float16
    )
    return _Record(log_probs, best, blanks, levels)


# Lines


class _Times(NamedTuple):
    """When a word was said, in seconds, and how sure that is."""

    start: float
    end: float
    confidence: float
    is_said: bool


def _lines(
    lines: Sequence[Line], path: TextPath, seconds: float, duration: float
) -> list[Segment]:
    """Return a segment for each line, said or not."""
    segments, letter, clock = list[Segment](), 0, 0.0
    log_probs = np.maximum(path.log_probs, FLOOR)
    for line in lines:
        sizes = [len(tokens) for tokens in line.tokens]
        total = sum(sizes)
        confidence = _confidence(log_probs[letter : letter + total])
        times = list[_Times]()
        for size in sizes:
            place = slice(letter, letter + size)
            times.append(_times(path, log_probs, place, seconds, duration))
            letter += size
        if confidence < LEAST_CONFIDENCE:
            segments.append(_unsaid(line, clock, confidence))
            continue
        ahead = _next_start(path, letter, seconds, duration)
        times = _with_skipped(times, sizes, clock, ahead)
        words = tuple(
            Word(text, start, end, sure)
            for text, (start, end, sure, _) in zip(line.words, times, strict=True)
        )
        start, clock = words[0].start, words[-1].end
        segments.append(
            Segment(start, clock, line.text, words, confidence, (), (), None)
        )
    return segments


def _confidence(log_probs: Floats) -> float:
    """Return the geometric mean of P of some letters; 0 of none."""
    return float(np.exp(log_probs.mean())) if len(log_probs) else 0.0


def _times(
    path: TextPath, log_probs: Floats, place: slice, seconds: float, duration: float
) -> _Times:
    confidence = _confidence(log_probs[place])
    if confidence < _LEAST_WORD_CONFIDENCE:
        return _Times(0.0, 0.0, confidence, False)
    start = min(float(path.begins[place.start]) * seconds + EARLY, duration)
    end = min(float(path.ends[place.stop - 1]) * seconds + EARLY, duration)
    return _Times(start, end, confidence, True)


def _next_start(path: TextPath, letter: int, seconds: float, duration: float) -> float:
    """Return when the next word that is said begins."""
    later = path.begins[letter:]
    said = np.flatnonzero(later >= 0)
    if not len(said):
        return duration
    return min(float(later[said[0]]) * seconds + EARLY, duration)


def _with_skipped(
    times: Sequence[_Times], sizes: Sequence[int], before: float, after: float
) -> list[_Times]:
    """Give words that the path left out the time between their neighbours.

    Args:
        times: of the words of a line, some of which are said.
        sizes: how many letters each word has.
        before: second where the words before the line end.
        after: second where those behind it begin.
    """
    found = list(times)
    said = [place for place, one in enumerate(times) if one.is_said]
    edges = [-1, *said, len(times)]
    for left, right in pairwise(edges):
        if right - left == 1:
            continue
        start = times[left].end if left >= 0 else before
        end = times[right].start if right < len(times) else after
        wanted = _LETTER_SECONDS * sum(sizes[left + 1 : right])
        length = min(max(0.0, end - start), wanted)
        if left < 0:
            start = max(start, end - length)
        parts = np.cumsum([0, *sizes[left + 1 : right]]) / max(
            1, sum(sizes[left + 1 : right])
        )
        for place in range(left + 1, right):
            a, b = parts[place - left - 1], parts[place - left]
            begin, end = start + length * float(a), start + length * float(b)
            found[place] = times[place]._replace(start=begin, end=end)
    return found


def _unsaid(line: Line, time: float, confidence: float) -> Segment:
    flags = (Flag.UNSAID,)
    return Segment(time, time, line.text, (), confidence, flags, (), None)


# Where the sound of a line begins and ends


def _with_edges(segments: Sequence[Segment], levels: Floats) -> list[Segment]:
    """Move the edges of lines outwards, from spikes of the CTC head to pauses.

    Where there is no pause near, they stay.

    Args:
        segments: of the lines, in order.
        levels: dB of each frame of the recording.
    """
    found = list[Segment]()
    said = [place for place, segment in enumerate(segments) if segment.words]
    nexts = dict(pairwise(said))
    clock = 0.0
    for place, segment in enumerate(segments):
        if not segment.words:
            found.append(replace(segment, start=clock, end=clock))
            continue
        latest = segments[nexts[place]].start if place in nexts else inf
        found.append(_extended(segment, levels, clock, latest))
        clock = found[-1].end
    return found


def _extended(
    segment: Segment, levels: Floats, earliest: float, latest: float
) -> Segment:
    """Let a line begin and end where its sound does."""
    start, end = (round(t * FRAMES_PER_SECOND) for t in (segment.start, segment.end))
    first = max(round(earliest * FRAMES_PER_SECOND), start - _REACH)
    last = round(min(latest * FRAMES_PER_SECOND, end + _REACH))
    inside = levels[start:end]
    if not len(inside):
        return segment
    loud = float(np.quantile(inside.astype(np.float32), 0.97))
    begin = segment.start - _frames_of_sound(levels[first:start][::-1], loud) / 100
    stop = segment.end + _frames_of_sound(levels[end:last], loud) / 100
    words = list(segment.words)
    words[0] = replace(words[0], start=begin)
    words[-1] = replace(words[-1], end=stop)
    return replace(segment, start=begin, end=stop, words=tuple(words))


def _frames_of_sound(levels: Floats, loud: float) -> int:
    """Count the frames before the first pause; 0 where there is none.

    Args:
        levels: dB of frames, from the edge of a line on.
        loud: dB of its speech.
    """
    if len(levels) < _PAUSE:
        return 0
    windows = np.lib.stride_tricks.sliding_window_view(levels, _PAUSE).max(axis=1)
    threshold = max(loud - _SOUND, float(windows.min()) + _NOISE)
    if threshold > loud - _DEPTH:
        return 0
    return int(np.argmax(windows <= threshold))


# Speech without text


def _untold(
    said: Iterable[Segment],
    evidence: Evidence,
    columns: _Columns,
    seconds: float,
    duration: float,
) -> list[Segment]:
    """Find where the head writes letters and no word of the text is near."""
    silent = [columns.blank, *columns.spaces]
    is_letter = np.isin(evidence.written, silent, invert=True)
    for segment in said:
        for word in segment.words:
            first = (word.start - EARLY - _NEAR) / seconds
            last = (word.end - EARLY + _NEAR) / seconds
            is_letter[max(0, round(first)) : max(0, round(last))] = False
    steps = np.flatnonzero(is_letter)
    pauses = np.flatnonzero(np.diff(steps) * seconds > UNTOLD_SECONDS) + 1
    segments = list[Segment]()
    for some in np.split(steps, pauses):
        if len(some) < _LEAST_LETTERS:
            continue
        start = min(float(some[0]) * seconds + EARLY, duration)
        end = min(float(some[-1] + 1) * seconds + EARLY, duration)
        if end - start >= UNTOLD_SECONDS:
            flags = (Flag.UNTOLD,)
            segments.append(Segment(start, end, "", (), 0.0, flags, (), None))
    return segments
