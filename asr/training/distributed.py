"""Several processes, one network: each works out its share of an update's gradients.

On a CPU, two processes of one thread train faster than one process of two threads,
whose threads wait for each other after each small product; and a busy neighbour slows
them down in proportion, not by a factor of ten. On a machine with several GPUs each
process has its own.

All processes hold the same weights, and all make the same update from the sum of all
gradients, so nothing but gradients (and the clock of the first) ever travels.
"""

from collections.abc import Iterable

import torch
import torch.distributed
from torch import Tensor, nn


class Team:
    """The processes of a training, as one of them sees it.

    Args:
        rank: which one this is; 0 is the one that validates and writes.
        size: how many there are. A team of one never waits for anybody.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        """Whether this is the process that validates and writes."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Add up a CPU tensor over all processes; each gets the same sum."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients over all processes; none counts as zero."""
        if self.size == 1:
            return
        parameters = list(parameters)
        gradients = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in parameters
        ]
        joined = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(joined)
        start = 0
        for parameter in parameters:
            part = joined[start : start + parameter.numel()]
            parameter.grad = part.view_as(parameter)
            start += parameter.numel()


def join_team(rank: int, size: int, meeting_point: str) -> Team:
    """Wait for the other processes of this machine.

    Args:
        rank: which one this is, from 0.
        size: how many there are.
        meeting_point: path of a file that does not exist yet and that all can write.
    """
    torch.distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        init_method=f"file://{meeting_point}",
        rank=rank,
        world_size=size,
    )
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    return Team(rank, size)
