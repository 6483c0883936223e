from pathlib import Path

import pytest
import torch

from asr.cli.scripts import run_main
from asr.model.storage import load_model, save_model
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
