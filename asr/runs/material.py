"""What a run learns from and is validated on, as its settings name it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from asr.config import Config, DataConfig
from asr.data.dataset import Augmentation, Dataset
from asr.data.digest import CorpusDigest, digest
from asr.data.manifest import Utterance, read_manifest, spread
from asr.data.shards import ShardedUtterances, read_corpus
from asr.errors import ConfigError, ManifestError
from asr.tensor_files import read_metadata
from asr.text import Tokenizer
from asr.training.checkpoint import CHECKPOINT


class TrainingData(NamedTuple):
    """What a training learns from and is validated on."""

    train: Dataset
    dev: Dataset
    digests: dict[str, str]
    """Of what both hold."""
    num_empty: int
    """Texts of the training set that are empty."""


def read_data(config: Config, tokenizer: Tokenizer) -> TrainingData:
    """Read the manifests that the settings name; no recording is opened yet.

    Raises:
        AsrError: one cannot be read, an utterance is in both sets, or is longer than
            a batch; or those of shards are to be joined.
    """
    utterances = chosen(config.data)
    if config.augment.join and isinstance(utterances, ShardedUtterances):
        raise ConfigError(
            "augment.join: is not for shards, whose order is random, so that hardly "
            "two in a row are of one speaker (asr data join, then asr data shard, "
            "gives shards of joined ones)"
        )
    dev = read_manifest(config.data.dev)
    content, num_empty = _check_corpus(utterances, dev, config)
    augmentation = Augmentation(config.augment, config.training.seed, _room(config))
    hours = config.training.cache_hours
    dev = spread(dev, config.training.dev_utterances)
    return TrainingData(
        Dataset(utterances, tokenizer, augmentation, cache_hours=hours),
        Dataset(dev, tokenizer, cache_hours=hours),
        {"train": content, "dev": digest(dev)},
        num_empty,
    )


def chosen(data: DataConfig) -> Sequence[Utterance]:
    """Read the utterances to learn from.

    Raises:
        AsrError: there is no manifest, or one cannot be read.
    """
    utterances = read_corpus(data.train)
    if not utterances:
        raise ConfigError("data.train: names no manifest (at least one was expected)")
    return utterances[:: data.every]


def digests(config: Config) -> dict[str, str]:
    """Work out `TrainingData.digests` of what settings name now.

    Raises:
        AsrError: a manifest cannot be read.
    """
    dev = spread(read_manifest(config.data.dev), config.training.dev_utterances)
    train = digest(chosen(config.data), speakers=config.augment.join > 0)
    return {"train": train, "dev": digest(dev)}


def learned_from(folder: Path) -> dict[str, str] | None:
    """Return the digests of what a run has learned from; None where nobody knows."""
    if not (folder / CHECKPOINT).exists():
        return None
    found = read_metadata(folder / CHECKPOINT).get("config", {}).get("corpus")
    return found if isinstance(found, dict) else None


def _check_corpus(
    utterances: Sequence[Utterance], dev: Sequence[Utterance], config: Config
) -> tuple[str, int]:
    """Refuse an utterance that is in dev, too, or that no batch has room for.

    Returns:
        The digest of the training set, and how many of its texts are empty.
    """
    longest, in_dev = utterances[0], {utterance.id for utterance in dev}
    in_both, num_empty = set[str](), 0
    content = CorpusDigest(speakers=config.augment.join > 0)
    for utterance in utterances:  # once: they may come from the disk
        content.add(utterance)
        num_empty += not utterance.text.strip()
        if utterance.duration > longest.duration:
            longest = utterance
        if utterance.id in in_dev:
            in_both.add(utterance.id)
    if in_both:
        raise ManifestError(
            f"{config.data.dev}: {len(in_both)} of its utterances are in the "
            f"training set too, the first is {min(in_both)}"
        )
    room = _room(config)
    if longest.duration > room:
        raise ConfigError(
            f"training.batch_seconds: {longest.id} is {longest.duration:.1f} s long "
            f"and at most {room:.1f} s fit into a batch at the slowest speed"
        )
    return str(content), num_empty


def _room(config: Config) -> float:
    """Return the seconds of an utterance that fit into a batch at the slowest speed."""
    return config.training.batch_seconds * min(config.augment.speeds)
