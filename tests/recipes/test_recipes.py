import os
import random
import re
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.audio import SAMPLE_RATE, duration
from asr.config import Config, load_config, load_stages
from asr.data.batching import Batch, collate
from asr.data.dataset import Example
from asr.data.manifest import read_manifest
from asr.features import NUM_MELS
from asr.model.las import LAS, LASConfig
from asr.text import CharTokenizer
from asr.training.growth import grow
from asr.training.loss import losses
from recipes.librispeech.published import PUBLISHED
from recipes.toy.make import LETTERS, LOWEST, RATIO, main, make, make_text, sing

RECIPES = Path(__file__).parents[2] / "recipes"
CONFIGS = sorted((RECIPES / "librispeech" / "configs").glob("*.yaml"))
SCRIPTS = sorted(RECIPES.rglob("*.sh"))
TOKENIZER = CharTokenizer()

each_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def trainings(path: Path) -> list[Config]:
    """The stages, or the one training without."""
    return load_stages(path) or [load_config(path)]


@cache
def build(path: Path) -> LAS:
    return network(trainings(path)[-1])


def network(config: Config) -> LAS:
    parts = LASConfig(config.listener, config.attention, config.speller)
    return LAS(parts, TOKENIZER.size)


# LibriSpeech


@each_config
def test_a_network_has_the_size_that_its_recipe_states(path: Path) -> None:
    about = " ".join(re.findall(r"^# *(.*)", path.read_text(), flags=re.MULTILINE))
    size = re.search(r"(About|Below) (\d+) M\b", about)
    assert size, f"{path.name} does not state how large its network is"

    millions = sum(parameter.numel() for parameter in build(path).parameters()) / 1e6
    if size[1] == "Below":
        assert millions < int(size[2])
    else:
        assert millions == pytest.approx(int(size[2]), rel=0.15)


@each_config
def test_a_network_takes_a_step_down(path: Path) -> None:
    config = trainings(path)[-1]
    las, batch = build(path), some_batch()
    optimizer = torch.optim.AdamW(
        las.parameters(), config.schedule.learning_rate, betas=(0.9, 0.98)
    )

    before = loss_of(las, batch, config)
    torch.autograd.backward(losses(las, batch, TOKENIZER, config.loss, guide=1.0)[0][0])
    optimizer.step()

    assert loss_of(las, batch, config) < before


@each_config
def test_each_stage_can_start_from_the_one_before(path: Path) -> None:
    networks = [network(config) for config in trainings(path)]
    for before, after in pairwise(networks):
        assert grow(after, before)


def test_las_mini_takes_two_hours_of_what_prepare_writes() -> None:
    stages = trainings(RECIPES / "librispeech" / "configs" / "las_mini.yaml")

    assert sum(stage.training.minutes or 0 for stage in stages) == pytest.approx(
        120, abs=5
    )
    for stage in stages:
        manifests = [*stage.data.train, stage.data.dev]
        assert {Path(path).stem for path in manifests} <= PUBLISHED.keys()


@pytest.mark.parametrize("page", ["run.sh", "README.md"])
def test_stages_that_are_named_in_words_are_stages_of_las_mini(page: str) -> None:
    folder = RECIPES / "librispeech"
    named = re.findall(r"stages\.\d\.[\w.]+=\d+", (folder / page).read_text())

    assert named
    load_stages(folder / "configs" / "las_mini.yaml", named)


def some_batch() -> Batch:
    examples = [
        Example(torch.randn(num_frames, NUM_MELS), torch.tensor(TOKENIZER.encode(text)))
        for num_frames, text in ((60, "GO ON"), (44, "DO"))
    ]
    return collate(["a", "b"], examples, seconds=1.0)


def loss_of(las: LAS, batch: Batch, config: Config) -> float:
    las.eval()
    with torch.no_grad():
        parts, _ = losses(las, batch, TOKENIZER, config.loss)
    las.train()
    return parts.total.item()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.parent.name)
def test_a_script_can_be_read_by_bash_and_run(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)


# The toy


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy corpus of a few utterances."""
    sizes = {"train": 4, "dev": 2, "test": 1}
    monkeypatch.setattr("recipes.toy.make.SIZES", sizes)


@pytest.mark.usefixtures("few")
def test_the_same_seed_makes_the_same_corpus(tmp_path: Path) -> None:
    make(tmp_path / "one", seed=3)
    random.seed(9)
    make(tmp_path / "same", seed=3)
    make(tmp_path / "other", seed=4)

    one, same, other = (
        {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name).rglob("*.*")
        }
        for name in ("one", "same", "other")
    )
    assert len(one) == 4 + 2 + 1 + 3
    assert one == same
    assert one.keys() == other.keys()
    assert not [name for name in one if one[name] == other[name]]


@pytest.mark.usefixtures("few")
def test_the_manifests_list_what_is_there(tmp_path: Path) -> None:
    make(tmp_path)

    subsets = [read_manifest(tmp_path / f"{s}.jsonl") for s in ("train", "dev", "test")]

    utterances = [utterance for subset in subsets for utterance in subset]
    assert [len(subset) for subset in subsets] == [4, 2, 1]
    assert len({utterance.id for utterance in utterances}) == 7
    assert len({utterance.text for utterance in utterances}) == 7
    for utterance in utterances:
        assert duration(utterance.audio) == utterance.duration
        assert TOKENIZER.encode(utterance.text)


@pytest.mark.usefixtures("few")
def test_the_toy_is_made_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    assert main([str(tmp_path / "toy")]) == 0
    assert main([str(tmp_path / "file")]) == 1

    assert len(read_manifest(tmp_path / "toy" / "train.jsonl")) == 4
    place = tmp_path / "file" / "train"
    assert capsys.readouterr().err == (
        f"make: {place}: cannot be made (Not a directory)\n"
    )


def test_each_letter_has_a_pitch_of_its_own() -> None:
    for number, letter in enumerate(LETTERS):
        samples = sing(letter, random.Random(0))
        spectrum = np.abs(np.fft.rfft(samples))
        peak = spectrum.argmax() * SAMPLE_RATE / len(samples)
        assert peak == pytest.approx(LOWEST * RATIO**number, rel=0.03), letter


def test_texts_are_one_to_three_words_of_two_to_five_letters() -> None:
    rng = random.Random(0)
    texts = [make_text(rng).split(" ") for _ in range(200)]
    assert {len(words) for words in texts} == {1, 2, 3}
    assert {len(word) for words in texts for word in words} == {2, 3, 4, 5}
    assert {letter for words in texts for letter in "".join(words)} == set(LETTERS)


@pytest.mark.slow
def test_the_toy_is_learned_without_an_error(tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHON": sys.executable,
        "PYTHONPATH": str(RECIPES.parent),
    }

    printed = subprocess.run(
        [str(RECIPES / "toy" / "run.sh")],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout

    assert "%WER 0.00 [ 0 / " in printed
    assert (tmp_path / "exp" / "toy" / "decoded" / "hypotheses.jsonl").exists()
