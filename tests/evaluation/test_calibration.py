from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asr.data.manifest import Utterance, write_manifest
from asr.decoding.ctc_alignment import CTCAlignment
from asr.decoding.hypothesis import Hypothesis
from asr.errors import CheckpointError, ManifestError
from asr.evaluation import calibration
from asr.evaluation.calibration import Judged, calibrate
from asr.inference.recognizer import Recognizer
from asr.inference.search_result import SearchResult
from asr.model.storage import CALIBRATION, load_model


def found_in(waveforms: list[torch.Tensor]) -> list[SearchResult]:
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


@pytest.fixture
def _same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is said, a search finds `found_in`."""
    monkeypatch.setattr(
        Recognizer, "search", lambda self, waveforms: found_in(waveforms)
    )


@pytest.mark.usefixtures("_same_words")
def test_calibration_learns_which_words_are_right(
    manifest: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "MIN_WORDS", 24)

    printed = calibrate(manifest, model_folder, processes=1)

    assert "24 words, 75.0 % right." in printed
    assert "area under the curve 1.000" in printed
    assert "| 1.00 | 1.00 | 18 |" in printed or "| 0.99 | 1.00 | 18 |" in printed
    load_model(model_folder)  # the checksums are those of the new files
    fitted = Recognizer.load(model_folder).calibration
    assert fitted is not None
    assert fitted.speech == pytest.approx(6 / 7, abs=1e-3)  # sounds are as clear
    words = found_in([torch.zeros(1)])[0].segment(fitted).words
    assert [word.confidence > 0.9 for word in words] == [True, True, True, False]


@pytest.mark.usefixtures("_same_words")
@pytest.mark.parametrize(("sounds", "expected"), [(0.0, 3 / 7), (0.5, 19 / 28)])
def test_noise_is_what_is_less_clear_than_halfway_to_speech(
    sounds: float,
    expected: float,
    manifest: Path,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "MIN_WORDS", 24)
    found = [sounds, sounds, 1.0]  # one of them is like speech
    monkeypatch.setattr(calibration, "clear_without_speech", lambda *_: found)

    calibrate(manifest, model_folder, processes=1)

    fitted = Recognizer.load(model_folder).calibration
    assert fitted is not None
    assert fitted.speech == pytest.approx(expected, abs=1e-3)


@pytest.mark.usefixtures("_same_words")
def test_one_speaker_is_enough(
    utterances: list[Utterance],
    tmp_path: Path,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "MIN_WORDS", 4)
    manifest = tmp_path / "one.jsonl"
    write_manifest(manifest, [replace(one, speaker="") for one in utterances])

    printed = calibrate(manifest, model_folder, processes=1)

    assert "24 words, 75.0 % right." in printed
    assert "area under the curve 1.000" in printed


def judged(speaker: str, num_words: int) -> Judged:
    right = torch.arange(num_words) % 2 == 0
    return Judged(speaker, torch.randn(num_words, 7).numpy(), right.numpy(), 0.5)


@pytest.mark.parametrize(
    ("of_others", "by_speaker"), [([1], False), ([20, 5], False), ([20, 20], True)]
)
def test_a_half_of_the_speakers_has_many_words_or_it_is_one_of_the_utterances(
    of_others: list[int], by_speaker: bool, manifest: Path, model_folder: Path
) -> None:
    some = [judged("1", 40), judged("1", 40)]
    some += [judged("2", number) for number in of_others]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "_judge", lambda *_: (some, [0.0]))
        patch.setattr(calibration, "MIN_WORDS", 81)
        assert "words, " in calibrate(manifest, model_folder, processes=1)

    first = [one.speaker == "1" for one in some]
    if not by_speaker:
        first = [place % 2 == 0 for place in range(len(some))]
    found = calibration._of_first_half(some).tolist()
    assert found == [f for f, o in zip(first, some, strict=True) for _ in o.right]


def test_a_second_recording_of_one_word_is_not_enough(
    manifest: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [judged("1", 120), judged("2", 1)]
    monkeypatch.setattr(calibration, "_judge", lambda *_: (some, [0.0]))

    with pytest.raises(ManifestError, match=r"recording only \(at least two with 2 w"):
        calibrate(manifest, model_folder, processes=1)


@pytest.mark.usefixtures("_same_words")
def test_one_recording_is_not_enough(
    utterances: list[Utterance],
    tmp_path: Path,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "MIN_WORDS", 4)
    write_manifest(tmp_path / "one.jsonl", utterances[:1])

    with pytest.raises(ManifestError, match=r"one\.jsonl: words were found in one"):
        calibrate(tmp_path / "one.jsonl", model_folder, processes=1)


def test_the_bundled_model_is_not_calibrated_in_its_place(
    utterances: list[Utterance], tmp_path: Path
) -> None:
    manifest = tmp_path / "dev.jsonl"
    write_manifest(manifest, utterances)

    with pytest.raises(
        CheckpointError,
        match=r"las_mini: is bundled, .*\(make a copy to change: asr export",
    ):
        calibrate(manifest, "las_mini", processes=1)


def test_too_few_words_are_refused(manifest: Path, model_folder: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"dev\.jsonl: only \d+ words .*\(at least 100 are needed\)"
    ):
        calibrate(manifest, model_folder, processes=1)

    assert not (model_folder / CALIBRATION).exists()
