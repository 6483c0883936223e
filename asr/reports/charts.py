"""Charts as SVG, in simple code: bars, stacked columns and curves.

A chart is as wide as its place. So shapes are placed in percent of the drawing, and
names and numbers stand beside it as HTML, in the size of the text around them. Colours
are classes of the style sheet, which knows light and dark.
"""

from collections.abc import Callable, Iterator, Sequence
from math import floor, log10
from typing import NamedTuple

from asr.reports.markup import Html, join, markup

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


class Curve(NamedTuple):
    """A line over the same x axis as others."""

    name: str
    points: Sequence[tuple[float, float]]
    is_marked: bool = False
    """Whether each point is shown as a dot, not only the line through them."""


def bars(rows: Sequence[Bar], mean: float, show: Show) -> Html:
    """Draw bars from left to right, one below the other, and a line at their mean."""
    ends = [mean, *(row.span[1] if row.span else row.value for row in rows)]
    marks = ticks(max(ends))
    top = marks[-1]
    return markup(
        "<div class='bars'>{}<div class='bar'><span></span><div class='x-ticks'>{}"
        "</div><span></span></div></div>",
        join(_bar(row, mean, top, show) for row in rows),
        _tick_names(marks, "left", show),
    )


def _bar(row: Bar, mean: float, top: float, show: Show) -> Html:
    whisker = Html()
    if row.span:
        low, high = (percent(end, top) for end in row.span)
        whisker = markup(
            "<line class='whisker' x1='{}' x2='{}' y1='50%' y2='50%'/>"
            "<line class='whisker' x1='{}' x2='{}' y1='32%' y2='68%'/>"
            "<line class='whisker' x1='{}' x2='{}' y1='32%' y2='68%'/>",
            *(low, high, low, low, high, high),
        )
    return markup(
        "<div class='bar'><span class='name'>{}</span><svg aria-hidden='true'>"
        "<title>{}</title><rect class='hit' width='100%' height='100%'/>"
        "<rect class='fill' y='18%' width='{}' height='64%' rx='2'/>"
        "<line class='mean' x1='{}' x2='{}' y1='0' y2='100%'/>{}</svg>"
        "<span class='value'>{}</span></div>",
        *(row.name, row.note, percent(row.value, top)),
        *(percent(mean, top), percent(mean, top), whisker, show(row.value)),
    )


def columns(rows: Sequence[Column], names: Sequence[str], show: Show) -> Html:
    """Draw columns of parts, and a legend of what the parts are.

    Args:
        rows: from left to right; their parts from bottom to top.
        names: of the parts.
        show: writes a number and, after a space, its unit.
    """
    counts = all(isinstance(part, int) for row in rows for part in row.parts)
    top = max((sum(row.parts) for row in rows), default=0.0)
    marks = ticks(top, least=1.0 if counts else 0.0)
    width = 100 / max(len(rows), 1)
    shapes = join(
        _column(row, width * i, width, marks[-1]) for i, row in enumerate(rows)
    )
    labels = join(
        markup(
            "<span style='left:{}%;width:{}%'>{}<b>{} <span>{}</span></b></span>",
            *(f"{width * i:.3f}", f"{width:.3f}", row.name),
            *show(sum(row.parts)).split(" "),
        )
        for i, row in enumerate(rows)
    )
    legend = _legend((name, f"part-{i}") for i, name in enumerate(names))
    return markup("{}{}", _plot(marks, shapes, labels, show, "columns"), legend)


def _column(row: Column, left: float, width: float, top: float) -> Html:
    shapes, base = list[Html](), 0.0
    for number, part in enumerate(row.parts):
        base += part
        shapes.append(
            markup(
                "<rect class='part-{}' x='{}%' y='{}' width='{}%' height='{}'/>",
                *(number, f"{left + 0.16 * width:.3f}", percent(top - base, top)),
                *(f"{0.68 * width:.3f}", percent(part, top)),
            )
        )
    return markup(
        "<g><title>{}</title><rect class='hit' x='{}%' width='{}%' height='100%'/>{}"
        "</g>",
        *(row.note, f"{left:.3f}", f"{width:.3f}", join(shapes)),
    )


def curves(lines: Sequence[Curve], right: float, x_name: str, show: Show) -> Html:
    """Draw lines over an x axis that ends at `right`; both axes start at zero."""
    across = [mark for mark in ticks(right) if mark <= right]
    marks = ticks(max((y for line in lines for _, y in line.points), default=1.0))
    shapes = join(
        _curve(line, i, right, marks[-1], x_name, show) for i, line in enumerate(lines)
    )
    labels = join(
        markup("<span style='left:{}'>{}</span>", percent(mark, right), whole(mark))
        for mark in across
    )
    legend = _legend((line.name, f"line-{i}") for i, line in enumerate(lines))
    legend = legend if len(lines) > 1 else Html()
    plot = _plot(marks, shapes, labels, show, "curves")
    return markup("{}<p class='x-name'>{}</p>{}", plot, x_name, legend)


def _curve(
    line: Curve, number: int, right: float, top: float, x_name: str, show: Show
) -> Html:
    places = [(100 * x / right, 100 - 100 * y / top) for x, y in line.points]
    path = " ".join(f"{x:.3f},{y:.3f}" for x, y in places)
    dots = join(
        markup(
            "<circle class='line-{}' cx='{}%' cy='{}%' r='4'><title>{}</title>"
            "</circle>",
            *(number, f"{x:.3f}", f"{y:.3f}"),
            f"{line.name}: {show(point[1])} ({x_name} {whole(point[0])})",
        )
        for (x, y), point in zip(places, line.points, strict=True)
        if line.is_marked
    )
    return markup(
        "<svg viewBox='0 0 100 100' preserveAspectRatio='none'><polyline "
        "class='line-{}' points='{}'/></svg>{}",
        *(number, path, dots),
    )


def _plot(
    marks: Sequence[float], shapes: Html, x_labels: Html, show: Show, kind: str
) -> Html:
    """Put shapes on a grid, with names along both axes."""
    top = marks[-1]
    grid = join(
        markup(
            "<line class='grid' x1='0' x2='100%' y1='{}' y2='{}'/>",
            *(percent(top - mark, top), percent(top - mark, top)),
        )
        for mark in marks
    )
    return markup(
        "<div class='plot {}'><div class='y-ticks'>{}</div><svg class='drawing' "
        "aria-hidden='true'>{}{}</svg><div class='x-ticks'>{}</div></div>",
        *(kind, _tick_names(marks, "bottom", show), grid, shapes, x_labels),
    )


def _tick_names(marks: Sequence[float], side: str, show: Show) -> Html:
    return join(
        markup("<span style='{}:{}'>{}</span>", side, percent(m, marks[-1]), show(m))
        for m in marks
    )


def _legend(entries: Iterator[tuple[str, str]]) -> Html:
    return markup(
        "<ul class='legend'>{}</ul>",
        join(
            markup(
                "<li><svg aria-hidden='true'><rect class='{}' width='100%' "
                "height='100%'/><line class='{}' x1='0' x2='100%' y1='50%' y2='50%'/>"
                "</svg>{}</li>",
                *(kind, kind, name),
            )
            for name, kind in entries
        ),
    )


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
