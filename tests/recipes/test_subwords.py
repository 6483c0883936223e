"""The recipe that trains a network to write subwords."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.audio import SAMPLE_RATE
from asr.config import load_config
from asr.data.manifest import Utterance, write_manifest
from asr.errors import CheckpointError
from asr.model.storage import load_model
from asr.train import train
from asr.training.metrics import read_metrics
from recipes.librispeech import subwords
from recipes.librispeech.subwords import Subwords

Capture = pytest.CaptureFixture[str]
TEXTS = [
    "THE CAT SAT ON THE MAT",
    "THE DOG SAT ON THE CAT",
    "A MAT IS NOT A HAT",
    "THAT HAT SAT THERE",
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    data = []
    for number, text in enumerate(TEXTS):
        path = tmp_path / f"{number}.wav"
        noise = 0.1 * np.random.default_rng(number).normal(size=SAMPLE_RATE)
        soundfile.write(path, noise, SAMPLE_RATE)
        data.append(Utterance(str(number), str(path), 1.0, text))
    write_manifest(tmp_path / "train.jsonl", data[:3])
    write_manifest(tmp_path / "dev.jsonl", data[3:])
    path = tmp_path / "config.yaml"
    path.write_text(
        f"data: {{train: [{tmp_path}/train.jsonl], dev: {tmp_path}/dev.jsonl}}\n"
        "listener: {size: 4, reductions: [2, 2]}\n"
        "attention: {size: 4}\n"
        "speller: {size: 4, embedding_size: 4}\n"
        "training: {epochs: 1, validations: 1}\n"
    )
    return path


def test_texts_come_back_and_special_tokens_are_silent() -> None:
    tokenizer = Subwords.make(TEXTS, 22)

    assert tokenizer.size == 22
    for text in TEXTS:
        tokens = tokenizer.encode(text)
        assert all(3 < token < 22 for token in tokens)
        assert len(tokens) < len(text)
        framed = [tokenizer.sos, *tokens, tokenizer.eos, tokenizer.pad]
        assert tokenizer.decode(framed) == text
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


def test_a_network_learns_to_write_them_and_cannot_be_taken_for_another(
    config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    assert subwords.main([str(config), str(run), "--size", "19"]) == 0

    look = read_metrics(run).steps[-1]
    assert look["dev/cer"] > 0
    assert Subwords((run / "subwords.model").read_bytes()).size == 19
    with pytest.raises(CheckpointError, match="tokenizer: is of no known kind"):
        load_model(run / "model")


def test_a_run_goes_on_with_its_own_tokens_only(
    config: Path, tmp_path: Path, capsys: Capture
) -> None:
    run = tmp_path / "run"
    train(load_config(config), run)
    model = (run / "model" / "model.json").read_bytes()

    assert subwords.main([str(config), str(run), "--size", "19"]) == 1

    assert "holds a run with other settings of tokens" in capsys.readouterr().err
    assert (run / "model" / "model.json").read_bytes() == model
    assert not (run / "subwords.model").exists()


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--size", "900"], "--size 900: Vocabulary size too high (900). Please set"),
        (["--size", "4"], "--size 4: must be above 4"),
        (["--size", "-1"], "--size -1: must be above 4"),
        (["--size", str(2**31)], f"--size {2**31}: "),
        (["--size", "5"], "--size 5: Vocabulary size is smaller than required_chars"),
        (["training.epoch=3"], "training.epoch: Key 'epoch' not in 'TrainingConfig'"),
    ],
)
def test_what_cannot_be_is_refused(
    config: Path, tmp_path: Path, capsys: Capture, arguments: list[str], fault: str
) -> None:
    assert subwords.main([str(config), str(tmp_path / "run"), *arguments]) == 1
    told = capsys.readouterr().err
    assert told.startswith("subwords: ")
    assert fault in told
    assert told.count("\n") == 1
    assert not told.endswith(": \n")
    assert not (tmp_path / "run").exists()


def test_a_training_that_is_stopped_says_so_in_one_line(
    config: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subwords, "train", stop)
    assert subwords.main([str(config), str(tmp_path / "run"), "--size", "19"]) == 130
    expected = "subwords: stopped (the same command goes on)\n"
    assert capsys.readouterr().err == expected


def test_a_folder_that_cannot_be_is_told(
    config: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments = [str(config), str(config / "below"), "--size", "19"]
    assert subwords.main(arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_without_sentencepiece_it_is_told_how_to_get_it(
    config: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)

    assert subwords.main([str(config), str(tmp_path / "run")]) == 1

    assert 'pip install "listen-attend-spell[subwords]"' in capsys.readouterr().err
