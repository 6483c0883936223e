from dataclasses import replace

import pytest

from asr.data.manifest import Utterance
from asr.decoding.config import DecodingConfig
from asr.errors import ConfigError
from asr.evaluation.search_errors import search_errors
from asr.inference.recognizer import Recognizer
from asr.model.storage import Model


def recognized(recognizer: Recognizer, utterance: Utterance) -> list[str]:
    from asr.data.recordings import read_utterance

    (result,) = recognizer.search([read_utterance(utterance)])
    return list(result.texts)


def test_what_the_search_finds_is_no_error(
    utterances: list[Utterance], model: Model
) -> None:
    recognizer = Recognizer(model, DecodingConfig(beam_size=4))
    right = [replace(u, text=recognized(recognizer, u)[0]) for u in utterances]

    found = search_errors(recognizer, right)

    assert (found.num_utterances, found.num_wrong, found.num_lost) == (6, 0, 0)
    assert found.found.errors == found.best.errors == 0


def test_white_space_only_parts_words(
    utterances: list[Utterance], model: Model
) -> None:
    recognizer = Recognizer(model, DecodingConfig(beam_size=4))
    words = [recognized(recognizer, u)[0].split() for u in utterances]
    right = [
        replace(u, text="\t " + " \n".join(text))
        for u, text in zip(utterances, words, strict=True)
    ]

    found = search_errors(recognizer, right)

    assert (found.num_wrong, found.num_lost, found.found.errors) == (0, 0, 0)


def test_a_reference_that_a_narrow_beam_loses_is_the_searchs_error(
    utterances: list[Utterance], model: Model
) -> None:
    wide = Recognizer(model, DecodingConfig(beam_size=32, length_norm=0.0))
    narrow = Recognizer(model, DecodingConfig(beam_size=1, length_norm=0.0))
    texts = [recognized(wide, u)[0] for u in utterances]
    lost = [
        replace(u, text=text)
        for u, text in zip(utterances, texts, strict=True)
        if recognized(narrow, u)[0] != text
    ]
    assert lost

    found = search_errors(narrow, lost)

    assert found.num_wrong == found.num_lost == len(lost)
    assert "the models prefer another text: 0 texts" in str(found)


def test_a_reference_that_scores_worse_is_the_models_error(
    utterances: list[Utterance], model: Model
) -> None:
    recognizer = Recognizer(model, DecodingConfig(beam_size=8, length_norm=0.0))
    some = [replace(u, text=recognized(recognizer, u)[-1]) for u in utterances]
    some = [u for u in some if u.text.split()]

    found = search_errors(recognizer, some)

    assert found.num_lost == 0
    assert found.best.errors <= found.found.errors


def test_a_text_in_other_letters_is_refused(
    utterances: list[Utterance], model: Model
) -> None:
    with pytest.raises(ConfigError, match="a text cannot be scored: 'é' is not among"):
        search_errors(Recognizer(model), [replace(utterances[0], text="CAFé")])
