"""Transcription without torch: graphs in onnxruntime, all else in numpy (extra `onnx`).

`asr export RUN FOLDER --onnx` makes the folder (`export`, which needs torch), and
`OnnxRecognizer` (see `recognizer`) or `asr transcribe --model FOLDER` uses it. The
search is a small twin of `asr.decoding` and `asr.lm` over numpy; tests hold both
together.
"""

from contextlib import suppress
from pathlib import Path

DESCRIPTION = "onnx.json"
"""The file that makes a folder an exported model; see `folder`."""


def is_onnx(folder: str | Path | None) -> bool:
    """Return whether a folder is that of a model exported as ONNX."""
    with suppress(OSError, ValueError):
        return folder is not None and (Path(folder) / DESCRIPTION).is_file()
    return False
