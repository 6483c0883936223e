"""Docstrings for the API reference, where griffe would read something else into them.

It takes a legend (`Shapes: B utterances, …` with indented lines below) for a box with a
title. On one line, it is the paragraph that it was meant to be.
"""

import re
from typing import Any

import griffe

_LEGEND = re.compile(r"^[A-Z]\w+: \S.*(?:\n +\S.*)+", re.MULTILINE)


class LegendsOnOneLine(griffe.Extension):
    """Join the lines of legends."""

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        """Change the docstring of an object when griffe has read it."""
        if obj.docstring:
            obj.docstring.value = join_legends(obj.docstring.value)


def join_legends(text: str) -> str:
    r"""Join a line such as "Word: text" and the indented lines that follow it.

    >>> join_legends("Shapes: B rows,\n        J steps.\n\nArgs:\n    a: b")
    'Shapes: B rows, J steps.\n\nArgs:\n    a: b'
    """
    return _LEGEND.sub(lambda legend: re.sub(r"\n +", " ", legend[0]), text)
