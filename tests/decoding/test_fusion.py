from math import inf, log
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.decoding import (
    Fusion,
    Hypothesis,
    SearchConfig,
    StepModel,
    beam_search,
    greedy_search,
)

EOS, A, B, SOS = range(4)
V = 3


class Bigram:
    """A StepModel read off a table: the score depends on the last token alone.

    The state is the spelling so far, and must be that of the tokens it is given.
    """

    def __init__(self, scores: Tensor, num_utterances: int = 1) -> None:
        self.scores = scores  # (V + 1, V): last, next
        self.num_utterances = num_utterances
        self.read = list[Tensor]()  # the spellings behind each step

    def start(self) -> Tensor:
        return torch.zeros(self.num_utterances, 0, dtype=torch.int64)

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.cat([state, tokens[:, None]], dim=1)
        self.read.append(state)
        return self.scores[tokens], state

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows.flatten()]


def bigram(*rows: list[float], num_utterances: int = 1) -> Bigram:
    """Tell P(<eos>), P(A), P(B) after <eos>, A, B, <sos>."""
    return Bigram(torch.tensor(rows).log(), num_utterances)


def random_bigram(num_utterances: int = 1) -> Bigram:
    return Bigram(torch.randn(V + 1, V).log_softmax(dim=-1), num_utterances)


# Golden: worked by hand


def test_scores_are_weighted_and_added() -> None:
    listened = bigram(*4 * [[0.2, 0.5, 0.3]])
    known = bigram(*4 * [[0.1, 0.1, 0.8]])
    fusion = Fusion([listened, known], [1.0, 0.5])

    scores, _ = fusion.step(torch.tensor([SOS]), fusion.start())

    # log 0.2 + log 0.1 / 2 = log(0.2 * sqrt(0.1)), and so on
    expected = [0.2 * 0.1**0.5, 0.5 * 0.1**0.5, 0.3 * 0.8**0.5]
    torch.testing.assert_close(scores.exp(), torch.tensor([expected]))


def test_a_language_model_settles_what_the_sound_leaves_open() -> None:
    listened = bigram(*3 * [[0.9, 0.05, 0.05]], [0.02, 0.50, 0.48])
    known = bigram(*3 * [[0.8, 0.1, 0.1]], [0.1, 0.3, 0.6])

    alone = _greedy(listened)
    together = _greedy(Fusion([listened, known], [1.0, 0.3]))

    assert alone.tokens == (A,)
    assert together.tokens == (B,)
    expected = log(0.48) + log(0.9) + 0.3 * (log(0.6) + log(0.8))
    assert together.log_prob == pytest.approx(expected)


def test_what_one_model_rules_out_is_ruled_out() -> None:
    fusion = Fusion([bigram(*4 * [[0.5, 0.0, 0.5]]), random_bigram()], [0.1, 2.0])

    scores, _ = fusion.step(torch.tensor([SOS]), fusion.start())

    assert (scores == -inf).tolist() == [[False, True, False]]


def test_a_model_with_a_weight_below_zero_is_taken_off() -> None:
    listened = bigram(*3 * [[0.9, 0.05, 0.05]], [0.2, 0.5, 0.3])
    within = bigram(*3 * [[0.9, 0.05, 0.05]], [0.2, 0.7, 0.1])

    scores, _ = Fusion([listened, within], [1.0, -0.5]).step(
        torch.tensor([SOS]), torch.zeros(2, 1, 0).long().unbind()
    )

    # 0.5 / sqrt(0.7) = 0.598 against 0.3 / sqrt(0.1) = 0.949: B was said.
    expected = [0.2 / 0.2**0.5, 0.5 / 0.7**0.5, 0.3 / 0.1**0.5]
    torch.testing.assert_close(scores.exp(), torch.tensor([expected]))


def test_a_model_of_weight_zero_is_not_asked() -> None:
    listened, silent = random_bigram(), bigram(*4 * [[0.0, 0.0, 1.0]])
    fusion = Fusion([silent, listened], [0.0, 1.0])

    scores, _ = fusion.step(torch.tensor([SOS]), fusion.start())

    torch.testing.assert_close(scores, listened.scores[[SOS]])
    assert silent.read == []


# Property: the sum is itself a model, and every part of it is searched along


@pytest.mark.parametrize("seed", range(5))
def test_a_fusion_can_be_part_of_a_fusion(seed: int) -> None:
    torch.manual_seed(seed)
    one, two, three = (random_bigram() for _ in range(3))

    flat = Fusion([one, two, three], [0.2, 0.3, 0.5])
    nested = Fusion([one, Fusion([two, three], [0.6, 1.0])], [0.2, 0.5])

    for a, b in zip(_beam(flat), _beam(nested), strict=True):
        assert a.tokens == b.tokens
        assert a.log_prob == pytest.approx(b.log_prob, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_all_models_read_the_same_spellings(seed: int) -> None:
    torch.manual_seed(seed)
    one, two = random_bigram(num_utterances=3), random_bigram(num_utterances=3)

    beam_search(
        Fusion([one, two], [1.0, 1.0]),
        SearchConfig(beam_size=3),
        sos=SOS,
        eos=EOS,
        max_lengths=torch.tensor([6, 2, 4]),
    )

    assert len(one.read) > 1
    for num_tokens, (ours, theirs) in enumerate(zip(one.read, two.read, strict=True)):
        assert ours.size(1) == num_tokens + 1  # <sos> counted
        assert ours.tolist() == theirs.tolist()


# Errors: the message names what was wrong


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"2 models need as many weights, got \[1.0\]"),
        ([-1.0, -0.5], r"numbers, and one above zero, got \[-1.0, -0.5\]"),
        ([1.0, inf], r"numbers, and one above zero, got \[1.0, inf\]"),
        ([0.0, 0.0], r"numbers, and one above zero, got \[0.0, 0.0\]"),
    ],
)
def test_impossible_weights_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fusion([random_bigram(), random_bigram()], weights)


def test_models_of_other_vocabularies_are_refused() -> None:
    narrow = Bigram(torch.zeros(V + 1, 1))
    fusion = Fusion([random_bigram(), narrow], [1.0, 1.0])
    with pytest.raises(
        ValueError, match=r"same tokens, got scores \[\(1, 3\), \(1, 1\)"
    ):
        fusion.step(torch.tensor([SOS]), fusion.start())


def _greedy(model: StepModel[Any]) -> Hypothesis:
    lengths = torch.tensor([5])
    return greedy_search(model, sos=SOS, eos=EOS, max_lengths=lengths)[0]


def _beam(model: Fusion) -> list[Hypothesis]:
    config = SearchConfig(beam_size=4)
    lengths = torch.tensor([5])
    return beam_search(model, config, sos=SOS, eos=EOS, max_lengths=lengths)[0]
