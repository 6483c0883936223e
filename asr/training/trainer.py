"""The training loop: read, update, validate, keep.

A run is a folder:

config.yaml              all settings (written by `asr.train`)
checkpoint.safetensors   where it was last; a run that finds one goes on from there
model/                   the averaged weights with the lowest loss on dev so far (greedy
                         CER depends on whether one utterance repeats itself)
metrics.jsonl            what happened, a line each; the same in tensorboard/
attention/               a picture of the same dev utterance at each validation

On a CPU, `K steps, kill, M steps` gives the weights of `K + M steps` bit for bit where
the length is given in epochs. Where it is given in minutes, the schedule follows the
clock. In batches of fixed shapes a run that goes on while attention is guided finds
out anew where the CTC head finds the tokens. Where batches are others than before (on
another number of GPUs, or with less memory) it goes on at about the same place of the
epoch.
"""

import contextlib
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from multiprocessing import parent_process
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any, NoReturn

import torch

from asr.data.batching import Batch, BatchSampler, load
from asr.data.dataset import Dataset
from asr.data.device_corpus import DeviceCorpus
from asr.data.length_classes import (
    ClassSampler,
    LengthClass,
    cut_classes,
)
from asr.data.shard_order import ShardSampler, in_order_of_shards
from asr.errors import CheckpointError, TrainingError
from asr.features import FRAMES_PER_SECOND
from asr.model.las import LAS
from asr.progress import PERCENT, progress_bar
from asr.runtime import allow_tf32, pick_device, pick_precision
from asr.tensor_files import read_metadata
from asr.text import Tokenizer
from asr.training.alignment import align_corpus
from asr.training.best_model import BestModel, Draw
from asr.training.checkpoint import Place, load_checkpoint, save_checkpoint
from asr.training.config import TrainingConfig
from asr.training.distributed import Team
from asr.training.loss import LossConfig
from asr.training.metrics import MetricsLog
from asr.training.parts import SHARE, freeze, parameter_groups
from asr.training.plain_updates import PlainUpdates
from asr.training.recorded_updates import READ_EVERY, RecordedUpdates
from asr.training.schedule import (
    ScheduleConfig,
    augment_strength,
    learning_rate,
    sampling_chance,
    validations_due,
)
from asr.training.stopping import Stopped, StopRequest, noted_signals
from asr.training.stopwatch import Stopwatch
from asr.training.validation import Validation, validate

CHECKPOINT = "checkpoint.safetensors"
ALIGNMENTS = 3
"""How often, while attention is guided in batches of fixed shapes, it is found out anew
where the CTC head finds the tokens."""


class Trainer:
    """One training.

    Args:
        las: the network; its feature statistics are set.
        tokenizer: of its tokens.
        train: what to learn from.
        dev: what to validate on.
        configs: of the loop, the loss and the schedules.
        folder: of the run; it exists.
        run_config: all settings of the run, as JSON can hold them, for the checkpoint.
        draw: draws attention pictures.
        team: the processes that share the work.
        corpus: the training set as batches of fixed shapes; None for batches that are
            made on the CPU, each of its own shape.
        taken: names of the weights that were taken over whole from another network.
        stage: which one of several trainings in turn this is, such as "2 of 4"; its
            lines begin with it.

    Raises:
        ConfigError: a part that is to be frozen is none.
    """

    def __init__(
        self,
        las: LAS,
        tokenizer: Tokenizer,
        train: Dataset,
        dev: Dataset,
        configs: tuple[TrainingConfig, LossConfig, ScheduleConfig],
        *,
        folder: Path,
        run_config: dict[str, Any],
        draw: Draw,
        team: Team | None = None,
        corpus: DeviceCorpus | None = None,
        taken: Iterable[str] = (),
        stage: str = "",
    ) -> None:
        self.team = team or Team()
        self.config, self.loss_config, self.schedule = configs
        self.device = self.team.device(pick_device(self.config.device))
        self.precision = pick_precision(self.config.precision, self.device)
        allow_tf32(self.config.precision != "float32")
        self.las = las.to(self.device)
        freeze(las, self.config.freeze)
        self.tokenizer, self.train_set, self.dev_set = tokenizer, train, dev
        self.folder, self.run_config = folder, run_config
        self.stage = f"stage {stage}" if stage else ""
        self.average = {n: t.detach().clone() for n, t in las.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            parameter_groups(las, taken, self.config.kept_rate),
            betas=(0.9, 0.98),
            weight_decay=self.config.weight_decay,
            fused=True if corpus else None,
        )
        self.plain = PlainUpdates(
            *(las, tokenizer, self.loss_config, self.optimizer, self.average),
            *(self.team, self.precision, self.config.clip_norm),
        )
        self.best = BestModel(folder, las, tokenizer, dev, self.average, draw)
        self.accumulate, self.corpus = self.config.accumulate, corpus
        self.recorded: RecordedUpdates | None = None
        sampler = BatchSampler(
            lambda epoch: [train.duration(i, epoch) for i in range(len(train))],
            self.config.batch_seconds,
            self.config.batch_size,
            self.config.seed,
            self.config.short_first,
        )
        self.sampler: BatchSampler | ShardSampler | ClassSampler = in_order_of_shards(
            sampler, train.utterances, self.team.size
        )
        self.place = Place()
        self._num_batches = 1
        self._classes, self._alignments = list[LengthClass](), 0
        self._reported_at = 0.0
        self._request, self._stop = StopRequest(), 0
        self._since_save, self._since_tick = Stopwatch(), Stopwatch()

    @property
    def stop_signal(self) -> int:
        """The signal that this process was asked to stop by; 0 where none came."""
        return self._request.number

    @property
    def progress(self) -> float:
        """Share of the training that is over, 0 to 1."""
        return min(1.0, self._progress_at(self.place.position))

    def _progress_at(self, position: int) -> float:
        if self.config.minutes is not None:
            return self.place.seconds / (60 * self.config.minutes)
        return (self.place.epoch + position / self._num_batches) / self.config.epochs

    def run(self) -> None:
        """Train to the end; from the checkpoint, if there is one.

        Raises:
            Stopped: a signal asked for it; there is a checkpoint of the last update.
            CheckpointError: the checkpoint cannot be read or written.
            AudioError: a recording cannot be read.
            TrainingError: the loss has not been finite for several steps.
        """
        checkpoint = self.folder / CHECKPOINT
        if checkpoint.exists():
            self._resume(checkpoint)
        if self.corpus:
            self.recorded = self._prepare(self.corpus)
        if checkpoint.exists():
            self._find_place()
            # A longer training than before: some validations are still to come.
            self.place.validations = min(self.place.validations, self._due())
        self._check_same_place()
        self._reported_at = self.place.seconds
        self._since_tick.restart()
        try:
            quiet = not self.team.leads or parent_process() is not None
            with noted_signals(quiet=quiet) as self._request:
                self._run_as_one()
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{self.folder}: the device's memory is full (the same command goes on "
                "from the checkpoint before; a smaller training.device_hours, or in "
                "another folder a smaller training.batch_seconds, needs less)"
            ) from error

    def _run_as_one(self) -> None:
        """Train to the end as one of the processes."""
        if not self.team.leads:
            self._run(None)
            return
        with (
            MetricsLog(self.folder, self.place.step) as log,
            progress_bar(
                100, f"train {self.stage}".strip(), "%", layout=PERCENT
            ) as self._bar,
        ):
            self._run(log)
            self._save()

    def _resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint."""
        self.place = load_checkpoint(checkpoint, self.las, self.average, self.optimizer)
        before = read_metadata(checkpoint).get("config", {}).get("corpus")
        now = self.run_config.get("corpus")
        if before and now and before.get("dev") != now["dev"]:
            self.place.best_loss = None  # it was measured on other utterances
            if self.team.leads:
                print(
                    f"{self.folder}: dev is another than before, so the next "
                    "validation replaces the model, whatever its loss",
                    flush=True,
                )

    def _find_place(self) -> None:
        """Find the place in an epoch whose batches may be others than before."""
        place, before = self.place, self.place.num_batches
        self._num_batches = len(self.sampler.batches(place.epoch))
        position = place.position
        if before and before != self._num_batches:
            position = position * self._num_batches // before
        if self.corpus:  # an update must not mix two shapes
            position -= position % (self.accumulate * self.team.size)
        if position >= self._num_batches:  # of a checkpoint that knew no number
            place.epoch, position = place.epoch + 1, 0
            self._num_batches = len(self.sampler.batches(place.epoch))
        if position != place.position and self.team.leads:
            print(
                f"{self.folder}: batches are others than before, training goes on at "
                "about the same place of the epoch",
                flush=True,
            )
        place.position = position

    def _check_same_place(self) -> None:
        """Refuse to train together from different checkpoints."""
        if self.team.share(self.place.step) != self.place.step:
            raise CheckpointError(
                f"{self.folder}: is another folder here than where process 0 runs "
                "(all machines must see the same one)"
            )

    def _prepare(self, corpus: DeviceCorpus) -> RecordedUpdates:
        """Make ready for batches of fixed shapes that the device has memory for."""
        batch_frames = round(self.config.batch_seconds * FRAMES_PER_SECOND)
        lengths = corpus.lengths()
        classes = cut_classes(lengths, batch_frames, self.config.batch_size)
        recorded = RecordedUpdates(
            self.las.train(),
            self.tokenizer,
            self.loss_config,
            self.optimizer,
            self.average,
            self.team,
            precision=self.precision,
            clip_norm=self.config.clip_norm,
            sampled=self.schedule.sampling > 0,
            records=self.device.type == "cuda"
            and self.las.speller.attention.has_fast_path(),
        )
        classes, fewer = recorded.fit(
            classes,
            lambda batch: next(corpus.load([(batch, 1.0)], 0)),
            lambda shape: corpus.fitting(shape),
        )
        self.accumulate = fewer * self.config.accumulate
        self.sampler = ClassSampler(
            corpus.lengths,
            classes,
            self.config.seed,
            self.config.short_first,
            group=self.accumulate * self.team.size,
        )
        self._classes = classes
        return recorded

    def _run(self, log: MetricsLog | None) -> None:
        """Train to the end; the process that has the log validates and saves."""
        while self.progress < 1:
            for metrics in self._epoch():
                if log and metrics:
                    self._report(metrics, log)
                self._look_after(log)
                if self.progress >= 1:
                    break
                if self._stop:
                    self._end_here(log)
        if self.place.validations < self.config.validations:
            self._catch_up(log)
            self._validate(log)

    def _end_here(self, log: MetricsLog | None) -> NoReturn:
        """End where the next training goes on."""
        self._catch_up(log)
        if log:
            self._save()
        self.team.share(None)  # no process ends before there is the checkpoint
        raise Stopped(
            self._stop,
            f"stopped after update {self.place.step}, with a checkpoint: the same "
            "command goes on from there",
        )

    def _report(self, metrics: dict[str, float], log: MetricsLog) -> None:
        """Write the metrics of an update, and move the bar."""
        log.write(self.place.step, metrics)
        left = self.place.seconds * (1 / max(self.progress, 1e-6) - 1) / 60
        self._bar.n = round(100 * self.progress, 1)
        self._bar.set_postfix_str(
            f"epoch {self.place.epoch} | loss {metrics['loss']:.3f} | "
            f"{metrics['audio_per_second']:.0f} audio s/s | {left:.0f} min left"
        )

    def _epoch(self) -> Iterator[dict[str, float]]:
        """Train on what is left of an epoch, one update at a time.

        Yields the figures of an update, or nothing where they have not been read.
        """
        batches = self.sampler.batches(self.place.epoch)
        self._num_batches = self.place.num_batches = len(batches)
        size = self.accumulate * self.team.size
        starts = range(self.place.position, len(batches), size)
        own_batches = self._own_batches(batches, starts, size)
        with contextlib.closing(self._load(own_batches)) as loaded:
            for start in starts:
                group_size = len(batches[start : start + size])
                own = len(range(self.team.rank, group_size, self.team.size))
                if self.corpus and self.loss_config.guide(self.progress):
                    self._align(self.corpus)  # before batches with it are made
                group = list(itertools.islice(loaded, own))
                if self.recorded:
                    planned = batches[start : start + size]
                    metrics = self._replay(group, planned, self.recorded)
                else:
                    metrics = self._update(group, group_size)
                self.place.position = start + group_size
                self._tick()
                if metrics:
                    metrics = self._timed(metrics)
                if self.place.position == len(batches):
                    self.place.epoch, self.place.position = self.place.epoch + 1, 0
                yield metrics

    def _timed(self, metrics: dict[str, float]) -> dict[str, float]:
        """Put the time to figures of the updates since the last ones."""
        passed = self.place.seconds - self._reported_at
        self._reported_at = self.place.seconds
        rate = metrics.pop("audio") / max(passed, 1e-9)
        return {**metrics, "seconds": self.place.seconds, "audio_per_second": rate}

    def _load(self, batches: Iterator[tuple[Any, float]]) -> Generator[Batch]:
        """Make batches, wherever they are made."""
        epoch = self.place.epoch
        if self.corpus:
            return self.corpus.load(batches, epoch, self.las.listener.reduction)
        return load(self.train_set, batches, epoch=epoch, num_threads=self._loaders())

    def _own_batches(
        self, batches: Sequence[Any], starts: Iterable[int], size: int
    ) -> Iterator[tuple[Any, float]]:
        """Yield this process's share of each update, and how strong the masks are."""
        for start in starts:
            strength = augment_strength(self.schedule, self._progress_at(start))
            group = batches[start : start + size]
            for batch in group[self.team.rank :: self.team.size]:
                yield batch, strength

    def _loaders(self) -> int:
        return 4 if self.device.type == "cuda" else 1

    def _tick(self) -> None:
        """Count the time since the last tick, by the clock of the leading process.

        With it, all processes agree on whether a signal reached one of them.
        """
        lap, number = self._since_tick.restart(), self._request.number
        own = [lap if self.team.leads else 0.0]
        own += [float(number == one) for one in (SIGINT, SIGTERM)]
        told = self.team.sum(torch.tensor(own, dtype=torch.float64)).tolist()
        elapsed, interrupted, terminated = told
        self.place.seconds += elapsed
        if interrupted or terminated:
            self._stop = int(SIGINT if interrupted else SIGTERM)

    def _begin_update(self) -> float:
        """Set chance and learning rate for an update; return the rate."""
        # All chance of an update hangs on its number: a resumed run draws the same.
        seed = self.config.seed * 1_000_003 + self.place.step
        torch.manual_seed(seed * self.team.size + self.team.rank)
        rate = learning_rate(self.schedule, self.place.updates, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group[SHARE]
        self.las.train()
        return rate

    def _replay(
        self, group: list[Batch], planned: Sequence[Any], recorded: RecordedUpdates
    ) -> dict[str, float]:
        """Do one update in batches of a fixed shape; read its figures now and then.

        Args:
            group: the batches of this process.
            planned: the batches of all processes together, as `ClassBatch`es.
            recorded: does it.
        """
        self._begin_update()
        recorded.update(
            group,
            planned[0].shape,
            num_batches=sum(bool(batch.indexes) for batch in planned),
            guide=self.loss_config.guide(self.progress),
            sampling=sampling_chance(self.schedule, self.progress),
            decay=self._average_decay(self.place.updates),
        )
        self.place.step += 1
        self.place.updates += 1
        if recorded.since_read < READ_EVERY:
            return {}
        return self._read(recorded)

    def _read(self, recorded: RecordedUpdates) -> dict[str, float]:
        """Wait for the device and read the figures of the last updates."""
        metrics = recorded.read()
        bad, self.place.bad_steps = metrics.pop("bad"), metrics.pop("in_a_row")
        self.place.updates -= bad
        if bad and self.team.leads:
            print(
                f"{bad} of the updates before {self.place.step} are not finite and "
                "left out",
                flush=True,
            )
        if self.place.bad_steps >= self.config.bad_steps:
            raise TrainingError(
                f"{self.folder}: {self.place.bad_steps} updates in a row were not "
                f"finite ({self._what_is_kept()}; a lower schedule.learning_rate may "
                "help)"
            )
        group = self.optimizer.param_groups[0]
        rate = group["lr"] / group[SHARE]
        where = {"epoch": self.place.epoch, "progress": self.progress}
        return {**metrics, "learning_rate": rate, **where}

    def _update(self, group: list[Batch], group_size: int) -> dict[str, float]:
        """Do one update with the gradients of a group of batches.

        Args:
            group: the batches of this process.
            group_size: batches of all processes together.
        """
        rate = self._begin_update()
        figures, is_finite = self.plain.update(
            group,
            group_size,
            guide=self.loss_config.guide(self.progress),
            sampling=sampling_chance(self.schedule, self.progress),
            decay=self._average_decay(self.place.updates + 1),
        )
        self.place.step += 1
        if is_finite:
            self.place.updates += 1
            self.place.bad_steps = 0
        else:
            self._skip(group)
        where = {"epoch": self.place.epoch, "progress": self.progress}
        return {**figures, "learning_rate": rate, **where}

    def _average_decay(self, updates: int) -> float:
        return min(self.config.average_decay, (1 + updates) / (10 + updates))

    def _skip(self, group: list[Batch]) -> None:
        """Leave an update out, and stop after several."""
        self.place.bad_steps += 1
        own = [id for batch in group for id in batch.ids]
        names = ", ".join(id for ids in self.team.gather(own) for id in ids)
        if self.team.leads:
            print(
                f"update {self.place.step} is not finite and left out: {names}",
                flush=True,
            )
        if self.place.bad_steps >= self.config.bad_steps:
            raise TrainingError(
                f"{self.folder}: {self.place.bad_steps} updates in a row were not "
                f"finite, the last with {names} ({self._what_is_kept()}; a lower "
                "schedule.learning_rate may help)"
            )

    def _what_is_kept(self) -> str:
        """Return what a training that stops leaves."""
        if (self.folder / CHECKPOINT).exists():
            return "the checkpoint before is kept"
        return "there is no checkpoint yet: the same command begins anew"

    def _look_after(self, log: MetricsLog | None) -> None:
        """Validate and save when it is time for it."""
        if self._due() > self.place.validations:
            self._catch_up(log)
            self._validate(log)
            if log:
                self._save()
        elif (
            log
            and self.place.bad_steps == 0
            and not (self.recorded and self.recorded.since_read)
            and self._since_save.seconds >= 60 * self.config.checkpoint_minutes
        ):
            self._save()

    def _align(self, corpus: DeviceCorpus) -> None:
        """Find anew where attention is expected, at the set points of the guide."""
        config, progress = self.loss_config, self.progress
        span = max(config.guide_until - config.guide_from, 1e-9)
        due = 1 + int(ALIGNMENTS * (progress - config.guide_from) / span)
        if corpus.expected is not None and due <= self._alignments:
            return
        self._alignments = due
        with self._averaged():
            corpus.expected = align_corpus(
                self.las, corpus, self._classes, self.tokenizer.pad, self.team
            )
        self._tick()

    def _catch_up(self, log: MetricsLog | None) -> None:
        """Read the figures of updates that have not been read."""
        if self.recorded and self.recorded.since_read:
            metrics = self._read(self.recorded)
            if log:
                self._report(self._timed(metrics), log)

    def _due(self) -> int:
        """Count how many validations there should have been by now."""
        return validations_due(self.progress, self.config.validations)

    def _validate(self, log: MetricsLog | None) -> None:
        """Look at dev with the averaged weights; keep them if they are the best."""
        self.place.validations = max(self._due(), self.place.validations + 1)
        with self._averaged():
            found = validate(
                self.las,
                self.dev_set,
                self.tokenizer,
                self.loss_config,
                batch_seconds=self.config.batch_seconds,
                device=self.device,
                team=self.team,
            )
            if log:
                self.best.draw_attention(self.place.step)
                self._judge(found, log)
        self._tick()

    def _judge(self, found: Validation, log: MetricsLog) -> None:
        """Write what validation found; keep the averaged weights if they are the best.

        They are in the network meanwhile.
        """
        log.write(self.place.step, found.metrics())
        self.best.take(found, self.place)
        stage = f"{self.stage} | " if self.stage else ""
        print(
            f"{stage}{100 * self.progress:5.1f} % | update {self.place.step} | "
            f"epoch {self.place.epoch} | {self.place.seconds / 60:.1f} min | {found}",
            flush=True,
        )

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the averaged weights into the network for a while."""
        own = {name: t.detach().clone() for name, t in self.las.state_dict().items()}
        self.las.load_state_dict(self.average)
        self.las.eval()
        try:
            yield
        finally:
            self.las.load_state_dict(own)
            self.las.train()

    def _save(self) -> None:
        save_checkpoint(
            self.folder / CHECKPOINT,
            self.place,
            self.las,
            self.average,
            self.optimizer,
            self.run_config,
        )
        self._since_save.restart()
