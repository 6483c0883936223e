"""The test that nothing is English by accident: German, by the command line alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from asr.alphabet import read_alphabet
from asr.data.manifest import read_manifest
from recipes.german.speak import main, sentences

RECIPE = Path(__file__).parents[2] / "recipes" / "german"


def test_sentences_are_made_up_once_each() -> None:
    import random

    made = [s for s, _ in zip(sentences(random.Random(1)), range(300), strict=False)]

    assert len(set(made)) == 300
    assert {"ä", "ö", "ü", "ß", "Ä", "Ü", ",", "?", "!"} <= set("".join(made))


def test_a_voice_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)

    assert main([str(tmp_path / "out")]) == 1

    assert capsys.readouterr().err == (
        "speak: espeak-ng is missing (pip install espeakng-loader)\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_german_is_learned_from_nothing(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    environment = os.environ | {
        "PYTHON": sys.executable,
        "PYTHONPATH": str(RECIPE.parents[1]),
    }

    done = subprocess.run(
        [str(RECIPE / "run.sh")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    found = re.search(r"%CER (\S+) ", done.stdout)
    assert found
    assert float(found[1]) < 20
    data = tmp_path / "exp" / "german" / "data"
    assert set("äöüßÄÜ.,?!") < set(read_alphabet(data / "alphabet.txt"))
    texts = [{u.text for u in read_manifest(data / f"{n}.jsonl")}
             for n in ("train", "dev", "test")]  # fmt: skip
    assert not texts[0] & (texts[1] | texts[2])
    written = (tmp_path / "exp" / "german" / "decoded" / "hypotheses.jsonl").read_text()
    assert set("äöüß") < set(written)
