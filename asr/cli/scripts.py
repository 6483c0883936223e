"""What a command or a script does with the errors of its user."""

import errno
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from asr.cli.options import one_line
from asr.errors import AsrError, AsrWarning

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run_main(name: str, work: Callable[[], int | None]) -> int:
    """Do a program's work; print an error that its user can correct in one line.

    Args:
        name: of the program; the line begins with it.
        work: returns the exit status, or nothing where all went well.

    Returns:
        The exit status: that of the work; 1 after an error, 130 after an interrupt,
        143 after a SIGTERM that a training has noted.
    """
    try:
        with _short_warnings(name):
            status = int(work() or 0)
        if sys.stdout:  # closed, it is None
            sys.stdout.flush()  # a full disk is noticed here at the latest
        return status
    except AsrError as error:
        print(one_line(f"{name}: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:  # `Stopped` by another signal, maybe
        print(f"{name}: stopped", file=sys.stderr)
        return int(getattr(stop, "status", 130))
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, say) has had enough
        return 1
    except OSError as error:
        if error.errno not in _FULL:
            raise
        print(f"{name}: cannot write what it found: {error.strerror}", file=sys.stderr)
        return 1


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
