"""Progress bars: on a terminal only, on standard error, gone when the work is done.

Lines that stand beside them, or report from hours of work.
"""

import os
import sys
from typing import Any

from tqdm import tqdm

PERCENT = "{desc}{percentage:5.1f} % |{bar}| {postfix}"
"""Layout of a training's bar, which goes from 0 to 100."""


def progress_bar(
    total: float, description: str, unit: str, *, layout: str | None = None
) -> "tqdm[Any]":
    """Begin a bar; `update(n)` moves it, `close()` or leaving a `with` ends it.

    Args:
        total: how much there is to do, in units.
        description: what is done.
        unit: what is counted.
        layout: tqdm's `bar_format`, where its own does not serve.
    """
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        bar_format=layout,
        disable=None,  # where standard error is no terminal
        leave=False,
        dynamic_ncols=True,
    )


def print_beside(line: str) -> None:
    """Print a line on standard error, where bars may be."""
    with tqdm.external_write_mode(sys.stderr):
        print(line, file=sys.stderr, flush=True)


def print_if_read(line: str) -> None:
    """Print a line on standard output, while somebody reads it.

    Work of hours is not to end with its reader (`head`, or a `tee` that Ctrl-C ended,
    too): from there on, nothing is written.
    """
    try:
        print(line, flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # for what is in the buffer, too
        os.close(nowhere)
