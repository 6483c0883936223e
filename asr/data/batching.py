"""Batches: which utterances go together, in which order, as which tensors.

Utterances of nearly equal length go together, as many as fit into a budget of seconds,
padding counted. The order of an epoch is a function of (seed, epoch) alone.

Shapes: B utterances, T frames, F mel bands, I tokens.
"""

import random
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from asr.data.dataset import Dataset, Example
from asr.padding import pad_rows


@dataclass(frozen=True)
class Batch:
    """Utterances that go through the network together."""

    ids: list[str]
    features: Tensor
    """(B, T, F)."""
    num_frames: Tensor
    """(B,)."""
    tokens: Tensor
    """(B, I) without <sos> and <eos>; 0 on padding."""
    num_tokens: Tensor
    """(B,)."""
    seconds: float
    """Audio in it, padding not counted."""
    inputs: Tensor | None = None
    """(B, I) what the speller is fed with in place of the tokens, if it is not them."""
    expected: Tensor | None = None
    """(B, I + 1) listener step at which each token is expected, <eos> too, if known."""

    @property
    def num_real(self) -> int:
        """Count the utterances; rows behind them fill the batch and weigh nothing."""
        return len(self.ids)

    @property
    def num_characters(self) -> int:
        """Count the tokens, with an <eos> for each utterance."""
        return int(self.num_tokens.sum()) + self.num_real

    def to(self, device: torch.device) -> "Batch":
        """Move features and tokens; lengths stay on the CPU."""
        moved = {
            name: value.to(device, non_blocking=True)
            for name in ("features", "tokens", "inputs", "expected")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)


def collate(ids: Sequence[str], examples: Sequence[Example], seconds: float) -> Batch:
    """Pad examples into one batch."""
    features, num_frames = pad_rows([example.features for example in examples])
    tokens, num_tokens = pad_rows([example.tokens for example in examples])
    given = [example.inputs for example in examples]
    inputs = None
    if any(row is not None for row in given):
        rows = zip(given, examples, strict=True)
        inputs, _ = pad_rows([e.tokens if row is None else row for row, e in rows])
    return Batch(list(ids), features, num_frames, tokens, num_tokens, seconds, inputs)


@dataclass(frozen=True)
class BatchSampler:
    """The order in which a corpus is read.

    Args:
        durations: seconds of each utterance, in the epoch that is asked for.
        batch_seconds: most audio in a batch, padding counted.
        max_size: most utterances in a batch.
        seed: another seed, another order.
        short_first: whether epoch 0 goes from short to long utterances.
    """

    durations: Callable[[int], Sequence[float]]
    batch_seconds: float
    max_size: int
    seed: int
    short_first: bool

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch as places in the manifest.

        >>> def durations(epoch): return [3.0, 1.0, 1.1, 2.9]
        >>> BatchSampler(durations, 6.0, 9, seed=0, short_first=True).batches(0)
        [[1, 2], [3, 0]]
        """
        rng = random.Random(f"order {self.seed} {epoch}")
        durations = self.durations(epoch)
        # A little noise, so that an utterance meets others in each epoch.
        blurred = [duration * rng.uniform(0.97, 1.03) for duration in durations]
        order = sorted(range(len(durations)), key=blurred.__getitem__)
        batches = list[list[int]]()
        longest = 0.0
        for index in order:
            longest = max(longest, durations[index])
            size = len(batches[-1]) + 1 if batches else 0
            if (
                not batches
                or size > self.max_size
                or longest * size > self.batch_seconds
            ):
                batches.append([])
                longest = durations[index]
            batches[-1].append(index)
        if epoch > 0 or not self.short_first:
            rng.shuffle(batches)
        return batches


def load(
    dataset: Dataset,
    batches: Iterable[tuple[Sequence[int], float]],
    *,
    epoch: int = 0,
    num_threads: int = 1,
) -> Generator[Batch, None, None]:
    """Read batches ahead of their use, in other threads, and yield them in order.

    Args:
        dataset: where examples come from.
        batches: places in the manifest, and how strong their masks are (0 to 1).
        epoch: for the augmentation.
        num_threads: batches that are made at the same time.

    Raises:
        AudioError: a recording cannot be read.
    """

    def make(indexes: Sequence[int], strength: float) -> Batch:
        examples = [dataset.example(i, epoch, strength) for i in indexes]
        utterances = [dataset.utterances[i] for i in indexes]
        seconds = sum(dataset.duration(i, epoch) for i in indexes)
        return collate([u.id for u in utterances], examples, seconds)

    ahead = deque[Future[Batch]]()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for indexes, strength in batches:
                ahead.append(pool.submit(make, indexes, strength))
                if len(ahead) > num_threads + 1:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
