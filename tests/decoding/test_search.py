import itertools
from collections.abc import Callable
from math import inf, log, nan
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from asr.decoding import Hypothesis, SearchConfig, beam_search, greedy_search

EOS, A, B, SOS = range(4)
V, MAX_LENGTH = 3, 4


class Rows(NamedTuple):
    utterance: Tensor  # (R,) whose table is read
    last: Tensor  # (R,) the token read before
    width: int  # hypotheses of each utterance


class Table:
    """A StepModel read off tables: the score depends on the last two tokens.

    The state is the utterance and the last token but one of each hypothesis, so a
    search that mixes up its rows gets wrong scores. It insists on groups.
    """

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores  # (B, V + 1, V + 1, V): last but one, last, next
        self.num_groups = list[int]()  # of each step

    def start(self) -> Rows:
        utterances = torch.arange(self.scores.size(0), device=self.scores.device)
        return Rows(utterances, torch.full_like(utterances, SOS), 1)

    def step(self, tokens: Tensor, state: Rows) -> tuple[Tensor, Rows]:
        assert tokens.shape == state.last.shape
        self.num_groups.append(len(tokens) // state.width)
        scores = self.scores[state.utterance, state.last, tokens]
        return scores, state._replace(last=tokens)

    def select(self, state: Rows, rows: Tensor) -> Rows:
        groups = rows // state.width
        assert (groups == groups[:, :1]).all()
        assert (groups[:, 0].diff() > 0).all()
        rows, width = rows.flatten(), rows.size(1)
        return Rows(state.utterance[rows], state.last[rows], width)

    def log_prob(self, utterance: int, tokens: tuple[int, ...]) -> float:
        padded = (SOS, SOS, *tokens)
        triples = zip(padded, padded[1:], padded[2:], strict=False)
        return sum(float(self.scores[(utterance, *triple)]) for triple in triples)

    def spelling(self, utterance: int, tokens: tuple[int, ...]) -> Hypothesis:
        return Hypothesis(tokens, self.log_prob(utterance, (*tokens, EOS)))


def random_table(seed: int, num_utterances: int = 1) -> Table:
    generator = torch.Generator().manual_seed(seed)
    size = (num_utterances, V + 1, V + 1, V)
    return Table((2 * torch.randn(size, generator=generator)).log_softmax(dim=-1))


def table_of(after: dict[int, list[float]]) -> Table:
    """Tell P(<eos>), P(A), P(B) after each last token."""
    probs = torch.zeros(V + 1, V)
    for token, row in after.items():
        probs[token] = torch.tensor(row)
    return Table(probs.log().expand(1, V + 1, V + 1, V))


def search(
    table: Table, config: SearchConfig, *max_lengths: int
) -> list[list[Hypothesis]]:
    lengths = torch.tensor(max_lengths, dtype=torch.int64)
    return beam_search(table, config, sos=SOS, eos=EOS, max_lengths=lengths)


def greedy(table: Table, *max_lengths: int) -> list[Hypothesis]:
    lengths = torch.tensor(max_lengths, dtype=torch.int64)
    return greedy_search(table, sos=SOS, eos=EOS, max_lengths=lengths)


# Golden: worked by hand


def test_a_search_worked_by_hand() -> None:
    table = table_of({SOS: [0.4, 0.35, 0.25], A: [0.2, 0.4, 0.4], B: [1.0, 0.0, 0.0]})

    (found,) = search(table, SearchConfig(beam_size=2), MAX_LENGTH)

    # The empty spelling has P = 0.4, B has 0.25. Per token, <eos> counted, B wins:
    # log 0.25 / 2 = -0.69 > log 0.4 / 1 = -0.92. <eos> must not cost B its place.
    assert [h.tokens for h in found] == [(B,), ()]
    assert [h.log_prob for h in found] == pytest.approx([log(0.25), log(0.4)])
    assert [h.score for h in found] == pytest.approx([log(0.25) / 2, log(0.4)])
    assert all(h.finished for h in found)


@pytest.mark.parametrize(
    ("length_norm", "best"), [(0.0, ()), (0.5, ()), (0.75, (B,)), (1.0, (B,))]
)
def test_the_more_length_counts_the_longer_the_best(
    length_norm: float, best: tuple[int, ...]
) -> None:
    table = table_of({SOS: [0.4, 0.35, 0.25], A: [0.2, 0.4, 0.4], B: [1.0, 0.0, 0.0]})

    config = SearchConfig(beam_size=2, length_norm=length_norm)
    (found,) = search(table, config, MAX_LENGTH)

    # log 0.4 = -0.92; log 0.25 / 2^norm = -1.39, -0.98, -0.82, -0.69
    assert found[0].tokens == best


def test_an_ending_less_likely_than_all_that_live_is_not_finished() -> None:
    table = table_of({SOS: [0.2, 0.5, 0.3], A: [0.9, 0.1, 0.0], B: [0.9, 0.1, 0.0]})

    (found,) = search(table, SearchConfig(beam_size=2), MAX_LENGTH)

    # P = 0.2 for nothing, but A (0.5) and B (0.3) fill the beam.
    assert [h.tokens for h in found] == [(A,), (B,)]


@pytest.mark.parametrize(
    ("threshold", "best"), [(None, ()), (2.5, ()), (2.3, (A,)), (0.5, (A,))]
)
def test_eos_may_follow_only_where_it_is_likely_enough(
    threshold: float | None, best: tuple[int, ...]
) -> None:
    table = table_of({SOS: [0.2, 0.5, 0.3], A: [0.9, 0.1, 0.0], B: [0.0, 0.0, 0.0]})

    config = SearchConfig(beam_size=3, length_norm=0.0, eos_threshold=threshold)
    (found,) = search(table, config, MAX_LENGTH)

    # log 0.2 = -1.61; the best other has log 0.5 = -0.69, times 2.3 -1.59, 2.5 -1.73
    assert (() in [h.tokens for h in found]) == (best == ())
    assert (A,) in [h.tokens for h in found]


@pytest.mark.parametrize(("ending", "ends"), [(0.5, False), (0.8, True), (1.1, True)])
def test_a_threshold_on_the_end_is_lenient_above_zero_too(
    ending: float, ends: bool
) -> None:
    table = Table(torch.tensor([ending, 1.0, 0.1]).expand(1, V + 1, V + 1, V))

    config = SearchConfig(beam_size=9, length_norm=0.0, eos_threshold=1.5)
    (found,) = search(table, config, 2)

    # the best other token has a score of 1; 1 / 1.5 = 0.67
    assert any(h.finished for h in found) == ends


def test_a_spelling_without_end_is_cut() -> None:
    table = table_of({SOS: [0.0, 0.6, 0.4], A: [0.0, 0.3, 0.7], B: [0.0, 0.1, 0.9]})

    (found,) = search(table, SearchConfig(beam_size=2), 3)

    # 0.6 * 0.7 * 0.9 and 0.4 * 0.9 * 0.9
    assert [h.tokens for h in found] == [(A, B, B), (B, B, B)]
    assert [h.log_prob for h in found] == pytest.approx([log(0.378), log(0.324)])
    assert not any(h.finished for h in found)


@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_a_spelling_that_cannot_go_on_is_cut(beam_size: int) -> None:
    table = table_of({SOS: [0.0, 1.0, 0.0], A: [0.0, 0.0, 0.5]})
    cut = Hypothesis((A, B), pytest.approx(log(0.5)), finished=False)  # type: ignore

    (found,) = search(table, SearchConfig(beam_size=beam_size), 100)

    assert found == [cut]
    assert greedy(table, 100) == [cut]


def test_nothing_can_be_said_in_no_token() -> None:
    table = table_of({SOS: [0.4, 0.6, 0.0]})

    (found,) = search(table, SearchConfig(beam_size=2), 0)

    assert found == [Hypothesis((), pytest.approx(log(0.4)))]  # type: ignore[arg-type]
    assert greedy(table, 0) == [Hypothesis((), 0.0, finished=False)]


def test_a_search_without_length_norm_stops_once_nothing_can_overtake() -> None:
    table = table_of({SOS: [0.9, 0.05, 0.05], A: [0.1, 0.9, 0], B: [0.1, 0.9, 0]})

    (found,) = search(table, SearchConfig(beam_size=8, length_norm=0.0), 100)

    assert [h.tokens for h in found] == [()]
    assert len(table.num_groups) == 1


def test_scores_above_zero_may_still_overtake() -> None:
    table = table_of({SOS: [1.0, 1.0, 1.0]})
    table.scores = table.scores.clone()
    table.scores[0, SOS, SOS] = torch.tensor([0.1, -2.0, -3.0])
    table.scores[0, SOS, A] = torch.tensor([5.0, -9.0, -9.0])

    (found,) = search(table, SearchConfig(beam_size=8, length_norm=0.0), MAX_LENGTH)

    assert found[0].tokens == (A,)
    assert found[0].log_prob == pytest.approx(3.0)


def test_an_utterance_leaves_the_batch_when_it_is_done() -> None:
    table = random_table(0, num_utterances=3)
    table.scores[..., EOS] = -inf

    assert [len(h.tokens) for h in greedy(table, 0, 2, 5)] == [0, 2, 5]
    assert table.num_groups == [3, 2, 2, 1, 1, 1]

    table.num_groups.clear()
    found = search(table, SearchConfig(beam_size=3), 0, 2, 5)
    assert [len(nbest[0].tokens) for nbest in found] == [0, 2, 5]
    assert table.num_groups == [3, 2, 2, 1, 1, 1]


def test_nothing_is_found_for_no_utterance() -> None:
    table = random_table(0, num_utterances=0)
    assert search(table, SearchConfig()) == []
    assert greedy(table) == []


# Parity: against all spellings there are, and against the plain search


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("length_norm", [0.0, 1.0, 2.0])
def test_a_wide_beam_finds_the_best_of_all_spellings(
    seed: int, length_norm: float
) -> None:
    table = random_table(seed, num_utterances=4)
    max_lengths = [MAX_LENGTH, 0, 3, MAX_LENGTH]
    config = SearchConfig(beam_size=V ** (MAX_LENGTH + 1), length_norm=length_norm)

    found = search(table, config, *max_lengths)

    for utterance, max_length in enumerate(max_lengths):
        best = max(
            (
                Hypothesis(
                    tokens, table.spelling(utterance, tokens).log_prob, length_norm
                )
                for length in range(max_length + 1)
                for tokens in itertools.product((A, B), repeat=length)
            ),
            key=lambda h: h.score,
        )
        assert found[utterance][0].tokens == best.tokens
        assert found[utterance][0].score == pytest.approx(best.score, abs=1e-4)


@pytest.mark.parametrize("seed", range(30))
def test_a_beam_of_one_is_a_greedy_search(seed: int) -> None:
    table = random_table(seed, num_utterances=5)
    max_lengths = [9, 1, 0, 9, 2]

    plain = greedy(table, *max_lengths)
    found = search(table, SearchConfig(beam_size=1), *max_lengths)

    assert [nbest[0].tokens for nbest in found] == [h.tokens for h in plain]
    assert [nbest[0].finished for nbest in found] == [h.finished for h in plain]
    for (one,), hypothesis in zip(found, plain, strict=True):
        assert one.log_prob == pytest.approx(hypothesis.log_prob, abs=1e-4)


# Property: what holds for every table


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("beam_size", [1, 2, 3, 8])
def test_a_hypothesis_carries_the_scores_of_its_own_tokens(
    seed: int, beam_size: int
) -> None:
    table = random_table(seed, num_utterances=4)
    max_lengths = [8, 3, 6, 1]

    found = search(table, SearchConfig(beam_size=beam_size), *max_lengths)

    for utterance, nbest in enumerate(found):
        assert 1 <= len(nbest) <= beam_size
        assert len({h.tokens for h in nbest}) == len(nbest)
        assert nbest == sorted(nbest, key=lambda h: h.score, reverse=True)
        for h in nbest:
            tokens = (*h.tokens, EOS) if h.finished else h.tokens
            expected = table.log_prob(utterance, tokens)
            assert h.log_prob == pytest.approx(expected, abs=1e-4)
            assert h.finished or len(h.tokens) == max_lengths[utterance]


@pytest.mark.parametrize("seed", range(20))
def test_no_beam_finds_better_than_the_widest(seed: int) -> None:
    widest = search(random_table(seed), SearchConfig(V ** (MAX_LENGTH + 1)), MAX_LENGTH)

    for beam_size in range(1, 8):
        (found,) = search(random_table(seed), SearchConfig(beam_size), MAX_LENGTH)
        finished = [h.score for h in found if h.finished]
        assert max(finished, default=-inf) <= widest[0][0].score + 1e-4


# Invariance: an utterance does not feel its neighbours in the batch


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("beam_size", [1, 2, 3])
@pytest.mark.parametrize("threshold", [None, 1.5])
def test_an_utterance_is_spelled_alone_as_in_a_batch(
    seed: int, beam_size: int, threshold: float | None
) -> None:
    table = random_table(seed, num_utterances=5)
    max_lengths = [9, 2, 0, 9, 5]
    config = SearchConfig(beam_size, eos_threshold=threshold)

    together = search(table, config, *max_lengths)
    plain = greedy(table, *max_lengths)

    for utterance, max_length in enumerate(max_lengths):
        alone = Table(table.scores[utterance : utterance + 1])
        assert search(alone, config, max_length) == [together[utterance]]
        assert greedy(alone, max_length) == [plain[utterance]]


# Errors: the message names what was wrong


@pytest.mark.parametrize("score", [nan, inf])
@pytest.mark.parametrize("token", [EOS, A, B])
@pytest.mark.parametrize(
    "searched", [greedy, lambda t, n: search(t, SearchConfig(), n)]
)
def test_what_is_no_log_probability_is_refused(
    score: float, token: int, searched: Callable[[Table, int], object]
) -> None:
    table = table_of({SOS: [0.1, 0.8, 0.1], A: [0.1, 0.1, 0.8]})
    table.scores = table.scores.clone()
    table.scores[0, SOS, A, token] = score
    with pytest.raises(ValueError, match=rf"must be log-probabilities, got {score}"):
        searched(table, MAX_LENGTH)


@pytest.mark.parametrize(
    "searched", [greedy, lambda t, *n: search(t, SearchConfig(), *n)]
)
def test_a_model_of_other_utterances_is_refused(
    searched: Callable[..., object],
) -> None:
    class Longer(Table):
        def step(self, tokens: Tensor, state: Rows) -> tuple[Tensor, Rows]:
            scores, state = super().step(tokens, state)
            return scores.repeat(2, 1), state

    table = Longer(random_table(0, num_utterances=3).scores)
    with pytest.raises(ValueError, match="score 3 hypotheses, got scores of 6"):
        searched(table, 1, 1, 1)


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"zero or more, got \[4, -1\]"):
        greedy(random_table(0, num_utterances=2), 4, -1)
    with pytest.raises(ValueError, match=r"zero or more, got \[4, -1\]"):
        search(random_table(0, num_utterances=2), SearchConfig(), 4, -1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam_size": 0}, "decoding.beam_size must be at least 1, not 0"),
        ({"length_norm": -1.0}, "decoding.length_norm must be zero or more, not -1"),
        ({"length_norm": nan}, "decoding.length_norm must be zero or more, not nan"),
        ({"eos_threshold": 0.0}, "decoding.eos_threshold must be above zero, not 0"),
    ],
)
def test_an_impossible_setting_is_refused_by_name(
    settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.gpu
def test_searches_on_the_gpu() -> None:
    table = random_table(0, num_utterances=3)
    expected = search(table, SearchConfig(), 9, 2, 5)
    lengths = torch.tensor([9, 2, 5])

    table.scores = table.scores.cuda()
    found = beam_search(
        table, SearchConfig(), sos=SOS, eos=EOS, max_lengths=lengths.cuda()
    )

    assert [[h.tokens for h in nbest] for nbest in found] == [
        [h.tokens for h in nbest] for nbest in expected
    ]
