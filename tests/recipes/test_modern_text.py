"""Modern English for language models, out of packages that carry it."""

import json
import sys
from pathlib import Path

import pytest

from asr.cli.scripts import run_main
from asr.data.manifest import Utterance, write_manifest
from recipes.librispeech.modern_text import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["modern_text", *map(str, arguments)])
    return run_main("modern_text", main)


def test_definitions_and_examples_are_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.noun").write_text(
        "  1 This software and database is being provided to you\n"
        "00001740 03 n 01 entity 0 003 | that which is perceived; a "
        '"computer" is one ; "it computes"  \n'
    )

    assert run(monkeypatch, "wordnet", tmp_path, tmp_path / "text.txt") == 0

    lines = (tmp_path / "text.txt").read_text().splitlines()
    assert lines == ["that which is perceived", 'a "computer" is one', "it computes"]


def test_speeches_of_long_ago_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1790_george_washington_n.txt").write_text("I embrace with joy.")
    (tmp_path / "1962_john_f_kennedy_d.txt").write_text(
        "This week we begin anew. Our\nobjective is clear! No.\n1 2 3 4 5 6"
    )

    assert run(monkeypatch, "speeches", tmp_path, tmp_path / "text.txt") == 0

    lines = (tmp_path / "text.txt").read_text().splitlines()
    assert lines == ["This week we begin anew.", "objective is clear!"]


def test_profiles_are_sentences_without_their_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "europe").mkdir()
    profile = {"a": {"text": "It <b>is</b> small &amp; green.<br />In 1950 it grew."}}
    for name in ("gm", "fr"):  # what both have is there once
        path = tmp_path / "europe" / f"{name}.json"
        path.write_text(json.dumps([profile, {"area": "12,345 sq km"}]))

    assert run(monkeypatch, "factbook", tmp_path, tmp_path / "text.txt") == 0

    lines = (tmp_path / "text.txt").read_text().splitlines()
    assert lines == ["It is small & green.", "In 1950 it grew."]


def test_sentences_of_a_test_set_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, texts in (
        ("train", ["GO ON", "GO ON NOW", "SO A B C D E F G", "A B C D E F G H I"]),
        ("test", ["GO ON", "O A B C D E F G H P"]),
    ):
        write_manifest(
            tmp_path / f"{name}.jsonl",
            [Utterance(f"{i}", "a.wav", 1.0, text) for i, text in enumerate(texts)],
        )

    command = ("manifest", tmp_path / "train.jsonl", tmp_path / "text.txt")
    assert run(monkeypatch, *command, "--without", tmp_path / "test.jsonl") == 0

    lines = (tmp_path / "text.txt").read_text().splitlines()
    assert lines == ["GO ON NOW", "SO A B C D E F G"]
    assert "2 left out that are tested on" in capsys.readouterr().out


def test_a_folder_with_nothing_of_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "wordnet", tmp_path, tmp_path / "text.txt") == 1

    assert f"{tmp_path}: holds nothing of wordnet" in capsys.readouterr().err
    assert not (tmp_path / "text.txt").exists()


def test_a_profile_that_is_no_json_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "europe").mkdir()
    (tmp_path / "europe" / "gm.json").write_text("{")

    assert run(monkeypatch, "factbook", tmp_path, tmp_path / "text.txt") == 1

    assert f"{tmp_path}: cannot be read" in capsys.readouterr().err
