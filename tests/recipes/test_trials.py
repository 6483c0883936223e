"""The recipes that try a model: calibration, long recordings, disturbances."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr.audio import SAMPLE_RATE, read_waveform
from asr.data.manifest import Utterance, write_manifest
from asr.decoding.config import DecodingConfig
from asr.decoding.ctc_alignment import CTCAlignment
from asr.decoding.search import Hypothesis
from asr.inference.confidence import CALIBRATION
from asr.inference.recognizer import Recognizer
from asr.inference.search_result import SearchResult
from asr.model.storage import Model, load_model
from recipes.librispeech import calibrate, long, robustness

Capture = pytest.CaptureFixture[str]


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


def heard(waveforms: list[torch.Tensor]) -> list[SearchResult]:
    """A, B and C with good reasons, X with none, whatever is said."""
    text = "A B C X"
    log_probs = torch.tensor([-0.1, -0.1, -0.1, -0.1, -0.1, -0.1, -9.0])
    steps = torch.arange(7.0)
    result = SearchResult(
        hypotheses=[Hypothesis(tuple(range(7)), -1.0)],
        texts=[text],
        pieces=text,
        alignment=CTCAlignment(steps, steps + 1, log_probs),
        log_probs=torch.cat((log_probs, torch.zeros(1))),
        weights=torch.zeros(8, 9),
        seconds_per_ctc_step=0.04,
        seconds_per_step=0.04,
        duration=1.0,
    )
    return [result] * len(waveforms)


def test_calibration_learns_which_words_are_right(
    manifest: Path,
    model_folder: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Recognizer, "search", lambda self, waveforms: heard(waveforms))
    monkeypatch.setattr(calibrate, "LEAST", 24)

    arguments = [str(manifest), str(model_folder), "--processes", "1"]
    assert calibrate.main(arguments) == 0

    printed = capsys.readouterr().out
    assert "24 words, 75.0 % right." in printed
    assert "area under the curve 1.000" in printed
    assert "| 1.00 | 1.00 | 18 |" in printed or "| 0.99 | 1.00 | 18 |" in printed
    load_model(model_folder)  # the checksums are those of the new files
    calibration = Recognizer.load(model_folder).calibration
    assert calibration is not None
    assert calibration.speech == pytest.approx(6 / 7, abs=1e-3)
    words = heard([torch.zeros(1)])[0].segment(calibration).words
    assert [word.confidence > 0.9 for word in words] == [True, True, True, False]


def test_too_few_words_are_told(
    manifest: Path, model_folder: Path, capsys: Capture
) -> None:
    arguments = [str(manifest), str(model_folder), "--processes", "1"]

    assert calibrate.main(arguments) == 1

    assert "words were heard, too few" in capsys.readouterr().err
    assert not (model_folder / CALIBRATION).exists()


def test_a_long_recording_is_made_of_chapters_in_their_order(
    utterances: list[Utterance],
) -> None:
    joined = long.join_utterances(utterances, 1000.0)

    ids = [utterance.id for utterance in joined.utterances]
    assert sorted(ids) == sorted(utterance.id for utterance in utterances)
    chapters = [id.rsplit("-", 1)[0] for id in ids]
    assert len([a for a, b in itertools.pairwise(chapters) if a != b]) == 3
    for begin, waveform in zip(joined.begins, joined.waveforms, strict=True):
        first = round(begin * SAMPLE_RATE)
        there = joined.waveform[first : first + len(waveform)]
        assert torch.equal(there, waveform)
    assert 6 * 1.2 <= len(joined.waveform) / SAMPLE_RATE <= 6 * 2.5


def test_no_more_utterances_are_taken_than_needed(utterances: list[Utterance]) -> None:
    assert len(long.join_utterances(utterances, 2.0).utterances) == 2


def test_a_long_recording_is_reported(
    manifest: Path, model_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments = [str(manifest), str(tmp_path / "out"), "--model", str(model_folder)]

    assert long.main([*arguments, "--minutes", "0.05"]) == 0

    printed = capsys.readouterr().out
    assert len(re.findall(r"%WER", printed)) == 2
    assert re.search(r"real-time factor \d", printed)
    assert len(re.findall(r"start [+-]\d\.\d{3} s, 80 % within", printed)) == 3
    assert len(read_waveform(tmp_path / "out" / "long.flac")) > 3 * SAMPLE_RATE


def test_disturbances_are_tried(
    model: Model, utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = Recognizer(model, DecodingConfig(beam_size=1))

    found = robustness.table(recognizer, utterances[:2])

    rows = re.findall(r"^\| ([^|]+) \| (\d+\.\d) \| \d \|$", found, re.MULTILINE)
    assert [name for name, _ in rows] == list(robustness.DISTURBANCES)
    assert rows[0][1] == rows[-1][1]  # loudness changes nothing


@pytest.mark.parametrize("name", robustness.DISTURBANCES)
def test_a_disturbance_leaves_a_recording_that_can_be_heard(name: str) -> None:
    speech = read_waveform("asr/assets/sample.opus")

    disturbed = robustness.DISTURBANCES[name](speech)

    assert disturbed.isfinite().all()
    if name != "nothing":
        same = len(disturbed) == len(speech) and torch.equal(disturbed, speech)
        assert not same


def test_noise_is_as_loud_as_it_is_said_to_be() -> None:
    torch.manual_seed(0)
    speech = read_waveform("asr/assets/sample.opus")

    noise = robustness.DISTURBANCES["pink noise, 10 dB below"](speech) - speech

    ratio = speech.square().mean() / noise.square().mean()
    assert 10 * ratio.log10() == pytest.approx(10.0, abs=0.1)


@pytest.mark.parametrize(
    ("main", "more"),
    [(calibrate.main, ["las_mini"]), (long.main, ["out"]), (robustness.main, [])],
)
def test_a_missing_manifest_is_one_line(
    main: Callable[[list[str]], int], more: list[str], tmp_path: Path, capsys: Capture
) -> None:
    assert main([str(tmp_path / "none.jsonl"), *more]) == 1

    error = capsys.readouterr().err
    assert "none.jsonl: cannot be read" in error
    assert error.count("\n") == 1


def test_sounds_that_are_no_speech_are_listened_to(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robustness, "LENGTHS", (1,))

    found = robustness.invented(Recognizer(model, DecodingConfig(beam_size=1)))

    rows = re.findall(r"^\| ([^|]+) \| \d+(?: \([a-z, ]+\))? \|$", found, re.MULTILINE)
    assert rows == list(robustness.SOUNDS)


@pytest.mark.parametrize("name", robustness.SOUNDS)
def test_a_sound_can_be_heard(name: str) -> None:
    times = torch.arange(SAMPLE_RATE) / SAMPLE_RATE

    sound = robustness.SOUNDS[name](times)

    assert sound.shape == times.shape
    assert 0.001 < float(sound.square().mean().sqrt()) < 0.5
