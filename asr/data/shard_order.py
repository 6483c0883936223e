"""The order in which shards are read: each from front to back, and yet by chance.

In each epoch the shards are shuffled and dealt out to the processes of a training, so
that each reads its own. A process reads them window by window: within a window of some
hours utterances of nearly equal length go together, as in a corpus that is no shards,
and the batches are shuffled.

    shards   7 2 9 | 4 0 5 | …         of one process, a window of three shards
    batches  of 7, 2 and 9, by chance; then of 4, 0 and 5, by chance; …

The order is a function of (seed, epoch, number of processes) alone: a run that was
stopped goes on at the same batch.
"""

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

from asr.data.batching import BatchSampler
from asr.data.manifest import Utterance
from asr.data.shards import ShardedUtterances

WINDOW_SECONDS = 4 * 3600.0
"""Speech in a window: enough that batches of equal length need little padding."""


@dataclass(frozen=True)
class ShardSampler:
    """The order in which a corpus of shards is read.

    Args:
        sampler: makes the batches of a window, by its settings.
        shards: number of the shard of each utterance.
        num_readers: processes that share the batches: batch i is for i % num_readers.
        window_seconds: speech in a window, about.
    """

    sampler: BatchSampler
    shards: Sequence[int]
    num_readers: int = 1
    window_seconds: float = WINDOW_SECONDS

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch as places in the manifest.

        Where the processes' shares are not of equal length, some of the last batches
        are of another process's shards.
        """
        durations = self.sampler.durations(epoch)
        members: dict[int, array[int]] = {}
        for index, shard in enumerate(self.shards):
            members.setdefault(shard, array("i")).append(index)
        rng = random.Random(f"shards {self.sampler.seed} {epoch}")
        order = sorted(members)
        rng.shuffle(order)
        shares = [
            self._share(
                [members[shard] for shard in order[reader :: self.num_readers]],
                durations,
                epoch,
                rng,
            )
            for reader in range(self.num_readers)
        ]
        common = min(map(len, shares))
        together = [share[:common] for share in shares]
        left = [share[common:] for share in shares]
        rest = [b for row in zip_longest(*left) for b in row if b is not None]
        return [*chain.from_iterable(zip(*together, strict=True)), *rest]

    def _share(
        self,
        shards: Sequence[Sequence[int]],
        durations: Sequence[float],
        epoch: int,
        rng: random.Random,
    ) -> list[list[int]]:
        """Return the batches of one process, window by window."""
        batches = list[list[int]]()
        for number, indexes in enumerate(self._windows(shards, durations)):
            lengths = [durations[index] for index in indexes]
            sampler = self._of_window(lengths, rng.getrandbits(32), number == 0)
            batches.extend(
                [indexes[place] for place in batch] for batch in sampler.batches(epoch)
            )
        return batches

    def _of_window(
        self, durations: Sequence[float], seed: int, is_first: bool
    ) -> BatchSampler:
        """Return what makes the batches of a window; only the first may be in order."""
        return replace(
            self.sampler,
            durations=lambda epoch: durations,
            seed=seed,
            short_first=self.sampler.short_first and is_first,
        )

    def _windows(
        self, shards: Sequence[Sequence[int]], durations: Sequence[float]
    ) -> list[list[int]]:
        """Cut a process's shards into windows."""
        windows, seconds = list[list[int]](), self.window_seconds
        for shard in shards:
            if seconds >= self.window_seconds:
                windows.append([])
                seconds = 0.0
            windows[-1].extend(shard)
            seconds += sum(durations[index] for index in shard)
        return windows


def in_order_of_shards(
    sampler: BatchSampler, utterances: Sequence[Utterance], num_readers: int
) -> BatchSampler | ShardSampler:
    """Return the order that suits a corpus: the sampler's own, but for shards."""
    if isinstance(utterances, ShardedUtterances):
        return ShardSampler(sampler, utterances.shards, num_readers)
    return sampler
