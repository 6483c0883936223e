import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

from asr.audio import SAMPLE_RATE
from asr.config import Config, DataConfig, to_yaml
from asr.data.manifest import Utterance, write_manifest
from asr.features import AugmentConfig
from asr.model.attention import AttentionConfig
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.tensor_files import read_tensors
from asr.training.checkpoint import CHECKPOINT
from asr.training.config import TrainingConfig
from asr.training.schedule import ScheduleConfig
from recipes.toy.make import sing

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("ASR_KILLS", "30"))


def write_corpus(folder: Path, subset: str, texts: list[str]) -> str:
    utterances = []
    for number, text in enumerate(texts):
        path = folder / f"{subset}-{number}.wav"
        samples = sing(text, random.Random(f"{subset} {number}"))
        soundfile.write(path, samples, SAMPLE_RATE)
        seconds = len(samples) / SAMPLE_RATE
        utterances.append(Utterance(path.stem, str(path), seconds, text))
    write_manifest(folder / f"{subset}.jsonl", utterances)
    return str(folder / f"{subset}.jsonl")


def settings(folder: Path) -> Config:
    """A tiny network, with all that draws on chance, and a checkpoint each update."""
    texts = ["GO", "ON", "DO IT", "I", "SAW", "US", "AT", "TEA"]
    return Config(
        data=DataConfig(
            [write_corpus(folder, "train", texts)],
            write_corpus(folder, "dev", ["GO AT", "SEE", "IT"]),
        ),
        listener=ListenerConfig(size=4, reductions=[2, 2], dropout=0.1),
        attention=AttentionConfig(size=4, reach=2, filters=2),
        speller=SpellerConfig(size=4, embedding_size=3, dropout=0.1),
        augment=AugmentConfig(speeds=[0.9, 1.0, 1.1], time_width=10),
        schedule=ScheduleConfig(warmup_steps=2, sampling=0.5, sampling_from=0.1),
        training=TrainingConfig(
            epochs=3,
            batch_size=2,
            validations=4,
            device="cpu",
            precision="float32",
            checkpoint_minutes=0.0,
        ),
    )


def state(run: Path) -> dict[str, Any]:
    """What must not hang on the kills: weights, place and metrics, not the clock."""
    tensors, metadata = read_tensors(run / CHECKPOINT)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    clock = {"seconds": 0, "audio_per_second": 0}
    return {
        "tensors": {name: tensor.tolist() for name, tensor in tensors.items()},
        "model": {
            name: tensor.tolist()
            for name, tensor in read_tensors(run / "model" / "model.safetensors")[
                0
            ].items()
        },
        "place": metadata["place"] | {"seconds": 0},
        "metrics": [json.loads(line) | clock for line in lines],
    }


@pytest.mark.slow
def test_a_training_that_is_killed_again_and_again_comes_to_the_same_end(
    tmp_path: Path,
) -> None:
    """Every run ends as one that nobody killed: bit for bit, and to the last metric."""
    (tmp_path / "config.yaml").write_text(to_yaml(settings(tmp_path)))
    program = [sys.executable, "-m", "tests.faults.killed_trainings"]

    done = subprocess.run(
        [*program, str(tmp_path), str(KILLS), "1"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )

    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["killed"] == KILLS
    assert found["checkpoints"] > KILLS / 3
    assert found["models"] > KILLS / 6
    assert found["steps"] > 3
    whole = state(tmp_path / "whole")
    for number in range(found["ended"]):
        run = tmp_path / f"run-{number}"
        assert state(run) == whole, number
        assert not [path for path in run.iterdir() if path.suffix == ".partial"]
