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
from concurrent.futures import Future, ThreadPoolExecutor
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


class WorkerEndedError(Exception):
    """The process of a worker has ended over what it worked on; the text is how."""


_serials = itertools.count()


class _Process:
    """A process, or none: it is started when it is sent something."""

    def __init__(self, starter: Starter) -> None:
        self._starter = starter
        self._child: Child | None = None
        self.connection: Connection[Any, Any] | None = None

    def send(self, message: bytes) -> int | None:
        """Send work: a function and an item, pickled.

        Returns:
            The serial number of its result: there may also be one of work that nobody
            asks for any more. None where the process has ended.
        """
        serial = next(_serials)
        try:
            if self.connection is None:
                with uninterrupted():
                    self.connection, self._child = self._starter.start()
            self.connection.send_bytes(pickle.dumps((serial, message)))
        except OSError:
            return None
        return serial

    def receive(self) -> tuple[int, Any, BaseException | None]:
        """Wait for a result: its serial number, what was returned, what was raised.

        Raises:
            WorkerEndedError: there is none.
        """
        assert self.connection is not None
        try:
            serial, found, error = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            raise WorkerEndedError(self.close()) from None
        if error is not None:
            error.__cause__ = RuntimeError(f"in a worker process:\n{found}")
        return serial, found, error

    def kill(self) -> None:
        """End it at once."""
        child = self._child
        if child is not None:
            child.kill()

    def close(self) -> str:
        """Wait until it has ended; return how."""
        status = None
        if self.connection is not None and self._child is not None:
            self.connection.close()
            status = self._child.status()
        self.connection = self._child = None
        return _end(status)


def _end(status: int | None) -> str:
    """Describe how a process has ended."""
    if status is None:  # which process there is to ask has ended, too
        return "has ended"
    if status == -signal.SIGKILL:
        return "was killed (memory?)"
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by signal {-status}"


class Worker(Generic[State]):
    """One process that is given one item after the other; who waits has a future.

    It is started with the first item. Where it has ended, another takes its place with
    the next one.

    Args:
        starter: of this worker, and of others that share memory with it.
    """

    def __init__(self, starter: Starter) -> None:
        self._process = _Process(starter)
        self._thread = ThreadPoolExecutor(1, "worker")

    def submit(
        self, function: Callable[[State, Item], Result], item: Item
    ) -> Future[Result]:
        """Have a function called with what the process keeps, and an item.

        Args:
            function: that the process can import by its name.
            item: can be pickled.

        Returns:
            What comes of it: the function's result or exception, or that of the
            beginning, or a `WorkerEndedError`.
        """
        return self._thread.submit(self._call, function, item)

    def _call(self, function: Callable[[State, Item], Result], item: Item) -> Result:
        message = pickle.dumps((function, item))
        if self._process.send(message) is None:  # it has ended while it waited
            how = self._process.close()
            if self._process.send(message) is None:
                raise WorkerEndedError(how)
        _, found, error = self._process.receive()
        if error is not None:
            raise error
        return cast(Result, found)

    def kill(self) -> None:
        """End the process at once, and wait for that."""
        self._process.kill()

    def close(self) -> None:
        """Wait until the process has ended: it does what it was given already."""
        self._thread.submit(self._process.close)
        self._thread.shutdown()


@dataclass
class _Task:
    """An item under way."""

    number: int
    """Of the item, counted by who asked for it."""
    message: bytes
    """The function and the item, pickled."""
    serial: int | None = None
    """Of what was sent."""
    was_tried: bool = False
    """Whether a worker has ended over it."""


class _Queue:
    """One process, and the items that it has."""

    def __init__(self, starter: Starter) -> None:
        self._process = _Process(starter)
        self.tasks = deque[_Task]()

    @property
    def connection(self) -> "Connection[Any, Any] | None":
        """Where results come from."""
        return self._process.connection

    def give(
        self, number: int, function: Callable[[State, Item], Result], item: Item
    ) -> None:
        """Have a function called with what the process keeps, and an item."""
        task = _Task(number, pickle.dumps((function, item)))
        task.serial = self._process.send(task.message)
        if task.serial is None and not self.tasks:  # it has ended while it waited
            self._process.close()
            task.serial = self._process.send(task.message)
        self.tasks.append(task)

    def finished(self) -> Iterator[tuple[int, Any]]:
        """Wait for a result; yield the number of its item and what came of it.

        Raises:
            ConfigError: the process ended twice over the same item.
            BaseException: what the function raised.
        """
        try:
            serial, found, error = self._process.receive()
        except WorkerEndedError as ended:
            self._try_again(str(ended))
            return
        if serial != self.tasks[0].serial:
            return  # nobody asks for it any more
        task = self.tasks.popleft()
        if error is not None:
            raise error
        yield task.number, found

    def _try_again(self, how: str) -> None:
        """Give what an ended process had to a new one."""
        first = self.tasks[0]
        if first.was_tried:
            raise ConfigError(
                "processes: a worker was killed twice over the same work (where memory "
                "is short, use fewer processes, or shorter recordings)"
            )
        first.was_tried = True
        print(
            f"asr: a worker {how}: its work is tried once more",
            file=sys.stderr,
            flush=True,
        )
        for task in self.tasks:
            task.serial = self._process.send(task.message)

    def close(self) -> None:
        """Wait until the process has ended."""
        self._process.close()


class Workers(Generic[State]):
    """Processes that each keep something, and work on items with it."""

    def __init__(self, workers: list[_Queue]) -> None:
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
    workers = [_Queue(starter) for _ in range(processes)]
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
        with _blocked_interrupt():
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


@contextmanager
def _blocked_interrupt() -> Iterator[None]:
    """Start processes that no Ctrl-C reaches, in a thread that may not ignore it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
