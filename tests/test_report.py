import base64
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asr.report import draw_attention, draw_segment, write_page
from asr.transcript import Alignment, Alternative, Flag, Segment, Transcript

PNG = b"\x89PNG\r\n"


def segment(text: str = "A <B>") -> Segment:
    weights = torch.eye(len(text) + 1, 25)
    return Segment(
        start=0.0,
        end=1.0,
        text=text,
        words=(),
        confidence=0.0,
        flags=(Flag.UNFINISHED,),
        nbest=(Alternative(text, -0.5), Alternative("OTHER", -0.75)),
        alignment=Alignment(text + "\u220e", weights, 0.04),
    )


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


def test_weights_without_the_end_have_no_row_for_it(
    drawn: list[Figure], tmp_path: Path
) -> None:
    draw_attention(tmp_path / "alpha.png", torch.eye(2, 9), "GO")

    assert names_of_rows(drawn[0].axes[0]) == ["G", "O"]


def test_a_page_holds_text_pictures_and_alternatives_and_needs_nothing_else(
    tmp_path: Path,
) -> None:
    soundfile.write(tmp_path / "a&b.wav", torch.randn(16_000).numpy() * 0.1, 16_000)
    page = tmp_path / "page.html"

    write_page(page, tmp_path / "a&b.wav", Transcript((segment(),), 1.0))

    content = page.read_text(encoding="utf-8")
    assert "<title>a&amp;b.wav" in content
    assert content.count("A &lt;B&gt;") == 2  # the text, and an alternative
    assert "<B>" not in content
    assert "OTHER" in content
    assert "-0.750" in content
    assert "may be invented" in content
    assert "http" not in content
    picture = re.search(r"data:image/png;base64,([^']+)'", content)
    assert picture is not None
    assert base64.b64decode(picture[1]).startswith(PNG)


def test_the_page_of_silence_says_so(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", torch.zeros(16_000).numpy(), 16_000)
    silent = Segment(0.0, 1.0, "", (), 0.0, (Flag.SILENCE,), (), None)

    write_page(tmp_path / "p.html", tmp_path / "a.wav", Transcript((silent,), 1.0))

    content = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "(nothing was said)" in content


def test_spectrogram_and_attention_share_their_time_axis(drawn: list[Figure]) -> None:
    draw_segment(torch.randn(16_000), replace(segment(), end=0.93))

    above, below = drawn[0].axes
    assert above.get_xlim() == below.get_xlim() == (0.0, 0.93)
    assert names_of_rows(below) == ["A", "\u00b7", "<", "B", ">", "\u220e"]


def test_a_segment_is_drawn_at_its_place_in_the_recording(drawn: list[Figure]) -> None:
    moved = replace(segment(), start=2.0, end=3.0)

    draw_segment(torch.randn(48_000), moved)

    above, below = drawn[0].axes
    assert above.get_xlim() == (2.0, 3.0)
    assert tuple(below.images[0].get_extent()[:2]) == (2.0, 3.0)
    assert tuple(above.images[0].get_extent()[:2]) == (2.0, 3.01)  # 101 frames


def test_a_segment_without_alignment_cannot_be_drawn() -> None:
    silent = Segment(0.0, 1.0, "", (), 0.0, (Flag.SILENCE,), (), None)

    with pytest.raises(ValueError, match="alignment=True"):
        draw_segment(torch.zeros(16_000), silent)
