from itertools import pairwise
from pathlib import Path

import pytest
import torch

from asr.audio import SAMPLE_RATE, encode, read_waveform
from asr.cli import main
from asr.data.joining import join, neighbours
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.errors import ConfigError, ManifestError

LETTERS = "ABCDEFGHIJ"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two chapters of five utterances of half a second, each of another level."""
    utterances = list[Utterance]()
    for number, letter in enumerate(LETTERS):
        path = tmp_path / f"{letter}.wav"
        level = torch.full((SAMPLE_RATE // 2,), (number + 1) / 32)
        path.write_bytes(encode(level, "wav"))
        id = f"84-{number // 5}-{number % 5:04d}"
        utterances.append(Utterance(id, str(path), 0.5, letter, "84"))
    write_manifest(tmp_path / "corpus.jsonl", utterances)
    return tmp_path / "corpus.jsonl"


def levels(utterance: Utterance) -> list[float]:
    """The level in the middle of each half second of a recording, in 32nds."""
    waveform = read_waveform(utterance.audio)
    return [
        round(32 * float(w)) for w in waveform[SAMPLE_RATE // 4 :: SAMPLE_RATE // 2]
    ]


def test_recordings_hold_what_their_texts_say(corpus: Path, tmp_path: Path) -> None:
    joined = join(corpus, tmp_path / "joined", seconds=1.6)

    found = read_manifest(joined.manifest)
    for utterance in found:
        said = [LETTERS.index(letter) + 1 for letter in utterance.text.split()]
        assert levels(utterance) == said
        assert utterance.duration == pytest.approx(0.5 * len(said))
        assert utterance.duration <= 1.6
        assert utterance.speaker == "84"
    assert " ".join(utterance.text for utterance in found).split() == list(LETTERS)
    assert (joined.num_utterances, joined.num_recordings) == (10, len(found))
    assert len({len(utterance.text.split()) for utterance in found}) > 1


def test_no_recording_goes_on_into_another_chapter(
    corpus: Path, tmp_path: Path
) -> None:
    join(corpus, tmp_path / "joined", seconds=1000)

    for utterance in read_manifest(tmp_path / "joined" / "manifest.jsonl"):
        assert not {"E", "F"} <= set(utterance.text.split())


def test_a_number_of_utterances_is_joined_and_what_is_left_over_is_not(
    corpus: Path, tmp_path: Path
) -> None:
    joined = join(corpus, tmp_path / "joined", utterances=2)

    found = read_manifest(joined.manifest)
    assert [one.text for one in found] == ["A B", "C D", "F G", "H I"]
    assert [one.id for one in found][:2] == ["84-0-0000..0001", "84-0-0002..0003"]
    assert str(joined).endswith("8 utterances in 4 recordings, 0.00 h")


def test_the_same_is_drawn_each_time(corpus: Path, tmp_path: Path) -> None:
    first, second = (
        read_manifest(join(corpus, tmp_path / name, seconds=2).manifest)
        for name in ("one", "two")
    )
    assert [one.text for one in first] == [one.text for one in second]


def test_utterances_of_one_speaker_are_neighbours_where_ids_do_not_say_so() -> None:
    given = [
        Utterance(f"clip{number}", "a.wav", 1.0, "A", speaker)
        for number, speaker in enumerate(["x", "y", "x", "", ""])
    ]

    found = [[one.id for one in group] for group in neighbours(given)]

    assert found == [["clip0", "clip2"], ["clip1"], ["clip3"], ["clip4"]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give either --seconds or --utterances"),
        ({"seconds": 2.0, "utterances": 2}, "give either --seconds or --utterances"),
        ({"seconds": 0.0}, "--seconds must be above 0, not 0"),
        ({"utterances": 0}, "--utterances must be at least 1, not 0"),
        ({"utterances": 6}, r"--utterances 6: .*corpus.jsonl has no so many"),
    ],
)
def test_what_cannot_be_joined_is_refused(
    given: dict[str, float], message: str, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        join(corpus, tmp_path / "joined", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "joined").exists()


def test_what_is_there_is_not_overwritten(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="is not empty"):
        join(corpus, tmp_path, seconds=2)


def test_the_command_joins(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "joined"
    assert main(["data", "join", str(corpus), str(target), "--utterances", "5"]) == 0

    assert capsys.readouterr().out == (
        f"{target / 'manifest.jsonl'}: 10 utterances in 2 recordings, 0.00 h\n"
    )
    texts = [one.text for one in read_manifest(target / "manifest.jsonl")]
    assert texts == ["A B C D E", "F G H I J"]
    assert not [one for one in tmp_path.iterdir() if one.name.endswith(".partial")]
    assert all(len(a) == len(b) for a, b in pairwise(texts))
