"""Recordings in which nobody speaks, made to train with."""

import random
from pathlib import Path

import pytest
import torch

from asr.audio import SAMPLE_RATE, read_waveform
from asr.data.manifest import read_manifest
from recipes.librispeech.no_speech import main, sound


def test_the_manifest_has_recordings_without_a_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "sounds"), "--number", "3"]) == 0

    utterances = read_manifest(tmp_path / "sounds" / "no-speech.jsonl")
    assert [utterance.text for utterance in utterances] == ["", "", ""]
    for utterance in utterances:
        waveform = read_waveform(utterance.audio)
        assert utterance.duration == pytest.approx(
            len(waveform) / SAMPLE_RATE, abs=1e-3
        )
    assert "no-speech.jsonl: 3 recordings, 0.0" in capsys.readouterr().out


def test_the_same_seed_makes_the_same_and_another_one_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        main([str(tmp_path / name), "--number", "1", "--seed", str(seed)])

    a, b, c = (next((tmp_path / name).glob("*.flac")).read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("seed", range(40))
def test_any_sound_can_be_heard_and_is_not_clipped(seed: int) -> None:
    waveform = sound(random.Random(seed))

    assert 1.0 <= len(waveform) / SAMPLE_RATE <= 12.0
    assert bool(waveform.isfinite().all())
    assert 0.009 < float(waveform.abs().max()) < 0.8
    assert float(waveform.std()) > 1e-4


def test_sounds_differ() -> None:
    first, second = (sound(random.Random(seed)) for seed in (1, 2))
    size = min(len(first), len(second))
    assert not torch.allclose(first[:size], second[:size], atol=1e-3)


def test_what_cannot_be_made_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--number", "0"]) != 0
    assert "--number must be at least 1, not 0" in capsys.readouterr().err

    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file"), "--number", "1"]) != 0
    error = capsys.readouterr().err
    assert "file: cannot be written" in error
    assert error.count("\n") == 1
