"""A model is adapted to tones that it has not been trained on."""

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor

import asr.adaptation.adapt
from asr.adaptation.adapt import Adapted, adapt
from asr.adaptation.settings import AMOUNTS, amount_of
from asr.audio import SAMPLE_RATE
from asr.cli import main
from asr.config import Config, DataConfig, load_config
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.decoding.config import DecodingConfig
from asr.errors import AsrError, ConfigError
from asr.features import AugmentConfig
from asr.inference.search_settings import save_decoding
from asr.inference.situations import Situation
from asr.model.attention import AttentionConfig
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.model.storage import (
    DECODING,
    Model,
    find_model,
    further_files,
    load_model,
    save_model,
)
from asr.text import CharTokenizer
from asr.train import train
from asr.training.config import TrainingConfig
from asr.training.schedule import ScheduleConfig
from recipes.toy.make import sing

slow = pytest.mark.slow
NEW = "Ж"
"""A letter that no model here knows; it sounds as Z."""


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw_nothing(
        path: Path, weights: Tensor, tokens: Sequence[str], waveform: Tensor
    ) -> None:
        path.write_text(f"{tuple(weights.shape)} {''.join(tokens)} {len(waveform)}")

    monkeypatch.setattr("asr.train.draw_attention", draw_nothing)


def write_corpus(folder: Path, name: str, letters: str, number: int) -> Path:
    """Write utterances of three speakers, in words of some letters."""
    utterances, rng = [], random.Random(f"{name} {letters}")
    for n in range(number):
        words = ["".join(rng.choices(letters, k=rng.randint(2, 4))) for _ in range(2)]
        path = folder / f"{name}-{n}.wav"
        samples = sing(" ".join(words).replace(NEW, "Z"), rng)
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, SAMPLE_RATE)
        seconds = len(samples) / SAMPLE_RATE
        speaker = f"{name}{n % 3}"
        one = Utterance(path.stem, str(path), seconds, " ".join(words), speaker)
        utterances.append(one)
    write_manifest(folder / f"{name}.jsonl", utterances)
    return folder / f"{name}.jsonl"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_corpus(folder, "train", "AE", 12)
    write_corpus(folder, "dev", "AE", 6)
    return folder


FAST = (
    *("training.epochs=1", "training.minutes=null", "training.validations=1"),
    *("decoding.lm_weight=0", "decoding.beam_size=2"),
)


def quickly(model: Path | str | None, data: Path, folder: Path, **more: Any) -> Adapted:
    lines = more.pop("lines", [])
    options: dict[str, Any] = {"device": "cpu", "processes": 1, "overrides": FAST}
    return adapt(model, data, folder, report=lines.append, **(options | more))


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@slow
def test_an_adaptation_ends_with_a_model_and_what_was_gained(
    model_folder: Path, data: Path, tmp_path: Path
) -> None:
    save_decoding(model_folder, Situation.WITHOUT, DecodingConfig(beam_size=3))
    lines = list[str]()

    adapted = quickly(
        *(model_folder, data, tmp_path / "run"), overrides=FAST[:-1], lines=lines
    )

    model = load_model(tmp_path / "run" / "model")
    assert model.metadata["adapted from"] == model_folder.parent.name
    assert model.metadata["share of the training"] == adapted.share
    assert DECODING in further_files(tmp_path / "run" / "model")
    decoded = json.loads((tmp_path / "run" / "after" / "decode.json").read_text())
    before = json.loads((tmp_path / "run" / "before" / "decode.json").read_text())
    assert decoded["decoding"] == before["decoding"]
    assert decoded["decoding"]["beam_size"] == 3
    assert lines[1:3] == [
        f"to learn from: {seconds(data, 'train')} s, 12 utterances of 3 speakers",
        f"held out: {seconds(data, 'dev')} s, 6 utterances of 3 speakers",
    ]
    assert any(line.startswith("held out: WER ") for line in lines)
    assert lines[-2:] == [
        f"  asr evaluate robustness {tmp_path / 'run' / 'data' / 'dev.jsonl'} "
        f"--model {tmp_path / 'run'}",
        f"  asr calibrate {tmp_path / 'run' / 'data' / 'dev.jsonl'} "
        f"{tmp_path / 'run' / 'model'}",
    ]


def seconds(data: Path, name: str) -> str:
    found = sum(u.duration for u in read_manifest(data / f"{name}.jsonl"))
    return f"{found:.1f}"


def test_the_share_with_the_lowest_loss_is_taken(
    model_folder: Path, data: Path, tmp_path: Path
) -> None:
    adapted = quickly(model_folder, data, tmp_path / "run")

    losses = adapted.losses
    assert list(losses) == ["0", "0.5", "0.8", "1"]
    assert losses[f"{adapted.share:g}"] == min(losses.values())
    metadata = load_model(tmp_path / "run" / "model").metadata
    assert metadata["dev/loss"] == min(losses.values())


def test_where_nothing_is_gained_the_start_is_kept(
    model_folder: Path, data: Path, tmp_path: Path
) -> None:
    lines = list[str]()
    worse = [*FAST, "schedule.learning_rate=3", "schedule.warmup_steps=0"]
    worse += ["training.average_decay=0", "training.clip_norm=1e9"]

    adapted = quickly(
        *(model_folder, data, tmp_path / "run"), overrides=worse, lines=lines
    )

    assert adapted.share == 0
    assert adapted.before == adapted.after
    assert any("the start is kept; what may help" in line for line in lines)
    start = load_model(model_folder).las.state_dict()
    for name, weight in load_model(tmp_path / "run/model").las.state_dict().items():
        assert torch.equal(weight, start[name].half().float()), name


def test_an_adaptation_that_was_stopped_behind_its_training_takes_fewer_epochs(
    model_folder: Path, data: Path, tmp_path: Path
) -> None:
    more = [*FAST, "training.epochs=2"]
    first = quickly(model_folder, data, tmp_path / "run", overrides=more)
    (tmp_path / "run" / "result.json").unlink()

    assert quickly(model_folder, data, tmp_path / "run") == first


def test_an_adaptation_that_is_done_is_not_done_again(
    model_folder: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    first = quickly(model_folder, data, folder)
    before = {p: p.stat().st_mtime_ns for p in (folder / "model").iterdir()}

    assert quickly(model_folder, data, folder) == first

    assert before == {p: p.stat().st_mtime_ns for p in (folder / "model").iterdir()}


@pytest.mark.parametrize("stopped", [False, True])
def test_what_was_trained_to_its_end_is_not_shown_as_of_other_settings(
    model_folder: Path, data: Path, tmp_path: Path, stopped: bool
) -> None:
    folder = tmp_path / "run"
    quickly(model_folder, data, folder)
    if stopped:  # behind the training
        (folder / "result.json").unlink()
    written = (folder / "settings.yaml").read_bytes()

    other = [*FAST, "schedule.learning_rate=0.02", "training.checkpoint_minutes=1"]
    with pytest.raises(
        ConfigError, match=r"run: .* other settings of schedule\.learning_rate \(bring"
    ):
        quickly(model_folder, data, folder, overrides=other)

    assert (folder / "settings.yaml").read_bytes() == written
    kept = load_config(folder / "training" / "config.yaml")
    assert kept.schedule.learning_rate != 0.02


class PowerCut(BaseException):
    """Nothing catches this."""


@pytest.mark.parametrize(
    "place", ["train", "decode", "validate", "export", "difference_interval"]
)
def test_an_adaptation_that_was_stopped_goes_on(
    model_folder: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    def cut(*args: Any, **kwargs: Any) -> None:
        raise PowerCut

    whole = quickly(model_folder, data, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(asr.adaptation.adapt, place, cut)
        with pytest.raises(PowerCut):
            quickly(model_folder, data, tmp_path / "run")

    assert quickly(model_folder, data, tmp_path / "run") == whole

    one, other = (
        load_model(tmp_path / name / "model").las for name in ("run", "whole")
    )
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name


def test_a_longer_adaptation_goes_on_from_a_shorter_one(
    model_folder: Path, data: Path, tmp_path: Path
) -> None:
    quickly(model_folder, data, tmp_path / "run")
    longer = [*FAST, "training.epochs=2"]

    quickly(model_folder, data, tmp_path / "run", overrides=longer)

    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "run/training/metrics.jsonl").read_text().splitlines()
    ]
    config = load_config(tmp_path / "run/training/config.yaml")
    assert config.training.epochs == 2
    assert steps == sorted(steps)
    assert (tmp_path / "run" / "result.json").exists()


def test_a_model_with_other_letters_gets_those_of_the_texts(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path / "data", "train", f"AE{NEW}", 12)

    adapted = quickly(model_folder, tmp_path / "data", tmp_path / "run")

    model = load_model(tmp_path / "run" / "model")
    assert isinstance(model.tokenizer, CharTokenizer)
    assert model.tokenizer.characters == f" AE{NEW}"
    line = f"3 of 4 characters keep their weights, 1 anew ({NEW})"
    assert line in capsys.readouterr().out
    decoded = json.loads((tmp_path / "run" / "before" / "decode.json").read_text())
    assert decoded["language_model"] is None
    assert adapted.folded is not None


def test_a_manifest_and_what_is_held_out_may_be_named(
    model_folder: Path, data: Path, tmp_path: Path
) -> None:
    dev = data / "dev.jsonl"
    quickly(model_folder, data / "train.jsonl", tmp_path / "run", dev=dev)

    held = read_manifest(tmp_path / "run" / "data" / "dev.jsonl")
    assert [u.id for u in held] == [u.id for u in read_manifest(dev)]


@slow
def test_the_next_command_is_about_what_decided_nothing(
    model_folder: Path, data: Path, tmp_path: Path
) -> None:
    folder, lines = shutil.copytree(data, tmp_path / "data"), list[str]()
    shutil.copy(folder / "dev.jsonl", folder / "test.jsonl")

    quickly(model_folder, folder, tmp_path / "run", lines=lines)

    run = tmp_path / "run"
    commands = [line for line in lines if line.startswith("  asr ")]
    assert commands[0] == (
        f"  asr decode {folder / 'test.jsonl'} {run / 'test'} --model {run}"
    )
    assert main([*commands[0].split()[1:], "--lm-weight", "0"]) == 0
    assert main(commands[1].split()[1:]) == 0


@slow
def test_the_command_adapts_the_bundled_model(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["adapt", "bundled", str(data), str(tmp_path / "run"), "--device"]

    assert main([*arguments, "cpu", "--processes", "1", *FAST]) == 0

    out = capsys.readouterr().out
    assert "chosen: learning rate" in out
    assert "frozen: listener" in out
    start, model = load_model(find_model(None)), load_model(tmp_path / "run" / "model")
    assert model.las.config.listener.size == start.las.config.listener.size
    assert model.tokenizer == start.tokenizer
    for name, weight in model.las.listener.state_dict().items():
        expected = start.las.listener.state_dict()[name]
        torch.testing.assert_close(weight, expected.half().float())


# What is refused


def test_another_adaptation_is_refused(
    model_folder: Path, data: Path, tmp_path: Path, model: Model
) -> None:
    quickly(model_folder, data, tmp_path / "run")
    fewer = data / "fewer.jsonl"
    write_manifest(fewer, read_manifest(data / "dev.jsonl")[:4])
    save_model(tmp_path / "second", model.las, model.tokenizer, {"step": 8})

    with pytest.raises(ConfigError, match="an adaptation with another held-out set"):
        quickly(model_folder, data, tmp_path / "run", dev=fewer)
    with pytest.raises(ConfigError, match="an adaptation with another training set"):
        quickly(model_folder, fewer, tmp_path / "run", dev=data / "dev.jsonl")
    with pytest.raises(ConfigError, match="an adaptation with another model"):
        quickly(tmp_path / "second", data, tmp_path / "run")
    with pytest.raises(ConfigError, match="an adaptation with another search"):
        quickly(model_folder, data, tmp_path / "run", overrides=FAST[:-1])


def test_an_adaptation_goes_on_where_its_recordings_moved(
    model_folder: Path, data: Path, tmp_path: Path
) -> None:
    quickly(model_folder, data, tmp_path / "run")
    result = (tmp_path / "run" / "result.json").read_bytes()

    quickly(model_folder, shutil.copytree(data, tmp_path / "moved"), tmp_path / "run")

    assert (tmp_path / "run" / "result.json").read_bytes() == result
    held = read_manifest(tmp_path / "run" / "data" / "dev.jsonl")
    assert Path(held[0].audio).is_relative_to(tmp_path / "moved")


def test_an_adaptation_with_other_settings_is_refused_and_keeps_its_result(
    model_folder: Path, data: Path, tmp_path: Path
) -> None:
    quickly(model_folder, data, tmp_path / "run")
    result = (tmp_path / "run" / "result.json").read_bytes()
    others = [*FAST, "training.seed=9", "training.epochs=50"]

    with pytest.raises(ConfigError, match="other settings of training"):
        quickly(model_folder, data, tmp_path / "run", overrides=others)

    assert (tmp_path / "run" / "result.json").read_bytes() == result


def test_a_folder_of_something_else_is_refused(
    model_folder: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="holds a run or a model"):
        quickly(model_folder, data, model_folder)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file.*: cannot be made"):
        quickly(model_folder, data, tmp_path / "file" / "run")


@pytest.mark.parametrize("name", ["adapt.json", "result.json"])
def test_a_damaged_file_is_refused(
    model_folder: Path, data: Path, tmp_path: Path, name: str
) -> None:
    quickly(model_folder, data, tmp_path / "run")
    (tmp_path / "run" / name).write_text("{}")

    with pytest.raises(ConfigError, match=rf"{name}: is damaged"):
        quickly(model_folder, data, tmp_path / "run")


def test_subwords_that_lack_a_letter_are_refused(
    subword_model: Model, tmp_path: Path
) -> None:
    model = subword_model
    save_model(tmp_path / "model", model.las, model.tokenizer, {})
    write_corpus(tmp_path / "data", "train", f"AE{NEW}", 6)

    with pytest.raises(ConfigError, match=f"writes subwords, which have none of {NEW}"):
        quickly(tmp_path / "model", tmp_path / "data", tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 0.0}, r"training\.minutes must be above 0"),
        ({"processes": 0}, r"training\.processes must be above 0"),
        ({"device": "tpu"}, "device tpu"),
        ({"overrides": ["training.freeze=[ear]"]}, r"training\.freeze: ear"),
        ({"overrides": ["listener.size=4"]}, "the model before"),
        ({"overrides": ["traning.epochs=1"]}, "traning"),
        ({"overrides": ["decoding.beam=1"]}, "did you mean beam_size"),
    ],
)
def test_impossible_settings_are_refused(
    model_folder: Path,
    data: Path,
    tmp_path: Path,
    options: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(AsrError, match=message):
        quickly(model_folder, data, tmp_path / "run", **options)

    assert not (tmp_path / "run").exists()


# What is reported


def result(share: float, before: float, after: float, *ends: float) -> Adapted:
    return Adapted(share, {}, before, after, (ends[0], ends[1]), True, None)


def test_a_gain_is_reported_with_its_interval() -> None:
    assert result(0.8, 0.5, 0.4, -0.13, -0.07).describe() == [
        "held out: WER 50.0 % before, 40.0 % after: -10.0 points (95 % for other "
        "speakers: -13.0 to -7.0)"
    ]


def test_a_gain_that_may_be_chance_is_called_so() -> None:
    assert "this may be chance" in result(1, 0.5, 0.49, -0.03, 0.01).describe()[1]


def test_that_nothing_changed_is_no_chance() -> None:
    same = result(1, 0.5, 0.5, 0.0, 0.0).describe()[1]
    assert same.startswith("not one word more or less is wrong; what may help: more")


def test_a_loss_is_reported_with_what_may_help() -> None:
    worse = result(1, 0.5, 0.52, -0.01, 0.05).describe()[1]
    assert "more words are wrong than before; what may help: more" in worse


# What is chosen


def test_more_to_learn_from_is_learned_faster_and_dropped_less() -> None:
    hours = [amount.hours for amount in AMOUNTS]
    assert hours == sorted(hours)
    little, more = amount_of(0.01), amount_of(100.0)
    assert little.learning_rate < more.learning_rate
    assert little.dropout > more.dropout
    assert little.freeze
    assert not more.freeze


# A letter that is new


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned to spell the tones of five letters."""
    folder = tmp_path_factory.mktemp("knowing")
    train_manifest = write_corpus(folder, "train", "ABEGZ", 240)
    dev = write_corpus(folder, "dev", "ABEGZ", 12)
    train(
        Config(
            data=DataConfig([str(train_manifest)], str(dev)),
            listener=ListenerConfig(size=48, reductions=[2, 2], dropout=0.0),
            attention=AttentionConfig(size=32, activation="relu", reach=5),
            speller=SpellerConfig(size=64, embedding_size=16, dropout=0.0),
            augment=AugmentConfig([1.0], frequency_masks=0, time_masks=0),
            schedule=ScheduleConfig(learning_rate=0.004, warmup_steps=50),
            training=TrainingConfig(
                epochs=8,
                batch_seconds=20,
                batch_size=16,
                validations=2,
                average_decay=0.98,
                device="cpu",
            ),
        ),
        folder / "run",
    )
    return folder / "run"


@slow
def test_a_new_letter_is_learned(knowing: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "data", "train", f"ABEG{NEW}", 120)

    adapted = quickly(
        knowing,
        tmp_path / "data",
        tmp_path / "run",
        overrides=[
            *("training.epochs=8", "training.minutes=null", "training.freeze=[]"),
            *("augment.frequency_masks=0", "augment.time_masks=0"),
            *("schedule.learning_rate=0.002", "augment.stretch=0"),
            *("augment.noise=0", "augment.speeds=[1.0]", "augment.band=0"),
            *("decoding.lm_weight=0", "decoding.beam_size=4"),
        ],
    )

    assert adapted.before > 0.4
    assert adapted.after < adapted.before / 3
    assert adapted.interval[1] < 0
    written = [u.text for u in read_manifest(tmp_path / "run/after/hypotheses.jsonl")]
    assert NEW in "".join(written)
