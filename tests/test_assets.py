"""The bundled model and recording do what the README says."""

import json
from pathlib import Path

import pytest

from asr.inference.recognizer import Recognizer
from asr.lm.word_files import find_language_model
from asr.model.storage import find_model
from asr.scoring import word_error_rate
from asr.training.validation import attention_habits
from asr.transcript import Segment

MODEL = find_model(None)
WORDS = find_language_model(None)
ASSETS = MODEL.parent


@pytest.fixture(scope="module")
def segment() -> Segment:
    recognizer = Recognizer.load()
    (segment,) = recognizer.transcribe(
        ASSETS / "sample.opus", return_alignment=True
    ).segments
    return segment


def test_the_model_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 23_500_000
    assert sum(path.stat().st_size for path in WORDS.iterdir()) < 36_500_000


def test_their_files_have_checksums() -> None:
    for path in (MODEL / "model.json", WORDS / "ngram.json", WORDS / "lstm.json"):
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        own = {"model.json": "model", "ngram.json": "ngram", "lstm.json": "lstm"}
        assert f"{own[path.name]}.safetensors" in files


def test_the_sample_is_understood(segment: Segment) -> None:
    said = json.loads((ASSETS / "sample.json").read_text(encoding="utf-8"))["text"]

    assert segment.flags == ()
    assert word_error_rate([said], [segment.text]).rate <= 0.5


def test_attention_goes_through_the_sample_from_beginning_to_end(
    segment: Segment,
) -> None:
    assert segment.alignment is not None

    focus, monotony, reach = attention_habits(segment.alignment.weights).tolist()

    assert focus > 0.5
    assert monotony > 0.9
    assert reach > 0.9


@pytest.mark.parametrize("field", ["Data", "Licence", "Commit", "Command", "WER"])
def test_the_card_has_where_the_model_is_from(field: str) -> None:
    assert field in (MODEL / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_the_sample_names_its_source() -> None:
    metadata = json.loads((ASSETS / "sample.json").read_text(encoding="utf-8"))

    assert "CC BY 4.0" in metadata["licence"]
    assert "LibriSpeech" in metadata["source"]


def test_nothing_else_is_bundled() -> None:
    folders = (ASSETS, MODEL, WORDS)
    names = {path.name for folder in folders for path in folder.iterdir()}

    assert names == {
        *("las_mini", "sample.opus", "sample.json", "words", "formats", "pages", "web"),
        *("model.safetensors", "model.json", "confidence.json", "decoding.json"),
        "MODEL_CARD.md",
        *("ngram.safetensors", "ngram.json", "lstm.safetensors", "lstm.json"),
    }


def test_the_folder_is_part_of_the_package() -> None:
    import asr

    assert asr.__file__ is not None
    assert Path(asr.__file__).parent == ASSETS.parent
