"""A model exported as ONNX: a folder that holds all that `asr.onnx` needs.

listener.onnx        see `asr.model.onnx_graphs`
speller_step.onnx
onnx.json            format, precision, tokenizer, where the model is from, and the
                     sizes and checksums of the other files
decoding.json        settings of the search, if the model has its own; may be changed
confidence.json      the calibration of confidences, likewise
subwords.model       the vocabulary, where the model writes subwords
MODEL_CARD.md        for people
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from asr.decoding.config import DecodingConfig, replaced
from asr.errors import CheckpointError, ConfigError
from asr.file_sets import check_files, checksums, note_edited, read_whole
from asr.folders import inside
from asr.foreign import parse_table, read_file
from asr.inference.confidence import Calibration, read_calibration
from asr.inference.situations import Situation, parse_decoding
from asr.onnx import DESCRIPTION
from asr.text import Tokenizer
from asr.tokenizers import read_tokenizer

LISTENER, STEP = "listener.onnx", "speller_step.onnx"
DECODING, CALIBRATION = SETTINGS = "decoding.json", "confidence.json"
"""Files that people may change, and that programs read."""
CARD = "MODEL_CARD.md"
"""For people, who may change it, too."""
FORMAT = 1
_MOST = {"heads": 128, "reduction": 64, "ctc_reduction": 64}
_MOST_BLOCK = 10_000
"""Steps."""


class Numbers(NamedTuple):
    """What a search must know of the network."""

    heads: int
    """Of the attention."""
    reduction: int
    """Frames that one step of the listener stands for."""
    ctc_reduction: int
    """Frames that one step of the CTC head stands for."""
    block_size: int = 0
    """Steps of a block that attention looks inside of first; 0 without blocks."""


class OnnxModel(NamedTuple):
    """What such a folder holds, but for the graphs."""

    folder: Path
    listener: Path
    step: Path
    precision: str
    tokenizer: Tokenizer
    numbers: Numbers
    metadata: dict[str, Any]
    settings: Mapping[str, Any]
    """Of the search, by situations; not checked yet."""
    calibration: Calibration | None

    def decoding(self, situation: Situation) -> DecodingConfig:
        """Return the settings for a situation; the defaults where there are none.

        Raises:
            CheckpointError: they are damaged.
        """
        try:
            return replaced(DecodingConfig(), self.settings.get(situation, {}))
        except ConfigError as error:
            raise CheckpointError(
                f"{self.folder / DECODING}: {situation}: {error}"
            ) from error


def read_folder(folder: Path) -> OnnxModel:
    """Read such a folder.

    Raises:
        CheckpointError: a part is missing, damaged, exchanged, or of another format.
    """
    return read_whole(folder, [DESCRIPTION], lambda: _read(folder))


def _read(folder: Path) -> OnnxModel:
    place = folder / DESCRIPTION
    try:
        description = parse_table(read_file(place))
        number = description["format"]
    except OSError as error:
        raise CheckpointError(
            f"{folder}: holds no model for onnxruntime ({DESCRIPTION} cannot be read: "
            f"{error.strerror}; asr export RUN FOLDER --onnx makes one)"
        ) from error
    except (KeyError, ValueError) as error:
        raise _wrong(place, error) from error
    if number != FORMAT:
        raise CheckpointError(
            f"{place}: is of format {number!r:.40}, this version reads format {FORMAT} "
            "(update asr, or export the model again)"
        )
    inside(folder, DESCRIPTION, place)
    paths = check_files(folder, description.get("files"), place, (*SETTINGS, CARD))

    def read(name: str, most: int) -> bytes:
        if name not in paths:
            raise CheckpointError(f"has no checksum of {name} (export it again)")
        return read_file(paths[name], most)

    try:
        numbers = description["network"]
        whole = {name: _whole(numbers[name], most) for name, most in _MOST.items()}
        # Exports of before blocks were shown have no number of them.
        blocks = _whole(numbers.get("block_size", 0), _MOST_BLOCK, least=0)
        found = Numbers(**whole, block_size=blocks)
        tokenizer = read_tokenizer(description["tokenizer"], read)
        metadata = description["metadata"]
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is no table")
        listener, step = paths[LISTENER], paths[STEP]
        precision = str(description["precision"])
    except (KeyError, TypeError, ValueError, OSError, CheckpointError) as error:
        raise _wrong(place, error) from error
    settings, calibration = dict[str, Any](), None
    files = description["files"]
    if (content := _setting(folder, DECODING, paths, files)) is not None:
        settings = parse_decoding(content, folder / DECODING)
    if (content := _setting(folder, CALIBRATION, paths, files)) is not None:
        calibration = read_calibration(content, folder / CALIBRATION)
    return OnnxModel(
        *(folder, listener, step, precision, tokenizer, found, metadata),
        *(settings, calibration),
    )


def _setting(
    folder: Path, name: str, paths: Mapping[str, Path], files: Mapping[str, Any]
) -> bytes | None:
    """Read a file of `SETTINGS`, with a warning where people changed it.

    Args:
        folder: of the model.
        name: of the file.
        paths: of the files that the description lists.
        files: its table of them.
    """
    if name not in paths and not (folder / name).exists():
        return None
    path = paths.get(name) or inside(folder, name, folder / DESCRIPTION)
    try:
        content = read_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if checksums({name: content})[name] != files.get(name):
        note_edited(path, DESCRIPTION)
    return content


def _whole(value: object, most: int, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{value!r:.40} is no number of this kind")
    return value


def _wrong(place: Path, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())
    return CheckpointError(f"{place}: does not describe a model ({reason})")


def description_of(
    precision: str,
    tokenizer: Tokenizer,
    numbers: Numbers,
    metadata: Mapping[str, Any],
    files: Mapping[str, Any],
) -> bytes:
    """Return the content of onnx.json."""
    tree = {
        "format": FORMAT,
        "precision": precision,
        "network": numbers._asdict(),
        "tokenizer": tokenizer.to_dict(),
        "metadata": dict(metadata),
        "files": dict(files),
    }
    return (json.dumps(tree, indent=2) + "\n").encode()
