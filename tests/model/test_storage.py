import hashlib
import json
import os
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.errors import AsrWarning, CheckpointError
from asr.features import NUM_MELS
from asr.model.attention import AttentionConfig
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.model.storage import (
    DESCRIPTION,
    FORMAT,
    SETTINGS,
    WEIGHTS,
    Model,
    WeightType,
    add_further,
    find_model,
    find_model_to_change,
    further_files,
    las_config,
    load_model,
    load_tokenizer,
    read_further,
    save_model,
)
from asr.tensor_files import read_tensors, write_tensors
from asr.text import CharTokenizer
from asr.tokenizers import MOST_BYTES, SUBWORDS, Subwords

TOKENIZER = CharTokenizer(" ABC")
METADATA = {"step": 7, "wer": {"dev-clean": 0.051}, "from": "tests\u2028é"}
CONFIG = LASConfig(
    ListenerConfig(size=3, reductions=[2, 1], dropout=0.1),
    AttentionConfig("location", size=4, filters=2, reach=1),
    SpellerConfig(size=5, layers=2, embedding_size=3),
)
Tree = dict[str, Any]


def wide() -> LAS:
    """Return a network with matrices large enough to become bytes."""
    listener = ListenerConfig(size=64, reductions=[2, 1])
    speller = SpellerConfig(size=64, embedding_size=8)
    return LAS(replace(CONFIG, listener=listener, speller=speller), TOKENIZER.size)


def network() -> LAS:
    las = LAS(CONFIG, TOKENIZER.size)
    las.norm.measure([2 * torch.randn(30, NUM_MELS) + 1])
    return las


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder as it should be."""
    save_model(tmp_path / "model", network(), TOKENIZER, METADATA)
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


def older(folder: Path) -> None:
    """Make a model one of format 1: without checksums."""
    alter(folder, put("format", 1))
    alter(folder, lambda tree: tree.pop("files"))


def refuses(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


# Round trip


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    las = network()

    save_model(tmp_path / "a" / "model", las, TOKENIZER, METADATA)
    model = load_model(tmp_path / "a" / "model")

    assert model.las.config == CONFIG
    assert model.tokenizer == TOKENIZER
    assert model.metadata == METADATA
    assert not model.las.training
    for name, weight in las.state_dict().items():
        assert torch.equal(model.las.state_dict()[name], weight), name
    assert torch.equal(logits_of(model.las), logits_of(las))


def test_a_model_of_half_size_comes_back_nearly_as_it_was(tmp_path: Path) -> None:
    las = network()

    save_model(tmp_path / "half", las, TOKENIZER, METADATA, dtype="float16")
    save_model(tmp_path / "whole", las, TOKENIZER, METADATA)
    model = load_model(tmp_path / "half")

    stored, _ = read_tensors(tmp_path / "half" / WEIGHTS)
    assert {weight.dtype for weight in stored.values()} == {torch.float16}
    half, whole = (
        (tmp_path / name / WEIGHTS).stat().st_size for name in ("half", "whole")
    )
    assert half < 0.65 * whole
    assert {p.dtype for p in model.las.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(logits_of(model.las), logits_of(las), atol=0.01, rtol=0)


def test_a_model_in_bytes_is_a_quarter_and_comes_back_nearly_as_it_was(
    tmp_path: Path,
) -> None:
    las = wide()

    save_model(tmp_path / "bytes", las, TOKENIZER, METADATA, dtype="int8")
    save_model(tmp_path / "whole", las, TOKENIZER, METADATA)
    model = load_model(tmp_path / "bytes")

    sizes = [(tmp_path / n / WEIGHTS).stat().st_size for n in ("bytes", "whole")]
    assert sizes[0] < 0.3 * sizes[1]
    found = model.las.state_dict()
    assert {weight.dtype for weight in found.values()} == {torch.float32}
    for name, weight in las.state_dict().items():
        width = weight.abs().amax(dim=-1, keepdim=True)
        assert ((found[name] - weight).abs() <= width / 250).all(), name
    torch.testing.assert_close(logits_of(model.las), logits_of(las), atol=0.02, rtol=0)


def test_only_large_matrices_become_bytes(tmp_path: Path) -> None:
    las = wide()
    save_model(tmp_path, las, TOKENIZER, METADATA, dtype="int8")

    stored, _ = read_tensors(tmp_path / WEIGHTS)

    weights = las.state_dict()
    large = {n for n, w in weights.items() if w.dim() == 2 and w.numel() >= 4096}
    assert "listener.layers.0.forwards.weight_hh_l0" in large
    assert {n for n, w in stored.items() if w.dtype == torch.int8} == large
    small = weights.keys() - large
    assert {"speller.attention.filters", "listener.norms.0.weight"} < small
    assert {stored[name].dtype for name in small} == {torch.float16}
    assert stored.keys() - weights.keys() == {f"{name}.scale" for name in large}


def test_only_a_model_in_bytes_has_the_format_that_knows_them(tmp_path: Path) -> None:
    expected = {"float32": 3, "float16": 3, "int8": FORMAT}
    dtypes: tuple[WeightType, ...] = ("float32", "float16", "int8")
    for dtype in dtypes:
        save_model(tmp_path, network(), TOKENIZER, METADATA, dtype=dtype)

        description = json.loads((tmp_path / DESCRIPTION).read_text())
        assert description["format"] == expected[dtype]
        assert load_model(tmp_path).metadata == METADATA


def test_other_weights_can_be_written_in_place_of_the_networks(tmp_path: Path) -> None:
    las, other = network(), network()

    save_model(tmp_path, las, TOKENIZER, METADATA, weights=other.state_dict())

    assert torch.equal(logits_of(load_model(tmp_path).las), logits_of(other))


def test_a_model_is_written_over_an_older_one(folder: Path) -> None:
    las = network()

    save_model(folder, las, TOKENIZER, {"step": 8})

    assert load_model(folder).metadata == {"step": 8}
    assert torch.equal(logits_of(load_model(folder).las), logits_of(las))
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, DESCRIPTION}


def test_the_network_in_training_is_left_as_it_was(tmp_path: Path) -> None:
    las = network().train()
    before = {name: weight.clone() for name, weight in las.state_dict().items()}

    save_model(tmp_path, las, TOKENIZER, METADATA, dtype="float16")

    assert las.training
    for name, weight in las.state_dict().items():
        assert torch.equal(weight, before[name])


def test_a_description_written_by_hand_is_read(folder: Path) -> None:
    change = put("metadata", {"from": "Zürich"})
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    change(description)
    text = json.dumps(description, ensure_ascii=False)
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")

    assert load_model(folder).metadata == {"from": "Zürich"}


def test_settings_come_back_out_of_a_tree() -> None:
    tree = {
        "listener": {"size": 3, "reductions": [2, 1], "dropout": 0.1},
        "attention": {"size": 4, "filters": 2, "reach": 1},  # the rest as by default
        "speller": {"size": 5, "layers": 2, "embedding_size": 3},
    }

    assert las_config(tree) == CONFIG


# Missing, damaged, altered


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    message = "holds no model (model.json cannot be read: No such file or directory)"
    refuses(tmp_path, re.escape(f"{tmp_path}: {message}"))


def test_missing_weights_are_reported(folder: Path) -> None:
    (folder / WEIGHTS).unlink()

    refuses(folder, re.escape(f"{folder / WEIGHTS}: cannot be read"))


@pytest.mark.parametrize("length", [0, 5, 200, -1])
def test_damaged_weights_are_reported(folder: Path, length: int) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:length])

    refuses(folder, re.escape(f"{folder / WEIGHTS}: is damaged"))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b'"text"', b"null", b"[1, 2]", b"{}", b"\xff\xfe\x00"],
)
def test_what_is_no_description_is_refused(folder: Path, content: bytes) -> None:
    (folder / DESCRIPTION).write_bytes(content)

    refuses(folder, re.escape(f"{folder / DESCRIPTION}: does not describe a model"))


@pytest.mark.parametrize("key", ["format", "las", "tokenizer", "metadata"])
def test_a_description_without_one_of_its_parts_is_refused(
    folder: Path, key: str
) -> None:
    alter(folder, lambda tree: tree.pop(key))

    refuses(folder, rf"model\.json: does not describe a model \('{key}'\)")


@pytest.mark.parametrize("part", ["listener", "attention", "speller"])
def test_a_network_without_one_of_its_parts_is_refused(folder: Path, part: str) -> None:
    alter(folder, lambda tree: tree["las"].pop(part))

    refuses(folder, rf"model\.json: does not describe a model \('{part}'\)")


@pytest.mark.parametrize("number", [0, FORMAT + 1, "1", None, True, 2.0])
def test_a_model_of_another_format_is_refused(folder: Path, number: object) -> None:
    alter(folder, put("format", number))

    refuses(
        folder,
        rf"model\.json: is a model of format {number!r}, this version reads formats 1 "
        r"to 4 \(update asr, or train the model again\)$",
    )


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("las", [], "list indices"),
        ("las.listener", None, "a table of ListenerConfig was expected"),
        ("las.listener.deepness", 3, "ListenerConfig has no 'deepness'"),
        ("las.listener.size", 0, r"listener\.size must be at least 1, not 0"),
        ("las.listener.size", "big", "size: int was expected, not 'big'"),
        ("las.listener.reductions", [], r"listener\.reductions must be numbers"),
        ("las.attention.kind", "hard", r"attention\.kind must be one of"),
        ("las.speller.dropout", 2, r"speller\.dropout is a share"),
        ("metadata", "text", ""),
        ("metadata", 3, "its metadata is no table"),
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
    refuses(folder, place + r"(size mismatch for|Missing key|Unexpected key)")


@pytest.mark.parametrize(
    "change", ["one is missing", "one is too many", "one is of whole numbers"]
)
def test_weights_must_be_all_and_no_more(folder: Path, change: str) -> None:
    weights, _ = read_tensors(folder / WEIGHTS)
    if change == "one is missing":
        del weights["norm.mean"]
    elif change == "one is too many":
        weights["more"] = torch.zeros(1)
    else:
        weights["norm.mean"] = weights["norm.mean"].int()
    write_tensors(folder / WEIGHTS, weights, {})
    older(folder)

    refuses(folder, r"does not fit model\.json")


@pytest.mark.parametrize("change", ["no scale", "another scale", "another size"])
def test_bytes_that_are_no_weights_are_refused(tmp_path: Path, change: str) -> None:
    save_model(tmp_path, wide(), TOKENIZER, METADATA, dtype="int8")
    weights, _ = read_tensors(tmp_path / WEIGHTS)
    name = "listener.layers.0.forwards.weight_hh_l0"
    if change == "no scale":
        del weights[f"{name}.scale"]
    elif change == "another scale":
        weights[f"{name}.scale"] = weights[f"{name}.scale"][1:]
    else:
        weights[name] = weights[name][:, 1:]
    write_tensors(tmp_path / WEIGHTS, weights, {})
    older(tmp_path)

    reason = "size mismatch" if change == "another size" else "has no scale for each"
    refuses(tmp_path, rf"does not fit model\.json \(.*{reason}")


def test_sizes_that_no_memory_holds_are_refused_at_once(folder: Path) -> None:
    older(folder)
    alter(folder, put("las.listener.size", 8000))
    refuses(folder, r"does not describe a model \(no weight has a size of 8000\)")

    alter(folder, put("las.listener.size", 10**7))
    refuses(folder, r"listener\.size must be at most 8192, not 10000000")

    alter(folder, put("las.listener.size", 10**30))
    refuses(folder, r"the number 1000\d+… is too large")

    alter(folder, put("las.listener.size", 3))
    alter(folder, put("las.speller.layers", 32))
    refuses(folder, r"does not fit model.json \(Missing key.*speller\.cells\.31")


# Checksums


def test_the_description_has_size_and_checksum_of_the_weights(folder: Path) -> None:
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    content = (folder / WEIGHTS).read_bytes()

    assert description["files"] == {
        WEIGHTS: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    }


def test_a_single_altered_bit_is_reported(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-3] ^= 1
    (folder / WEIGHTS).write_bytes(content)

    place = re.escape(
        f"{folder / WEIGHTS}: is damaged, or not the file that model.json"
    )
    refuses(folder, place + " lists .its checksum is another.*copy the whole folder")


def test_an_altered_byte_of_a_row_is_reported(tmp_path: Path) -> None:
    save_model(tmp_path, wide(), TOKENIZER, METADATA, dtype="int8")
    content = bytearray((tmp_path / WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / WEIGHTS).write_bytes(content)

    refuses(tmp_path, r"model\.safetensors: is damaged.*its checksum is another")


def test_weights_of_another_model_of_the_same_sizes_are_refused(folder: Path) -> None:
    save_model(folder.parent / "other", network(), TOKENIZER, METADATA)
    (folder.parent / "other" / WEIGHTS).replace(folder / WEIGHTS)

    refuses(folder, "its checksum is another")


def test_a_model_from_before_there_were_checksums_is_read(folder: Path) -> None:
    before = load_model(folder)
    older(folder)

    model = load_model(folder)

    assert model.metadata == METADATA
    assert torch.equal(logits_of(model.las), logits_of(before.las))
    assert further_files(folder) == []
    assert read_further(folder, "confidence.json") is None
    alter(folder, put("files", 5))  # not of this format: nobody looks at it
    assert further_files(folder) == []
    with pytest.raises(CheckpointError, match="up to date: asr export"):
        add_further(folder, "confidence.json", b"{}")


def test_loading_draws_nothing(folder: Path) -> None:
    state = torch.get_rng_state()

    las = load_model(folder).las

    assert torch.get_rng_state().equal(state)
    assert {tensor.device.type for tensor in las.state_dict().values()} == {"cpu"}
    assert all(parameter.requires_grad for parameter in las.parameters())


def test_loading_imports_no_compiler_of_torch(folder: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from asr.model.storage import load_model\n"
        "load_model(Path(sys.argv[1]))\n"
        "print('torch._dynamo' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "False\n"  # 882 modules: a second of each cold start


def test_a_model_of_version_0_1_is_read(folder: Path) -> None:
    def as_before(tree: dict[str, Any]) -> None:
        tree["format"] = 2
        tree["facts"] = tree.pop("metadata")
        attention = tree["las"]["attention"]
        attention["segment"] = attention.pop("block_size")

    logits = logits_of(load_model(folder).las)
    alter(folder, as_before)

    model = load_model(folder)

    assert model.metadata == METADATA
    assert torch.equal(logits_of(model.las), logits)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "has no table of files"),
        ([WEIGHTS], "has no table of files"),
        ({}, r"has no checksum of model\.safetensors"),
        ({WEIGHTS: 3}, "has no size and sha256 of 'model.safetensors'"),
        ({WEIGHTS: {"size": 3}}, "has no size and sha256"),
        ({WEIGHTS: {"size": 3, "sha256": ""}}, "of 3 bytes are there"),
    ],
)
def test_a_table_that_vouches_for_nothing_is_refused(
    folder: Path, files: object, message: str
) -> None:
    alter(folder, put("files", files))

    refuses(folder, message)


@pytest.mark.parametrize(
    "name",
    [
        *("../secret", "/etc/hostname", "a/b", "..", ".", "", "a\\b", "C:a", "a\0"),
        "sub/../../secret",
    ],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(
    folder: Path, name: str
) -> None:
    (folder.parent / "secret").write_bytes(b"")
    alter(folder, lambda tree: tree["files"].update({name: {"size": 0, "sha256": ""}}))

    refuses(folder, re.escape(f"{folder / DESCRIPTION}: names {name!r}, which is not"))


@pytest.mark.parametrize("name", ["more.json", "x" * 300])
def test_a_file_that_is_listed_and_not_there_is_missed(folder: Path, name: str) -> None:
    alter(folder, lambda tree: tree["files"].update({name: {"size": 0, "sha256": ""}}))

    refuses(folder, re.escape(f"{folder / name}: cannot be read ("))


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
@pytest.mark.parametrize("checked", [True, False])
def test_a_link_that_leads_out_of_the_folder_is_refused(
    folder: Path, name: str, checked: bool
) -> None:
    if not checked:
        older(folder)
    outside = folder.parent / "outside"
    (folder / name).replace(outside)
    (folder / name).symlink_to(outside)

    refuses(folder, re.escape(f"{folder / name}: is a link that leads out of its"))


def test_a_link_within_the_folder_and_one_to_the_folder_are_followed(
    folder: Path,
) -> None:
    (folder / WEIGHTS).replace(folder / "weights")
    (folder / WEIGHTS).symlink_to("weights")
    (folder.parent / "link").symlink_to(folder)

    assert load_model(folder.parent / "link").metadata == METADATA


def test_a_link_to_itself_and_a_folder_are_no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(WEIGHTS)
    refuses(folder, "cannot be read")

    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    refuses(folder, "cannot be read")


# Further files


def test_a_further_file_comes_back_and_is_checked(folder: Path) -> None:
    add_further(folder, "confidence.json", b"[1]")
    add_further(folder, "confidence.json", b"[1, 2]")

    assert read_further(folder, "confidence.json") == b"[1, 2]"
    assert further_files(folder) == ["confidence.json"]
    assert load_model(folder).metadata == METADATA
    add_further(folder, "strange.bin", b"1")
    (folder / "strange.bin").write_bytes(b"2")
    refuses(folder, r"strange\.bin: is damaged, or not the file")


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_changed_by_hand_are_used_and_named(folder: Path, name: str) -> None:
    add_further(folder, name, b"[1]")
    (folder / name).write_bytes(b"[1, 3]")

    with pytest.warns(AsrWarning, match=re.escape(f"{folder / name}: is not the file")):
        assert read_further(folder, name) == b"[1, 3]"
    assert load_model(folder).metadata == METADATA


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("checked", [True, False])
def test_settings_put_there_by_hand_are_used_and_named(
    folder: Path, name: str, checked: bool
) -> None:
    if not checked:
        older(folder)
    (folder / name).write_bytes(b"[1]")

    with pytest.warns(AsrWarning, match=re.escape(f"{folder / name}: is not the file")):
        assert read_further(folder, name) == b"[1]"
    assert further_files(folder) == [name]


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_were_lost_are_missed(folder: Path, name: str) -> None:
    add_further(folder, name, b"[1]")
    (folder / name).unlink()

    refuses(folder, re.escape(f"{folder / name}: cannot be read (no such file"))


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_are_a_link_out_of_the_folder_are_refused(
    folder: Path, name: str
) -> None:
    (folder.parent / "outside").write_bytes(b"[1]")
    (folder / name).symlink_to(folder.parent / "outside")

    with pytest.raises(CheckpointError, match="is a link that leads out of its folder"):
        read_further(folder, name)


def test_a_file_of_an_older_model_in_the_folder_is_not_read(folder: Path) -> None:
    assert read_further(folder, "confidence.json") is None
    add_further(folder, "confidence.json", b"[1]")

    save_model(folder, network(), TOKENIZER, METADATA)
    assert read_further(folder, "confidence.json") is None

    save_model(
        folder, network(), TOKENIZER, METADATA, further={"confidence.json": b"[2]"}
    )
    assert read_further(folder, "confidence.json") == b"[2]"


# Any damage: a model, or a CheckpointError


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Damage text as a bad disk, a bad editor or a bad person would."""
    text = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        place, length = rng.randrange(len(text)), rng.choice([1, 1, 2, 8, 40])
        odd = (
            b"{",
            b"}",
            b"[",
            b"]",
            b'"',
            b",",
            b"-1",
            b"0",
            b"1e999",
            b"null",
            b"NaN",
        )
        more = (b"9" * 40, b'"\\ud800"', b"true", b"\xff", b"[" * 2000, b"[]", b"{}")
        match rng.randrange(4):
            case 0:
                text[place] ^= 1 << rng.randrange(8)
            case 1:
                del text[place : place + length]
            case 2:
                text[place : place + length] = rng.choice(odd + more)
            case 3:  # a whole value
                values = list(re.finditer(rb"(?<=: )[^,\n]+|(?<=:)[^,:{}]+", text))
                if values:
                    found = rng.choice(values)
                    text[found.start() : found.end()] = rng.choice(odd + more)
        if not text:
            return b""
    return bytes(text)


def damage(folder: Path, seed: int) -> None:
    """Alter the description or the header of the weights; or both, checksums right."""
    rng = random.Random(seed)
    if rng.random() < 0.5:
        older(folder)
    if rng.random() < 0.5:
        content = (folder / WEIGHTS).read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = mutated(content[8 : 8 + size], rng)
        if rng.random() < 0.9:
            size = len(header)
        content = size.to_bytes(8, "little") + header + content[8 + size :]
        (folder / WEIGHTS).write_bytes(content)
    else:
        content = mutated((folder / DESCRIPTION).read_bytes(), rng)
        (folder / DESCRIPTION).write_bytes(content)


@pytest.mark.parametrize(
    "seeds",
    [range(30), pytest.param(range(30, 230), marks=pytest.mark.slow)],
    ids=["30", "200 more"],
)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_whatever_is_altered_a_model_comes_or_a_checkpoint_error(
    tmp_path: Path, seeds: range, dtype: WeightType
) -> None:
    las = network() if dtype == "float32" else wide()
    refusals = list[str]()
    for seed in seeds:
        folder = tmp_path / str(seed)
        save_model(folder, las, TOKENIZER, METADATA, dtype=dtype)
        damage(folder, seed)
        try:
            model = load_model(folder)
        except CheckpointError as error:
            refusals.append(str(error))
        else:
            logits_of(model.las)

    assert len(refusals) > 0.6 * len(seeds)
    assert all(one.startswith(str(tmp_path)) and "\n" not in one for one in refusals)


# Writing that fails; reading that executes


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    folder = tmp_path / "file" / "model"

    message = re.escape(f"{folder}: cannot be made (Not a directory)")
    with pytest.raises(CheckpointError, match=message):
        save_model(folder, network(), TOKENIZER, METADATA)


def test_a_folder_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("a file")

    with pytest.raises(CheckpointError, match=r"model: cannot be made \(File exists\)"):
        save_model(tmp_path / "model", network(), TOKENIZER, METADATA)


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


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_model_that_was_read_does_not_hang_on_its_file(
    model: Model, tmp_path: Path, dtype: WeightType
) -> None:
    folder = tmp_path / "model"
    save_model(folder, model.las, model.tokenizer, {}, dtype=dtype)
    las = load_model(folder).las
    before = {name: weight.clone() for name, weight in las.state_dict().items()}
    content = (folder / WEIGHTS).read_bytes()
    with (folder / WEIGHTS).open("r+b") as file:
        file.write(bytes(len(content)))
    assert all(las.state_dict()[name].equal(w) for name, w in before.items())


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_model_is_read_without_drawing_weights(
    model: Model, tmp_path: Path, dtype: WeightType
) -> None:
    save_model(tmp_path, *model, dtype=dtype)
    state = torch.get_rng_state()
    las = load_model(tmp_path).las
    assert torch.get_rng_state().equal(state)
    assert all(p.dtype == torch.float32 for p in las.parameters())
    assert all(p.requires_grad for p in las.parameters())


# A vocabulary of subwords


@pytest.fixture
def subword_folder(subword_model: Model, tmp_path: Path) -> Path:
    save_model(tmp_path / "subwords", *subword_model)
    return tmp_path / "subwords"


def test_a_model_of_subwords_comes_back_as_it_was(
    subword_model: Model, subword_folder: Path
) -> None:
    back = load_model(subword_folder)

    assert back.tokenizer == load_tokenizer(subword_folder) == subword_model.tokenizer
    assert back.metadata == subword_model.metadata
    assert_same_weights(back.las, subword_model.las)
    description = json.loads((subword_folder / DESCRIPTION).read_text())
    assert description["tokenizer"]["kind"] == "subwords"
    assert description["files"].keys() == {WEIGHTS, SUBWORDS}


def assert_same_weights(found: LAS, expected: LAS) -> None:
    for name, weight in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name


def test_a_missing_vocabulary_is_reported(subword_folder: Path) -> None:
    (subword_folder / SUBWORDS).unlink()

    refuses(subword_folder, re.escape(f"{subword_folder / SUBWORDS}: cannot be read"))
    with pytest.raises(CheckpointError, match=r"subwords\.model: cannot be read"):
        load_tokenizer(subword_folder)


def test_a_damaged_vocabulary_is_reported(subword_folder: Path) -> None:
    content = (subword_folder / SUBWORDS).read_bytes()
    (subword_folder / SUBWORDS).write_bytes(content[:-1])

    refuses(
        subword_folder, re.escape(f"{subword_folder / SUBWORDS}: is damaged, or no")
    )


def test_a_vocabulary_of_another_model_is_refused(subword_folder: Path) -> None:
    other = Subwords.make(["A CAT SAT", "ON THE MAT"], 15).model
    own = (subword_folder / SUBWORDS).read_bytes()

    (subword_folder / SUBWORDS).write_bytes(other)

    refuses(subword_folder, r"subwords\.model: is damaged, or not the file that model")

    (subword_folder / SUBWORDS).write_bytes(own)
    add_further(subword_folder, SUBWORDS, other)  # with its own checksum

    message = r"model\.json: subwords\.model: is not the vocabulary of this model"
    refuses(subword_folder, message)
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(subword_folder)


def test_a_vocabulary_without_checksum_is_not_read(subword_folder: Path) -> None:
    alter(subword_folder, lambda tree: tree["files"].pop(SUBWORDS))

    refuses(subword_folder, r"model\.json: has no checksum of subwords\.model \(copy")


def test_a_vocabulary_larger_than_any_is_not_read(subword_folder: Path) -> None:
    add_further(subword_folder, SUBWORDS, bytes(MOST_BYTES + 1))

    refuses(
        subword_folder,
        rf"subwords\.model: has {MOST_BYTES + 1} bytes \(at most {MOST_BYTES} were",
    )


def test_a_model_of_characters_needs_no_sentencepiece(
    folder: Path, subword_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)

    assert load_model(folder).tokenizer == TOKENIZER
    refuses(subword_folder, r"model\.json: tokenizer: of subwords needs sentencepiece")


# What others put into a folder


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "large"])
@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS])
def test_what_is_no_file_is_refused_at_once(folder: Path, kind: str, name: str) -> None:
    path = folder / name
    path.unlink()
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(2**40)  # has no room on the disk

    refuses(folder, "cannot be read|bytes are there")


@pytest.mark.parametrize(
    ("setting", "value", "most"),
    [
        ("listener.size", 8193, 8192),
        ("attention.size", 10_000, 8192),
        ("attention.filters", 2000, 1024),
        ("attention.reach", 10**6, 1000),
        ("speller.size", 20_000, 16_384),
        ("speller.layers", 33, 32),
        ("speller.embedding_size", 8193, 8192),
        ("attention.block_size", 10_001, 10_000),
    ],
)
def test_sizes_have_bounds(folder: Path, setting: str, value: int, most: int) -> None:
    alter(folder, put(f"las.{setting}", value))
    refuses(folder, rf"{setting} must be at most {most}, not {value}\)$")


@pytest.mark.parametrize("reductions", [[2, 1000], [1] * 33])
def test_reductions_have_bounds(folder: Path, reductions: list[int]) -> None:
    alter(folder, put("las.listener.reductions", reductions))
    refuses(
        folder, "listener.reductions must be at most 32 numbers that multiply to 64"
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "ctc.weight",
            float("nan"),
            "ctc.weight holds a weight that is infinite, or no",
        ),
        ("ctc.bias", float("inf"), "ctc.bias holds a weight that is infinite, or no n"),
        ("norm.mean", -float("inf"), "norm.mean holds a weight that is infinite"),
        ("ctc.weight", 1e30, "ctc.weight holds a weight that is above 65504"),
        ("ctc.weight", -65_600.0, "ctc.weight holds a weight that is above 65504"),
        ("norm.std", 0.0, "norm.std holds a deviation that is not above zero"),
        ("norm.std", -1.0, "norm.std holds a deviation that is not above zero"),
    ],
)
@pytest.mark.parametrize("make", [network, wide])
def test_weights_that_no_network_works_with_are_refused(
    tmp_path: Path, name: str, value: float, message: str, make: Callable[[], LAS]
) -> None:
    las = make()
    las.state_dict()[name].view(-1)[-1] = value
    save_model(tmp_path, las, TOKENIZER, METADATA)
    refuses(tmp_path, rf"model\.safetensors: {message}")


def test_a_scale_of_bytes_that_is_no_number_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, wide(), TOKENIZER, METADATA, dtype="int8")
    tensors, metadata = read_tensors(tmp_path / WEIGHTS)
    scale = next(name for name in tensors if name.endswith(".scale"))
    tensors[scale][0] = float("nan")
    write_tensors(tmp_path / WEIGHTS, tensors, metadata)
    older(tmp_path)
    refuses(tmp_path, f"{scale} holds a weight that is infinite, or no number")


def test_the_largest_weight_that_float16_holds_is_read(tmp_path: Path) -> None:
    las = network()
    las.state_dict()["ctc.weight"].view(-1)[-1] = 65_504.0
    save_model(tmp_path, las, TOKENIZER, METADATA, dtype="float16")
    assert load_model(tmp_path).las.ctc.weight.max() == 65_504.0


@pytest.mark.parametrize("characters", [" A\x1b", " A\n", " A\x9b"])
def test_an_alphabet_has_no_character_that_a_terminal_obeys(
    folder: Path, characters: str
) -> None:
    alter(folder, put("tokenizer.characters", characters))
    refuses(folder, "tokenizer: its alphabet holds the control character")


def test_a_table_of_files_has_a_bound(folder: Path) -> None:
    alter(folder, put("files", {str(n): {} for n in range(2000)}))
    refuses(folder, "has no table of files")


def test_a_name_that_no_folder_can_have_is_reported() -> None:
    for name in ("a" * 5000, "a\0b"):
        with pytest.raises(CheckpointError, match="holds no model"):
            find_model(name)


def test_the_bundled_model_has_a_name_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert find_model("bundled") == find_model(None)
    with pytest.raises(CheckpointError, match=r"^bundled: is bundled, a part of the"):
        find_model_to_change("bundled")


def test_a_settings_file_is_read_without_the_checksum_of_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    further = {"decoding.json": b"{}"}
    save_model(tmp_path, network(), TOKENIZER, {}, further=further)
    looked_at = list[str]()
    digest = hashlib.file_digest

    def noted(file: Any, name: str) -> Any:
        looked_at.append(Path(file.name).name)
        return digest(file, name)

    monkeypatch.setattr("hashlib.file_digest", noted)
    load_model(tmp_path)
    assert sorted(looked_at) == ["decoding.json", "model.safetensors"]
    looked_at.clear()

    assert read_further(tmp_path, "decoding.json") == b"{}"
    assert looked_at == ["decoding.json"]
