"""A recognizer without torch finds what the one with torch finds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from asr.decoding.config import DecodingConfig
from asr.errors import AsrWarning, AudioError, CheckpointError, ConfigError
from asr.inference.confidence import FEATURES
from asr.inference.recognizer import Recognizer
from asr.lm.estimate import NGramConfig, estimate
from asr.model.attention import AttentionConfig
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.model.storage import CALIBRATION, DECODING, Model, add_further, save_model
from asr.onnx.export import export_onnx
from asr.onnx.recognizer import OnnxRecognizer
from asr.text import CharTokenizer
from asr.transcript import Segment, Transcript

RATE = 16_000
NOTHING: dict[str, Any] = {"lm_weight": 0, "beam_size": 4}


def noise(seconds: float) -> Any:
    return (0.1 * torch.randn(round(seconds * RATE))).numpy()


def words(folder: Path) -> Path:
    texts = ["A BE AN", "AND A BE", "BE BE", "I'M A AN", "ET TU", "A"]
    estimate([texts], [1], NGramConfig(3, 9, (1, 1))).save(folder, {})
    return folder


def check(found: Segment, expected: Segment) -> None:
    """Compare two segments of the same piece."""
    assert (found.text, found.flags) == (expected.text, expected.flags)
    for ours, theirs in zip(found.words, expected.words, strict=True):
        assert ours.text == theirs.text
        assert (ours.start, ours.end) == pytest.approx((theirs.start, theirs.end))
        assert ours.confidence == pytest.approx(theirs.confidence, abs=1e-4)
    assert [a.text for a in found.nbest] == [a.text for a in expected.nbest]
    scores = [a.score for a in expected.nbest]
    assert [a.score for a in found.nbest] == pytest.approx(scores, abs=1e-4)
    assert (found.alignment is None) == (expected.alignment is None)
    if found.alignment and expected.alignment:
        assert found.alignment.tokens == expected.alignment.tokens
        assert found.alignment.block_size == expected.alignment.block_size
        weights = np.asarray(expected.alignment.weights)
        np.testing.assert_allclose(found.alignment.weights, weights, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ctc_weight": 0.0, "eos_threshold": None},
        {"coverage": 0.3, "length_norm": 0.5},
        {"hotwords": ["ANNA", "NEW YORK"], "hotword_weight": 2.0},
        {"lm_weight": 0.5, "word_bonus": 1.0, "ilm_weight": 0.2},
        {"lm_weight": 0.5, "hotwords": ["ANNA"]},
    ],
)
def test_segments_are_the_same_with_any_settings(
    settings: dict[str, Any], model_folder: Path, tmp_path: Path
) -> None:
    export_onnx(model_folder, tmp_path / "onnx")
    given = {**NOTHING, **settings}
    language = words(tmp_path / "words") if given["lm_weight"] else None
    waveforms = [noise(0.4), noise(1.1), np.zeros(4000, np.float32), noise(0.05)]
    expected = Recognizer.load(
        model_folder, decoding=given, language_model=language
    ).recognize([torch.from_numpy(w) for w in waveforms], return_alignment=True)

    recognizer = OnnxRecognizer.load(
        tmp_path / "onnx", decoding=given, language_model=language
    )
    found = recognizer.recognize(waveforms, return_alignment=True)

    for ours, theirs in zip(found, expected, strict=True):
        check(ours, theirs)


def test_a_long_file_is_cut_and_joined_the_same(
    model_folder: Path, tmp_path: Path
) -> None:
    export_onnx(model_folder, tmp_path / "onnx")
    samples = np.concatenate([noise(9), np.zeros(3 * RATE, np.float32), noise(17)])
    path = tmp_path / "long.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    given = {"lm_weight": 0, "beam_size": 1}

    expected = Recognizer.load(model_folder, decoding=given).transcribe(path)
    found = OnnxRecognizer.load(tmp_path / "onnx", decoding=given).transcribe(path)

    assert isinstance(found, Transcript)
    assert (found.model, found.audio) == ("onnx", str(path))
    assert found.settings == expected.settings
    assert len(found.segments) > 3
    for ours, theirs in zip(found.segments, expected.segments, strict=True):
        assert (ours.start, ours.end) == (theirs.start, theirs.end)
        check(ours, theirs)


def test_files_uploads_samples_and_lists_are_taken(
    model_folder: Path, tmp_path: Path
) -> None:
    export_onnx(model_folder, tmp_path / "onnx")
    recognizer = OnnxRecognizer.load(tmp_path / "onnx", decoding=NOTHING)
    samples, path = noise(0.5), tmp_path / "noise.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")

    one = recognizer.transcribe(path)
    both = recognizer.transcribe([str(path), path.read_bytes()])
    of_samples = recognizer.transcribe(samples, RATE)

    assert both[0] == one
    assert both[1].segments == one.segments == of_samples.segments
    with pytest.raises(TypeError, match="samples need their rate"):
        recognizer.transcribe(samples)
    with pytest.raises(AudioError, match=r"missing\.wav"):
        recognizer.transcribe(tmp_path / "missing.wav")


def test_settings_and_calibration_of_the_model_come_along(
    model: Model, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    save_model(folder, model.las, model.tokenizer, model.metadata)
    weights = dict.fromkeys(FEATURES, 0.0)
    calibration = {"weights": weights, "bias": 1.0, "speech": 0.0}
    add_further(folder, CALIBRATION, json.dumps(calibration).encode())
    decoding = {"version": 1, "without_language_model": {"beam_size": 3}}
    add_further(folder, DECODING, json.dumps(decoding).encode())
    export_onnx(folder, tmp_path / "onnx")

    recognizer = OnnxRecognizer.load(tmp_path / "onnx", decoding={"lm_weight": 0})

    assert recognizer.decoding.beam_size == 3
    assert recognizer.calibration is not None
    assert recognizer.calibration.bias == 1.0
    assert recognizer.metadata == {"step": 7}


def test_subwords_come_along(
    subword_model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    save_model(folder, subword_model.las, subword_model.tokenizer, {})
    export_onnx(folder, tmp_path / "onnx")

    recognizer = OnnxRecognizer.load(tmp_path / "onnx", decoding={"beam_size": 2})

    assert recognizer.tokenizer == subword_model.tokenizer
    assert recognizer.language_model is None
    assert "the word language model is left out" in caplog.text
    with pytest.raises(CheckpointError, match="is for characters only"):
        OnnxRecognizer.load(tmp_path / "onnx", language_model=words(tmp_path / "words"))


# What is wrong


def exported(model_folder: Path, tmp_path: Path) -> Path:
    export_onnx(model_folder, tmp_path / "onnx")
    return tmp_path / "onnx"


def test_blocks_of_the_attention_are_shown_as_with_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LASConfig(
        ListenerConfig(size=4, reductions=[2, 2]),
        AttentionConfig(kind="additive", size=4, block_size=5),
        SpellerConfig(size=4, embedding_size=3),
    )
    tokenizer = CharTokenizer()
    save_model(tmp_path / "model", LAS(config, tokenizer.size), tokenizer, {})
    export_onnx(tmp_path / "model", tmp_path / "onnx")
    waveform = noise(1.1)

    recognizer = OnnxRecognizer.load(tmp_path / "onnx", decoding=NOTHING)
    found = recognizer.recognize([waveform], return_alignment=True)
    expected = Recognizer.load(tmp_path / "model", decoding=NOTHING).recognize(
        [torch.from_numpy(waveform)], return_alignment=True
    )

    check(found[0], expected[0])
    assert found[0].alignment is not None
    assert found[0].alignment.block_size == 5


def test_an_export_of_before_blocks_were_shown_is_read(
    model_folder: Path, tmp_path: Path
) -> None:
    place = exported(model_folder, tmp_path) / "onnx.json"
    tree = json.loads(place.read_text())
    del tree["network"]["block_size"]
    place.write_text(json.dumps(tree))

    found = OnnxRecognizer.load(place.parent, decoding=NOTHING).recognize([noise(0.5)])

    assert found[0].text


def test_a_damaged_graph_is_noticed(model_folder: Path, tmp_path: Path) -> None:
    folder = exported(model_folder, tmp_path)
    graph = folder / "listener.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")

    with pytest.raises(CheckpointError, match=r"listener.onnx: is damaged"):
        OnnxRecognizer.load(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 99, "is of format 99, this version reads format 1"),
        ("network", {}, "does not describe a model"),
        ("network", {"heads": 0, "reduction": 4, "ctc_reduction": 4}, "0 is no number"),
        (
            "network",
            {"heads": 1, "reduction": 4, "ctc_reduction": 4, "block_size": -1},
            "-1 is no number",
        ),
        ("metadata", [], "its metadata is no table"),
        ("tokenizer", {"kind": "subwords"}, "does not describe a model"),
    ],
)
def test_a_wrong_description_is_refused(
    key: str, value: object, message: str, model_folder: Path, tmp_path: Path
) -> None:
    place = exported(model_folder, tmp_path) / "onnx.json"
    tree = json.loads(place.read_text())
    place.write_text(json.dumps({**tree, key: value}))

    with pytest.raises(CheckpointError, match=message):
        OnnxRecognizer.load(place.parent)


def test_settings_that_people_changed_are_used_with_a_warning_or_refused(
    model_folder: Path, tmp_path: Path
) -> None:
    folder = exported(model_folder, tmp_path)
    decoding = '{"version": 1, "without_language_model": {"beam_size": 3}}'
    (folder / DECODING).write_text(decoding)

    with pytest.warns(AsrWarning, match=r"decoding\.json: is not the file that onnx"):
        found = OnnxRecognizer.load(folder, decoding={"lm_weight": 0})

    assert found.decoding.beam_size == 3
    (folder / DECODING).write_text(decoding.replace("3", "0"))
    with (
        pytest.warns(AsrWarning),
        pytest.raises(CheckpointError, match=r"beam_size must be at least 1"),
    ):
        OnnxRecognizer.load(folder, decoding={"lm_weight": 0})


def test_settings_are_those_of_the_description_after_a_kill(
    model: Model, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    save_model(folder, model.las, model.tokenizer, model.metadata)
    decoding = {"version": 1, "without_language_model": {"beam_size": 3}}
    add_further(folder, DECODING, json.dumps(decoding).encode())
    onnx = exported(folder, tmp_path)
    listed = json.loads((onnx / "onnx.json").read_text())["files"][DECODING]
    upcoming = onnx / f".{DECODING}.{listed['sha256'][:16]}.next"
    (onnx / DECODING).rename(upcoming)  # as where the export was killed by then

    found = OnnxRecognizer.load(onnx, decoding={"lm_weight": 0})

    assert found.decoding.beam_size == 3


def test_a_card_may_be_filled_in(model_folder: Path, tmp_path: Path) -> None:
    (model_folder / "MODEL_CARD.md").write_text("| Licence | TO BE FILLED IN |")
    folder = exported(model_folder, tmp_path)

    (folder / "MODEL_CARD.md").write_text("| Licence | CC BY 4.0 |")

    assert OnnxRecognizer.load(folder, decoding=NOTHING).precision == "float32"


def test_a_folder_without_an_export_is_refused(
    model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="holds no model for onnxruntime"):
        OnnxRecognizer.load(model_folder)
    with pytest.raises(CheckpointError, match="holds no language model"):
        OnnxRecognizer.load(
            exported(model_folder, tmp_path), language_model=tmp_path / "none"
        )


def test_torch_does_not_run_an_export(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is an ONNX export, which asr transcr"):
        Recognizer.load(exported(model_folder, tmp_path))


def test_an_export_replaces_an_export_and_nothing_else(
    model_folder: Path, tmp_path: Path
) -> None:
    folder = exported(model_folder, tmp_path)
    before = (folder / "listener.onnx").read_bytes()

    export_onnx(model_folder, folder, "int8")

    assert (folder / "listener.onnx").read_bytes() != before
    assert OnnxRecognizer.load(folder, decoding=NOTHING).precision == "int8"
    with pytest.raises(CheckpointError, match="holds other things than an ONNX export"):
        export_onnx(model_folder, model_folder)
    with pytest.raises(ConfigError, match="precision int4: is not known"):
        export_onnx(model_folder, folder, "int4")
    with pytest.raises(CheckpointError, match="is on the Hub"):
        export_onnx(model_folder, Path("hf:me/model"))
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be replaced"):
        export_onnx(model_folder, tmp_path / "file")


def test_settings_of_the_model_before_do_not_stay_for_the_next(
    model: Model, model_folder: Path, tmp_path: Path
) -> None:
    before = tmp_path / "before"
    save_model(before, model.las, model.tokenizer, model.metadata)
    calibration = {"weights": dict.fromkeys(FEATURES, 0.0), "bias": 1.0, "speech": 0.0}
    add_further(before, CALIBRATION, json.dumps(calibration).encode())
    decoding = {"version": 1, "without_language_model": {"beam_size": 3}}
    add_further(before, DECODING, json.dumps(decoding).encode())
    export_onnx(before, tmp_path / "onnx")

    export_onnx(model_folder, tmp_path / "onnx")

    recognizer = OnnxRecognizer.load(tmp_path / "onnx", decoding={"lm_weight": 0})
    assert recognizer.decoding.beam_size == DecodingConfig().beam_size
    assert recognizer.calibration is None


def test_a_window_of_the_attention_is_for_torch(
    model_folder: Path, tmp_path: Path
) -> None:
    export_onnx(model_folder, tmp_path / "onnx")

    with pytest.raises(ConfigError, match=r"attention_window=null\)"):
        OnnxRecognizer.load(
            tmp_path / "onnx", decoding={**NOTHING, "attention_window": 2}
        )
