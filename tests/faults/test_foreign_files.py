"""Files as an attacker or an accident makes them: only errors of one line, at once.

Each kind of file is altered in many ways, from a seed: bytes, values, types, nesting.
Whatever comes of it, its reader returns or raises an `AsrError`, in little time and
memory. `ASR_MUTANTS` sets how many of each kind are tried.
"""

import json
import os
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asr.config import load_config
from asr.data.manifest import read_manifest
from asr.decoding.config import DecodingConfig
from asr.errors import LONGEST, AsrError
from asr.file_sets import checksums
from asr.inference.confidence import (
    FEATURES,
    Calibration,
)
from asr.inference.search_settings import load_decoding, save_decoding
from asr.inference.situations import Situation
from asr.inference.stored_calibration import load_calibration
from asr.lm.estimate import NGramConfig, estimate
from asr.lm.ngram import WordNGram
from asr.lm.word_lstm import WordLSTM
from asr.model.export import export
from asr.model.storage import (
    CALIBRATION,
    DECODING,
    DESCRIPTION,
    WEIGHTS,
    add_further,
    load_model,
)
from asr.tensor_files import read_tensors, write_tensors
from asr.training.checkpoint import Place, load_checkpoint, save_checkpoint

MUTANTS = int(os.environ.get("ASR_MUTANTS", "100"))
each_seed = pytest.mark.parametrize(
    "seed",
    [pytest.param(n, marks=[pytest.mark.slow] * (n >= 10)) for n in range(MUTANTS)],
)
SECONDS = 20  # for one file, on a busy machine; each takes a hundredth of it
MEMORY = 2**30  # bytes more, for all files of a test
Tree = Any


# What is done to a file

VALUES: list[Callable[[random.Random], Any]] = [
    lambda _: None,
    lambda _: True,
    lambda _: -1,
    lambda _: 0,
    lambda _: 10**6,
    lambda _: 10**18,
    lambda _: Raw("1" + "0" * 400),
    lambda _: Raw("1e400"),
    lambda _: Raw("-1e308"),
    lambda _: Raw("NaN"),
    lambda _: Raw("-Infinity"),
    lambda _: Raw("[" * 100 + "]" * 100),
    lambda _: Raw("[" * 100_000),
    lambda _: Raw('"\\ud800"'),
    lambda _: "",
    lambda _: "a\0b",
    lambda _: "\x1b[2J\x07",
    lambda _: "../../etc/passwd",
    lambda _: "/dev/zero",
    lambda _: "x" * 100_000,
    lambda _: "\uff11\uff12",
    lambda _: 0.5,
    lambda _: [],
    lambda _: {},
    lambda chance: [chance.randrange(-3, 10**9)] * 3,
    lambda chance: {"size": chance.random()},
]


class Raw(str):
    """Stands in JSON as it is, without quotation marks."""


def written(tree: Tree) -> str:
    """Write JSON, and what no JSON is."""
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, dict):
        inner = (f"{json.dumps(str(k))}: {written(v)}" for k, v in tree.items())
        return "{" + ", ".join(inner) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(written, tree)) + "]"
    return json.dumps(tree)


def altered(tree: Tree, chance: random.Random) -> Tree:
    """Return a tree with one value, name or part replaced, left out or added."""
    if not isinstance(tree, dict | list) or not tree or chance.random() < 0.15:
        return chance.choice(VALUES)(chance)
    copy = dict(tree) if isinstance(tree, dict) else dict(enumerate(tree))
    key = chance.choice(list(copy))
    what = chance.random()
    if what < 0.1:
        del copy[key]
    elif what < 0.2:
        copy["more"] = chance.choice(VALUES)(chance)
    else:
        copy[key] = altered(copy[key], chance)
    return copy if isinstance(tree, dict) else list(copy.values())


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return a file with some bytes flipped, left out or added."""
    place = chance.randrange(len(content) + 1)
    end = min(len(content), place + chance.choice([0, 1, 1, 8, 100]))
    more = bytes(chance.randrange(256) for _ in range(chance.choice([0, 1, 1, 8])))
    return content[:place] + more + content[end:]


def tried(read: Callable[[], object]) -> str:
    """Return "read" or "refused"; whatever else a file does is a failure."""
    began = time.monotonic()
    try:
        read()
        found = "read"
    except AsrError as error:
        message = str(error)
        assert message.isprintable()
        assert len(message) <= LONGEST
        found = "refused"
    assert time.monotonic() - began < SECONDS
    return found


@pytest.fixture(autouse=True)
def _little_memory() -> Any:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert 1024 * more < MEMORY


# Descriptions


@each_seed
def test_a_model_with_any_description_is_read_or_refused(
    model_folder: Path, seed: int
) -> None:
    place, chance = model_folder / DESCRIPTION, random.Random(seed)
    if seed % 4 == 0:
        place.write_bytes(damaged(place.read_bytes(), chance))
    else:
        tree = altered(json.loads(place.read_text()), chance)
        place.write_bytes(written(tree).encode())

    tried(lambda: load_model(model_folder))
    tried(lambda: export(model_folder, model_folder.with_name("exported")))


@each_seed
def test_settings_beside_a_model_are_read_or_refused(
    model_folder: Path, seed: int
) -> None:
    chance = random.Random(seed)
    save_decoding(model_folder, Situation.BUNDLED, DecodingConfig())
    settings = json.loads((model_folder / DECODING).read_text())
    weights = Calibration((0.5,) * len(FEATURES), 0.1, 0.2).to_dict()
    for name, tree in ((DECODING, settings), (CALIBRATION, weights)):
        add_further(model_folder, name, written(altered(tree, chance)).encode())

    tried(lambda: load_decoding(model_folder, Situation.BUNDLED))
    if tried(lambda: load_calibration(model_folder)) == "read":
        calibration = load_calibration(model_folder)
        assert calibration is not None
        assert np.isfinite(calibration(np.ones((1, len(FEATURES))))).all()


@each_seed
def test_a_manifest_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    chance, path = random.Random(seed), tmp_path / "any.jsonl"
    entry = {"id": "a", "audio": "a.wav", "duration": 1.5, "text": "GO", "speaker": "s"}
    lines = [json.dumps({**entry, "id": str(i)}) for i in range(3)]
    if seed % 4 == 0:
        path.write_bytes(damaged("\n".join(lines).encode(), chance))
    else:
        lines[1] = written(altered(entry, chance))
        path.write_bytes("\n".join(lines).encode())

    if tried(lambda: read_manifest(path)) == "read":
        for utterance in read_manifest(path):
            json.dumps(utterance.to_dict(), ensure_ascii=False).encode()
            assert utterance.id.isprintable() or "\x1b" not in utterance.id


@each_seed
def test_settings_of_a_training_are_read_or_refused(tmp_path: Path, seed: int) -> None:
    chance, path = random.Random(seed), tmp_path / "las.yaml"
    tree = {
        "data": {"train": ["a.jsonl"], "dev": "b.jsonl"},
        "listener": {"size": 8, "reductions": [2, 2]},
        "attention": {"kind": "location", "size": 8, "reach": 3},
        "training": {"epochs": 2, "device": "cpu"},
    }
    # JSON is YAML; a Raw is another kind of damage there.
    content = written(altered(tree, chance)).encode()
    path.write_bytes(damaged(content, chance) if seed % 4 == 0 else content)

    tried(lambda: load_config(path))


# Numbers


def poison(path: Path, chance: random.Random) -> None:
    """Replace a number, a type, a shape or the metadata of a file of tensors."""
    tensors, metadata = read_tensors(path)
    name = chance.choice(sorted(tensors))
    tensor = tensors[name].clone()
    what = chance.randrange(6)
    if what == 0 and tensor.is_floating_point() and tensor.numel():
        bad = [float("nan"), float("inf"), 1e30, -1e5, 60_000.0, 0.0]
        tensor.view(-1)[chance.randrange(tensor.numel())] = chance.choice(bad)
    elif what == 1:
        kinds = [torch.float64, torch.int64, torch.int8, torch.bool, torch.bfloat16]
        tensor = tensor.to(chance.choice(kinds))
    elif what == 2:
        tensor = tensor.flatten()[: max(0, tensor.numel() - 1)].clone()
    elif what == 3:
        tensor = torch.zeros(0)
    elif what == 4:
        metadata = altered(metadata, chance)
    elif not tensor.is_floating_point() and tensor.numel():
        high = torch.iinfo(tensor.dtype).max if tensor.dtype != torch.bool else 1
        tensor.view(-1)[chance.randrange(tensor.numel())] = high
    tensors[name] = tensor
    write_tensors(path, tensors, metadata)


@each_seed
def test_poisoned_weights_are_finite_or_refused(model_folder: Path, seed: int) -> None:
    path, place = model_folder / WEIGHTS, model_folder / DESCRIPTION
    poison(path, random.Random(seed))
    tree = json.loads(place.read_text())
    tree["files"] |= checksums({WEIGHTS: path.read_bytes()})
    place.write_text(json.dumps(tree))

    packed = model_folder.with_name("exported")
    exported = tried(lambda: export(model_folder, packed))

    assert tried(lambda: load_model(model_folder)) == exported
    if exported == "read":
        for weight in load_model(packed).las.state_dict().values():
            assert weight.isfinite().all()


@pytest.fixture(scope="module")
def language_model() -> tuple[WordNGram, WordLSTM]:
    torch.manual_seed(0)
    texts = ["A BE AN", "AND A BE", "BE BE", "I'M A AN", "AN AND I'M A BE", "A"]
    ngram = estimate([texts], [1], NGramConfig(order=3, min_counts=(1, 1)))
    ranks = torch.arange(len(ngram.words) + 2)
    return ngram, WordLSTM(ranks, embedding_size=3, size=16, cutoffs=[2, 4])


@each_seed
def test_a_poisoned_language_model_is_finite_or_refused(
    language_model: tuple[WordNGram, WordLSTM], tmp_path: Path, seed: int
) -> None:
    chance, (ngram, lstm) = random.Random(seed), language_model
    ngram.save(tmp_path, {})
    lstm.save(tmp_path, ngram.words, {})
    name = chance.choice(["ngram", "lstm"])
    path, place = tmp_path / f"{name}.safetensors", tmp_path / f"{name}.json"
    if seed % 5 == 0:
        tree = altered(json.loads(place.read_text()), chance)
        place.write_text(written(tree))
    else:
        poison(path, chance)
        files = checksums({path.name: path.read_bytes()})
        place.write_text(json.dumps({"files": files}))

    if tried(lambda: WordNGram.load(tmp_path)) == "read":
        steps = WordNGram.load(tmp_path).steps(1)
        scores, _ = steps.step(torch.tensor([1]), steps.start())
        assert not np.isnan(scores.numpy()).any()
        assert scores.max() < 100


@each_seed
def test_a_poisoned_checkpoint_is_finite_or_refused(tmp_path: Path, seed: int) -> None:
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    average = {n: w.clone() for n, w in network.state_dict().items()}
    path, place = tmp_path / "last.safetensors", Place(step=3, epoch=1)
    save_checkpoint(path, place, network, average, optimizer, {})
    poison(path, random.Random(seed))

    if tried(lambda: load_checkpoint(path, network, average, optimizer)) == "read":
        network(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        assert all(weight.isfinite().all() for weight in network.parameters())
