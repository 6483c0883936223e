"""Pictures of what a model looked at.

The attention weights alpha as a heat map: characters from top to bottom, time from left
to right, and above it, on the same time axis, the spectrogram of what was heard.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The figure classes are used directly, not pyplot: pyplot keeps all figures in a global
# list, is not safe to use from several threads, and may look for a display.
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

INK, PAPER = "#1b1b1f", "#ffffff"


def draw_attention(path: Path, weights: Tensor, text: str) -> None:
    """Draw where the speller looked for each character, over steps, as a PNG.

    Args:
        path: the picture; one that stood there is replaced.
        weights: (I, J) alpha; a last row for <eos> may be missing.
        text: the characters that the rows are of.
    """
    rows = _row_names(text, len(weights))
    figure = Figure(figsize=(8, min(0.8 + 0.11 * len(rows), 24)), facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _heat_map(axes, weights, rows, extent=(0, weights.size(1)))
    axes.set_xlabel("listener step j")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def _row_names(text: str, num_rows: int) -> list[str]:
    """One name a row: the character, a dot-like box for a space, and the end."""
    names = ["\u2423" if character == " " else character for character in text]
    return [*names, "\u220e"][:num_rows]


def _heat_map(
    axes: Any, weights: Tensor, rows: Sequence[str], extent: tuple[float, float]
) -> None:
    """Paint (I, J) weights with named rows, the first on top."""
    axes.imshow(
        weights.sqrt().numpy(),  # the square root shows faint glances too
        aspect="auto",
        interpolation="nearest",
        cmap="magma_r",
        vmin=0.0,
        vmax=1.0,
        extent=(*extent, len(rows) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(rows)), rows, fontsize=6, fontfamily="monospace")
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("character i")
