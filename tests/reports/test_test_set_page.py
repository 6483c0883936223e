import base64
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.audio import SAMPLE_RATE
from asr.data.manifest import Utterance, write_manifest
from asr.errors import CheckpointError, ManifestError
from asr.reports.attention_failures import is_early_stop, is_loop
from asr.reports.learning import show_learning
from asr.reports.players import Players
from asr.reports.test_set_page import write_report
from asr.reports.utterances import drawn, results, show_all, worst
from asr.scoring import (
    by_frequency,
    by_group,
    by_length,
    by_position,
    char_error_rate,
    confidence_interval,
    word_error_rate,
)

SAID = ["THE CAT SAT", "GO", "ON THE MAT", "NO NO", "A B C D E"]
DECODED = ["THE BAT", "GO ON", "ON THE MAT", "NO NO NO", "A"]
SPEAKERS = ["1", "1", "2", "2", "3"]

Write = Callable[..., str]


class Page(HTMLParser):
    """What a test wants to know of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.data = dict[str, float]()
        self.loads = list[str]()
        self.ids = list[str]()
        self.rows = list[list[str]]()
        self.text = ""
        self._open = list[str]()
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self._open.append(tag)
        self.ids += [known["id"]] if "id" in known else []
        if tag == "data":
            self.data[known["id"]] = float(known["value"])
        self.loads += [
            known[n] for n in ("src", "href", "data", "action") if n in known
        ]
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.text += data
        if self._open and self._open[-1] in ("th", "td"):
            self.rows[-1][-1] += data


def utterances(said: Sequence[str], speakers: Sequence[str]) -> list[Utterance]:
    return [
        Utterance(f"u{i}", f"u{i}.flac", 1.0 + 3 * i, text, speaker)
        for i, (text, speaker) in enumerate(zip(said, speakers, strict=True))
    ]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(
        said: Sequence[str] = SAID,
        decoded: Sequence[str] = DECODED,
        speakers: Sequence[str] | None = None,
        run: Path | None = None,
    ) -> str:
        if speakers is None:
            speakers = SPEAKERS if len(said) == len(SPEAKERS) else ["1"] * len(said)
        references = [
            replace(u, audio=str(tmp_path / u.audio))
            for u in utterances(said, speakers)
        ]
        hypotheses = [
            replace(u, text=t) for u, t in zip(references, decoded, strict=True)
        ]
        write_manifest(tmp_path / "said.jsonl", references)
        write_manifest(tmp_path / "decoded.jsonl", hypotheses)
        page = tmp_path / "page.html"
        write_report(page, tmp_path / "said.jsonl", tmp_path / "decoded.jsonl", run=run)
        return page.read_text(encoding="utf-8")

    return write


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of four updates with two validations."""
    lines: list[dict[str, float]] = [
        {"step": 1, "loss": 2.0, "learning_rate": 0.001, "seconds": 1800},
        {"step": 2, "loss": float("nan"), "learning_rate": 0.002, "seconds": 3600},
        {
            "step": 2,
            "dev/loss": 1.5,
            "dev/wer": 0.9,
            "dev/cer": 0.25,
            "dev/ctc_cer": 0.5,
        },
        {"step": 3, "loss": 1.0, "learning_rate": 0.002, "seconds": 5400},
        {"step": 4, "loss": 0.5, "learning_rate": 0.001, "seconds": 7200},
        {
            "step": 4,
            "dev/loss": 1.2,
            "dev/wer": 0.8,
            "dev/cer": 0.3,
            "dev/ctc_cer": 0.4,
        },
    ]
    folder = tmp_path / "run"
    folder.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


# The numbers


def test_the_headline_is_what_scoring_counts(write: Write) -> None:
    page = Page(write())

    words, characters = word_error_rate(SAID, DECODED), char_error_rate(SAID, DECODED)
    low, high = confidence_interval(SAID, DECODED, groups=SPEAKERS)
    assert page.data == {
        "utterances": 5,
        "wer": words.rate,
        "low": low,
        "high": high,
        "cer": characters.rate,
        "substitutions": words.substitutions,
        "deletions": words.deletions,
        "insertions": words.insertions,
        "words": words.num_reference,
        "num-loops": 1,
        "num-stops": 1,
    }
    assert "57.1 %" in page.text  # 8 errors in 14 words
    assert "bootstrap over 3 speakers" in page.text


def test_each_table_is_what_scoring_counts(write: Write) -> None:
    rows = Page(write()).rows

    durations = [u.duration for u in utterances(SAID, SPEAKERS)]
    tenths = by_position(SAID, DECODED)
    counted = {
        **by_group(SAID, DECODED, SPEAKERS),
        **by_length(SAID, DECODED, durations),
        **by_frequency(SAID, DECODED),
        "1st": tenths[0],
        "6th": tenths[5],
        "10th": tenths[9],
    }
    for name, count in counted.items():
        edits = count.substitutions, count.deletions, count.insertions
        shown = [name, f"{100 * count.rate:.1f} %", str(count.num_reference)]
        known = edits[:2] if name in by_frequency(SAID, DECODED) else edits
        assert [*shown, *map(str, known)] in rows


def test_confusions_are_shown_by_kind(write: Write) -> None:
    rows = Page(write(["A B C", "A B"], ["X B", "X B Y"])).rows

    assert ["A", "X", "2"] in rows
    assert ["C", "1"] in rows
    assert ["Y", "1"] in rows


def test_speakers_stand_with_the_worst_first(write: Write) -> None:
    content = write(["A B"] * 3, ["A X", "X X", "A B"], ["half", "all", "none"])

    names = re.findall(r'class="name">(\w+)<', content)
    assert names == ["all", "half", "none"]


def test_a_speaker_of_five_utterances_has_an_interval(write: Write) -> None:
    speakers = ["many"] * 5 + ["few"] * 4
    content = write(["A B"] * 9, ["A X", "A B", "X X"] * 3, speakers)

    assert content.count('class="whisker"') == 3  # a line and its two ends


def test_one_speaker_is_shown_as_one(write: Write) -> None:
    page = Page(write(speakers=["7"] * 5))

    assert "There is only one speaker: 7." in page.text
    assert "bootstrap over 5 utterances" in page.text
    assert "one speaker" in page.text


def test_where_speakers_are_unknown_there_is_a_page(write: Write) -> None:
    page = Page(write(speakers=[""] * 5))

    assert "No speaker is named." in page.text
    assert "in 0.6 min of speech by unknown speakers" in page.text
    assert "bootstrap over 5 utterances" in page.text
    assert "(unknown)" in write(speakers=["", "", "1", "1", "2"])


def test_unknown_speakers_are_not_one_speaker(write: Write) -> None:
    page = Page(write(speakers=["", "", "1", "1", "2"]))

    groups = ["u0", "u1", "1", "1", "2"]
    low, high = confidence_interval(SAID, DECODED, groups=groups)
    assert (page.data["low"], page.data["high"]) == (low, high)
    assert "bootstrap over 2 speakers and 2 utterances of unknown ones" in page.text
    assert (
        "bootstrap over 5 utterances"
        in Page(write(speakers=["", "", "1", "1", "1"])).text
    )


def test_many_speakers_are_cut_in_the_chart_and_whole_in_the_table(
    write: Write,
) -> None:
    names = [f"s{number}" for number in range(70)]
    page = write(["A"] * 70, ["B"] * 70, names)

    assert page.count('class="name"') == 60
    assert "10 more speakers" in page
    assert all(
        [name, "100.0 %", "1", "1", "0", "0"] in Page(page).rows for name in names
    )


# Extremes


def test_an_empty_hypothesis_is_all_missed(write: Write) -> None:
    page = Page(write(decoded=[""] * 5))

    assert page.data["wer"] == 1
    assert page.data["num-stops"] == 5
    assert "(nothing)" in page.text


def test_references_without_words_make_a_page(write: Write) -> None:
    assert "The references have no words." in write(["", ""], ["", ""])
    assert Page(write([""], ["A"])).data["insertions"] == 1


def test_without_errors_there_is_no_worst(write: Write) -> None:
    page = Page(write(decoded=SAID))

    assert "Not one error was made." in page.text
    assert page.data["wer"] == page.data["num-loops"] == page.data["num-stops"] == 0


# Safety


def test_what_is_said_cannot_break_the_page(write: Write, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script> & <img src=x> \" ' {{ style }} {}"
    metadata = {"model": f"/m/{evil}", "decoding": {evil: evil}, "faults": [evil]}
    (tmp_path / "decode.json").write_text(json.dumps(metadata))

    content = write([evil, evil], ["A", evil + " B"], [evil, "1"])

    assert content.count("<script>") == 1
    assert "<img" not in content
    page = Page(content)
    assert page.text.count("</script><script>alert(1)</script>") > 4
    assert "{{ style }}" in page.text


def test_the_page_needs_nothing_from_the_network(write: Write, run: Path) -> None:
    content = write(run=run)

    assert "http:" not in content
    assert "https:" not in content
    assert "@import" not in content
    assert "url(" not in content
    assert all(load.startswith(("#", "data:")) for load in Page(content).loads)
    assert "default-src 'none'" in content


def test_each_entry_of_the_contents_leads_somewhere(write: Write, run: Path) -> None:
    for content in (write(), write(run=run)):
        page = Page(content)
        targets = [load[1:] for load in page.loads if load.startswith("#")]
        assert len(targets) >= 9
        assert set(targets) <= set(page.ids)
        assert len(set(page.ids)) == len(page.ids)
        assert not re.search(r"{{|{%", content.split("<script>")[0])


# Model and settings


def test_model_and_settings_are_those_of_decode(write: Write, tmp_path: Path) -> None:
    metadata = {
        "model": "/models/las_mini",
        "decoding": {"beam_size": 8},
        "seconds": 4.1,
        "faults": ["u1.flac: is broken"],
    }
    (tmp_path / "decode.json").write_text(json.dumps(metadata))

    page = Page(write())

    assert ["model", "/models/las_mini"] in page.rows
    assert ["decoding.beam_size", "8"] in page.rows
    assert "Written by the model las_mini, the best of 8 hypotheses" in page.text
    assert "their text is empty: 1. The first: u1.flac" in page.text


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"decoding": 5}', "\u00e9"])
def test_a_broken_decode_json_is_reported(
    content: str, write: Write, tmp_path: Path
) -> None:
    (tmp_path / "decode.json").write_text(content, encoding="latin-1")
    assert "cannot be read" in write()


def test_an_empty_decode_json_is_an_empty_table(write: Write, tmp_path: Path) -> None:
    (tmp_path / "decode.json").write_text("{}")
    assert "Model and settings" in Page(write()).text


def test_without_decode_json_the_page_has_a_note(write: Write) -> None:
    assert "No decode.json lies beside" in write()


# Loops and early stops


def test_a_loop_repeats_more_than_the_speaker_did() -> None:
    assert is_loop("GO ON", "GO ON GO ON GO ON")
    assert not is_loop("GO ON", "GO ON GO ON")
    assert not is_loop("NO NO NO NO", "NO NO NO")


def test_an_early_stop_has_less_than_half_the_words() -> None:
    assert is_early_stop("A B C", "A")
    assert is_early_stop("A", "")
    assert not is_early_stop("A B", "A")
    assert not is_early_stop("", "")


# Utterances


def test_the_worst_come_first_and_the_right_ones_not_at_all() -> None:
    found = worst(results(utterances(SAID, SPEAKERS), DECODED))

    # 1 of 1, 4 of 5, 2 of 3, 1 of 2.
    assert [result.utterance.id for result in found] == ["u1", "u4", "u0", "u3"]
    assert [r.utterance.id for r in worst(found, number=1)] == ["u1"]


def test_some_are_drawn_the_same_each_time() -> None:
    all_of_them = results(utterances(["A"] * 99, ["1"] * 99), ["A"] * 99)
    some = drawn(all_of_them)

    assert drawn(all_of_them) == some
    assert len({result.utterance.id for result in some}) == 10
    assert drawn(all_of_them, seed=1) != some
    assert drawn(all_of_them[:3]) == all_of_them[:3]


def test_errors_are_shown_by_sign_not_only_by_colour(tmp_path: Path) -> None:
    found = results(utterances(["A B C"], ["1"]), ["X B D E"])
    found += results(utterances(["A B"], ["1"]), ["B"])

    shown = show_all(found, Players(tmp_path))

    pairs = re.findall(
        r'pair (\w*)" title="(\w*)"><span>(.)</span><span>(.)</span><i>(.?)</i>', shown
    )
    assert ("sub", "substituted", "A", "X", "\u2260") in pairs
    assert ("", "", "B", "B", "") in pairs
    assert ("del", "missed", "A", "\u00b7", "\u2212") in pairs
    assert [sign for kind, *_, sign in pairs if kind == "ins"] == ["+"]


# Recordings


def recorded(path: Path, start: float | None = None) -> Utterance:
    return Utterance("u", str(path), 0.5, "A", start=start)


def test_a_part_of_a_recording_is_cut_out_or_linked(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    soundfile.write(path, np.arange(32_000) / 32_000, SAMPLE_RATE)
    part = recorded(path, start=1.25)

    embedded, linked = (Players(tmp_path, n).source(part) for n in (10**6, 0))

    assert embedded
    kind, _, content = embedded.partition(",")
    assert kind == "data:audio/ogg;base64"
    samples, rate = soundfile.read(BytesIO(base64.b64decode(content)))
    assert len(samples) / rate == 0.5
    assert abs(samples.mean() - 0.75) < 0.05
    assert linked == "long.flac#t=1.25,1.75"


def test_a_part_that_the_recording_has_not_has_no_player(tmp_path: Path) -> None:
    path = tmp_path / "short.flac"
    soundfile.write(path, np.zeros(16_000), SAMPLE_RATE)
    players = Players(tmp_path)

    assert players.source(recorded(path, start=0.8)) is None
    assert "not found: 1." in str(players)


def test_recordings_are_embedded_while_they_fit(tmp_path: Path) -> None:
    for name in ("a.flac", "b.mp3", "c.opus"):
        (tmp_path / name).write_bytes(b"123")  # four characters of base64
    players = Players(tmp_path, most_bytes=8)

    a, b, c = (
        players.source(recorded(tmp_path / n)) for n in ("a.flac", "b.mp3", "c.opus")
    )

    assert a == "data:audio/flac;base64,MTIz"
    assert b == "data:audio/mpeg;base64,MTIz"
    assert c == "c.opus"
    assert str(players) == (
        "Recordings inside of this page: 2; linked, where their files must be: 1."
    )


def test_a_link_starts_at_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()
    path = tmp_path / "a b#.flac"
    path.write_bytes(b"123")

    source = Players(folder, most_bytes=0).source(recorded(path))

    assert source == "../a%20b%23.flac"


@pytest.mark.parametrize("name", ["missing.flac", "known.txt", "folder.wav"])
def test_without_a_recording_there_is_no_player(name: str, tmp_path: Path) -> None:
    (tmp_path / "known.txt").touch()
    (tmp_path / "folder.wav").mkdir()

    for most_bytes in (0, 10_000_000):
        players = Players(tmp_path, most_bytes)
        assert players.source(recorded(tmp_path / name)) is None
        assert "not found: 1." in str(players)


def test_a_page_without_recordings_has_a_note(write: Write) -> None:
    page = write()
    assert "<audio" not in page
    assert "No recording to play." in page
    assert "not found: 9." in page


def test_a_page_with_recordings_plays_them(write: Write, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"u{number}.flac").write_bytes(b"fLaC" + bytes(99))
    content = write()
    assert content.count("<audio controls") == 4 + 5  # worst and drawn
    assert "Recordings inside of this page: 9." in content


# Training


def test_the_curves_of_a_run_are_shown(write: Write, run: Path) -> None:
    page = write(run=run)

    line = "Updates: 4 in 2.0 hours; the lowest loss on dev was 1.200, at update 4."
    assert line in page
    assert page.count("<circle") == 2 + 3 * 2  # dev loss; two WERs, CERs, CTC CERs
    assert "<title>CER, CTC head: 40 % (update 4)</title>" in page
    assert ["4", "80.00 %", "30.00 %", "40.00 %"] in Page(page).rows
    assert not re.search(r'points="[^"]*nan', page)
    # 0.001, 0.002, 0.002, 0.001 on a scale to 0.002, over four updates
    places = "25.000,50.000 50.000,0.000 75.000,0.000 100.000,50.000"
    assert f'points="{places}"' in page


def test_a_run_without_validations_has_a_note(run: Path) -> None:
    metrics = run / "metrics.jsonl"
    lines = [line for line in metrics.read_text().split("\n") if "dev" not in line]
    metrics.write_text("\n".join(lines))

    shown = show_learning(run)

    assert "there was no validation yet" in shown
    assert "Nothing was measured." in shown
    assert "<circle" not in shown


def test_broken_lines_of_a_run_are_reported(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('hello\n{"step": 5, "lo')
    assert "metrics that could not be read: 2." in show_learning(run)


def test_a_run_of_one_update_can_be_shown(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 0.0}')
    assert "Updates: 1;" in show_learning(run)


def test_the_last_picture_of_attention_is_shown(run: Path) -> None:
    assert "<img" not in show_learning(run)
    (run / "attention").mkdir()
    for step in (2, 10):
        name = f"step-{step:06d}.png"
        (run / "attention" / name).write_bytes(bytes([step]) * 3)

    shown = show_learning(run)

    assert "base64,CgoK" in shown  # three times ten
    assert "update 10" in shown


def test_a_folder_that_is_no_run_is_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"metrics.jsonl: cannot be read"):
        write(run=tmp_path)
    (tmp_path / "metrics.jsonl").write_text("hello\n")
    with pytest.raises(CheckpointError, match=r"metrics.jsonl: holds no metrics"):
        write(run=tmp_path)


# Faults


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(ManifestError, match=r"empty\.jsonl: is empty"):
        write_report(tmp_path / "p.html", empty, empty)


def test_a_missing_folder_for_the_page_is_reported(
    write: Write, tmp_path: Path
) -> None:
    write()
    page = tmp_path / "no" / "page.html"
    message = rf"{re.escape(os.fspath(page))}: cannot be written \(No such file"
    with pytest.raises(CheckpointError, match=message):
        write_report(page, tmp_path / "said.jsonl", tmp_path / "decoded.jsonl")
