import json
from pathlib import Path

import pytest

from asr.data.labels import LONGEST, Labels
from asr.data.manifest import read_manifest
from asr.errors import ConfigError, ManifestError
from asr.transcript import Flag, Segment, Transcript, Word


def said(
    *words: tuple[str, float, float], sure: float = 0.9, flag: Flag | None = None
) -> Segment:
    text = " ".join(word for word, _, _ in words)
    flags = (flag,) if flag else ()
    found = tuple(Word(*word, sure) for word in words)
    return Segment(words[0][1], words[-1][2], text, found, sure, flags, (), None)


def talk(*segments: Segment, duration: float = 60.0) -> Transcript:
    return Transcript(segments, duration, "audio/talk.wav")


def labels(transcript: Transcript, min_confidence: float = 0.0) -> Labels:
    found = Labels(min_confidence)
    found.add(transcript, lambda number, start: f"talk-{number:04}")
    return found


def spans(found: Labels) -> list[tuple[float, float]]:
    return [
        (u.start or 0.0, round((u.start or 0.0) + u.duration, 3)) for u, _ in found.kept
    ]


def test_an_utterance_has_its_words_and_a_little_of_the_pauses() -> None:
    found = labels(talk(said(("go", 1.0, 1.5), ("on", 1.6, 2.0))))

    assert [(u.id, u.text) for u, _ in found.kept] == [("talk-0001", "go on")]
    assert spans(found) == [(0.75, 2.25)]


@pytest.mark.parametrize(
    "neighbour",
    [
        said(("up", 2.2, 2.5)),
        said(("up", 2.2, 2.5), flag=Flag.LOOP),
        Segment(2.2, 3.5, "", (), 0.0, (Flag.UNTOLD,), (), None),
    ],
)
def test_a_pause_is_shared_with_what_is_said_next(neighbour: Segment) -> None:
    found = labels(talk(said(("go", 0.1, 2.0)), neighbour))

    assert spans(found)[0] == (0.05, 2.1)


@pytest.mark.parametrize("name", ["b\udcff", "b\nc"])
def test_a_recording_whose_name_no_manifest_can_hold_is_refused(name: str) -> None:
    found = Labels(0.0)

    with pytest.raises(ManifestError, match=r"audio/talk\.wav: is left out of the man"):
        found.add(talk(said(("go", 1.0, 1.5))), lambda number, start: name)
    assert not found.kept


def test_an_utterance_ends_with_the_recording() -> None:
    found = labels(talk(said(("go", 1.0, 9.9)), duration=10.0))

    assert spans(found) == [(0.75, 9.95)]


@pytest.mark.parametrize(
    ("flag", "is_kept"),
    [(Flag.RETRIED, True), (Flag.LOOP, False), (Flag.UNFINISHED, False),
     (Flag.NOISE, False), (Flag.UNSAID, False)],
)  # fmt: skip
def test_what_is_flagged_is_left_out_and_counted(flag: Flag, is_kept: bool) -> None:
    found = labels(talk(said(("go", 1.0, 2.0), flag=flag)))

    assert bool(found.kept) is is_kept
    assert found.left_out == ({} if is_kept else {str(flag): 1})


def test_too_little_confidence_is_left_out_and_counted() -> None:
    segments = [said(("go", n, n + 0.5), sure=n / 10) for n in (1, 5, 9)]

    found = labels(talk(*segments), 0.5)

    assert [(u.id, sure) for u, sure in found.kept] == [
        ("talk-0002", 0.5),
        ("talk-0003", 0.9),
    ]
    assert str(found) == "2 utterances, 0.00 h; left out 1: 1 below 0.5"


def test_a_long_line_is_split_at_its_widest_pauses() -> None:
    words = [(f"w{n}", n * 1.0, n * 1.0 + 0.5) for n in range(40)]
    late = [(w, s + 2.0, e + 2.0) for w, s, e in words[25:]]

    found = labels(talk(said(*words[:25], *late)))

    texts = [utterance.text.split() for utterance, _ in found.kept]
    assert [word for some in texts for word in some] == [w for w, _, _ in words]
    assert "w25" in [some[0] for some in texts]
    assert all(u.duration <= LONGEST + 0.5 for u, _ in found.kept)
    assert [u.id for u, _ in found.kept] == [
        f"talk-{n + 1:04}" for n in range(len(texts))
    ]


def test_a_text_without_letters_is_left_out() -> None:
    found = Labels(0.0)

    found.add(talk(said(("…", 1.0, 2.0))), lambda *_: "a", lambda text: "")

    assert found.left_out == {"without letters": 1}


def test_the_manifest_is_read_back_and_has_the_confidence(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"

    labels(talk(said(("go", 1.0, 2.0), sure=0.8765))).write(path)

    (utterance,) = read_manifest(path)
    assert (utterance.text, utterance.start, utterance.duration) == ("go", 0.75, 1.5)
    assert json.loads(path.read_text())["confidence"] == 0.876


def test_a_manifest_of_nothing_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"

    with pytest.raises(
        ManifestError, match=r"is not written \(0 utterances, 0.00 h; lef"
    ):
        labels(talk(said(("go", 1.0, 2.0), sure=0.2)), 0.5).write(path)

    assert not path.exists()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_confidence_is_a_share(share: float) -> None:
    with pytest.raises(ConfigError, match=r"--min-confidence .*: is not from 0 to 1"):
        Labels(share)
