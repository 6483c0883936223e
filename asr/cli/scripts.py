"""What a command or a script does with the errors of its user."""

import errno
import io
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from asr.cli.options import one_line
from asr.errors import AsrError, AsrWarning
from asr.version import DISTRIBUTION

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ENDS = (signal.SIGTERM, signal.SIGHUP)
_OF_ONNX = ("onnx", "onnxruntime")
_SAME = 5.0
"""Seconds within which further signals are of the same end: they often come in pairs,
and what cleans up is not to be stopped by the second."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP asks this process to end; it cleans up first, as at Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number


def is_full(error: BaseException | None) -> bool:
    """Return whether an error of the system is that of a full disk."""
    return isinstance(error, OSError) and error.errno in _FULL


def run_main(name: str, work: Callable[[], int | None]) -> int:
    """Do a program's work; print an error that its user can correct in one line.

    Args:
        name: of the program; the line begins with it.
        work: returns the exit status, or nothing where all went well.

    Returns:
        The exit status: that of the work; 1 after an error, 130 after an interrupt,
        143 after SIGTERM, 129 after SIGHUP.
    """
    _print_anything()
    try:
        with _short_warnings(name), _remarks(name), _ended_in_order():
            status = int(work() or 0)
        if sys.stdout:  # closed, it is None
            sys.stdout.flush()  # a full disk is noticed here at the latest
        return status
    except AsrError as error:
        print(one_line(f"{name}: {error}"), file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if not error.name or "." in error.name:
            raise  # a part of a package that is there, or of this one
        print(f"{name}: {_missing(error.name)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"{name}: stopped", file=sys.stderr)
        return int(getattr(stop, "status", 130))
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, say) has had enough
        return 1
    except OSError as error:
        if is_full(error):
            reason = f"cannot write what it found: {error.strerror}"
        elif error.filename is not None and error.strerror:
            path = error.filename
            place = path.decode(errors="replace") if isinstance(path, bytes) else path
            reason = f"{place}: cannot be used ({error.strerror})"
        else:
            raise
        print(one_line(f"{name}: {reason}"), file=sys.stderr)
        return 1


def _missing(package: str) -> str:
    """Return what to do about a package that is not installed."""
    if package in _OF_ONNX:
        remedy = f'pip install "{DISTRIBUTION}[onnx]"'
    else:
        remedy = (
            f"pip install {DISTRIBUTION} for all commands; without torch only asr "
            "transcribe, with a model of asr export --onnx, and asr doctor run"
        )
    return f"{package} is not installed, which this command needs ({remedy})"


def _print_anything() -> None:
    """Let what the encoding of a terminal or a pipe has not be printed as \\xfc."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Raise `Terminated` where SIGTERM or SIGHUP would end the process at once.

    Where they are ignored (nohup), or somebody else answers them, that stays; and where
    torchrun has started the process, which ends the others of a team so.
    """
    of_team = "TORCHELASTIC_RUN_ID" in os.environ
    if of_team or threading.current_thread() is not threading.main_thread():
        yield
        return
    last = -_SAME

    def end(number: int, frame: object) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before > _SAME:
            raise Terminated(number)

    replaced = [one for one in _ENDS if signal.getsignal(one) == signal.SIG_DFL]
    for number in replaced:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _short_warnings(name: str) -> Iterator[None]:
    """Print warnings for users in one line, without their place in the code."""
    usual = warnings.formatwarning

    def short(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if issubclass(category, FutureWarning | AsrWarning):
            return f"{name}: {one_line(str(message))}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = short
    try:
        yield
    finally:
        warnings.formatwarning = usual


@contextmanager
def _remarks(name: str) -> Iterator[None]:
    """Print what is odd about recordings, each in one line."""

    class Printing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            from asr.progress import print_beside

            print_beside(one_line(f"{name}: {record.getMessage()}"))

    logger, handler = logging.getLogger("asr.audio"), Printing()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
