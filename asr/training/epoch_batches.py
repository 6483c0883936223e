"""The batches of an epoch, in groups of an update each, on from any place.

Shapes: S batches an update: `accumulate` of each of the processes. Process r of N makes
and learns from every N-th of them.
"""

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

from asr.data.batching import Batch, BatchSampler, load
from asr.data.dataset import Dataset
from asr.data.device_corpus import DeviceCorpus
from asr.data.length_classes import ClassSampler, LengthClass
from asr.data.shard_order import ShardSampler, in_order_of_shards
from asr.training.checkpoint import Place
from asr.training.config import TrainingConfig
from asr.training.distributed import Team


class Group(NamedTuple):
    """What an update learns from."""

    batches: list[Batch]
    """Of this process."""
    planned: Sequence[Any]
    """Of all processes together, as the sampler has them."""
    end: int
    """The place in the epoch behind it, in batches."""


class EpochBatches:
    """The batches of an epoch.

    Args:
        train: what they are of.
        config: of the loop.
        team: the processes that share the work.
        corpus: the training set as batches of fixed shapes; None for batches that are
            made on the CPU, each of its own shape.
        num_threads: that make batches on the CPU.
        reduction: frames to a step of the listener.
    """

    def __init__(
        self,
        train: Dataset,
        config: TrainingConfig,
        team: Team,
        corpus: DeviceCorpus | None,
        *,
        num_threads: int,
        reduction: int,
    ) -> None:
        self.train, self.config, self.team, self.corpus = train, config, team, corpus
        self.num_threads, self.reduction = num_threads, reduction
        sampler = BatchSampler(
            lambda epoch: [train.duration(i, epoch) for i in range(len(train))],
            config.batch_seconds,
            config.batch_size,
            config.seed,
            config.short_first,
        )
        self._sampler: BatchSampler | ShardSampler | ClassSampler = in_order_of_shards(
            sampler, train.utterances, team.size
        )
        self._accumulate = config.accumulate
        self.number = 1
        """How many batches the epoch has."""

    def fix_shapes(
        self, corpus: DeviceCorpus, classes: Sequence[LengthClass], fewer: int
    ) -> None:
        """Take batches of few fixed shapes from now on.

        Args:
            corpus: what they are of.
            classes: the shapes, from short to long.
            fewer: how many of them make up a batch of the settings.
        """
        self._accumulate = fewer * self.config.accumulate
        self._sampler = ClassSampler(
            corpus.lengths,
            classes,
            self.config.seed,
            self.config.short_first,
            group=self._size,
        )

    @property
    def _size(self) -> int:
        """S."""
        return self._accumulate * self.team.size

    def find(self, place: Place) -> bool:
        """Move a place to where it is in the epoch as it is cut into batches now.

        Returns:
            Whether it had to be moved: batches are others than before.
        """
        before, position = place.num_batches, place.position
        self.number = len(self._sampler.batches(place.epoch))
        if before and before != self.number:
            position = position * self.number // before
        if self.corpus:  # an update must not mix two shapes
            position -= position % self._size
        if position >= self.number:  # of a checkpoint that knew no number
            place.epoch, position = place.epoch + 1, 0
            self.number = len(self._sampler.batches(place.epoch))
        moved = position != place.position
        place.position = position
        return moved

    def groups(
        self, place: Place, strength: Callable[[int], float]
    ) -> Generator[Group]:
        """Make what is left of an epoch.

        Args:
            place: where to go on.
            strength: how strongly batches are masked, from a place in the epoch.

        Raises:
            AudioError: a recording cannot be read.
        """
        batches = self._sampler.batches(place.epoch)
        self.number = place.num_batches = len(batches)
        starts = range(place.position, len(batches), self._size)
        own = self._own(batches, starts, strength)
        with contextlib.closing(self._load(own, place.epoch)) as loaded:
            for start in starts:
                planned = batches[start : start + self._size]
                share = len(planned[self.team.rank :: self.team.size])
                made = list(itertools.islice(loaded, share))
                yield Group(made, planned, start + len(planned))

    def _own(
        self, batches: Sequence[Any], starts: range, strength: Callable[[int], float]
    ) -> Iterator[tuple[Any, float]]:
        """Yield this process's share of each update, and how strong the masks are."""
        for start in starts:
            strong = strength(start)
            group = batches[start : start + self._size]
            for batch in group[self.team.rank :: self.team.size]:
                yield batch, strong

    def _load(
        self, batches: Iterator[tuple[Any, float]], epoch: int
    ) -> Generator[Batch]:
        """Make batches, wherever they are made."""
        if self.corpus:
            return self.corpus.load(batches, epoch, self.reduction)
        return load(self.train, batches, epoch=epoch, num_threads=self.num_threads)
