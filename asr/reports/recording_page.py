"""The page of a recording: its words, their confidence and times, and attention.

One HTML file that needs nothing beside it. Python prepares the numbers, and the files
in `assets/pages/recording` show them:

    waveform      least and greatest sample of each 5 ms
    spectrogram   log-mel power over 60 dB, a byte a band and frame
    attention     sqrt(alpha_ij), a byte each: the root shows faint glances too; with
                  blocks, its two factors alike
    sound         what is played, as Ogg Vorbis

All go into the page as base64, the first three of them deflated: a minute of speech
makes a page of about 1 MB.

Shapes: N samples, T frames, F mel bands, I tokens with the end, J listener steps,
        M blocks of G steps.
"""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from difflib import SequenceMatcher
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn, uint8

from asr.audio import SAMPLE_RATE, encode, read_waveform
from asr.features import FRAMES_PER_SECOND, mel_spectrogram
from asr.folders import write_bytes
from asr.reports.attention_blocks import across_weights, inside_weights
from asr.reports.letters import with_whole_letters
from asr.reports.templates import render
from asr.transcript import Alignment, Alternative, Flag, Segment, Transcript, Word

ABOUT = {
    Flag.SILENCE: "Silence.",
    Flag.NOISE: "No speech was found here; words that the search made up were dropped.",
    Flag.LOOP: "The text repeats itself, with other settings too: do not rely on it.",
    Flag.UNFINISHED: "The search reached its longest text: the end may be invented.",
    Flag.UNSAID: "This line of the text was not found in the recording.",
    Flag.UNTOLD: "Somebody speaks here, and no line of the text says what.",
    Flag.RETRIED: "The first text was no good: this one was found with other settings.",
}
"""The flags of a segment in plain words."""
ENVELOPE_RATE = 200
"""Columns of the waveform in a second."""
RANGE = 60.0
"""dB below the loudest band at which the spectrogram is blank."""
_MOST_FRAMES = 30_000  # of a spectrogram; in a recording over 5 min several are joined


class Instead(NamedTuple):
    """What another hypothesis has in the place of some words."""

    start: int
    """Index in the best hypothesis of the first word whose place it is."""
    end: int
    """Index behind the last one."""
    text: str
    """Empty where the hypothesis has nothing there."""
    score: float
    """Of the whole hypothesis: log P per token."""


def write_page(path: Path, audio: str | Path, transcript: Transcript) -> None:
    """Write a page that shows a transcript, and where the model looked for it.

    Args:
        path: the HTML file; one that stood there is replaced.
        audio: the recording that was transcribed.
        transcript: without alignments their maps are missing.

    Raises:
        AudioError: the recording cannot be read.
        CheckpointError: the page cannot be written.
    """
    waveform = read_waveform(audio)
    data = page_data(waveform, Path(audio).name, transcript)
    page = render("recording/page.html", name=Path(audio).name, data=data)
    write_bytes(path, page.encode(errors="backslashreplace"))


def page_data(waveform: Tensor, name: str, transcript: Transcript) -> dict[str, Any]:
    """Collect what the page shows, as JSON can hold it.

    Args:
        waveform: (N,) the whole recording, at 16 kHz.
        name: of the recording.
        transcript: of it.
    """
    return {**transcript_data(name, transcript), **sound_data(waveform)}


def transcript_data(name: str, transcript: Transcript) -> dict[str, Any]:
    """Collect what the page shows of a transcript."""
    return {
        "name": name,
        "duration": transcript.duration,
        "text": transcript.text,
        "model": transcript.model,
        "settings": {key: str(value) for key, value in transcript.settings.items()},
        "segments": [_segment(segment) for segment in transcript.segments],
    }


def sound_data(waveform: Tensor) -> dict[str, Any]:
    """Collect what the page shows and plays of a waveform, (N,) at 16 kHz."""
    return {
        "sound": base64.b64encode(encode(waveform, "ogg")).decode(),
        "waveform": _waveform(waveform),
        "spectrogram": _spectrogram(waveform),
    }


def alternatives(
    words: Sequence[str], nbest: Sequence[Alternative]
) -> list[list[Instead]]:
    """Return what else may stand in the place of each word.

    Each hypothesis is aligned with the best one word by word. Where as many words
    differ on both sides they are paired; where not, the differing words stand for each
    other together; a word too many goes with its neighbour.

    Args:
        words: of the text: those of the best hypothesis, but for some that were cut
            where pieces were joined.
        nbest: hypotheses, best first.

    Returns:
        For each word what the hypotheses have in its place, each once, best first;
        hypotheses that have the same word there are left out.

    >>> nbest = [Alternative("SOMETHING NEW", -1), Alternative("SOME THING NEW", -2)]
    >>> alternatives(["SOMETHING", "NEW"], nbest)
    [[Instead(start=0, end=1, text='SOME THING', score=-2)], []]
    """
    best = nbest[0].text.split() if nbest else []
    found: list[dict[str, Instead]] = [{} for _ in best]
    for alternative in nbest[1:]:
        for instead in _differences(best, alternative):
            for place in range(instead.start, instead.end):
                found[place].setdefault(instead.text, instead)
    there: list[list[Instead]] = [[] for _ in words]
    matcher = SequenceMatcher(None, words, best, autojunk=False)
    for index, place, count in matcher.get_matching_blocks():
        for k in range(count):
            there[index + k] = list(found[place + k].values())
    return there


def rows_of_words(
    words: Sequence[str], tokens: Sequence[str]
) -> list[tuple[int, int] | None]:
    """Find the rows of an alignment that spell each word; None if there are none.

    >>> rows_of_words(["GO", "ON"], "GO ON.")
    [(0, 2), (3, 5)]
    >>> rows_of_words(["GOES", "ON"], [" GO", "ES", " ON", "."])
    [(0, 2), (2, 3)]
    """
    token_of = [row for row, token in enumerate(tokens) for _ in token]
    text = "".join(tokens)
    rows: list[tuple[int, int] | None] = []
    reached = 0
    for word in words:
        start = text.find(word, reached)
        if start < 0:
            rows.append(None)
        else:
            reached = start + len(word)
            rows.append((token_of[start], token_of[reached - 1] + 1))
    return rows


def _differences(words: Sequence[str], alternative: Alternative) -> list[Instead]:
    others = alternative.text.split()
    matcher = SequenceMatcher(None, words, others, autojunk=False)
    found = []
    for kind, start, end, other_start, other_end in matcher.get_opcodes():
        put = others[other_start:other_end]
        if kind == "equal":
            continue
        if len(put) == end - start:
            pairs = [(start + k, start + k + 1, text) for k, text in enumerate(put)]
        elif start < end:
            pairs = [(start, end, " ".join(put))]
        elif start > 0:
            pairs = [(start - 1, start, " ".join([words[start - 1], *put]))]
        elif words:
            pairs = [(0, 1, " ".join([*put, words[0]]))]
        else:
            pairs = []
        found += [Instead(*pair, alternative.score) for pair in pairs]
    return found


# What the page shows, as JSON


def _segment(segment: Segment) -> dict[str, Any]:
    texts = [word.text for word in segment.words]
    alignment = segment.alignment and with_whole_letters(segment.alignment)
    rows = rows_of_words(texts, alignment.tokens if alignment else ())
    instead = alternatives(texts, segment.nbest)
    return {
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "confidence": segment.confidence if segment.words else None,
        "flags": [{"name": str(flag), "about": ABOUT[flag]} for flag in segment.flags],
        "words": [
            _word(*one) for one in zip(segment.words, rows, instead, strict=True)
        ],
        "nbest": [asdict(alternative) for alternative in segment.nbest],
        "attention": alignment and _attention(alignment),
    }


def _word(
    word: Word, rows: tuple[int, int] | None, instead: list[Instead]
) -> dict[str, Any]:
    return {
        **asdict(word),
        "rows": rows,
        "instead": [
            {"text": one.text, "score": one.score, "words": one.end - one.start}
            for one in instead
        ],
    }


def _attention(alignment: Alignment) -> dict[str, Any]:
    seconds, blocks = alignment.seconds_per_step, _blocks(alignment)
    return {
        "tokens": alignment.tokens,
        "start": alignment.start,
        **_weights(alignment.weights, seconds),  # (I, J)
        **({"blocks": blocks} if blocks else {}),
    }


def _blocks(alignment: Alignment) -> dict[str, Any] | None:
    """Return where it was looked inside of blocks, and across them, if it has any."""
    weights, size = alignment.weights, alignment.block_size
    if not size:
        return None
    seconds = alignment.seconds_per_step
    return {
        "inside": _weights(inside_weights(weights, size), seconds),  # (I, J)
        "across": _weights(across_weights(weights, size), size * seconds),  # (I, M)
    }


def _weights(weights: Tensor, seconds_per_column: float) -> dict[str, Any]:
    return {
        "seconds_per_column": seconds_per_column,
        **_bytes(weights.clamp(0, 1).sqrt() * 255),
    }


def _waveform(waveform: Tensor) -> dict[str, Any]:
    """Return the least and the greatest sample of each column, as bytes around 128."""
    size = SAMPLE_RATE // ENVELOPE_RATE
    whole = nn.functional.pad(waveform, (0, -len(waveform) % size)).view(-1, size)
    peak = float(waveform.abs().max().clamp_min(1e-4))  # -80 dB: silence stays flat
    extremes = whole.aminmax(dim=1)
    return {
        "seconds_per_column": 1 / ENVELOPE_RATE,
        **{
            name: _bytes(128 + values[None] / peak * 127)
            for name, values in (("least", extremes.min), ("greatest", extremes.max))
        },
    }


def _spectrogram(waveform: Tensor) -> dict[str, Any]:
    """Return the power over time, the highest band in the first row."""
    decibels = 10 * mel_spectrogram(waveform).clamp_min(1e-10).log10()  # (T, F)
    joined = ceil(len(decibels) / _MOST_FRAMES)
    columns = decibels.t()[None]  # (T, F) -> (1, F, T)
    if joined > 1:
        columns = nn.functional.max_pool1d(columns, joined, ceil_mode=True)
    above = (columns[0] - columns.max()) / RANGE + 1
    return {
        "seconds_per_column": joined / FRAMES_PER_SECOND,
        **_bytes(above.clamp(0, 1).flip(0) * 255),
    }


def _bytes(matrix: Tensor) -> dict[str, Any]:
    """Pack (rows, columns) of 0 to 255, row by row."""
    rounded = matrix.round().to(uint8).contiguous()
    packed = zlib.compress(rounded.numpy().tobytes(), level=9)
    return {
        "rows": matrix.size(0),
        "columns": matrix.size(1),
        "data": base64.b64encode(packed).decode(),
    }
