import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from asr.decoding.ctc_alignment import CTCAlignment, align, align_batch
from asr.decoding.word_times import EARLY, word_places, word_spans

BLANK, A, B = 0, 3, 4


def sure_of(*labels: int) -> Tensor:
    """(J', V) log P of a head that is nearly sure of a label at each step."""
    logits = torch.zeros(len(labels), 6)
    logits[torch.arange(len(labels)), torch.tensor(labels)] = 5.0
    return logits.log_softmax(dim=-1)


def test_a_spike_lasts_as_long_as_the_head_writes_the_same() -> None:
    found = align(sure_of(BLANK, A, A, BLANK, A, B), torch.tensor([A, A, B]), BLANK)

    assert found.begins.tolist() == [1.0, 4.0, 5.0]
    assert found.ends.tolist() == [3.0, 5.0, 6.0]


def test_a_spike_is_as_likely_as_its_best_step() -> None:
    log_probs = sure_of(BLANK, A, A, BLANK)
    log_probs[1, A] = -3.0
    sure = float(log_probs[2, A])

    found = align(log_probs, torch.tensor([A]), BLANK)

    assert found.log_probs.tolist() == [pytest.approx(sure)]


def test_what_the_head_did_not_find_is_unlikely() -> None:
    found = align(sure_of(A, BLANK, BLANK), torch.tensor([A, B]), BLANK)

    assert found.log_probs[0] > -0.1
    assert found.log_probs[1] < -4.0


@pytest.mark.parametrize("tokens", [[A, A, A], [A, B, A, B]])
def test_too_dense_a_text_is_spread_evenly_and_unlikely(tokens: list[int]) -> None:
    found = align(sure_of(A, A, A), torch.tensor(tokens), BLANK)

    assert len(found.begins) == len(tokens)
    assert found.begins[0] == 0.0
    assert found.begins[-1] == 2.0
    assert found.ends.tolist() == [*found.begins[1:].tolist(), 3.0]
    assert found.log_probs.tolist() == [-torch.inf] * len(tokens)


def test_no_text_has_no_spikes() -> None:
    found = align(sure_of(BLANK, BLANK), torch.tensor([]).long(), BLANK)

    assert len(found.begins) == len(found.ends) == len(found.log_probs) == 0


def test_the_same_word_twice_has_two_places() -> None:
    assert word_places(" AT A AT ") == [slice(1, 3), slice(4, 5), slice(6, 8)]


def test_a_word_lasts_from_its_first_spike_to_its_last_one() -> None:
    found = CTCAlignment(
        torch.tensor([10.0, 12.0, 13.0, 15.0]),
        torch.tensor([11.0, 13.0, 14.0, 17.0]),
        torch.zeros(4),
    )

    first, second = word_spans(found, [slice(0, 2), slice(3, 4)], 0.04, 1.0)

    assert first == pytest.approx((0.4 + EARLY, 0.52 + EARLY))
    assert second == pytest.approx((0.6 + EARLY, 0.68 + EARLY))


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=8),
    st.data(),
    st.floats(0.01, 0.2),
)
def test_times_are_in_order_inside_the_recording_and_do_not_overlap(
    sizes: list[int], data: st.DataObject, seconds_per_step: float
) -> None:
    text = " ".join("X" * size for size in sizes)
    numbers = st.lists(
        st.integers(0, 99), min_size=len(text), max_size=len(text), unique=True
    )
    steps = sorted(data.draw(numbers))
    begins = torch.tensor(steps).float()
    found = CTCAlignment(begins, begins + 1, torch.zeros(len(text)))
    duration = 100 * seconds_per_step

    spans = word_spans(found, word_places(text), seconds_per_step, duration)

    times = [time for span in spans for time in span]
    assert times == sorted(times)
    assert times[0] >= 0.0
    assert times[-1] <= duration


@given(st.lists(st.text(" AB", max_size=3).filter(lambda piece: " " not in piece[1:])))
def test_the_words_of_tokens_are_those_of_the_text_that_they_write(
    pieces: list[str],
) -> None:
    places = word_places(pieces)

    found = ["".join(pieces[place]).strip() for place in places]
    assert found == "".join(pieces).split()
    assert all(one.stop <= two.start for one, two in pairwise(places))


@given(st.text(" AB'"))
def test_the_words_of_characters_are_those_of_the_text(text: str) -> None:
    starts = [m.span() for m in re.finditer(r"[^ ]+", text)]

    assert word_places(text) == [slice(*span) for span in starts]
    assert word_places(list(text)) == word_places(text)


def test_a_word_of_several_subwords_lasts_from_the_first_to_the_last() -> None:
    begins = torch.tensor([5.0, 9, 20])
    found = CTCAlignment(begins, begins + 1, torch.zeros(3))

    spans = word_spans(found, word_places([" GO", "ES", " ON"]), 0.04, 1.0)

    assert [tuple(span) for span in spans] == [
        pytest.approx((0.2 + EARLY, 0.4 + EARLY)),
        pytest.approx((0.8 + EARLY, 0.84 + EARLY)),
    ]


# Side by side


@pytest.mark.parametrize("seed", range(40))
def test_a_batch_has_the_paths_of_each_utterance_alone(seed: int) -> None:
    torch.manual_seed(seed)
    rows, size = 4, 5
    steps, width = int(torch.randint(1, 30, ())), int(torch.randint(0, 9, ()))
    log_probs = torch.randn(rows, steps, size).log_softmax(dim=-1)
    num_steps = torch.randint(1, steps + 1, (rows,))
    num_tokens = torch.randint(0, width + 1, (rows,))
    num_steps[0], num_tokens[0] = steps, width
    tokens = torch.randint(1, size, (rows, width))

    found = align_batch(log_probs, num_steps, tokens, num_tokens, BLANK)

    for row, (length, count) in enumerate(zip(num_steps, num_tokens, strict=True)):
        alone = align(log_probs[row, :length], tokens[row, :count], BLANK)
        torch.testing.assert_close(found[row, :count], alone.begins)
        assert not found[row, count:].any()


def test_in_a_batch_what_has_no_path_is_spread_evenly() -> None:
    broken = torch.full((3, 6), torch.nan)
    log_probs = torch.stack((sure_of(A, A, A), broken, sure_of(BLANK, A, B)))
    tokens = torch.tensor([[A, A, A], [A, B, A], [A, B, 0]])

    found = align_batch(
        log_probs, torch.tensor([3, 3, 3]), tokens, torch.tensor([3, 3, 2]), BLANK
    )

    assert found.tolist() == [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [1.0, 2.0, 0.0]]
