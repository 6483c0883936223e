"""Worker processes, none of which outlives the process that started it.

Each worker keeps what it has begun with (a recognizer, say), and is given one item
after the other. A worker that the system kills, most often for want of memory, is
replaced, and the item that it worked on is tried once more.

A worker notices the end of its parent by itself, so that no signal, not even SIGKILL,
leaves one behind. Ctrl-C does not reach workers: their parent stops them.
"""

import ctypes
import itertools
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar, cast

from asr.errors import ConfigError
from asr.forking import Child, Starter

State = TypeVar("State")
Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2
"""Items that a worker has at most: it is not to wait for the next one."""
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_LATER = (signal.SIGTERM, signal.SIGHUP)
"""Signals that wait until a process is started."""


def end_with_starter() -> None:
    """Have this process, a command that is being started, sent SIGTERM at its end.

    It is for `subprocess`, as `preexec_fn`: the starter is then the thread that starts
    the command. Only Linux knows this.
    """
    set_parent_death_signal = 1
    if _libc:
        _libc.prctl(set_parent_death_signal, signal.SIGTERM)


@dataclass
class _Task:
    """An item under way."""

    number: int
    """Of the item, counted by who asked for it."""
    message: bytes
    """The function and the item, pickled."""
    serial: int = 0
    """Counts what is sent: of what nobody asks for any more a result may come."""
    was_tried: bool = False
    """Whether a worker has ended over it."""


_serials = itertools.count()


class _Worker:
    """One process, and the items that it has."""

    def __init__(self, starter: Starter) -> None:
        self._starter = starter
        self._child: Child | None = None
        self.connection: Connection[Any, Any] | None = None
        self.tasks = deque[_Task]()

    def give(
        self, number: int, function: Callable[[State, Item], Result], item: Item
    ) -> None:
        """Have a function called with what the process keeps, and an item."""
        task = _Task(number, pickle.dumps((function, item)))
        if not self._send(task) and not self.tasks:  # it has ended while it waited
            self.close()
            self._send(task)
        self.tasks.append(task)

    def _send(self, task: _Task) -> bool:
        """Send an item to the process; return whether it was there to take it."""
        if self.connection is None:
            with uninterrupted():
                self.connection, self._child = self._starter.start()
        task.serial = next(_serials)
        try:
            self.connection.send_bytes(pickle.dumps((task.serial, task.message)))
        except OSError:
            return False
        return True

    def finished(self) -> Iterator[tuple[int, Any]]:
        """Wait for a result; yield the number of its item and what came of it.

        Raises:
            ConfigError: the process ended twice over the same item.
            BaseException: what the function raised.
        """
        assert self.connection is not None
        try:
            serial, found, error = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            self._try_again()
            return
        if serial != self.tasks[0].serial:
            return  # nobody asks for it any more
        task = self.tasks.popleft()
        if error is not None:
            raise error from RuntimeError(f"in a worker process:\n{found}")
        yield task.number, found

    def _try_again(self) -> None:
        """Give what an ended process had to a new one."""
        first = self.tasks[0]
        if first.was_tried:
            raise ConfigError(
                "processes: a worker was killed twice over the same work (where memory "
                "is short, use fewer processes, or shorter recordings)"
            )
        first.was_tried = True
        print(
            f"asr: a worker {_end(self.close())}: its work is tried once more",
            file=sys.stderr,
            flush=True,
        )
        for task in self.tasks:
            self._send(task)

    def close(self) -> int | None:
        """Wait until the process has ended; return its status, if it is known."""
        if self.connection is None or self._child is None:
            return None
        self.connection.close()
        status = self._child.status()
        self.connection = self._child = None
        return status


def _end(status: int | None) -> str:
    """Describe how a process has ended."""
    if status == -signal.SIGKILL:
        return "was killed (memory?)"
    if status is None or status >= 0:
        return f"ended with status {status}"
    return f"was ended by signal {-status}"


class Workers(Generic[State]):
    """Processes that each keep something, and work on items with it."""

    def __init__(self, workers: list[_Worker]) -> None:
        self._workers = workers

    def completed(
        self, function: Callable[[State, Item], Result], items: Iterable[Item]
    ) -> Iterator[tuple[int, Result]]:
        """Yield the number of each item and what came of it, as they are done.

        Args:
            function: that the processes can import by its name; its first argument is
                what each of them keeps.
            items: are taken when there is a worker for them.

        Raises:
            ConfigError: a process ended twice over the same item.
            Exception: what the function, or the beginning of a worker, raised.
        """
        return self._results(function, items, {})

    def in_order(
        self, function: Callable[[State, Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """Yield what came of each item, in their order; see `completed`."""
        early, turn = dict[int, Result](), 0
        for number, result in self._results(function, items, early):
            early[number] = result
            while turn in early:
                yield early.pop(turn)
                turn += 1

    def _results(
        self,
        function: Callable[[State, Item], Result],
        items: Iterable[Item],
        early: Sized,
    ) -> Iterator[tuple[int, Result]]:
        """Yield results as they are done, and take no item while many are early."""
        numbered = enumerate(items)
        try:
            while True:
                self._fill(function, numbered, early)
                busy = {one.connection: one for one in self._workers if one.tasks}
                if not busy:
                    return
                for ready in wait([one for one in busy if one]):
                    yield from busy[cast(Any, ready)].finished()
        finally:
            for worker in self._workers:
                worker.tasks.clear()

    def _fill(
        self,
        function: Callable[[State, Item], Result],
        numbered: Iterator[tuple[int, Item]],
        early: Sized,
    ) -> None:
        """Give each worker its items, as long as there are any."""
        most = _AHEAD * len(self._workers)
        while sum(len(one.tasks) for one in self._workers) + len(early) < most:
            if (taken := next(numbered, None)) is None:
                return
            worker = min(self._workers, key=lambda one: len(one.tasks))
            worker.give(taken[0], function, taken[1])


@contextmanager
def worker_pool(
    begin: Callable[[], State], processes: int, shared: bool = True
) -> Iterator[Workers[State]]:
    """Give workers that end with the block; they are started when they are needed.

    Args:
        begin: makes what each of them keeps; can be pickled.
        processes: how many.
        shared: whether it may be made once for all of them, who are then forked.
    """
    starter = Starter(pickle.dumps(begin), shared)
    workers = [_Worker(starter) for _ in range(processes)]
    try:
        yield Workers(workers)
    except BaseException:  # whatever stops this process stops them, too
        starter.kill()
        raise
    finally:
        for worker in workers:
            worker.close()
        starter.close()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Start processes whole, and such that Ctrl-C does not reach them.

    They inherit that SIGINT is ignored: it is for this one to stop them. What else
    asks this one to end waits until they are started: half of one would complain.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = list[int]()
    before = {number: signal.getsignal(number) for number in _LATER}
    deferred = [number for number, how in before.items() if callable(how)]
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in deferred:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt)
        for number in deferred:
            signal.signal(number, before[number])
        for late in dict.fromkeys(came):
            os.kill(os.getpid(), late)
