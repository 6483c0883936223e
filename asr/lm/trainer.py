"""The training loop of a word LSTM: update, validate, keep.

The folder of the n-gram gets

lstm.safetensors, lstm.json   the LSTM with the lowest perplexity on dev so far
checkpoint.safetensors        where training was last; it goes on from there
metrics.jsonl                 each update and validation, a line each (on a GPU: each
                              20 updates); the same in tensorboard/

No sentence sees the one before. The learning rate rises over the first updates and
falls along half a cosine; the LSTM's share in the mixture with the n-gram is the one
with the lowest perplexity on dev, where none is given.

On a CPU, `K updates, kill, M updates` gives the weights of `K + M updates` bit for bit
where the length is given in updates. Where it is given in minutes, the schedule follows
the clock.

A GPU works through updates that the CPU has queued; their losses and gradient norms are
read together, and their metrics are means. Validation runs on the CPU.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from asr.errors import TrainingError
from asr.lm.estimate import scores
from asr.lm.look_ahead import Ints
from asr.lm.ngram import WordNGram
from asr.lm.sentences import batches, pad
from asr.lm.word_lstm import WordLSTM
from asr.lm.word_tables import mix
from asr.progress import PERCENT, progress_bar
from asr.runtime import pick_device
from asr.tensor_files import read_metadata
from asr.training.checkpoint import Place, load_checkpoint, save_checkpoint
from asr.training.metrics import MetricsLog
from asr.training.schedule import ScheduleConfig, learning_rate, validations_due
from asr.training.stopping import Stopped, noted_signals
from asr.training.stopwatch import Stopwatch

CHECKPOINT = "checkpoint.safetensors"
SHARES = tuple(share / 20 for share in range(1, 20))
"""Of the LSTM in the mixture, to choose from."""
_WARMUP_UPDATES, _WARMUP_SHARE = 100, 0.01
_CLIP_NORM, _BAD_UPDATES = 1.0, 5
_READ_EVERY = {"cpu": 1, "cuda": 20}
"""Updates whose loss and gradient norm are read together."""


@dataclass(frozen=True)
class LSTMTrainingConfig:
    """Settings of a training."""

    minutes: float = 40.0
    """How long training may take, validation included."""
    updates: int | None = None
    """In place of minutes: how many updates."""
    warm_start: bool = False
    """Whether to begin with the weights of the LSTM that is in the folder."""
    start: str | None = None
    """Another language model, whose LSTM to begin with as far as it knows the same
    words: its folder, or `words` for the bundled one."""
    embedding_size: int | None = None
    """E; None for 128, or that of the LSTM to begin with."""
    hidden_size: int | None = None
    """S; None for 512, or that of the LSTM to begin with."""
    batch_words: int = 4000
    """Most words in a batch, padding counted."""
    learning_rate: float = 3e-3
    """The highest learning rate."""
    dropout: float = 0.0
    """Share of what goes into the LSTM, and of what comes out, that is left out."""
    share: float | None = None
    """Of the LSTM in the mixture; None for the one with the lowest perplexity on dev.
    Speech that is unlike the texts is better written with less of it."""
    validations: int = 8
    """How often, spread evenly, dev is looked at."""
    checkpoint_minutes: float = 5.0
    """Time between checkpoints; there is one at each validation too."""
    device: str = "cpu"
    """Where to train: cpu, cuda, or auto (a GPU if there is one)."""

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
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1, not {self.dropout}")
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"share must be between 0 and 1, not {self.share}")
        begin = "warm_start" if self.warm_start else "start"
        if self.start == "":
            raise ValueError("start must name a language model")
        if self.warm_start and self.start:
            raise ValueError("warm_start or start, not both")
        if getattr(self, begin) and (self.embedding_size or self.hidden_size):
            raise ValueError(
                f"{begin} keeps the sizes of the LSTM that is there (leave "
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


@dataclass(frozen=True)
class _Tried:
    """An update that was tried, and is perhaps still being worked on."""

    step: int
    learning_rate: float
    num_words: int
    measured: Tensor
    """(2,) loss and gradient norm, on the device."""


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

    Raises:
        ConfigError: there is no such device here.
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
        self.device = pick_device(config.device)
        self.model = model.to(self.device).train()
        self.model.dropout = config.dropout
        self.ngram, self.config = ngram, config
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
        self._losses, self._unread = list[float](), list[_Tried]()
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
        before = read_metadata(self.folder / CHECKPOINT)["config"]
        dev, share = before.get("dev"), before.get("share")
        # A longer training than before: some validations are still to come.
        self.place.validations = min(self.place.validations, self._due())
        changed = ["dev"] if dev and dev != self.settings.get("dev") else []
        if share != self.config.share:
            changed.append("share")
            last = self.config.validations - 1  # there is one more in any case
            self.place.validations = min(self.place.validations, last)
        if changed:
            self.place.best_loss = None  # it was measured otherwise
            print(
                f"{self.folder}: {' and '.join(changed)} is another than before, so "
                "the next validation replaces the LSTM, whatever its loss",
                flush=True,
            )
        print(f"{self.folder}: goes on after update {self.place.step}", flush=True)

    def run(self) -> None:
        """Train to the end.

        Raises:
            CheckpointError: the folder cannot be written.
            Stopped: a signal asked for it; there is a checkpoint of the last update.
            TrainingError: the loss has not been finite for several updates.
        """
        num_words = int(self._lengths.sum()) - len(self._lengths)
        print(f"{len(self.sentences)} sentences, {num_words} words", flush=True)
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True  # as it is in an LSTM anyway
        if not self.place.step:
            self._save()  # from now on a kill leaves no other training's checkpoint
        self._since_tick.restart()
        with (
            noted_signals() as request,
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
                    if request.number:
                        self._end_here(request.number)
            if self.place.validations < self.config.validations:
                self._validate(log)
            self._save()

    def _end_here(self, number: int) -> NoReturn:
        """End where the next training goes on."""
        self._save()
        raise Stopped(
            number,
            f"stopped after update {self.place.step}, with a checkpoint: the same "
            "command goes on from there",
        )

    def _epoch(self) -> Iterator[dict[str, float]]:
        """Train on what is left of an epoch; yield what `_read` returns."""
        order = batches(
            self._lengths,
            self.config.batch_words,
            self._first_epoch + self.place.epoch,
        )
        for indices in order[self.place.position :]:
            self._update([self.sentences[i] for i in indices])
            self.place.position += 1
            if self.place.position == len(order):
                self.place.epoch, self.place.position = self.place.epoch + 1, 0
            wait = _READ_EVERY[self.device.type]
            if len(self._unread) >= wait or self.progress >= 1:
                yield self._read()

    def _update(self, sentences: Sequence[Ints]) -> None:
        """Do one update with the gradient of a batch, if it is finite."""
        rate = learning_rate(self.schedule, self.place.updates, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(self.place.step)  # of the dropout
        self.optimizer.zero_grad(set_to_none=True)
        loss, num_words = self._loss(sentences)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP_NORM)
        measured = torch.stack([loss.detach(), norm])
        # The fused AdamW does nothing where this is 1; the CPU need not know.
        self.optimizer.found_inf = (~measured.isfinite().all()).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.place.step += 1
        self.place.updates += 1
        self._unread.append(_Tried(self.place.step, rate, num_words, measured))

    def _loss(self, sentences: Sequence[Ints]) -> tuple[Tensor, int]:
        """Return the loss per word, and the number of words."""
        batch, padding = pad(sentences)
        num_words = int((~padding).sum())
        parts = [batch, padding, *self.model.members(batch)]
        if self.device.type == "cuda":
            parts = [p.pin_memory().to(self.device, non_blocking=True) for p in parts]
        batch, padding, *members = parts
        log_probs = self.model(batch, members).masked_fill(padding, 0)
        return -log_probs.sum() / num_words, num_words

    def _read(self) -> dict[str, float]:
        """Wait for the updates that were tried; return their metrics, on average."""
        before, tried = self.place.seconds, self._unread
        self._unread = []
        measured = torch.stack([one.measured for one in tried]).tolist()
        self._tick()
        for one, (loss, norm) in zip(tried, measured, strict=True):
            if math.isfinite(loss) and math.isfinite(norm):
                self.place.bad_steps = 0
                self._losses.append(loss)
            else:
                self._leave_out(one.step)
        num_words = sum(one.num_words for one in tried)
        return {
            "loss": fmean(loss for loss, _ in measured),
            "gradient_norm": fmean(norm for _, norm in measured),
            "learning_rate": tried[-1].learning_rate,
            "progress": self.progress,
            "epoch": self.place.epoch,
            "seconds": self.place.seconds,
            "words_per_second": num_words / max(self.place.seconds - before, 1e-9),
        }

    def _leave_out(self, step: int) -> None:
        """Count an update that did nothing, and stop after several."""
        self.place.updates -= 1
        self.place.bad_steps += 1
        print(f"update {step} is not finite and left out", flush=True)
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
        model = copy.deepcopy(self.model).cpu().eval()
        self.ngram.mix_in(model)
        shares = SHARES if self.config.share is None else (self.config.share,)
        model.share, loss = best_share(self.ngram, self.dev, shares)
        perplexity = math.exp(loss)
        found = {"loss": loss, "perplexity": perplexity, "share": model.share}
        log.write(self.place.step, {f"dev/{n}": value for n, value in found.items()})
        if self.place.best_loss is None or loss < self.place.best_loss:
            self.place.best_loss = loss
            model.save(self.folder, self.ngram.words, self.metadata)
        self._tick()
        learned = f"loss {fmean(self._losses):.3f} | " if self._losses else ""
        self._losses.clear()
        print(
            f"{100 * self.progress:5.1f} % | update {self.place.step} | epoch "
            f"{self.place.epoch} | {self.place.seconds / 60:.1f} min | {learned}"
            f"dev: perplexity {perplexity:.1f} with a share of {model.share:.2f}",
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


def best_share(
    model: WordNGram, sentences: Sequence[Ints], shares: Sequence[float] = SHARES
) -> tuple[float, float]:
    """Return the share in the mixture with the lowest loss on sentences, and that.

    The loss is -log P per word and </s>: the logarithm of the perplexity.
    """
    (ngram, lstm), ends, _ = scores(model, sentences)
    count = len(ngram) + len(ends)

    def loss(share: float) -> float:
        return -float(mix(ngram, lstm, share).sum() + ends.sum()) / count

    share = min(shares, key=loss)
    return share, loss(share)
