import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from asr.decoding.ctc_alignment import CTCAlignment
from asr.decoding.hypothesis import Hypothesis
from asr.decoding.word_times import EARLY
from asr.inference.confidence import FEATURES, Calibration
from asr.inference.search_result import END, SearchResult
from asr.transcript import Alternative, Flag


def found(
    *texts: str,
    ctc_log_prob: float = -0.1,
    finished: bool = True,
    pieces: Sequence[str] | None = None,
) -> SearchResult:
    """A result whose tokens, characters by default, were said at steps 0, 1, 2, ...

    A step is of 0.04 s.
    """
    pieces = list(texts[0]) if pieces is None else pieces
    length = len(pieces)
    begins = torch.arange(float(length))
    return SearchResult(
        hypotheses=[
            Hypothesis(tuple(range(len(text))), -1.0 - rank, finished=finished)
            for rank, text in enumerate(texts)
        ],
        texts=texts,
        pieces=pieces,
        alignment=CTCAlignment(begins, begins + 1, torch.full((length,), ctc_log_prob)),
        log_probs=torch.full((length + 1,), -0.2),
        weights=torch.eye(length + 1, 30),
        seconds_per_ctc_step=0.04,
        seconds_per_step=0.08,
        duration=2.0,
    )


def test_a_segment_has_the_words_with_their_times_and_confidence() -> None:
    segment = found("GO ON", "GO IN").segment(None)

    assert segment.text == "GO ON"
    assert (segment.start, segment.end) == (0.0, 2.0)
    go, on = segment.words
    assert (go.text, on.text) == ("GO", "ON")
    assert (go.start, go.end) == pytest.approx((EARLY, 0.08 + EARLY))
    assert (on.start, on.end) == pytest.approx((0.12 + EARLY, 0.2 + EARLY))
    assert go.confidence == pytest.approx(1.0)
    # The share of the first of two whose log P differ by one.
    assert on.confidence == pytest.approx(1 / (1 + math.exp(-1)))
    assert segment.confidence == pytest.approx((go.confidence + on.confidence) / 2)


def test_a_segment_has_the_nbest_list_and_the_attention() -> None:
    segment = found("GO ON", "GO").segment(None)

    assert segment.nbest == (Alternative("GO ON", -1 / 6), Alternative("GO", -2 / 3))
    assert segment.alignment is not None
    assert segment.alignment.characters == "GO ON" + END
    assert segment.alignment.weights.shape == (6, 30)
    assert segment.alignment.seconds_per_step == 0.08


def test_superfluous_spaces_are_no_words() -> None:
    segment = found(" GO  ON ").segment(None)

    assert segment.text == "GO ON"
    assert [word.text for word in segment.words] == ["GO", "ON"]
    assert segment.alignment is not None
    assert segment.alignment.characters == "GO ON" + END
    looked = segment.alignment.weights.argmax(dim=1)  # row i of what was found: step i
    assert looked.tolist() == [1, 2, 3, 5, 6, 8]


def test_words_of_subwords_have_the_times_and_confidence_of_their_tokens() -> None:
    pieces = [" ", " GO", "ES", " ", "ON", " ", "", " ", "IT"]
    result = found("GOES ON  IT", "GOES IN IT", pieces=pieces)
    log_probs = torch.tensor([0.0, -0.1, -0.4, 0.0, -0.2, 0.0, 0.0, 0.0, -0.3])
    times: Any = result.alignment
    result = replace(result, alignment=times._replace(log_probs=log_probs))

    segment = result.segment(None)

    assert segment.text == "GOES ON IT"
    assert [word.text for word in segment.words] == ["GOES", "ON", "IT"]
    assert [(word.start, word.end) for word in segment.words] == [
        pytest.approx((0.04 + EARLY, 0.12 + EARLY)),
        pytest.approx((0.16 + EARLY, 0.20 + EARLY)),
        pytest.approx((0.32 + EARLY, 0.36 + EARLY)),
    ]
    assert [word.confidence for word in segment.words] == [
        pytest.approx(share) for share in (1.0, 1 / (1 + math.exp(-1)), 1.0)
    ]
    ctc, worst = FEATURES.index("ctc"), FEATURES.index("ctc_worst")
    assert result.features[:, ctc].tolist() == pytest.approx([-0.25, -0.2, -0.3])
    assert result.features[:, worst].tolist() == pytest.approx([-0.4, -0.2, -0.3])
    many = result.features[:, FEATURES.index("characters")]
    assert many.tolist() == pytest.approx([math.log(2), 0.0, 0.0])


def test_an_alignment_of_subwords_has_a_row_for_each_of_them() -> None:
    pieces = [" ", " GO", "ES", " ON", " ", " ", "IT"]

    alignment = found("GOES ON  IT", pieces=pieces).segment(None).alignment

    assert alignment is not None
    assert alignment.tokens == (" GO", "ES", " ON", " ", "IT", END)
    assert alignment.weights.argmax(dim=1).tolist() == [1, 2, 3, 4, 6, 7]
    assert alignment.characters is None


STRICT = Calibration((0.0,) * len(FEATURES), 0.0, speech=0.3)


def test_what_the_head_did_not_find_is_noise() -> None:
    result = found("WHO WOULD HAVE", ctc_log_prob=-2.0)

    segment = result.segment(STRICT)

    assert segment.flags == (Flag.NOISE,)
    assert segment.text == ""
    assert len(segment.words) == len(segment.nbest) == 0
    assert segment.alignment is None
    assert result.segment(None).text == "WHO WOULD HAVE"  # the head may know nothing


@pytest.mark.parametrize(("num_clear", "expected"), [(2, ""), (4, "ABCDEFGHIJ")])
def test_some_of_the_characters_make_it_speech(num_clear: int, expected: str) -> None:
    result = found("ABCDEFGHIJ")
    log_probs = torch.where(torch.arange(10) < num_clear, -0.1, -3.0)

    times: Any = result.alignment
    altered = times._replace(log_probs=log_probs)

    assert replace(result, alignment=altered).segment(STRICT).text == expected


@pytest.mark.parametrize("calibration", [STRICT, None])
@pytest.mark.parametrize("text", ["", " "])
def test_where_no_word_is_found_it_is_said_so(
    text: str, calibration: Calibration | None
) -> None:
    segment = found(text).segment(calibration)

    assert segment.flags == (Flag.NOISE,)
    assert segment.text == ""


def test_a_text_without_end_and_one_that_repeats_itself_are_flagged() -> None:
    assert found("GO", finished=False).segment(None).flags == (Flag.UNFINISHED,)
    assert found("GO GO GO GO GO GO").segment(None).flags == (Flag.LOOP,)
