import itertools
import json
import math
import os
import pkgutil
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor

import asr.reports.attention_plot
from asr.audio import SAMPLE_RATE
from asr.config import Config, DataConfig, load_config, to_yaml
from asr.data.batching import Batch
from asr.data.dataset import Dataset
from asr.data.digest import digest
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.shards import write_shards
from asr.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    InUseError,
    ManifestError,
    TrainingError,
)
from asr.features import AugmentConfig, FeatureNorm
from asr.files import temporary_path
from asr.foreign import LARGEST
from asr.locks import locked
from asr.model.attention import AttentionConfig
from asr.model.export import export
from asr.model.las import LAS
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.model.storage import (
    Model,
    add_further,
    load_model,
    read_further,
    save_model,
)
from asr.runs.claim import is_finished
from asr.runs.material import read_data
from asr.tensor_files import read_metadata, read_tensors, write_tensors
from asr.text import ALPHABET, CharTokenizer
from asr.tokenizers import SUBWORDS, Subwords, TokenizerConfig
from asr.train import train
from asr.training.config import TrainingConfig
from asr.training.loss import LossConfig, losses
from asr.training.metrics import MetricsLog
from asr.training.schedule import (
    ScheduleConfig,
    augment_strength,
    learning_rate,
    sampling_chance,
)
from asr.training.stopping import Stopped
from asr.training.validation import Validation, validate
from recipes.toy.make import sing
from tests.fake_hub import Hub

ROOT = Path(__file__).parents[2]
slow = pytest.mark.slow
STEPS = 12  # of the whole run: 3 epochs of 8 utterances, 2 at a time


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight utterances to learn from and three to validate on: sung, not spoken."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, "train", ["GO", "ON", "DO IT", "I", "SAW", "US", "AT", "TEA"])
    write_corpus(folder, "dev", ["GO AT", "SEE", "IT"])
    return folder


def write_corpus(folder: Path, subset: str, texts: list[str]) -> None:
    utterances = []
    for number, text in enumerate(texts):
        path = folder / f"{subset}-{number}.wav"
        samples = sing(text, random.Random(f"{subset} {number}"))
        soundfile.write(path, samples, SAMPLE_RATE)
        seconds = len(samples) / SAMPLE_RATE
        utterances.append(Utterance(path.stem, str(path), seconds, text))
    write_manifest(folder / f"{subset}.jsonl", utterances)


def settings(corpus: Path, **training: Any) -> Config:
    """A tiny network, with everything at work that draws on chance."""
    defaults: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 2,
        "validations": 2,
        "device": "cpu",
        "precision": "float32",
        "weight_noise": 0.02,
    }
    join = 0.0 if training.get("fixed_shapes") == "always" else 0.2
    return Config(
        data=DataConfig([str(corpus / "train.jsonl")], str(corpus / "dev.jsonl")),
        listener=ListenerConfig(size=4, reductions=[2, 2], dropout=0.1),
        attention=AttentionConfig(size=4, reach=2, filters=2),
        speller=SpellerConfig(size=4, embedding_size=3, dropout=0.1),
        augment=AugmentConfig([0.9, 1.0, 1.1], time_width=10, join=join),
        schedule=ScheduleConfig(warmup_steps=2, sampling=0.5, sampling_from=0.1),
        training=TrainingConfig(**(defaults | training)),
    )


def saving(corpus: Path, **training: Any) -> Config:
    """`settings` with a checkpoint at every step."""
    return settings(corpus, checkpoint_minutes=0.0, **training)


def calm(config: Config) -> Config:
    """The same without chance: nothing is dropped, masked, sped up or sampled."""
    return replace(
        config,
        listener=replace(config.listener, dropout=0.0),
        speller=replace(config.speller, dropout=0.0),
        augment=AugmentConfig(speeds=[1.0], frequency_masks=0, time_masks=0),
        schedule=ScheduleConfig(warmup_steps=0),
        training=replace(config.training, weight_noise=0.0),
    )


def draw_nothing(
    path: Path, weights: Tensor, tokens: Sequence[str], waveform: Tensor
) -> None:
    """Pictures cost more than the rest of such a training."""
    path.write_text(f"{tuple(weights.shape)} {''.join(tokens)}")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr.train.draw_attention", draw_nothing)


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `settings(corpus)`, in one go."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("asr.train.draw_attention", draw_nothing)
        train(settings(corpus), folder)
    return folder


def checkpoint(folder: Path) -> dict[str, Tensor]:
    return read_tensors(folder / "checkpoint.safetensors")[0]


def place(folder: Path) -> dict[str, Any]:
    metadata = read_tensors(folder / "checkpoint.safetensors")[1]
    return dict(metadata["place"])


def part(folder: Path, prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint(folder).items()
        if name.startswith(prefix)
    }


def metrics(folder: Path, name: str = "loss") -> list[dict[str, Any]]:
    """The lines that have `name`."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if name in entry]


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def assert_same_run(folder: Path, whole: Path) -> None:
    """All but the clock: weights, averages, moments, place, metrics and model."""
    assert_same(checkpoint(folder), checkpoint(whole))
    assert place(folder) | {"seconds": 0} == place(whole) | {"seconds": 0}
    clock = {"seconds": 0, "audio_per_second": 0}
    for name in ("loss", "dev/loss"):
        ours = [line | clock for line in metrics(folder, name)]
        assert ours == [line | clock for line in metrics(whole, name)]
    assert_same(weights_of_model(folder), weights_of_model(whole))


def weights_of_model(folder: Path) -> dict[str, Tensor]:
    return read_tensors(folder / "model" / "model.safetensors")[0]


# A run that was stopped goes on as if it had not been


class PowerCut(BaseException):
    """Nothing catches this."""


def cut_off(monkeypatch: pytest.MonkeyPatch, where: str, call: int) -> None:
    """Let the power fail when a function is called for the nth time."""
    function, calls = pkgutil.resolve_name(where), itertools.count(1)

    def cut(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise PowerCut
        return function(*args, **kwargs)

    monkeypatch.setattr(where, cut)


@pytest.mark.parametrize(
    ("where", "call"),
    [
        pytest.param("asr.training.plain_updates.losses", 4, id="in the first epoch"),
        pytest.param("asr.training.plain_updates.losses", 8, id="in the second epoch"),
        pytest.param(
            "asr.training.trainer.save_checkpoint", 4, id="epoch not saved", marks=slow
        ),
        pytest.param("asr.training.trainer.validate", 1, id="in validation"),
        pytest.param(
            "asr.training.best_model.save_model", 1, id="model not saved", marks=slow
        ),
        pytest.param("os.fsync", 2 * 5 + 1, id="in the middle of the fifth checkpoint"),
        pytest.param(
            "asr.training.metrics.MetricsLog.write", 6, id="metrics missing", marks=slow
        ),
    ],
)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    corpus: Path,
    tmp_path: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    call: int,
) -> None:
    with monkeypatch.context() as patch:
        cut_off(patch, where, call)
        with pytest.raises(PowerCut):
            train(saving(corpus), tmp_path)
    assert 0 < place(tmp_path)["step"] < STEPS

    train(settings(corpus), tmp_path)

    assert_same_run(tmp_path, whole)


DYING = """
import os
import signal
from asr.training.metrics import MetricsLog

write, fsync, num_synced = MetricsLog.write, os.fsync, 0

def die():
    os.killpg(0, signal.SIGKILL)

def write_and_die(log, step, metrics):
    write(log, step, metrics)
    if step == int(os.environ.get("DIE_AT_STEP", 0)):
        die()

def sync_and_die(descriptor):
    global num_synced
    num_synced += 1
    if num_synced == int(os.environ.get("DIE_AT_SYNC", 0)):
        die()
    fsync(descriptor)

MetricsLog.write, os.fsync = write_and_die, sync_and_die
"""
"""A `sitecustomize`: Python runs it at its start, in each process of a training."""


def killed(config: Config, folder: Path, **when: int) -> None:
    """Begin a training, or go on with it; it is killed, with all of its processes.

    Args:
        config: of the training.
        folder: of the run.
        when: DIE_AT_STEP, when the metrics of this step are written; or DIE_AT_SYNC,
            when the main process brings something to the disk for the nth time.
    """
    path, site = folder.with_suffix(".yaml"), folder.with_suffix(".site")
    path.write_text(to_yaml(config))
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(DYING)
    done = subprocess.run(
        [sys.executable, "-m", "asr", "train", str(path), str(folder)],
        cwd=ROOT,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
        | {name: str(number) for name, number in when.items()},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


def test_a_run_that_was_killed_goes_on_bit_for_bit(
    corpus: Path, tmp_path: Path
) -> None:
    length = {"epochs": 5, "batch_size": 1, "validations": 1}
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    train(settings(corpus, **length), whole)

    killed(saving(corpus, **length), stopped, DIE_AT_STEP=7)
    train(settings(corpus, **length), stopped)

    assert_same_run(stopped, whole)


@slow
@pytest.mark.parametrize("seed", range(3))
def test_a_run_may_be_killed_at_any_step_and_again(
    corpus: Path, tmp_path: Path, seed: int
) -> None:
    length = {"epochs": 12, "batch_size": 1, "validations": 4}
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    train(settings(corpus, **length), whole)
    rng = random.Random(seed)

    for step in sorted(rng.sample(range(1, 80), k=4)):
        killed(saving(corpus, **length), stopped, DIE_AT_STEP=step)
    train(settings(corpus, **length), stopped)

    assert_same_run(stopped, whole)


@slow
def test_a_run_may_be_killed_whenever_it_writes(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    stopped = tmp_path / "stopped"
    for number in (1, 2, 3, 4, 5, 8):  # settings, first checkpoint, later ones
        killed(saving(corpus), stopped, DIE_AT_SYNC=number)

    train(settings(corpus), stopped)

    assert_same_run(stopped, whole)


def test_a_half_written_checkpoint_is_never_seen(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    content = (whole / "checkpoint.safetensors").read_bytes()
    own = temporary_path(tmp_path.parent).name
    ended = subprocess.Popen(["true"])  # a process that no longer runs
    ended.wait()
    partial = tmp_path / own.replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    partial.write_bytes(content[: len(content) // 2])

    train(settings(corpus), tmp_path)

    assert_same_run(tmp_path, whole)
    assert not partial.exists()


def test_a_run_that_is_done_stays_as_it_is(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    done = shutil.copytree(whole, tmp_path / "done")
    train(settings(corpus), done)
    assert_same_run(done, whole)


def test_looking_at_dev_changes_nothing(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    train(settings(corpus, validations=5), tmp_path)
    assert_same(checkpoint(tmp_path), checkpoint(whole))


def test_another_seed_gives_another_network(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    train(settings(corpus, seed=2), tmp_path)
    ours, others = part(tmp_path, "model."), part(whole, "model.")
    assert not torch.equal(ours["ctc.weight"], others["ctc.weight"])


def test_a_seed_may_be_as_large_as_a_checkpoint_holds(
    corpus: Path, tmp_path: Path
) -> None:
    train(settings(corpus, seed=LARGEST, epochs=1, validations=1), tmp_path)

    assert place(tmp_path)["updates"] > 0


@pytest.mark.parametrize("seed", [LARGEST + 1, -LARGEST - 1])
def test_a_larger_seed_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=r"^training\.seed must be from -9"):
        TrainingConfig(seed=seed)


# What a run leaves in its folder


def test_the_settings_are_in_the_folder_and_in_the_checkpoint(
    corpus: Path, whole: Path
) -> None:
    config = settings(corpus)
    metadata = read_tensors(whole / "checkpoint.safetensors")[1]

    assert load_config(whole / "config.yaml") == config
    data = config.data
    more = {
        "tokenizer": CharTokenizer().to_dict(),
        "corpus": {
            "train": digest(read_manifest(data.train[0])),
            "dev": digest(read_manifest(data.dev)),
        },
    }
    assert metadata["config"] == json.loads(json.dumps(asdict(config) | more))
    assert place(whole)["epoch"] == 3
    assert place(whole)["step"] == place(whole)["updates"] == STEPS
    assert place(whole)["position"] == 0


def test_the_metrics_show_what_each_step_did(corpus: Path, whole: Path) -> None:
    lines, config = metrics(whole), settings(corpus)

    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for step, line in enumerate(lines):
        progress = step / STEPS
        assert line["progress"] == pytest.approx(progress)
        assert line["epoch"] == step // 4
        rate = learning_rate(config.schedule, step, progress)
        assert line["learning_rate"] == pytest.approx(rate)
        assert (line["guide"] > 0) == (0.1 <= progress < 0.5)
        assert line["gradient_norm"] > 0
        assert line["audio_per_second"] > 0
        both = 0.5 * line["spelling_loss"] + 0.5 * line["ctc_loss"]
        guide = config.loss.guide(progress) * line["guide"]
        assert line["loss"] == pytest.approx(both + guide, rel=1e-4)
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert list(whole.glob("tensorboard/events*"))


def test_the_expected_error_rate_is_part_of_the_loss_and_of_devs(
    corpus: Path, tmp_path: Path
) -> None:
    config = replace(
        settings(corpus, epochs=1),
        loss=LossConfig(mwer_weight=4.0, guide_weight=0, ctc_weight=0.3),
    )

    train(config, tmp_path)

    for line in metrics(tmp_path):
        parts = 0.7 * line["spelling_loss"] + 0.3 * line["ctc_loss"]
        wer = line["expected_wer"]
        assert line["loss"] == pytest.approx(parts + 4 * wer, rel=1e-4)
    assert max(line["expected_wer"] for line in metrics(tmp_path)) > 0
    for line in metrics(tmp_path, "dev/loss"):
        parts = 0.7 * line["dev/spelling_loss"] + 0.3 * line["dev/ctc_loss"]
        assert line["dev/loss"] > parts


@pytest.mark.parametrize("kind", ["location", "additive", "dot"])
def test_a_run_for_few_errors_searches_in_bfloat16_too(
    corpus: Path, tmp_path: Path, kind: str
) -> None:
    config = settings(corpus, epochs=1, precision="bfloat16")
    config = replace(
        config,
        attention=replace(config.attention, kind=kind),
        loss=LossConfig(mwer_weight=4.0),
    )

    train(config, tmp_path)

    assert len(metrics(tmp_path, "expected_wer")) == 4


def test_a_run_for_few_errors_goes_on_bit_for_bit(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(saving(corpus), loss=LossConfig(mwer_weight=4.0))
    train(config, tmp_path / "whole")

    cut_off(monkeypatch, "asr.training.plain_updates.losses", call=6)
    with pytest.raises(PowerCut):
        train(config, tmp_path / "cut")
    monkeypatch.undo()
    monkeypatch.setattr("asr.train.draw_attention", draw_nothing)
    train(config, tmp_path / "cut")

    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_dev_is_looked_at_evenly(whole: Path) -> None:
    assert [line["step"] for line in metrics(whole, "dev/cer")] == [6, 12]
    assert place(whole)["validations"] == 2


def test_each_look_at_dev_leaves_a_picture(corpus: Path, whole: Path) -> None:
    pictures = sorted((whole / "attention").iterdir())
    text = read_manifest(corpus / "dev.jsonl")[1].text  # in the middle of three

    assert [path.name for path in pictures] == ["step-000006.png", "step-000012.png"]
    for path in pictures:
        shape, said = path.read_text().split(") ")
        assert shape.startswith(f"({len(text) + 1}, ")  # <eos> is a row too
        assert said == text


def test_a_picture_is_a_picture(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = asr.reports.attention_plot.draw_attention
    monkeypatch.setattr("asr.train.draw_attention", draw)

    train(settings(corpus, epochs=1, batch_size=8, validations=1), tmp_path)

    (picture,) = (tmp_path / "attention").iterdir()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_model_holds_the_averaged_weights(corpus: Path, tmp_path: Path) -> None:
    train(settings(corpus, epochs=1, validations=1), tmp_path)

    model = load_model(tmp_path / "model")
    own, average = part(tmp_path, "model."), part(tmp_path, "average.")
    assert_same(dict(model.las.state_dict()), average)
    assert not torch.equal(own["ctc.weight"], average["ctc.weight"])
    assert model.metadata["step"] == 4
    (found,) = metrics(tmp_path, "dev/cer")
    assert model.metadata["dev/cer"] == round(found["dev/cer"], 4)


@pytest.mark.parametrize(
    ("losses", "best"), [([0.9, 0.5, 0.7, 0.6], 6), ([0.9, 0.5, 0.5, 0.7], 9)]
)
def test_the_best_model_on_dev_is_kept(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    losses: list[float],
    best: int,
) -> None:
    left = list(losses)

    def validate_with(*args: Any, **kwargs: Any) -> Validation:
        return replace(validate(*args, **kwargs), loss=left.pop(0))

    monkeypatch.setattr("asr.training.trainer.validate", validate_with)
    train(settings(corpus, validations=4), tmp_path)

    assert load_model(tmp_path / "model").metadata["step"] == best
    assert place(tmp_path)["best_loss"] == min(losses)


def test_what_is_validated_is_the_average_without_chance(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[tuple[bool, dict[str, Tensor], list[str]]]()

    def validate_and_look(las: LAS, dev: Dataset, *args: Any, **kw: Any) -> Validation:
        weights = {name: w.clone() for name, w in las.state_dict().items()}
        seen.append((las.training, weights, [u.id for u in dev.utterances]))
        return validate(las, dev, *args, **kw)

    monkeypatch.setattr("asr.training.trainer.validate", validate_and_look)
    config = settings(corpus, epochs=1, validations=1, dev_utterances=2)
    train(config, tmp_path)

    ((training, weights, ids),) = seen
    assert not training
    assert_same(weights, part(tmp_path, "average."))
    assert ids == ["dev-0", "dev-1"]


def test_the_last_validation_is_printed_in_a_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(settings(corpus, epochs=1, validations=1), tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("100.0 % | update 4 | epoch 1 | 0.")
    assert " min | dev loss " in line


# One step


def test_a_training_goes_on_when_nobody_reads_its_lines(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as unread:
        monkeypatch.setattr("sys.stdout", unread)

        train(settings(corpus, validations=4), tmp_path)

        print("This, too, goes nowhere.", flush=True)
    assert len(metrics(tmp_path, "dev/loss")) == 4


def one_step(corpus: Path, **training: Any) -> Config:
    """All eight utterances in one batch, once; no chance."""
    alone = {"epochs": 1, "batch_size": 8, "validations": 1}
    return calm(settings(corpus, **(alone | training)))


def gradient(folder: Path) -> Tensor:
    """What Adam made its first step of: its first moment is a tenth of it."""
    moments = part(folder, "optimizer.")
    return torch.cat(
        [10 * moments[name].flatten() for name in moments if name.endswith("exp_avg")]
    )


def test_the_features_are_measured_on_the_training_set(
    corpus: Path, whole: Path
) -> None:
    utterances = read_manifest(corpus / "train.jsonl")
    dataset = Dataset(utterances, CharTokenizer())
    expected = FeatureNorm()
    expected.measure([dataset.example(index).features for index in range(8)])

    assert_same(part(whole, "model.norm."), dict(expected.state_dict()))


@pytest.mark.parametrize(("average_decay", "kept"), [(0.998, 2 / 11), (0.05, 0.05)])
def test_the_first_average_worked_by_hand(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    average_decay: float,
    kept: float,
) -> None:
    # Of the weights before, (1 + 1) / (10 + 1) are kept, or less where that is asked.
    config = one_step(corpus, average_decay=average_decay)
    train(config, tmp_path / "moved")
    poison(monkeypatch, {1}, POISONS["loss and gradient"])
    train(config, tmp_path / "unmoved")

    before, after = part(tmp_path / "unmoved", "model."), tmp_path / "moved"
    for name, average in part(after, "average.").items():
        moved = part(after, "model.")[name]
        expected = kept * before[name] + (1 - kept) * moved
        torch.testing.assert_close(average, expected, msg=name)


def test_a_long_gradient_is_shortened(corpus: Path, tmp_path: Path) -> None:
    train(one_step(corpus, clip_norm=0.01), tmp_path)

    assert gradient(tmp_path).norm().item() == pytest.approx(0.01, rel=1e-3)
    assert metrics(tmp_path)[0]["gradient_norm"] > 0.01


def test_two_half_batches_give_the_gradient_of_a_whole_one(tmp_path: Path) -> None:
    # All texts are equally long: each character counts as much in half a batch.
    write_corpus(tmp_path, "train", ["GO ON", "DO IT", "I SAW", "ABOUT"])
    write_corpus(tmp_path, "dev", ["GO"])
    once = one_step(tmp_path, batch_size=4, clip_norm=1e9)
    halves = one_step(tmp_path, batch_size=2, accumulate=2, clip_norm=1e9)

    train(once, tmp_path / "once")
    train(halves, tmp_path / "halves")

    assert place(tmp_path / "halves")["step"] == 1
    torch.testing.assert_close(
        gradient(tmp_path / "halves"), gradient(tmp_path / "once"), rtol=1e-3, atol=1e-6
    )
    (one,), (other,) = metrics(tmp_path / "once"), metrics(tmp_path / "halves")
    for name in ("loss", "spelling_loss", "ctc_loss", "guide", "gradient_norm"):
        assert other[name] == pytest.approx(one[name], rel=1e-4), name


def test_the_last_group_of_an_epoch_may_be_smaller(
    corpus: Path, tmp_path: Path
) -> None:
    train(settings(corpus, epochs=1, batch_size=1, accumulate=3), tmp_path)
    assert place(tmp_path)["step"] == 3  # 3 + 3 + 2 batches
    assert place(tmp_path)["epoch"] == 1


def test_chance_and_guide_follow_the_schedule(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guides, chances, strengths = list[float](), list[float](), list[float]()

    def losses_and_note(*args: Any, guide: float, sampling: float) -> Any:
        guides.append(guide)
        chances.append(sampling)
        return losses(*args, guide=guide, sampling=sampling)

    def mask_and_note(features: Tensor, _: Any, strength: float, __: Any) -> Tensor:
        strengths.append(strength)
        return features

    monkeypatch.setattr("asr.training.plain_updates.losses", losses_and_note)
    monkeypatch.setattr("asr.data.dataset.spec_augment", mask_and_note)
    config = settings(corpus)
    train(config, tmp_path)

    done, schedule = [step / STEPS for step in range(STEPS)], config.schedule
    assert guides == pytest.approx([config.loss.guide(p) for p in done])
    assert any(guides)
    assert chances == pytest.approx([sampling_chance(schedule, p) for p in done])
    assert strengths[::2] == pytest.approx(
        [augment_strength(schedule, p) for p in done]
    )


def test_empty_texts_are_counted(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    utterances = read_manifest(corpus / "train.jsonl")
    some = [
        replace(one, text=text)
        for one, text in zip(utterances[:2], ("", " "), strict=True)
    ]
    write_manifest(tmp_path / "train.jsonl", [*some, *utterances[2:]])
    data = DataConfig([str(tmp_path / "train.jsonl")], str(corpus / "dev.jsonl"))

    train(replace(settings(corpus, epochs=1), data=data), tmp_path / "run")
    assert "data.train: 2 of 8 texts are empty" in capsys.readouterr().out

    train(settings(corpus, epochs=1), tmp_path / "other")
    assert "empty" not in capsys.readouterr().out


# What a user put beside the weights


def test_settings_of_a_model_are_kept_when_its_weights_get_better(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(settings(corpus, validations=1), tmp_path)
    add_further(tmp_path / "model", "decoding.json", b"{}")
    (tmp_path / "model" / "confidence.json").write_bytes(b"[]")
    capsys.readouterr()

    train(settings(corpus, epochs=9, validations=4), tmp_path)

    assert load_model(tmp_path / "model").metadata["step"] > STEPS
    assert read_further(tmp_path / "model", "decoding.json") == b"{}"
    assert read_further(tmp_path / "model", "confidence.json") == b"[]"
    output = capsys.readouterr().out
    assert output.count("model: keeps decoding.json and confidence.json, made for") == 1


# One process a folder


def test_a_folder_is_for_one_training_at_a_time(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")

    with locked(folder, "another"), pytest.raises(InUseError, match="is in use by"):
        train(settings(corpus, epochs=4), folder)

    assert place(folder) == place(whole)
    train(settings(corpus, epochs=4), folder)
    assert not (folder / ".lock").exists()


# Stopped by a signal


def signal_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Let a signal come when the metrics of an update are written."""
    write = MetricsLog.write

    def write_and_signal(log: MetricsLog, at: int, metrics: dict[str, float]) -> None:
        write(log, at, metrics)
        if at == step and "loss" in metrics:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(MetricsLog, "write", write_and_signal)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_costs_nothing(
    corpus: Path,
    tmp_path: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: int,
    status: int,
) -> None:
    both = signal.SIGINT, signal.SIGTERM
    handlers = [signal.getsignal(one) for one in both]
    with monkeypatch.context() as patch:
        signal_at(patch, 5, number)
        with pytest.raises(Stopped, match="stopped after update 6, with a") as caught:
            train(settings(corpus), tmp_path)

    assert caught.value.status == status
    assert "stops after this update" in capfd.readouterr().err
    assert handlers == [signal.getsignal(one) for one in both]
    assert place(tmp_path)["step"] == 6
    train(settings(corpus), tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_second_interrupt_acts_at_once(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    monkeypatch.setattr("asr.training.plain_updates.losses", twice)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(settings(corpus), tmp_path)

    assert caught.type is KeyboardInterrupt
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_a_signal_after_the_last_update_lets_training_finish(
    corpus: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        signal_at(patch, STEPS, signal.SIGINT)
        train(settings(corpus), tmp_path)

    assert_same_run(tmp_path, whole)


def test_in_another_thread_a_training_notes_no_signal(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(train, settings(corpus), tmp_path).result()

    assert_same_run(tmp_path, whole)


# Steps that are not finite

POISONS: dict[str, Callable[[Tensor], Tensor]] = {
    "loss and gradient": lambda total: total * math.nan,
    "loss only": lambda total: total + math.inf,
    "gradient only": lambda total: total + (0 * total).sqrt(),
}


def poison(
    monkeypatch: pytest.MonkeyPatch,
    steps: set[int],
    how: Callable[[Tensor], Tensor],
) -> list[str]:
    """Make some steps not finite; return what will be the ids of their utterances."""
    step, ids = itertools.count(1), list[str]()

    def poisoned(las: LAS, batch: Batch, *args: Any, **kwargs: Any) -> Any:
        parts, spelling = losses(las, batch, *args, **kwargs)
        if next(step) in steps:
            ids.extend(batch.ids)
            parts = parts._replace(total=how(parts.total))
        return parts, spelling

    monkeypatch.setattr("asr.training.plain_updates.losses", poisoned)
    return ids


def test_a_step_that_is_not_finite_is_left_out_and_named(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ids = poison(monkeypatch, {3}, POISONS["gradient only"])

    train(settings(corpus), tmp_path)

    assert (
        f"update 3 is not finite and left out: {ids[0]}, {ids[1]}\n"
        in capsys.readouterr().out
    )
    assert (place(tmp_path)["step"], place(tmp_path)["updates"]) == (12, 11)
    assert place(tmp_path)["bad_steps"] == 0
    assert all(
        bool(tensor.isfinite().all()) for tensor in checkpoint(tmp_path).values()
    )


@pytest.mark.parametrize("how", POISONS)
def test_a_step_that_is_left_out_moves_nothing(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    poison(monkeypatch, {1}, POISONS[how])

    train(one_step(corpus), tmp_path)

    assert_same(part(tmp_path, "model."), part(tmp_path, "average."))
    assert not part(tmp_path, "optimizer.")


def test_several_such_steps_in_a_row_stop_the_run_and_keep_the_checkpoint(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    with monkeypatch.context() as patch:
        ids = poison(patch, {3, 4, 5}, POISONS["loss and gradient"])
        with pytest.raises(TrainingError) as caught:
            train(saving(corpus, bad_steps=3), tmp_path)

    assert str(caught.value).startswith(
        f"{tmp_path}: 3 updates in a row were not finite, the last with {ids[4]}, "
        f"{ids[5]} (the checkpoint before is kept; "
    )
    assert place(tmp_path)["step"] == 2
    train(settings(corpus), tmp_path)
    assert_same_run(tmp_path, whole)


def test_where_the_first_steps_are_not_finite_there_is_no_checkpoint(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {1, 2}, POISONS["loss and gradient"])

    message = r"\(there is no checkpoint yet: the same command begins anew; a lower"
    with pytest.raises(TrainingError, match=message):
        train(settings(corpus, bad_steps=2), tmp_path)


def test_such_steps_here_and_there_do_not_stop_a_run(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {1, 3, 4, 6, 12}, POISONS["loss and gradient"])
    train(settings(corpus, bad_steps=3), tmp_path)
    assert place(tmp_path)["updates"] == STEPS - 5


# How long


def test_a_longer_training_goes_on(corpus: Path, tmp_path: Path) -> None:
    train(settings(corpus, epochs=1), tmp_path)
    train(settings(corpus, epochs=3), tmp_path)

    assert place(tmp_path)["epoch"] == 3
    assert [line["step"] for line in metrics(tmp_path)] == list(range(1, STEPS + 1))
    # Half way and at the end of what it was first, and of what it is now.
    assert [line["step"] for line in metrics(tmp_path, "dev/cer")] == [2, 4, 6, 12]
    assert load_config(tmp_path / "config.yaml").training.epochs == 3


def test_a_run_keeps_to_its_minutes(corpus: Path, tmp_path: Path) -> None:
    train(settings(corpus, minutes=0.01), tmp_path)

    *before, _ = [line["seconds"] for line in metrics(tmp_path)]
    assert all(seconds < 0.6 for seconds in before)
    assert place(tmp_path)["seconds"] >= 0.6
    assert place(tmp_path)["validations"] == 2
    for line in metrics(tmp_path):
        assert 0 <= line["progress"] <= 1


# What is refused

Change = Callable[[Config], Config]


def test_a_run_may_start_from_another_model(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    start, first = str(whole / "model"), tmp_path / "first"
    train(settings(corpus, start=start, epochs=1), first)

    later, weights = metrics(first)[0]["loss"], load_model(whole / "model").las
    assert later < metrics(whole)[0]["loss"]  # what was learned before is there
    assert torch.equal(load_model(first / "model").las.norm.mean, weights.norm.mean)


def test_a_run_may_start_from_a_model_on_the_hub(
    corpus: Path, tmp_path: Path, whole: Path, hub: Hub
) -> None:
    files = {path.name: path.read_bytes() for path in (whole / "model").iterdir()}
    hub.add("ann/las", files)

    train(settings(corpus, start="hf:ann/las", epochs=1), tmp_path / "run")

    assert metrics(tmp_path / "run")[0]["loss"] < metrics(whole)[0]["loss"]


def test_a_run_may_start_from_a_model_in_bytes(corpus: Path, tmp_path: Path) -> None:
    config = settings(corpus)
    config = replace(config, listener=replace(config.listener, size=8))
    train(config, tmp_path / "first")
    start = export(tmp_path / "first", tmp_path / "bytes", "int8").folder
    stored, _ = read_tensors(start / "model.safetensors")
    assert torch.int8 in {weight.dtype for weight in stored.values()}

    training = replace(config.training, start=str(start), epochs=1)
    train(replace(config, training=training), tmp_path / "later")

    first, later = (metrics(tmp_path / name) for name in ("first", "later"))
    assert later[0]["loss"] < first[0]["loss"]
    las = load_model(tmp_path / "later" / "model").las
    assert {weight.dtype for weight in las.parameters()} == {torch.float32}


def test_a_run_goes_on_without_the_model_that_it_started_from(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    start = tmp_path / "start"
    shutil.copytree(whole / "model", start)
    train(settings(corpus, start=str(start), epochs=1), tmp_path / "run")
    shutil.rmtree(start)

    train(settings(corpus, start=str(start), epochs=2), tmp_path / "run")

    assert place(tmp_path / "run")["epoch"] == 2


def test_in_bfloat16_a_run_learns_as_in_float32(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    train(settings(corpus, precision="bfloat16"), tmp_path)

    in_float32 = [m["loss"] for m in metrics(whole) if "loss" in m]
    in_bfloat16 = [m["loss"] for m in metrics(tmp_path) if "loss" in m]
    assert in_bfloat16 == pytest.approx(in_float32, rel=0.02)
    assert in_bfloat16 != in_float32


def test_a_start_from_another_network_is_refused(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    config = settings(corpus, start=str(whole))
    config = replace(config, speller=SpellerConfig(size=5, embedding_size=3))
    with pytest.raises(ConfigError, match=r"training\.start: .* another network"):
        train(config, tmp_path)


def test_a_start_from_a_narrower_listener_grows_it(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    config = settings(corpus, start=str(whole), epochs=1)
    wide = replace(config.listener, size=config.listener.size + 3)
    train(replace(config, listener=wide), tmp_path)

    las = load_model(tmp_path / "model").las
    assert las.config.listener.size == config.listener.size + 3
    assert metrics(tmp_path)[0]["loss"] < metrics(whole)[0]["loss"]


def with_alphabet(characters: str, config: Config, folder: Path) -> Config:
    path = folder / "alphabet.txt"
    path.write_text(characters, encoding="utf-8")
    return replace(config, tokenizer=TokenizerConfig(alphabet=str(path)))


def test_a_start_from_another_alphabet_keeps_the_rows_of_its_characters(
    corpus: Path, tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(corpus, start=str(whole), epochs=1)
    config = with_alphabet("ACDEGHINOSTUWЖ", config, tmp_path)
    config = replace(config, schedule=ScheduleConfig(learning_rate=1e-30))

    train(config, tmp_path / "run")

    line = "15 characters keep their weights"
    assert f"training.start: {whole / 'model'}: 14 of {line}, 1 anew (Ж)" in (
        capsys.readouterr().out
    )
    start, model = load_model(whole / "model"), load_model(tmp_path / "run" / "model")
    assert isinstance(model.tokenizer, CharTokenizer)
    assert model.tokenizer.characters == " ACDEGHINOSTUWЖ"
    old = [0, 1, 2, *start.tokenizer.encode(" ACDEGHINOSTUW")]
    for module in ("speller.embedding", "speller.output", "ctc"):
        before = start.las.get_submodule(module).weight
        after = model.las.get_submodule(module).weight
        assert isinstance(before, Tensor)
        assert isinstance(after, Tensor)
        assert torch.equal(after[:-1], before[old])


def test_a_run_of_another_alphabet_goes_on_without_its_start(
    corpus: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = shutil.copytree(whole / "model", tmp_path / "start")
    config = saving(corpus, start=str(start), epochs=1, kept_rate=0.1)
    config = with_alphabet("ACDEGHINOSTUWЖ", config, tmp_path)
    train(config, tmp_path / "whole")

    with monkeypatch.context() as patch:
        cut_off(patch, "asr.training.trainer.save_checkpoint", 3)
        with pytest.raises(PowerCut):
            train(config, tmp_path / "run")
    shutil.rmtree(start)
    train(config, tmp_path / "run")

    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_run_goes_on_where_its_paths_are_spelled_otherwise(
    corpus: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = shutil.copytree(whole, tmp_path / "start")
    config = settings(corpus, epochs=1, start=str(start))
    config = with_alphabet(" AEDGINOSTUWÄ", config, tmp_path)
    train(config, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    name = Path(config.tokenizer.alphabet).name
    otherwise = replace(
        config,
        tokenizer=TokenizerConfig(alphabet=name),
        training=replace(config.training, epochs=2, start="start"),
    )

    train(otherwise, tmp_path / "run")

    assert place(tmp_path / "run")["epoch"] == 2
    finished = replace(otherwise.training, start=str(start))
    train(replace(config, training=finished), tmp_path / "run")  # as at first
    (tmp_path / name).write_text(" AEDGINOSTUWÖ", encoding="utf-8")
    with pytest.raises(ConfigError, match="a run with other settings of tokenizer "):
        train(otherwise, tmp_path / "run")


def test_a_start_from_subwords_cannot_take_another_vocabulary(
    corpus: Path, tmp_path: Path, subword_model: Model
) -> None:
    model = subword_model
    save_model(tmp_path / "start", model.las, model.tokenizer, {})
    config = settings(corpus, start=str(tmp_path / "start"))
    with pytest.raises(
        ConfigError,
        match=r"training\.start: .* has another tokenizer .*subwords; only characters",
    ):
        train(config, tmp_path / "run")


# Parts that learn nothing, or more slowly


@pytest.mark.parametrize("fixed_shapes", ["never", "always"])
@pytest.mark.parametrize(
    "parts", [["listener"], ["speller"], ["listener", "ctc"], ["listener", "speller"]]
)
def test_what_is_frozen_stays_as_it_is_to_the_bit(
    corpus: Path, tmp_path: Path, whole: Path, fixed_shapes: str, parts: list[str]
) -> None:
    config = settings(
        *(corpus,),
        start=str(whole),
        freeze=parts,
        fixed_shapes=fixed_shapes,
        weight_decay=0.5,
        epochs=1,
    )
    train(config, tmp_path)

    start = weights_of_model(whole)
    for prefix in ("model.", "average."):
        found = part(tmp_path, prefix)
        frozen = {n for n in found if n.startswith(tuple(f"{p}." for p in parts))}
        assert frozen
        for name in start.keys() - {"norm.mean", "norm.deviation"}:
            assert torch.equal(found[name], start[name]) == (name in frozen) or (
                name.startswith("norm")
            ), name


def test_a_frozen_part_that_is_none_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"training\.freeze: listner: .*mean listener"
    ):
        train(settings(corpus, freeze=["listner"]), tmp_path)


@pytest.mark.parametrize("fixed_shapes", ["never", "always"])
def test_what_was_taken_over_learns_at_its_share_of_the_rate(
    corpus: Path, tmp_path: Path, whole: Path, fixed_shapes: str
) -> None:
    # Adam's first update goes by the learning rate, whatever the gradient's size.
    config = settings(
        *(corpus,),
        start=str(whole / "model"),
        kept_rate=0.125,
        epochs=1,
        batch_size=8,
        weight_decay=0.0,
        fixed_shapes=fixed_shapes,
        clip_norm=1e6,
    )
    config = replace(config, augment=AugmentConfig([1.0]))
    config = replace(config, schedule=ScheduleConfig(0.01, 0, final_rate=1.0))
    train(with_alphabet(ALPHABET + "Ж", config, tmp_path), tmp_path / "run")

    assert place(tmp_path / "run")["step"] == 1
    start, end = weights_of_model(whole), part(tmp_path / "run", "model.")
    old, new = "speller.hidden.weight", "speller.output.weight"
    moved = (end[old] - start[old]).abs().max()
    assert float(moved) == pytest.approx(0.00125, rel=1e-3)
    moved = (end[new][:-1] - start[new]).abs().max()
    assert float(moved) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("rate", [0.0, 1.5, -1.0])
def test_a_share_of_the_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="kept_rate is a share above 0 and at most 1"):
        TrainingConfig(start="model", kept_rate=rate)


def test_a_share_of_the_rate_is_for_what_was_taken_over() -> None:
    with pytest.raises(ValueError, match=r"with training\.start only"):
        TrainingConfig(kept_rate=0.1)


def in_training(**changes: Any) -> Change:
    return lambda config: replace(config, training=replace(config.training, **changes))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: replace(c, listener=ListenerConfig(size=5)), "listener"),
        (lambda c: replace(c, attention=AttentionConfig(size=5)), "attention"),
        (lambda c: replace(c, speller=SpellerConfig(size=5)), "speller"),
        (lambda c: replace(c, augment=AugmentConfig(speeds=[1.0])), "augment"),
        (
            lambda c: replace(
                c, listener=ListenerConfig(size=5), speller=SpellerConfig(size=5)
            ),
            "listener, speller",
        ),
        (in_training(seed=2), "training.seed"),
        (in_training(freeze=["listener"]), "training.freeze"),
        (in_training(batch_seconds=60.0), "training.batch_seconds"),
        (in_training(batch_size=4), "training.batch_size"),
        (in_training(short_first=False), "training.short_first"),
    ],
)
def test_a_run_of_other_settings_is_refused_by_name(
    corpus: Path, tmp_path: Path, whole: Path, change: Change, named: str
) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")

    with pytest.raises(ConfigError) as caught:
        train(change(settings(corpus)), folder)

    assert str(caught.value) == (
        f"{folder}: holds a run with other settings of {named} "
        "(take another folder, or delete this one)"
    )
    config_file = folder / "config.yaml"
    assert config_file.read_bytes() == (whole / "config.yaml").read_bytes()


CHANGES: dict[str, Callable[[list[Utterance]], list[Utterance]]] = {
    "shorter": lambda all: all[:-1],
    "much shorter": lambda all: all[:1],
    "longer": lambda all: [*all, replace(all[0], id="new")],
    "another text": lambda all: [*all[:-1], replace(all[-1], text="NO")],
    "another id": lambda all: [replace(all[0], id="other"), *all[1:]],
    "another duration": lambda all: [replace(all[0], duration=0.5), *all[1:]],
    "another order": lambda all: [*all[1:], all[0]],
    "another speaker": lambda all: [*all[:-1], replace(all[-1], speaker="new")],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_does_not_go_on_with_another_corpus(
    corpus: Path, tmp_path: Path, whole: Path, change: str
) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    changed = CHANGES[change](read_manifest(corpus / "train.jsonl"))
    write_manifest(tmp_path / "train.jsonl", changed)
    data = DataConfig([str(tmp_path / "train.jsonl")], str(corpus / "dev.jsonl"))

    message = re.escape(f"{folder}: holds a run on another corpus than data.train")
    with pytest.raises(ConfigError, match=message):
        train(replace(settings(corpus, epochs=4), data=data), folder)

    assert place(folder) == place(whole)
    assert (folder / "config.yaml").read_bytes() == (whole / "config.yaml").read_bytes()


def test_a_run_does_not_go_on_with_a_part_of_its_corpus(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    config = settings(corpus)

    with pytest.raises(ConfigError, match="holds a run on another corpus than"):
        train(replace(config, data=replace(config.data, every=2)), folder)


def test_without_joins_it_does_not_matter_who_speaks(
    corpus: Path, tmp_path: Path
) -> None:
    config = calm(settings(corpus, epochs=1))
    train(config, tmp_path / "run")
    changed = CHANGES["another speaker"](read_manifest(corpus / "train.jsonl"))
    write_manifest(tmp_path / "train.jsonl", changed)
    data = replace(config.data, train=[str(tmp_path / "train.jsonl")])

    train(replace(calm(settings(corpus, epochs=2)), data=data), tmp_path / "run")

    assert place(tmp_path / "run")["epoch"] == 2


@pytest.mark.parametrize("num_manifests", [1, 3])
def test_a_run_goes_on_with_its_corpus_in_another_place(
    corpus: Path, tmp_path: Path, whole: Path, num_manifests: int
) -> None:
    """The same contents in other folders, and in another number of manifests."""
    with pytest.MonkeyPatch.context() as patch:
        cut_off(patch, "asr.training.plain_updates.losses", 8)
        with pytest.raises(PowerCut):
            train(saving(corpus), tmp_path / "run")
    moved = shutil.copytree(corpus, tmp_path / "moved")
    utterances = read_manifest(moved / "train.jsonl")
    size = -(-len(utterances) // num_manifests)
    for number in range(num_manifests):
        part = utterances[number * size : (number + 1) * size]
        write_manifest(moved / f"part-{number}.jsonl", part)
    parts = [str(moved / f"part-{number}.jsonl") for number in range(num_manifests)]
    data = DataConfig(parts, str(moved / "dev.jsonl"))

    train(replace(settings(corpus), data=data), tmp_path / "run")

    assert_same_run(tmp_path / "run", whole)


def test_utterances_of_shards_are_not_joined(corpus: Path, tmp_path: Path) -> None:
    write_shards(corpus / "train.jsonl", tmp_path / "shards", hours=0.001)
    config = settings(corpus)
    data = replace(config.data, train=[str(tmp_path / "shards" / "manifest.jsonl")])

    with pytest.raises(ConfigError, match=r"augment\.join: is not for shards, whose"):
        train(replace(config, data=data), tmp_path / "run")


def test_a_run_on_shards_is_one_on_its_utterances(corpus: Path, tmp_path: Path) -> None:
    write_shards(corpus / "train.jsonl", tmp_path / "shards", hours=0.001)
    config = calm(settings(corpus, epochs=1, validations=1))
    manifest = str(tmp_path / "shards" / "manifest.jsonl")
    on_shards = replace(config, data=replace(config.data, train=[manifest]))
    train(on_shards, tmp_path / "run")

    (tmp_path / "shards").rename(tmp_path / "moved")
    manifest = str(tmp_path / "moved" / "manifest.jsonl")
    config = calm(settings(corpus, epochs=2, validations=1))
    moved = replace(config, data=replace(config.data, train=[manifest]))
    train(moved, tmp_path / "run")
    assert place(tmp_path / "run")["epoch"] == 2

    lines = Path(manifest).read_text().replace('"text": "', '"text": "A ')
    Path(manifest).write_text(lines)
    with pytest.raises(ConfigError, match="holds a run on another corpus than"):
        train(moved, tmp_path / "run")


def as_an_older_version_wrote_it(folder: Path) -> None:
    """Make a checkpoint one that does not know what its corpus held."""
    path = folder / "checkpoint.safetensors"
    tensors, metadata = read_tensors(path)
    del metadata["config"]["corpus"]
    write_tensors(path, tensors, metadata)


def test_a_checkpoint_of_an_older_version_goes_on_with_the_same_manifests(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    as_an_older_version_wrote_it(folder)
    config = settings(corpus)
    moved = shutil.copytree(corpus, tmp_path / "moved")
    data = DataConfig([str(moved / "train.jsonl")], config.data.dev)

    with pytest.raises(ConfigError, match="other settings of data "):
        train(replace(config, data=data), folder)
    train(settings(corpus, epochs=4), folder)
    assert place(folder)["epoch"] == 4
    train(replace(settings(corpus, epochs=5), data=data), folder)  # now it knows
    assert place(folder)["epoch"] == 5


def test_a_manifest_that_became_shorter_does_not_stop_an_older_run(
    corpus: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(corpus, tmp_path / "data")
    with pytest.MonkeyPatch.context() as patch:
        cut_off(patch, "asr.training.plain_updates.losses", 8)
        with pytest.raises(PowerCut):
            train(saving(data), tmp_path / "run")
    as_an_older_version_wrote_it(tmp_path / "run")
    write_manifest(data / "train.jsonl", read_manifest(data / "train.jsonl")[:1])

    train(settings(data), tmp_path / "run")

    assert place(tmp_path / "run")["epoch"] == 3


def with_a_loss_that_none_is_below(run: Path, folder: Path) -> Path:
    """Copy a run, whose best loss shall be one that only another measure gives."""
    shutil.copytree(run, folder)
    tensors, metadata = read_tensors(folder / "checkpoint.safetensors")
    metadata["place"]["best_loss"] = -1.0
    write_tensors(folder / "checkpoint.safetensors", tensors, metadata)
    return folder


def test_another_dev_set_is_measured_anew(
    corpus: Path, tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_a_loss_that_none_is_below(whole, tmp_path / "run")
    longer = settings(corpus, epochs=4, validations=3)

    train(longer, shutil.copytree(folder, tmp_path / "same"))
    assert place(tmp_path / "same")["best_loss"] == -1
    assert "dev is another" not in capsys.readouterr().out

    utterances = read_manifest(corpus / "dev.jsonl")
    write_manifest(tmp_path / "dev.jsonl", utterances[1:])
    data = replace(longer.data, dev=str(tmp_path / "dev.jsonl"))
    train(replace(longer, data=data), folder)
    assert f"{folder}: dev is another than before" in capsys.readouterr().out
    assert place(folder)["best_loss"] > 0
    assert load_model(folder / "model").metadata["step"] > place(whole)["step"]


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("ctc_weight", LossConfig(ctc_weight=0.3)),
        ("label_smoothing", LossConfig(label_smoothing=0.2)),
        ("mwer_weight", LossConfig(mwer_weight=4.0)),
    ],
)
def test_with_another_loss_dev_is_measured_anew(
    corpus: Path,
    tmp_path: Path,
    whole: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    loss: LossConfig,
) -> None:
    folder = with_a_loss_that_none_is_below(whole, tmp_path / "run")
    longer = settings(corpus, epochs=4, validations=3)

    train(replace(longer, loss=loss), folder)

    assert f"{folder}: loss.{name} is another than before" in capsys.readouterr().out
    assert place(folder)["best_loss"] > 0
    assert load_model(folder / "model").metadata["step"] > place(whole)["step"]


def test_the_guide_is_not_part_of_what_dev_is_measured_by(
    corpus: Path, tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    longer = settings(corpus, epochs=4, validations=3)

    train(replace(longer, loss=LossConfig(guide_weight=0.0)), folder)

    assert "is another than before" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        in_training(validations=5, dev_utterances=1, checkpoint_minutes=1.0),
        in_training(clip_norm=1.0, weight_decay=0.0, average_decay=0.5, bad_steps=9),
        lambda c: replace(c, schedule=ScheduleConfig(learning_rate=1e-5)),
        lambda c: replace(c, loss=LossConfig(ctc_weight=0.3)),
    ],
)
def test_how_fast_to_learn_may_change(
    corpus: Path, tmp_path: Path, whole: Path, change: Change
) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    train(change(settings(corpus, epochs=4, validations=3)), folder)
    assert place(folder)["step"] > STEPS
    assert place(folder)["epoch"] == 4


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (in_training(dev_utterances=1), "training.dev_utterances"),
        (in_training(minutes=1e-6), "training.minutes"),
        (
            lambda c: replace(c, schedule=ScheduleConfig(learning_rate=1e-5)),
            "schedule.learning_rate",
        ),
    ],
)
def test_other_settings_that_would_change_nothing_are_refused(
    corpus: Path, whole: Path, change: Change, name: str
) -> None:
    written = (whole / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=f"is finished, with other .* of .*{name}"):
        train(change(settings(corpus)), whole)
    assert (whole / "config.yaml").read_bytes() == written


def test_a_run_is_finished_when_there_is_nothing_more_to_train(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    config = settings(corpus)
    assert is_finished(config, whole)
    assert not is_finished(
        in_training(epochs=config.training.epochs + 1)(config), whole
    )
    assert not is_finished(in_training(validations=99)(config), whole)
    assert is_finished(in_training(minutes=1e-6)(config), whole)
    assert not is_finished(in_training(minutes=99.0)(config), whole)
    assert not is_finished(config, tmp_path)


def test_a_run_with_other_tokens_is_refused(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    other = CharTokenizer("".join(reversed(ALPHABET)))
    with pytest.raises(ConfigError, match="other settings of tokenizer"):
        train(settings(corpus), folder, other)


def test_a_run_of_an_older_version_without_some_setting_goes_on(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    written = (folder / "config.yaml").read_text()
    assert "  every: 1\n" in written
    assert "  heads: 1\n" in written
    older = written.replace("  every: 1\n", "").replace("  heads: 1\n", "")
    (folder / "config.yaml").write_text(older)
    train(settings(corpus), folder)
    assert (folder / "config.yaml").read_text() == written


def test_dev_must_not_be_learned(corpus: Path, tmp_path: Path) -> None:
    config = settings(corpus)
    both = replace(config.data, train=[*config.data.train, config.data.dev])
    message = (
        r"dev\.jsonl: 3 of its utterances are in the training set too, the first is "
        "dev-0$"
    )
    with pytest.raises(ManifestError, match=message):
        train(replace(config, data=both), tmp_path)


def test_an_utterance_must_fit_into_a_batch_at_its_slowest(
    corpus: Path, tmp_path: Path
) -> None:
    longest = max(
        read_manifest(corpus / "train.jsonl"), key=lambda utterance: utterance.duration
    )
    message = (
        rf"^training\.batch_seconds: {longest.id} is {longest.duration:.1f} s long and "
        rf"at most {0.9 * longest.duration:.1f} s fit into a batch at the slowest speed"
    )
    with pytest.raises(ConfigError, match=message):
        train(settings(corpus, batch_seconds=longest.duration), tmp_path)


def test_joined_utterances_fit_into_a_batch_at_their_slowest(
    corpus: Path,
) -> None:
    config = settings(corpus, batch_seconds=1.2)
    config = replace(config, augment=AugmentConfig([0.8, 1.0], join=1.0))

    data = read_data(config, CharTokenizer()).train

    found = [data.duration(i, epoch) for i in range(len(data)) for epoch in range(9)]
    assert max(found) <= 1.2
    assert max(found) > max(data.durations) / 0.8  # some are joined


def test_a_training_needs_a_manifest(corpus: Path, tmp_path: Path) -> None:
    config = settings(corpus)
    with pytest.raises(ConfigError, match=r"^data\.train: names no manifest"):
        train(replace(config, data=replace(config.data, train=[])), tmp_path)


def test_a_folder_that_cannot_be_made_is_reported(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/run: cannot be made \(Not a dir"):
        train(settings(corpus), tmp_path / "file" / "run")


def test_a_missing_recording_stops_the_run_by_name(
    corpus: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(corpus, tmp_path / "corpus")
    (moved / "train-5.wav").unlink()
    with pytest.raises(AudioError, match=r"train-5\.wav: cannot be read"):
        train(settings(moved), tmp_path / "run")


def test_a_damaged_checkpoint_is_reported(
    corpus: Path, tmp_path: Path, whole: Path
) -> None:
    content = (whole / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(content[:-9])
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: is damaged"):
        train(settings(corpus), tmp_path)


@pytest.mark.parametrize("damage", ["another size", "no place", "another place"])
def test_a_checkpoint_of_another_network_is_refused(
    corpus: Path, tmp_path: Path, whole: Path, damage: str
) -> None:
    path, config = tmp_path / "checkpoint.safetensors", settings(corpus)
    tensors, metadata = read_tensors(whole / "checkpoint.safetensors")
    if damage == "another size":
        config = replace(config, speller=SpellerConfig(size=5, embedding_size=3))
    elif damage == "no place":
        del metadata["place"]
    else:
        metadata["place"]["verse"] = 7
    write_tensors(path, tensors, metadata)

    message = r"checkpoint\.safetensors: is (of another network|no checkpoint) \(.+\)$"
    with pytest.raises(CheckpointError, match=message):
        train(config, tmp_path)


# In several processes


@slow
def test_two_processes_give_the_gradient_of_one(corpus: Path, tmp_path: Path) -> None:
    alone = one_step(corpus, batch_size=2, accumulate=4)
    shared = one_step(corpus, batch_size=2, accumulate=2, processes=2)

    train(alone, tmp_path / "alone")
    train(shared, tmp_path / "shared")

    torch.testing.assert_close(
        gradient(tmp_path / "shared"),
        gradient(tmp_path / "alone"),
        rtol=1e-3,
        atol=1e-6,
    )
    (one,), (other,) = metrics(tmp_path / "alone"), metrics(tmp_path / "shared")
    for name in ("loss", "spelling_loss", "ctc_loss", "guide", "gradient_norm"):
        assert other[name] == pytest.approx(one[name], rel=1e-4), name


@slow
def test_two_processes_that_were_killed_go_on_bit_for_bit(
    corpus: Path, tmp_path: Path
) -> None:
    length = {"epochs": 12, "batch_size": 1, "processes": 2}
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    train(settings(corpus, **length), whole)

    killed(saving(corpus, **length), stopped, DIE_AT_STEP=7)
    train(settings(corpus, **length), stopped)

    assert_same_run(stopped, whole)


@slow
def test_the_error_of_one_of_two_processes_is_raised(
    corpus: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(corpus, tmp_path / "corpus")
    config = saving(moved, batch_size=1, processes=2, epochs=50)
    folder = tmp_path / "run"
    killed(config, folder, DIE_AT_STEP=2)
    (moved / "train-5.wav").unlink()

    with pytest.raises(TrainingError, match=r"train-5\.wav: cannot be read"):
        train(config, folder)


# Subwords


def in_subwords(config: Config, size: int = 17) -> Config:
    return replace(config, tokenizer=TokenizerConfig("subwords", size))


@pytest.fixture(scope="module")
def pieces_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `in_subwords(settings(corpus))`, stopped after its first epoch."""
    folder = tmp_path_factory.mktemp("subwords")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("asr.train.draw_attention", draw_nothing)
        train(in_subwords(settings(corpus, epochs=1)), folder)
    return folder


def test_a_vocabulary_is_made_of_the_training_texts_and_kept(
    corpus: Path, pieces_run: Path
) -> None:
    texts = [utterance.text for utterance in read_manifest(corpus / "train.jsonl")]

    made = Subwords.make(texts, 17)

    assert (pieces_run / SUBWORDS).read_bytes() == made.model
    assert load_model(pieces_run / "model").tokenizer == made
    assert load_config(pieces_run / "config.yaml").tokenizer.size == 17
    written = read_metadata(pieces_run / "checkpoint.safetensors")["config"]
    assert written["tokenizer"] == made.to_dict()


def test_the_rows_of_a_picture_are_subwords(corpus: Path, pieces_run: Path) -> None:
    tokenizer = load_model(pieces_run / "model").tokenizer
    text = read_manifest(corpus / "dev.jsonl")[1].text

    for picture in (pieces_run / "attention").iterdir():
        shape, drawn = picture.read_text().split(") ", 1)
        tokens = tokenizer.encode(text)
        assert shape.startswith(f"({len(tokens) + 1}, ")
        assert drawn == "".join(tokenizer.pieces(tokens))


def test_a_run_goes_on_with_its_vocabulary_whatever_became_of_the_texts(
    corpus: Path, pieces_run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(pieces_run, tmp_path / "run")
    config = in_subwords(settings(corpus, epochs=2))
    before = (corpus / "train.jsonl").read_bytes()
    utterances = read_manifest(corpus / "train.jsonl")

    try:
        changed = [replace(one, text="SEE TEA") for one in utterances]
        write_manifest(corpus / "train.jsonl", changed)
        as_an_older_version_wrote_it(folder)
        train(config, folder)
    finally:
        (corpus / "train.jsonl").write_bytes(before)

    assert place(folder)["epoch"] == 2
    for path in (folder / SUBWORDS, folder / "model" / SUBWORDS):
        assert path.read_bytes() == (pieces_run / SUBWORDS).read_bytes()


def test_a_run_that_lost_its_vocabulary_makes_the_same_again(
    corpus: Path, pieces_run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(pieces_run, tmp_path / "run")
    (folder / SUBWORDS).unlink()

    train(in_subwords(settings(corpus, epochs=2)), folder)

    kept = (folder / SUBWORDS).read_bytes()
    assert kept == (pieces_run / SUBWORDS).read_bytes()


def test_a_run_whose_vocabulary_was_exchanged_is_refused(
    corpus: Path, pieces_run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(pieces_run, tmp_path / "run")
    texts = [utterance.text for utterance in read_manifest(corpus / "train.jsonl")]
    (folder / SUBWORDS).write_bytes(Subwords.make(texts, 16).model)

    with pytest.raises(ConfigError, match="with other settings of tokenizer "):
        train(in_subwords(settings(corpus, epochs=2)), folder)


def test_a_run_whose_vocabulary_was_damaged_is_refused(
    corpus: Path, pieces_run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(pieces_run, tmp_path / "run")
    (folder / SUBWORDS).write_bytes(b"damaged")

    with pytest.raises(CheckpointError, match=r"subwords\.model: is no vocabulary of"):
        train(in_subwords(settings(corpus, epochs=2)), folder)


@pytest.mark.parametrize("other", ["characters", "another size"])
def test_a_run_does_not_go_on_with_other_units(
    corpus: Path, pieces_run: Path, tmp_path: Path, other: str
) -> None:
    folder = shutil.copytree(pieces_run, tmp_path / "run")
    config = settings(corpus, epochs=2)

    with pytest.raises(ConfigError, match="with other settings of tokenizer "):
        train(config if other == "characters" else in_subwords(config, 16), folder)

    assert (folder / SUBWORDS).read_bytes() == (pieces_run / SUBWORDS).read_bytes()


def test_a_start_from_a_model_of_subwords_takes_its_vocabulary(
    corpus: Path, pieces_run: Path, tmp_path: Path
) -> None:
    config = in_subwords(settings(corpus, epochs=1, start=str(pieces_run)))
    fewer = replace(config.data, every=2)  # of which another vocabulary would be made

    train(replace(config, data=fewer), tmp_path / "run")

    kept = (tmp_path / "run" / SUBWORDS).read_bytes()
    assert kept == (pieces_run / SUBWORDS).read_bytes()
    with pytest.raises(ConfigError, match=r"other tokenizer .*\(17 tokens, subw"):
        train(in_subwords(config, 16), tmp_path / "smaller")
    with pytest.raises(ConfigError, match=r"other tokenizer .*\(17 tokens, subw"):
        train(replace(config, tokenizer=TokenizerConfig()), tmp_path / "characters")


def test_a_vocabulary_may_be_handed_over(corpus: Path, tmp_path: Path) -> None:
    texts = [utterance.text for utterance in read_manifest(corpus / "train.jsonl")]
    own = Subwords.make([*texts, "SEE"], 16)
    config = settings(corpus, epochs=1)

    train(config, tmp_path, own)
    train(replace(config, training=replace(config.training, epochs=2)), tmp_path, own)

    assert load_model(tmp_path / "model").tokenizer == own
    assert place(tmp_path)["epoch"] == 2


def test_too_many_subwords_leave_no_run(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.size: 900 is too much"):
        train(in_subwords(settings(corpus), 900), tmp_path / "run")

    assert not (tmp_path / "run").exists()
