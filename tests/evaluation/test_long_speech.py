import re
from pathlib import Path

import pytest
import torch

from asr.audio import SAMPLE_RATE, encode
from asr.cli import main
from asr.data.manifest import Utterance, write_manifest
from asr.decoding.config import DecodingConfig
from asr.errors import ConfigError
from asr.evaluation.long_speech import by_length, table
from asr.inference.recognizer import Recognizer
from asr.model.storage import Model


@pytest.fixture
def neighbours(tmp_path: Path) -> list[Utterance]:
    """A chapter of five utterances of noise, 1.0 to 1.4 s."""
    utterances = list[Utterance]()
    for number in range(5):
        seconds = 1 + number / 10
        path = tmp_path / f"{number}.wav"
        noise = 0.1 * torch.randn(round(seconds * SAMPLE_RATE))
        path.write_bytes(encode(noise, "wav"))
        utterances.append(Utterance(f"84-1-{number}", str(path), seconds, "A B", "84"))
    return utterances


def test_the_same_utterances_are_measured_at_each_length(
    neighbours: list[Utterance], model: Model
) -> None:
    recognizer = Recognizer(model, DecodingConfig(beam_size=1))

    found = by_length(recognizer, neighbours, seconds=100, counts=(1, 2, 4))

    assert [one.num_utterances for one in found] == [1, 2, 4]
    assert [one.num_recordings for one in found] == [4, 2, 1]
    for one in found:
        assert one.seconds * one.num_recordings == pytest.approx(1.0 + 1.1 + 1.2 + 1.3)
        assert one.whole.errors.num_reference == 8
        assert one.cut.errors.num_reference == 8
        assert one.whole.seconds > 0
        assert one.whole.memory >= 0


def test_what_is_measured_is_a_table(neighbours: list[Utterance], model: Model) -> None:
    recognizer = Recognizer(model, DecodingConfig(beam_size=1))

    lines = table(by_length(recognizer, neighbours, 1.0, (1, 2))).splitlines()

    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert re.fullmatch(
        r"\| 2 \| 2\.1 \| 1 (\| [\d.]+ % \| \d\.\d{3} \| \d+ ){2}\|", lines[3]
    )


def test_a_manifest_without_neighbours_is_refused(
    neighbours: list[Utterance], model: Model
) -> None:
    with pytest.raises(ConfigError, match="has nowhere 16 neighbours"):
        by_length(Recognizer(model), neighbours, seconds=10)


def test_the_command_wants_minutes(
    neighbours: list[Utterance], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path / "dev.jsonl", neighbours)

    status = main(
        ["evaluate", "long-speech", str(tmp_path / "dev.jsonl"), "--minutes", "0"]
    )

    assert status == 1
    assert capsys.readouterr().err == "asr: --minutes must be above 0, not 0\n"
