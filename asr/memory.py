"""The memory of this process, and its end; see `runtime` for what needs torch."""

import atexit
import ctypes
import gc
import os
import sys
from contextlib import suppress
from typing import NoReturn


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors of up to 32 MiB for others.

    glibc hands all but small ones back to the system, which blanks them again page by
    page: up to a sixth of a training step on a CPU. Kept, larger ones would leave holes
    of gigabytes. Other C libraries have no such setting.
    """
    trim_threshold, mmap_threshold, most = -1, -3, 2**25
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, most)
        libc.mallopt(trim_threshold, 2**31 - 1)


def return_freed_memory() -> None:
    """Hand freed memory back to the system, even after `keep_freed_memory`."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def end_process(status: int) -> NoReturn:
    """End this process without Python's taking torch to pieces: 0.3 s and 120 MB.

    A process of a team ends so, too: a thread of gloo frees the last tensor when it
    comes to it, and where Python is being taken to pieces by then, it aborts the
    process.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream:  # a closed one is None
            stream.flush()
    os._exit(status)
