"""Vosk, with a model such as vosk-model-small-en-us-0.15 and its defaults."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.recognizers.protocol import Ready, model_folder, samples_of, serve

BLOCK = 8000
"""Bytes that it is given at once, as in Vosk's own examples."""


def load(settings: "dict[str, Any]") -> Ready:
    """Load the model."""
    from vosk import KaldiRecognizer, Model, SetLogLevel

    SetLogLevel(-1)
    folder = model_folder(settings)
    model = Model(model_path=folder)

    def transcribe(path: str) -> str:
        recognizer = KaldiRecognizer(model, 16_000)
        samples, found = samples_of(path), []
        for start in range(0, len(samples), BLOCK):
            if recognizer.AcceptWaveform(samples[start : start + BLOCK]):
                found.append(recognizer.Result())
        found.append(recognizer.FinalResult())
        return " ".join(json.loads(result)["text"] for result in found)

    about = f"vosk {version('vosk')}, {Path(folder).name}"
    return Ready(about, [folder], transcribe)


if __name__ == "__main__":
    serve(load)
