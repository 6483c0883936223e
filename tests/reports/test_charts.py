import re
from itertools import pairwise

import pytest

from asr.reports.charts import Bar, Column, Curve, bars, columns, curves, ticks


def show(value: float) -> str:
    return f"{value:g} %"


@pytest.mark.parametrize("top", [1e-7, 0.003, 0.1, 0.5, 0.999, 1, 2.5, 60, 781, 123456])
def test_ticks_are_few_and_hold_the_top(top: float) -> None:
    marks = ticks(top)
    steps = {round((b - a) / marks[1], 6) for a, b in pairwise(marks)}
    assert marks[0] == 0
    assert marks[-2] < top <= marks[-1] * 1.001
    assert 2 <= len(marks) <= 7
    assert steps == {1}


def test_counts_have_whole_ticks() -> None:
    rows = [Column("a", [1], "1"), Column("b", [2], "2")]

    drawn = str(columns(rows, ["n"], lambda value: f"{value:.0f} "))

    marks = drawn.partition('y-ticks">')[2].partition("</div>")[0]
    assert re.findall(r">(\d+) ?<", marks) == ["0", "1", "2"]


def test_nothing_has_ticks_too() -> None:
    assert ticks(0) == [0, 1]


def test_bars_are_as_long_as_their_values() -> None:
    # The scale goes to 10 %, the end of the interval.
    drawn = bars([Bar("<a>", 5, (2, 10), "note"), Bar("b", 0, None, "")], 4, show)

    assert re.findall(r'class="fill" [^>]*width="([^"]*)"', drawn) == [
        "50.000%",
        "0.000%",
    ]
    assert re.findall(r'class="mean" x1="([^"]*)"', drawn) == ["40.000%"] * 2
    first = re.search(r'class="whisker" x1="([^"]*)" x2="([^"]*)"', drawn)
    assert first is not None
    assert first.groups() == ("20.000%", "100.000%")
    assert drawn.count('class="whisker"') == 3
    assert "&lt;a&gt;" in drawn
    assert ">5 %</span>" in drawn


def test_parts_of_a_column_stand_on_one_another() -> None:
    # 3 and 1 on a scale to 4.
    drawn = columns([Column("a", [3, 1], "")], ["x", "y"], show)

    shapes = re.findall(
        r'class="(part-.)" x="[^"]*" y="([^"]*)".*?height="([^"]*)"', drawn
    )
    assert shapes == [("part-0", "25.000%", "75.000%"), ("part-1", "0.000%", "25.000%")]
    assert "<b>4 <span>%</span></b>" in drawn


def test_a_curve_goes_through_its_points() -> None:
    line = Curve("dev", [(0, 1), (10, 0.5)], is_marked=True)

    drawn = curves([line, Curve("train", [(5, 0)])], 20, "update", show)

    assert 'points="0.000,0.000 50.000,50.000"' in drawn
    assert "<title>dev: 0.5 % (update 10)</title>" in drawn
    assert drawn.count("<circle") == 2
    assert 'class="legend"' in drawn


def test_one_curve_needs_no_legend() -> None:
    assert "legend" not in curves([Curve("a", [(1, 1)])], 1, "update", show)
