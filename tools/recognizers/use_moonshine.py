"""Moonshine's tiny English model by moonshine-voice, whose wheel of 0.0.49 has it."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.recognizers.protocol import Ready, model_folder, samples_of, serve


def load(settings: "dict[str, Any]") -> Ready:
    """Load the model."""
    import numpy as np
    from moonshine_voice import ModelArch, Transcriber, get_model_path

    folder = model_folder(settings, get_model_path("tiny-en"))
    if not list(Path(folder).glob("*.ort")):
        raise SystemExit(f"{folder}: has no weights (moonshine-voice 0.0.49 has some)")
    transcriber = Transcriber(folder, ModelArch.TINY)

    def transcribe(path: str) -> str:
        samples = np.frombuffer(samples_of(path), np.int16) / 32768
        found = transcriber.transcribe_without_streaming(samples.tolist(), 16_000)
        return " ".join(line.text for line in found.lines)

    about = f"moonshine-voice {version('moonshine-voice')}, {Path(folder).name}"
    return Ready(about, [folder], transcribe)


if __name__ == "__main__":
    serve(load)
