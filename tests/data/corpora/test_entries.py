from pathlib import Path

import pytest

from asr.data.corpora import json_lines, tables
from asr.data.corpora.entries import Columns, id_of


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("utt.1", "utt.1"),
        ("utt.1.FLAC", "utt.1"),
        ("dr. smith/take.2.wav", "dr._smith-take.2"),
        ("sw.02001/a", "sw.02001-a"),
    ],
)
def test_only_the_ending_of_audio_is_cut_off_an_id(name: str, id: str) -> None:
    assert id_of(Path("corpus", name), Path("corpus")) == id


def test_names_with_a_dot_and_no_ending_keep_an_id_each(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"utt.{number}.wav").touch()
    (tmp_path / "t.csv").write_text("audio,text\nutt.1,go\nutt.2,on\n")
    lines = [f'{{"audio_filepath": "utt.{n}", "text": "go"}}\n' for n in (1, 2)]
    (tmp_path / "m.json").write_text("".join(lines))

    ((table,), _) = tables.read(tmp_path / "t.csv", Columns())
    (nemo,) = json_lines.read_nemo(tmp_path / "m.json")

    for subset in (table, nemo):
        assert [entry.id for entry in subset.entries] == ["utt.1", "utt.2"]
