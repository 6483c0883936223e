"""A worker process for a server: each call gives a future, which asyncio can await."""

import pickle
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any, Generic, NamedTuple, TypeVar

from asr.forking import end_with_parent
from asr.processes import uninterrupted

State = TypeVar("State")
Item = TypeVar("Item")
Result = TypeVar("Result")


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
