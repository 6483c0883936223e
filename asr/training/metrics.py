"""The metrics of a run: JSON Lines for programs, TensorBoard for people."""

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from torch.utils.tensorboard import SummaryWriter

from asr.errors import CheckpointError
from asr.folders import write_bytes
from asr.foreign import parse_json
from asr.model.storage import stage_folders

METRICS = "metrics.jsonl"


class MetricsLog:
    """Writes the metrics of a run into its folder; a resumed run goes on in it.

    Args:
        folder: of the run; gets `metrics.jsonl` and `tensorboard/`.
        step: what was written behind this step, by a run that was killed after its last
            checkpoint, is taken off.

    Raises:
        CheckpointError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / METRICS
        try:
            before = path.read_bytes() if path.exists() else b""
            kept = _kept(before, step)
            if kept != before:
                write_bytes(path, kept)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot be written ({error.strerror})"
            ) from error
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an update or a validation.

        Raises:
            CheckpointError: the disk is full.
        """
        try:
            self._file.write(json.dumps({"step": step, **metrics}) + "\n")
            self._file.flush()
        except OSError as error:
            raise CheckpointError(
                f"{self._file.name}: cannot be written ({error.strerror})"
            ) from error
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def __enter__(self) -> "MetricsLog":
        """Nothing more to open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close both."""
        self._file.close()
        self._board.close()


class History(NamedTuple):
    """What a run has logged so far."""

    steps: list[dict[str, float]]
    """Metrics of an update or a validation, with its "step", as they were written."""
    num_broken: int
    """Lines that could not be read."""


def read_metrics(folder: Path) -> History:
    """Read the metrics of a run, which may be going on; broken lines are counted.

    Raises:
        CheckpointError: the folder has no metrics.
    """
    path, stages = folder / METRICS, stage_folders(folder)
    if stages and not path.exists():
        raise CheckpointError(
            f"{folder}: holds a run in stages (name one of them: "
            f"{list(stages.values())[-1]})"
        )
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}; a run's folder was expected)"
        ) from error
    written = [line for line in lines if line.strip()]
    read = [_parse(line) for line in written]
    steps = [metrics for metrics in read if metrics is not None]
    if not steps:
        raise CheckpointError(f"{path}: holds no metrics of a training")
    return History(steps, len(written) - len(steps))


def _parse(line: bytes) -> dict[str, float] | None:
    try:
        metrics = parse_json(line, finite=False)
    except ValueError:
        return None
    if not isinstance(metrics, dict) or not _is_number(metrics.get("step")):
        return None
    if not isfinite(metrics["step"]):
        return None
    return {name: value for name, value in metrics.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kept(content: bytes, step: int) -> bytes:
    """Return the lines up to a step; of the broken ones, those between others.

    The last line may have been cut by a kill.
    """
    kept, broken = list[bytes](), list[bytes]()
    for line in content.splitlines(keepends=True):
        metrics = _parse(line) if line.endswith(b"\n") else None
        if metrics is None:
            broken.append(line)
        elif metrics["step"] <= step:
            kept += [*broken, line]
            broken.clear()
    return b"".join(kept)
