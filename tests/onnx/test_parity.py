"""What is written twice finds the same twice: asr.onnx and the path over torch."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asr.audio import read_waveform
from asr.decoding.config import DecodingConfig
from asr.decoding.ctc_alignment import align
from asr.decoding.hotwords import HotWords, token_tables
from asr.decoding.hypothesis import SearchConfig
from asr.decoding.search import beam_search
from asr.doctor import ASSETS
from asr.features import log_mel, mel_filters
from asr.lm.estimate import NGramConfig, estimate
from asr.lm.ngram import WordNGram
from asr.lm.word_lstm import WordLSTM
from asr.onnx import ctc, features, search
from asr.onnx.hotwords import HotWordPrefix
from asr.onnx.ngram import load_ngram
from asr.text import CharTokenizer

TOKENIZER = CharTokenizer()
TEXT = ["A BE AN", "AND A BE", "BE BE", "I'M A AN", "AN AND I'M A BE", "A"]


def walk(ours: Any, theirs: Any, size: int, atol: float = 1e-4) -> None:
    """Walk two step models along the same hypotheses."""
    state, other = ours.start(), theirs.start()
    tokens = torch.full((size,), TOKENIZER.sos)
    for step in range(12):
        scores, state = ours.step(tokens.numpy(), state)
        wanted, other = theirs.step(tokens, other)
        found = torch.from_numpy(np.asarray(scores, np.float32))
        torch.testing.assert_close(found, wanted.float(), atol=atol, rtol=0)
        allowed = wanted.isfinite() & (torch.arange(wanted.size(1)) > 2)
        rows = torch.arange(len(tokens)).view(size, -1)
        rows = rows.expand(-1, 4) if step == 0 else rows.flip(1)
        state, other = ours.select(state, rows.numpy()), theirs.select(other, rows)
        chances = allowed[rows.flatten()].float() + 1e-9
        tokens = chances.multinomial(1)[:, 0]


# Features


@pytest.mark.parametrize("length", [1, 159, 16_000, 60_001])
def test_features_are_those_of_the_training(length: int) -> None:
    waveform = 0.1 * torch.randn(length)

    found = torch.from_numpy(features.log_mel(waveform.numpy()))

    torch.testing.assert_close(found, log_mel(waveform), atol=1e-4, rtol=0)


def test_features_of_speech_and_of_silence_are_too() -> None:
    for waveform in (read_waveform(ASSETS / "sample.opus"), torch.zeros(4000)):
        found = torch.from_numpy(features.log_mel(waveform.numpy()))

        # Of 54,320 numbers 1 to 3, by processor, differ by 1.6e-4 to 2.1e-4: so much
        # torch rounds; numpy, 3e-5.
        difference = (found - log_mel(waveform)).abs()
        assert (difference > 1e-4).sum() < 10
        assert difference.max() < 4e-4


def test_filters_are_those_of_torchaudio() -> None:
    found = torch.from_numpy(features.mel_filters())

    torch.testing.assert_close(found, mel_filters(), atol=1e-7, rtol=1e-4)


# CTC


def log_probs(size: int, steps: int, spread: float = 3.0) -> torch.Tensor:
    return (spread * torch.randn(size, steps, TOKENIZER.size)).log_softmax(dim=-1)


@pytest.mark.parametrize("text", ["", "A", "AA", "GO ON", "AAA" * 9])
def test_the_best_path_through_a_text_is_the_same(text: str) -> None:
    tokens = TOKENIZER.encode(text)
    for _ in range(5):
        given = log_probs(1, 25)[0]
        expected = align(given, torch.tensor(tokens).long(), TOKENIZER.pad)

        found = ctc.align(given.numpy(), tokens, TOKENIZER.pad)

        for part, wanted in zip(found, expected, strict=True):
            assert part.tolist() == pytest.approx(wanted.tolist(), abs=1e-5)


def test_a_path_that_is_no_number_is_spread_evenly() -> None:
    given = torch.full((9, TOKENIZER.size), math.nan)

    found = ctc.align(given.numpy(), [4, 5, 6], TOKENIZER.pad)

    assert found.begins.tolist() == [0, 4, 8]
    assert found.log_probs.tolist() == [-math.inf] * 3


# Words


def words(folder: Path, lstm: bool) -> WordNGram:
    model = estimate([TEXT], [1], NGramConfig(3, 9, (1, 1)))
    model.save(folder, {})
    if lstm:
        ranks = torch.tensor([2, 0, 4, 1, 3, 5, 6])  # of 5 words, <unk>, the boundary
        network = WordLSTM(ranks, embedding_size=3, size=16, cutoffs=[2, 4], share=0.3)
        with torch.no_grad():
            for weight in network.parameters():
                weight.normal_()
        network.save(folder, model.words, {})
    return WordNGram.load(folder)


@pytest.mark.parametrize("new", [(), ("BEAN", "ANDY", "A")])
@pytest.mark.parametrize("lstm", [False, True])
def test_words_are_scored_the_same(
    lstm: bool, new: tuple[str, ...], tmp_path: Path
) -> None:
    expected = words(tmp_path, lstm).with_words(new)
    found = load_ngram(tmp_path, TOKENIZER).with_words(new)

    for seed in range(4):
        torch.manual_seed(seed)
        walk(found.steps(3, -0.5), expected.steps(3, -0.5), 3)


def test_hot_words_are_scored_the_same() -> None:
    phrases = ("ANNA", "AN AN", "NEW YORK", "YORK ANNA")
    tables = token_tables(phrases, TOKENIZER)

    walk(HotWordPrefix(tables, 2), HotWords(phrases, TOKENIZER).steps(2), 2)


# The search


class Table:
    """Scores that hang on all tokens so far, over either kind of arrays."""

    def __init__(self, scores: torch.Tensor, size: int) -> None:
        self.scores, self.size = scores, size

    def start(self) -> Any:
        return np.zeros(self.size, dtype=np.int64)

    def step(self, tokens: Any, state: Any) -> tuple[Any, Any]:
        state = (7 * state + np.asarray(tokens) + 1) % len(self.scores)
        found = self.scores[torch.from_numpy(state)]
        return found if isinstance(tokens, torch.Tensor) else found.numpy(), state

    def select(self, state: Any, rows: Any) -> Any:
        return state[np.asarray(rows).flatten()]


@pytest.mark.parametrize("bonus", [0.0, 1.5])
@pytest.mark.parametrize("beam_size", [1, 4, 30])
@pytest.mark.parametrize("threshold", [None, 1.5])
def test_the_beam_finds_the_same(
    beam_size: int, threshold: float | None, bonus: float
) -> None:
    config = DecodingConfig(beam_size=beam_size, eos_threshold=threshold)
    for _ in range(5):
        table = Table((torch.randn(997, 6) * 2).log_softmax(dim=-1) + bonus, 3)
        limits = [0, 5, 12]
        expected = beam_search(
            table, config, sos=1, eos=2, max_lengths=torch.tensor(limits)
        )

        found = search.beam_search(table, config, sos=1, eos=2, max_lengths=limits)

        assert [[one.tokens for one in few] for few in found] == [
            [one.tokens for one in few] for few in expected
        ]
        for ours, theirs in zip(found, expected, strict=True):
            assert [one.score for one in ours] == pytest.approx(
                [one.score for one in theirs], abs=1e-4
            )
            assert [o.finished for o in ours] == [o.finished for o in theirs]


def test_a_score_that_is_no_number_is_refused() -> None:
    table = Table(torch.full((9, 6), math.nan), 1)

    with pytest.raises(ValueError, match="scores must be log-probabilities, got nan"):
        search.beam_search(table, SearchConfig(), sos=1, eos=2, max_lengths=[3])
