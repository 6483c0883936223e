import json
from dataclasses import replace

import pytest
import torch

from asr.transcript import (
    Alignment,
    Alternative,
    Flag,
    Segment,
    Transcript,
    Word,
)


def transcript() -> Transcript:
    spoken = Segment(
        start=0.5,
        end=2.0,
        text="GO ON",
        words=(Word("GO", 0.6, 1.0, 0.75), Word("ON", 1.0, 1.5, 0.25)),
        confidence=0.5,
        flags=(Flag.RETRIED, Flag.LOOP),
        nbest=(Alternative("GO ON", -0.25), Alternative("GO", -0.5)),
        alignment=Alignment(tuple("GO ON\u220e"), torch.eye(6), 0.04, start=0.5),
    )
    silent = Segment(2.0, 3.0, "", (), 0.0, (Flag.SILENCE,), (), None)
    last = replace(spoken, start=3.0, end=4.0, text="STOP", words=(), alignment=None)
    return Transcript(
        (spoken, silent, last), 4.0, "a.wav", "left", "las_mini", {"beam_size": 8}
    )


def test_the_text_is_that_of_all_segments() -> None:
    assert transcript().text == "GO ON STOP"
    assert [word.text for word in transcript().words] == ["GO", "ON"]


def test_a_transcript_comes_back_from_json_as_it_was() -> None:
    tree = json.loads(json.dumps(transcript().to_dict()))

    back = Transcript.from_dict(tree)

    alignment = back.segments[0].alignment
    assert alignment is not None
    torch.testing.assert_close(alignment.weights, torch.eye(6))
    assert alignment.start == 0.5
    assert back.to_dict() == tree == transcript().to_dict()
    assert back.segments[1:] == transcript().segments[1:]


def test_transcripts_are_equal_where_all_of_them_is() -> None:
    one, other = transcript(), transcript()
    spoken, *rest = other.segments
    assert spoken.alignment is not None
    elsewhere = replace(spoken.alignment, weights=torch.eye(6).flip(0))
    longer = replace(spoken.alignment, weights=torch.ones(6, 7))

    assert one == other
    assert one in [other]
    assert hash(one) == hash(other)
    for looked in (elsewhere, longer, replace(spoken.alignment, start=0.0), None):
        changed = replace(spoken, alignment=looked)
        assert one != replace(other, segments=(changed, *rest))
    assert one != replace(other, settings={"beam_size": 9})
    assert spoken.alignment != "a map"


def test_the_names_in_json_stay() -> None:  # programs of others rely on them
    tree = transcript().to_dict()

    assert list(tree) == [
        *("version", "audio", "channel", "duration", "text", "model", "settings"),
        "segments",
    ]
    segment = tree["segments"][0]
    assert list(segment) == [
        *("start", "end", "text", "confidence", "flags", "words", "nbest"),
        "alignment",
    ]
    assert segment["flags"] == ["retried", "loop"]
    assert segment["words"][0] == {
        **{"text": "GO", "start": 0.6, "end": 1.0},
        "confidence": 0.75,
    }
    assert list(segment["alignment"]) == [
        *("tokens", "characters", "start", "seconds_per_step", "weights"),
    ]


def test_blocks_of_an_attention_come_back_from_json() -> None:
    alignment = Alignment(("A", "\u220e"), torch.eye(2, 4), 0.04, block_size=25)
    segment = replace(transcript().segments[0], alignment=alignment)

    tree = json.loads(json.dumps(replace(transcript(), segments=(segment,)).to_dict()))

    assert tree["segments"][0]["alignment"]["block_size"] == 25
    back = Transcript.from_dict(tree).segments[0].alignment
    assert back is not None
    assert back.block_size == 25


def test_times_are_whole_milliseconds() -> None:
    word = Word("GO", 1 / 3, 2 / 3, 0.123456)
    segment = replace(transcript().segments[0], words=(word,))

    tree = replace(transcript(), segments=(segment,)).to_dict()

    assert tree["segments"][0]["words"][0] == {
        **{"text": "GO", "start": 0.333, "end": 0.667},
        "confidence": 0.123,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "is a transcript of version 2, not 1"),
        ({"segments": [{"start": 0.0}]}, r"is not a transcript \(KeyError"),
        ({"segments": None}, r"is not a transcript \(TypeError"),
    ],
)
def test_what_is_no_transcript_is_refused(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Transcript.from_dict(transcript().to_dict() | change)


def test_a_transcript_of_0_1_without_tokens_is_read() -> None:
    tree = transcript().to_dict()
    del tree["segments"][0]["alignment"]["tokens"]

    assert Transcript.from_dict(tree).to_dict() == transcript().to_dict()


def test_rows_of_subwords_are_a_list_of_tokens() -> None:
    tokens = (" GO", "ES", " ON", "\u220e")
    alignment = Alignment(tokens, torch.eye(4), 0.04)
    segment = replace(transcript().segments[0], alignment=alignment)

    tree = json.loads(json.dumps(replace(transcript(), segments=(segment,)).to_dict()))

    written = tree["segments"][0]["alignment"]
    assert written["tokens"] == list(tokens)
    assert written["characters"] is None  # no string has one a row
    back = Transcript.from_dict(tree).segments[0].alignment
    assert back is not None
    assert back.tokens == tokens
