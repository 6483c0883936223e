import pytest
import torch

from asr.decoding import SearchConfig, beam_search
from asr.decoding.given import score_given
from tests.decoding.test_search import EOS, SOS, random_table


def test_what_a_search_finds_scores_the_same_when_it_is_given() -> None:
    table = random_table(1, num_utterances=3)
    found = beam_search(
        table, SearchConfig(4), sos=SOS, eos=EOS, max_lengths=torch.tensor([4, 4, 4])
    )
    assert len({len(one[0].tokens) for one in found} | {9}) > 1

    for rank in range(2):
        wanted = [one[rank] for one in found]
        given = score_given(
            table, [one.tokens for one in wanted], sos=SOS, eos=EOS, length_norm=1.0
        )
        assert [one.tokens for one in given] == [one.tokens for one in wanted]
        for one, other in zip(given, wanted, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-5)


def test_spellings_of_any_length_are_scored_to_their_end() -> None:
    table = random_table(2, num_utterances=3)
    spellings = [(), (1,), (2, 1, 1)]

    given = score_given(table, spellings, sos=SOS, eos=EOS, length_norm=0.5)

    for row, (one, tokens) in enumerate(zip(given, spellings, strict=True)):
        log_prob = table.log_prob(row, (*tokens, EOS))
        assert one.log_prob == pytest.approx(log_prob, abs=1e-5)
        assert one.score == pytest.approx(log_prob / (len(tokens) + 1) ** 0.5, abs=1e-5)
