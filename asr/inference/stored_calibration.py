"""The calibration of confidences in the folder of a model."""

from pathlib import Path

from asr.inference.confidence import Calibration, read_calibration
from asr.model.storage import CALIBRATION, read_further


def load_calibration(folder: Path) -> Calibration | None:
    """Read the calibration of a model folder, if it has one.

    Raises:
        CheckpointError: it is damaged, or of other features.
    """
    content = read_further(folder, CALIBRATION)
    return None if content is None else read_calibration(content, folder / CALIBRATION)
