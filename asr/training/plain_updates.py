"""Updates of the weights one after the other: the figures of each are known at once.

On a CPU, and wherever batches have shapes of their own; on a GPU it is
`recorded_updates`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asr.data.batching import Batch
from asr.model.las import LAS
from asr.text import Tokenizer
from asr.training.distributed import Team
from asr.training.loss import LossConfig, losses
from asr.training.weight_noise import WeightNoise


class PlainUpdates:
    """Updates in batches of any shape.

    Args:
        las: the network, on its device.
        tokenizer: of its tokens.
        loss_config: of the loss.
        optimizer: of the weights.
        average: the moving average of the weights, by name.
        team: the processes that share the work.
        precision: how matrices are multiplied.
        clip_norm: largest norm of the gradient.
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
        precision: torch.dtype,
        clip_norm: float,
        weight_noise: float = 0.0,
    ) -> None:
        self.las, self.tokenizer, self.loss_config = las, tokenizer, loss_config
        self.optimizer, self.average, self.team = optimizer, average, team
        self.precision, self.clip_norm = precision, clip_norm
        self.device = las.ctc.weight.device
        self._noise = WeightNoise(las, weight_noise)

    def update(
        self,
        batches: Sequence[Batch],
        group_size: int,
        *,
        guide: float,
        sampling: float,
        decay: float,
    ) -> tuple[dict[str, float], bool]:
        """Do one update with the gradients of some batches.

        Args:
            batches: of this process.
            group_size: batches of all processes together.
            guide: weight of the guide.
            sampling: chance of an input to be the speller's own guess.
            decay: of the average of the weights.

        Returns:
            The figures of the update, and whether they are finite: where they are not,
            it is left out.
        """
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(6, dtype=torch.float64)
        with self._noise.added():
            for batch in batches:
                on_device = batch.to(self.device)
                sums[:5] += self._backward(on_device, group_size, guide, sampling)
                sums[5] += batch.seconds
        total, spelling, ctc, guided, wer, audio = self.team.sum(sums).tolist()
        learning = [p for p in self.las.parameters() if p.requires_grad]
        self.team.sum_gradients(learning)
        norm = float(nn.utils.clip_grad_norm_(learning, self.clip_norm))
        is_finite = math.isfinite(total) and math.isfinite(norm)
        if is_finite:
            self.optimizer.step()
            self._move_average(decay)
        figures = {
            **{"loss": total, "spelling_loss": spelling, "ctc_loss": ctc},
            **({"expected_wer": wer} if self.loss_config.mwer_weight else {}),
            **{"guide": guided, "gradient_norm": norm, "audio": audio},
        }
        return figures, is_finite

    def _backward(
        self, batch: Batch, group_size: int, guide: float, sampling: float
    ) -> Tensor:
        """Add a batch's gradients; return its five losses, as shares of the group."""
        with torch.autocast(
            self.device.type,
            torch.bfloat16,
            enabled=self.precision is torch.bfloat16,
        ):
            parts, _ = losses(
                self.las,
                batch,
                self.tokenizer,
                self.loss_config,
                guide=guide,
                sampling=sampling,
            )
        torch.autograd.backward(parts.total / group_size)
        return torch.stack(parts).detach().cpu() / group_size

    def _move_average(self, decay: float) -> None:
        """Move the average of the weights towards the weights."""
        for name, value in self.las.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)
