from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asr.audio import SAMPLE_RATE, read_waveform
from asr.data.dataset import Augmentation, Dataset
from asr.data.device_corpus import DeviceCorpus
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.recordings import read_utterance
from asr.data.shards import write_shards
from asr.errors import AudioError
from asr.features import AugmentConfig
from asr.text import CharTokenizer
from tests.sounds import FORMATS, encoded, noise


@pytest.fixture(params=FORMATS)
def long_recording(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"long.{request.param}"
    path.write_bytes(encoded(request.param, noise(6.0)))
    return path


def part(path: Path, start: float | None, seconds: float) -> Utterance:
    return Utterance("a", str(path), seconds, "GO", "84", start)


def test_a_part_has_the_samples_that_the_recording_has_there(
    long_recording: Path,
) -> None:
    whole = read_waveform(long_recording)

    waveform = read_utterance(part(long_recording, 2.25, 1.5))

    torch.testing.assert_close(
        waveform, whole[36_000:60_000], rtol=0, atol=1e-4, msg=str
    )


def test_a_part_from_the_very_start_is_not_the_whole(long_recording: Path) -> None:
    assert len(read_utterance(part(long_recording, 0.0, 1.5))) == 24_000
    assert len(read_utterance(part(long_recording, None, 1.5))) >= 96_000


def test_a_part_may_end_a_little_after_its_recording(long_recording: Path) -> None:
    seconds = len(read_waveform(long_recording)) / SAMPLE_RATE - 5

    assert len(read_utterance(part(long_recording, 5.0, seconds + 0.05))) == round(
        seconds * SAMPLE_RATE
    )


def test_a_part_that_the_recording_has_not_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(encoded("wav", noise(6.0)))

    with pytest.raises(AudioError, match=r"long.wav: ends 0.50 s before a does"):
        read_utterance(part(path, 5.0, 1.5))
    with pytest.raises(AudioError, match=r"lasts 6.00 s"):
        read_utterance(part(path, 7.0, 1.5))


def test_training_learns_from_the_part(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(encoded("wav", noise(6.0)))
    alone = tmp_path / "alone.wav"
    alone.write_bytes(encoded("wav", noise(6.0)[32_000:56_000]))
    tokenizer = CharTokenizer()

    there = Dataset([part(path, 2.0, 1.5)], tokenizer)
    here = Dataset([part(alone, None, 1.5)], tokenizer)

    torch.testing.assert_close(
        there.example(0).features, here.example(0).features, rtol=0, atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_on_a_device_training_learns_from_the_part(
    processes: int, tmp_path: Path
) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(encoded("wav", noise(6.0)))
    learned = Dataset(
        [part(path, 2.0, 1.5)],
        CharTokenizer(),
        Augmentation(AugmentConfig(speeds=[1.0]), 1),
    )
    corpus = DeviceCorpus(learned, torch.device("cpu"), 1.0, processes)

    with corpus._decoded() as decoded:
        ((waveform,),) = decoded

    assert len(waveform) == 24_000


def test_a_shard_holds_the_part_as_a_recording_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "long.mp3"
    path.write_bytes(encoded("mp3", noise(6.0)))
    utterance = part(path, 2.25, 1.5)
    write_manifest(tmp_path / "m.jsonl", [utterance])

    write_shards(tmp_path / "m.jsonl", tmp_path / "shards", 1.0)

    (written,) = read_manifest(tmp_path / "shards" / "manifest.jsonl")
    assert written.start is None
    assert replace(written, audio="") == replace(utterance, audio="", start=None)
    torch.testing.assert_close(
        read_utterance(written), read_utterance(utterance), rtol=0, atol=1e-4
    )
