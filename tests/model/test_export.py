import json
from pathlib import Path

import pytest
import torch

from asr.config import Config, DataConfig, to_yaml
from asr.errors import AsrWarning, CheckpointError
from asr.features import AugmentConfig
from asr.model.export import RUN_SETTINGS, export
from asr.model.storage import (
    CARD,
    DESCRIPTION,
    WEIGHTS,
    Model,
    add_further,
    find_model,
    load_model,
    read_further,
    save_model,
)
from asr.runs.claim import CONFIG
from asr.tokenizers import SUBWORDS
from asr.training.config import TrainingConfig

METADATA = {"step": 7, "minutes": 90.0, "dev/wer": 0.4567, "dev/cer": 0.2}


@pytest.fixture
def run(model: Model, tmp_path: Path) -> Path:
    """A run with a model."""
    save_model(tmp_path / "run" / "model", model.las, model.tokenizer, METADATA)
    (tmp_path / "run" / RUN_SETTINGS).write_text("training:\n  seed: 1\n")
    return tmp_path / "run"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_becomes_a_model_of_half_size_with_a_card(
    model: Model, run: Path, tmp_path: Path
) -> None:
    exported = export(run, tmp_path / "a" / "mine")

    assert exported.folder == tmp_path / "a" / "mine"
    assert exported.card == "fill in its MODEL_CARD.md"
    assert names(exported.folder) == {WEIGHTS, DESCRIPTION, CARD}
    assert names(tmp_path / "a") == {"mine"}
    loaded = load_model(exported.folder)
    assert loaded.metadata == METADATA
    for name, weight in model.las.state_dict().items():
        assert torch.equal(loaded.las.state_dict()[name], weight.half().float()), name


def test_a_vocabulary_of_subwords_goes_with_its_model(
    subword_model: Model, tmp_path: Path
) -> None:
    save_model(tmp_path / "run" / "model", *subword_model)

    exported = export(tmp_path / "run", tmp_path / "mine")
    export(exported.folder, exported.folder)  # over itself

    assert names(exported.folder) == {WEIGHTS, DESCRIPTION, CARD, SUBWORDS}
    assert load_model(exported.folder).tokenizer == subword_model.tokenizer


def test_the_card_has_what_is_known_and_what_is_open(run: Path, tmp_path: Path) -> None:
    card = (export(run, tmp_path / "mine").folder / CARD).read_text()

    assert card.startswith("# mine\n")
    assert "| Training | 7 updates, 1.5 hours |" in card
    assert "| Dev | WER 45.7%, CER 20.0% (greedy) |" in card
    assert "| Licence | TO BE FILLED IN" in card
    assert "```yaml\ntraining:\n  seed: 1\n```" in card


def test_a_model_of_unknown_origin_has_unknown_on_its_card(
    model: Model, tmp_path: Path
) -> None:
    save_model(tmp_path / "from", model.las, model.tokenizer, {})

    card = (export(tmp_path / "from", tmp_path / "mine").folder / CARD).read_text()

    assert "| Training | unknown |\n| Dev | unknown |" in card


def test_the_card_does_not_show_where_the_data_were(run: Path, tmp_path: Path) -> None:
    long = "/home/me/" + "a folder with spaces/" * 6
    config = Config(
        data=DataConfig(["/home/me/a.jsonl", f"{long}b.jsonl"], "~/me/c.jsonl"),
        augment=AugmentConfig([1.0]),
        training=TrainingConfig(start="C:\\Users\\me\\base"),
    )
    text = to_yaml(config)
    assert "spaces/a folder\n" in text  # is folded
    (run / RUN_SETTINGS).write_text(text)

    card = (export(run, tmp_path / "mine").folder / CARD).read_text()

    for word in ("home", "me/", "Users", "spaces"):
        assert word not in card
    for word in ("  - a.jsonl\n", "  - b.jsonl\n", "dev: c.jsonl\n", "start: base\n"):
        assert word in card


def test_the_note_names_where_the_card_is_from(run: Path, tmp_path: Path) -> None:
    (run / "model" / CARD).write_text("of the model")

    exported = export(run, tmp_path / "mine")

    assert exported.card == f"{CARD} is that of {run / 'model'}"


def test_settings_by_hand_go_along_and_old_ones_do_not_stay(
    run: Path, tmp_path: Path
) -> None:
    (run / "model" / "decoding.json").write_text("{}")
    with pytest.warns(AsrWarning, match=r"decoding\.json: is not the file that"):
        folder = export(run, tmp_path / "mine").folder
    assert read_further(folder, "decoding.json") == b"{}"

    (run / "model" / "decoding.json").unlink()
    export(run, folder)
    assert read_further(folder, "decoding.json") is None


def test_what_a_killed_export_left_is_not_in_the_way(run: Path, tmp_path: Path) -> None:
    folder = export(run, tmp_path / "mine").folder
    (folder / ".model.safetensors.0123456789abcdef.next").write_bytes(b"half")

    export(run, folder)

    assert names(folder) == {WEIGHTS, DESCRIPTION, CARD}


def test_a_card_that_is_there_goes_along(run: Path, tmp_path: Path) -> None:
    (run / CARD).write_text("of the run")
    folder = export(run, tmp_path / "mine").folder
    assert (folder / CARD).read_text() == "of the run"

    (run / "model" / CARD).write_text("of the model")
    export(run, folder)
    assert (folder / CARD).read_text() == "of the model"


def test_a_card_written_by_hand_is_kept_when_another_model_comes(
    run: Path, tmp_path: Path
) -> None:
    folder = export(run, tmp_path / "mine").folder
    (folder / CARD).write_text("by hand")

    exported = export(run, folder)

    assert (folder / CARD).read_text() == "by hand"
    assert exported.card.startswith("kept its MODEL_CARD.md")


def test_a_model_is_brought_up_to_date_in_its_place(run: Path, tmp_path: Path) -> None:
    folder = export(run, tmp_path / "mine").folder
    weights = (folder / WEIGHTS).read_bytes()
    description = json.loads((folder / DESCRIPTION).read_text())
    del description["files"]
    (folder / DESCRIPTION).write_text(json.dumps({**description, "format": 1}))
    (folder / CARD).write_text("by hand")

    export(folder, folder)

    assert (folder / WEIGHTS).read_bytes() == weights
    assert json.loads((folder / DESCRIPTION).read_text())["files"].keys() == {WEIGHTS}
    assert (folder / CARD).read_text() == "by hand"


def test_the_bundled_model_stays_as_it_is_to_the_bit(tmp_path: Path) -> None:
    bundled = find_model(None)

    folder = export("las_mini", tmp_path / "las_mini", "int8").folder

    for name in (WEIGHTS, DESCRIPTION, CARD):
        assert (folder / name).read_bytes() == (bundled / name).read_bytes(), name


def test_files_that_belong_to_the_model_go_along_and_others_do_not(
    run: Path, tmp_path: Path
) -> None:
    add_further(run / "model", "confidence.json", b"[1]")
    (run / "model" / "notes.txt").write_text("not of the model")

    folder = export(run, tmp_path / "mine").folder
    export(folder, folder)

    assert read_further(folder, "confidence.json") == b"[1]"
    assert not (folder / "notes.txt").exists()


# Weights as bytes


def test_a_model_in_bytes_is_smaller_and_stays_as_it_is_to_the_bit(
    run: Path, tmp_path: Path
) -> None:
    add_further(run / "model", "confidence.json", b"[1]")
    half = export(run, tmp_path / "half").folder

    folder = export(run, tmp_path / "mine", "int8").folder
    again = export(folder, tmp_path / "again", "int8").folder

    sizes = [(path / WEIGHTS).stat().st_size for path in (folder, half)]
    assert sizes[0] < 0.75 * sizes[1]  # much of so small a network is no large matrix
    assert names(again) == names(folder) == {*names(half)}
    for name in names(folder):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name
    assert "parameters, int8 |" in (folder / CARD).read_text()


def test_a_model_in_bytes_becomes_float16_again(run: Path, tmp_path: Path) -> None:
    folder = export(run, tmp_path / "mine", "int8").folder
    expected = load_model(folder).las.state_dict()

    exported = export(folder, folder)

    assert json.loads((folder / DESCRIPTION).read_text())["format"] == 3
    for name, weight in load_model(folder).las.state_dict().items():
        assert torch.equal(weight, expected[name].half().float()), name
    assert exported.card.endswith("(correct it: the weights are float16 now)")


def test_a_vocabulary_goes_with_a_model_in_bytes(
    subword_model: Model, tmp_path: Path
) -> None:
    save_model(tmp_path / "run" / "model", *subword_model)

    folder = export(tmp_path / "run", tmp_path / "mine", "int8").folder

    assert names(folder) == {WEIGHTS, DESCRIPTION, CARD, SUBWORDS}
    assert load_model(folder).tokenizer == subword_model.tokenizer


# What is not replaced


def test_an_empty_folder_and_a_damaged_model_are_replaced(
    run: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    folder = export(run, tmp_path / "mine").folder
    (folder / DESCRIPTION).write_text("{")

    export(run, folder)

    assert load_model(folder).metadata == METADATA


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        (["thesis.txt"], "holds other things than a model"),
        ([DESCRIPTION, "thesis.txt"], "holds thesis.txt, too, which is no part of a"),
        ([DESCRIPTION, "photos/"], "holds photos, too, which is no part of a model"),
        ([DESCRIPTION, f"{WEIGHTS}/"], f"holds {WEIGHTS}, too, which is no part"),
    ],
)
def test_a_folder_with_other_things_is_not_replaced(
    run: Path, tmp_path: Path, inside: list[str], message: str
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in inside:
        path = folder / name
        path.mkdir() if name.endswith("/") else path.write_text("{}")
    before = names(folder)

    with pytest.raises(CheckpointError, match=f"{folder}: {message}"):
        export(run, folder)

    assert names(folder) == before
    assert names(tmp_path) == {"run", "mine"}


def test_a_description_from_elsewhere_has_no_file_outside_removed(
    run: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    folder = tmp_path / "foreign"
    folder.mkdir()
    about: dict[str, object] = {"files": {"../precious.txt": {}, str(precious): {}}}
    (folder / DESCRIPTION).write_text(json.dumps(about))

    export(run, folder)

    assert precious.read_text() == "mine"


def test_a_file_is_not_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("a file")

    with pytest.raises(CheckpointError, match=r"mine: cannot be replaced \(Not a dir"):
        export(run, tmp_path / "mine")


def test_a_model_that_does_not_load_takes_no_place(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(run, tmp_path / "mine").folder
    before = (folder / DESCRIPTION).read_bytes()

    def half_written(path: Path, *_: object, **__: object) -> None:
        path.mkdir()
        (path / DESCRIPTION).write_text("{")

    monkeypatch.setattr("asr.model.export.write_model", half_written)
    with pytest.raises(CheckpointError, match="does not describe a model"):
        export(run, folder)

    assert (folder / DESCRIPTION).read_bytes() == before
    assert names(tmp_path) == {"run", "mine"}


def test_the_old_model_comes_back_when_the_new_one_cannot_take_its_place(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(run, tmp_path / "mine").folder
    replace = Path.replace

    def fails(path: Path, target: Path) -> Path:
        if target == folder / DESCRIPTION:
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(CheckpointError, match=r"cannot be written \(No space left"):
        export(run, folder)

    assert load_model(folder).metadata == METADATA
    assert names(tmp_path) == {"run", "mine"}


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
def test_what_is_elsewhere_is_not_packed(run: Path, tmp_path: Path, name: str) -> None:
    path = run / "model" / name
    if name == CARD:
        path.write_text("card")
    path.replace(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")

    with pytest.raises(CheckpointError, match=f"{path}: is a link that leads out"):
        export(run, tmp_path / "mine")


def test_a_card_that_is_no_text_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "model" / CARD).write_bytes(b"\xff")

    with pytest.raises(CheckpointError, match=f"{CARD}: cannot be read"):
        export(run, tmp_path / "mine")


def test_the_name_of_a_runs_settings_is_that_of_train() -> None:
    assert RUN_SETTINGS == CONFIG
