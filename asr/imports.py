"""Imports that take less time: nothing is collected while they are made.

Importing torch makes half a million objects, all of which stay. Python's collector of
garbage would look through all of them again and again: a fifth of the time. It is left
out meanwhile, and never looks through them afterwards.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting() -> Iterator[None]:
    """Keep whatever objects the block makes out of the collector's sight.

    What is garbage by then stays, so it is for imports at the start of a process that
    belongs to the command alone.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
