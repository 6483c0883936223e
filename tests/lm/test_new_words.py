"""A word LSTM for other words than it was trained on."""

import numpy as np
import pytest
import torch
from torch import Tensor

from asr.lm.new_words import with_new_words
from asr.lm.word_lstm import WordLSTM

BEFORE = ["A", "AN", "AND", "BE", "CAT", "DOG", "EAR", "FAR", "GO"]
AFTER = ["A", "AND", "BE", "BUS", "CAR", "CAT", "EAR", "GO", "ZOO"]
COUNTS = np.array([90, 60, 50, 70, 3, 8, 4, 2, 1, 5])  # BUS is frequent; <unk> last


@pytest.fixture
def model() -> WordLSTM:
    """Nine words and <unk>: four in the head, three and three in two clusters."""
    torch.manual_seed(4)
    ranks = [0, 2, 1, 3, 4, 5, 6, 7, 8, 9, 10]
    return WordLSTM(torch.tensor(ranks), 6, 32, [4, 7]).eval()


@torch.no_grad()
def log_probs(model: WordLSTM, words: list[str], known: list[str]) -> Tensor:
    """Return what the network expects after some words, of all words that it knows."""
    numbers = [len(known) + 1, *(known.index(word) for word in words)]
    ranked = model.ranks[torch.tensor(numbers)][None]
    states, _ = model.lstm(model.embedding(ranked))
    all_ranks = model.softmax.log_prob(states[:, -1])[0]
    return all_ranks[model.ranks[: len(known)]]


def test_between_words_that_both_know_nothing_changes(model: WordLSTM) -> None:
    new = with_new_words(model, BEFORE, AFTER, COUNTS).eval()

    head = [("A", "AND"), ("AND", "BE")]
    behind = [("CAT", "EAR")]
    for context in ([], ["GO"], ["CAT", "AND", "EAR"]):
        before = log_probs(model, context, BEFORE)
        after = log_probs(new, context, AFTER)
        for one, other in head + behind:  # in one cluster
            left = before[BEFORE.index(one)] - before[BEFORE.index(other)]
            right = after[AFTER.index(one)] - after[AFTER.index(other)]
            assert float(right) == pytest.approx(float(left), abs=1e-5)


def test_all_words_have_a_place_and_frequent_new_ones_one_in_the_head(
    model: WordLSTM,
) -> None:
    new = with_new_words(model, BEFORE, AFTER, COUNTS)

    assert sorted(new.ranks.tolist()) == list(range(11))
    assert new.softmax.cutoffs == [4, 6, 10]
    ranks = dict(zip(AFTER, new.ranks.tolist(), strict=False))
    assert [word for word in AFTER if ranks[word] < 4] == ["A", "AND", "BE", "BUS"]
    assert float(log_probs(new, ["BUS", "ZOO"], AFTER).exp().sum()) < 1


def test_a_new_word_is_read_as_an_unknown_one(model: WordLSTM) -> None:
    new = with_new_words(model, BEFORE, AFTER, COUNTS)

    unknown = model.embedding(model.ranks[len(BEFORE)])
    assert torch.equal(new.embedding(new.ranks[AFTER.index("ZOO")]), unknown)
    known = model.embedding(model.ranks[BEFORE.index("EAR")])
    assert torch.equal(new.embedding(new.ranks[AFTER.index("EAR")]), known)


def test_the_same_words_give_the_same_network(model: WordLSTM) -> None:
    new = with_new_words(model, BEFORE, BEFORE, np.arange(10)[::-1].copy()).eval()

    for context in ([], ["GO", "FAR"]):
        found, expected = (log_probs(one, context, BEFORE) for one in (new, model))
        torch.testing.assert_close(found, expected)


def test_words_of_another_language_are_no_start(model: WordLSTM) -> None:
    with pytest.raises(
        ValueError, match="3 words leave a part of the LSTM's softmax empty"
    ):
        with_new_words(model, BEFORE, ["UND", "VON", "ZU"], np.array([3, 2, 1, 1]))
