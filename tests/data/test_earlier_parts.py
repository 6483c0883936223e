from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.audio import SAMPLE_RATE
from asr.cli import main
from asr.data.earlier_parts import move_aside
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.errors import CorpusError


def of(folder: Path, *names: str, speaker: str = "") -> list[Utterance]:
    return [Utterance(n, str(folder / f"{n}.wav"), 1.0, "go", speaker) for n in names]


def moved(data: Path, test: Sequence[Utterance]) -> list[str]:
    """Move aside what a split in train and dev leaves of an earlier test."""
    write_manifest(data / "test.jsonl", test)
    parts = {
        "train": of(data, "a", "b", speaker="ann"),
        "dev": of(data, "c", speaker="bob"),
    }
    return move_aside(data, parts)


@pytest.mark.parametrize(
    ("name", "speaker"), [("a", ""), ("c", ""), ("x", "ann"), ("x", "bob")]
)
def test_an_earlier_test_of_what_is_learned_from_now_is_moved_aside(
    name: str, speaker: str, tmp_path: Path
) -> None:
    (line,) = moved(tmp_path, of(tmp_path, name, "y", speaker=speaker))

    assert line == (
        f"{tmp_path}/test.jsonl: is of an earlier split, and is test.jsonl.old now "
        "(the new split has recordings or speakers of it)"
    )
    assert not (tmp_path / "test.jsonl").exists()
    assert (tmp_path / "test.jsonl.old").read_text().count("\n") == 2


@pytest.mark.parametrize("speaker", ["", "eve"])
def test_a_test_set_from_elsewhere_stays(speaker: str, tmp_path: Path) -> None:
    (line,) = moved(tmp_path, of(tmp_path, "x", speaker=speaker))

    assert line.endswith(
        "stays (it shares no recording and no speaker with the new split)"
    )
    assert (tmp_path / "test.jsonl").exists()


def test_what_was_moved_aside_before_stays(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl.old").write_text("corrected by hand")

    for number in (2, 3):
        (line,) = moved(tmp_path, of(tmp_path, "a"))
        assert f"is test.jsonl.old{number} now" in line

    assert (tmp_path / "test.jsonl.old").read_text() == "corrected by hand"


def test_a_test_that_cannot_be_read_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text("torn")

    (line,) = move_aside(tmp_path, {"train": [], "dev": []})

    assert line.endswith("now (it cannot be read, to compare it with the new split)")


def test_a_split_in_three_moves_nothing(tmp_path: Path) -> None:
    write_manifest(tmp_path / "test.jsonl", of(tmp_path, "a"))

    names = ("train", "dev", "test")
    assert not move_aside(tmp_path, {name: of(tmp_path, "a") for name in names})
    assert (tmp_path / "test.jsonl").exists()


def test_a_manifest_that_cannot_be_renamed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)

    with pytest.raises(
        CorpusError, match=r"test\.jsonl: cannot be renamed \(Permission"
    ):
        moved(tmp_path, of(tmp_path, "a"))


def test_a_second_split_leaves_no_speaker_of_training_to_test_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(10):
        folder = tmp_path / "corpus" / f"speaker{number}"
        folder.mkdir(parents=True)
        chance = np.random.default_rng(number).normal(0, 0.1, SAMPLE_RATE)
        soundfile.write(folder / "x.wav", chance, SAMPLE_RATE)
        (folder / "x.txt").write_text(f"go {number}")
    data = tmp_path / "data"
    command = ["prepare", str(tmp_path / "corpus"), str(data), "--processes", "1"]

    assert main([*command, "--split", "60:20:20"]) == 0
    first = read_manifest(data / "test.jsonl")
    assert "earlier split" not in capsys.readouterr().err
    assert main([*command, "--split", "80:20"]) == 0

    assert capsys.readouterr().err.count("is test.jsonl.old now") == 1
    assert sorted(path.name for path in data.glob("*.jsonl")) == [
        "dev.jsonl",
        "train.jsonl",
    ]
    assert read_manifest(data / "test.jsonl.old") == first
