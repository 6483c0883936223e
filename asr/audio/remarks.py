"""What is odd about a recording that is read all the same.

A remark is a line of the log, `path: what is odd (what helps)`, as a warning of the
logger `asr.audio`. It stops nothing. A program without logging has it on standard
error; one with logging sends it where it likes.
"""

import logging
from functools import lru_cache

LOGGER = logging.getLogger("asr.audio")
"""Of all remarks."""


def remark(place: str, text: str) -> None:
    """Log what is odd about a recording, once a process however often it is read.

    Args:
        place: the recording's path or name.
        text: what is odd, and what helps.
    """
    _once(f"{place}: {text}")


@lru_cache(maxsize=2**12)
def _once(line: str) -> None:
    # A name may hold anything, a line feed, too.
    shown = (c if c.isprintable() else repr(c)[1:-1] for c in line)
    LOGGER.warning("%s", "".join(shown))
