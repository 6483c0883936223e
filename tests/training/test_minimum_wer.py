import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from asr.data.batching import Batch, collate
from asr.data.dataset import Example
from asr.decoding.config import length_limits
from asr.decoding.ctc import CTCPrefix
from asr.decoding.fusion import Fusion
from asr.decoding.hypothesis import Hypothesis, SearchConfig
from asr.decoding.search import beam_search
from asr.features import FRAMES_PER_SECOND, NUM_MELS
from asr.model.attention import AttentionConfig, AttentionMemory, DotAttention
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.text import CharTokenizer
from asr.training.loss import LossConfig, Losses, losses
from asr.training.minimum_wer import (
    EOS_THRESHOLD,
    NBest,
    ctc_scores,
    expected_errors,
    find_n_best,
    spelling_scores,
)

AB = CharTokenizer("AB ")  # V = 6: <pad>, <sos>, <eos>, A, B, space
PAD, SOS, EOS, A, B, SPACE = range(6)
CONFIG = LASConfig(
    ListenerConfig(size=4, reductions=[2, 2]),
    AttentionConfig(size=4, reach=2, filters=2),
    SpellerConfig(size=4, embedding_size=3),
)


class Sharper(DotAttention):
    """An attention of somebody's own: it is searched one step after the other."""

    def energies(self, s: Tensor, memory: AttentionMemory, previous: Tensor) -> Tensor:
        """Look twice as sharply."""
        return 2 * super().energies(s, memory, previous)


@pytest.fixture
def las() -> LAS:
    """A tiny network, evaluated, that ends what it writes soon."""
    torch.manual_seed(3)
    las = LAS(CONFIG, AB.size).eval()
    with torch.no_grad():
        las.speller.output.bias[EOS] += 2
    return las


def batch_of(*utterances: tuple[int, list[int]]) -> Batch:
    draws = torch.Generator().manual_seed(5)
    examples = [
        Example(
            torch.randn(frames, NUM_MELS, generator=draws), torch.tensor(tokens).long()
        )
        for frames, tokens in utterances
    ]
    return collate([f"{i}" for i in range(len(examples))], examples, seconds=1.0)


@pytest.fixture
def batch() -> Batch:
    """Three utterances: "A B", "BA" and nothing."""
    return batch_of((60, [A, SPACE, B]), (90, [B, A]), (40, []))


def n_best(las: LAS, batch: Batch, ctc_weight: float = 0.3, size: int = 4) -> NBest:
    listened = las.listen(batch.features, batch.num_frames)
    log_probs = las.ctc_log_probs(listened)
    return find_n_best(
        *(las, listened, log_probs, batch, AB), beam_size=size, ctc_weight=ctc_weight
    )


def of(utterances: list[int], errors: list[float]) -> NBest:
    """An n-best list of which only errors are of interest."""
    rows = len(utterances)
    return NBest(
        torch.tensor(utterances),
        torch.zeros(rows, 0, dtype=torch.int64),
        torch.zeros(rows, dtype=torch.int64),
        torch.tensor(errors),
        num_words=4,
    )


# Golden: worked by hand


def test_expected_errors_worked_by_hand() -> None:
    # Two hypotheses of the first utterance, P = 3/4 and 1/4 after normalisation, with 1
    # and 3 errors; one of the second, P = 1 whatever its score, with 2.
    scores = torch.tensor([math.log(0.03), math.log(0.01), -50.0])

    found = expected_errors(scores, of([0, 0, 1], [1.0, 3.0, 2.0]))

    assert found.item() == pytest.approx(3 / 4 * 1 + 1 / 4 * 3 + 2)


def test_the_gradient_worked_by_hand() -> None:
    # d/ds_k of sum_k P_k W_k is P_k (W_k - the expectation): 3/4 (1 - 3/2) and so on.
    scores = torch.tensor([math.log(0.03), math.log(0.01), -50.0], requires_grad=True)

    torch.autograd.backward(expected_errors(scores, of([0, 0, 1], [1.0, 3.0, 2.0])))

    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([-3 / 8, 3 / 8, 0.0])


def test_the_loss_weighs_the_rate_beside_the_rest(las: LAS, batch: Batch) -> None:
    plain = losses(las, batch, AB, LossConfig(ctc_weight=0.3))[0]
    weighed = losses(las, batch, AB, LossConfig(ctc_weight=0.3, mwer_weight=7.0))[0]

    assert plain.expected_wer.item() == 0
    assert weighed.expected_wer.item() > 0
    assert weighed.total.item() == pytest.approx(
        plain.total.item() + 7 * weighed.expected_wer.item()
    )


# Against what else works it out


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3, 1.0])
def test_scores_are_those_of_the_search(
    las: LAS, batch: Batch, ctc_weight: float
) -> None:
    listened = las.listen(batch.features, batch.num_frames)
    log_probs = las.ctc_log_probs(listened)
    ctc = CTCPrefix(log_probs, listened.num_ctc_steps, blank=PAD, eos=EOS, sos=SOS)
    lists = beam_search(
        Fusion([las.steps(listened), ctc], [1 - ctc_weight, ctc_weight]),
        SearchConfig(4, eos_threshold=EOS_THRESHOLD),
        sos=SOS,
        eos=EOS,
        max_lengths=length_limits(batch.num_frames / FRAMES_PER_SECOND),
    )
    expected = [one for found in lists for one in found if one.finished]

    found = n_best(las, batch, ctc_weight)
    scores = (1 - ctc_weight) * spelling_scores(las, listened, found, AB)
    scores = scores + ctc_weight * ctc_scores(
        log_probs, listened.num_ctc_steps, found, PAD
    )

    assert spelled(found) == [hypothesis.tokens for hypothesis in expected]
    assert len(expected) > 3
    assert scores.tolist() == pytest.approx(log_probs_of(expected), abs=1e-4)


def spelled(found: NBest) -> list[tuple[int, ...]]:
    rows = zip(found.tokens.tolist(), found.num_tokens.tolist(), strict=True)
    return [tuple(tokens[:length]) for tokens, length in rows]


def log_probs_of(hypotheses: list[Hypothesis]) -> list[float]:
    return [hypothesis.log_prob for hypothesis in hypotheses]


def test_the_list_says_how_wrong_each_text_is(las: LAS, batch: Batch) -> None:
    found = n_best(las, batch)

    references = [AB.decode(tokens) for tokens in ([A, SPACE, B], [B, A], [])]
    assert found.num_words == 3
    for utterance, tokens, errors in zip(
        found.utterances.tolist(), spelled(found), found.errors.tolist(), strict=True
    ):
        words, right = AB.decode(tokens).split(), references[utterance].split()
        assert errors >= abs(len(words) - len(right))
        assert (errors == 0) == (words == right)


# What it does to a network


@pytest.mark.parametrize("attention", [None, Sharper])
def test_steps_against_the_gradient_lower_the_expected_rate(
    attention: type[DotAttention] | None, batch: Batch
) -> None:
    torch.manual_seed(3)
    config = CONFIG
    if attention:
        config = replace(CONFIG, attention=AttentionConfig("dot", size=4))
    las = LAS(config, AB.size, attention).eval()
    with torch.no_grad():
        las.speller.output.bias[EOS] += 2
    settings = LossConfig(ctc_weight=0.3, mwer_weight=20.0)
    optimizer = torch.optim.SGD(las.parameters(), lr=0.2)

    before = losses(las, batch, AB, settings)[0]
    for _ in range(30):
        optimizer.zero_grad()
        found = losses(las, batch, AB, settings)[0]
        torch.autograd.backward(found.expected_wer)
        optimizer.step()

    after = losses(las, batch, AB, settings)[0]
    assert after.expected_wer.item() < 0.7 * before.expected_wer.item()


def test_the_gradient_reaches_listener_speller_and_ctc_head(
    las: LAS, batch: Batch
) -> None:
    found = losses(las, batch, AB, LossConfig(ctc_weight=0.3, mwer_weight=1.0))[0]

    torch.autograd.backward(found.expected_wer)

    for name, parameter in las.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_nothing_is_dropped_in_the_search_but_in_training_after_it(
    batch: Batch,
) -> None:
    speller = replace(CONFIG.speller, dropout=0.9)
    las = LAS(replace(CONFIG, speller=speller), AB.size).train()
    las.listener.eval()

    lists = [n_best(las, batch) for _ in range(3)]

    assert las.speller.training
    assert all(spelled(found) == spelled(lists[0]) for found in lists)


# What happens at the edges


def test_an_utterance_that_does_not_end_in_time_has_no_list(
    las: LAS, batch: Batch
) -> None:
    with torch.no_grad():
        las.speller.output.bias[EOS] -= 100

    found = n_best(las, batch, ctc_weight=0.0)
    parts = losses(las, batch, AB, LossConfig(ctc_weight=0.0, mwer_weight=1.0))[0]

    assert spelled(found) == []
    assert found.num_words == 0
    assert parts.expected_wer.item() == 0
    assert parts.total.isfinite()


def test_texts_without_a_word_cost_what_is_written_for_them(las: LAS) -> None:
    silence = batch_of((60, []), (40, []))

    found = losses(las, silence, AB, LossConfig(mwer_weight=1.0))[0]

    assert found.expected_wer.isfinite()


def test_a_network_that_has_lost_itself_is_not_searched(las: LAS, batch: Batch) -> None:
    lost = replace(batch, features=batch.features * torch.nan)

    found = losses(las, lost, AB, LossConfig(mwer_weight=1.0))[0]

    assert isinstance(found, Losses)
    assert math.isnan(found.total.item())
