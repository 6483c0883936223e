from pathlib import Path

import pytest

from asr.data.manifest import Utterance, write_manifest
from recipes.pseudo_labels.quality import main

Capture = pytest.CaptureFixture[str]


def test_a_row_a_threshold_says_how_good_the_labels_are(
    tmp_path: Path, capsys: Capture
) -> None:
    labels, references = tmp_path / "labels.jsonl", tmp_path / "references.jsonl"
    said = {"a": "GO ON", "b": "THE CAT SAT", "c": "NOBODY KNOWS WHY IT IS"}
    write_manifest(
        references, [Utterance(id, f"{id}.wav", 9.0, text) for id, text in said.items()]
    )
    parts = [
        Utterance("a-1", "a.wav", 1.0, "GO", start=0.0),
        Utterance("a-2", "a.wav", 1.0, "ON", start=2.0),
        Utterance("b-1", "b.wav", 1.0, "THE CAD SAT", start=0.0),
    ]
    sure = {"a-1": 0.97, "a-2": 0.92, "b-1": 0.62}
    write_manifest(labels, parts, {id: {"confidence": x} for id, x in sure.items()})

    assert main([str(labels), str(references)]) == 0

    rows = {row[:4]: row for row in capsys.readouterr().out.splitlines()}
    assert rows["0.00"].split()[1:3] == ["2", "50.0"]  # 5 of 10 words, nothing of c
    assert "%WER 20.00 [ 1 / 5" in rows["0.60"]
    assert "%WER 0.00 [ 0 / 2" in rows["0.90"]  # as sure as its least sure part
    assert rows["0.95"].split()[1] == "0"


def test_labels_without_confidence_are_refused(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "labels.jsonl"
    write_manifest(path, [Utterance("a", "a.wav", 1.0, "GO")])

    assert main([str(path), str(path)]) == 1

    assert "labels.jsonl:1: has no confidence" in capsys.readouterr().err
