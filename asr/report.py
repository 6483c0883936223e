"""Pictures of what a model looked at.

The attention weights alpha as a heat map: characters from top to bottom, time from left
to right, and above it, on the same time axis, the spectrogram of what was heard. A
healthy model draws a diagonal: it reads the recording from its beginning to its end.
"""

import base64
import html
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

# The figure is made directly, not by pyplot, which keeps all figures in a global list
# and may look for a display.
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from asr.audio import SAMPLE_RATE, read_waveform
from asr.features import FRAMES_PER_SECOND, mel_spectrogram
from asr.tensor_files import write_bytes
from asr.transcript import Flag, Segment, Transcript

_SPACE, _END = "\u00b7", "\u220e"
_DPI = 130


def draw_attention(path: Path, weights: Tensor, text: str) -> None:
    """Draw where the speller looked for each character, over steps, as a PNG.

    Args:
        path: the picture; one that stood there is replaced.
        weights: (I, J) alpha; a last row for <eos> may be missing.
        text: the characters that the rows are of.
    """
    rows = _row_names(text + _END)[: len(weights)]
    figure = _figure(9, _height(rows))
    axes = figure.add_subplot()
    _heat_map(axes, weights, rows, extent=(0, weights.size(1)))
    axes.set_xlabel("listener step j")
    write_bytes(path, _png(figure))


def draw_segment(waveform: Tensor, segment: Segment) -> bytes:
    """Draw spectrogram and attention of a segment, one above the other, as a PNG.

    Args:
        waveform: (N,) the whole recording, at 16 kHz.
        segment: with its alignment.
    """
    if segment.alignment is None:
        raise ValueError("a segment with its alignment was needed: alignment=True")
    alignment = segment.alignment
    rows = _row_names(alignment.characters)
    figure = _figure(11, 2.2 + _height(rows))
    above, below = figure.subplots(2, sharex=True, height_ratios=[1.8, _height(rows)])
    span = slice(*(round(t * SAMPLE_RATE) for t in (segment.start, segment.end)))
    _spectrogram(above, waveform[span], segment)
    end = segment.start + alignment.weights.size(1) * alignment.seconds_per_step
    _heat_map(below, alignment.weights, rows, extent=(segment.start, end))
    below.set_xlim(segment.start, segment.end)
    below.set_xlabel("time in seconds")
    return _png(figure)


def write_page(path: Path, audio: str | Path, transcript: Transcript) -> None:
    """Write a page that shows what was heard, and where the model looked for it.

    Args:
        path: the HTML file; needs nothing beside it and no network.
        audio: the recording that was transcribed.
        transcript: with alignments.

    Raises:
        AudioError: the recording cannot be read.
        CheckpointError: the page cannot be written.
    """
    waveform = read_waveform(audio)
    parts = [_section(waveform, segment) for segment in transcript.segments]
    said = html.escape(transcript.text) or "(nothing was said)"
    page = _PAGE.format(
        name=html.escape(Path(audio).name),
        text=f"<p class='said'>{said}</p>" if len(parts) > 1 else "",
        duration=f"{transcript.duration:.1f}",
        sections="\n".join(parts),
    )
    write_bytes(path, page.encode())


def _section(waveform: Tensor, segment: Segment) -> str:
    """Make the part of the page that shows one segment."""
    span = f"{segment.start:.1f} to {segment.end:.1f} s"
    if segment.alignment is None:
        return f"<section><h2>{span}</h2><p>(nothing was said)</p></section>"
    picture = base64.b64encode(draw_segment(waveform, segment)).decode()
    alternatives = "".join(
        f"<li><code>{one.score:.3f}</code> {html.escape(one.text)}</li>"
        for one in segment.nbest
    )
    unsure = Flag.UNFINISHED in segment.flags
    caution = "<p>The end may be invented.</p>" if unsure else ""
    said = html.escape(segment.text)
    return (
        f"<section><h2>{span}</h2><p class='said'>{said}</p>{caution}"
        f"<img alt='attention over time' src='data:image/png;base64,{picture}'>"
        f"<details><summary>Alternatives, by log P per character</summary>"
        f"<ol>{alternatives}</ol></details></section>"
    )


def _row_names(characters: str) -> list[str]:
    """One name a row: the character, or a dot for a space."""
    return [_SPACE if character == " " else character for character in characters]


def _height(rows: Sequence[str]) -> float:
    """Inches that so many rows need."""
    return max(2.0, min(0.6 + 0.105 * len(rows), 30.0))


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=_DPI)
    return picture.getvalue()


def _spectrogram(axes: Any, waveform: Tensor, segment: Segment) -> None:
    """Paint the log-mel power of a segment, as loud as it is, over 60 dB."""
    decibels = 10 * mel_spectrogram(waveform).clamp_min(1e-10).log10()  # (T, F)
    peak = float(decibels.max())
    axes.imshow(
        decibels.t().numpy(),
        aspect="auto",
        origin="lower",
        cmap="Greys",
        vmin=peak - 60,
        vmax=peak,
        extent=(
            segment.start,
            segment.start + len(decibels) / FRAMES_PER_SECOND,
            0,
            decibels.size(1),
        ),
    )
    axes.set_ylabel("mel band")


def _heat_map(
    axes: Any, weights: Tensor, rows: Sequence[str], extent: tuple[float, float]
) -> None:
    """Paint (I, J) weights with named rows, the first on top."""
    axes.imshow(
        weights.clamp(0, 1).sqrt().numpy(),  # the root shows faint glances too
        aspect="auto",
        interpolation="nearest",
        cmap="Blues",
        vmin=0.0,
        vmax=1.0,
        extent=(*extent, len(rows) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(rows)), rows, fontsize=6.5, fontfamily="DejaVu Sans Mono")
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("character written")


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: what was heard, and where</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto;
       padding: 0 1rem; }}
h1 {{ font-size: 1.4rem; margin-bottom: 0; }}
h2 {{ font-size: 1rem; color: GrayText; margin: 2rem 0 0; }}
.said {{ font-size: 1.15rem; letter-spacing: .02em; }}
img {{ width: 100%; border-radius: 6px; background: white; }}
details {{ margin-top: .5rem; }}
code {{ color: GrayText; }}
</style>
</head>
<body>
<h1>{name}</h1>
<p>{duration} s of audio</p>
{text}
<p>Each row is a character that the model wrote, each column a moment of the recording.
The darker a spot, the more the model looked there when it wrote that character. The
spectrogram above it shows what was to be heard at that moment.</p>
{sections}
</body>
</html>
"""
