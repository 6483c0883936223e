"""The metrics of a run: JSON Lines for programs, TensorBoard for people."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

METRICS = "metrics.jsonl"


class MetricsLog:
    """Writes the metrics of a run into its folder; a resumed run goes on in it.

    Args:
        folder: of the run; gets `metrics.jsonl` and `tensorboard/`.
        step: what was written behind this step, by a run that was killed after its last
            checkpoint, is taken off.
    """

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / METRICS
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= step]
        path.write_text("".join(kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
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


def _lines(path: Path) -> list[str]:
    """Whole lines only: the last one may have been cut by a kill."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [line for line in lines if line.endswith("\n")]
