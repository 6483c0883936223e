import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.manifest import (
    Utterance,
    read_manifest,
    read_paired,
    read_references,
    spread,
    write_manifest,
)
from asr.errors import ConfigError, ManifestError

GO = Utterance("84-1-0", "84/go.flac", duration=1.5, text="GO", speaker="84")


def write_lines(path: Path, *entries: object) -> Path:
    lines = [f"{json.dumps(entry)}\n" for entry in entries]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def entry(**changes: object) -> dict[str, object]:
    return {"id": "a", "audio": "a.flac", "duration": 1.0, "text": "GO"} | changes


# Invariance: what is written is read


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    utterances = [
        Utterance("84-1-0", str(tmp_path / "84" / "go.flac"), 1.5, "GO", "84"),
        Utterance("85-1-0", str(tmp_path / "é.flac"), 0.5, "QUOI\u2028\x85 'S\r\n"),
    ]

    write_manifest(path, utterances)

    assert read_manifest(path) == utterances


_PRINTED = st.characters(codec="utf-8", exclude_categories=["Cc"])


@settings(deadline=None)
@given(
    id=st.text(_PRINTED, min_size=1),
    text=st.text(st.characters(codec="utf-8")).map(partial(normalize, "NFC")),
    speaker=st.text(_PRINTED),
)
def test_any_text_can_be_written(
    tmp_path_factory: pytest.TempPathFactory, id: str, text: str, speaker: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    utterance = Utterance(id, str(path.parent / "a.flac"), 1.0, text, speaker)

    write_manifest(path, [utterance])

    assert read_manifest(path) == [utterance]


def test_texts_are_read_in_nfc(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", entry(text="gru\u0308n й и\u0306"))

    (found,) = read_manifest(path)

    assert found.text == "gr\u00fcn \u0439 \u0439"


def test_a_line_is_json_that_people_can_read(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"

    write_manifest(path, [Utterance("é", str(tmp_path / "é.flac"), 1.5, "GO", "84")])

    assert path.read_text(encoding="utf-8") == (
        '{"id": "é", "audio": "é.flac", "duration": 1.5, "text": "GO", '
        '"speaker": "84"}\n'
    )


def test_a_part_of_a_recording_has_its_start_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    part = Utterance("a", str(tmp_path / "long.flac"), 1.5, "GO", "84", start=0.0)

    write_manifest(path, [part])

    assert path.read_text() == (
        '{"id": "a", "audio": "long.flac", "duration": 1.5, "text": "GO", '
        '"speaker": "84", "start": 0.0}\n'
    )
    assert read_manifest(path) == [part]


def test_the_order_of_the_lines_is_kept(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", *(entry(id=id) for id in "cabd"))
    assert [utterance.id for utterance in read_manifest(path)] == list("cabd")


def test_a_speaker_may_be_missing_and_other_keys_are_not_read(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", entry(chapter=9, nested={"x": []}))
    assert read_manifest(path) == [Utterance("a", str(tmp_path / "a.flac"), 1.0, "GO")]


# Where the audio is


def test_manifest_and_audio_move_together(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write_manifest(
        here / "lists" / "m.jsonl", [Utterance("a", str(here / "a.flac"), 1.0, "GO")]
    )

    here.rename(there)

    (utterance,) = read_manifest(there / "lists" / "m.jsonl")
    assert utterance.audio == str(there / "a.flac")


def test_a_relative_path_starts_at_the_current_folder_when_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    write_manifest("exp/data/m.jsonl", [Utterance("a", "exp/a.flac", 1.0, "GO")])

    (written,) = (tmp_path / "exp" / "data" / "m.jsonl").read_text().splitlines()
    assert json.loads(written)["audio"] == "../a.flac"
    assert read_manifest("exp/data/m.jsonl")[0].audio == "exp/a.flac"


@pytest.mark.parametrize("place", ["link", "link/lists", "real/../link/lists"])
def test_what_was_written_through_a_link_is_found_through_it(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far" / "away" / "lists").mkdir(parents=True)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(Path("far", "away"))
    audio = tmp_path / "audio" / "a.flac"
    monkeypatch.chdir(tmp_path)

    write_manifest(f"{place}/m.jsonl", [Utterance("a", str(audio), 1.0, "GO")])

    for path in (Path(place), tmp_path / place):
        (utterance,) = read_manifest(path / "m.jsonl")
        assert os.path.realpath(utterance.audio) == str(audio)


def test_references_need_a_text(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", entry(text=""), entry(id="b", text="GO"))
    assert [utterance.text for utterance in read_references(path)] == ["", "GO"]
    path = write_lines(tmp_path / "m.jsonl", entry(text=""))

    with pytest.raises(ManifestError, match=r"m\.jsonl: none of its utterances has a"):
        read_references(path)


def test_an_absolute_path_in_a_file_stays(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", entry(audio="/corpora/a.flac"))
    assert read_manifest(path)[0].audio == "/corpora/a.flac"


# What goes wrong while writing


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write_manifest(path, [GO])
    before = path.read_bytes()

    def utterances() -> Iterator[Utterance]:
        yield Utterance("85-1-0", "85.flac", 1.0, "NO")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_manifest(path, utterances())

    assert path.read_bytes() == before


def test_a_manifest_that_cannot_be_written_is_reported_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ManifestError, match=r"file/m\.jsonl: cannot be written \(.+\)"):
        write_manifest(tmp_path / "file" / "m.jsonl", [GO])


# Errors: the message has the place and what is wrong there


def test_a_missing_manifest_is_reported_by_name(tmp_path: Path) -> None:
    message = r"none\.jsonl: cannot be read \(No such file or directory\)"
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path / "none.jsonl")


def test_a_folder_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"cannot be read \(Is a directory\)"):
        read_manifest(tmp_path)


def test_an_empty_manifest_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "empty.jsonl")
    with pytest.raises(ManifestError, match=r"empty\.jsonl: is empty \(one utterance"):
        read_manifest(path)


def test_text_of_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes('{"id": "é"}\n'.encode("latin-1"))
    with pytest.raises(ManifestError, match=r"m\.jsonl: is not UTF-8 text"):
        read_manifest(path)


def test_an_id_is_there_once(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "m.jsonl", entry(id="b"), entry(id="a"), entry(), entry()
    )
    with pytest.raises(ManifestError, match=r"m\.jsonl:3: a is already on line 2$"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Expecting property name"),
        ("-", "Expecting value"),
        ('["a"]', "a JSON object was expected"),
        ('{"id": "a"}', "missing 3 required"),
        (json.dumps(entry(id="")), "an utterance needs an id"),
        (json.dumps(entry(id=7)), "id must be a string"),
        (json.dumps(entry(audio=None)), "audio must be a string"),
        (json.dumps(entry(text=["GO"])), "text must be a string"),
        (json.dumps(entry(speaker=84)), "speaker must be a string"),
        (json.dumps(entry(duration="1.5")), "a has a duration that is no number"),
        (json.dumps(entry(duration=True)), "a has a duration that is no number"),
        (json.dumps(entry(duration=0)), "a has duration 0, not above zero"),
        (json.dumps(entry(duration=-1.5)), "a has duration -1.5, not above zero"),
        (json.dumps(entry(duration=float("nan"))), "NaN is no number"),
        (json.dumps(entry(duration=float("inf"))), "Infinity is no number"),
        (json.dumps(entry(start="1.5")), "a has a start that is no number"),
        (json.dumps(entry(start=True)), "a has a start that is no number"),
        (json.dumps(entry(start=-0.1)), "a starts at -0.1, not at a second"),
        (json.dumps(entry(start=float("nan"))), "NaN is no number"),
    ],
)
def test_a_bad_line_is_reported_by_its_number(
    tmp_path: Path, line: str, message: str
) -> None:
    path = write_lines(tmp_path / "bad.jsonl", entry(id="first\u2028"))
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    with pytest.raises(
        ManifestError, match=rf"bad\.jsonl:2: not an utterance: .*{message}"
    ):
        read_manifest(path)


# What was said, and what was decoded


def test_hypotheses_come_in_the_order_of_the_references(tmp_path: Path) -> None:
    said, decoded = tmp_path / "said.jsonl", tmp_path / "decoded.jsonl"
    write_manifest(said, [Utterance(id, "a.flac", 1.0, f"said {id}") for id in "bac"])
    write_manifest(
        decoded, [Utterance(id, "a.flac", 1.0, f"decoded {id}") for id in "abc"]
    )

    references, hypotheses = read_paired(said, decoded)

    assert [u.text for u in references] == ["said b", "said a", "said c"]
    assert [u.text for u in hypotheses] == ["decoded b", "decoded a", "decoded c"]


@pytest.mark.parametrize(
    ("said", "decoded", "message"),
    [
        ("abc", "a", "2 of 3 utterances have no hypothesis, the first is b"),
        ("a", "abc", "2 of its utterances are not in .*said.jsonl"),
    ],
)
def test_both_need_the_same_utterances(
    said: str, decoded: str, message: str, tmp_path: Path
) -> None:
    for name, ids in (("said", said), ("decoded", decoded)):
        utterances = [Utterance(id, "a.flac", 1.0, "A") for id in ids]
        write_manifest(tmp_path / f"{name}.jsonl", utterances)

    with pytest.raises(ManifestError, match=rf"decoded\.jsonl: {message}"):
        read_paired(tmp_path / "said.jsonl", tmp_path / "decoded.jsonl")


@pytest.mark.parametrize(("number", "expected"), [(1, [0]), (4, [0, 2, 5, 7])])
def test_a_part_is_spread_evenly(number: int, expected: list[int]) -> None:
    assert spread(range(10), number) == expected


def test_more_than_there_are_is_all_of_them() -> None:
    assert spread(range(3), 130) == [0, 1, 2]


def test_a_part_of_no_utterance_is_refused() -> None:
    with pytest.raises(ConfigError, match="utterances must be at least 1, not 0"):
        spread(range(3), 0)


# What editors and others write


def test_blank_lines_and_a_byte_order_mark_are_no_utterances(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", entry(id="a"), entry(id="b"))
    plain = read_manifest(path)

    path.write_bytes(b"\xef\xbb\xbf\n" + path.read_bytes() + b"\n  \r\n")

    assert read_manifest(path) == plain


def test_a_line_is_counted_where_blank_ones_stand_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"\n{json.dumps(entry())}\n\n{json.dumps(entry())}\n")
    with pytest.raises(ManifestError, match=r"a\.jsonl:4: a is already on line 2"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (json.dumps(entry(id="a\x1b[2J")), r"id holds the control character '\\x1b'"),
        (json.dumps(entry(speaker="a\n")), "speaker holds the control character"),
        (json.dumps(entry(audio="a\0b.wav")), "audio holds a zero byte"),
        (json.dumps(entry(text="\ud800")), "a text holds a lone surrogate"),
        (json.dumps(entry(duration=10**30)), "the number 1000.* is too large"),
        (json.dumps(entry(duration=10**8)), "a has an impossible duration, 1e.08"),
        (json.dumps(entry(more=[])).replace("[]", "[" * 40 + "]" * 40), "deeper"),
        ("[" * 100_000, "is nested deeper than 32 times"),
    ],
)
def test_what_no_corpus_has_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(
        ManifestError, match=rf"a\.jsonl:1: not an utterance: .*{message}"
    ):
        read_manifest(path)


def test_an_utterance_that_no_file_can_hold_is_not_made() -> None:
    with pytest.raises(ValueError, match="text holds a lone surrogate"):
        Utterance("a", "a.wav", 1.0, "\ud800")


def test_a_device_is_no_manifest() -> None:
    with pytest.raises(ManifestError, match="/dev/zero: a line has over"):
        read_manifest("/dev/zero")


def test_a_folder_whose_name_is_not_utf_8_can_be_read_from(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    path = write_lines(folder / "a.jsonl", entry())

    (utterance,) = read_manifest(path)

    assert Path(utterance.audio).parent == folder
    with pytest.raises(ManifestError, match=r"\(.*a\.flac is a name that is not UTF-8"):
        write_manifest(tmp_path / "other.jsonl", [utterance])
