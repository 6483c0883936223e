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
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from multiprocessing import parent_process
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any, NoReturn

import torch

from asr.data.dataset import Dataset
from asr.data.device_corpus import DeviceCorpus
from asr.data.length_classes import LengthClass
from asr.errors import CheckpointError, TrainingError
from asr.model.las import LAS
from asr.progress import PERCENT, print_if_read, progress_bar
from asr.runtime import allow_tf32, pick_device, pick_precision
from asr.tensor_files import read_metadata
from asr.text import Tokenizer
from asr.training.alignment import align_corpus
from asr.training.best_model import BestModel, Draw
from asr.training.checkpoint import (
    CHECKPOINT,
    Place,
    load_checkpoint,
    save_checkpoint,
)
from asr.training.config import TrainingConfig
from asr.training.distributed import Team
from asr.training.epoch_batches import EpochBatches
from asr.training.loss import MEASURED, LossConfig
from asr.training.metrics import MetricsLog
from asr.training.parts import freeze, parameter_groups
from asr.training.schedule import ScheduleConfig, augment_strength, validations_due
from asr.training.stopping import Stopped, StopRequest, noted_signals
from asr.training.stopwatch import Stopwatch
from asr.training.updates import Updates
from asr.training.validation import Validation, validate

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
        self.tokenizer, self.dev_set = tokenizer, dev
        self.folder, self.run_config = folder, run_config
        self.stage = f"stage {stage}" if stage else ""
        self.average = {n: t.detach().clone() for n, t in las.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            parameter_groups(las, taken, self.config.kept_rate),
            betas=(0.9, 0.98),
            weight_decay=self.config.weight_decay,
            fused=True if corpus else None,
        )
        self.updates = Updates(
            *(las, tokenizer, configs, self.optimizer, self.average),
            team=self.team,
            precision=self.precision,
            folder=folder,
        )
        self.best = BestModel(folder, las, tokenizer, dev, self.average, draw)
        self.corpus = corpus
        self.batches = EpochBatches(
            *(train, self.config, self.team, corpus),
            num_threads=4 if self.device.type == "cuda" else 1,
            reduction=las.listener.reduction,
        )
        self.place = Place()
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
        return (self.place.epoch + position / self.batches.number) / self.config.epochs

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
            self._classes, fewer = self.updates.record(self.corpus)
            self.batches.fix_shapes(self.corpus, self._classes, fewer)
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
        other = self._measured_otherwise(read_metadata(checkpoint).get("config", {}))
        if other:
            self.place.best_loss = None  # no loss from now on is to be compared with it
            if self.team.leads:
                print_if_read(
                    f"{self.folder}: {other} is another than before, so the next "
                    "validation replaces the model, whatever its loss"
                )

    def _measured_otherwise(self, before: dict[str, Any]) -> str:
        """Name what makes the loss on dev another than before; nothing if it is not.

        Args:
            before: all settings of the run, as the checkpoint has them.
        """
        corpus, now = before.get("corpus"), self.run_config.get("corpus")
        if corpus and now and corpus.get("dev") != now["dev"]:
            return "dev"
        given, own = before.get("loss", {}), asdict(self.loss_config)
        changed = [name for name in MEASURED if given.get(name, own[name]) != own[name]]
        return f"loss.{changed[0]}" if changed else ""

    def _find_place(self) -> None:
        """Find the place in an epoch whose batches may be others than before."""
        if self.batches.find(self.place) and self.team.leads:
            print_if_read(
                f"{self.folder}: batches are others than before, training goes on at "
                "about the same place of the epoch"
            )

    def _check_same_place(self) -> None:
        """Refuse to train together from different checkpoints."""
        if self.team.share(self.place.step) != self.place.step:
            raise CheckpointError(
                f"{self.folder}: is another folder here than where process 0 runs "
                "(all machines must see the same one)"
            )

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
        groups = self.batches.groups(self.place, self._mask_strength)
        self._align()
        with contextlib.closing(groups):
            for group in groups:
                metrics = self.updates.update(group, self.place, self.progress)
                self.place.position = group.end
                self._tick()
                if metrics:
                    metrics = self._timed(metrics)
                if self.place.position == self.batches.number:
                    self.place.epoch, self.place.position = self.place.epoch + 1, 0
                yield metrics
                self._align()  # before batches with it are made

    def _mask_strength(self, position: int) -> float:
        return augment_strength(self.schedule, self._progress_at(position))

    def _timed(self, metrics: dict[str, float]) -> dict[str, float]:
        """Put the time to figures of the updates since the last ones."""
        passed = self.place.seconds - self._reported_at
        self._reported_at = self.place.seconds
        rate = metrics.pop("audio") / max(passed, 1e-9)
        return {**metrics, "seconds": self.place.seconds, "audio_per_second": rate}

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
            and not self.updates.unread
            and self._since_save.seconds >= 60 * self.config.checkpoint_minutes
        ):
            self._save()

    def _align(self) -> None:
        """Find anew where attention is expected, at the set points of the guide."""
        config, progress, corpus = self.loss_config, self.progress, self.corpus
        if not corpus or not config.guide(progress):
            return
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
        if self.updates.unread:
            metrics = self.updates.read(self.place, self.progress)
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
        print_if_read(
            f"{stage}{100 * self.progress:5.1f} % | update {self.place.step} | "
            f"epoch {self.place.epoch} | {self.place.seconds / 60:.1f} min | {found}"
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
