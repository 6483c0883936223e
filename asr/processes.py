"""Worker processes, none of which outlives the process that started it.

Each worker keeps what it has begun with (a recognizer, say), and is given one item
after the other. A worker that the system kills, most often for want of memory, is
replaced, and the item that it worked on is tried once more.

A worker notices the end of its parent by itself, so that no signal, not even SIGKILL,
leaves one behind. Ctrl-C does not reach workers: their parent stops them.
"""

import ctypes
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import Any, Generic, NamedTuple, TypeVar

from asr.errors import ConfigError

State = TypeVar("State")
Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2
"""Items that a worker has at most: it is not to wait for the next one."""
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_LATER = (signal.SIGTERM, signal.SIGHUP)
"""Signals that wait until a process is started."""
_LOOK = 1.0
"""Seconds after which a worker looks for its parent, if it was not woken before."""


def end_with_parent() -> None:
    """End this process, a worker, as soon as the one that started it has ended."""
    threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    parent = parent_process()
    assert parent is not None
    assert parent.pid is not None
    # Where the parent has forked others, its end does not wake this process.
    while parent.is_alive() and is_running(parent.pid):
        parent.join(_LOOK)
    os._exit(1)


def is_running(pid: int) -> bool:
    """Return whether this machine has a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's
        pass
    return True


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
    function: Callable[[Any, Any], Any]
    item: Any
    future: Future[Any]
    was_tried: bool = False
    """Whether a worker has ended over it."""


class Worker(Generic[State]):
    """One process; where the system has ended it, another can take its place.

    Args:
        begin: makes what the process keeps; can be pickled.
    """

    def __init__(self, begin: Callable[[], State]) -> None:
        self._begin = pickle.dumps(begin)
        self._processes = list[BaseProcess]()
        self._start()

    def _start(self) -> None:
        self._executor = ProcessPoolExecutor(
            1, get_context("spawn"), _begin_work, (self._begin,)
        )

    def submit(
        self, function: Callable[[State, Item], Result], item: Item
    ) -> Future[Result]:
        """Have a function called with what the process keeps, and an item.

        The process is started, if there is none.

        Args:
            function: that the process can import by its name.
            item: can be pickled.

        Returns:
            What comes of it: the function's result or exception, or that of the
            beginning, or a `BrokenProcessPool` where the process has ended.
        """
        with uninterrupted():
            try:
                future = self._executor.submit(_work, function, item)
            except BrokenProcessPool:  # it has ended while it had nothing to do
                self._start()
                future = self._executor.submit(_work, function, item)
            self._processes = list((self._executor._processes or {}).values())
        return future

    def replace(self) -> str:
        """Put a new process in place of one that has ended; return how it did."""
        self.close()
        how = self._end()
        self._start()
        return how

    @property
    def pids(self) -> list[int]:
        """The number of the process, if there is one."""
        return [one.pid for one in self._processes if one.pid is not None]

    def _end(self) -> str:
        """Describe how the process has ended."""
        status = next((one.exitcode for one in self._processes), None)
        if status == -signal.SIGKILL:
            return "was killed (memory?)"
        if status is None or status >= 0:
            return f"ended with status {status}"
        return f"was ended by signal {-status}"

    def kill(self) -> None:
        """End the process at once, also one that is only being started."""
        started = list((self._executor._processes or {}).values())
        for process in {*self._processes, *started}:
            process.kill()

    def close(self) -> None:
        """Wait until the process has ended."""
        self._executor.shutdown(cancel_futures=True)


class _BusyWorker(Worker[State]):
    """One process, and the items that it has."""

    def __init__(self, begin: Callable[[], State]) -> None:
        super().__init__(begin)
        self.tasks = deque[_Task]()

    def give(
        self, number: int, function: Callable[[State, Item], Result], item: Item
    ) -> None:
        """Have a function called with what the process keeps, and an item."""
        self.tasks.append(_Task(number, function, item, self.submit(function, item)))

    def finished(self) -> Iterator[tuple[int, Any]]:
        """Take out what is done: the number of each item, and what came of it.

        Raises:
            ConfigError: the process ended twice over the same item.
            Exception: what the function raised.
        """
        while self.tasks and self.tasks[0].future.done():
            if isinstance(self.tasks[0].future.exception(), BrokenProcessPool):
                self._try_again()
                return
            task = self.tasks.popleft()
            yield task.number, task.future.result()

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
            f"asr: a worker {self.replace()}: its work is tried once more",
            file=sys.stderr,
            flush=True,
        )
        for task in self.tasks:
            task.future = self.submit(task.function, task.item)


class Workers(Generic[State]):
    """Processes that each keep something, and work on items with it."""

    def __init__(self, workers: list[_BusyWorker[State]]) -> None:
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
                futures = [task.future for one in self._workers for task in one.tasks]
                if not futures:
                    return
                wait(futures, return_when=FIRST_COMPLETED)
                for worker in self._workers:
                    yield from worker.finished()
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
def worker_pool(begin: Callable[[], State], processes: int) -> Iterator[Workers[State]]:
    """Give workers that end with the block; they are started when they are needed.

    Args:
        begin: makes what each of them keeps; can be pickled.
        processes: how many.
    """
    workers = [_BusyWorker(begin) for _ in range(processes)]
    try:
        yield Workers(workers)
    except BaseException:  # whatever stops this process stops them, too
        for worker in workers:
            worker.kill()
        raise
    finally:
        for worker in workers:
            worker.close()


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


# In a worker process


class _Failed(NamedTuple):
    """In place of what a worker keeps: why it has not."""

    error: Exception


_kept: Any = None


def _begin_work(begin: bytes) -> None:
    """Begin a worker; what it needs is imported by unpickling, once it is watched."""
    global _kept
    end_with_parent()
    try:
        _kept = pickle.loads(begin)()
    except Exception as error:
        _kept = _Failed(error)


def _work(function: Callable[[Any, Any], Any], item: Any) -> Any:
    if isinstance(_kept, _Failed):
        raise _kept.error
    return function(_kept, item)
