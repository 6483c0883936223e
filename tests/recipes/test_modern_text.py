"""Modern English for language models, out of packages that carry it."""

import bz2
import gzip
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


def written(monkeypatch: pytest.MonkeyPatch, source: str, folder: Path) -> list[str]:
    path = folder / "text.txt"
    assert run(monkeypatch, source, folder, path) == 0
    return path.read_text().splitlines()


def test_summaries_are_without_what_is_in_brackets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = (
        "Bonn (Latin: Bonna (old)) is a city on the Rhine\u2014in Germany. "
        "It was built by J. S. Bach and Dr. Who. It was built by J. S. Bach and Dr. "
        "Who.\nx = {1, 2} holds. 1990\u20131991 were cold"
    )
    content = json.dumps({"Bonn": {"title": "Bonn", "extract": extract}})
    (tmp_path / "summaries_en-us.json").write_text(content)

    assert written(monkeypatch, "summaries", tmp_path) == [
        "Bonn is a city on the Rhine, in Germany.",
        "It was built by J. S. Bach and Dr. Who.",
    ]


def test_articles_are_without_their_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mwparserfromhell")
    article = (
        "[[File:A.png|thumb|A picture]]'''Bonn''' is a [[city|large town]].{{cn}} "
        "It&lt;ref&gt;A note.&lt;/ref&gt; lies on the Rhine.\n"
        "{| class=x\n| a table\n|}\n== History ==\nIt is old. [[Category:Cities]]"
    )
    pages = "".join(
        f"<page><text>{text}</text></page>"
        for text in (article, "#REDIRECT [[Bonn am Rhein]]")
    )
    dump = f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{pages}'
    (tmp_path / "enwiki-x-pages-articles1.bz2").write_bytes(
        bz2.compress(f"{dump}</mediawiki>".encode())
    )

    assert written(monkeypatch, "wikipedia", tmp_path) == [
        "Bonn is a large town.",
        "It lies on the Rhine.",
        "It is old.",
    ]


def test_english_is_taken_of_sentences_in_many_languages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ["1\tね\tLet's go home!\tLos!", "2\tね\t-\tNein."]
    rows.append("3\tね\tLet's go home.\t-")
    (tmp_path / "SENTENCES").write_text("\n".join(rows))

    assert written(monkeypatch, "tatoeba", tmp_path) == ["Let's go home!"]


def test_a_dictionary_is_without_its_remarks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = "bug\n\n   <programming> (Not a beetle) An {error}\n   in a program.\n"
    (tmp_path / "foldoc.dict.dz").write_bytes(gzip.compress(entry.encode()))

    assert written(monkeypatch, "foldoc", tmp_path) == ["An error in a program."]


def test_large_places_are_named_more_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cities = {
        number: {
            "name": name,
            "countrycode": country,
            "admin1code": state,
            "population": population,
        }
        for number, (name, country, state, population) in enumerate(
            [("Bonn", "DE", "07", 300_000), ("Ames", "US", "IA", 66_000)]
        )
    }
    for name, content in (
        ("cities15000", cities),
        ("countries", {"DE": {"name": "Germany"}, "US": {"name": "United States"}}),
        ("us_states", {"IA": {"name": "Iowa"}}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))

    assert written(monkeypatch, "places", tmp_path) == [
        "Bonn, Germany",
        "Bonn, Germany",
        "Ames, Iowa",
    ]


@pytest.mark.parametrize(
    "source", ["summaries", "wikipedia", "tatoeba", "foldoc", "places"]
)
def test_a_folder_without_the_files_is_refused(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, source, tmp_path, tmp_path / "text.txt") == 1
    assert not (tmp_path / "text.txt").exists()


@pytest.mark.parametrize(
    ("source", "name", "content"),
    [
        ("summaries", "summaries_en-us.json", b"[1]"),
        ("summaries", "summaries_en-us.json", b'{"Bonn": {}}'),
        ("wikipedia", "enwiki-x-pages-articles1.bz2", bz2.compress(b"<page><text>")),
        ("tatoeba", "SENTENCES", b"1\tonly"),
        ("foldoc", "foldoc.dict.dz", gzip.compress(b"bug" * 99, mtime=0)[:-9]),
        ("places", "cities15000.json", b"{}"),
    ],
)
def test_a_file_with_something_else_is_refused_in_one_line(
    source: str,
    name: str,
    content: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / name).write_bytes(content)

    assert run(monkeypatch, source, tmp_path, tmp_path / "text.txt") == 1

    assert f"{tmp_path}: cannot be read" in capsys.readouterr().err
