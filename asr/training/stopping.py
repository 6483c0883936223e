"""Stopping a training in order: by Ctrl-C, or by SIGTERM, as a system asks for it.

The first signal is noted. Training ends at the next place from which it can go on,
after an update, writes a checkpoint there, and raises `Stopped`. A second signal of the
same kind acts at once, as if nothing of this were there.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from asr.memory import end_process

_noted = 0  # the signal that this process was asked to stop by
_NOTE = b"\nasr: stops after this update, with a checkpoint (once more: at once)\n"


class Stopped(KeyboardInterrupt):
    """A training was stopped, and goes on from a checkpoint.

    Args:
        number: of the signal.
        reason: where it stopped.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number

    @property
    def status(self) -> int:
        """The exit status of a program that this signal has ended."""
        return 128 + self.number


class StopRequest:
    """Whether a signal came that asks to stop, and which one."""

    def __init__(self) -> None:
        self.number = 0
        """Of the signal; 0 where none came."""


@contextmanager
def noted_signals(
    note: Callable[[int], None] | None = None, *, quiet: bool = False
) -> Iterator[StopRequest]:
    """Note the first SIGINT or SIGTERM, in place of what they do.

    A signal that is ignored stays so. In a thread that is not the main one nothing is
    noted: only the main one can.

    Args:
        note: is called with the signal's number, too.
        quiet: whether to print nothing.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, before[signal.Signals(number)])
        global _noted
        request.number = _noted = request.number or number
        if not quiet:
            with suppress(OSError):  # print is not safe here
                os.write(2, _NOTE)
        if note:
            note(number)

    global _noted
    _noted = 0
    caught = [number for number, how in before.items() if how != signal.SIG_IGN]
    for number in caught:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        _noted = 0
        for number in caught:
            signal.signal(number, before[number])


def end_if_asked(seconds: float) -> None:
    """Wait so long, and end this process if it is, or was, sent a signal to end.

    It is for a process that has lost the others of its team: whoever has started them
    stops it, too, and there is nothing left that it could do in order.
    """
    if _noted:
        end_process(128 + _noted)
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    if not is_main or before == signal.SIG_IGN:
        time.sleep(seconds)
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        time.sleep(seconds)
    finally:
        signal.signal(signal.SIGTERM, before)
