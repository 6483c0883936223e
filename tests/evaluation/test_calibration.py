from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asr.data.manifest import read_manifest, write_manifest
from asr.decoding.ctc_alignment import CTCAlignment
from asr.decoding.search import Hypothesis
from asr.errors import CheckpointError, ManifestError
from asr.evaluation import calibration
from asr.evaluation.calibration import calibrate
from asr.inference.confidence import CALIBRATION
from asr.inference.recognizer import Recognizer
from asr.inference.search_result import SearchResult
from asr.model.storage import load_model


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


def test_calibration_learns_which_words_are_right(
    manifest: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Recognizer, "search", lambda self, waveforms: found_in(waveforms)
    )
    monkeypatch.setattr(calibration, "MIN_WORDS", 24)

    printed = calibrate(manifest, model_folder, processes=1)

    assert "24 words, 75.0 % right." in printed
    assert "area under the curve 1.000" in printed
    assert "| 1.00 | 1.00 | 18 |" in printed or "| 0.99 | 1.00 | 18 |" in printed
    load_model(model_folder)  # the checksums are those of the new files
    fitted = Recognizer.load(model_folder).calibration
    assert fitted is not None
    assert fitted.speech == pytest.approx(6 / 7, abs=1e-3)
    words = found_in([torch.zeros(1)])[0].segment(fitted).words
    assert [word.confidence > 0.9 for word in words] == [True, True, True, False]


def test_one_speaker_is_enough(
    manifest: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Recognizer, "search", lambda self, waveforms: found_in(waveforms)
    )
    monkeypatch.setattr(calibration, "MIN_WORDS", 24)
    utterances = [replace(one, speaker="ann") for one in read_manifest(manifest)]
    write_manifest(manifest, utterances)

    printed = calibrate(manifest, model_folder, processes=1)

    assert "24 words, 75.0 % right." in printed


def test_one_utterance_is_refused(manifest: Path, model_folder: Path) -> None:
    write_manifest(manifest, read_manifest(manifest)[:1])

    with pytest.raises(
        ManifestError, match=r"dev\.jsonl: one utterance is not enough \(two are needed"
    ):
        calibrate(manifest, model_folder, processes=1)


def test_the_bundled_model_is_not_calibrated_in_its_place(manifest: Path) -> None:
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
