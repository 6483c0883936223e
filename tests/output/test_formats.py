import errno
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from html import unescape
from io import StringIO
from itertools import pairwise
from math import inf, nan
from pathlib import Path
from typing import Any, NamedTuple

import jiwer
import pytest
import srt
import tgt
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.errors import CheckpointError
from asr.output import FORMATS, SubtitleConfig, render, trn_line, write
from asr.transcript import Alternative, Flag, Segment, Transcript, Word

STANDARD = SubtitleConfig()


def segment(*words: Word, flags: tuple[Flag, ...] = ()) -> Segment:
    text = " ".join(word.text for word in words)
    start, end = words[0].start, words[-1].end
    return Segment(start, end, text, words, 0.5, flags, (), None)


def wordless(text: str, start: float, end: float, *flags: Flag) -> Segment:
    return Segment(start, end, text, (), 0.0, flags, (), None)


def transcript(*segments: Segment) -> Transcript:
    duration = segments[-1].end if segments else 0.0
    return Transcript(segments, duration, "talks/a talk.flac")


def spoken_at(*times: tuple[float, float]) -> Transcript:
    """Give a segment of words A, B, …"""
    words = (Word(chr(65 + i), *time, 0.5) for i, time in enumerate(times))
    return transcript(segment(*words))


TALK = replace(
    transcript(
        segment(Word("GO", 0.5, 1.0, 0.75), Word("ON", 1.0, 1.25, 0.5)),
        wordless("", 1.25, 3.0, Flag.SILENCE),
        segment(Word("SAY", 3.0, 3.5, 0.25), Word('"NO"', 3.6666, 4.5, 1.0)),
    ),
    duration=5.0,
)


class Cue(NamedTuple):
    start: int  # milliseconds
    end: int
    lines: list[str]

    @property
    def words(self) -> list[str]:
        return " ".join(self.lines).split()


def read_srt(text: str) -> list[Cue]:
    """Read with the library srt."""
    found = list(srt.parse(text))
    assert [cue.index for cue in found] == list(range(1, len(found) + 1))
    return [
        Cue(
            cue.start // timedelta(milliseconds=1),
            cue.end // timedelta(milliseconds=1),
            cue.content.split("\n"),
        )
        for cue in found
    ]


def read_vtt(text: str) -> list[Cue]:
    """Read with the library webvtt-py."""
    found = webvtt.from_buffer(StringIO(text), format="vtt")
    return [
        Cue(
            cue.start_time.in_milliseconds(),
            cue.end_time.in_milliseconds(),
            [unescape(line) for line in cue.lines],
        )
        for cue in found.captions
    ]


def read_text_grid(path: Path) -> dict[str, list[tuple[float, float, str]]]:
    """Read with the library tgt, empty intervals included."""
    grid = tgt.read_textgrid(path, include_empty_intervals=True)
    return {
        tier.name: [
            (float(i.start_time), float(i.end_time), i.text) for i in tier.intervals
        ]
        for tier in grid.tiers
    }


class CtmWord(NamedTuple):
    name: str
    channel: str
    start: float
    duration: float
    text: str
    confidence: float


def read_ctm(text: str) -> list[CtmWord]:
    """Read as SCTK's infmts.htm has it: columns, a record a line, sorted."""
    rows = [line.split(" ") for line in text.split("\n")[:-1]]
    words = [
        CtmWord(name, channel, float(start), float(duration), word, float(confidence))
        for name, channel, start, duration, word, confidence in rows
    ]
    assert words == sorted(
        words, key=lambda word: (word.name, word.channel, word.start)
    )
    return words


def cues(transcript: Transcript, layout: SubtitleConfig = STANDARD) -> list[Cue]:
    found = read_srt(render(transcript, "srt", layout))
    assert read_vtt(render(transcript, "vtt", layout)) == found
    return found


# Golden: worked by hand


@pytest.mark.parametrize(
    ("format", "content"),
    [
        ("txt", 'GO ON\nSAY "NO"\n'),
        # The first cue is extended from 0.75 s to a second.
        (
            "srt",
            "1\n00:00:00,500 --> 00:00:01,500\nGO ON\n\n"
            '2\n00:00:03,000 --> 00:00:04,500\nSAY "NO"\n',
        ),
        (
            "vtt",
            "WEBVTT\n\n00:00:00.500 --> 00:00:01.500\nGO ON\n\n"
            '00:00:03.000 --> 00:00:04.500\nSAY "NO"\n',
        ),
        ("tsv", 'start\tend\ttext\n500\t1250\tGO ON\n3000\t4500\tSAY "NO"\n'),
        ("trn", 'GO ON SAY "NO" (a_talk)\n'),
        (
            "ctm",
            "a_talk 1 0.500 0.500 GO 0.750\n"
            "a_talk 1 1.000 0.250 ON 0.500\n"
            "a_talk 1 3.000 0.500 SAY 0.250\n"
            'a_talk 1 3.667 0.833 "NO" 1.000\n',
        ),
        (
            "TextGrid",
            """\
File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 5.000
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "segments"
        xmin = 0
        xmax = 5.000
        intervals: size = 5
        intervals [1]:
            xmin = 0.000
            xmax = 0.500
            text = ""
        intervals [2]:
            xmin = 0.500
            xmax = 1.250
            text = "GO ON"
        intervals [3]:
            xmin = 1.250
            xmax = 3.000
            text = ""
        intervals [4]:
            xmin = 3.000
            xmax = 4.500
            text = "SAY ""NO""\"
        intervals [5]:
            xmin = 4.500
            xmax = 5.000
            text = ""
    item [2]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 5.000
        intervals: size = 8
        intervals [1]:
            xmin = 0.000
            xmax = 0.500
            text = ""
        intervals [2]:
            xmin = 0.500
            xmax = 1.000
            text = "GO"
        intervals [3]:
            xmin = 1.000
            xmax = 1.250
            text = "ON"
        intervals [4]:
            xmin = 1.250
            xmax = 3.000
            text = ""
        intervals [5]:
            xmin = 3.000
            xmax = 3.500
            text = "SAY"
        intervals [6]:
            xmin = 3.500
            xmax = 3.667
            text = ""
        intervals [7]:
            xmin = 3.667
            xmax = 4.500
            text = ""\"NO""\"
        intervals [8]:
            xmin = 4.500
            xmax = 5.000
            text = ""
""",
        ),
    ],
)
def test_a_talk_written_by_hand(format: str, content: str) -> None:
    assert render(TALK, format) == content


@pytest.mark.parametrize(
    ("format", "content"),
    [
        *(("txt", ""), ("srt", ""), ("vtt", "WEBVTT\n"), ("tsv", "start\tend\ttext\n")),
        *(("trn", " (a_talk)\n"), ("ctm", "")),
    ],
)
@pytest.mark.parametrize("flag", [None, Flag.SILENCE, Flag.NOISE])
def test_nothing_said(format: str, content: str, flag: Flag | None) -> None:
    segments = [] if flag is None else [wordless("", 0.0, 2.0, flag)]
    assert render(transcript(*segments), format) == content


def test_what_is_flagged_as_noise_is_in_the_json_only() -> None:
    noise = segment(Word("HUM", 4.5, 5.0, 0.1), flags=(Flag.NOISE,))
    noisy = replace(TALK, segments=(*TALK.segments, noise))

    for format in set(FORMATS) - {"json"}:
        assert render(noisy, format) == render(TALK, format)
    assert "HUM" in render(noisy, "json")


def test_json_is_whole() -> None:
    text = render(replace(TALK, audio="é.wav"), "json")

    assert text.endswith("}\n")
    assert '  "audio": "é.wav",\n' in text
    tree = json.loads(text)
    assert Transcript.from_dict(tree).to_dict() == tree
    assert Transcript.from_dict(tree).words[:3] == TALK.words[:3]


def test_the_right_channel_is_the_second_of_the_ctm() -> None:
    for channel, number in (("mix", "1"), ("left", "1"), ("right", "2")):
        found = read_ctm(render(replace(TALK, channel=channel), "ctm"))
        assert {word.channel for word in found} == {number}


def test_a_trn_line_has_the_name_of_the_recording_last() -> None:
    assert render(TALK, "trn", name="my (2nd) talk").endswith("(my_2nd_talk)\n")
    assert render(replace(TALK, audio=""), "trn").endswith("(recording)\n")
    assert trn_line("A (SMALL)\nTHING", "s-1") == "A (SMALL) THING (s-1)\n"


# Where subtitles part


@pytest.mark.parametrize(
    ("times", "groups"),
    [
        ([(0, 1), (2, 3)], [["A", "B"]]),  # a pause of a second
        ([(0, 1), (2.001, 3)], [["A"], ["B"]]),
        ([(0, 1), (1, 3), (3, 7)], [["A", "B", "C"]]),  # seven seconds
        ([(0, 1), (1, 3), (3, 7.001)], [["A", "B"], ["C"]]),
    ],
)
def test_a_pause_or_seven_seconds_part_cues(
    times: list[tuple[float, float]], groups: list[list[str]]
) -> None:
    assert [cue.words for cue in cues(spoken_at(*times))] == groups


@pytest.mark.parametrize(("pause", "num_cues"), [(0.0, 1), (0.25, 1), (0.251, 2)])
def test_segments_part_cues_where_a_pause_is_notable(
    pause: float, num_cues: int
) -> None:
    first = segment(Word("A", 0.0, 1.0, 0.5))
    second = segment(Word("B", 1.0 + pause, 3.0, 0.5))

    assert len(cues(transcript(first, second))) == num_cues


def test_a_word_that_is_too_long_leaves_after_seven_seconds() -> None:
    assert cues(spoken_at((1, 60), (60, 61))) == [
        Cue(1000, 8000, ["A"]),
        Cue(60_000, 61_000, ["B"]),
    ]


def test_a_short_cue_stays_for_a_second_if_the_next_one_lets_it() -> None:
    layout = SubtitleConfig(words=1)
    assert cues(spoken_at((0, 0.2), (0.7, 0.9), (3, 3.1)), layout) == [
        Cue(0, 700, ["A"]),
        Cue(700, 1700, ["B"]),
        Cue(3000, 4000, ["C"]),
    ]


def test_lines_are_balanced() -> None:
    words = ["ALPHA", "BRAVO", "ECHO", "HOTEL"]
    timed = [Word(w, i / 4, (i + 1) / 4, 0.5) for i, w in enumerate(words)]

    found = cues(transcript(segment(*timed)), SubtitleConfig(line_length=20))

    # Filled up, the first line would be "ALPHA BRAVO ECHO", and HOTEL alone below.
    assert [cue.lines for cue in found] == [["ALPHA BRAVO", "ECHO HOTEL"]]


def test_a_cue_has_no_more_lines_than_it_may() -> None:
    words = [Word("ABCDE", i / 4, (i + 1) / 4, 0.5) for i in range(7)]

    found = cues(transcript(segment(*words)), SubtitleConfig(line_length=11, lines=3))

    two = "ABCDE ABCDE"
    assert [cue.lines for cue in found] == [[two, two, two], ["ABCDE"]]


def test_a_word_longer_than_a_line_stands_alone() -> None:
    long = "DONAUDAMPF-SCHIFF"
    words = [Word(text, i, i + 1, 0.5) for i, text in enumerate(["A", long, "B"])]

    found = cues(transcript(segment(*words)), SubtitleConfig(line_length=10, lines=3))

    assert [cue.lines for cue in found] == [["A", long, "B"]]


def test_text_without_words_becomes_one_cue() -> None:
    text = "ONE TWO THREE FOUR FIVE"
    before, after = segment(Word("A", 0, 1, 0.5)), segment(Word("B", 9, 10, 0.5))

    found = cues(
        transcript(before, wordless(text, 1.0, 9.0), after),
        SubtitleConfig(line_length=9),
    )

    assert found == [
        Cue(0, 1000, ["A"]),
        Cue(1000, 9000, ["ONE TWO", "THREE", "FOUR FIVE"]),
        Cue(9000, 10_000, ["B"]),
    ]


def test_text_without_words_shares_its_cue_with_no_other() -> None:
    before, after = segment(Word("A", 0, 1, 0.5)), segment(Word("C", 2, 3, 0.5))

    found = cues(transcript(before, wordless("B", 1.0, 2.0), after))

    assert [cue.words for cue in found] == [["A"], ["B"], ["C"]]


# Unusual text and times


def test_what_means_something_to_vtt_is_escaped() -> None:
    words = (Word(t, i, i + 1, 0.5) for i, t in enumerate(["<b>&lt;", "-->", "A&B"]))

    text = render(transcript(segment(*words)), "vtt")

    assert "\n&lt;b&gt;&amp;lt; --&gt; A&amp;B\n" in text
    assert [cue.words for cue in read_vtt(text)] == [["<b>&lt;", "-->", "A&B"]]


def test_a_text_of_many_lines_stays_one_row() -> None:
    words = (Word("A\n\nB", 0.0, 1.0, 0.5), Word(" ", 1.0, 2.0, 0.5))
    odd = transcript(replace(segment(*words), text="A\n\nB\t\u2028C"))

    assert render(odd, "txt") == "A B C\n"
    assert render(odd, "tsv").endswith("\n0\t2000\tA B C\n")
    assert render(odd, "trn") == "A B C (a_talk)\n"
    assert render(odd, "ctm") == "a_talk 1 0.000 1.000 A_B 0.500\n"
    assert cues(odd) == [Cue(0, 1000, ["A B"])]


def test_a_hundred_hours_and_more() -> None:
    late = 123 * 3600 + 45 * 60 + 6.789

    found = render(spoken_at((late, late + 1)), "srt")

    assert "123:45:06,789 --> 123:45:07,789\n" in found
    assert [cue.start for cue in cues(spoken_at((late, late + 1)))] == [late * 1000]


def test_times_that_go_back_are_brought_into_order(tmp_path: Path) -> None:
    odd = spoken_at((-1.0, -0.0001), (2.0, 1.0), (1.5, 1.5), (1.5, 3.0))

    words = read_ctm(render(odd, "ctm"))

    assert [(word.start, word.duration) for word in words] == [
        (0.0, 0.001),
        (2.0, 0.001),
        (2.001, 0.001),
        (2.002, 0.998),
    ]
    assert "-0.0" not in render(odd, "TextGrid")


def test_a_text_grid_lasts_as_long_as_its_words() -> None:
    text = render(replace(spoken_at((0.0, 2.0)), duration=1.0), "TextGrid")
    assert text.count("xmax = 2.000") == 5

    nothing = render(transcript(), "TextGrid")
    assert nothing.count("xmax = 0.001") == 5  # Praat has no room for no time


def test_a_text_grid_of_a_clip_lasts_until_the_end_of_the_clip() -> None:
    clip = replace(
        transcript(
            segment(Word("GO", 90.5, 91.0, 0.75)),
            wordless("", 91.0, 95.0, Flag.SILENCE),
        ),
        duration=5.0,
    )
    silent = replace(transcript(wordless("", 90.0, 95.0, Flag.SILENCE)), duration=5.0)

    for text in (render(clip, "TextGrid"), render(silent, "TextGrid")):
        assert text.count("xmax = 95.000") == 5


# Property


patient = settings(deadline=None, max_examples=50)  # of a busy machine


class Said(NamedTuple):
    transcript: Transcript
    layout: SubtitleConfig


# No "=": tgt loses what follows a word that is one.
LETTERS = st.sampled_from("AbZé'\"&<>-中😀")


@st.composite
def said(draw: st.DrawFn) -> Said:
    """Draw a transcript whose times are in order, and a layout."""
    clock, segments = 0.0, list[Segment]()
    lengths = st.floats(0.002, 9.0) | st.floats(0.002, 0.5)
    pauses = st.just(0.0) | st.floats(0.0, 0.5) | st.floats(0.0, 3.0)
    for _ in range(draw(st.integers(0, 4))):
        words = list[Word]()
        for _ in range(draw(st.integers(1, 12))):
            text = draw(st.text(LETTERS, min_size=1, max_size=12))
            start = clock + draw(pauses)
            clock = start + draw(lengths)
            words.append(Word(text, start, clock, draw(st.floats(0, 1))))
        segments.append(segment(*words))
    layout = SubtitleConfig(
        draw(st.integers(1, 45)),
        draw(st.integers(1, 3)),
        draw(st.none() | st.integers(1, 5)),
    )
    return Said(transcript(*segments), layout)


def texts(transcript: Transcript) -> list[str]:
    return [word.text for word in transcript.words]


@patient
@given(said())
def test_cues_keep_each_word_once_and_in_order(said: Said) -> None:
    found = cues(*said)
    assert [word for cue in found for word in cue.words] == texts(said.transcript)


@patient
@given(said())
def test_cues_keep_to_their_layout(said: Said) -> None:
    layout = said.layout
    for cue in cues(*said):
        assert len(cue.lines) <= layout.lines
        assert layout.words is None or len(cue.words) <= layout.words
        assert cue.end - cue.start <= 7000
        for line in cue.lines:
            assert len(line) <= layout.line_length or " " not in line


@patient
@given(said())
def test_cues_do_not_overlap_and_last(said: Said) -> None:
    found = cues(*said)

    assert all(cue.start < cue.end for cue in found)
    for cue, following in pairwise(found):
        assert cue.end <= following.start
        assert cue.end - cue.start >= 1000 or cue.end == following.start
    assert not found or found[-1].end - found[-1].start >= 1000


@patient
@given(said())
def test_cues_stand_while_their_words_are_said(said: Said) -> None:
    words = iter(said.transcript.words)
    for cue in cues(*said):
        inside = [next(words) for _ in cue.words]
        assert abs(cue.start - inside[0].start * 1000) <= 0.501
        said_by = min(inside[-1].end * 1000, cue.start + 7000)
        assert said_by - 0.501 <= cue.end <= max(said_by, cue.start + 1000) + 0.501
        for word, following in pairwise(inside):
            assert following.start - word.end <= 1.001


@patient
@given(said())
def test_times_come_back_within_a_millisecond(said: Said) -> None:
    talk = said.transcript
    for found, word in zip(read_ctm(render(talk, "ctm")), talk.words, strict=True):
        assert found.text == word.text
        assert found.start == near(word.start)
        assert found.start + found.duration == near(word.end)
        assert found.confidence == near(word.confidence)
    rows = render(talk, "tsv").split("\n")[1:-1]
    for row, part in zip(rows, talk.segments, strict=True):
        start, end, text = row.split("\t")
        assert (int(start) / 1000, int(end) / 1000) == (
            near(part.start),
            near(part.end),
        )
        assert text == part.text


def near(number: float) -> object:
    """Give what equals all that a number may have been rounded to."""
    return pytest.approx(number, abs=0.000_501)


@patient
@given(said())
def test_tiers_have_no_gaps(
    tmp_path_factory: pytest.TempPathFactory, said: Said
) -> None:
    path = tmp_path_factory.getbasetemp() / "said.TextGrid"
    talk = said.transcript
    path.write_text(render(talk, "TextGrid"), encoding="utf-8")

    tiers = read_text_grid(path)

    assert list(tiers) == ["segments", "words"]
    for intervals in tiers.values():
        assert intervals[0][0] == 0.0
        assert all(start < end for start, end, _ in intervals)
        assert all(end == start for (_, end, _), (start, _, _) in pairwise(intervals))
    for interval, part in zip(spoken(tiers["segments"]), talk.segments, strict=True):
        assert interval == (near(part.start), near(part.end), part.text)
    for interval, word in zip(spoken(tiers["words"]), talk.words, strict=True):
        assert interval == (near(word.start), near(word.end), word.text)


def spoken(intervals: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    return [interval for interval in intervals if interval[2]]


@patient
@given(said())
def test_a_trn_line_has_all_words(said: Said) -> None:
    line = render(said.transcript, "trn")

    text, _, name = line.rpartition(" ")
    assert name == "(a_talk)\n"
    assert text == said.transcript.text
    if text:
        assert jiwer.wer(said.transcript.text, text) == 0.0


# Files


def test_files_have_the_name_of_the_recording_and_of_the_format(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"

    paths = write(TALK, folder, "v1.5 é", FORMATS)

    assert paths == [folder / f"v1.5 é.{format}" for format in FORMATS]
    assert set(folder.iterdir()) == set(paths)
    for path, format in zip(paths, FORMATS, strict=True):
        expected = render(TALK, format, name="v1.5 é")
        assert path.read_bytes().decode() == expected


def test_a_layout_reaches_the_file(tmp_path: Path) -> None:
    (path,) = write(TALK, tmp_path, "a", ["srt"], SubtitleConfig(words=1))
    assert len(read_srt(path.read_text(encoding="utf-8"))) == 4


def test_a_file_name_that_is_no_text_can_be_written(tmp_path: Path) -> None:
    audio = os.fsdecode(b"\xff.wav")

    (path,) = write(replace(TALK, audio=audio), tmp_path, "a", ["json"])

    assert json.loads(path.read_text(encoding="utf-8"))["audio"] == audio


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.write_text("old")

    with pytest.raises(CheckpointError, match=r"taken: cannot be made \(File exists\)"):
        write(TALK, folder, "a", FORMATS)

    assert folder.read_text() == "old"


def test_a_full_disk_is_one_line_and_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(TALK, tmp_path, "a", FORMATS)
    old = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"a\.txt: cannot be written \(No space"):
        write(spoken_at((0, 1)), tmp_path, "a", FORMATS)

    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_an_unknown_format_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one of txt, .*, TextGrid, got 'docx'"):
        write(TALK, tmp_path, "a", ["txt", "docx"])

    assert list(tmp_path.iterdir()) == []


# What is refused


@pytest.mark.parametrize("number", [nan, inf, -inf])
@pytest.mark.parametrize("format", FORMATS)
def test_what_is_no_number_is_refused(format: str, number: float) -> None:
    for odd in _spoiled(number):
        with pytest.raises(ValueError, match=f"must be finite, got {number}"):
            render(odd, format)


def _spoiled(number: float) -> Iterator[Transcript]:
    yield replace(TALK, duration=number)
    yield transcript(wordless("A", 0.0, number))
    for word in (
        Word("A", number, 1.0, 0.5),
        Word("A", 0.0, number, 0.5),
        Word("A", 0.0, 1.0, number),
    ):
        yield transcript(replace(TALK.segments[0], words=(word,)))


def test_json_has_no_numbers_that_are_none() -> None:
    part = replace(TALK.segments[0], nbest=(Alternative("GO", -inf),))
    with pytest.raises(ValueError, match="not JSON compliant"):
        render(transcript(part), "json")


@pytest.mark.parametrize("name", ["line_length", "lines", "words"])
def test_subtitles_need_room_for_a_word(name: str) -> None:
    given: dict[str, Any] = {name: 0}

    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        replace(STANDARD, **given)


def test_segments_stay_apart_where_that_is_asked_for() -> None:
    first = segment(Word("A", 0.0, 1.0, 0.5))
    second = segment(Word("B", 1.0, 3.0, 0.5))

    assert len(cues(transcript(first, second), SubtitleConfig(join=False))) == 2


@pytest.mark.parametrize("flag", [Flag.UNSAID, Flag.UNTOLD])
def test_what_is_only_in_text_or_audio_is_in_the_json_only(flag: Flag) -> None:
    found = transcript(wordless("never said", 1.0, 1.0, flag))

    for format in FORMATS:
        assert ("never said" in render(found, format)) is (format == "json")
