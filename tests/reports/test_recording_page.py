import base64
import json
import re
import shutil
import subprocess
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.reports.recording_page import (
    ABOUT,
    ENVELOPE_RATE,
    Instead,
    alternatives,
    page_data,
    rows_of_words,
    write_page,
)
from asr.transcript import Alignment, Alternative, Flag, Segment, Transcript, Word

NASTY = "</script><script>alert(1)</script>&\"'{{script}}"
SILENT = Segment(0.0, 1.0, "", (), 0.0, (Flag.SILENCE,), (), None)


def segment(text: str = "GO ON") -> Segment:
    weights = torch.zeros(len(text) + 1, 25).fill_diagonal_(0.25)
    return Segment(
        start=0.0,
        end=1.0,
        text=text,
        words=(Word("GO", 0.1, 0.3, 0.9), Word("ON", 0.3, 0.6, 0.4)),
        confidence=0.65,
        flags=(Flag.UNFINISHED,),
        nbest=(Alternative(text, -0.5), Alternative("GO IN", -0.75)),
        alignment=Alignment(tuple(text + "\u220e"), weights, 0.04),
    )


def with_blocks(one: Segment) -> Segment:
    assert one.alignment is not None
    return replace(one, alignment=replace(one.alignment, block_size=10))


def transcript(*segments: Segment) -> Transcript:
    return Transcript(segments, 1.0, model="las_mini", settings={"beam_size": 8})


def tone(seconds: float = 1.0, hertz: float = 500.0) -> Tensor:
    time = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return 0.5 * torch.sin(2 * torch.pi * hertz * time)


def written(tmp_path: Path, one: Transcript, name: str = "a.wav") -> str:
    sound = BytesIO()
    soundfile.write(sound, tone().numpy(), SAMPLE_RATE, format="WAV")
    (tmp_path / name).write_bytes(sound.getvalue())
    write_page(tmp_path / "page.html", tmp_path / name, one)
    return (tmp_path / "page.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """The elements of a page, and what stands in the scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag = self.tags[-1][0] if self.tags else ""
        if tag == "script":
            self.scripts.append(data)
        self.texts.setdefault(tag, data)


def matrix(packed: dict[str, Any]) -> Tensor:
    """What the page's script unpacks."""
    data = zlib.decompress(base64.b64decode(packed["data"]))
    shape = packed["rows"], packed["columns"]
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy()).view(shape)


# The page


def test_a_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    page = written(tmp_path, transcript(segment()))

    assert not re.findall(r"(?:https?:)?//[\w.]+\.\w+/|@import|url\(", page)
    assert "{{" not in page
    for tag, attributes in Elements(page).tags:
        assert tag != "script" or "src" not in attributes
        assert tag != "link" or attributes["href"] == "data:,"
    assert "default-src 'none'" in page  # and a browser would refuse to load it


def test_names_and_texts_are_never_markup(tmp_path: Path) -> None:
    nasty = replace(
        segment(NASTY),
        words=(Word(NASTY, 0.0, 0.5, 0.5),),
        nbest=(Alternative(NASTY, -1.0), Alternative("<b>", -2.0)),
    )

    page = written(tmp_path, transcript(nasty), name='<b>&amp;"{{ data }}.wav')

    elements = Elements(page)
    assert [tag for tag, _ in elements.tags].count("script") == 2
    assert "b" not in {tag for tag, _ in elements.tags}
    assert elements.texts["h1"] == '<b>&amp;"{{ data }}.wav'
    data = json.loads(elements.scripts[0])
    assert data["text"] == NASTY
    assert data["name"] == '<b>&amp;"{{ data }}.wav'
    assert data["segments"][0]["words"][0]["instead"][0]["text"] == "<b>"


def test_a_recording_may_have_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    page = written(tmp_path, transcript(segment()), name="b\udcff.wav")

    assert r"b\udcff.wav" in Elements(page).texts["h1"]


def test_a_page_replaces_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("old")

    assert written(tmp_path, transcript()).startswith("<!doctype html>")


def test_a_minute_of_speech_stays_small() -> None:
    noise = 0.1 * torch.randn(60 * SAMPLE_RATE)

    size = len(json.dumps(page_data(noise, "a.wav", transcript(SILENT))))

    assert size < 2_500_000  # noise is the worst there is; speech takes a third


# What the page is given


def test_the_sound_is_the_recording() -> None:
    data = page_data(tone(2.5), "a.wav", transcript())

    samples, rate = soundfile.read(BytesIO(base64.b64decode(data["sound"])))
    assert rate == SAMPLE_RATE
    assert np.abs(samples[4000:-4000] - tone(2.5).numpy()[4000:-4000]).max() < 0.05
    assert len(samples) == 2.5 * SAMPLE_RATE


def test_the_attention_is_the_root_of_the_weights_in_bytes() -> None:
    one = segment()
    assert one.alignment is not None

    (given,) = page_data(tone(), "a.wav", transcript(one))["segments"]

    attention = given["attention"]
    assert attention["tokens"] == tuple("GO ON\u220e")
    assert attention["seconds_per_column"] == 0.04
    weights = (matrix(attention) / 255).square()
    torch.testing.assert_close(weights, one.alignment.weights, atol=0.003, rtol=0)


def test_an_attention_without_blocks_has_one_map() -> None:
    (given,) = page_data(tone(), "a.wav", transcript(segment()))["segments"]

    assert "blocks" not in given["attention"]


def test_an_attention_with_blocks_has_both_of_its_looks_too() -> None:
    weights = torch.tensor([[0.1, 0.3, 0.6, 0.0, 0.0], [0.0, 0.0, 0.1, 0.4, 0.5]])
    alignment = Alignment(("A", "\u220e"), weights, 0.04, block_size=2)

    (given,) = page_data(
        tone(), "a.wav", transcript(replace(segment(), alignment=alignment))
    )["segments"]

    attention = given["attention"]
    inside, across = (attention["blocks"][name] for name in ("inside", "across"))
    assert inside["seconds_per_column"] == 0.04
    assert across["seconds_per_column"] == 0.08
    for packed, expected in (
        (attention, weights.tolist()),
        (inside, [[0.25, 0.75, 1.0, 0.0, 0.0], [0.0, 0.0, 0.2, 0.8, 1.0]]),
        (across, [[0.4, 0.6, 0.0], [0.0, 0.5, 0.5]]),
    ):
        shown = (matrix(packed) / 255).square()
        torch.testing.assert_close(shown, torch.tensor(expected), atol=0.004, rtol=0)


def test_a_word_of_subwords_has_the_rows_of_all_of_them() -> None:
    one = segment()
    tokens = (" ", "GO", " O", "N", "\u220e")
    alignment = Alignment(tokens, torch.eye(5, 9), 0.04)

    (given,) = page_data(
        tone(), "a.wav", transcript(replace(one, alignment=alignment))
    )["segments"]

    assert given["attention"]["tokens"] == tokens
    assert given["attention"]["rows"] == 5
    assert [word["rows"] for word in given["words"]] == [(1, 2), (2, 4)]


def test_the_waveform_is_its_extremes() -> None:
    waveform = torch.zeros(170)  # columns of 80 samples: two, and ten samples more
    waveform[3], waveform[90], waveform[165] = 0.5, -0.25, 0.1

    envelope = page_data(waveform, "a.wav", transcript())["waveform"]

    # The peak, 0.5, is 127 above the middle, 128.
    assert matrix(envelope["greatest"]).tolist() == [[255, 128, 153]]
    assert matrix(envelope["least"]).tolist() == [[128, 64, 128]]
    assert envelope["seconds_per_column"] == 1 / ENVELOPE_RATE


def test_silence_is_a_flat_line() -> None:
    envelope = page_data(torch.zeros(800), "a.wav", transcript())["waveform"]

    assert matrix(envelope["least"]).tolist() == [[128] * 10]
    assert matrix(envelope["greatest"]).tolist() == [[128] * 10]


def test_the_spectrogram_has_high_bands_on_top_and_time_from_left_to_right() -> None:
    waveform = torch.cat([tone(0.5, 300.0), tone(0.5, 4000.0)])

    spectrogram = page_data(waveform, "a.wav", transcript())["spectrogram"]

    power = matrix(spectrogram).float()
    assert power.shape == (80, 101)
    assert power.max() == 255
    assert power[:, 25].argmax() > 60  # low in the picture
    assert power[:, 75].argmax() < 25
    assert spectrogram["seconds_per_column"] == 0.01


def test_frames_of_a_long_recording_are_joined() -> None:
    spectrogram = page_data(torch.zeros(16_000 * 301), "a", transcript())["spectrogram"]

    assert spectrogram["columns"] == 15_051  # 30101 frames in pairs
    assert spectrogram["seconds_per_column"] == 0.02


def test_words_come_with_their_rows_and_alternatives() -> None:
    (given,) = page_data(tone(), "a.wav", transcript(segment()))["segments"]

    assert given["words"] == [
        {
            "text": "GO",
            "start": 0.1,
            "end": 0.3,
            "confidence": 0.9,
            "rows": (0, 2),
            "instead": [],
        },
        {
            "text": "ON",
            "start": 0.3,
            "end": 0.6,
            "confidence": 0.4,
            "rows": (3, 5),
            "instead": [{"text": "IN", "score": -0.75, "words": 1}],
        },
    ]


def test_flags_are_shown_in_plain_words() -> None:
    (given,) = page_data(tone(), "a.wav", transcript(segment()))["segments"]

    (flag,) = given["flags"]
    assert flag["name"] == "unfinished"
    assert "may be invented" in flag["about"]
    assert ABOUT.keys() == set(Flag)


@pytest.mark.parametrize(
    "one",
    [SILENT, replace(segment(), words=(), alignment=None), replace(SILENT, flags=())],
    ids=["silence", "text alone", "nothing"],
)
def test_a_segment_may_lack_words_and_alignment(one: Segment, tmp_path: Path) -> None:
    page = written(tmp_path, transcript(one))

    (given,) = json.loads(Elements(page).scripts[0])["segments"]
    assert given["words"] == []
    assert given["attention"] is None
    assert given["confidence"] is None
    assert given["text"] == one.text


def test_words_without_an_alignment_have_no_rows() -> None:
    one = replace(segment(), alignment=None)

    (given,) = page_data(tone(), "a.wav", transcript(one))["segments"]

    assert [word["rows"] for word in given["words"]] == [None, None]


def test_a_page_without_script_has_the_text(tmp_path: Path) -> None:
    paragraph = '<p dir="auto">{}</p></noscript>'
    page = written(tmp_path, transcript(segment()))
    assert paragraph.format("GO ON") in page
    assert paragraph.format("(no speech)") in written(tmp_path, transcript(SILENT))


# Alternatives


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ("THE CAT SAT", [[], [], []]),
        ("THE BAT SAT", [[], ["BAT"], []]),
        ("A BAT SAT", [["A"], ["BAT"], []]),  # two for two: in pairs
        ("THE SAT", [[], [""], []]),
        ("THE CAT SAT DOWN", [[], [], ["SAT DOWN"]]),  # with its neighbour
        ("OH THE CAT SAT", [["OH THE"], [], []]),
        ("THE BIG CAT SAT", [["THE BIG"], [], []]),
        ("THE CAT'S AT IT", [[], ["CAT'S AT IT"], ["CAT'S AT IT"]]),  # three for two
        ("", [[""], [""], [""]]),
    ],
)
def test_hypotheses_are_aligned_word_by_word(
    other: str, expected: list[list[str]]
) -> None:
    nbest = [Alternative("THE CAT SAT", -1.0), Alternative(other, -2.0)]

    found = alternatives(["THE", "CAT", "SAT"], nbest)

    assert [[instead.text for instead in there] for there in found] == expected


def test_what_several_hypotheses_have_is_listed_once_with_the_best_score() -> None:
    nbest = [
        Alternative(text, score)
        for text, score in [("GO ON", -1), ("GO IN", -2), ("SO IN", -3), ("GO AT", -4)]
    ]

    found = alternatives(["GO", "ON"], nbest)

    assert found == [
        [Instead(0, 1, "SO", -3)],
        [Instead(1, 2, "IN", -2), Instead(1, 2, "AT", -4)],
    ]


def test_words_that_stand_for_each_other_together_know_their_place() -> None:
    nbest = [Alternative("GO ON IT", -1), Alternative("GO ONTO", -2)]

    (_, on, it) = alternatives(["GO", "ON", "IT"], nbest)

    assert on == it == [Instead(1, 3, "ONTO", -2)]


def test_words_that_were_cut_where_pieces_were_joined_are_no_alternatives() -> None:
    nbest = [Alternative("AND THE CAT SAT", -1), Alternative("AND THE BAT SAT", -2)]

    found = alternatives(["THE", "CAT"], nbest)

    assert found == [[], [Instead(2, 3, "BAT", -2)]]


def test_there_may_be_no_words_or_no_hypotheses() -> None:
    assert alternatives([], [Alternative("OH", -1), Alternative("O", -2)]) == []
    assert alternatives(["OH"], []) == [[]]
    assert alternatives(["OH"], [Alternative("", -1), Alternative("O", -2)]) == [[]]


def test_equal_words_have_rows_of_their_own() -> None:
    assert rows_of_words(["A", "A", "B", "A"], "A A A") == [
        (0, 1),
        (2, 3),
        None,
        (4, 5),
    ]


# In a browser


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
@pytest.mark.parametrize(
    ("one", "maps"),
    [(segment(), 1), (with_blocks(segment()), 3), (SILENT, 0)],
    ids=["words", "blocks", "silence"],
)
def test_chromium_shows_the_page(one: Segment, maps: int, tmp_path: Path) -> None:
    written(tmp_path, transcript(one))
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
        "--disable-background-networking --disable-component-update --disable-sync "
        f"--user-data-dir={tmp_path / 'profile'} --virtual-time-budget=5000 --dump-dom"
    ).split()

    shown = subprocess.run(
        ["chromium", *options, (tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=600,  # of a browser that hangs
        check=True,
    ).stdout

    assert "data-ready" in shown  # the script came to its end
    assert len(re.findall('<article class="strip(?: blocks)?"', shown)) == 1
    assert shown.count('<div class="rows"') == maps
    assert ('<p class="about" id="blocks" hidden=' in shown) == (maps < 3)
    assert shown.count('<button class="word') == len(one.words)
    assert ABOUT[one.flags[0]].split(":")[0] in shown
