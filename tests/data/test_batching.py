import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.batching import Batch, BatchSampler, collate, load
from asr.data.dataset import Augmentation, Dataset, Example
from asr.data.manifest import Utterance
from asr.errors import AudioError
from asr.features import AugmentConfig
from asr.text import CharTokenizer

F = 3


def sampler(
    durations: Sequence[float],
    batch_seconds: float = 120.0,
    max_size: int = 24,
    seed: int = 1,
    *,
    short_first: bool = True,
) -> BatchSampler:
    return BatchSampler(lambda _: durations, batch_seconds, max_size, seed, short_first)


def like_librispeech(count: int) -> list[float]:
    """Most utterances last 12 to 16 s, the others anything from 2 s."""
    rng = random.Random(0)
    spans = rng.choices([(12.0, 16.5), (2.0, 12.0)], weights=[3, 2], k=count)
    return [rng.uniform(*span) for span in spans]


# Property: every utterance once, and never too much in a batch


@settings(deadline=None)
@given(
    durations=st.lists(st.floats(0.1, 35), max_size=60),
    batch_seconds=st.floats(0.05, 200),
    max_size=st.integers(1, 40),
    seed=st.integers(),
    epoch=st.integers(0, 5),
    short_first=st.booleans(),
)
def test_an_epoch_reads_every_utterance_once_within_the_budget(
    durations: list[float],
    batch_seconds: float,
    max_size: int,
    seed: int,
    epoch: int,
    short_first: bool,
) -> None:
    def durations_in(asked: int) -> list[float]:
        return durations if asked == epoch else [0.001] * len(durations)

    batches = BatchSampler(
        durations_in, batch_seconds, max_size, seed, short_first
    ).batches(epoch)

    assert sorted(i for batch in batches for i in batch) == list(range(len(durations)))
    for batch in batches:
        padded = len(batch) * max(durations[i] for i in batch)
        assert 1 <= len(batch) <= max_size
        assert padded <= batch_seconds or len(batch) == 1


def test_a_batch_is_closed_only_when_the_next_one_does_not_fit() -> None:
    durations = like_librispeech(300)
    for batch, following in pairwise(sampler(durations, 60.0, 7).batches(0)):
        together = [durations[i] for i in (*batch, following[0])]
        assert len(together) > 7 or len(together) * max(together) > 60


def test_an_utterance_longer_than_the_budget_is_alone() -> None:
    batches = sampler([1.0, 50.0, 1.0], batch_seconds=10.0).batches(0)
    assert batches in ([[0, 2], [1]], [[2, 0], [1]])


def test_a_corpus_without_utterances_has_no_batches() -> None:
    assert sampler([]).batches(0) == []


# The order is a function of (seed, epoch) alone


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    durations = like_librispeech(200)
    one = [sampler(durations).batches(epoch) for epoch in range(3)]

    again = sampler(durations)
    random.seed(9)

    assert [again.batches(epoch) for epoch in (2, 1, 0)] == one[::-1]


@pytest.mark.parametrize(("seed", "epoch"), [(1, 2), (2, 1)])
def test_an_utterance_meets_others_in_another_epoch_or_of_another_seed(
    seed: int, epoch: int
) -> None:
    durations = like_librispeech(200)
    one = sampler(durations).batches(1)
    other = sampler(durations, seed=seed).batches(epoch)
    same = {frozenset(batch) for batch in one} & {frozenset(batch) for batch in other}
    assert len(same) < len(one) / 4


def test_the_first_epoch_may_go_from_short_to_long() -> None:
    durations = like_librispeech(500)

    batches = sampler(durations).batches(0)

    for batch, following in pairwise(batches):
        longest = max(durations[i] for i in batch)
        shortest = min(durations[i] for i in following)
        assert shortest >= 0.9 * longest  # as far as the noise goes


@pytest.mark.parametrize(("epoch", "short_first"), [(0, False), (1, True), (7, True)])
def test_other_epochs_are_mixed(epoch: int, short_first: bool) -> None:
    durations = like_librispeech(500)
    batches = sampler(durations, short_first=short_first).batches(epoch)
    means = [sum(durations[i] for i in batch) / len(batch) for batch in batches]
    rises = sum(before < after for before, after in pairwise(means))
    assert 0.3 < rises / len(means) < 0.7


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize(("seconds", "size"), [(60.0, 32), (120.0, 24), (200.0, 64)])
def test_less_than_a_twentieth_of_a_batch_is_padding(
    seconds: float, size: int, epoch: int
) -> None:
    durations = like_librispeech(5000)
    batches = sampler(durations, seconds, size).batches(epoch)
    padded = [len(batch) * max(durations[i] for i in batch) for batch in batches]
    assert 1 - sum(durations) / sum(padded) < 0.05
    assert max(padded) <= seconds


# One batch


def example(num_frames: int, *tokens: int) -> Example:
    return Example(torch.full((num_frames, F), 1.0), torch.tensor(tokens))


def test_examples_are_padded_into_one_batch() -> None:
    batch = collate(["a", "b"], [example(2, 5), example(3, 6, 7, 8)], seconds=0.05)

    assert batch.ids == ["a", "b"]
    assert batch.features[:, :, 0].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.features.shape == (2, 3, F)
    assert batch.num_frames.tolist() == [2, 3]
    assert batch.tokens.tolist() == [[5, 0, 0], [6, 7, 8]]
    assert batch.num_tokens.tolist() == [1, 3]
    assert batch.seconds == 0.05


def test_lengths_stay_where_they_are_when_a_batch_moves() -> None:
    batch = collate(["a"], [example(2, 5)], seconds=0.02)

    moved = batch.to(torch.device("meta"))

    assert moved.features.is_meta
    assert moved.tokens.is_meta
    assert not moved.num_frames.is_meta
    assert not moved.num_tokens.is_meta
    assert (moved.ids, moved.seconds) == (["a"], 0.02)


# Loading in other threads


class Slow(Dataset):
    """Examples that show what was asked for; every other one takes its time.

    Those before `ready` are made; where there is `broken`, its recording is damaged.
    """

    def __init__(self, count: int, broken: int | None = None) -> None:
        utterances = [Utterance(f"{i}", "none.wav", 1.0, "GO") for i in range(count)]
        speeds = AugmentConfig(speeds=[0.5, 2.0])
        super().__init__(utterances, CharTokenizer(), Augmentation(speeds, seed=1))
        self.broken, self.made = broken, list[int]()

    def example(self, index: int, epoch: int = 0, strength: float = 1.0) -> Example:
        time.sleep(0.01 if index % 2 == 0 else 0)
        if index == self.broken:
            raise AudioError(f"{index}: is damaged")
        self.made.append(index)
        return Example(torch.tensor([[index, epoch, strength]]), self.tokens[index])


def singles(count: int) -> Iterator[tuple[list[int], float]]:
    return (([index], 1.0) for index in range(count))


LONG = 300
"""Seconds that only a test waits which has failed."""


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not holds() and time.monotonic() < end:
        time.sleep(0.001)
    assert holds()


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 12])
def test_batches_come_in_order(num_threads: int, count: int) -> None:
    batches = load(Slow(count), singles(count), num_threads=num_threads)
    assert [batch.ids for batch in batches] == [[f"{i}"] for i in range(count)]


def test_a_batch_is_what_was_asked_for() -> None:
    dataset = Slow(4)

    one, other = load(dataset, [([3, 1], 0.5), ([2], 1.0)], epoch=7)

    assert one.ids == ["3", "1"]
    assert one.features.tolist() == [[[3, 7, 0.5]], [[1, 7, 0.5]]]
    assert one.seconds == dataset.duration(3, 7) + dataset.duration(1, 7)
    assert other.features.tolist() == [[[2, 7, 1]]]
    assert other.seconds == dataset.duration(2, 7)


def test_batches_are_made_before_they_are_asked_for_but_not_all() -> None:
    dataset, taken = Slow(50), list[int]()

    def batches() -> Iterator[tuple[list[int], float]]:
        for indexes, strength in singles(50):
            taken.extend(indexes)
            yield indexes, strength

    loaded = load(dataset, batches(), num_threads=2)
    next(loaded)

    wait_until(lambda: len(dataset.made) == 4)
    time.sleep(0.03)
    assert taken == [0, 1, 2, 3]
    assert len(dataset.made) == 4
    loaded.close()


def test_several_threads_work_at_once() -> None:
    """Two examples that wait for each other are made by two threads only."""
    both = threading.Barrier(2)

    class Meeting(Slow):
        def example(self, index: int, epoch: int = 0, strength: float = 1.0) -> Example:
            both.wait(timeout=LONG)
            return super().example(index, epoch, strength)

    assert len(list(load(Meeting(2), singles(2), num_threads=2))) == 2


def test_an_error_comes_in_its_place() -> None:
    batches = load(Slow(9, broken=4), singles(9), num_threads=3)

    ids = [next(batches).ids for _ in range(4)]

    assert ids == [["0"], ["1"], ["2"], ["3"]]
    with pytest.raises(AudioError, match=r"^4: is damaged$"):
        next(batches)


def test_closing_early_does_not_begin_what_was_planned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Held(Slow):
        def example(self, index: int, epoch: int = 0, strength: float = 1.0) -> Example:
            if index == 1:
                begun.set()
                go_on.wait(timeout=LONG)
            return super().example(index, epoch, strength)

    dataset = Held(9)
    batches = load(dataset, singles(9), num_threads=1)
    next(batches)
    assert begun.wait(timeout=LONG)

    def release(pool: ThreadPoolExecutor, wait: bool = True) -> None:
        go_on.set()
        shutdown(pool, wait)

    shutdown = ThreadPoolExecutor.shutdown
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", release)
    batches.close()

    assert dataset.made == [0, 1]  # the next one was waiting for its turn


def test_closing_early_stops_the_work() -> None:
    dataset, before = Slow(1000), set(threading.enumerate())
    batches = load(dataset, singles(1000), num_threads=2)
    first: Batch = next(batches)

    batches.close()

    made = len(dataset.made)
    assert first.ids == ["0"]
    assert made <= 4
    assert not set(threading.enumerate()) - before
    time.sleep(0.03)
    assert len(dataset.made) == made
