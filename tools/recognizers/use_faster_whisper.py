"""Whisper's models in CTranslate2, by faster-whisper: int8 and beam 5 by default."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.recognizers.protocol import Ready, model_folder, samples_of, serve


def load(settings: "dict[str, Any]") -> Ready:
    """Load the model, for one thread."""
    import numpy as np
    from faster_whisper import WhisperModel

    folder = model_folder(settings)
    precision = str(settings.get("precision", "int8"))
    beam_size = int(settings.get("beam_size", 5))
    model = WhisperModel(
        folder, device="cpu", compute_type=precision, cpu_threads=1, num_workers=1
    )

    def transcribe(path: str) -> str:
        samples = np.frombuffer(samples_of(path), np.int16).astype(np.float32) / 32768
        segments, _ = model.transcribe(samples, language="en", beam_size=beam_size)
        return " ".join(segment.text.strip() for segment in segments)

    about = f"faster-whisper {version('faster-whisper')}, {Path(folder).name}"
    return Ready(f"{about}, {precision}, beam {beam_size}", [folder], transcribe)


if __name__ == "__main__":
    serve(load)
