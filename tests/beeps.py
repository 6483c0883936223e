"""A language of beeps, and who understands it: live transcription without a model.

A word is a tone of a quarter of a second; one that is cut off is read as UM. That is
what makes readings of an open piece differ from one another, as those of a model do.
"""

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.transcript import Segment, Word, mean_confidence

WORDS = {
    "ALPHA": 400,
    "BRAVO": 500,
    "CHARLIE": 600,
    "DELTA": 700,
    "ECHO": 800,
    "FOXTROT": 900,
    "GOLF": 1000,
    "HOTEL": 1100,
}
"""Hz of each word."""
WORD_SECONDS, GAP_SECONDS = 0.25, 0.1
_HOP = SAMPLE_RATE // 100


def beeps(text: str, *, pause: float = 1.0, noise: float = 1e-4) -> Tensor:
    """Say words; a comma is a pause of some seconds, a full stop one of 0.2 s.

    >>> len(beeps("ALPHA , BRAVO")) / SAMPLE_RATE
    1.7
    """
    parts = list[Tensor]()
    for word in text.split():
        if word in ",.":
            parts.append(torch.zeros(round((pause if word == "," else 0.2) * 16_000)))
            continue
        time = torch.arange(round(WORD_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
        parts.append(0.3 * (2 * torch.pi * WORDS[word] * time).sin())
        parts.append(torch.zeros(round(GAP_SECONDS * SAMPLE_RATE)))
    waveform = torch.cat(parts) if parts else torch.zeros(0)
    return waveform + noise * torch.randn(len(waveform))


def read_beeps(waveform: Tensor) -> Segment:
    """Recognise beeps, as a recognizer would: one segment that starts at 0."""
    hops = waveform[: len(waveform) // _HOP * _HOP].view(-1, _HOP)
    loud = (hops.square().mean(dim=1) > 0.01).int()
    edges = torch.diff(torch.nn.functional.pad(loud, (1, 1))).nonzero()[:, 0].tolist()
    words = tuple(
        _word(waveform, start * _HOP, end * _HOP)
        for start, end in zip(edges[::2], edges[1::2], strict=True)
    )
    text = " ".join(word.text for word in words)
    end = len(waveform) / SAMPLE_RATE
    return Segment(0.0, end, text, words, mean_confidence(words), (), (), None)


def _word(waveform: Tensor, start: int, end: int) -> Word:
    name = "UM"
    if end - start > 0.9 * WORD_SECONDS * SAMPLE_RATE:
        signs = waveform[start:end] > 0
        turns = int((signs[1:] != signs[:-1]).sum())
        hertz = turns / 2 * SAMPLE_RATE / (end - start)
        name = min(WORDS, key=lambda word: abs(WORDS[word] - hertz))
    return Word(name, start / SAMPLE_RATE, end / SAMPLE_RATE, 0.9)
