"""A manifest of short noises, to try models on."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.audio import SAMPLE_RATE
from asr.data.manifest import Utterance, write_manifest


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Six half seconds of noise between quarter seconds of silence."""
    found = []
    for number in range(6):
        noise = 0.1 * np.random.default_rng(number).normal(size=SAMPLE_RATE // 2)
        quiet = np.zeros(SAMPLE_RATE // 4)
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.concatenate((quiet, noise, quiet)), SAMPLE_RATE)
        speaker = str(number % 2)
        id = f"{speaker}-{number // 3}-{number}"
        found.append(Utterance(id, str(path), 1.0, "A B C D", speaker=speaker))
    return found


@pytest.fixture
def manifest(utterances: list[Utterance], tmp_path: Path) -> Path:
    write_manifest(tmp_path / "dev.jsonl", utterances)
    return tmp_path / "dev.jsonl"
