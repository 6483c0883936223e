"""Pictures of what a model looked at.

The attention weights alpha as a heat map: tokens from top to bottom, time from left
to right. A healthy model draws a diagonal: it reads the recording from its beginning to
its end. The page of a whole recording is in `asr.reports.recording_page`.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

# The figure is made directly, not by pyplot, which keeps all figures in a global list
# and may look for a display.
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from asr.acoustics import draw_spectrogram
from asr.audio import SAMPLE_RATE
from asr.folders import write_bytes
from asr.reports.letters import joined_letters

_SPACE, _END = "\u00b7", "\u220e"
_DPI = 130
_SPECTROGRAM = 1.4  # inches


def draw_attention(
    path: Path,
    weights: Tensor,
    tokens: Sequence[str],
    seconds_per_step: float | None = None,
    waveform: Tensor | None = None,
) -> None:
    """Draw where the speller looked for each token, over time, as a PNG.

    Args:
        path: the picture; one that stood there is replaced.
        weights: (I, J) alpha; a last row for <eos> may be missing.
        tokens: what each of the rows writes: a character, or several. Those that write
            one letter, a base and its marks, share a row.
        seconds_per_step: length of a listener step, for a time axis in seconds; None
            for one that counts steps.
        waveform: (N,) what was listened to, at 16 kHz, whose spectrogram stands on top;
            the time axis is in seconds then.
    """
    letters, weights = joined_letters(tokens, weights)
    rows = row_names([*letters, _END])[: len(weights)]
    height = _height(rows) + (_SPECTROGRAM if waveform is not None else 0)
    figure = Figure(figsize=(9, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    if waveform is None:
        axes = figure.add_subplot()
    else:
        ratios = [_SPECTROGRAM, height - _SPECTROGRAM]
        top, axes = figure.subplots(2, height_ratios=ratios, sharex=True)
        draw_spectrogram(top, waveform)
        seconds_per_step = len(waveform) / SAMPLE_RATE / weights.size(1)
    paint_attention(axes, weights, rows, seconds_per_step)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=_DPI)
    write_bytes(path, picture.getvalue())


def row_names(tokens: Sequence[str]) -> list[str]:
    """Name each row: what the token writes, with a dot for a space.

    >>> row_names("A B")
    ['A', '·', 'B']
    """
    return [token.replace(" ", _SPACE) for token in tokens]


def paint_attention(
    axes: Any,
    weights: Tensor,
    rows: Sequence[str],
    seconds_per_step: float | None = None,
) -> None:
    """Paint a heat map of attention weights into a part of a figure.

    Args:
        axes: matplotlib's.
        weights: (I, J) alpha.
        rows: the I names at the rows, the first on top.
        seconds_per_step: length of a listener step, for a time axis in seconds; None
            for one that counts steps.
    """
    axes.imshow(
        weights.clamp(0, 1).sqrt().numpy(),  # the root shows faint glances too
        aspect="auto",
        interpolation="nearest",
        cmap="Blues",
        vmin=0.0,
        vmax=1.0,
        extent=(0, weights.size(1) * (seconds_per_step or 1), len(rows) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(rows)), rows, fontsize=6.5, fontfamily="DejaVu Sans Mono")
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("token written")
    axes.set_xlabel("time [s]" if seconds_per_step else "listener step j")


def _height(rows: Sequence[str]) -> float:
    """Inches that so many rows need."""
    return max(2.0, min(0.6 + 0.105 * len(rows), 30.0))
