"""Updates of the weights without a stop: nothing waits until a figure is read.

Batches of few fixed shapes are replayed from recordings (see `graphs`), gradients are
clipped, weights and their average moved where they are, and whether all was finite is
decided there, too: the optimiser skips an update whose gradient is not. Figures are
read every `READ_EVERY` updates.

Memory is found out at the start: where the largest batch does not fit, all batches get
half of their rows, and an update twice as many batches.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from asr.data.batching import Batch
from asr.data.length_classes import ClassBatch, LengthClass, halved
from asr.errors import TrainingError
from asr.features import FRAMES_PER_SECOND
from asr.model.fused_steps import choose_fused
from asr.model.las import LAS
from asr.progress import print_if_read
from asr.text import Tokenizer
from asr.training.distributed import Team
from asr.training.graphs import (
    MOST_DIFFERENT,
    RecordedStep,
    loop_difference,
    replay_difference,
)
from asr.training.loss import LossConfig
from asr.training.weight_noise import WeightNoise

READ_EVERY = 20
"""Updates between two looks at how training goes."""


class RecordedUpdates:
    """Updates in batches of fixed shapes.

    Args:
        las: the network, on its device.
        tokenizer: of its tokens.
        loss_config: of the loss.
        optimizer: a fused one.
        average: the moving average of the weights, by name.
        team: the processes that share the work.
        precision: how the listener multiplies.
        clip_norm: largest norm of the gradient.
        sampled: whether some inputs will be the speller's own guesses.
        records: whether work is recorded, where the device can.
        weight_noise: deviation of the noise on recurrent weights.
    """

    def __init__(
        self,
        las: LAS,
        tokenizer: Tokenizer,
        loss_config: LossConfig,
        optimizer: torch.optim.Optimizer,
        average: dict[str, Tensor],
        team: Team,
        *,
        precision: torch.dtype,
        clip_norm: float,
        sampled: bool,
        records: bool,
        weight_noise: float = 0.0,
    ) -> None:
        self.las, self.tokenizer, self.loss_config = las, tokenizer, loss_config
        self.optimizer, self.team, self.precision = optimizer, team, precision
        self.clip_norm, self.sampled, self.records = clip_norm, sampled, records
        learning = {n: p for n, p in las.named_parameters() if p.requires_grad}
        self.parameters = list(learning.values())
        self.averages = [average[name] for name in learning]
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        device = las.ctc.weight.device
        self._noise = WeightNoise(las, weight_noise)
        self._loop: Callable[[], AbstractContextManager[None]] = nullcontext
        self._pool = torch.cuda.graph_pool_handle() if records else None
        self._steps = dict[tuple[LengthClass, bool], RecordedStep]()
        self._sums = torch.zeros(5, dtype=torch.float64, device=device)
        self._bad = torch.zeros(2, dtype=torch.int64, device=device)  # all, in a row
        self.since_read = 0
        """Updates since the last `read`."""
        self._audio = 0.0

    def fit(
        self,
        classes: Sequence[LengthClass],
        make: Callable[[ClassBatch], Batch],
        indexes: Callable[[LengthClass], list[int]],
    ) -> tuple[list[LengthClass], int]:
        """Find shapes that the device has memory for, and whether it replays well.

        Args:
            classes: from short to long.
            make: makes a batch.
            indexes: finds utterances for one.

        Returns:
            The classes, with fewer rows where need be, and by how much there are fewer.

        Raises:
            TrainingError: a batch of one row does not fit.
        """
        fewer = 1
        while True:
            largest = _largest(classes)
            batches = [ClassBatch(shape, indexes(shape)) for shape in largest]
            lacking = torch.tensor(float(not self._fits(batches, make)))
            if not self.team.sum(lacking):  # all processes take the same shapes
                return list(classes), fewer
            if all(shape.rows == 1 for shape in largest):
                raise TrainingError(
                    "the device has no memory for a batch of one utterance of "
                    f"{largest[0].frames / FRAMES_PER_SECOND:.0f} s (a smaller "
                    "network, or shorter utterances, need less)"
                )
            rows = max(shape.rows for shape in classes)
            classes, fewer = halved(classes), 2 * fewer
            if self.team.leads:
                print_if_read(
                    f"the device has no memory for {rows} utterances at a time: "
                    f"{max(1, rows // 2)} are taken, and an update is of {fewer} times "
                    "as many batches"
                )

    def _fits(
        self, batches: Sequence[ClassBatch], make: Callable[[ClassBatch], Batch]
    ) -> bool:
        """Return whether the device has memory for batches."""
        try:
            self._try(batches[0], make)
            for batch in batches[1:]:
                step = self._make_step(batch.shape, guided=False)
                with self._loop():
                    step.run(make(batch), 0.0)
        except torch.OutOfMemoryError:
            fits = False
        else:
            fits = True
        if not fits:  # here no frame of the error holds memory any more
            torch.cuda.empty_cache()
        return fits

    def _try(self, batch: ClassBatch, make: Callable[[ClassBatch], Batch]) -> None:
        """Do the largest batch once, and compare replayed with plain gradients."""
        made = make(batch)
        step = self._make_step(batch.shape, guided=False)
        if not self.records:
            step.run(made, 0.0)
            return
        if not loop_difference(step, made, 0.0) <= MOST_DIFFERENT:
            self._loop = partial(choose_fused, False)
            print_if_read(
                "the speller's fused loop differs from the plain one here by more than "
                "1 %: the plain one is taken, which is slower"
            )
        with self._loop():
            difference = replay_difference(step, made, 0.0)
        if not difference <= MOST_DIFFERENT:
            self.records = False
            print_if_read(
                "recorded updates differ from plain ones here by more than 1 %: "
                "training goes on without recordings, and slower"
            )

    def update(
        self,
        batches: Sequence[Batch],
        shape: LengthClass,
        *,
        num_batches: int,
        guide: float,
        sampling: float,
        decay: float,
    ) -> None:
        """Do one update.

        Args:
            batches: of this process, all of one shape; features on the device.
            shape: of the batches.
            num_batches: of all processes together that hold an utterance.
            guide: weight of the guide.
            sampling: chance of an input to be the speller's own guess.
            decay: of the average of the weights.
        """
        step = self._step(shape, batches[0], guided=guide > 0)
        figures = torch.zeros_like(self._sums)
        share = 1 / num_batches  # a batch without an utterance weighs nothing
        with self._noise.added(), self._loop():
            for number, batch in enumerate(batches):
                gradients, losses = step.run(batch, guide, sampling)
                self._add(gradients, share, first=number == 0)
                figures[:4] += losses * share
                self._audio += batch.seconds
        self.team.sum_gradients(self.parameters)
        total = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(total, foreach=True)
        nn.utils.clip_grads_with_norm_(
            self.parameters, self.clip_norm, norm, foreach=True
        )
        bad = ~torch.isfinite(norm)
        self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        self.optimizer.step()
        weights = [p.detach() for p in self.parameters]
        moves = torch._foreach_sub(weights, self.averages)
        torch._foreach_mul_(moves, (1 - decay) * (~bad).float())  # 0 where left out
        torch._foreach_add_(self.averages, moves)
        figures[4] = norm
        self._sums += figures.masked_fill(bad, 0.0)
        self._bad[0] += bad
        self._bad[1] = (self._bad[1] + 1) * bad
        self.since_read += 1

    def read(self) -> dict[str, Any]:
        """Wait for the device, and return means and counts since the last look.

        Means are over the updates that were not left out.
        """
        bad, in_a_row = self._bad.tolist()
        means = self.team.sum(self._sums.cpu()) / (self.since_read - bad)
        total, spelling, ctc, guide, norm = means.tolist()
        audio = float(self.team.sum(torch.tensor(self._audio, dtype=torch.float64)))
        self._sums.zero_()
        self._bad[0] = 0
        self.since_read, self._audio = 0, 0.0
        return {
            **{"loss": total, "spelling_loss": spelling, "ctc_loss": ctc},
            **{"guide": guide, "gradient_norm": norm / self.team.size},
            **{"audio": audio, "bad": bad, "in_a_row": in_a_row},
        }

    def _step(self, shape: LengthClass, batch: Batch, *, guided: bool) -> RecordedStep:
        """Return the recording of a shape; of another phase of the guide none stays."""
        step = self._steps.get((shape, guided))
        if step is None:
            for key in [key for key in self._steps if key[1] != guided]:
                del self._steps[key]
            step = self._steps[shape, guided] = self._make_step(shape, guided=guided)
            if self.records:
                with self._loop():
                    step.record(batch, self._pool)
        return step

    def _make_step(self, shape: LengthClass, *, guided: bool) -> RecordedStep:
        return RecordedStep(
            self.las,
            self.tokenizer,
            self.loss_config,
            shape,
            self.precision,
            guided=guided,
            sampled=self.sampled,
        )

    def _add(
        self, gradients: Sequence[Tensor | None], share: float, *, first: bool
    ) -> None:
        """Add a share of gradients to those of the parameters; a first one replaces."""
        pairs = list(zip(self.parameters, gradients, strict=True))
        for parameter, gradient in pairs:
            if gradient is None:  # a parameter that no loss hangs on is left alone
                parameter.grad = None
        found = [g for _, g in pairs if g is not None]
        targets = [p.grad for p, g in pairs if g is not None and p.grad is not None]
        if first:
            torch._foreach_copy_(targets, found)
            if share != 1:
                torch._foreach_mul_(targets, share)
        else:
            torch._foreach_add_(targets, found, alpha=share)


def _largest(classes: Sequence[LengthClass]) -> list[LengthClass]:
    """Return the shapes that need the most memory: in the listener, in attention."""
    listened = max(classes, key=lambda shape: shape.rows * shape.frames)
    attended = max(classes, key=lambda shape: shape.rows * shape.frames * shape.tokens)
    return list(dict.fromkeys((listened, attended)))
