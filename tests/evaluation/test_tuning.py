from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from asr.decoding.config import DecodingConfig
from asr.errors import CheckpointError, ConfigError, ManifestError
from asr.evaluation.tuning import (
    WITH,
    WITHOUT,
    Plan,
    Trial,
    best,
    plan_trials,
    trials,
)
from asr.inference.recognizer import Recognizer
from asr.inference.search_settings import save_decoding
from asr.inference.situations import Situation
from asr.scoring import ErrorRate
from asr.transcript import Segment, silence


def plan(manifest: Path, model: Path, **choices: Sequence[Any]) -> Plan:
    return plan_trials(manifest, model, choices)


def test_all_combinations_are_planned_beside_the_models_own_settings(
    manifest: Path, model_folder: Path
) -> None:
    own = DecodingConfig(length_norm=0.7)
    save_decoding(model_folder, Situation.BUNDLED, own)

    planned = plan(manifest, model_folder, beam_size=[2, 3], ctc_weight=[0.1, 0.2])

    tried = [(one.beam_size, one.ctc_weight) for one in planned.combinations]
    assert tried == [(2, 0.1), (2, 0.2), (3, 0.1), (3, 0.2)]
    assert {one.length_norm for one in planned.combinations} == {0.7}
    assert planned.situation is Situation.BUNDLED
    assert planned.names == ["beam_size", "ctc_weight"]


def test_what_means_nothing_without_a_language_model_is_tried_once(
    manifest: Path, model_folder: Path
) -> None:
    planned = plan(manifest, model_folder, lm_weight=[0, 1], word_bonus=[-3, -1])

    tried = [(one.lm_weight, one.word_bonus) for one in planned.combinations]
    assert tried == [(0.0, -2.0), (1.0, -3.0), (1.0, -1.0)]
    assert planned.situation is Situation.BUNDLED


def test_a_weight_of_zero_alone_is_for_a_search_without(
    manifest: Path, model_folder: Path
) -> None:
    planned = plan(manifest, model_folder, lm_weight=[0], beam_size=[1, 2])

    assert planned.situation is Situation.WITHOUT
    assert {one.lm_weight for one in planned.combinations} == {0.0}


def test_a_language_model_that_a_user_names_is_another(
    manifest: Path, model_folder: Path
) -> None:
    bundled = Path(__file__).parents[2] / "asr" / "assets" / "words"

    planned = plan_trials(
        manifest, model_folder, {"beam_size": [1]}, language_model=bundled
    )

    assert planned.situation is Situation.OTHER


def test_without_choices_there_are_some(
    manifest: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan(manifest, model_folder).names == list(WITH)

    load = Recognizer.load

    def without(*args: Any, **kwargs: Any) -> Recognizer:
        recognizer = load(*args, **kwargs)
        recognizer.language_model = None  # as if it did not fit the model
        return recognizer

    monkeypatch.setattr(Recognizer, "load", without)
    planned = plan(manifest, model_folder)

    assert planned.names == list(WITHOUT)
    assert planned.situation is Situation.WITHOUT


def test_a_part_of_the_manifest_is_taken(manifest: Path, model_folder: Path) -> None:
    planned = plan_trials(manifest, model_folder, {"lm_weight": [0]}, num_utterances=3)
    assert [one.id for one in planned.utterances] == ["0-0-0", "0-0-2", "0-1-4"]


def test_what_cannot_be_tried_is_refused_before_the_work(
    manifest: Path, model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"decoding\.beam: .*did you mean beam_size"):
        plan(manifest, model_folder, beam=[1])
    with pytest.raises(ConfigError, match=r"decoding\.ctc_weight is a share"):
        plan(manifest, model_folder, ctc_weight=[0.1, 2])
    with pytest.raises(ConfigError, match=r"decoding\.hotword_weight: cannot be tuned"):
        plan(manifest, model_folder, hotword_weight=[1, 2])
    with pytest.raises(ManifestError, match=r"none\.jsonl: cannot be read"):
        plan(tmp_path / "none.jsonl", model_folder)
    with pytest.raises(CheckpointError, match="holds no model"):
        plan(manifest, tmp_path / "none")


def test_each_combination_is_searched_with_its_settings(
    manifest: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recognize(self: Recognizer, waveforms: Sequence[torch.Tensor]) -> list[Segment]:
        text = "A B C D" if self.decoding.ctc_weight == 0.2 else "A B C X"
        return [replace(silence(1.0), text=text)] * len(waveforms)

    monkeypatch.setattr(Recognizer, "recognize", recognize)
    planned = plan(manifest, model_folder, lm_weight=[0], ctc_weight=[0.1, 0.2, 0.3])

    tried = list(trials(planned, processes=1))

    assert [trial.decoding.ctc_weight for trial in tried] == [0.1, 0.2, 0.3]
    assert [trial.errors.errors for trial in tried] == [6, 0, 6]
    assert best(tried) is tried[1]
    row = best(tried).to_dict()
    assert row["ctc_weight"] == 0.2
    assert row["errors"] == "0.00 [ 0 / 24, 0 ins, 0 del, 0 sub ]"


def test_of_equals_the_first_is_best() -> None:
    one, other = (
        Trial(DecodingConfig(beam_size=size), ErrorRate(1, 0, 0, 4), 1.0)
        for size in (1, 2)
    )
    assert best([one, other]) is one
