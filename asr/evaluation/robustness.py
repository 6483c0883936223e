"""How well does a model do under conditions that recordings suffer?

`under_conditions` decodes utterances as they are and changed as recordings are: the
band of a telephone, a codec, noise, other voices, a room, speeds, loudness, clipping.
`without_speech` gives the model sounds in which nobody speaks, for which it should
write nothing.

Shapes: N samples.
"""

from collections.abc import Callable, Sequence
from io import BytesIO

import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE, encode, read_waveform, resample, spooled
from asr.data.disturbances import of_power_one
from asr.data.manifest import Utterance
from asr.data.recordings import read_utterance
from asr.features import change_speed
from asr.inference.long_audio import BATCH
from asr.inference.recognizer import Recognizer
from asr.progress import progress_bar
from asr.scoring import ErrorRate, word_error_rate
from asr.wording import counted

ROOM = 0.3
"""Seconds in which a room's echo dies away, by 60 dB."""

Change = Callable[[Tensor], Tensor]
"""(N,) samples as they are -> (N',) as they would have been recorded."""
Condition = Callable[[Sequence[Tensor]], list[Tensor]]
"""Recordings (N,) -> the same recordings (N',) under a condition."""
Sound = Callable[[Tensor], Tensor]
"""(N,) times in seconds -> (N,) samples."""


def under_conditions(recognizer: Recognizer, utterances: Sequence[Utterance]) -> str:
    """Decode utterances under all conditions; return a table in Markdown.

    Raises:
        AudioError: a recording cannot be read.
    """
    order = sorted(utterances, key=lambda utterance: -utterance.duration)
    waveforms = [read_utterance(utterance) for utterance in order]
    said = [utterance.text for utterance in order]
    lines = ["| condition | %WER | taken for noise |", "|---|---|---|"]
    with progress_bar(len(CONDITIONS), "robustness", "conditions") as bar:
        for name, condition in CONDITIONS.items():
            torch.manual_seed(0)
            rate, num_dropped = _decode(recognizer, condition(waveforms), said)
            lines.append(f"| {name} | {100 * rate.rate:.1f} | {num_dropped} |")
            bar.update(1)
    return "\n".join([*lines, "", counted(len(order), "utterance")])


def without_speech(recognizer: Recognizer) -> str:
    """Count the words written where nobody speaks; return a table in Markdown."""
    torch.manual_seed(0)
    head = " | ".join(f"{seconds} s" for seconds in LENGTHS)
    lines = [f"| words in | {head} |", "|---" * (1 + len(LENGTHS)) + "|"]
    for name, make in SOUNDS.items():
        cells = []
        for seconds in LENGTHS:
            times = torch.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
            (segment,) = recognizer.recognize([make(times)])
            flags = ", ".join(segment.flags)
            cells.append(f"{len(segment.words)}" + (f" ({flags})" if flags else ""))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def clear_without_speech(recognizer: Recognizer, seconds: int) -> list[float]:
    """Return how clear the texts are that are found where nobody speaks.

    It is `SearchResult.clear` of each sound, zero where nothing is found.
    """
    torch.manual_seed(0)
    times = torch.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
    found = recognizer.search([make(times) for make in SOUNDS.values()])
    return [result.clear if result.texts[0] else 0.0 for result in found]


def _decode(
    recognizer: Recognizer, waveforms: Sequence[Tensor], said: Sequence[str]
) -> tuple[ErrorRate, int]:
    segments = [
        segment
        for start in range(0, len(waveforms), BATCH)
        for segment in recognizer.recognize(waveforms[start : start + BATCH])
    ]
    num_dropped = sum("noise" in segment.flags for segment in segments)
    return word_error_rate(said, [segment.text for segment in segments]), num_dropped


def _telephone(waveform: Tensor) -> Tensor:
    """Lose all above 4 kHz."""
    return resample(resample(waveform, SAMPLE_RATE, 8_000), 8_000, SAMPLE_RATE)


def _mp3(waveform: Tensor) -> Tensor:
    """Encode as MP3 at about 24 kbit/s, and decode."""
    with spooled(BytesIO(encode(waveform, "mp3", compression=0.8))) as path:
        return read_waveform(path)


def _pink(num_samples: int, power: float = 0.5) -> Tensor:
    """(N,) of noise with less in higher frequencies; a power of 1 makes it brown."""
    spectrum = torch.fft.rfft(torch.randn(num_samples))
    falling = torch.arange(len(spectrum)).clamp_min(1) ** power
    noise: Tensor = torch.fft.irfft(spectrum / falling, num_samples)
    return noise


def _each(change: Change) -> Condition:
    """Change each recording for itself."""
    return lambda waveforms: [change(waveform) for waveform in waveforms]


def _noise(decibels: float) -> Condition:
    """Add pink noise that much below the speech."""
    return _each(
        lambda waveform: _mixed(waveform, _pink(len(waveform)), decibels),
    )


def _mixed(waveform: Tensor, other: Tensor, decibels: float) -> Tensor:
    """Add another sound (N,) that much below the speech."""
    level = waveform.square().mean().sqrt() * 10 ** (-decibels / 20)
    mixed: Tensor = waveform + of_power_one(other) * level
    return mixed


def _voices(waveforms: Sequence[Tensor]) -> list[Tensor]:
    """Let four others speak behind each: the next recordings, from the start again."""
    found = list[Tensor]()
    for place, waveform in enumerate(waveforms):
        behind = torch.zeros(len(waveform))
        for step in range(1, 5):
            other = waveforms[(place + step) % len(waveforms)]
            times = -(-len(waveform) // len(other))
            behind += of_power_one(other).repeat(times)[: len(waveform)]
        found.append(_mixed(waveform, behind, 10))
    return found


def _clipped(waveform: Tensor) -> Tensor:
    """Record too loud, so that a fifth of the peak is all that there is room for."""
    most = float(waveform.abs().max()) / 5
    return waveform.clamp(-most, most)


def _room(waveform: Tensor) -> Tensor:
    """Add the echo of a room: noise that dies away, as loud as the direct sound."""
    times = torch.arange(round(ROOM * SAMPLE_RATE)) / SAMPLE_RATE
    echo = torch.randn(len(times)) * 10 ** (-3 * times / ROOM)
    echo *= 1 / echo.square().sum().sqrt()
    echo[0] = 1.0
    size = len(waveform) + len(echo)
    product = torch.fft.rfft(waveform, size) * torch.fft.rfft(echo, size)
    recorded: Tensor = torch.fft.irfft(product, size)[: len(waveform)]
    return recorded


CONDITIONS: dict[str, Condition] = {
    "as it is": list,
    "8 kHz (a telephone's band)": _each(_telephone),
    "MP3 at 24 kbit/s": _each(_mp3),
    "pink noise, 20 dB below": _noise(20),
    "pink noise, 10 dB below": _noise(10),
    "pink noise, 5 dB below": _noise(5),
    "four other voices, 10 dB below": _voices,
    "a room (0.3 s of echo)": _each(_room),
    "0.8 times as fast": _each(lambda waveform: change_speed(waveform, 0.8)),
    "1.2 times as fast": _each(lambda waveform: change_speed(waveform, 1.2)),
    "clipped at a fifth of the peak": _each(_clipped),
    "a hundredth as loud (-40 dB)": _each(lambda waveform: 0.01 * waveform),
}


LENGTHS = (3, 8, 14)
"""Seconds of the sounds that are no speech."""


def _sine(times: Tensor, hertz: float | Tensor) -> Tensor:
    return torch.sin(2 * torch.pi * hertz * times)


def _chords(times: Tensor) -> Tensor:
    """Three tones that jump twice a second."""
    jumps = (times * 2).floor()
    parts = ((1, 220.0), (2, 330.0), (3, 440.0))
    voices = [_sine(times, f * 2 ** (jumps * k % 12 / 12)) / k for k, f in parts]
    return 0.2 * torch.stack(voices).sum(dim=0)


def _peaked(noise: Tensor) -> Tensor:
    return 0.5 * noise / noise.abs().max()


SOUNDS: dict[str, Sound] = {
    "white noise": lambda times: 0.1 * torch.randn(len(times)),
    "pink noise": lambda times: _peaked(_pink(len(times))),
    "brown noise": lambda times: _peaked(_pink(len(times), 1.0)),
    "hum (50 and 150 Hz)": lambda times: (
        0.3 * _sine(times, 50) + 0.1 * _sine(times, 150)
    ),
    "clicks, five a second": lambda times: (
        0.8 * (torch.rand(len(times)) < 5 / SAMPLE_RATE).float()
        + 0.0005 * torch.randn(len(times))
    ),
    "chords": _chords,
    "noise that swells four times a second": lambda times: (
        0.1 * torch.randn(len(times)) * (1 + _sine(times, 4))
    ),
}
