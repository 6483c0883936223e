from pathlib import Path

import pytest
import torch

from asr.cli.scripts import run_main
from asr.model.las import LAS
from asr.model.storage import load_model, save_model
from asr.text import ALPHABET, CharTokenizer
from asr.training.growth import grow
from asr.training.token_rows import match_tokens
from recipes.librispeech.interpolate import main


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["interpolate.py", *words])
    return run_main("interpolate", main)


def test_a_model_between_two_is_written(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "between"

    assert run(monkeypatch, str(model_folder), str(model_folder), str(folder)) == 0

    found, same = load_model(folder).las, load_model(model_folder).las
    for name, weight in found.state_dict().items():
        torch.testing.assert_close(weight, same.state_dict()[name])
    assert load_model(folder).metadata["share of the training"] == 0.8


def test_of_several_ends_the_mean_is_taken(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = load_model(model_folder)
    for weight in same.las.parameters():
        weight.detach().add_(1.0)
    save_model(tmp_path / "other", same.las, same.tokenizer, {})
    ends = [str(model_folder), str(tmp_path / "other")]

    assert run(monkeypatch, ends[0], *ends, str(tmp_path / "mean"), "--share", "1") == 0

    assert load_model(tmp_path / "mean").metadata == {
        **{"mean of trainings": 2, "share of the training": 1.0},
    }
    found, start = load_model(tmp_path / "mean").las, load_model(model_folder).las
    for weight, before in zip(found.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(weight, before + 0.5)


def write_with(characters: str, folder: Path, before: Path) -> LAS:
    """Write a model of another alphabet that starts from one; return its network."""
    old, tokenizer = load_model(before), CharTokenizer(characters)
    torch.manual_seed(7)
    las = LAS(old.las.config, tokenizer.size)
    grow(las, old.las, match_tokens(old.tokenizer, tokenizer).rows)
    save_model(folder, las, tokenizer, {})
    return las


def test_the_rows_of_another_alphabet_are_those_of_its_characters(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many characters as before, and each in another place."""
    trained, between = tmp_path / "trained", tmp_path / "between"
    las = write_with(f"{ALPHABET[1:]}Ä", trained, model_folder)

    paths = [str(model_folder), str(trained), str(between)]
    assert run(monkeypatch, *paths, "--seed", "7") == 0

    for found, same in zip(
        load_model(between).las.parameters(), las.parameters(), strict=True
    ):
        torch.testing.assert_close(found, same)


@pytest.mark.parametrize(
    ("options", "status"), [((), 0), (("--seed", "7"), 0), (("--seed", "8"), 1)]
)
def test_the_seed_is_that_of_the_run(
    options: tuple[str, ...],
    status: int,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Training draws what is new: a token here."""
    write_with(f"{ALPHABET}Ω", tmp_path / "run" / "model", model_folder)
    settings = "data: {train: [train.jsonl], dev: dev.jsonl}\ntraining: {seed: 7}\n"
    (tmp_path / "run" / "config.yaml").write_text(settings, encoding="utf-8")
    paths = [str(model_folder), str(tmp_path / "run"), str(tmp_path / "between")]

    assert run(monkeypatch, *paths, *options) == status

    refusal = f"{paths[1]}: did not come of {paths[0]} (seed 8 drew other units or"
    assert (refusal in capsys.readouterr().err) == bool(status)


def test_trainings_of_different_alphabets_have_no_mean(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start, other = str(model_folder), tmp_path / "other"
    write_with(ALPHABET[::-1], other, model_folder)

    assert run(monkeypatch, start, start, str(other), str(tmp_path / "mean")) == 1

    assert "(they write different tokens)" in capsys.readouterr().err


@pytest.mark.parametrize("kept", ["model.json", "model", "checkpoint.safetensors"])
def test_a_forgotten_folder_costs_no_model(
    kept: str,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run-2"
    folder.mkdir()
    (folder / kept).touch()

    assert run(monkeypatch, *[str(model_folder)] * 2, str(folder)) == 1

    assert f"{folder}: holds a model or a run (the last" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == [kept]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("MODEL", "MODEL", "out", "--share", "2"), "--share: is from 0 to 1, not 2.0"),
        (("las_mini", "MODEL", "out"), "did not come of las_mini"),
        (("MODEL", "MODEL", "las_mini", "out"), "(they are different networks)"),
        (("nowhere", "MODEL", "out"), "nowhere: holds no model"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: tuple[str, ...],
    message: str,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(model_folder) if word == "MODEL" else word for word in words]

    assert run(monkeypatch, *given) == 1

    assert message in capsys.readouterr().err
