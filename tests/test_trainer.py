import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor

import asr.report
from asr.audio import SAMPLE_RATE
from asr.config import Config, DataConfig, load_config, to_yaml
from asr.data.dataset import Dataset
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.errors import AudioError, CheckpointError, ConfigError, TrainingError
from asr.errors import ManifestError
from asr.experiment import train
from asr.features import AugmentConfig, FeatureNorm
from asr.model.attention import AttentionConfig
from asr.model.folder import load_model
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.tensor_files import read_tensors
from asr.text import CharTokenizer
from asr.training.loss import LossConfig, losses
from asr.training.schedule import ScheduleConfig, learning_rate
from asr.training.trainer import TrainingConfig
from recipes.toy.make import make_text, sing

ROOT = Path(__file__).parents[1]
STEPS = 12  # of the whole run: 3 epochs of 8 utterances, 2 at a time


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight utterances to learn from and three to validate on: sung, not spoken."""
    folder = tmp_path_factory.mktemp("corpus")
    for subset, size in (("train", 8), ("dev", 3)):
        write_corpus(folder, subset, [make_text(random.Random(i)) for i in range(size)])
    return folder


def write_corpus(folder: Path, subset: str, texts: list[str]) -> None:
    utterances = []
    for number, text in enumerate(texts):
        path = folder / f"{subset}-{number}.wav"
        samples = sing(text, random.Random(f"{subset} {number}"))
        soundfile.write(path, samples, SAMPLE_RATE)
        seconds = len(samples) / SAMPLE_RATE
        utterances.append(Utterance(path.stem, str(path), seconds, text))
    write_manifest(folder / f"{subset}.jsonl", utterances)


def settings(corpus: Path, **training: Any) -> Config:
    """A tiny network, with everything at work that draws on chance."""
    defaults = {"epochs": 3, "batch_size": 2, "validations": 2, "device": "cpu"}
    return Config(
        data=DataConfig([str(corpus / "train.jsonl")], str(corpus / "dev.jsonl")),
        listener=ListenerConfig(size=4, reductions=[2, 2], dropout=0.1),
        attention=AttentionConfig(size=4, reach=2, filters=2),
        speller=SpellerConfig(size=4, embedding_size=3, dropout=0.1),
        augment=AugmentConfig(speeds=[0.9, 1.0, 1.1], time_width=10),
        schedule=ScheduleConfig(warmup_steps=2, sampling=0.5, sampling_from=0.1),
        training=TrainingConfig(**(defaults | {"checkpoint_minutes": 0.0} | training)),
    )


def calm(config: Config) -> Config:
    """The same without chance: nothing is dropped, masked, sped up or sampled."""
    return replace(
        config,
        listener=replace(config.listener, dropout=0.0),
        speller=replace(config.speller, dropout=0.0),
        augment=AugmentConfig(speeds=[1.0], frequency_masks=0, time_masks=0),
        schedule=ScheduleConfig(warmup_steps=0),
    )


def draw_nothing(path: Path, weights: Tensor, text: str) -> None:
    """Pictures cost more than the rest of such a training."""
    path.write_text(f"{tuple(weights.shape)} {text}")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr.experiment.draw_attention", draw_nothing)


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `settings(corpus)`, in one go."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("asr.experiment.draw_attention", draw_nothing)
        train(settings(corpus), folder)
    return folder


def checkpoint(folder: Path) -> dict[str, Tensor]:
    return read_tensors(folder / "checkpoint.safetensors")[0]


def place(folder: Path) -> dict[str, Any]:
    facts = read_tensors(folder / "checkpoint.safetensors")[1]
    return dict(facts["place"])


def part(folder: Path, prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint(folder).items()
        if name.startswith(prefix)
    }


def metrics(folder: Path, name: str = "loss") -> list[dict[str, Any]]:
    """The lines that tell of `name`."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if name in entry]


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def assert_same_run(folder: Path, whole: Path) -> None:
    """All but the clock: weights, averages, moments, place, metrics and model."""
    assert_same(checkpoint(folder), checkpoint(whole))
    assert place(folder) | {"seconds": 0} == place(whole) | {"seconds": 0}
    clock = {"seconds": 0, "audio_per_second": 0}
    for name in ("loss", "dev/loss"):
        ours = [line | clock for line in metrics(folder, name)]
        assert ours == [line | clock for line in metrics(whole, name)]
    assert_same(weights_of_model(folder), weights_of_model(whole))


def weights_of_model(folder: Path) -> dict[str, Tensor]:
    return read_tensors(folder / "model" / "model.safetensors")[0]


# A run that was stopped goes on as if it had not been


class PowerCut(BaseException):
    """No `except` and no `finally` of ours will be able to mend this."""


def until_the_lights_go_out(
    function: Callable[..., Any], call: int
) -> Callable[..., Any]:
    """The function, but its call of this number does not come back."""
    calls = itertools.count(1)

    def cut(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise PowerCut
        return function(*args, **kwargs)

    return cut


@pytest.mark.parametrize(
    ("where", "call"),
    [
        pytest.param("asr.training.trainer.losses", 4, id="in the first epoch"),
        pytest.param("asr.training.trainer.losses", 8, id="in the second epoch"),
        pytest.param("asr.training.trainer.save_checkpoint", 4, id="epoch not saved"),
        pytest.param("asr.training.trainer.validate", 1, id="in validation"),
        pytest.param("asr.training.trainer.save_model", 2, id="model not saved"),
        pytest.param("os.fsync", 2 * 6 + 1, id="in the middle of the fifth checkpoint"),
        pytest.param("asr.training.metrics.MetricsLog.write", 6, id="metrics missing"),
    ],
)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    corpus: Path,
    tmp_path: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    call: int,
) -> None:
    with monkeypatch.context() as patch:
        parent, name = where.rsplit(".", 1)
        function = getattr(pytest.importorskip(parent), name) if False else None
        del function
        cut_off(patch, where, call)
        with pytest.raises(PowerCut):
            train(settings(corpus), tmp_path)
    assert 0 < place(tmp_path)["step"] < STEPS

    train(settings(corpus), tmp_path)

    assert_same_run(tmp_path, whole)
