import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr.audio import SAMPLE_RATE
from asr.data.dataset import Dataset
from asr.data.manifest import Utterance
from asr.model.attention import AttentionConfig
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.scoring import ErrorRate, char_error_rate, word_error_rate
from asr.text import CharTokenizer
from asr.training.loss import LossConfig
from asr.training.validation import Validation, attention_habits, validate

TOKENIZER = CharTokenizer()
CPU = torch.device("cpu")
TEXTS = ["GO", "GO ON", "", "THE CAT SAT"]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Four recordings of noise, the last the longest."""
    noise, utterances = np.random.default_rng(0), []
    for number, text in enumerate(TEXTS):
        path, samples = tmp_path / f"{number}.wav", 4000 * (number + 1)
        soundfile.write(path, noise.normal(0, 0.1, samples), SAMPLE_RATE)
        utterance = Utterance(f"{number}", str(path), samples / SAMPLE_RATE, text)
        utterances.append(utterance)
    return Dataset(utterances, TOKENIZER)


@pytest.fixture
def las() -> LAS:
    """A tiny network, evaluated, that knows nothing."""
    config = LASConfig(
        ListenerConfig(size=4, reductions=[2, 2], dropout=0.5),
        AttentionConfig(size=4, reach=2, filters=2),
        SpellerConfig(size=4, embedding_size=3, dropout=0.5),
    )
    return LAS(config, TOKENIZER.size).eval()


def look(las: LAS, dataset: Dataset, batch_seconds: float = 60.0) -> Validation:
    return validate(
        las, dataset, TOKENIZER, LossConfig(), batch_seconds=batch_seconds, device=CPU
    )


def say(las: LAS, token: int, *, ctc: bool = False) -> None:
    """Make the speller, or the CTC head, say the same token over and over."""
    layer = las.ctc if ctc else las.speller.output
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        layer.bias[token] = 9.0


# Golden: the habits of attention


def habits(*rows: list[float]) -> object:
    """Focus, monotony and reach."""
    return pytest.approx(attention_habits(torch.tensor(rows)).tolist(), abs=1e-5)


def test_a_diagonal_is_sharp_monotone_and_reaches_the_end() -> None:
    assert habits([1, 0, 0], [0, 1, 0], [0, 0, 1]) == [1.0, 1.0, 1.0]


def test_attention_that_is_everywhere_has_no_focus() -> None:
    # It is highest on the first of four steps, as all are the same.
    assert habits([0.25] * 4, [0.25] * 4) == [0.0, 1.0, 0.25]


def test_habits_worked_by_hand() -> None:
    # Four rows on four steps, the third goes back. Entropies: 0, log 2, 0, 0;
    # of log 4 that is 0, 1/2, 0, 0: on average 1/8. Looked at: 0, 2, 1, 1.
    rows = ([1.0, 0, 0, 0], [0, 0, 0.5, 0.5], [0, 1.0, 0, 0], [0, 1.0, 0, 0])
    assert habits(*rows) == [7 / 8, 2 / 3, 3 / 4]


def test_padding_is_no_part_of_the_utterance() -> None:
    # Only two steps were ever looked at: the others are padding.
    assert habits([0.5, 0.5, 0, 0], [0, 1.0, 0, 0]) == [0.5, 1.0, 1.0]


def test_one_character_on_one_step_is_as_good_as_can_be() -> None:
    assert habits([1.0]) == [1.0, 1.0, 1.0]


# Validation of a network


def test_figures_are_in_their_ranges(las: LAS, dataset: Dataset) -> None:
    found = look(las, dataset)

    # A network that knows nothing is near the loss of a guess among V tokens.
    assert found.spelling_loss == pytest.approx(math.log(TOKENIZER.size), rel=0.2)
    assert found.ctc_loss > 0
    assert found.loss == pytest.approx(0.5 * (found.spelling_loss + found.ctc_loss))
    for share in (found.focus, found.monotony, found.reach):
        assert 0 <= share <= 1
    assert found.wer.num_reference == 6
    assert found.cer.num_reference == found.ctc_cer.num_reference == 18


def test_validation_leaves_the_network_as_it_is(las: LAS, dataset: Dataset) -> None:
    before = {name: tensor.clone() for name, tensor in las.state_dict().items()}

    look(las, dataset)

    assert not las.training
    assert all(parameter.grad is None for parameter in las.parameters())
    for name, tensor in las.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_size_of_the_batches_changes_nothing(las: LAS, dataset: Dataset) -> None:
    alone, together = look(las, dataset, 0.1), look(las, dataset, 60.0)

    for name, figure in alone.metrics().items():
        assert together.metrics()[name] == pytest.approx(figure, rel=1e-4), name


def test_each_head_is_scored_by_what_it_writes(las: LAS, dataset: Dataset) -> None:
    say(las, TOKENIZER.eos)
    say(las, TOKENIZER.encode("G")[0], ctc=True)

    found = look(las, dataset)

    assert found.wer == word_error_rate(TEXTS, [""] * 4)
    assert found.cer == char_error_rate(TEXTS, [""] * 4)
    assert found.ctc_cer == char_error_rate(TEXTS, ["G"] * 4)


def test_what_ctc_writes_on_padding_does_not_count(las: LAS, dataset: Dataset) -> None:
    """A head that says blank where there is sound, and G where there is none."""
    with torch.no_grad():
        for norm in las.listener.norms:
            torch.nn.init.zeros_(norm.get_parameter("weight"))
            torch.nn.init.ones_(norm.get_parameter("bias"))
        say(las, TOKENIZER.encode("G")[0], ctc=True)
        las.ctc.weight[TOKENIZER.pad] = 9.0

    assert look(las, dataset).ctc_cer == char_error_rate(TEXTS, [""] * 4)


def test_an_endless_speller_is_stopped(las: LAS, dataset: Dataset) -> None:
    say(las, TOKENIZER.encode("A")[0])

    found = look(las, dataset)

    # 25 characters a second of 0.25, 0.5, 0.75 and 1 s, and five more for each (a frame
    # more or less); only 11 + 5 + 2 were said.
    spelled = 18 - found.cer.deletions + found.cer.insertions
    assert spelled == pytest.approx(25 * 2.5 + 4 * 5, abs=4)


def test_validation_draws_no_chance(las: LAS, dataset: Dataset) -> None:
    assert look(las, dataset).metrics() == look(las, dataset).metrics()


# How it is shown


def test_figures_come_as_metrics_and_in_a_line() -> None:
    one, half = ErrorRate(1, 0, 0, 1), ErrorRate(0, 1, 0, 2)
    found = Validation(1.25, 1.5, 1.0, one, half, replace(half), 0.5, 0.75, 1.0)

    assert found.metrics() == {
        "dev/loss": 1.25,
        "dev/spelling_loss": 1.5,
        "dev/ctc_loss": 1.0,
        "dev/wer": 1.0,
        "dev/cer": 0.5,
        "dev/ctc_cer": 0.5,
        "dev/focus": 0.5,
        "dev/monotony": 0.75,
        "dev/reach": 1.0,
    }
    assert str(found) == (
        "dev loss 1.250, WER 100.0 %, CER 50.0 %, CTC CER 50.0 %, focus 0.50, "
        "monotony 0.75"
    )
