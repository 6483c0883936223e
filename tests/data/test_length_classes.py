import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.length_classes import (
    ClassSampler,
    Length,
    LengthClass,
    cut_classes,
    halved,
)


def corpus(count: int = 2000) -> list[Length]:
    """Lengths as a corpus of read speech has them: 1 to 16 s, most of 12 to 15."""
    rng = random.Random(1)
    frames = [min(1600, max(100, round(rng.gauss(1200, 350)))) for _ in range(count)]
    return [Length(n, n // 8) for n in frames]


def sampler(lengths: list[Length], group: int = 1, seed: int = 1) -> ClassSampler:
    classes = cut_classes(lengths, 8000, 16)
    return ClassSampler(lambda _: lengths, classes, seed, True, group)


# Classes


def test_less_than_8_percent_is_padding() -> None:
    lengths = corpus()
    classes = cut_classes(lengths, 100_000, 64)

    padded = sum(min(c.frames for c in classes if c.frames >= n) for n, _ in lengths)
    assert sum(n for n, _ in lengths) / padded > 0.92
    assert len(classes) < 12


def test_a_corpus_of_one_length_is_one_class() -> None:
    assert cut_classes([Length(800, 90)] * 5, 8000, 32) == [LengthClass(800, 96, 8)]


def test_a_batch_holds_at_most_what_was_asked_for() -> None:
    for frames, _, rows in cut_classes(corpus(), 8000, 16):
        assert rows * frames <= 8000
        assert rows <= 16


def test_an_utterance_longer_than_a_batch_has_one_for_itself() -> None:
    *_, longest = cut_classes([Length(100, 9), Length(9000, 9)], 8000, 16)

    assert (longest.frames >= 9000, longest.rows) == (True, 1)


def test_halved_classes_have_half_of_the_rows_but_never_none() -> None:
    classes = [LengthClass(100, 8, 9), LengthClass(200, 8, 1)]

    assert [shape.rows for shape in halved(classes)] == [4, 1]


@given(
    st.lists(
        st.builds(Length, st.integers(1, 400), st.integers(0, 60)),
        min_size=1,
        max_size=40,
    )
)
def test_the_last_class_has_room_for_everything(lengths: list[Length]) -> None:
    longest = cut_classes(lengths, 1000, 8)[-1]

    assert all(n <= longest.frames and i <= longest.tokens for n, i in lengths)


# Batches


@pytest.mark.parametrize("group", [1, 3])
def test_an_epoch_has_every_utterance_once(group: int) -> None:
    lengths = corpus(300)
    for epoch in (0, 1):
        batches = sampler(lengths, group).batches(epoch)

        assert Counter(i for batch in batches for i in batch.indexes) == Counter(
            range(300)
        )


def test_every_utterance_fits_into_its_batch() -> None:
    lengths = corpus(300)

    for shape, indexes in sampler(lengths).batches(1):
        assert len(indexes) <= shape.rows
        assert all(lengths[i].frames <= shape.frames for i in indexes)
        assert all(lengths[i].tokens <= shape.tokens for i in indexes)


def test_only_one_batch_of_an_epoch_is_not_full() -> None:
    batches = sampler(corpus(300)).batches(1)

    assert sum(len(batch.indexes) < batch.shape.rows for batch in batches) <= 1


def test_the_batches_of_an_update_are_of_one_class() -> None:
    batches = sampler(corpus(300), group=3).batches(1)

    assert len(batches) % 3 == 0
    for start in range(0, len(batches), 3):
        assert len({batch.shape for batch in batches[start : start + 3]}) == 1


def test_the_first_epoch_goes_from_short_to_long() -> None:
    frames = [batch.shape.frames for batch in sampler(corpus(300)).batches(0)]

    assert frames == sorted(frames)


def test_the_order_hangs_on_seed_and_epoch_alone() -> None:
    lengths = corpus(300)

    assert sampler(lengths).batches(2) == sampler(lengths).batches(2)
    assert sampler(lengths).batches(2) != sampler(lengths).batches(3)
    assert sampler(lengths).batches(2) != sampler(lengths, seed=2).batches(2)


def test_a_length_that_no_class_has_room_for_is_refused() -> None:
    small = ClassSampler(lambda _: [Length(101, 1)], [LengthClass(100, 8, 2)], 1, True)

    with pytest.raises(ValueError, match="no class has room for"):
        small.batches(0)
