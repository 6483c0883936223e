"""HTML that cannot be broken by what is filled into it: all text is escaped.

Text that is HTML already is an `Html`; whatever else is filled in is plain text.

>>> markup("<b>{}</b>", "A & B")
'<b>A &amp; B</b>'
>>> markup("<p>{}</p>", markup("<b>{}</b>", "<"))
'<p><b>&lt;</b></p>'
"""

import html
from collections.abc import Iterable, Sequence
from importlib.resources import files
from string import Template

_PAGES = files("asr") / "assets" / "pages" / "reports"


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def markup(template: str, *values: object) -> Html:
    """Fill the {} of a piece of HTML."""
    return Html(template.format(*map(_escaped, values)))


def fill(template: str, /, **values: object) -> Html:
    """Fill the $names of a template, named by its file among the assets."""
    escaped = {key: _escaped(value) for key, value in values.items()}
    return Html(Template(asset(template)).substitute(escaped))


def asset(name: str) -> Html:
    """Read a template, style sheet or script as it is."""
    return Html((_PAGES / name).read_text(encoding="utf-8"))


def join(parts: Iterable[Html]) -> Html:
    """Put pieces one behind the other."""
    return Html("".join(parts))


def table(
    header: Sequence[str], rows: Iterable[Sequence[object]], kind: str = "texts"
) -> Html:
    """Make a table of texts or of numbers; its first column names the rows."""
    titles = join(markup("<th scope='col'>{}</th>", title) for title in header)
    return markup(
        "<div class='scroll'><table class='{}'><thead><tr>{}</tr></thead>"
        "<tbody>{}</tbody></table></div>",
        kind,
        titles,
        join(markup("<tr>{}</tr>", _cells(row)) for row in rows),
    )


def _cells(row: Sequence[object]) -> Html:
    name, *values = row
    head = markup("<th scope='row'>{}</th>", name)
    return join([head, *(markup("<td>{}</td>", value) for value in values)])


def _escaped(value: object) -> str:
    return value if isinstance(value, Html) else html.escape(str(value))
