import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from asr.decoding.config import DecodingConfig, replaced
from asr.errors import AsrWarning, CheckpointError, ConfigError
from asr.inference.parallel import decode
from asr.inference.recognizer import Recognizer
from asr.inference.search_settings import load_decoding, save_decoding
from asr.inference.situations import Situation
from asr.model.storage import (
    DECODING,
    Model,
    add_further,
    find_model,
    further_files,
    load_model,
    save_model,
)
from asr.text import CharTokenizer

BUNDLED_WORDS = Path(__file__).parents[2] / "asr" / "assets" / "words"
each_situation = pytest.mark.parametrize("situation", Situation)


@pytest.fixture
def tuned_folder(model_folder: Path) -> Path:
    """A model with a beam of its own in each situation: 2, 3 and 4."""
    for size, situation in enumerate(Situation, start=2):
        save_decoding(model_folder, situation, DecodingConfig(beam_size=size))
    return model_folder


# The file


@each_situation
def test_what_is_saved_is_loaded(situation: Situation, model_folder: Path) -> None:
    decoding = DecodingConfig(
        beam_size=5, length_norm=0.25, eos_threshold=None, ctc_weight=0.125
    )

    save_decoding(model_folder, situation, decoding)

    assert load_decoding(model_folder, situation) == decoding
    others = set(Situation) - {situation}
    assert {load_decoding(model_folder, one) for one in others} == {DecodingConfig()}


def test_saving_for_one_situation_keeps_the_others(tuned_folder: Path) -> None:
    save_decoding(tuned_folder, Situation.OTHER, DecodingConfig(beam_size=9))

    sizes = [load_decoding(tuned_folder, one).beam_size for one in Situation]
    assert sizes == [2, 9, 4]
    tree = json.loads((tuned_folder / DECODING).read_text())
    assert list(tree) == ["version", *Situation]


def test_a_setting_that_the_file_lacks_is_the_default(model_folder: Path) -> None:
    content = {"version": 1, Situation.BUNDLED: {"length_norm": 0}}
    add_further(model_folder, DECODING, json.dumps(content).encode())

    loaded = load_decoding(model_folder, Situation.BUNDLED)

    assert loaded == DecodingConfig(length_norm=0.0)


def test_a_file_changed_by_hand_is_used_and_named(tuned_folder: Path) -> None:
    assert further_files(tuned_folder) == [DECODING]
    load_model(tuned_folder)

    place = tuned_folder / DECODING
    place.write_text(place.read_text().replace("64", "65") + " ")

    with pytest.warns(AsrWarning, match=r"decoding\.json: is not the file that model"):
        Recognizer.load(tuned_folder)


def test_a_file_put_there_by_hand_is_used_or_refused(model_folder: Path) -> None:
    with_one = {"version": 1, "with_bundled_language_model": {"beam_size": 5}}
    (model_folder / DECODING).write_text(json.dumps(with_one))
    with pytest.warns(AsrWarning, match=r"decoding\.json: is not the file that model"):
        assert load_decoding(model_folder, Situation.BUNDLED).beam_size == 5

    (model_folder / DECODING).write_text("{")
    with (
        pytest.warns(AsrWarning, match="it is used as it stands"),
        pytest.raises(CheckpointError, match="holds no settings of a search"),
    ):
        load_decoding(model_folder, Situation.BUNDLED)


def test_without_a_file_there_are_the_defaults(model_folder: Path) -> None:
    assert load_decoding(model_folder, Situation.BUNDLED) == DecodingConfig()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "holds no settings of a search"),
        ("[]", "holds no settings of a search"),
        ("{}", "holds no settings of a search"),
        ("[" * 100_000, "holds no settings of a search"),
        ('{"version": 2}', r"is of version 2, this asr reads version 1 \(update asr\)"),
        ('{"version": 1, "with": {}}', r"'with' is no table of settings of decoding"),
        (
            '{"version": 1, "with_bundled_language_model": 5}',
            "'with_bundled_language_model' is no table of settings",
        ),
        (
            '{"version": 1, "with_bundled_language_model": {"beam": 5}}',
            r"with_bundled_language_model: decoding\.beam: is not a setting \(did you",
        ),
        (
            '{"version": 1, "with_bundled_language_model": {"beam_size": 0}}',
            r"with_bundled_language_model: decoding\.beam_size must be at least 1",
        ),
    ],
)
def test_a_file_that_is_none_is_one_line(
    content: str, message: str, model_folder: Path
) -> None:
    add_further(model_folder, DECODING, content.encode())

    with pytest.raises(CheckpointError, match=f"decoding.json: {message}") as caught:
        Recognizer.load(model_folder)

    assert "\n" not in str(caught.value)


# Which one applies, and who overrides it


def test_each_situation_has_its_settings(tuned_folder: Path) -> None:
    bundled = Recognizer.load(tuned_folder)
    other = Recognizer.load(tuned_folder, language_model=BUNDLED_WORDS)
    without = Recognizer.load(tuned_folder, decoding={"lm_weight": 0})

    sizes = [one.decoding.beam_size for one in (bundled, other, without)]
    assert sizes == [2, 3, 4]
    used = [one.settings["language_model"] for one in (bundled, other, without)]
    assert used == [True, True, False]


def test_a_model_of_another_alphabet_searches_without(
    model: Model, tmp_path: Path
) -> None:
    tokenizer = CharTokenizer(" ABCDEFGHIJKLMNOPQRSTUVWXYZ\u00c4")
    assert tokenizer.size == model.tokenizer.size
    save_model(tmp_path, model.las, tokenizer, {})
    save_decoding(tmp_path, Situation.WITHOUT, DecodingConfig(beam_size=7))

    recognizer = Recognizer.load(tmp_path)

    assert recognizer.decoding == DecodingConfig(beam_size=7, lm_weight=0.0)


def test_a_model_may_switch_the_bundled_language_model_off(model_folder: Path) -> None:
    save_decoding(model_folder, Situation.BUNDLED, DecodingConfig(lm_weight=0))

    assert Recognizer.load(model_folder).settings["language_model"] is False
    asked = Recognizer.load(model_folder, decoding={"lm_weight": 0.5})
    assert asked.settings["language_model"] is True


def test_some_settings_replace_those_of_the_model(tuned_folder: Path) -> None:
    own = DecodingConfig(beam_size=6, length_norm=0.5)
    save_decoding(tuned_folder, Situation.BUNDLED, own)

    recognizer = Recognizer.load(tuned_folder, decoding={"length_norm": 0.25})

    assert recognizer.decoding == DecodingConfig(beam_size=6, length_norm=0.25)


def test_a_config_replaces_all_settings_of_the_model(tuned_folder: Path) -> None:
    recognizer = Recognizer.load(tuned_folder, decoding=DecodingConfig(ctc_weight=0.5))
    assert recognizer.decoding == DecodingConfig(ctc_weight=0.5)


def test_what_was_used_is_written_beside_the_hypotheses(
    tuned_folder: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "set.jsonl"
    sample = Path(__file__).parents[2] / "asr" / "assets" / "sample.opus"
    line = {"id": "a", "audio": str(sample), "duration": 6.78, "text": "A"}
    manifest.write_text(json.dumps(line) + "\n")
    given = {"lm_weight": 0, "length_norm": 0.9}

    decode(tuned_folder, manifest, tmp_path / "out", given, processes=1)

    metadata = json.loads((tmp_path / "out" / "decode.json").read_text())
    expected = DecodingConfig(beam_size=4, lm_weight=0, length_norm=0.9)
    assert metadata["decoding"] == expected.to_dict()
    assert metadata["language_model"] is None


def test_the_bundled_model_has_settings_for_each_situation(tmp_path: Path) -> None:
    folder = find_model(None)
    tree = json.loads((folder / DECODING).read_text())
    assert list(tree) == ["version", *Situation]

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for situation in Situation:
        save_decoding(copy, situation, load_decoding(folder, situation))

    for name in (DECODING, "model.json"):  # it is what `save_decoding` writes
        assert (copy / name).read_bytes() == (folder / name).read_bytes()


# Single settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beam": 4}, r"decoding\.beam: is not a setting \(did you mean beam_size\?\)"),
        ({"length_norms": 4}, r"did you mean length_norm\?"),
        ({"": 1}, r"decoding\.: is not a setting \(one of beam_size, length_norm, "),
        ({"beam_size": 2.5}, r"decoding\.beam_size must be a whole number, not 2\.5"),
        ({"beam_size": True}, r"beam_size must be a whole number, not True"),
        ({"beam_size": None}, r"beam_size must be a whole number, not None"),
        ({"ctc_weight": "0.3"}, r"decoding\.ctc_weight must be a number, not '0\.3'"),
        ({"ctc_weight": {"a": 1}}, r"ctc_weight must be a number, not {'a': 1}"),
        ({"ctc_weight": 2}, r"decoding\.ctc_weight is a share from 0 to 1, not 2\.0"),
        ({"lm_weight": 10**400}, "int too large to convert to float"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replaced(DecodingConfig(), given)


def test_a_whole_number_may_stand_for_a_float_and_null_for_none() -> None:
    decoding = replaced(DecodingConfig(), {"length_norm": 1, "eos_threshold": None})

    assert type(decoding.length_norm) is float
    assert decoding.eos_threshold is None


def test_hot_words_are_not_the_model_s(model_folder: Path) -> None:
    own = DecodingConfig(hotwords=("ANNA",), hotword_weight=2.5)

    save_decoding(model_folder, Situation.BUNDLED, own)

    assert load_decoding(model_folder, Situation.BUNDLED) == DecodingConfig()


@pytest.mark.parametrize("given", ["ANNA,NEW YORK", ["ANNA", "NEW YORK"]])
def test_hot_words_are_given_as_a_list_or_with_commas(given: object) -> None:
    found = replaced(DecodingConfig(), {"hotwords": given})

    assert found.hotwords == ("ANNA", "NEW YORK")


@pytest.mark.parametrize("given", [3, None, True])
def test_hot_words_are_texts(given: object) -> None:
    with pytest.raises(ConfigError, match=r"decoding\.hotwords must be texts, not"):
        replaced(DecodingConfig(), {"hotwords": given})


def test_the_bundled_language_model_may_be_named() -> None:
    assert Situation.of("words", is_there=True) is Situation.BUNDLED
    assert Situation.of(None, is_there=True) is Situation.BUNDLED
    assert Situation.of("words", is_there=False) is Situation.WITHOUT
