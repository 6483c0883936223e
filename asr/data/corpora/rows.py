"""Text into rows and columns: only a line feed ends a row, and rows keep their line.

Source: RFC 4180 (CSV).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """Cells without the blanks around them."""

    line: int
    """Where it begins, from 1."""
    cells: list[str]


def plain_rows(content: str, delimiter: str) -> Iterator[Row]:
    """Yield the rows of a table in which a quote is a plain character.

    >>> [row.cells for row in plain_rows('a|"Go|on', "|")]
    [['a', '"Go', 'on']]
    """
    for number, line in enumerate(content.split("\n"), 1):
        yield Row(number, [cell.strip() for cell in line.split(delimiter)])


def quoted_rows(
    content: str, delimiter: str, is_row: Callable[[str], bool]
) -> Iterator[Row]:
    """Yield the rows of a table in which fields may stand in quotes, over lines, too.

    A quote is a plain character where none closes it before a delimiter or the end of a
    line; or only one behind further rows, which the field would swallow.

    Args:
        content: of the table.
        delimiter: between columns.
        is_row: whether a line within quotes is a row of the table nevertheless.

    >>> [row.cells for row in quoted_rows('a,"Go, ""he"" said"', ",", bool)]
    [['a', 'Go, "he" said']]
    """
    stop = re.escape(delimiter)
    quoted = re.compile(rf' *+"((?:[^"]|"")*+)"[ \r]*+(?=[{stop}\n]|\Z)')
    plain = re.compile(rf"[^{stop}\n]*+")
    position, number = 0, 1
    while position < len(content):
        start, cells, is_open = position, list[str](), True
        while is_open:
            found = quoted.match(content, position)
            if found and not any(map(is_row, found[1].split("\n")[1:])):
                cells.append(found[1].replace('""', '"').strip())
            else:
                found = plain.match(content, position)
                assert found is not None  # it matches nothing, too
                cells.append(found[0].strip())
            position = found.end() + 1
            is_open = content.startswith(delimiter, found.end())
        yield Row(number, cells)
        number += content.count("\n", start, position)


def are_quoted(lines: Sequence[str], delimiter: str) -> bool:
    """Return whether fields stand in quotes.

    With a comma or a semicolon a quote at the beginning of a field is one of those.
    With a tab or | it is usually a part of the text: fields stand in quotes where each
    that begins with one ends with one, too, and many do, or have a quote doubled.
    """
    fields = [field.strip("\r ") for line in lines for field in line.split(delimiter)]
    begun = [field for field in fields if field.startswith('"')]
    if delimiter in ",;":
        return bool(begun)
    closed = [f for f in begun if f.endswith('"') and len(f) > 1]
    are_many = len(closed) > len(fields) / 10
    are_doubled = any('""' in field[1:-1] for field in closed)
    return len(closed) == len(begun) and (are_many or are_doubled)
