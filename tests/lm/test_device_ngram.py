"""A word n-gram on a device scores as the one on the CPU does."""

from typing import Any

import numpy as np
import pytest
import torch

from asr.decoding import Hypothesis, SearchConfig, beam_search
from asr.lm.device_ngram import DeviceNGram
from asr.lm.estimate import NGramConfig, estimate
from asr.lm.ngram import WordNGram
from asr.lm.word_lstm import WordLSTM
from asr.lm.word_tables import Level
from asr.text import CharTokenizer

TOKENIZER = CharTokenizer()
TEXT = ["A BE AN", "AND A BE", "BE BE", "I'M A AN", "AN AND I'M A BE", "A"]
BONUS = -0.7

on_each_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
)
with_each_model = pytest.mark.parametrize("kind", ["trigram", "lstm", "unigram"])


def make(kind: str) -> WordNGram:
    """Estimate a model of a few sentences; the LSTM's weights are random."""
    found = estimate([TEXT], [1], NGramConfig(3, 9, (1, 1)))
    if kind == "trigram":
        return found
    if kind == "unigram":  # and levels that hold nothing
        nothing = Level(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))
        return WordNGram(found.words, [found.levels[0], nothing, nothing])
    ranks = torch.tensor([2, 0, 4, 1, 3, 5, 6])  # of 5 words, <unk>, the boundary
    lstm = WordLSTM(ranks, embedding_size=3, size=16, cutoffs=[2, 4], share=0.3)
    with torch.no_grad():
        for weight in lstm.parameters():
            weight.normal_()
    return WordNGram(found.words, found.levels, lstm=lstm.eval())


@on_each_device
@with_each_model
def test_it_scores_as_on_the_cpu(kind: str, device: str) -> None:
    model, rng = make(kind), np.random.default_rng(0)
    here = model.steps(3, BONUS)
    there = DeviceNGram(model, torch.device(device)).steps(3, BONUS)
    letters = TOKENIZER.encode(" ABDEIMN'Q")
    tokens = torch.full((3,), TOKENIZER.sos)
    state: Any = here.start()
    state_there = there.start()
    spaces = 0

    for _ in range(30):
        expected, state = here.step(tokens, state)
        found, state_there = there.step(tokens.to(device), state_there)
        rows = torch.from_numpy(rng.integers(0, len(tokens), (3, 2)))
        state = here.select(state, rows)
        state_there = there.select(state_there, rows.to(device))
        tokens = torch.from_numpy(rng.choice(letters, 6))
        spaces += int((tokens == letters[0]).sum())

        assert found.device.type == device
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)
    assert spaces > 5


@on_each_device
@with_each_model
def test_a_search_finds_what_it_finds_on_the_cpu(kind: str, device: str) -> None:
    model = make(kind)

    def search(steps: Any, device: str) -> list[list[Hypothesis]]:
        return beam_search(
            steps,
            SearchConfig(beam_size=6, length_norm=0.0),
            sos=TOKENIZER.sos,
            eos=TOKENIZER.eos,
            max_lengths=torch.tensor([9, 14], device=device),
        )

    expected = search(model.steps(2, BONUS), "cpu")
    there = DeviceNGram(model, torch.device(device)).steps(2, BONUS)
    found = search(there, device)

    assert [[h.tokens for h in one] for one in found] == [
        [h.tokens for h in one] for one in expected
    ]
    assert len(found[0]) > 1


@on_each_device
@with_each_model
def test_words_of_a_user_score_as_on_the_cpu(kind: str, device: str) -> None:
    model = make(kind).with_words(["ANNA", "QUI"])
    here: Any = model.steps(1, BONUS)
    there: Any = DeviceNGram(model, torch.device(device)).steps(1, BONUS)
    state, state_there = here.start(), there.start()

    for token in [TOKENIZER.sos, *TOKENIZER.encode("A ANNA QUI ANN")]:
        expected, state = here.step(torch.tensor([token]), state)
        read = torch.tensor([token], device=device)
        found, state_there = there.step(read, state_there)

        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)
