from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr.acoustics import measure, speech_limits
from asr.audio import SAMPLE_RATE
from asr.cli import main
from asr.data.info import describe, histogram, inspect
from asr.data.manifest import Utterance, write_manifest
from asr.errors import ManifestError
from asr.reports.corpus_page import write_corpus_page
from tests.sounds import noise


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Six utterances of two speakers, one of them unreadable."""
    utterances = []
    for number in range(6):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, noise(1 + number / 2), SAMPLE_RATE)
        text = "שלום ab" if number == 0 else "ab <b> & ba"
        speaker = "ann" if number < 4 else "bob"
        utterances.append(
            Utterance(f"u{number}", str(path), 1 + number / 2, text, speaker)
        )
    (tmp_path / "5.wav").write_bytes(b"no audio")
    write_manifest(tmp_path / "m.jsonl", utterances)
    (tmp_path / "m.problems.txt").write_text("duplicate: a: x\nduplicate: b: y\n")
    return tmp_path / "m.jsonl"


# What is measured in a recording: a tone has a known pitch, level and share of speech


def test_a_recording_is_measured() -> None:
    times = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = 0.5 * torch.sin(2 * torch.pi * 150 * times)
    faint = 1e-4 * torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(0))

    found = measure(torch.cat([faint, tone]))

    assert found.seconds == 2.0
    assert found.speech == pytest.approx(0.5, abs=0.05)
    assert found.low_pitch == pytest.approx(150, abs=3)
    assert found.high_pitch == pytest.approx(150, abs=3)
    assert found.level == pytest.approx(20 * np.log10(0.5 / 2**0.5), abs=0.5)
    assert found.noise == pytest.approx(-80, abs=2)
    assert found.clipped == 0


def test_clipping_is_measured() -> None:
    times = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = (2 * torch.sin(2 * torch.pi * 150 * times)).clamp(-1, 1)

    assert measure(tone).clipped == pytest.approx(2 / 3, abs=0.01)


@pytest.mark.parametrize("length", [0, 16_000])
def test_silence_has_neither_speech_nor_pitch(length: int) -> None:
    found = measure(torch.zeros(length))

    assert found.speech == 0
    assert np.isnan(found.low_pitch)
    assert speech_limits(torch.zeros(length)) == (0.0, 0.0)


def test_a_click_has_no_pitch() -> None:
    assert np.isnan(measure(torch.ones(100)).low_pitch)


# What is counted in a manifest


def test_a_manifest_is_counted_and_measured(manifest: Path) -> None:
    info = inspect(manifest)

    assert info.seconds == 13.5
    assert info.speakers == Counter(ann=4, bob=2)
    assert info.words == Counter({"ab": 6, "<b>": 5, "&": 5, "ba": 5, "שלום": 1})
    assert info.rare == ["&", "<", ">", *sorted("שלום")]
    assert len(info.measures) == 5
    assert info.problems == Counter(duplicate=2)
    (error,) = info.unreadable
    assert error.startswith(str(manifest.with_name("5.wav")))


def test_what_was_counted_is_written_in_lines(manifest: Path) -> None:
    lines = describe(inspect(manifest)).splitlines()

    assert lines[0] == (
        f"{manifest}: 6 utterances, 0.00 h, 2 speakers (at most 4 utterances each)"
    )
    assert lines[1] == "  lengths: 1.0 to 3.5 s, half of them below 2.2 s"
    assert lines[2].split() == ["1", "to", "2", "s", "#" * 40, "2"]
    assert "  texts: 22 words, 5 different; 4.6 characters a second, " in lines[5]
    assert any("speech 100 %" in line and "clipped: 0" in line for line in lines)
    assert lines[-1] == "  problems: 2 x duplicate"


def test_nothing_is_measured_where_nobody_asks(manifest: Path) -> None:
    assert not inspect(manifest, 0).measures
    assert "  measured in" not in describe(inspect(manifest, 0))


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        ([2.0], [(2.0, 3.0, 1)]),
        ([0.1, 100.0], [(0.0, 10.0, 1), *((10.0 * n, 10.0 * n + 10, 0)
                        for n in range(1, 10)), (100.0, 110.0, 1)]),
    ],
)  # fmt: skip
def test_lengths_are_counted_between_round_numbers(
    values: list[float], rows: list[tuple[float, float, int]]
) -> None:
    assert histogram(values) == rows


# The page


class Page(HTMLParser):
    def __init__(self, content: str) -> None:
        super().__init__()
        self.texts, self.players = list[str](), 0
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.players += tag == "audio"

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_the_page_has_utterances_to_listen_to(manifest: Path, tmp_path: Path) -> None:
    write_corpus_page(tmp_path / "page.html", inspect(manifest, 0))

    content = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(content)
    assert page.players == 6
    assert page.texts.count("ab <b> & ba") == 5
    assert '<p class="said" dir="auto">שלום ab</p>' in content
    assert "2 x duplicate" in page.texts
    assert "No recording was measured." in page.texts


def test_the_command_writes_a_page(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"

    assert main(["data", "info", str(manifest), "--page", str(page)]) == 0

    assert page.is_file()
    assert capsys.readouterr().out.endswith(f"{page}\n")


def test_a_folder_of_manifests_is_shown_one_by_one(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path / "n.jsonl", [Utterance("a", "a.wav", 1.0, "go")])
    command = ["data", "info", str(tmp_path), "--measure", "0"]

    assert main(command) == 0
    assert main([*command, "--page", str(tmp_path / "page.html")]) == 1

    out, err = capsys.readouterr()
    assert out.index("/m.jsonl: 6 utt") < out.index("/n.jsonl: 1 utterance, 0.00 h, no")
    assert "--page: is about one manifest" in err


def test_a_folder_without_manifests_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "info", str(tmp_path)]) == 1
    assert "holds no manifest (asr prepare writes" in capsys.readouterr().err
    with pytest.raises(ManifestError, match="cannot be read"):
        inspect(tmp_path / "none.jsonl")
