"""Export the model of a run as ONNX; see `folder` for what comes of it.

Of the modules of `asr.onnx` this is the one that needs torch, and `onnx` beside
onnxruntime.
"""

from pathlib import Path

from asr.errors import CheckpointError
from asr.file_sets import changing, checksums, is_rest, listed, replace_set
from asr.folders import remove
from asr.model.hub import is_on_hub
from asr.model.onnx_graphs import listener_graph, step_graph
from asr.model.storage import CARD, find_model, load_model, read_further
from asr.onnx import DESCRIPTION
from asr.onnx.folder import (
    LISTENER,
    SETTINGS,
    STEP,
    Numbers,
    description_of,
    read_folder,
)
from asr.quantized import check_precision


def export_onnx(
    run: str | Path | None, folder: Path, precision: str = "float32"
) -> None:
    """Export the model of a run.

    Args:
        run: folder of a run or of a model, or name of one: bundled, or on the Hub.
        folder: is made, or replaced where it holds such an export or nothing.
        precision: of the weights: float32 or int8.

    Raises:
        CheckpointError: there is no model, or it is damaged, or has an attention of the
            user's own; the folder holds something else; or it cannot be written.
        ConfigError: the precision is not known.
    """
    check_precision(precision)
    if is_on_hub(folder):
        raise CheckpointError(f"{folder}: is on the Hub (name a folder)")
    _check_replaceable(folder)
    source = find_model(run)
    model = load_model(source)
    las = model.las
    files = {
        LISTENER: listener_graph(las, precision),
        STEP: step_graph(las, precision),
        **model.tokenizer.files(),
    }
    for name in SETTINGS:
        if (content := read_further(source, name)) is not None:
            files[name] = content
    if (source / CARD).is_file():
        files[CARD] = (source / CARD).read_bytes()
    attention = las.speller.attention
    numbers = Numbers(
        attention.heads,
        las.listener.reduction,
        las.listener.ctc_reduction,
        attention.block_size,
    )
    description = description_of(
        precision, model.tokenizer, numbers, model.metadata, checksums(files)
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be made ({error.strerror})") from error
    _put_in_place(folder, files, description)
    read_folder(folder)


def _put_in_place(folder: Path, files: dict[str, bytes], description: bytes) -> None:
    """Write a model, and remove what only the one before had: its settings above all.

    Raises:
        CheckpointError: the folder may not be written to.
    """
    try:
        with changing(folder):
            before = {*listed(folder, DESCRIPTION), *SETTINGS} - {CARD}
            replace_set(folder, files, DESCRIPTION, description)
            remove(folder, before - files.keys())
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written ({error.strerror})"
        ) from error


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace anything but such an export.

    Raises:
        CheckpointError: there is something else.
    """
    try:
        names = {path.name for path in folder.iterdir() if not is_rest(path.name)}
    except FileNotFoundError:
        return
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be replaced ({error.strerror})"
        ) from error
    if names and DESCRIPTION not in names:
        raise CheckpointError(
            f"{folder}: holds other things than an ONNX export (give a new or empty "
            "folder)"
        )
