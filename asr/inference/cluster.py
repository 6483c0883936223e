"""Recognizers on the machines of a Ray cluster, or on the cores of this one.

Ray Data hands items to a pool of actors, one recognizer each, and takes back what came
of them in the order in which they are done. The items of a machine that is lost go to
others. All machines need this package, and the same files under the same paths.
"""

import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from asr.errors import ConfigError
from asr.inference.recognizer import Recognizer
from asr.memory import keep_freed_memory
from asr.runtime import use_one_thread

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_BLOCKS = 10_000
"""Into so many parts Ray Data cuts the items at most."""
_PATIENCE = 10.0
"""Seconds to wait for an answer from the address of a cluster."""
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would report to its maker
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or it warns that this will change
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # or it warns of how Ray Data starts actors
}
"""Of Ray, where the user has not set it otherwise."""


class Cluster(NamedTuple):
    """A Ray cluster."""

    address: str | None = None
    """host:port, auto, or ray://host:port; None for $RAY_ADDRESS or, where that is not
    set, for the cores of this machine."""

    def recognize(
        self,
        load: Callable[[], Recognizer],
        function: Callable[[Recognizer, Item], Result],
        items: Sequence[Item],
        *,
        workers: int | None,
        gpu: bool = False,
    ) -> Iterator[tuple[int, Result]]:
        """Call a function of a recognizer for each item.

        Args:
            load: makes the recognizer, in each worker.
            function: that a worker can import by its name.
            items: can be pickled.
            workers: most of them; None for one a core of the cluster, or one a GPU.
            gpu: whether each worker is to have a GPU for itself.

        Yields:
            Number of the item and what came of it, each once, as they are done.

        Raises:
            ConfigError: Ray is not installed, the cluster cannot be reached or has no
                GPU, or no worker can be started.
            Exception: what the function raised, or what loading the recognizer did.
        """
        with _connected(self.address) as ray:
            size = _pool_size(ray, workers, gpu)
            rows = [
                {"number": number, "item": pickle.dumps(item)}
                for number, item in enumerate(items)
            ]
            if not rows:
                return
            found = ray.data.from_items(
                rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)
            ).map(
                _Worker,
                fn_constructor_args=(load, function, Path.cwd()),
                compute=ray.data.ActorPoolStrategy(size=min(size, len(rows))),
                num_cpus=1,
                num_gpus=1 if gpu else None,
            )
            try:
                for row in found.iter_rows():
                    result = pickle.loads(row["result"])
                    if isinstance(result, _Failed):
                        raise result.error
                    yield row["number"], result
            except ray.exceptions.RayError as error:
                last = str(error).strip().rpartition("\n")[2].strip()
                raise ConfigError(f"ray: a worker failed ({last})") from error


def in_order(found: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """Yield numbered results by their numbers, each as soon as its turn has come.

    >>> list(in_order([(1, "b"), (0, "a"), (2, "c")]))
    ['a', 'b', 'c']
    """
    early, turn = dict[int, Result](), 0
    for number, result in found:
        early[number] = result
        while turn in early:
            yield early.pop(turn)
            turn += 1


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Give Ray, connected; it is left as it was.

    Raises:
        ConfigError: it is not installed, or the cluster cannot be reached.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(
            f"ray: cannot be imported ({error}; pip install 'listen-attend-spell[ray]')"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _reach(address)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"ray: no cluster at {address} ({reason:.200})") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Make sure that somebody answers: Ray itself waits for minutes.

    Raises:
        ConfigError: nobody does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return  # local and auto, and what Ray refuses at once
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _PATIENCE):
            pass
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"ray: no cluster at {address} ({error}; ray start --head starts one)"
        ) from error


def _pool_size(ray: Any, workers: int | None, gpu: bool) -> int:
    resources = ray.cluster_resources()
    most = int(resources.get("GPU" if gpu else "CPU", 0))
    if gpu and not most:
        raise ConfigError("device cuda: the Ray cluster has no GPU (use cpu)")
    return max(1, min(most, workers or most))


class _Failed(NamedTuple):
    """In place of a result: what was raised instead."""

    error: Exception


class _Worker:
    """An actor of the pool."""

    def __init__(
        self,
        load: Callable[[], Recognizer],
        function: Callable[[Recognizer, Any], object],
        folder: Path,
    ) -> None:
        use_one_thread()
        keep_freed_memory()
        with suppress(OSError):  # relative paths are those of the command
            os.chdir(folder)
        self.function, self.loaded = function, _attempt(load)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Work on one item."""
        result: object = self.loaded
        if not isinstance(self.loaded, _Failed):
            result = _attempt(self.function, self.loaded, pickle.loads(row["item"]))
        return {"number": row["number"], "result": pickle.dumps(result)}


def _attempt(function: Callable[..., Any], *given: object) -> Any:
    """Call a function; what it raises goes to the driver, as it would from a process.

    Ray would show it in ten lines, and for an actor that does not start try for ever.
    """
    try:
        return function(*given)
    except Exception as error:
        return _Failed(error)
