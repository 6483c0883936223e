"""How a recogniser of `tools/bench --users` is asked: lines of JSON and of paths.

A recogniser is a program, in any language. Once it is ready it writes

    {"about": "its name, version and settings", "model": ["a file or folder", …]}

where the model's files are counted for its size on disk. Then it reads the path of a
WAV file (16 kHz, 16-bit, mono) a line from standard input, and answers each by a line:

    {"text": "what it recognised"}   or   {"error": "why it has no text"}

It ends when its input ends. It is measured from outside, and is given one core.

This module imports neither `asr` nor numpy: other environments run it, too.
"""

import json
import os
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Ready(NamedTuple):
    """A recogniser that is loaded."""

    about: str
    """Its name, version and settings."""
    model: "list[str | Path]"
    """Files and folders of its model."""
    transcribe: Callable[[str], str]
    """From the path of a WAV file to its text."""


def serve(load: "Callable[[dict[str, Any]], Ready]") -> None:
    """Load a recogniser, and answer until standard input ends.

    Args:
        load: takes the settings, which stand in JSON on the command line.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        ready = load(json.loads(sys.argv[1]))
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed in {sys.executable}")

    def write(answer: "dict[str, Any]") -> None:
        print(json.dumps(answer), file=answers, flush=True)

    write({"about": ready.about, "model": [str(path) for path in ready.model]})
    for line in sys.stdin:
        try:
            write({"text": ready.transcribe(line.rstrip("\n"))})
        except Exception as error:  # whatever a library raises, others are read
            write({"error": f"{type(error).__name__}: {error}"})


def samples_of(path: str) -> bytes:
    """Return the samples of a WAV file, 16 bits each."""
    with wave.open(path, "rb") as file:
        return file.readframes(file.getnframes())


def model_folder(settings: "dict[str, Any]", default: "str | Path" = "") -> str:
    """Return the folder of the model; end with a line where there is none."""
    folder = str(settings.get("model") or default)
    if not folder:
        sys.exit("needs the folder of a model, behind the Python that runs it")
    if not os.path.exists(folder):
        sys.exit(f"{folder}: there is no such folder")
    return folder
