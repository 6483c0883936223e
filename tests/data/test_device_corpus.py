import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr.audio import SAMPLE_RATE
from asr.data import device_corpus
from asr.data.batching import Batch
from asr.data.dataset import Augmentation, Dataset
from asr.data.device_corpus import DeviceCorpus
from asr.data.length_classes import ClassBatch, LengthClass
from asr.data.manifest import Utterance
from asr.errors import AudioError, ConfigError, TrainingError
from asr.features import AugmentConfig
from asr.text import CharTokenizer

CPU = torch.device("cpu")
SECONDS = (0.6, 1.1, 0.9)
TEXTS = ("GO", "GO ON", "")
SHAPE = LengthClass(144, 8, 4)
QUIET = AugmentConfig([0.9, 1.0, 1.1], frequency_masks=0, time_masks=0)
LOUD = AugmentConfig(
    [0.9, 1.0, 1.1], noise=0.7, room=0.5, clipping=0.5, stretch=0.1, characters=0.5
)


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """Three recordings of noise; nobody speaks in the last."""
    return recordings(tmp_path_factory.mktemp("corpus"), SECONDS, TEXTS)


def recordings(
    folder: Path, durations: Sequence[float], texts: Sequence[str]
) -> list[Utterance]:
    """Recordings of noise with some texts."""
    noise, utterances = np.random.default_rng(0), []
    for number, (seconds, text) in enumerate(zip(durations, texts, strict=True)):
        path = folder / f"{number}.wav"
        samples = noise.normal(0, 0.1, round(seconds * SAMPLE_RATE))
        soundfile.write(path, samples, SAMPLE_RATE)
        utterances.append(Utterance(f"{number}", str(path), seconds, text))
    return utterances


def dataset(utterances: Sequence[Utterance], config: AugmentConfig) -> Dataset:
    return Dataset(utterances, CharTokenizer(), Augmentation(config, 1), 1.0)


@pytest.fixture(scope="module", params=["in memory", "read ahead"])
def hours(request: pytest.FixtureRequest) -> float:
    return 1.0 if request.param == "in memory" else 0.0


def batch(
    corpus: DeviceCorpus, indexes: list[int], epoch: int = 0, strength: float = 1.0
) -> Batch:
    (made,) = corpus.load([(ClassBatch(SHAPE, indexes), strength)], epoch)
    return made


@pytest.mark.parametrize("config", [QUIET, LOUD], ids=["quiet", "loud"])
def test_a_batch_holds_what_the_dataset_makes(
    utterances: list[Utterance], config: AugmentConfig, hours: float
) -> None:
    examples = dataset(utterances, config)
    corpus = DeviceCorpus(examples, CPU, hours, 1)
    for epoch in range(3):
        made = batch(corpus, [2, 0, 1], epoch)

        assert made.ids == ["2", "0", "1"]
        assert made.features.shape == (4, 144, 80)
        for row, index in enumerate([2, 0, 1]):
            example = examples.example(index, epoch)
            count = int(made.num_frames[row])
            assert count == len(example.features)
            # of 16 bits, and a room or band is worked out at another length
            close = (made.features[row, :count] - example.features).abs()
            assert float(close.mean()) < 0.02
            assert float((close > 0.1).float().mean()) < 0.02
            assert not made.features[row, count:].any()
            said = made.tokens[row, : made.num_tokens[row]]
            assert torch.equal(said, example.tokens)
            if example.inputs is not None:
                assert made.inputs is not None
                fed = made.inputs[row, : made.num_tokens[row]]
                assert torch.equal(fed, example.inputs)


def test_what_is_left_over_is_one_frame_of_silence(
    utterances: list[Utterance], hours: float
) -> None:
    corpus = DeviceCorpus(dataset(utterances, LOUD), CPU, hours, 1)

    made = batch(corpus, [1])

    assert made.num_real == 1
    assert made.num_frames[1:].tolist() == [1, 1, 1]
    assert made.num_tokens[1:].tolist() == [0, 0, 0]
    assert not made.features[1:].any()
    assert made.seconds == pytest.approx(1.1 / corpus.augmentation.speed(0, 1), 1e-3)


def test_recordings_as_they_are_are_read_for_alignment(
    utterances: list[Utterance], hours: float
) -> None:
    corpus = DeviceCorpus(dataset(utterances, LOUD), CPU, hours, 1)
    plain = Dataset(utterances, CharTokenizer())

    ((features, num_frames),) = corpus.plain([ClassBatch(SHAPE, [1, 0])])

    assert num_frames.tolist() == [111, 61, 1, 1]
    expected = plain.example(1).features
    assert float((features[0, :111] - expected).abs().mean()) < 1e-2


def test_expected_places_move_with_the_speed(utterances: list[Utterance]) -> None:
    corpus = DeviceCorpus(dataset(utterances, QUIET), CPU, 1.0, 1)
    corpus.expected = [torch.tensor([0.2, 0.4, 0.6]), *[torch.zeros(1)] * 2]
    epochs = {corpus.augmentation.speed(epoch, 0): epoch for epoch in range(20)}

    for speed in (0.9, 1.0, 1.1):
        expected = batch(corpus, [0], epochs[speed]).expected

        assert expected is not None
        assert expected.shape == (4, 9)
        steps = torch.tensor([5, 10, 15]) / speed
        torch.testing.assert_close(expected[0, :3], steps)


def test_lengths_are_those_of_the_speeds(
    utterances: list[Utterance], hours: float
) -> None:
    corpus = DeviceCorpus(dataset(utterances, QUIET), CPU, hours, 1)

    assert len(corpus.lengths()) == 9
    for index, length in enumerate(corpus.lengths(4)):
        speed = corpus.augmentation.speed(4, index)
        assert length.frames == 1 + int(SECONDS[index] / speed * 100 + 1e-6)
        assert length.tokens == len(TEXTS[index])
    assert [n for n, _ in corpus.plain_lengths()] == [61, 111, 91]


def test_a_recording_that_cannot_be_read_is_named(
    utterances: list[Utterance], tmp_path: Path, hours: float
) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF no")
    bad = replace(utterances[0], audio=str(tmp_path / "bad.wav"))

    with pytest.raises(AudioError, match=r"bad\.wav"):
        batch(DeviceCorpus(dataset([bad], QUIET), CPU, hours, 1), [0])


def test_a_recording_longer_than_its_manifest_says_is_refused(
    utterances: list[Utterance],
) -> None:
    wrong = replace(utterances[1], duration=0.2)
    corpus = DeviceCorpus(dataset([wrong], QUIET), CPU, 0.0, 1)

    with pytest.raises(AudioError, match=r"longer than in its manifest, 0\.20 s"):
        (_,) = corpus.load([(ClassBatch(LengthClass(48, 8, 1), [0]), 1.0)], 0)


@pytest.mark.slow
@pytest.mark.parametrize("device_hours", [0.0, 1.0])
def test_several_processes_read_the_same(
    utterances: list[Utterance], device_hours: float
) -> None:
    one, two = (
        batch(DeviceCorpus(dataset(utterances, LOUD), CPU, device_hours, n), [1, 2])
        for n in (1, 2)
    )

    assert torch.equal(one.features, two.features)
    assert torch.equal(one.tokens, two.tokens)


@pytest.mark.parametrize("device_hours", [0.0, 1.0])
def test_an_error_of_a_reading_process_is_one_line(
    utterances: list[Utterance], tmp_path: Path, device_hours: float
) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF no")
    bad = replace(utterances[0], audio=str(tmp_path / "bad.wav"))

    with pytest.raises(AudioError, match=r"^\S*bad\.wav: .+$") as caught:
        batch(DeviceCorpus(dataset([bad], QUIET), CPU, device_hours, 2), [0])
    assert len(str(caught.value).splitlines()) == 1


def test_a_batch_may_hold_no_utterance(
    utterances: list[Utterance], hours: float
) -> None:
    made = batch(DeviceCorpus(dataset(utterances, LOUD), CPU, hours, 1), [])

    assert made.num_real == 0
    assert made.features.shape == (4, 144, 80)
    assert not made.features.any()
    assert made.num_frames.tolist() == [1, 1, 1, 1]


def test_a_duration_may_be_rounded(utterances: list[Utterance]) -> None:
    rounded = replace(utterances[1], duration=1.08)
    config = replace(QUIET, speeds=[1.0])
    corpus = DeviceCorpus(dataset([rounded], config), CPU, 0.0, 1)

    (made,) = corpus.load([(ClassBatch(LengthClass(109, 8, 1), [0]), 1.0)], 0)

    assert made.num_frames.tolist() == [109]


def test_stripes_do_not_hang_on_the_duration_of_the_manifest(
    utterances: list[Utterance],
) -> None:
    config = AugmentConfig([1.0], time_masks=5, time_width=40)
    wrong = dataset([replace(utterances[1], duration=0.5)], config)
    in_memory, read_ahead = (
        batch(DeviceCorpus(wrong, CPU, hours, 1), [0]) for hours in (1.0, 0.0)
    )

    assert torch.equal(in_memory.features, read_ahead.features)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_how_strong_the_augmentation_is_is_asked_late(
    utterances: list[Utterance], hours: float, processes: int
) -> None:
    asked = 0

    def plan() -> Iterator[tuple[ClassBatch, float]]:
        nonlocal asked
        for _ in range(100):
            asked += 1
            yield ClassBatch(SHAPE, [0]), 1.0

    corpus = DeviceCorpus(dataset(utterances, QUIET), CPU, hours, processes)
    with closing(corpus.load(plan(), 0)) as loaded:
        next(loaded)

    assert asked < 20


def test_a_corpus_that_memory_cannot_hold_is_an_error_of_the_settings(
    utterances: list[Utterance],
) -> None:
    endless = replace(utterances[0], duration=1e7)

    message = r"training\.device_hours: there is no memory for \d+\.\d h of audio"
    with pytest.raises(ConfigError, match=message):
        DeviceCorpus(dataset([endless], QUIET), CPU, 1e15, 1)


def die(*_: object, **__: object) -> None:
    os._exit(9)


@pytest.mark.slow
@pytest.mark.parametrize("device_hours", [0.0, 1.0])
def test_a_reading_process_that_dies_is_an_error(
    utterances: list[Utterance], device_hours: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_corpus, "_decode", die)
    monkeypatch.setattr(device_corpus._Samples, "__reduce__", lambda _: (die, ()))

    with pytest.raises(TrainingError, match="a process that reads recordings died"):
        batch(DeviceCorpus(dataset(utterances, QUIET), CPU, device_hours, 2), [0])
