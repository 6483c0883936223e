"""The updates of a training: chance, learning rate, and those that are not finite.

Each is a `PlainUpdates`' or, in batches of fixed shapes, a `RecordedUpdates`'. One that
is not finite is left out; several in a row end the training.
"""

from pathlib import Path

import torch
from torch import Tensor

from asr.data.batching import Batch
from asr.data.device_corpus import DeviceCorpus
from asr.data.length_classes import LengthClass, cut_classes
from asr.errors import TrainingError
from asr.features import FRAMES_PER_SECOND
from asr.model.las import LAS
from asr.progress import print_if_read
from asr.text import Tokenizer
from asr.training.checkpoint import CHECKPOINT, Place
from asr.training.config import TrainingConfig
from asr.training.distributed import Team
from asr.training.epoch_batches import Group
from asr.training.loss import LossConfig
from asr.training.parts import SHARE
from asr.training.plain_updates import PlainUpdates
from asr.training.recorded_updates import READ_EVERY, RecordedUpdates
from asr.training.schedule import ScheduleConfig, learning_rate, sampling_chance


class Updates:
    """Updates one after the other.

    Args:
        las: the network, on its device.
        tokenizer: of its tokens.
        configs: of the loop, the loss and the schedules.
        optimizer: of the weights.
        average: the moving average of the weights, by name.
        team: the processes that share the work.
        precision: how matrices are multiplied.
        folder: of the run.
    """

    def __init__(
        self,
        las: LAS,
        tokenizer: Tokenizer,
        configs: tuple[TrainingConfig, LossConfig, ScheduleConfig],
        optimizer: torch.optim.Optimizer,
        average: dict[str, Tensor],
        *,
        team: Team,
        precision: torch.dtype,
        folder: Path,
    ) -> None:
        self.config, self.loss_config, self.schedule = configs
        self.las, self.optimizer, self.team, self.folder = las, optimizer, team, folder
        self._parts = (las, tokenizer, self.loss_config, optimizer, average, team)
        self._precision = precision
        self._plain = PlainUpdates(
            *(*self._parts, precision, self.config.clip_norm, self.config.weight_noise)
        )
        self._recorded: RecordedUpdates | None = None

    @property
    def unread(self) -> bool:
        """Whether there were updates whose figures nobody has read."""
        return self._recorded is not None and self._recorded.since_read > 0

    def record(self, corpus: DeviceCorpus) -> tuple[list[LengthClass], int]:
        """Make ready for batches of fixed shapes that the device has memory for.

        Returns:
            The shapes, from short to long, and how many of their batches make up one of
            the settings.

        Raises:
            TrainingError: a batch of one row does not fit.
        """
        batch_frames = round(self.config.batch_seconds * FRAMES_PER_SECOND)
        on_gpu = self.las.ctc.weight.device.type == "cuda"
        self.las.train()
        self._recorded = RecordedUpdates(
            *self._parts,
            precision=self._precision,
            clip_norm=self.config.clip_norm,
            sampled=self.schedule.sampling > 0,
            records=on_gpu and self.las.speller.attention.has_fast_path(),
            weight_noise=self.config.weight_noise,
        )
        return self._recorded.fit(
            cut_classes(corpus.lengths(), batch_frames, self.config.batch_size),
            lambda batch: next(corpus.load([(batch, 1.0)], 0)),
            lambda shape: corpus.fitting(shape),
        )

    def update(self, group: Group, place: Place, progress: float) -> dict[str, float]:
        """Do one update, and count it.

        Args:
            group: what it learns from.
            place: where the training is.
            progress: share of the training that is over.

        Returns:
            Its figures; those of several together, or none, where figures are read only
            now and then.

        Raises:
            TrainingError: too many in a row were not finite.
        """
        # All chance of an update hangs on its number: a resumed run draws the same.
        seed = self.config.seed * 1_000_003 + place.step
        torch.manual_seed((seed * self.team.size + self.team.rank) % 2**64)
        rate = learning_rate(self.schedule, place.updates, progress)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate * parameters[SHARE]
        self.las.train()
        if self._recorded:
            return self._replay(group, place, progress, self._recorded)
        return self._update(group, place, progress)

    def read(self, place: Place, progress: float) -> dict[str, float]:
        """Wait for the device, and return the figures of the updates that are unread.

        Raises:
            TrainingError: too many in a row were not finite.
        """
        if not self._recorded:
            return {}
        metrics = self._recorded.read()
        bad, place.bad_steps = metrics.pop("bad"), metrics.pop("in_a_row")
        place.updates -= bad
        if bad and self.team.leads:
            print_if_read(
                f"{bad} of the updates before {place.step} are not finite and left out"
            )
        self._check(place)
        return {**metrics, **self._where(place, progress)}

    def _update(self, group: Group, place: Place, progress: float) -> dict[str, float]:
        """Do one in batches of any shape."""
        figures, is_finite = self._plain.update(
            group.batches, len(group.planned), **self._settings(place, progress)
        )
        place.step += 1
        if is_finite:
            place.updates += 1
            place.bad_steps = 0
        else:
            self._leave_out(group.batches, place)
        return {**figures, **self._where(place, progress)}

    def _replay(
        self, group: Group, place: Place, progress: float, recorded: RecordedUpdates
    ) -> dict[str, float]:
        """Do one in batches of a fixed shape; read its figures now and then."""
        recorded.update(
            group.batches,
            group.planned[0].shape,
            num_batches=sum(bool(batch.indexes) for batch in group.planned),
            **self._settings(place, progress),
        )
        place.step += 1
        place.updates += 1
        return {} if recorded.since_read < READ_EVERY else self.read(place, progress)

    def _settings(self, place: Place, progress: float) -> dict[str, float]:
        """Return what hangs on where in the training an update is."""
        updates = place.updates + 1
        return {
            "guide": self.loss_config.guide(progress),
            "sampling": sampling_chance(self.schedule, progress),
            "decay": min(self.config.average_decay, (1 + updates) / (10 + updates)),
        }

    def _where(self, place: Place, progress: float) -> dict[str, float]:
        first = self.optimizer.param_groups[0]
        rate = first["lr"] / first[SHARE]
        return {"learning_rate": rate, "epoch": place.epoch, "progress": progress}

    def _leave_out(self, batches: list[Batch], place: Place) -> None:
        """Say which update is left out."""
        place.bad_steps += 1
        own = [id for batch in batches for id in batch.ids]
        names = ", ".join(id for ids in self.team.gather(own) for id in ids)
        if self.team.leads:
            print_if_read(f"update {place.step} is not finite and left out: {names}")
        self._check(place, f", the last with {names}")

    def _check(self, place: Place, last: str = "") -> None:
        """Raise a TrainingError after too many updates in a row that are not finite."""
        if place.bad_steps < self.config.bad_steps:
            return
        kept = "the checkpoint before is kept"
        if not (self.folder / CHECKPOINT).exists():
            kept = "there is no checkpoint yet: the same command begins anew"
        raise TrainingError(
            f"{self.folder}: {place.bad_steps} updates in a row were not finite{last} "
            f"({kept}; a lower schedule.learning_rate may help)"
        )
