"""Train an LSTM that is mixed into a word n-gram: from texts to a file beside it.

The n-gram of a folder (see `estimate`) gives the vocabulary and stays as it is. A
training that was stopped goes on where it was; a warm start is a new training, from the
weights that another one came to, of the same words or, see `new_words`, of others.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr.data.manifest import read_manifest
from asr.errors import CheckpointError, ConfigError
from asr.lm.estimate import Normalize, check_weights, keep_english, measure, read_text
from asr.lm.look_ahead import Ints
from asr.lm.ngram import WordNGram
from asr.lm.sentences import prepare
from asr.lm.trainer import CHECKPOINT, LSTMTrainer, LSTMTrainingConfig
from asr.lm.word_files import FILE as NGRAM
from asr.lm.word_files import find_language_model
from asr.lm.word_lstm import DESCRIPTION, FILE, WordLSTM
from asr.locks import locked
from asr.runtime import pick_device
from asr.tensor_files import read_metadata

KIND = "training of a word LSTM"
"""Of the checkpoint."""
_SIZES = 128, 512


def train(
    texts: Sequence[Path],
    folder: Path,
    dev: Path,
    config: LSTMTrainingConfig | None = None,
    weights: Sequence[int] | None = None,
    normalize: Normalize = keep_english,
) -> None:
    """Train an LSTM beside an n-gram; a training that was stopped goes on.

    Args:
        texts: one sentence a line; plain, .xz or .gz.
        folder: of the n-gram. One with a training of other texts or sizes is refused;
            how long and how fast to learn may change, and how to validate.
        dev: manifest whose texts decide which weights are kept.
        config: settings.
        weights: how many times each text is read in an epoch; once each if there are
            none.
        normalize: brings lines into the letters of the n-gram; see `read_text`.

    Raises:
        AsrError: a text, manifest, language model, setting or checkpoint cannot be
            used, or cannot be written; or another process trains in the folder.
        Stopped: Ctrl-C or SIGTERM came; there is a checkpoint of the last update.
    """
    config = config or LSTMTrainingConfig()
    if not (folder / NGRAM).exists():
        raise ConfigError(f"{folder}: holds no n-gram (asr lm build makes one)")
    with locked(folder, "asr lm train"):
        _train(texts, folder, dev, config, weights, normalize)


def _train(
    texts: Sequence[Path],
    folder: Path,
    dev: Path,
    config: LSTMTrainingConfig,
    weights: Sequence[int] | None,
    normalize: Normalize,
) -> None:
    """Train in a folder that no other process trains in."""
    pick_device(config.device)  # what is not there is noticed before the work
    weights = check_weights(weights, len(texts))
    ngram = WordNGram.load(folder, alone=not config.warm_start)
    start = find_language_model(config.start) if config.start else folder
    if config.start and start.resolve() == folder.resolve():
        raise ConfigError(
            "start: is the folder itself (--warm-start goes on from its LSTM)"
        )
    source = WordNGram.load(start) if config.start else ngram
    if (config.start or config.warm_start) and not source.lstm:
        raise ConfigError(f"{start}: holds no {FILE} to start from")
    dev_texts = [utterance.text for utterance in read_manifest(dev)]
    sentences = [read_text(path, normalize) for path in texts]
    sizes = config.embedding_size or _SIZES[0], config.hidden_size or _SIZES[1]
    torch.manual_seed(1)
    try:
        begin = source if config.start else ngram.lstm or sizes
        model, ranked = prepare(ngram, sentences, weights, begin)
    except ValueError as error:
        name = "start" if config.start else "hidden_size"
        raise ConfigError(f"{name}: {error}") from error
    settings = _settings(config, model, ngram.words, ranked)
    started = config.start or config.warm_start
    before = read_metadata(start / FILE) if started else None
    resumes = _claim(folder, settings)
    if resumes:
        before = read_metadata(folder / CHECKPOINT)["config"].get("before")
    metadata = {
        "texts": [path.name for path in texts],
        "weights": weights,
        **(
            {"updates": config.updates}
            if config.updates
            else {"minutes": config.minutes}
        ),
        **({"before": before} if before else {}),
    }
    trainer = LSTMTrainer(
        *(model, ngram, ranked, dev_texts, config),
        folder=folder,
        settings={
            **settings,
            **{"before": before, "dev": _digest(dev_texts), "share": config.share},
        },
        metadata=metadata,
    )
    if resumes:
        trainer.resume()
    elif config.warm_start and ngram.lstm:
        ngram.lstm.share = config.share or ngram.lstm.share
        trainer.place.best_loss = math.log(measure(ngram, dev_texts)[0])
    trainer.run()


def _settings(
    config: LSTMTrainingConfig,
    model: WordLSTM,
    words: Sequence[str],
    sentences: Sequence[Ints],
) -> dict[str, Any]:
    """Return what a training cannot change midway, for its checkpoint."""
    content = hashlib.sha256("\n".join(words).encode())
    content.update(np.concatenate(sentences).tobytes())
    return {
        "kind": KIND,
        "warm_start": config.warm_start,
        **({"start": _digest_of(config.start)} if config.start else {}),
        "embedding_size": model.settings["embedding_size"],
        "hidden_size": model.settings["size"],
        "batch_words": config.batch_words,
        "text": content.hexdigest(),
    }


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _digest_of(model: str) -> str:
    """Return what tells the LSTM of a language model from others."""
    return hashlib.sha256(
        (find_language_model(model) / DESCRIPTION).read_bytes()
    ).hexdigest()


def _claim(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether the folder holds a training to go on with.

    Raises:
        ConfigError: it holds one with other settings.
        CheckpointError: its checkpoint is damaged, or none of such a training.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return False
    kept = read_metadata(path).get("config")
    if not isinstance(kept, dict) or kept.get("kind") != KIND:
        raise CheckpointError(f"{path}: is no checkpoint of `asr lm train`")
    if settings["warm_start"] and kept.get("finished"):
        return False  # a new training, from the weights that this one came to
    changed = [name for name, value in settings.items() if kept.get(name) != value]
    if changed:
        raise ConfigError(
            f"{folder}: holds a training with other settings of {', '.join(changed)} "
            f"(repeat its settings to go on with it, or delete {path} to begin anew)"
        )
    return True
