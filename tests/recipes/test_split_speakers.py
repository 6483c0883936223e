"""A manifest, cut in two by its speakers."""

import json
from pathlib import Path

import pytest

from asr.data.manifest import read_manifest
from recipes.librispeech.split_speakers import main


def manifest(folder: Path, speakers: list[str]) -> Path:
    entry = {"audio": "u.wav", "duration": 1.0, "text": "A"}
    lines = [
        json.dumps({"id": f"{speaker}-{i}", **entry, "speaker": speaker})
        for speaker in speakers
        for i in range(2)
    ]
    path = folder / "dev.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_third_speaker_is_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest(tmp_path, ["1000", "9", "84", "200", "30", "7"])
    assert main([str(path), "--every", "3"]) == 0

    held = read_manifest(tmp_path / "dev.held.jsonl")
    rest = read_manifest(tmp_path / "dev.rest.jsonl")
    assert {u.speaker for u in held} == {"30", "1000"}
    assert sorted(u.id for u in held + rest) == sorted(
        u.id for u in read_manifest(path)
    )
    assert not {u.speaker for u in held} & {u.speaker for u in rest}
    assert "dev.held.jsonl: 2 speakers, 4 utterances, 0.00 h" in capsys.readouterr().out


def test_names_and_leading_zeros_have_their_order(tmp_path: Path) -> None:
    path = manifest(tmp_path, ["07", "anna", "7", "9" * 5000]).rename(
        tmp_path / "dev.v2.jsonl"
    )
    assert main([str(path), "--every", "2"]) == 0
    held = read_manifest(tmp_path / "dev.v2.held.jsonl")
    assert {u.speaker for u in held} == {"7", "anna"}


@pytest.mark.parametrize("every", ["1", "4", "0"])
def test_a_part_that_would_be_empty_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], every: str
) -> None:
    path = manifest(tmp_path, ["1", "2", "3"])
    assert main([str(path), "--every", every]) == 1
    assert "--every must be from 2 to its 3 speakers" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.held.jsonl"))


def test_utterances_of_nobody_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest(tmp_path, ["1", ""])
    assert main([str(path)]) == 1
    assert "-0 names no speaker" in capsys.readouterr().err
