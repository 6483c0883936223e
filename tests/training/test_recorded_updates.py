"""Trainings in batches of fixed shapes, on the CPU in place of a GPU."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.config import Config, DataConfig
from asr.data.batching import Batch
from asr.data.length_classes import LengthClass
from asr.errors import ConfigError, TrainingError
from asr.features import AugmentConfig
from asr.model import fused_steps
from asr.model.attention import AttentionConfig
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.model.storage import load_model
from asr.tensor_files import read_tensors, write_tensors
from asr.train import train
from asr.training import recorded_updates, updates
from asr.training.config import TrainingConfig
from asr.training.distributed import Team
from asr.training.graphs import RecordedStep
from asr.training.loss import LossConfig
from asr.training.recorded_updates import RecordedUpdates, _largest
from asr.training.schedule import ScheduleConfig
from tests.training.test_graphs import TOKENIZER, batch, filled, network
from tests.training.test_trainer import write_corpus

SHAPE = LengthClass(80, 8, 4)
TEXTS = ["GO", "ON", "DO IT", "I", "SAW", "US", "AT", "TEA"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight utterances to learn from and two to validate on: sung, not spoken."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, "train", TEXTS)
    write_corpus(folder, "dev", ["GO AT", "SEE"])
    return folder


def settings(corpus: Path, **training: Any) -> Config:
    """A tiny network, with everything at work that draws on chance."""
    defaults: dict[str, Any] = {
        **{"epochs": 3, "batch_size": 2, "validations": 2, "device": "cpu"},
        **{"precision": "float32", "fixed_shapes": "always", "checkpoint_minutes": 0.0},
        **{"weight_noise": 0.02},
    }
    return Config(
        data=DataConfig([str(corpus / "train.jsonl")], str(corpus / "dev.jsonl")),
        listener=ListenerConfig(size=4, reductions=[2, 2], dropout=0.1),
        attention=AttentionConfig(size=4, reach=2, filters=2),
        speller=SpellerConfig(size=4, embedding_size=3, dropout=0.1),
        augment=AugmentConfig([0.9, 1.0], time_width=10, noise=0.5, characters=0.2),
        loss=LossConfig(guide_from=0.3, guide_until=0.9),
        schedule=ScheduleConfig(warmup_steps=2, sampling=0.5, sampling_from=0.1),
        training=TrainingConfig(**(defaults | training)),
    )


@pytest.fixture(autouse=True)
def _short_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures cost more than the rest; figures are read more often; one process."""

    def draw_nothing(
        path: Path, weights: Tensor, tokens: Sequence[str], waveform: Tensor
    ) -> None:
        path.write_text(f"{tuple(weights.shape)} {''.join(tokens)}")

    monkeypatch.setattr("asr.train.draw_attention", draw_nothing)
    monkeypatch.setattr("asr.data.device_corpus.os.sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(updates, "READ_EVERY", 3)


def checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, metadata = read_tensors(folder / "checkpoint.safetensors")
    return tensors, dict(metadata["place"]) | {"seconds": 0}


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if "loss" in entry]


def test_a_training_ends_with_a_model(corpus: Path, tmp_path: Path) -> None:
    train(settings(corpus), tmp_path)

    load_model(tmp_path / "model")
    _, place = checkpoint(tmp_path)
    assert place["step"] == place["updates"] == metrics(tmp_path)[-1]["step"]
    assert place["epoch"] == 3
    assert all(line["gradient_norm"] > 0 for line in metrics(tmp_path))
    assert any(line["guide"] > 0 for line in metrics(tmp_path))
    assert metrics(tmp_path)[-1]["loss"] < metrics(tmp_path)[0]["loss"]


class PowerCut(BaseException):
    """Nothing catches this."""


def stopped(
    config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Train until a power cut."""
    update, calls = recorded_updates.RecordedUpdates.update, itertools.count(1)

    def cut(*args: Any, **kwargs: Any) -> None:
        if next(calls) == call:
            raise PowerCut
        update(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(recorded_updates.RecordedUpdates, "update", cut)
        with pytest.raises(PowerCut):
            train(config, folder)


def test_a_training_that_was_stopped_goes_on_bit_for_bit(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, whole = tmp_path / "part", tmp_path / "whole"
    train(settings(corpus), whole)
    stopped(settings(corpus), part, monkeypatch, call=5)
    assert 0 < checkpoint(part)[1]["step"] < checkpoint(whole)[1]["step"]

    train(settings(corpus), part)

    (ours, place), (theirs, expected) = checkpoint(part), checkpoint(whole)
    assert place == expected
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Let the gradients of some batches be no numbers."""
    run, calls = RecordedStep.run, itertools.count(0)  # 0 is the trial of the start

    def poisoned(self: RecordedStep, *args: Any, **kwargs: Any) -> Any:
        gradients, losses = run(self, *args, **kwargs)
        if next(calls) in steps:
            gradients = [None if g is None else g * torch.nan for g in gradients]
        return gradients, losses

    monkeypatch.setattr(RecordedStep, "run", poisoned)


def test_an_update_that_is_not_finite_is_left_out(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    poison(monkeypatch, {4})

    train(settings(corpus), tmp_path)

    tensors, place = checkpoint(tmp_path)
    assert place["updates"] == place["step"] - 1
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert "1 of the updates before 6 are not finite and left out" in (
        capsys.readouterr().out
    )
    for line in metrics(tmp_path):
        assert math.isfinite(line["loss"])
        assert 0 < line["gradient_norm"] < math.inf


def test_several_such_updates_in_a_row_stop_the_training(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {4, 5, 6})

    with pytest.raises(TrainingError, match="3 updates in a row were not finite"):
        train(settings(corpus, bad_steps=3), tmp_path)


def crowd(monkeypatch: pytest.MonkeyPatch, most_rows: int, after: int = 0) -> None:
    """Let the device have no memory for more rows than some."""
    run, calls = RecordedStep.run, itertools.count(0)

    def crowded(self: RecordedStep, *args: Any, **kwargs: Any) -> Any:
        if next(calls) >= after and len(self.places.features) > most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, *args, **kwargs)

    monkeypatch.setattr(RecordedStep, "run", crowded)


def test_where_memory_is_short_a_batch_has_fewer_rows(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    crowd(monkeypatch, most_rows=1)

    train(settings(corpus, batch_size=4), tmp_path)

    said = capsys.readouterr().out
    assert "no memory for 4 utterances at a time: 2 are taken" in said
    assert "no memory for 2 utterances at a time: 1 are taken" in said
    assert "an update is of 4 times as many batches" in said
    assert checkpoint(tmp_path)[1]["epoch"] == 3


def test_a_single_utterance_that_does_not_fit_is_an_error(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd(monkeypatch, most_rows=0)

    with pytest.raises(TrainingError, match="no memory for a batch of one utterance"):
        train(settings(corpus), tmp_path)


def test_memory_that_is_full_later_is_one_line(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd(monkeypatch, most_rows=0, after=5)

    with pytest.raises(TrainingError, match=r"a smaller training\.batch_seconds"):
        train(settings(corpus), tmp_path)


def test_a_fused_loop_that_is_wrong_is_not_used(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    init, fused = recorded_updates.RecordedUpdates.__init__, list[bool | None]()

    def recording(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **(kwargs | {"records": True}))

    def record(self: RecordedStep, *_: Any) -> None:
        fused.append(fused_steps._chosen.get())

    monkeypatch.setattr(recorded_updates, "loop_difference", lambda *_: 0.5)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(recorded_updates.RecordedUpdates, "__init__", recording)
    monkeypatch.setattr(RecordedStep, "record", record)

    train(settings(corpus, epochs=1), tmp_path)

    assert "the plain one is taken, which is slower" in capsys.readouterr().out
    assert set(fused) == {False}


def test_recordings_that_are_not_faithful_are_not_used(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def never(step: RecordedStep, *_: Any) -> float:
        del step
        return 1.0

    def record(self: RecordedStep, *_: Any) -> None:
        raise AssertionError("recorded")

    init = recorded_updates.RecordedUpdates.__init__

    def recording(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **(kwargs | {"records": True}))

    monkeypatch.setattr(recorded_updates, "replay_difference", never)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(recorded_updates.RecordedUpdates, "__init__", recording)
    monkeypatch.setattr(RecordedStep, "record", record)

    train(settings(corpus, epochs=1), tmp_path)

    assert "training goes on without recordings" in capsys.readouterr().out


def spy(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Batch, float]]:
    """Note each batch and the weight of its guide."""
    run, seen = RecordedStep.run, list[tuple[Batch, float]]()

    def spied(
        self: RecordedStep, batch: Batch, guide: float, *args: Any, **kwargs: Any
    ) -> Any:
        seen.append((batch, guide))
        return run(self, batch, guide, *args, **kwargs)

    monkeypatch.setattr(RecordedStep, "run", spied)
    return seen


def test_attention_is_guided_by_alignments_from_the_first_update_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spy(monkeypatch)

    train(settings(corpus), tmp_path)

    guided = [made for made, guide in seen if guide]
    assert guided
    for made in guided:
        assert made.expected is not None
        for row, steps in enumerate(made.expected[: made.num_real]):
            count = int(made.num_tokens[row])
            assert 0 < steps[count] < int(made.num_frames[row]) / 4 + 1


def test_an_update_may_have_batches_without_an_utterance(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spy(monkeypatch)

    train(settings(corpus, accumulate=3), tmp_path)

    assert any(not made.num_real for made, _ in seen)
    assert checkpoint(tmp_path)[1]["epoch"] == 3


def test_an_update_that_is_left_out_does_not_move_the_average(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    las = network()
    optimizer = torch.optim.AdamW(las.parameters(), fused=True)
    average = {n: torch.zeros_like(t) for n, t in las.state_dict().items()}
    updates = RecordedUpdates(
        *(las, TOKENIZER, LossConfig(), optimizer, average, Team()),
        precision=torch.float32,
        clip_norm=1e9,
        sampled=False,
        records=False,
    )
    poison(monkeypatch, {0})
    options = {"guide": 0.0, "sampling": 0.0, "decay": 0.5}

    updates.update([filled(batch(), SHAPE)], SHAPE, num_batches=1, **options)
    assert not any(bool(tensor.any()) for tensor in average.values())

    updates.update([filled(batch(), SHAPE)], SHAPE, num_batches=1, **options)
    for name, weight in las.named_parameters():
        torch.testing.assert_close(average[name], 0.5 * weight.detach())


def updated(batches: list[Batch], team: Team | None = None) -> list[Tensor]:
    """Weights after an update with batches; the first is the only real one."""
    las = network()
    optimizer = torch.optim.AdamW(las.parameters(), fused=True)
    average = {n: t.detach().clone() for n, t in las.state_dict().items()}
    updates = RecordedUpdates(
        *(las, TOKENIZER, LossConfig(), optimizer, average, team or Team()),
        precision=torch.float32,
        clip_norm=1e9,
        sampled=False,
        records=False,
    )
    options = {"guide": 0.0, "sampling": 0.0, "decay": 0.5}
    updates.update(batches, SHAPE, num_batches=1, **options)
    return [parameter.detach() for parameter in las.parameters()]


def test_a_batch_without_an_utterance_weighs_nothing_in_an_update() -> None:
    full = filled(batch(), SHAPE)
    nothing = torch.zeros(4, dtype=torch.int64)
    tokens = torch.zeros_like(full.tokens)
    empty = replace(full, ids=[], num_tokens=nothing, tokens=tokens)

    alone, beside = updated([full]), updated([full, empty])

    for ours, theirs in zip(beside, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


class CrowdedTeam(Team):
    """Of two processes, the other of which has no memory for the first shapes."""

    def __init__(self, rank: int) -> None:
        super().__init__(rank, 2)
        self.lacking = 1.0

    def sum(self, values: Tensor) -> Tensor:
        """Add what the other process has found."""
        added, self.lacking = values + self.lacking, 0.0
        return added


@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_take_fewer_rows_where_one_has_no_memory(
    rank: int, capsys: pytest.CaptureFixture[str]
) -> None:
    las = network()
    updates = RecordedUpdates(
        *(las, TOKENIZER, LossConfig(), torch.optim.AdamW(las.parameters())),
        *({n: t.clone() for n, t in las.state_dict().items()}, CrowdedTeam(rank)),
        precision=torch.float32,
        clip_norm=1.0,
        sampled=False,
        records=False,
    )

    classes, fewer = updates.fit(
        [SHAPE], lambda wanted: filled(batch(), wanted.shape), lambda _: [0, 1]
    )

    assert (classes, fewer) == ([SHAPE._replace(rows=2)], 2)
    said = capsys.readouterr().out
    assert ("no memory for 4 utterances at a time: 2 are taken" in said) is (rank == 0)


def test_the_shapes_that_are_tried_are_the_largest_for_listener_and_attention() -> None:
    short, middle, long = (
        LengthClass(*shape) for shape in ((100, 8, 64), (400, 40, 8), (800, 96, 7))
    )

    assert _largest([short, middle, long]) == [short, long]


def test_a_run_that_goes_on_in_other_batches_goes_on_at_about_the_same_place(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stopped(settings(corpus, batch_size=1), tmp_path, monkeypatch, call=8)
    place = checkpoint(tmp_path)[1]
    assert (place["position"], place["num_batches"]) == (6, 8)
    seen = spy(monkeypatch)

    train(settings(corpus, batch_size=1, accumulate=4, epochs=1), tmp_path)

    assert "training goes on at about the same place" in capsys.readouterr().out
    read = [name for made, _ in seen[1:] for name in made.ids]  # 0 is the trial
    assert len(read) == 4
    assert checkpoint(tmp_path)[1]["epoch"] == 1


def test_a_run_that_goes_on_with_less_memory_ends(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(settings(corpus, batch_size=1), tmp_path, monkeypatch, call=8)
    tensors, metadata = read_tensors(tmp_path / "checkpoint.safetensors")
    metadata["place"] |= {"position": 90, "num_batches": 120}  # of a smaller memory
    write_tensors(tmp_path / "checkpoint.safetensors", tensors, metadata)

    train(settings(corpus, batch_size=1, epochs=1), tmp_path)

    assert checkpoint(tmp_path)[1]["epoch"] == 1
    assert checkpoint(tmp_path)[1]["step"] == metadata["place"]["step"] + 2


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(corpus: Path, tmp_path: Path) -> None:
    """Without chance of the network's, with alignments and a last group that is short.

    Eight utterances in groups of six batches of one: the last has four empty ones.
    """
    for name, size, accumulate in (("alone", 1, 6), ("shared", 2, 3)):
        lengths = {"batch_size": 1, "processes": size, "accumulate": accumulate}
        config = settings(corpus, average_decay=0.9, weight_noise=0.0, **lengths)
        quiet = replace(
            config,
            listener=replace(config.listener, dropout=0.0),
            speller=replace(config.speller, dropout=0.0),
            schedule=ScheduleConfig(warmup_steps=2),
            loss=LossConfig(guide_from=0.0, guide_until=1.0),
        )
        train(quiet, tmp_path / name)

    (ours, place), (theirs, expected) = map(
        checkpoint, (tmp_path / "shared", tmp_path / "alone")
    )
    assert place | {"best_loss": 0} == expected | {"best_loss": 0}
    for name, tensor in theirs.items():
        if not name.startswith("optimizer"):
            torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_precision_that_is_not_known_is_refused_before_anything_is_read(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: str) -> Tensor:
        raise AssertionError(path)

    monkeypatch.setattr("asr.data.dataset.read_utterance", read)

    with pytest.raises(ConfigError, match="precision fp16: is not known"):
        train(settings(corpus, precision="fp16"), tmp_path)
