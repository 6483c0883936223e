"""The training loop of a word LSTM: update, validate, keep.

The folder of the n-gram gets

lstm.safetensors, lstm.json   the LSTM with the lowest perplexity on dev so far
checkpoint.safetensors        where training was last; it goes on from there
metrics.jsonl                 each update and validation, a line each; the same in
                              tensorboard/

No sentence sees the one before. The learning rate rises over the first updates and
falls along half a cosine; the LSTM's share in the mixture with the n-gram is the one
with the lowest perplexity on dev.

On a CPU, `K updates, kill, M updates` gives the weights of `K + M updates` bit for bit
where the length is given in updates. Where it is given in minutes, the schedule follows
the clock.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import nn

from asr.errors import TrainingError
from asr.lm.estimate import scores
from asr.lm.look_ahead import Ints
from asr.lm.ngram import WordNGram, mix
from asr.lm.sentences import batches, pad
from asr.lm.word_lstm import WordLSTM
from asr.progress import PERCENT, progress_bar
from asr.training.checkpoint import Place, load_checkpoint, save_checkpoint
from asr.training.metrics import MetricsLog
from asr.training.schedule import ScheduleConfig, learning_rate, validations_due
from asr.training.stopwatch import Stopwatch

CHECKPOINT = "checkpoint.safetensors"
SHARES = tuple(share / 20 for share in range(1, 20))
"""Of the LSTM in the mixture, to choose from."""
_WARMUP_UPDATES, _WARMUP_SHARE = 100, 0.01
_CLIP_NORM, _BAD_UPDATES = 1.0, 5


@dataclass(frozen=True)
class LSTMTrainingConfig:
    """Settings of a training."""

    minutes: float = 40.0
    """How long training may take, validation included."""
    updates: int | None = None
    """In place of minutes: how many updates."""
    warm_start: bool = False
    """Whether to begin with the weights of the LSTM that is in the folder."""
    embedding_size: int | None = None
    """E; None for 128, or after a warm start that of the LSTM that is there."""
    hidden_size: int | None = None
    """S; None for 512, or after a warm start that of the LSTM that is there."""
    batch_words: int = 4000
    """Most words in a batch, padding counted."""
    learning_rate: float = 3e-3
    """The highest learning rate."""
    validations: int = 8
    """How often, spread evenly, dev is looked at."""
    checkpoint_minutes: float = 5.0
    """Time between checkpoints; there is one at each validation too."""

    def __post_init__(self) -> None:
        """Refuse what would only be noticed after hours of training."""
        for name in (
            *("minutes", "updates", "embedding_size", "hidden_size", "batch_words"),
            *("learning_rate", "validations"),
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, not {value}")
        if not self.checkpoint_minutes >= 0:
            raise ValueError(
                f"checkpoint_minutes must be at least 0, not {self.checkpoint_minutes}"
            )
        if self.warm_start and (self.embedding_size or self.hidden_size):
            raise ValueError(
                "warm_start keeps the sizes of the LSTM that is there (leave "
                "embedding_size and hidden_size out)"
            )

    def schedule(self) -> ScheduleConfig:
        """Return how the learning rate changes."""
        warmup = _WARMUP_UPDATES
        if self.updates is not None:
            warmup = min(warmup, max(1, int(_WARMUP_SHARE * self.updates)))
        return ScheduleConfig(
            learning_rate=self.learning_rate,
            warmup_steps=warmup,
            decay_from=0.0,
            final_rate=0.0,
            decay="cosine",
        )


class LSTMTrainer:
    """One training of a word LSTM.

    Args:
        model: the network.
        ngram: that it is mixed into.
        sentences: what to learn from, as `prepare` returns them.
        dev_texts: what to validate on.
        config: settings.
        folder: of the n-gram.
        settings: for the checkpoint.
        metadata: for the file of the LSTM: how it was made.
    """

    def __init__(
        self,
        model: WordLSTM,
        ngram: WordNGram,
        sentences: Sequence[Ints],
        dev_texts: Sequence[str],
        config: LSTMTrainingConfig,
        *,
        folder: Path,
        settings: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> None:
        self.model, self.ngram, self.config = model.train(), ngram, config
        self.sentences = sentences
        self.dev = [ngram.numbers(text.split()) for text in dev_texts]
        self.folder, self.settings, self.metadata = folder, settings, metadata
        self.schedule = config.schedule()
        self.optimizer = torch.optim.AdamW(
            model.parameters(), betas=(0.9, 0.98), weight_decay=1e-3, fused=True
        )
        self.place = Place()
        self._lengths = np.array([len(sentence) for sentence in sentences])
        self._first_epoch = 1000 * _depth(metadata)  # another order than before
        self._losses = list[float]()
        self._since_save, self._since_tick = Stopwatch(), Stopwatch()

    @property
    def progress(self) -> float:
        """Share of the training that is over, 0 to 1."""
        if self.config.updates is not None:
            return min(1.0, self.place.step / self.config.updates)
        return min(1.0, self.place.seconds / (60 * self.config.minutes))

    def resume(self) -> None:
        """Go on from the checkpoint.

        Raises:
            CheckpointError: it is damaged.
        """
        self.place = load_checkpoint(
            self.folder / CHECKPOINT, self.model, {}, self.optimizer
        )
        # A longer training than before: some validations are still to come.
        self.place.validations = min(self.place.validations, self._due())
        print(f"{self.folder}: goes on after update {self.place.step}", flush=True)

    def run(self) -> None:
        """Train to the end.

        Raises:
            CheckpointError: the folder cannot be written.
            TrainingError: the loss has not been finite for several updates.
        """
        num_words = int(self._lengths.sum()) - len(self._lengths)
        print(f"{len(self.sentences)} sentences, {num_words} words", flush=True)
        if not self.place.step:
            self._save()  # from now on a kill leaves no other training's checkpoint
        self._since_tick.restart()
        with (
            MetricsLog(self.folder, self.place.step) as log,
            progress_bar(100, "train", "%", layout=PERCENT) as bar,
        ):
            while self.progress < 1:
                for metrics in self._epoch():
                    log.write(self.place.step, metrics)
                    bar.n = round(100 * self.progress, 1)
                    bar.set_postfix_str(f"loss {metrics['loss']:.3f}")
                    self._look_after(log)
                    if self.progress >= 1:
                        break
            if self.place.validations < self.config.validations:
                self._validate(log)
            self._save()

    def _epoch(self) -> Iterator[dict[str, float]]:
        """Train on what is left of an epoch, one update at a time."""
        order = batches(
            self._lengths,
            self.config.batch_words,
            self._first_epoch + self.place.epoch,
        )
        for indices in order[self.place.position :]:
            before = self.place.seconds
            metrics = self._update([self.sentences[i] for i in indices])
            self.place.position += 1
            if self.place.position == len(order):
                self.place.epoch, self.place.position = self.place.epoch + 1, 0
            self._tick()
            num_words = metrics.pop("words")
            yield {
                **metrics,
                "progress": self.progress,
                "epoch": self.place.epoch,
                "seconds": self.place.seconds,
                "words_per_second": num_words / max(self.place.seconds - before, 1e-9),
            }

    def _update(self, sentences: Sequence[Ints]) -> dict[str, float]:
        """Do one update with the gradient of a batch, if it is finite."""
        batch, padding = pad(sentences)
        rate = learning_rate(self.schedule, self.place.updates, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        num_words = int((~padding).sum())
        loss = -self.model(batch).masked_fill(padding, 0).sum() / num_words
        torch.autograd.backward(loss)
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP_NORM))
        self.place.step += 1
        if math.isfinite(loss.item()) and math.isfinite(norm):
            self.optimizer.step()
            self.place.updates += 1
            self.place.bad_steps = 0
            self._losses.append(loss.item())
        else:
            self._skip()
        return {
            **{"loss": loss.item(), "gradient_norm": norm},
            **{"learning_rate": rate, "words": num_words},
        }

    def _skip(self) -> None:
        """Leave an update out, and stop after several."""
        self.place.bad_steps += 1
        print(f"update {self.place.step} is not finite and left out", flush=True)
        if self.place.bad_steps >= _BAD_UPDATES:
            raise TrainingError(
                f"{self.folder}: {self.place.bad_steps} updates in a row were not "
                "finite (a lower learning_rate may help)"
            )

    def _tick(self) -> None:
        self.place.seconds += self._since_tick.restart()

    def _look_after(self, log: MetricsLog) -> None:
        """Validate and save when it is time for it."""
        if self._due() > self.place.validations:
            self._validate(log)
            self._save()
        elif (
            self.place.bad_steps == 0
            and self._since_save.seconds >= 60 * self.config.checkpoint_minutes
        ):
            self._save()

    def _due(self) -> int:
        """Return how many validations there should have been by now."""
        return validations_due(self.progress, self.config.validations)

    def _validate(self, log: MetricsLog) -> None:
        """Measure the mixture on dev; keep the weights if they are the best."""
        self.place.validations = max(self._due(), self.place.validations + 1)
        self.model.eval()
        self.ngram.mix_in(self.model)
        self.model.share, loss = best_share(self.ngram, self.dev)
        self.model.train()
        perplexity = math.exp(loss)
        found = {"loss": loss, "perplexity": perplexity, "share": self.model.share}
        log.write(self.place.step, {f"dev/{n}": value for n, value in found.items()})
        if self.place.best_loss is None or loss < self.place.best_loss:
            self.place.best_loss = loss
            self.model.save(self.folder, self.ngram.words, self.metadata)
        self._tick()
        learned = f"loss {fmean(self._losses):.3f} | " if self._losses else ""
        self._losses.clear()
        print(
            f"{100 * self.progress:5.1f} % | update {self.place.step} | epoch "
            f"{self.place.epoch} | {self.place.seconds / 60:.1f} min | {learned}"
            f"dev: perplexity {perplexity:.1f} with a share of {self.model.share:.2f}",
            flush=True,
        )

    def _save(self) -> None:
        finished = (
            self.progress >= 1 and self.place.validations >= self.config.validations
        )
        save_checkpoint(
            self.folder / CHECKPOINT,
            self.place,
            self.model,
            {},
            self.optimizer,
            {**self.settings, "finished": finished},
        )
        self._since_save.restart()


def _depth(metadata: Mapping[str, Any]) -> int:
    """Count the trainings before the one that metadata is of."""
    before = metadata.get("before")
    return 1 + _depth(before) if isinstance(before, dict) else 0


def best_share(model: WordNGram, sentences: Sequence[Ints]) -> tuple[float, float]:
    """Return the share in the mixture with the lowest loss on sentences, and that.

    The loss is -log P per word and </s>: the logarithm of the perplexity.
    """
    (ngram, lstm), ends = scores(model, sentences)
    count = len(ngram) + len(ends)

    def loss(share: float) -> float:
        return -float(mix(ngram, lstm, share).sum() + ends.sum()) / count

    share = min(SHARES, key=loss)
    return share, loss(share)
