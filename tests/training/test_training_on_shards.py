from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from asr.config import Config
from asr.data.batching import BatchSampler
from asr.data.manifest import Utterance
from asr.data.shard_order import ShardSampler
from asr.data.shards import ShardedUtterances, write_shards
from asr.errors import AudioError, ConfigError, ManifestError
from asr.train import train
from tests.training.test_trainer import (
    PowerCut,
    assert_same_run,
    cut_off,
    draw_nothing,
    metrics,
    place,
    saving,
    settings,
    write_corpus,
)

STEPS = 12  # 3 epochs of 8 utterances, 2 at a time


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight utterances to learn from, in four shards, and three to validate on."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, "train", ["GO", "ON", "DO IT", "I", "SAW", "US", "AT", "TEA"])
    write_corpus(folder, "dev", ["GO AT", "SEE", "IT"])
    written = write_shards(folder / "train.jsonl", folder / "shards", 1.5 / 3600)
    assert written.num_shards >= 3
    return folder


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window for each two shards or so."""

    def in_order(
        sampler: BatchSampler, utterances: Sequence[Utterance], num_readers: int
    ) -> ShardSampler:
        assert isinstance(utterances, ShardedUtterances)
        return ShardSampler(sampler, utterances.shards, num_readers, window_seconds=2)

    monkeypatch.setattr("asr.train.draw_attention", draw_nothing)
    monkeypatch.setattr("asr.training.epoch_batches.in_order_of_shards", in_order)


def on_shards(config: Config, corpus: Path) -> Config:
    path = str(corpus / "shards" / "manifest.jsonl")
    return replace(
        config,
        data=replace(config.data, train=[path]),
        augment=replace(config.augment, join=0.0),
    )


@pytest.mark.parametrize("call", [3, 7])
def test_a_run_on_shards_that_was_stopped_goes_on_bit_for_bit(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(on_shards(settings(corpus), corpus), whole)
    with monkeypatch.context() as patch:
        cut_off(patch, "asr.training.plain_updates.losses", call)
        with pytest.raises(PowerCut):
            train(on_shards(saving(corpus), corpus), stopped)
    assert 0 < place(stopped)["step"] < STEPS

    train(on_shards(settings(corpus), corpus), stopped)

    assert_same_run(stopped, whole)
    assert len(metrics(whole)) >= STEPS


def test_every_nth_utterance_of_shards_can_be_learned(
    corpus: Path, tmp_path: Path
) -> None:
    config = on_shards(settings(corpus, epochs=1, batch_size=1), corpus)

    train(replace(config, data=replace(config.data, every=2)), tmp_path)

    assert len(metrics(tmp_path)) == 4


def test_shards_can_be_trained_on_in_fixed_shapes(corpus: Path, tmp_path: Path) -> None:
    in_shapes = {"fixed_shapes": "always", "epochs": 1}
    config = on_shards(settings(corpus, **in_shapes), corpus)

    train(config, tmp_path)

    assert metrics(tmp_path)


def test_dev_must_not_be_among_the_shards(corpus: Path, tmp_path: Path) -> None:
    config = on_shards(settings(corpus), corpus)
    config = replace(config, data=replace(config.data, dev=config.data.train[0]))

    message = "8 of its utterances are in the training set too, the first is train-0"
    with pytest.raises(ManifestError, match=message):
        train(config, tmp_path)


def test_an_utterance_of_shards_must_fit_into_a_batch(
    corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"batch_seconds: train-\d is \d\.\d s long"):
        train(on_shards(settings(corpus, batch_seconds=0.5), corpus), tmp_path)


def test_a_shard_that_is_missing_stops_the_run_before_it_begins(
    corpus: Path, tmp_path: Path
) -> None:
    config = on_shards(settings(corpus), corpus)
    shard = corpus / "shards" / "shard-000001.tar"
    moved = shard.rename(tmp_path / "moved.tar")

    try:
        with pytest.raises(AudioError, match=r"shard-000001\.tar: cannot be read \(No"):
            train(config, tmp_path / "run")
    finally:
        moved.rename(shard)
    assert not (tmp_path / "run").exists()
