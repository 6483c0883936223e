"""Several processes, one network: each works out its share of an update's gradients.

On a CPU, two processes of one thread train faster than one process of two threads,
whose threads wait for each other after each small product; and a busy neighbour slows
them down in proportion, not by a factor of ten. On a machine with several GPUs each
process has its own.

All processes hold the same weights, and all make the same update from the sum of all
gradients, so nothing but gradients (and the clock of the first) ever travels. The
gradients travel in one piece when the last batch of an update is done. To send them in
pieces during the backward pass would need a hook in each parameter, which a recorded
CUDA graph does not call, and could only begin with the last batch of an update.

The processes are started here (`training.processes`), or by torchrun, on one machine or
on several. Tensors on a GPU are added up by NCCL, those on the CPU by gloo, which also
notices at once where a process has died.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from asr.errors import AsrError, ConfigError, TrainingError
from asr.training.stopping import end_if_asked

Item = TypeVar("Item")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others. A process that died is noticed at once,
one whose machine lost its network after this time; a validation may not take longer."""
_SECONDS_FOR_THE_FIRST = 2.0
"""By how much the errors of other processes come later than the same of the first."""
_SECONDS_FOR_THE_CAUSE = 5.0
"""How long a process that lost another leaves that one time to report its error."""
_SECONDS_BETWEEN_ANSWERS = 0.05
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets."""


class Team:
    """The processes of a training, as one of them sees it.

    Args:
        rank: which one this is; 0 is the one that validates and writes.
        size: how many there are. A team of one never waits for anybody.
        local_rank: which one of those on this machine; None for `rank`.
        local_size: how many there are on this machine; None for `size`.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        local_rank: int | None = None,
        local_size: int | None = None,
    ) -> None:
        self.rank, self.size = rank, size
        self.local_rank = rank if local_rank is None else local_rank
        self.local_size = size if local_size is None else local_size

    @property
    def leads(self) -> bool:
        """Whether this is the process that validates and writes."""
        return self.rank == 0

    def device(self, kind: torch.device) -> torch.device:
        """Return the device of this process: of several GPUs its own.

        Args:
            kind: what the settings name; "cuda" for any GPU.

        Raises:
            ConfigError: this machine has more processes than GPUs.
        """
        if kind.type != "cuda" or self.size == 1:
            return kind
        count = torch.cuda.device_count()
        if self.local_rank >= count:
            raise ConfigError(
                f"process {self.local_rank + 1} of this machine has no GPU of its own "
                f"(there are {count}; start one process a GPU)"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def sum(self, values: Tensor) -> Tensor:
        """Add up a tensor over all processes; each gets the same sum.

        Raises:
            TrainingError: another process is gone.
        """
        if self.size > 1:
            with self._together():
                torch.distributed.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients over all processes; none counts as zero.

        Raises:
            TrainingError: another process is gone.
        """
        if self.size == 1:
            return
        parameters = list(parameters)
        gradients = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in parameters
        ]
        joined = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        start = 0
        for parameter in parameters:
            part = joined[start : start + parameter.numel()]
            parameter.grad = part.view_as(parameter)
            start += parameter.numel()

    def share(self, item: Item) -> Item:
        """Return what the leading process handed over; the others wait for it.

        Args:
            item: of the leading process, can be pickled; of the others it is ignored.

        Raises:
            TrainingError: another process is gone.
        """
        if self.size == 1:
            return item
        shared = [item]
        with self._together():
            torch.distributed.broadcast_object_list(shared)  # by gloo
        return shared[0]

    def gather(self, item: Item) -> list[Item]:
        """Return what each process hands over, in the order of their ranks.

        Raises:
            TrainingError: another process is gone.
        """
        if self.size == 1:
            return [item]
        items = [item] * self.size
        with self._together():
            torch.distributed.all_gather_object(items, item)
        return items

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Do what all processes do at the same time."""
        try:
            yield
        except RuntimeError as error:
            end_if_asked(_SECONDS_FOR_THE_CAUSE)
            reason = (str(error).splitlines() or [""])[0]
            raise TrainingError(
                f"process {self.rank} of {self.size} lost another one, whose own "
                f"message shows why ({reason})"
            ) from error


def join_team(rank: int, size: int, meeting_point: str) -> Team:
    """Wait for the other processes of this machine.

    Args:
        rank: which one this is, from 0.
        size: how many there are.
        meeting_point: path of a file that does not exist yet and that all can write.
    """
    torch.distributed.init_process_group(
        _backend(),
        init_method=f"file://{meeting_point}",
        rank=rank,
        world_size=size,
        timeout=TIMEOUT,
    )
    return Team(rank, size)


def leave_team(team: Team) -> None:
    """Part in order: none leaves before the leading process has done its last work.

    The process should then end by `asr.memory.end_process`.
    """
    team.share(None)
    torch.distributed.destroy_process_group()


def started_by_torchrun() -> bool:
    """Return whether this process is one of those that torchrun has started."""
    return "RANK" in os.environ


def leads_by_environment() -> bool:
    """Return whether this process leads: torchrun has started it first, or none."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def torchrun_team(processes: int) -> Iterator[Team]:
    """Be one of the processes that torchrun has started, on one machine or several.

    Args:
        processes: that the settings ask for: 1 where they leave it to torchrun.

    Raises:
        ConfigError: torchrun has started another number of processes, or what it sets
            in the environment is not there.
        TrainingError: another process did not come.
    """
    rank, size, local_rank, local_size = _place_in_environment()
    if processes not in (1, size):
        raise ConfigError(
            f"training.processes: is {processes} and torchrun has started {size} "
            "(leave it at 1)"
        )
    team = Team(rank, size, local_rank, local_size)
    if size == 1:
        yield team
        return
    with team._together():
        store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
        torch.distributed.init_process_group(
            _backend(),
            store=PrefixStore(_agree_on_prefix(store, rank, size), store),
            rank=rank,
            world_size=size,
            timeout=TIMEOUT,
        )
    yield team
    leave_team(team)


def _place_in_environment() -> tuple[int, int, int, int]:
    """Return rank, size, local rank and local size as torchrun sets them."""
    missing = [name for name in _ENVIRONMENT if name not in os.environ]
    if missing:
        raise ConfigError(
            f"RANK is set, {missing[0]} is not (start by torchrun, or unset RANK)"
        )
    try:
        rank, size, local_rank = (int(os.environ[name]) for name in _ENVIRONMENT[:3])
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    except ValueError as error:
        raise ConfigError(
            f"RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE must be numbers "
            f"({error})"
        ) from error
    return rank, size, local_rank, local_size


def _agree_on_prefix(store: Store, rank: int, size: int) -> str:
    """Return a prefix of keys that only the processes of this start have.

    After a restart torchrun's store still has the addresses of the processes before,
    and no process can see from its environment which start this is: torchrun counts
    restarts on each machine for itself (https://github.com/pytorch/pytorch/issues/135712).
    So each process asks under a name that no other ever had, and the leading one, of
    which there is one at a time, answers until all of this start have their answer.
    """
    own = uuid4().hex
    if rank > 0:
        store.set(f"asr/asks/{rank}", own)
        prefix = store.get(f"asr/answer/{own}").decode()  # waits for it
        store.add(f"{prefix}/answered", 1)
        return prefix
    prefix, end = f"asr/{own}", time.monotonic() + TIMEOUT.total_seconds()
    while store.add(f"{prefix}/answered", 0) < size - 1:
        for key in (f"asr/asks/{other}" for other in range(1, size)):
            if store.check([key]):
                store.set(f"asr/answer/{store.get(key).decode()}", prefix)
        if time.monotonic() > end:
            raise RuntimeError("not all processes came in time")
        time.sleep(_SECONDS_BETWEEN_ANSWERS)
    return prefix


@contextmanager
def errors_for_torchrun() -> Iterator[None]:
    """Let an error be reported once, by the process that has it, and by torchrun.

    An error that all have is the leading one's to report: the others wait until
    torchrun ends them. What torchrun prints at the end has the same line. Without
    torchrun nothing of this happens.
    """
    try:
        yield
    except AsrError as error:
        if started_by_torchrun():
            if not leads_by_environment():
                time.sleep(_SECONDS_FOR_THE_FIRST)
            _note_for_torchrun(error)
        raise


def _note_for_torchrun(error: AsrError) -> None:
    """Write an error into the file that torchrun reads when a process has failed."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    line = " ".join(str(error).split())
    extra = {"py_callstack": line, "timestamp": str(int(time.time()))}
    content = json.dumps({"message": {"message": line, "extraInfo": extra}})
    with suppress(OSError):  # it is printed in any case
        Path(path).write_text(content, encoding="utf-8")


def _backend() -> str:
    """Return what adds up tensors: gloo on the CPU, and NCCL where there is a GPU."""
    if torch.cuda.is_available() and torch.distributed.is_nccl_available():
        return "cpu:gloo,cuda:nccl"
    return "cpu:gloo"
