from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asr.reports.attention_plot import draw_attention

PNG = b"\x89PNG\r\n"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures = list[Figure]()
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **settings: Any) -> None:
        figures.append(figure)
        save(figure, *args, **settings)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def names_of_rows(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_an_attention_picture_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "alpha.png"
    path.write_bytes(b"old")

    draw_attention(path, torch.eye(3, 9), "GO")

    assert path.read_bytes().startswith(PNG)


def test_a_picture_names_its_rows_and_covers_all_steps(
    drawn: list[Figure], tmp_path: Path
) -> None:
    draw_attention(tmp_path / "alpha.png", torch.eye(4, 9), "A B")

    (axes,) = drawn[0].axes
    assert names_of_rows(axes) == ["A", "\u00b7", "B", "\u220e"]
    assert tuple(axes.images[0].get_extent()) == (0, 9, 3.5, -0.5)


def test_weights_without_the_end_have_no_row_for_it(
    drawn: list[Figure], tmp_path: Path
) -> None:
    draw_attention(tmp_path / "alpha.png", torch.eye(2, 9), "GO")

    assert names_of_rows(drawn[0].axes[0]) == ["G", "O"]


def test_a_time_axis_is_in_seconds_where_the_step_is_known(
    drawn: list[Figure], tmp_path: Path
) -> None:
    draw_attention(tmp_path / "alpha.png", torch.eye(3, 9), "GO", seconds_per_step=0.5)

    (axes,) = drawn[0].axes
    assert tuple(axes.images[0].get_extent()) == (0, 4.5, 2.5, -0.5)
    assert axes.get_xlabel() == "time [s]"


def test_subwords_are_named_with_a_dot_where_a_word_begins(
    drawn: list[Figure], tmp_path: Path
) -> None:
    draw_attention(tmp_path / "alpha.png", torch.eye(4, 9), [" GO", "ES", " ON"])

    names = names_of_rows(drawn[0].axes[0])
    assert names == ["\u00b7GO", "ES", "\u00b7ON", "\u220e"]


def test_the_spectrogram_stands_above_on_the_same_seconds(
    drawn: list[Figure], tmp_path: Path
) -> None:
    waveform = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))

    draw_attention(tmp_path / "alpha.png", torch.eye(3, 10), "GO", waveform=waveform)

    top, axes = drawn[0].axes
    assert top.get_ylabel() == "frequency [Hz]"
    assert top.get_xlim() == axes.get_xlim() == (0, 0.5)
    assert tuple(axes.images[0].get_extent()) == (0, 0.5, 2.5, -0.5)


def test_a_base_and_its_marks_share_a_row(drawn: list[Figure], tmp_path: Path) -> None:
    draw_attention(tmp_path / "alpha.png", torch.eye(5, 9), "e\u0323\u0302x")

    (axes,) = drawn[0].axes
    assert names_of_rows(axes) == ["e\u0323\u0302", "x", "\u220e"]
    shown = axes.images[0].get_array()
    assert shown is not None
    assert shown.shape == (3, 9)
