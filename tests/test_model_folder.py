import contextlib
import json
import os
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.errors import CheckpointError
from asr.features import NUM_MELS
from asr.model.attention import AttentionConfig
from asr.model.folder import (
    CALIBRATION,
    DESCRIPTION,
    FORMAT,
    WEIGHTS,
    las_config,
    load_model,
    save_model,
    seal,
)
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.tensor_files import read_tensors, write_tensors
from asr.text import CharTokenizer
from tests.sounds import damaged

TOKENIZER = CharTokenizer(" ABC")
FACTS = {"step": 7, "wer": {"dev-clean": 0.051}, "from": "tests\u2028é"}
CONFIG = LASConfig(
    ListenerConfig(size=3, reductions=[2, 1], dropout=0.1),
    AttentionConfig("location", size=4, filters=2, reach=1),
    SpellerConfig(size=5, layers=2, embedding_size=3),
)
Tree = dict[str, Any]


def network() -> LAS:
    las = LAS(CONFIG, TOKENIZER.size)
    las.norm.measure([2 * torch.randn(30, NUM_MELS) + 1])
    return las


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder as it should be."""
    save_model(tmp_path / "model", network(), TOKENIZER, FACTS)
    return tmp_path / "model"


def logits_of(las: LAS) -> Tensor:
    torch.manual_seed(1)
    features, inputs = torch.randn(2, 9, NUM_MELS), torch.randint(7, (2, 4))
    logits: Tensor = las.eval()(features, torch.tensor([9, 6]), inputs)[0].logits
    return logits


def alter(folder: Path, change: Callable[[Tree], object]) -> None:
    """Change the description of a model."""
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    change(description)
    (folder / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")


def put(key: str, value: object) -> Callable[[Tree], object]:
    """Return a change that sets a.b to a value."""

    def change(tree: Tree) -> None:
        *parts, last = key.split(".")
        for part in parts:
            tree = tree[part]
        tree[last] = value

    return change


def refuses(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


# Round trip


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    las = network()

    save_model(tmp_path / "a" / "model", las, TOKENIZER, FACTS)
    model = load_model(tmp_path / "a" / "model")

    assert model.las.config == CONFIG
    assert model.tokenizer == TOKENIZER
    assert model.facts == FACTS
    assert not model.las.training
    for name, weight in las.state_dict().items():
        assert torch.equal(model.las.state_dict()[name], weight), name
    assert torch.equal(logits_of(model.las), logits_of(las))


def test_a_model_of_half_size_comes_back_nearly_as_it_was(tmp_path: Path) -> None:
    las = network()

    save_model(tmp_path / "half", las, TOKENIZER, FACTS, half=True)
    save_model(tmp_path / "whole", las, TOKENIZER, FACTS)
    model = load_model(tmp_path / "half")

    stored, _ = read_tensors(tmp_path / "half" / WEIGHTS)
    assert {weight.dtype for weight in stored.values()} == {torch.float16}
    half, whole = (
        (tmp_path / name / WEIGHTS).stat().st_size for name in ("half", "whole")
    )
    assert half < 0.65 * whole
    assert {p.dtype for p in model.las.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(logits_of(model.las), logits_of(las), atol=0.01, rtol=0)


def test_other_weights_can_be_written_in_place_of_the_networks(tmp_path: Path) -> None:
    las, other = network(), network()

    save_model(tmp_path, las, TOKENIZER, FACTS, weights=other.state_dict())

    assert torch.equal(logits_of(load_model(tmp_path).las), logits_of(other))


def test_a_model_is_written_over_an_older_one(folder: Path) -> None:
    las = network()

    save_model(folder, las, TOKENIZER, {"step": 8})

    assert load_model(folder).facts == {"step": 8}
    assert torch.equal(logits_of(load_model(folder).las), logits_of(las))
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, DESCRIPTION}


def test_the_network_in_training_is_left_as_it_was(tmp_path: Path) -> None:
    las = network().train()
    before = {name: weight.clone() for name, weight in las.state_dict().items()}

    save_model(tmp_path, las, TOKENIZER, FACTS, half=True)

    assert las.training
    for name, weight in las.state_dict().items():
        assert torch.equal(weight, before[name])


def test_a_description_written_by_hand_is_read(folder: Path) -> None:
    change = put("facts", {"from": "Zürich"})
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    change(description)
    text = json.dumps(description, ensure_ascii=False)
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")

    assert load_model(folder).facts == {"from": "Zürich"}


def test_settings_come_back_out_of_a_tree() -> None:
    tree = {
        "listener": {"size": 3, "reductions": [2, 1], "dropout": 0.1},
        "attention": {"size": 4, "filters": 2, "reach": 1},  # the rest as by default
        "speller": {"size": 5, "layers": 2, "embedding_size": 3},
    }

    assert las_config(tree) == CONFIG


# Missing, damaged, altered


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    message = "holds no model (model.json cannot be read: No such file or directory)"
    refuses(tmp_path, re.escape(f"{tmp_path}: {message}"))


def test_missing_weights_are_told(folder: Path) -> None:
    (folder / WEIGHTS).unlink()

    refuses(folder, re.escape(f"{folder / WEIGHTS}: cannot be read"))


@pytest.mark.parametrize("length", [0, 5, 200, -1])
def test_damaged_weights_are_told(folder: Path, length: int) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:length])

    refuses(
        folder, re.escape(f"{folder / WEIGHTS}: is not the file that the model was")
    )
    seal(folder)
    refuses(folder, re.escape(f"{folder / WEIGHTS}: is damaged"))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b'"text"', b"null", b"[1, 2]", b"{}", b"\xff\xfe\x00"],
)
def test_what_is_no_description_is_refused(folder: Path, content: bytes) -> None:
    (folder / DESCRIPTION).write_bytes(content)

    refuses(folder, re.escape(f"{folder / DESCRIPTION}: does not describe a model"))


@pytest.mark.parametrize("key", ["las", "tokenizer", "facts"])
def test_a_description_without_one_of_its_parts_is_refused(
    folder: Path, key: str
) -> None:
    alter(folder, lambda tree: tree.pop(key))

    refuses(folder, rf"model\.json: does not describe a model \('{key}'\)")


@pytest.mark.parametrize("part", ["listener", "attention", "speller"])
def test_a_network_without_one_of_its_parts_is_refused(folder: Path, part: str) -> None:
    alter(folder, lambda tree: tree["las"].pop(part))

    refuses(folder, rf"model\.json: does not describe a model \('{part}'\)")


def test_a_description_without_a_format_is_refused(folder: Path) -> None:
    alter(folder, lambda tree: tree.pop("format"))

    refuses(folder, r"model\.json: does not describe a model \(it has no format\)")


@pytest.mark.parametrize("number", [0, FORMAT + 1, "1", None])
def test_a_model_of_another_format_is_refused(folder: Path, number: object) -> None:
    alter(folder, put("format", number))

    refuses(
        folder,
        rf"model\.json: is a model of format {number}, this version reads format 2",
    )


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("las", [], "list indices"),
        ("las.listener", None, "mapping, not NoneType"),
        ("las.listener.deepness", 3, "unexpected keyword argument 'deepness'"),
        ("las.listener.size", 0, r"listener\.size must be at least 1, not 0"),
        ("las.listener.size", "big", "not supported between"),
        ("las.listener.reductions", [], r"listener\.reductions must be numbers"),
        ("las.attention.kind", "hard", r"attention\.kind must be one of"),
        ("las.speller.dropout", 2, r"speller\.dropout is a share"),
        ("facts", "text", ""),
        ("facts", 3, "not iterable"),
    ],
)
def test_an_altered_setting_is_refused(
    folder: Path, key: str, value: object, reason: str
) -> None:
    alter(folder, put(key, value))

    refuses(folder, rf"model\.json: does not describe a model \(.*{reason}")


@pytest.mark.parametrize(
    ("key", "value"),
    [("las.listener.size", 2.5), ("las.speller.layers", 1.5)],
)
def test_sizes_that_are_no_whole_numbers_are_refused(
    folder: Path, key: str, value: object
) -> None:
    alter(folder, put(key, value))

    refuses(folder, r"model\.json: does not describe a model")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"kind": "words"}, "tokenizer: is of no known kind"),
        ({"kind": "characters"}, "tokenizer: has no characters"),
        ({"kind": "characters", "characters": "AA"}, "tokenizer: a character is there"),
        ([], "tokenizer: is of no known kind"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(
    folder: Path, entries: object, message: str
) -> None:
    alter(folder, put("tokenizer", entries))

    refuses(folder, message)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("las.listener.size", 4),
        ("las.listener.reductions", [2, 2]),
        ("las.attention.kind", "dot"),
        ("las.attention.reach", 2),
        ("las.speller.layers", 1),
        ("tokenizer.characters", "ABCDEF"),
    ],
)
def test_weights_of_another_network_are_refused(
    folder: Path, key: str, value: object
) -> None:
    alter(folder, put(key, value))

    place = re.escape(f"{folder / WEIGHTS}: does not fit model.json (")
    refuses(folder, place + r"Error\(s\) in loading state_dict for LAS:\)$")


@pytest.mark.parametrize("change", ["one is missing", "one is too many"])
def test_weights_must_be_all_and_no_more(folder: Path, change: str) -> None:
    weights, _ = read_tensors(folder / WEIGHTS)
    if change == "one is missing":
        del weights["norm.mean"]
    else:
        weights["more"] = torch.zeros(1)
    write_tensors(folder / WEIGHTS, weights, {})
    seal(folder)

    refuses(folder, r"does not fit model\.json")


def test_a_model_of_the_first_format_has_no_checksums(folder: Path) -> None:
    alter(folder, lambda tree: (tree.pop("files"), tree.update(format=1)))

    assert load_model(folder).facts == FACTS


# Files that are not those of the model


def test_each_file_is_listed_with_size_and_checksum(folder: Path) -> None:
    (folder / CALIBRATION).write_text("{}")
    seal(folder)

    files = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["files"]

    assert files[CALIBRATION] == {
        "size": 2,
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    }
    assert set(files) == {WEIGHTS, CALIBRATION}


def test_one_bit_is_noticed(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-7] ^= 1
    (folder / WEIGHTS).write_bytes(content)

    refuses(folder, r"model\.safetensors: is not the file .* \(altered or cut short")


def test_a_file_that_was_slipped_in_is_refused(folder: Path) -> None:
    (folder / CALIBRATION).write_text("{}")

    refuses(folder, r"confidence\.json: is not among the files that model\.json lists")


def test_a_listed_file_that_is_missing_is_told(folder: Path) -> None:
    (folder / CALIBRATION).write_text("{}")
    seal(folder)
    (folder / CALIBRATION).unlink()

    refuses(folder, r"confidence\.json: cannot be read \(No such file or directory\)")


@pytest.mark.parametrize("files", [None, [], {}, {"other": {}}, 3, "text"])
def test_a_list_without_the_weights_is_refused(folder: Path, files: object) -> None:
    alter(folder, put("files", files))

    refuses(folder, r"model\.json: does not list its model\.safetensors")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", ".", ""])
def test_a_file_outside_the_folder_is_refused(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_text("x")

    alter(folder, lambda tree: tree["files"].update({name: {}}))

    refuses(folder, "which is not inside it")


def test_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    outside = folder.parent / "elsewhere"
    (folder / WEIGHTS).rename(outside)
    (folder / WEIGHTS).symlink_to(outside)

    refuses(folder, r"model\.safetensors: leads out of its folder")


@pytest.mark.parametrize("size", [10**9, 10**12])
@pytest.mark.parametrize("key", ["listener.size", "speller.size", "speller.layers"])
def test_a_network_of_impossible_size_needs_no_memory(
    folder: Path, key: str, size: int
) -> None:
    alter(folder, put(f"las.{key}", size))

    refuses(folder, "does not fit|does not describe")


@pytest.mark.parametrize(
    "seeds", [range(40), pytest.param(range(40, 240), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
def test_damage_is_told_whatever_it_is(folder: Path, name: str, seeds: range) -> None:
    content = (folder / name).read_bytes()
    for seed in seeds:
        mutated = damaged(content[:3000], random.Random(seed)) + content[3000:]
        (folder / name).write_bytes(mutated)
        if name == WEIGHTS:
            seal(folder)  # whoever damages on purpose mends the checksum, too

        with contextlib.suppress(CheckpointError):
            load_model(folder)


# Writing that fails; reading that executes


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    folder = tmp_path / "file" / "model"

    message = re.escape(f"{folder}: cannot be made (Not a directory)")
    with pytest.raises(CheckpointError, match=message):
        save_model(folder, network(), TOKENIZER, FACTS)


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("a file")

    with pytest.raises(CheckpointError, match=r"model: cannot be made \(File exists\)"):
        save_model(tmp_path / "model", network(), TOKENIZER, FACTS)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
def test_nothing_is_executed(folder: Path, tmp_path: Path, name: str) -> None:
    sprung = tmp_path / "sprung"
    (folder / name).write_bytes(pickle.dumps(Trap(sprung)))

    refuses(folder, re.escape(str(folder / name)))

    assert not sprung.exists()
