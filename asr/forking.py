"""How workers are started, and what one does: items come in, results go out.

    this process ── spawns ──> the first one, which begins: imports, loads a model
                                 ├── forks ──> a worker      each has a socket of its
                                 └── forks ──> a worker      own to this process

What the first one holds is there once: a forked process shares its memory until one of
them writes there. It has one thread when it forks, and this process, which may have
many, forks nothing.

Where forking is not safe, or `begin` makes what a fork cannot use (CUDA's context),
each worker begins by itself.
"""

import gc
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, Pipe, wait
from queue import SimpleQueue
from select import select
from typing import Any, NoReturn, Protocol

from asr.imports import lasting

FORKS = sys.platform == "linux"
_LOOK = 1.0
"""Seconds after which a worker looks for its parent, if it was not woken before."""
_ORDER = struct.Struct("q")
"""To the first process: 0 to fork, or which process to wait for; and its answers."""


def is_running(pid: int) -> bool:
    """Return whether this machine has a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's
        pass
    return True


def end_with_parent() -> None:
    """End this process, a worker, as soon as the one that uses it has ended."""
    threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    while _has_parent():
        parent = parent_process()
        assert parent is not None
        parent.join(_LOOK)
    os._exit(1)


def _has_parent() -> bool:
    """Return whether the process runs that has spawned this one, or the first one.

    Where it has forked others, its end does not wake this process.
    """
    parent = parent_process()
    assert parent is not None
    assert parent.pid is not None
    return parent.is_alive() and is_running(parent.pid)


# In the process that uses workers


class Child(Protocol):
    """A worker's process."""

    def status(self) -> int | None:
        """Wait for its end; return its status, a signal as a negative number."""

    def kill(self) -> None:
        """End it at once, also one that is only being started; wait for its end."""


class Starter:
    """Starts workers. Several threads may use it.

    Args:
        begin: pickled; makes what each of them keeps.
        shared: whether forked processes can use what it makes.
    """

    def __init__(self, begin: bytes, shared: bool) -> None:
        self._begin, self._shared = begin, shared
        self._firsts = list[_First]()  # all but the last have been killed
        self._spawned = list[_Spawned]()
        self._lock, self._is_killed = threading.Lock(), False

    def start(self) -> tuple["Connection[Any, Any]", Child]:
        """Start a worker; return the connection to it, and its process.

        Raises:
            OSError: all were killed, and none is to follow.
        """
        with self._lock:
            if self._is_killed:
                raise ConnectionResetError("the workers were killed")
            ours, theirs = Pipe()
            with theirs:
                child: Child = self._fork(theirs) if FORKS else self._spawn(theirs)
        return ours, child

    def _fork(self, theirs: "Connection[Any, Any]") -> "_Forked":
        if self._firsts:
            with suppress(OSError):  # or else it was killed
                return self._firsts[-1].fork(theirs)
        self._firsts.append(_First(self._begin, self._shared))
        return self._firsts[-1].fork(theirs)

    def _spawn(self, theirs: "Connection[Any, Any]") -> "_Spawned":
        self._spawned.append(_Spawned(self._begin, theirs))
        return self._spawned[-1]

    def kill(self) -> None:
        """End all processes at once, also those that are only being started."""
        with self._lock:
            self._is_killed = True
        for first in self._firsts:
            first.kill()
        for worker in self._spawned:
            worker.kill()

    def close(self) -> None:
        """End what is left, once the workers have ended."""
        for first in self._firsts:
            first.close()


class _Spawned:
    """A worker that begins by itself."""

    def __init__(self, begin: bytes, theirs: "Connection[Any, Any]") -> None:
        self._process = get_context("spawn").Process(
            target=_begin_alone, args=(begin, theirs), daemon=True
        )
        self._lock = threading.Lock()  # one thread alone learns of the end
        self._process.start()

    def status(self) -> int | None:
        with self._lock:
            self._process.join()
            return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()
        self.status()


class _First:
    """The process that begins, and forks workers. It answers one order at a time."""

    def __init__(self, begin: bytes, shared: bool) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = get_context("spawn").Process(
            target=_fork_workers, args=(begin, shared, theirs), daemon=True
        )
        with theirs:
            self._process.start()
        self._answers, self._num_orders = list[int](), 0
        self._forked = list[_Forked]()
        self._lock = threading.RLock()

    def fork(self, theirs: "Connection[Any, Any]") -> "_Forked":
        """Order a worker.

        Raises:
            OSError: the process has ended.
        """
        with self._lock:
            socket.send_fds(self._orders, [_ORDER.pack(0)], [theirs.fileno()])
            forked = _Forked(self, self._num_orders)
            self._forked.append(forked)
            self._num_orders += 1
        return forked

    def wait(self, pid: int) -> int:
        """Wait for the end of a worker; return its status.

        Raises:
            OSError: the process has ended.
        """
        with self._lock:
            self._orders.send(_ORDER.pack(pid))
            self._num_orders += 1
            return self.answer(self._num_orders - 1)

    def answer(self, number: int) -> int:
        """Return the answer to an order.

        Raises:
            OSError: there is none: the process has ended.
        """
        with self._lock:
            while len(self._answers) <= number:
                content = self._orders.recv(_ORDER.size)
                if not content:
                    raise ConnectionResetError("the process has ended")
                self._answers.append(_ORDER.unpack(content)[0])
            return self._answers[number]

    def kill(self) -> None:
        """End it, and then the workers that it has forked by now."""
        self._process.kill()
        self._process.join()
        for one in self._forked:
            one.kill()

    def close(self) -> None:
        """End it; its workers have ended."""
        self._orders.close()
        self._process.join()


class _Forked:
    """A worker that the first process has forked, or will."""

    def __init__(self, first: _First, number: int) -> None:
        self._first, self._number, self._has_ended = first, number, False

    def status(self) -> int | None:
        if self._has_ended:
            return None
        self._has_ended = True
        try:
            return self._first.wait(self._first.answer(self._number))
        except OSError:
            return None

    def kill(self) -> None:
        if self._has_ended:
            return
        with suppress(OSError):  # it was never forked, or has ended
            pid = self._first.answer(self._number)
            descriptor = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                select([descriptor], [], [])
            finally:
                os.close(descriptor)


# In other processes


class _Failed:
    """In place of what a worker keeps: why it has not."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _begun(begin: bytes, shared: bool = True) -> Callable[[], Any]:
    """Begin, or only import what it takes; return what gives what a worker keeps."""
    try:
        with lasting():
            make: Callable[[], Any] = pickle.loads(begin)
        if not shared:
            return make
        kept = make()
    except Exception as error:
        kept = _Failed(error)
    gc.freeze()  # the collector's notes would be written all over the shared memory
    return lambda: kept


def _begin_alone(begin: bytes, connection: "Connection[Any, Any]") -> NoReturn:
    """Be a worker that was spawned."""
    end_with_parent()
    _work(connection, _begun(begin))


def _fork_workers(begin: bytes, shared: bool, orders: socket.socket) -> NoReturn:
    """Be the first process. It watches its parent without a thread, for it forks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the parent to end it
    give = _begun(begin, shared)
    parent = parent_process()
    assert parent is not None
    while _has_parent():
        if orders not in wait([orders, parent.sentinel], _LOOK):
            continue
        order, descriptors, *_ = socket.recv_fds(orders, _ORDER.size, 1)
        if not order:
            os._exit(0)
        (pid,) = _ORDER.unpack(order)
        if pid:
            answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        elif not (answer := os.fork()):
            orders.close()
            _work(Connection(descriptors[0]), give, watched=False)
        for descriptor in descriptors:
            os.close(descriptor)
        orders.send(_ORDER.pack(answer))
    os._exit(1)


def _work(
    connection: "Connection[Any, Any]",
    give: Callable[[], Any],
    watched: bool = True,
) -> NoReturn:
    """Be a worker: do one item after the other until the connection ends."""
    status = 1
    try:
        if not watched:
            end_with_parent()
        try:
            kept = give()
        except Exception as error:
            kept = _Failed(error)
        items = SimpleQueue[bytes | None]()
        threading.Thread(target=_receive, args=(connection, items), daemon=True).start()
        while item := items.get():
            connection.send_bytes(_result(kept, item))
        status = 0
    except OSError:
        status = 0  # nobody waits for the result any more
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(status)


def _receive(
    connection: "Connection[Any, Any]", items: "SimpleQueue[bytes | None]"
) -> None:
    """Take in what comes, so that whoever sends it need not wait; None is the end."""
    with suppress(OSError, EOFError):
        while True:
            items.put(connection.recv_bytes())
    with suppress(Exception):
        while True:
            items.get_nowait()  # nobody waits for them any more
    items.put(None)


def _result(kept: Any, item: bytes) -> bytes:
    """Do an item; return its number, what came of it, and what was raised, and where.

    Pickled they are (number, result, None) or (number, traceback, exception).
    """
    number = -1
    try:
        number, content = pickle.loads(item)
        function, argument = pickle.loads(content)
        if isinstance(kept, _Failed):
            raise kept.error
        return pickle.dumps((number, function(kept, argument), None))
    except BaseException as error:
        place = traceback.format_exc()
        try:
            return pickle.dumps((number, place, error))
        except Exception:
            return pickle.dumps((number, place, RuntimeError(repr(error))))
