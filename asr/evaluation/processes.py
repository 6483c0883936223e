"""A recognizer in each of several processes, and parts of a manifest for them.

Processes of one thread each share nothing and wait for nobody; see
`asr.inference.parallel`.
"""

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, get_context
from typing import Protocol, TypeVar

from asr.data.manifest import Utterance
from asr.errors import ConfigError
from asr.inference.long_audio import BATCH
from asr.inference.recognizer import Recognizer
from asr.runtime import use_one_thread

Item = TypeVar("Item")
Result = TypeVar("Result")


def batches(utterances: Sequence[Utterance]) -> list[list[Utterance]]:
    """Group utterances of like length, the longest first: they are waited for."""
    order = sorted(utterances, key=lambda utterance: -utterance.duration)
    return [order[i : i + BATCH] for i in range(0, len(order), BATCH)]


def spread(utterances: Sequence[Item], number: int) -> list[Item]:
    """Take so many, spread evenly over all; all where there are no more.

    Raises:
        ConfigError: the number is below 1.

    >>> spread("ABCDEFG", 3)
    ['A', 'C', 'E']
    """
    if number < 1:
        raise ConfigError(f"the number of utterances must be at least 1, not {number}")
    count = len(utterances)
    number = min(number, count)
    return [utterances[i * count // number] for i in range(number)]


class Map(Protocol):
    """Calls a function of a recognizer for each item; results come in their order."""

    def __call__(
        self, function: Callable[[Recognizer, Item], Result], items: Iterable[Item], /
    ) -> Iterator[Result]:
        """Call a function that other processes can find by its name."""


@contextmanager
def recognizer_map(load: Callable[[], Recognizer], processes: int) -> Iterator[Map]:
    """Give a map over processes that each have a recognizer; they end with the block.

    Args:
        load: makes the recognizer, in each process.
        processes: 1 for this one.
    """
    if processes == 1:
        recognizer = load()
        yield lambda function, items: map(partial(function, recognizer), items)
        return
    others = set(active_children())
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (load,))
    try:
        yield lambda function, items: pool.map(partial(_call, function), items)
    except BaseException:
        for process in set(active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def number_of_processes(asked: int | None) -> int:
    """Return how many processes to use: as many as were asked for, or one a core.

    Raises:
        ConfigError: fewer than one were asked for.
    """
    if asked is not None and asked < 1:
        raise ConfigError(f"processes must be at least 1, not {asked}")
    return asked or os.cpu_count() or 1


# In another process

_recognizer: Recognizer


def _begin(load: Callable[[], Recognizer]) -> None:
    global _recognizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this one will stop it
    use_one_thread()
    _recognizer = load()


def _call(function: Callable[[Recognizer, Item], Result], item: Item) -> Result:
    return function(_recognizer, item)
