"""Charts as SVG: bars, stacked columns and curves.

A chart is as wide as its place. So shapes are placed in percent of the drawing, and
names and numbers stand beside it as HTML, in the size of the text around them. Colours
are classes of the style sheet, which knows light and dark.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from math import floor, log10
from typing import NamedTuple

from asr.reports.templates import Markup, render

Show = Callable[[float], str]
"""Writes a number for people."""


class Bar(NamedTuple):
    """A row of a bar chart."""

    name: str
    value: float
    span: tuple[float, float] | None
    """Lower and upper end of the value's interval; None where it has none."""
    note: str
    """Shown where the pointer rests."""


class Column(NamedTuple):
    """A column of a chart, of parts that stand on one another."""

    name: str
    parts: Sequence[float]
    note: str

    def stacked(self) -> Iterator[tuple[float, float]]:
        """Yield each part, and where its top is."""
        return zip(self.parts, accumulate(self.parts), strict=True)


class Curve(NamedTuple):
    """A line over the same x axis as others."""

    name: str
    points: Sequence[tuple[float, float]]
    is_marked: bool = False
    """Whether each point is shown as a dot, not only the line through them."""


def bars(rows: Sequence[Bar], mean: float, show: Show) -> Markup:
    """Draw bars from left to right, one below the other, and a line at their mean."""
    marks = ticks(
        max([mean, *(row.span[1] if row.span else row.value for row in rows)])
    )
    return render("reports/bars.html", rows=rows, mean=mean, show=show, **_scale(marks))


def columns(rows: Sequence[Column], names: Sequence[str], show: Show) -> Markup:
    """Draw columns of parts, and a legend of what the parts are.

    Args:
        rows: from left to right; their parts from bottom to top.
        names: of the parts.
        show: writes a number and, after a space, its unit.
    """
    counts = all(isinstance(part, int) for row in rows for part in row.parts)
    top = max((sum(row.parts) for row in rows), default=0.0)
    return render(
        "reports/columns.html",
        rows=rows,
        names=names,
        show=show,
        across=lambda place: percent(place, len(rows)),
        **_scale(ticks(top, least=1.0 if counts else 0.0)),
    )


def curves(lines: Sequence[Curve], right: float, x_name: str, show: Show) -> Markup:
    """Draw lines over an x axis that ends at `right`; both axes start at zero."""
    marks = ticks(max((y for line in lines for _, y in line.points), default=1.0))

    def path(line: Curve) -> str:
        places = ((100 * x / right, 100 - 100 * y / marks[-1]) for x, y in line.points)
        return " ".join(f"{x:.3f},{y:.3f}" for x, y in places)

    return render(
        "reports/curves.html",
        lines=lines,
        path=path,
        x_name=x_name,
        x_ticks=[mark for mark in ticks(right) if mark <= right],
        across=lambda x: percent(x, right),
        show=show,
        whole=whole,
        **_scale(marks),
    )


def _scale(marks: Sequence[float]) -> dict[str, object]:
    """Make what places values between zero and the last of an axis' marks."""
    top = marks[-1]
    return {
        "ticks": marks,
        "at": lambda value: percent(value, top),
        "below": lambda value: percent(top - value, top),
    }


def ticks(top: float, most: int = 5, least: float = 0.0) -> list[float]:
    """Choose round numbers from zero to at or above `top`, at least so far apart.

    >>> ticks(0.43)
    [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    >>> ticks(781)
    [0.0, 200.0, 400.0, 600.0, 800.0]
    >>> ticks(2, least=1.0)
    [0.0, 1.0, 2.0]
    """
    if top <= 0:
        return [0.0, 1.0]
    power = 10.0 ** floor(log10(top / most))
    step = next(s * power for s in (1, 2, 5, 10, 20) if s * power * most >= top * 0.999)
    step = max(step, least)
    number = next(n for n in range(1, most + 2) if n * step >= top * 0.999)
    return [float(f"{n * step:.6g}") for n in range(number + 1)]


def percent(value: float, top: float) -> str:
    """Return where a value lies between 0 and `top`, as CSS and SVG write it."""
    return f"{100 * value / top if top else 0:.3f}%"


def whole(value: float) -> str:
    """Write a large number so that it can be read."""
    return f"{value:,.0f}"
