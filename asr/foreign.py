"""What comes from outside is checked once, where it enters.

Models, manifests and settings are files that others wrote: by accident or on purpose
they hold numbers of 400 digits, lists nested a thousand times and lone surrogates, or
they are no files at all but pipes and devices that never end. The readers of this
package let their content in through this module, so that the code behind them meets
plain tables of plain numbers and texts only.

What is wrong is an `OSError` (of the file) or a `ValueError` (of its content) with a
reason of a few words; the reader, which knows the place, makes its own error of it.
"""

import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin
from typing import get_type_hints as type_hints

Kind = TypeVar("Kind")

# How large things may be. What real models and corpora hold stays far below.
MOST_BYTES = 2**24
"""Of a file of a model but for its weights: model.json has 2 kB, a card 10."""
MOST_SETTINGS = 2**18
"""Of settings in YAML, which takes longer to read than anything else: 2 kB."""
MOST_IN_A_LINE = 2**24
"""Characters of a manifest: the text of an hour has 60,000."""
MOST_DEPTH = 32
"""Tables and lists inside of each other: model.json has 3."""
MOST_SECONDS = 1e7
"""Of a recording: a hundred days."""
LARGEST = 2**63 - 1
"""Of whole numbers."""

_TOKENS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


# Files


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """Read a file that is not larger than a file of its kind can be.

    Raises:
        OSError: it cannot be read, is larger, or is none: a pipe, a device, a folder.
    """
    check_file(path, most)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:  # it grew
        raise _refused(f"it has more than {most} bytes", path)
    return content


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Read a text in UTF-8; a byte order mark is left out.

    Raises:
        OSError: as `read_file`.
        ValueError: it is not UTF-8.
    """
    return as_text(read_file(path, most))


def as_text(content: bytes) -> str:
    """Return the text that bytes stand for, as `read_text` does."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8 text") from error


def check_file(path: Path, most: int | None = None) -> None:
    """Refuse what is no file before it is opened: that may take for ever.

    Raises:
        OSError: as `read_file`.
    """
    try:
        found = path.stat()
    except ValueError as error:
        raise _refused("its name is impossible", path) from error
    if not stat.S_ISREG(found.st_mode):
        raise _refused("it is no file", path)
    if most is not None and found.st_size > most:
        raise _refused(f"it has {found.st_size} bytes, at most {most} can be", path)


def read_lines(path: Path) -> Iterator[str]:
    """Read the lines of a text in UTF-8, with their ends; only a line feed ends one.

    A byte order mark is left out, as some editors write one.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8, or a line never ends.
    """
    try:
        file = path.open(encoding="utf-8-sig", newline="\n")
    except ValueError as error:
        raise _refused("its name is impossible", path) from error
    with file:
        try:
            while line := file.readline(MOST_IN_A_LINE):
                if len(line) == MOST_IN_A_LINE:
                    raise ValueError(f"a line has over {MOST_IN_A_LINE} characters")
                yield line
        except UnicodeDecodeError as error:
            raise ValueError("is not UTF-8 text") from error


def _refused(reason: str, path: Path) -> OSError:
    return OSError(errno.EINVAL, reason, str(path))


# Text and numbers


def check_path(path: str, what: str) -> None:
    """Refuse a path that no file can have.

    Raises:
        ValueError: it holds a zero byte, or a lone surrogate other than those that
            stand for bytes of a name that is not UTF-8.
    """
    try:
        name = os.fsencode(path)
    except UnicodeEncodeError:
        check_text(path, what)
        raise
    if b"\0" in name:
        raise ValueError(f"{what} holds a zero byte")


def check_name(name: str, what: str) -> None:
    r"""Refuse a name that would move a terminal's cursor.

    >>> check_name("a\x1b[2J", "id")
    Traceback (most recent call last):
        ...
    ValueError: id holds the control character '\x1b'

    Raises:
        ValueError: it holds a control character or a lone surrogate.
    """
    check_text(name, what)
    if found := _CONTROLS.search(name):
        raise ValueError(f"{what} holds the control character {found[0]!r}")


def check_text(text: str, what: str) -> None:
    r"""Refuse a text that no file can hold.

    Raises:
        ValueError: it holds a lone surrogate (as JSON's "\ud800" is).
    """
    if found := _SURROGATES.search(text):
        raise ValueError(f"{what} holds a lone surrogate, {found[0]!r}")


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Read JSON of plain numbers and texts that are not nested too deep.

    >>> parse_json('{"share": 0.5}')
    {'share': 0.5}

    Args:
        text: of UTF-8, where it is bytes.
        finite: whether to refuse NaN and Infinity, which Python writes for a loss.

    Raises:
        ValueError: it is none; or a number is infinite, none or above `LARGEST`, or a
            text holds a lone surrogate, or it is nested deeper than `MOST_DEPTH`.
    """
    if isinstance(text, bytes):
        text = as_text(text)
    text = text.removeprefix("\ufeff")  # a byte order mark
    if text.count("[") + text.count("{") > MOST_DEPTH and _depth(text) > MOST_DEPTH:
        raise ValueError(f"is nested deeper than {MOST_DEPTH} times")
    tree = (_DECODER if finite else _LOSSES).decode(text)
    if "\\u" in text:
        _check_texts(tree)
    return tree


def parse_table(text: str | bytes) -> dict[str, Any]:
    """Read JSON as `parse_json`, and refuse all but a table."""
    tree = parse_json(text)
    if not isinstance(tree, dict):
        raise ValueError("a JSON object was expected")
    return tree


def _depth(text: str) -> int:
    """Return how deep JSON is nested, without nesting anything."""
    depth = deepest = 0
    for token in _TOKENS.finditer(text):
        first = token[0][0]
        if first in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif first in "]}":
            depth -= 1
    return deepest


def _check_texts(tree: Any) -> None:
    if isinstance(tree, str):
        check_text(tree, "a text")
    elif isinstance(tree, list):
        for value in tree:
            _check_texts(value)
    elif isinstance(tree, dict):
        for key, value in tree.items():
            _check_texts(key)
            _check_texts(value)


def number_in(value: object, low: float, high: float) -> float:
    """Return what came out of JSON as a float.

    Raises:
        ValueError: it is no number, or not from `low` to `high`.
    """
    if not _fits(value, float):
        raise ValueError(f"a number was expected, not {value!r:.40}")
    number = cast(float, value)
    if not low <= number <= high:  # an int may be larger than any float
        raise ValueError(
            f"a number from {low:g} to {high:g} was expected, not {value!r:.40}"
        )
    return float(number)


def _whole(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > LARGEST:
        raise ValueError(f"the number {digits:.20}… is too large")
    return int(digits)


def _decimal(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits:.20} is too large")
    return number


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


_DECODER = json.JSONDecoder(
    parse_int=_whole, parse_float=_decimal, parse_constant=_no_number
)
_LOSSES = json.JSONDecoder(parse_int=_whole, parse_float=_decimal)


# Tables of settings


def settings_of(kind: type[Kind], tree: object) -> Kind:
    """Make a dataclass of what came out of JSON: names and types are checked.

    Args:
        kind: a dataclass. A whole number may stand for a float.
        tree: its fields by name; those that have a default may be missing.

    Raises:
        ValueError: it is no such table, or the dataclass refuses a value.
    """
    assert is_dataclass(kind)
    if not isinstance(tree, Mapping):
        raise ValueError(f"a table of {kind.__name__} was expected")
    hints = _hints(kind)
    known = {field.name for field in fields(kind) if field.init}
    for name, value in tree.items():
        if name not in known:
            raise ValueError(f"{kind.__name__} has no {name!r:.40}")
        if not _fits(value, hints[name]):
            wanted = getattr(hints[name], "__name__", str(hints[name]))
            raise ValueError(f"{name}: {wanted} was expected, not {value!r:.40}")
    try:
        return cast(Kind, kind(**tree))
    except TypeError as error:  # a field is missing
        raise ValueError(str(error).partition(" ")[2]) from error


@cache
def _hints(kind: type) -> dict[str, Any]:
    return type_hints(kind)


def _fits(value: object, wanted: Any) -> bool:
    """Return whether a value is of the type that a field is annotated with."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin in (list, tuple):
        of = inner[0]
        return isinstance(value, list | tuple) and all(_fits(one, of) for one in value)
    if origin is dict:
        return isinstance(value, dict)
    if wanted is Any:
        return True
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if wanted in (None, NoneType):
        return value is None
    return isinstance(value, wanted)
