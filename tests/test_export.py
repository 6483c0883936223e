from pathlib import Path

import pytest
import torch

from asr.errors import CheckpointError
from asr.model.export import export_model
from asr.model.folder import CALIBRATION, CARD, WEIGHTS, Model, load_model, seal


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_copy_has_half_the_size_and_says_the_same(
    model_folder: Path, tmp_path: Path
) -> None:
    export_model(model_folder, tmp_path / "deep" / "copy")

    copy, model = load_model(tmp_path / "deep" / "copy"), load_model(model_folder)
    assert copy.facts == model.facts
    for name, weights in model.las.state_dict().items():
        torch.testing.assert_close(
            copy.las.state_dict()[name], weights.half().float(), rtol=0, atol=0
        )
    sizes = [
        (f / WEIGHTS).stat().st_size for f in (tmp_path / "deep/copy", model_folder)
    ]
    assert sizes[0] < 0.6 * sizes[1]


def test_a_copy_of_a_copy_is_the_same(model_folder: Path, tmp_path: Path) -> None:
    export_model(model_folder, tmp_path / "copy")
    before = files(tmp_path / "copy")

    export_model(tmp_path / "copy", tmp_path / "copy")

    assert files(tmp_path / "copy") == before
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "model"}


def test_calibration_and_card_come_along(model_folder: Path, tmp_path: Path) -> None:
    (model_folder / CALIBRATION).write_text("{}")
    (model_folder / CARD).write_text("# Mine")
    seal(model_folder)

    export_model(model_folder, tmp_path / "copy")

    load_model(tmp_path / "copy")
    assert (tmp_path / "copy" / CALIBRATION).read_text() == "{}"
    assert (tmp_path / "copy" / CARD).read_text() == "# Mine"


def test_a_model_without_a_card_gets_one_to_be_filled_in(
    model_folder: Path, model: Model, tmp_path: Path
) -> None:
    run = tmp_path / "my-run"
    run.mkdir()
    model_folder.rename(run / "model")

    export_model(run / "model", tmp_path / "copy")

    card = (tmp_path / "copy" / CARD).read_text(encoding="utf-8")
    assert card.startswith("# my-run\n")
    assert '"step": 7' in card
    assert "To be filled in" in card


@pytest.mark.parametrize("content", ["a file", "a folder with something"])
def test_what_is_no_model_is_not_replaced(
    content: str, model_folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "precious"
    if content == "a file":
        target.write_text("x")
    else:
        target.mkdir()
        (target / "thesis.txt").write_text("x")

    with pytest.raises(CheckpointError, match="precious: holds something that is no"):
        export_model(model_folder, target)

    assert target.is_file() or (target / "thesis.txt").read_text() == "x"


def test_an_empty_folder_is_filled(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()

    export_model(model_folder, tmp_path / "copy")

    load_model(tmp_path / "copy")


def test_a_copy_that_fails_leaves_what_was_there(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_model(model_folder, tmp_path / "copy")
    before = files(tmp_path / "copy")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("asr.model.export._write", full)
    with pytest.raises(CheckpointError, match=r"cannot be written \(No space left"):
        export_model(model_folder, tmp_path / "copy")

    assert files(tmp_path / "copy") == before
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "model"}


def test_an_altered_model_is_not_copied(model_folder: Path, tmp_path: Path) -> None:
    with (model_folder / WEIGHTS).open("ab") as file:
        file.write(b"x")

    with pytest.raises(CheckpointError, match="altered"):
        export_model(model_folder, tmp_path / "copy")

    assert not (tmp_path / "copy").exists()
