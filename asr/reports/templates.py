"""The templates of all pages, in `assets/pages`: whatever is filled in is escaped.

A name that a template wants and is not given is an error, and text that a template
rendered is HTML for the next one.
"""

import re
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

__all__ = ["Markup", "inlined", "render", "source"]

_PAGES = files("asr") / "assets" / "pages"


def source(name: str) -> Markup:
    """Read a template, style sheet or script, named by its path, as it is."""
    return Markup(_PAGES.joinpath(*name.split("/")).read_text(encoding="utf-8"))


def inlined(name: str) -> Markup:
    """Read a module of JavaScript for a page that has all modules in one.

    Its imports are left out, and what it exports is everybody's.

    >>> "class Player" in inlined("recording/player.js")
    True
    """
    code = re.sub(r"(?m)^import .*\n", "", source(name))
    return Markup(re.sub(r"(?m)^export ", "", code))


def render(template: str, /, **values: object) -> Markup:
    """Fill a template, named by its path.

    Raises:
        jinja2.UndefinedError: a value is missing.
    """
    return Markup(_ENVIRONMENT.get_template(template).render(values))


_ENVIRONMENT = Environment(
    loader=FunctionLoader(source),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.globals.update(source=source, inlined=inlined)
_ENVIRONMENT.policies["json.dumps_kwargs"] = {}  # keys stay in their order
