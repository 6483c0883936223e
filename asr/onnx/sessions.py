"""ONNX graphs, ready to run: the one door to onnxruntime.

Each graph runs in one thread, as the torch path does: the small steps of a search gain
next to nothing from a second core.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime

from asr.errors import CheckpointError

Array = npt.NDArray[Any]


class Session:
    """A graph of a file.

    Args:
        path: of the file.

    Raises:
        CheckpointError: it is no graph that this onnxruntime can run.
    """

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own have no common base
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{path}: cannot be run by onnxruntime {onnxruntime.__version__} "
                f"({reason:.200})"
            ) from error
        self.shapes = {one.name: one.shape for one in self._session.get_inputs()}
        """Of the inputs, by their names; free axes have names."""

    def run(self, names: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """Return some outputs, by their names."""
        found: list[Array] = self._session.run(list(names), dict(inputs))
        return found
