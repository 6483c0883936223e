"""A recognizer in each of several worker processes, and parts of a manifest for them.

Such processes have one thread each. They wait for nobody, where the threads of one
process would wait for each other after each small product of a search; on a CPU they
share the memory of one recognizer.

Several of them may share a GPU: while one has its hypotheses and alignments worked on
by the CPU, another has the GPU search. Each has its own copy of the network there.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Protocol, TypeVar

from asr.data.manifest import Utterance
from asr.errors import ConfigError
from asr.inference.long_audio import BATCH, GPU_SECONDS
from asr.inference.recognizer import Recognizer
from asr.inference.segmentation import WHOLE
from asr.memory import keep_freed_memory
from asr.processes import Workers, worker_pool
from asr.runtime import use_one_thread

GPU_BATCH = 256
"""Most utterances in a batch on a GPU, however short they are."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def number_of_processes(asked: int | None, device: str = "cpu") -> int:
    """Return how many processes to use.

    Args:
        asked: so many; None for one a core, or for one alone on a GPU.
        device: cpu or cuda.

    Raises:
        ConfigError: fewer than one were asked for.
    """
    if asked is not None and asked < 1:
        raise ConfigError(f"processes must be at least 1, not {asked}")
    return asked or (os.cpu_count() if device == "cpu" else None) or 1


def batches(
    utterances: Sequence[Utterance], device: str = "cpu"
) -> list[list[Utterance]]:
    """Group utterances of like length, the longest first: they are waited for.

    On a CPU a batch is a few utterances; on a GPU as many as, filled up to the longest
    of them, make `GPU_SECONDS`. Those that will be cut are each a batch of their own.
    """
    order = sorted(utterances, key=lambda utterance: -utterance.duration)
    start = sum(utterance.duration > WHOLE for utterance in order)
    found = [[utterance] for utterance in order[:start]]
    while start < len(order):
        size = BATCH
        if device != "cpu":
            size = min(GPU_BATCH, int(GPU_SECONDS / order[start].duration))
        found.append(order[start : start + max(1, size)])
        start += max(1, size)
    return found


class Map(Protocol):
    """Calls a function of a recognizer for each item; results come in their order."""

    def __call__(
        self, function: Callable[[Recognizer, Item], Result], items: Iterable[Item], /
    ) -> Iterator[Result]:
        """Call a function that other processes can import by its name."""


@contextmanager
def recognizer_map(load: Callable[[], Recognizer], processes: int) -> Iterator[Map]:
    """Give a map over processes that each have a recognizer; they end with the block.

    Args:
        load: makes the recognizer, on a CPU.
        processes: 1 for this one.

    Raises:
        ConfigError: a process ended twice over the same item.
    """
    if processes == 1:
        recognizer = load()
        yield lambda function, items: map(partial(function, recognizer), items)
        return
    with recognizer_pool(load, processes) as workers:
        yield workers.in_order


def recognizer_pool(
    load: Callable[[], Recognizer], processes: int, device: str = "cpu"
) -> AbstractContextManager[Workers[Recognizer]]:
    """Give worker processes that each have a recognizer; they end with the block.

    Args:
        load: makes the recognizer: on a CPU once, in memory that all of them share.
        processes: how many.
        device: where the networks run.
    """
    return worker_pool(partial(begin, load), processes, shared=device == "cpu")


def begin(load: Callable[[], Recognizer]) -> Recognizer:
    """Load a recognizer in a process that is there for it alone.

    Args:
        load: makes the recognizer.
    """
    use_one_thread()
    keep_freed_memory()
    return load()
