import pytest
from jinja2 import UndefinedError

from asr.reports.templates import inlined, render, source

NASTY = "<b> & \" '"
ESCAPED = "&lt;b&gt; &amp; &#34; &#39;"


def utterance(**changes: object) -> str:
    values: dict[str, object] = {
        "id": "u1",
        "about": "1.0 s",
        "rate": "0 %",
        "counts": "errors: 0",
        "recording": None,
        "pairs": [],
    }
    return render("reports/utterance.html", **{**values, **changes})


def test_what_is_filled_in_is_escaped() -> None:
    assert f"<h3>{ESCAPED}</h3>" in utterance(id=NASTY)
    assert f'src="{ESCAPED}"' in utterance(recording=NASTY)


def test_what_was_rendered_is_filled_in_as_it_is() -> None:
    inner = utterance(id=NASTY)
    assert inner in utterance(id=inner)


def test_what_is_filled_in_is_no_template() -> None:
    assert "<h3>{{ about }}</h3>" in utterance(id="{{ about }}")


def test_a_template_misses_no_value() -> None:
    with pytest.raises(UndefinedError, match="'id' is undefined"):
        render("reports/utterance.html")


def test_a_style_sheet_is_left_as_it_is() -> None:
    assert '"Segoe UI"' in source("base.css")


@pytest.mark.parametrize("name", ["player.js", "strip.js", "view.js", "page.js"])
def test_modules_in_one_page_need_no_import(name: str) -> None:
    lines = inlined(f"recording/{name}").split("\n")
    assert not [line for line in lines if line.startswith(("import", "export"))]
