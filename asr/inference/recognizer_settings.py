"""What a recognizer is loaded from: small enough to be sent to another process."""

from pathlib import Path
from typing import Any, NamedTuple

from asr.inference.recognizer import Recognizer
from asr.inference.situations import Decoding, wants_language_model
from asr.lm import word_files, word_lstm
from asr.lm.word_files import find_language_model
from asr.model.attention import Attention
from asr.model.storage import DESCRIPTION, WEIGHTS, find_model


class RecognizerSettings(NamedTuple):
    """What a recognizer is loaded from, here or in another process."""

    model: str | Path | None
    """Its name or folder, or that of a run; None for the bundled model."""
    decoding: Decoding
    precision: str
    language_model: str | Path | None
    """Folder of a word n-gram; None for the bundled one."""
    attention: type[Attention] | None = None
    """The class that the model was trained with, if it is not built in."""
    device: str = "cpu"

    def check(self) -> None:
        """Make sure that the models are there, before seconds of other work.

        Raises:
            CheckpointError: one is not.
        """
        find_model(self.model)
        if wants_language_model(self.decoding):
            find_language_model(self.language_model)

    def load(self) -> Recognizer:
        """Load the recognizer."""
        return Recognizer.load(
            self.model,
            decoding=self.decoding,
            device=self.device,
            precision=self.precision,
            language_model=self.language_model,
            attention=self.attention,
        )

    def metadata(self, recognizer: Recognizer) -> dict[str, Any]:
        """Describe models and search, as JSON can hold it."""
        words = None
        if recognizer.decoding.lm_weight:
            words = str(find_language_model(self.language_model))
        return {
            "model": str(find_model(self.model)),
            "language_model": words,
            "decoding": recognizer.decoding.to_dict(),
            "precision": self.precision,
            "device": self.device,
        }

    def files(self) -> list[Path]:
        """Name the files that decide what the models find; some may not be there."""
        model = find_model(self.model)
        files = [model / name for name in (DESCRIPTION, WEIGHTS)]
        if wants_language_model(self.decoding):
            words = find_language_model(self.language_model)
            files += (words / name for name in (word_files.FILE, word_lstm.FILE))
        return files
