"""A model on disk: a folder that holds all that transcription needs.

model.safetensors    the weights, and the mean and deviation of the features
model.json           format, settings of the network, tokenizer, where it is from, and
                     the sizes and checksums of the other files
subwords.model       the vocabulary, where the model writes subwords
MODEL_CARD.md        for people; no program reads it

The weights are float32 as training writes them, float16 as `asr export` does, or, in
format 4, int8: each row of a large matrix as bytes with a scale, all else float16. They
are read as float32, whatever they are on disk.

Further files belong to the model when model.json has their checksums; the settings
(`SETTINGS`) also without, so that people may change them. All is replaced as one, see
`asr.file_sets`. Reading executes nothing, and reads no other file that model.json does
not list, and none that is elsewhere. Of an
attention that is not built in, model.json has the name of its class, which is compared
with the class that is handed over: nothing is imported by it.
"""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from asr.errors import CheckpointError
from asr.file_sets import (
    changing,
    check_files,
    checksums,
    note_edited,
    read_whole,
    replace_set,
)
from asr.folders import cached_repository, inside
from asr.foreign import parse_table, read_file, settings_of
from asr.model.attention import (
    BUILT_IN,
    Attention,
    AttentionConfig,
    own_attention_name,
)
from asr.model.hub import Parts, fetch, is_on_hub, pinned
from asr.model.las import LAS, LASConfig
from asr.model.listener import ListenerConfig
from asr.model.speller import SpellerConfig
from asr.tensor_files import (
    Undrawn,
    as_bytes,
    check_weights,
    dequantize_rows,
    quantize_rows,
    read_tensors,
    scale_name,
)
from asr.text import Tokenizer
from asr.tokenizers import read_tokenizer

FORMAT = 4
"""Raised when an older version could no longer read a new model, or trust it."""
_FLOATS = 3
"""The format of version 0.2, without int8: still written where there is none."""
_CHECKED = 2
"""The format of version 0.1: `facts` in place of `metadata`, blocks called segments."""
_UNCHECKED = 1
"""The format before: without checksums. It is read, and its files are not checked."""
BUNDLED = "las_mini"
"""Name of the model that comes with the package."""
DEFAULT = "bundled"
"""Another name of it, which stays the same where the model is another one day."""
WEIGHTS, DESCRIPTION, CARD = "model.safetensors", "model.json", "MODEL_CARD.md"
DECODING, CALIBRATION = SETTINGS = "decoding.json", "confidence.json"
"""Settings of the search, and the calibration of confidences: files that people may
change or copy from another model."""
ONNX = "onnx.json"
"""What an export for onnxruntime has in place of model.json; see `asr.onnx`."""
PARTS = Parts(DESCRIPTION, CARD)
"""What is fetched from the Hugging Face Hub with the files that model.json lists."""
WeightType = Literal["float32", "float16", "int8"]
"""What the weights can be on disk."""
_STAGE = re.compile("stage-([1-9][0-9]{0,5})")
_LEAST = 4096
"""Numbers in a matrix from which on it becomes bytes: the attention's filters and the
like are smaller, and hardly anything would be saved."""


class Model(NamedTuple):
    """A network, its tokenizer, and what is known about it."""

    las: LAS
    tokenizer: Tokenizer
    metadata: dict[str, Any]
    """Where the model is from: step, WER on dev, and the like."""


class StoredModel(NamedTuple):
    """What a model folder holds, before a network is built of it."""

    config: LASConfig
    attention_class: str | None
    """Name of the attention's class; None for a built-in one."""
    tokenizer: Tokenizer
    metadata: dict[str, Any]
    weights: Mapping[str, Tensor]
    """By their names; `read_model` returns float32, in memory of their own."""


def stage_folder(run: Path, number: int) -> Path:
    """Return where a stage of a run is; its first is number 1."""
    return run / f"stage-{number}"


def stage_folders(run: Path) -> dict[int, Path]:
    """Find the stages that a run has begun, by their numbers, first to last.

    There are none where it is a run without stages, or no folder that can be read.
    """
    names = list[str]()
    if os.path.isdir(run):  # of an impossible name it is False
        with suppress(OSError):
            names = os.listdir(run)
    found = {
        int(match[1]): run / name
        for name in names
        if (match := _STAGE.fullmatch(name)) and os.path.isdir(run / name)
    }
    return dict(sorted(found.items()))


def find_model(folder: str | Path | None) -> Path:
    """Find the folder of a model.

    Args:
        folder: that of the model or of a run, of whose stages the last one that has a
            model is taken; or the name of a bundled model, unless
            there is a path of that name; or `hf:USER/NAME@REVISION` for one on the
            Hugging Face Hub, which is fetched unless it is in the cache; None, or
            "bundled" likewise, for the bundled one.

    Raises:
        CheckpointError: there is none, or it cannot be fetched.
    """
    assets = Path(str(files("asr") / "assets"))
    if folder is None:
        return assets / BUNDLED
    if is_on_hub(folder):
        return fetch(str(folder), PARTS)
    folder = Path(folder)
    if os.path.exists(folder / DESCRIPTION):  # of an impossible name it is False
        return folder
    if os.path.exists(folder / "model" / DESCRIPTION):
        return folder / "model"
    for stage in reversed(stage_folders(folder).values()):
        if os.path.exists(stage / "model" / DESCRIPTION):
            return stage / "model"
    bundled = sorted(path.parent.name for path in assets.glob(f"*/{DESCRIPTION}"))
    if not os.path.exists(folder) and str(folder) == DEFAULT:
        return assets / BUNDLED
    if not os.path.exists(folder) and str(folder) in bundled:
        return assets / folder
    if os.path.exists(folder / ONNX):
        raise CheckpointError(
            f"{folder}: is an ONNX export, which asr transcribe runs (give the model "
            "that it was made of)"
        )
    raise CheckpointError(
        f"{folder}: holds no model (a folder with {DESCRIPTION}, a run that was "
        f"validated at least once, or a bundled model was expected: "
        f"{', '.join(bundled)})"
    )


def pinned_model(folder: str | Path | None) -> str | Path | None:
    """Return a model's name that means the same in another process, and later.

    Raises:
        CheckpointError: it is on the Hub, and cannot be fetched.
    """
    if folder is None or not is_on_hub(folder):
        return folder
    return pinned(str(folder), find_model(folder))


def find_model_to_change(folder: str | Path) -> Path:
    """Find the folder of a model that is about to be written into.

    Raises:
        CheckpointError: there is none; or a bundled model was asked for by its name,
            which all users of this installation share; or it is in the cache of the
            Hub, which holds what is there.
    """
    found = find_model(folder)
    if cached_repository(found):
        raise CheckpointError(
            f"{folder}: is a copy of what is on the Hub (make one to change: asr "
            f"export {folder} my-model)"
        )
    if str(folder) in (found.name, DEFAULT) and not Path(folder).exists():
        raise CheckpointError(
            f"{folder}: is bundled, a part of the installation (make a copy to change: "
            f"asr export {folder} my-model)"
        )
    if not os.access(found, os.W_OK):
        raise CheckpointError(f"{found}: cannot be written (it is read-only)")
    return found


def save_model(
    folder: Path,
    las: LAS,
    tokenizer: Tokenizer,
    metadata: Mapping[str, Any],
    *,
    weights: Mapping[str, Tensor] | None = None,
    dtype: WeightType = "float32",
    further: Mapping[str, bytes] | None = None,
) -> None:
    """Write a model folder.

    Args:
        folder: is made where it is missing.
        las: the network.
        tokenizer: of its tokens.
        metadata: where the model is from, as JSON can hold it.
        weights: in place of the network's own (averaged ones, for example).
        dtype: float16 has half the size of float32, int8 about a quarter.
        further: contents of files that belong to the model, too, by their names. Of
            the model before, none is kept.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    chosen = las.state_dict() if weights is None else weights
    own = own_attention_name(type(las.speller.attention))
    stored = StoredModel(las.config, own, tokenizer, dict(metadata), chosen)
    write_model(folder, stored, dtype=dtype, further=further)


def write_model(
    folder: Path,
    stored: StoredModel,
    *,
    dtype: WeightType = "float32",
    further: Mapping[str, bytes] | None = None,
) -> None:
    """Write a model folder of what another one held; see `save_model`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be made ({error.strerror})") from error
    files = {
        WEIGHTS: as_bytes(_packed(stored.weights, dtype), {}),
        **stored.tokenizer.files(),
        **(further or {}),
    }
    own = stored.attention_class
    description = {
        "format": FORMAT if dtype == "int8" else _FLOATS,
        "las": asdict(stored.config),
        **({"attention_class": own} if own else {}),
        "tokenizer": stored.tokenizer.to_dict(),
        "metadata": stored.metadata,
        "files": checksums(files),
    }
    with changing(folder):
        replace_set(folder, files, DESCRIPTION, _as_json(description))
        for name in SETTINGS:  # of the model before
            if name not in files:
                with suppress(OSError):
                    (folder / name).unlink()


def _packed(weights: Mapping[str, Tensor], dtype: WeightType) -> dict[str, Tensor]:
    """Return the tensors to write."""
    rest = torch.float32 if dtype == "float32" else torch.float16
    packed = dict[str, Tensor]()
    for name, weight in weights.items():
        if dtype == "int8" and weight.dim() == 2 and weight.numel() >= _LEAST:
            packed |= quantize_rows(name, weight)
        else:
            packed[name] = weight.to(rest)
    return packed


def _unpacked(path: Path, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return float32 weights in memory of their own: `stored` may be the file itself.

    Raises:
        CheckpointError: it holds something else than weights.
    """
    quantized = {name for name, w in stored.items() if w.dtype == torch.int8}
    scales = {scale_name(name) for name in quantized}
    weights = dict[str, Tensor]()
    try:
        for name, weight in stored.items():
            if name in scales:
                continue
            if name in quantized:
                weights[name] = dequantize_rows(name, stored)
            elif weight.is_floating_point():
                weights[name] = weight.to(torch.float32, copy=True)
            else:
                raise ValueError(name)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: does not fit {DESCRIPTION} ({reason})"
        ) from error
    return weights


def read_model(folder: Path) -> StoredModel:
    """Read a model folder, and build no network.

    A model that is replaced meanwhile comes as it was or as it is, whole.

    Raises:
        CheckpointError: a part is missing, damaged, exchanged, or of another format.
    """
    return read_whole(folder, [DESCRIPTION], lambda: _read_model(folder))


def _read_model(folder: Path) -> StoredModel:
    place = folder / DESCRIPTION
    description, paths = _description(folder)
    path = paths[WEIGHTS]
    try:
        config = las_config(description["las"])
        own = description.get("attention_class")
        if not (own is None or (isinstance(own, str) and own.isidentifier())):
            raise ValueError("attention_class is not the name of a class")
        tokenizer = _tokenizer(description, paths)
        before = description.get("facts")  # the key of format 2
        metadata = description["metadata"] if before is None else before
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is no table")
    except (KeyError, TypeError, ValueError, CheckpointError) as error:
        raise _no_model(place, error) from error
    stored = read_tensors(path)[0]
    try:
        check_weights(stored)
        _check_norm(stored)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error} (train the model again)") from error
    weights = _unpacked(path, stored)
    return StoredModel(config, own, tokenizer, metadata, weights)


def _check_norm(stored: Mapping[str, Tensor]) -> None:
    """Refuse deviations that features cannot be divided by."""
    std = stored.get("norm.std")
    if std is not None and not bool((std > 0).all()):
        raise ValueError("norm.std holds a deviation that is not above zero")


def load_model(folder: Path, attention: type[Attention] | None = None) -> Model:
    """Read a model folder; the network comes in evaluation mode, in float32.

    Args:
        folder: of the model.
        attention: the class that the model was trained with, if it is not built in.

    Raises:
        CheckpointError: a part is missing, damaged, exchanged, or of another format; or
            the model was trained with another class of attention.
    """
    stored = read_model(folder)
    place, path, weights = folder / DESCRIPTION, folder / WEIGHTS, stored.weights
    tokenizer = stored.tokenizer
    check_attention(place, stored, attention)
    try:
        _check_sizes(stored)
        las = _build(stored, attention)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise _no_model(place, error) from error
    try:
        las.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: does not fit {DESCRIPTION} "
            f"({' '.join(str(error).split()).partition(': ')[2]})"
        ) from error
    return Model(las.eval(), tokenizer, stored.metadata)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a model folder, without its network.

    Raises:
        CheckpointError: as `load_model`.
    """

    def read() -> Tokenizer:
        described = _description(folder)
        try:
            return _tokenizer(*described)
        except (CheckpointError, KeyError) as error:
            raise _no_model(folder / DESCRIPTION, error) from error

    return read_whole(folder, [DESCRIPTION], read)


def _tokenizer(description: Mapping[str, Any], paths: Mapping[str, Path]) -> Tokenizer:
    """Rebuild the tokenizer; files of its own are among those that were checked."""

    def read(name: str, most: int) -> bytes:
        size = description["files"].get(name, {"size": 0})["size"]
        if size > most:
            raise CheckpointError(
                f"{name}: has {size} bytes (at most {most} were expected)"
            )
        if name not in description["files"]:
            raise CheckpointError(
                f"has no checksum of {name} (copy the whole folder again)"
            )
        return _content(paths[name])

    return read_tokenizer(description["tokenizer"], read)


def _build(stored: StoredModel, attention: type[Attention] | None) -> LAS:
    """Build the network; its weights come from the file, so they are not drawn.

    A class of the user's own is built with memory of its own all the same: it may have
    tensors that are in no file.
    """
    size = stored.tokenizer.size
    if attention is None:
        with Undrawn():
            return LAS(stored.config, size)
    with torch.random.fork_rng(devices=()):
        return LAS(stored.config, size, attention)


def check_attention(
    place: Path, stored: StoredModel, attention: type[Attention] | None
) -> None:
    """Compare the class of a model's attention with the one that is handed over.

    Raises:
        CheckpointError: they are not the same; `place` names the description.
    """
    needed, given = stored.attention_class, own_attention_name(attention)
    kind = stored.config.attention.kind
    if needed is None and attention not in (None, BUILT_IN[kind]):
        raise CheckpointError(
            f"{place}: has a built-in attention, {kind}, not {attention.__name__} "
            "(load it without a class, or load another model)"
        )
    if needed == given:
        return
    instead = f", not {given}" if given else ""
    raise CheckpointError(
        f"{place}: has an attention of the class {needed}{instead} (hand the class "
        f"over in Python: attention={needed})"
    )


def _check_sizes(stored: StoredModel) -> None:
    """Refuse sizes that no weight has, before memory is taken for them.

    What an attention that is not built in makes of its settings is its own affair.

    Raises:
        ValueError: there are such.
    """
    config, weights = stored.config, stored.weights
    largest = max((max(w.shape, default=0) for w in weights.values()), default=0)
    listener, attention, speller = config.listener, config.attention, config.speller
    sizes = [listener.size, *listener.reductions, listener.conv_channels]
    sizes += [stored.tokenizer.size, speller.size, speller.embedding_size]
    if stored.attention_class is None:
        sizes += [attention.size]
        if attention.kind == "location":
            sizes += [attention.filters, attention.reach]
    if max(sizes) > largest:
        raise ValueError(f"no weight has a size of {max(sizes)}")


def read_further(folder: Path, name: str) -> bytes | None:
    """Read a file that belongs to a model beside its weights.

    One of `SETTINGS` may be written or changed by hand: it is used as it stands, and
    a warning names it.

    Returns:
        Its content; None where there is none. A file of another name that model.json
        does not list may be of another model: it is not read.

    Raises:
        CheckpointError: as `load_model`, but no other file is looked at.
    """

    def read() -> bytes | None:
        description, paths = _description(folder, only=name)
        if name not in paths and name in SETTINGS and (folder / name).exists():
            paths[name] = inside(folder, name, folder / DESCRIPTION)
        if name not in paths:
            return None
        content = _content(paths[name])
        if checksums({name: content})[name] != description["files"].get(name):
            note_edited(paths[name], DESCRIPTION)
        return content

    return read_whole(folder, [DESCRIPTION], read)


def read_settings_files(folder: Path) -> dict[str, bytes]:
    """Return what a model folder has of `SETTINGS`, whatever else is in it."""
    found = dict[str, bytes]()
    for name in SETTINGS:
        with suppress(OSError, CheckpointError):
            found[name] = inside(folder, name, folder / DESCRIPTION).read_bytes()
    return found


def _content(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def add_further(folder: Path, name: str, content: bytes) -> None:
    """Put a file into a model folder, and its checksum into model.json.

    Raises:
        CheckpointError: as `load_model`; or the model is of a format without checksums;
            or the folder cannot be written.
    """
    with changing(folder):
        description, _ = _description(folder)
        if description["format"] == _UNCHECKED:
            raise CheckpointError(
                f"{folder / DESCRIPTION}: is a model of format {_UNCHECKED}, which has "
                f"no further files (bring it up to date: asr export {folder} {folder})"
            )
        description["files"] |= checksums({name: content})
        replace_set(folder, {name: content}, DESCRIPTION, _as_json(description))


def further_files(folder: Path) -> list[str]:
    """Name the files that belong to a model beside its weights; settings by hand, too.

    Raises:
        CheckpointError: as `load_model`.
    """

    def read() -> list[str]:
        listed = [name for name in _description(folder)[1] if name != WEIGHTS]
        there = [name for name in SETTINGS if (folder / name).exists()]
        return list(dict.fromkeys((*listed, *there)))

    return read_whole(folder, [DESCRIPTION], read)


def _description(
    folder: Path, only: str | None = None
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Read model.json, and check the files that it lists.

    Args:
        folder: of the model.
        only: name of the file to check, for who reads no other; None for all.

    Returns:
        What it holds, and where each file is that was checked.

    Raises:
        CheckpointError: a file is missing, damaged, exchanged, or of another format.
    """
    place = folder / DESCRIPTION
    try:
        description = parse_table(read_file(place))
        number = description["format"]
    except OSError as error:
        raise CheckpointError(
            f"{folder}: holds no model ({DESCRIPTION} cannot be read: {error.strerror})"
        ) from error
    except (KeyError, ValueError) as error:
        raise _no_model(place, error) from error
    inside(folder, DESCRIPTION, place)
    known = (_UNCHECKED, _CHECKED, _FLOATS, FORMAT)
    if type(number) is not int or number not in known:
        raise CheckpointError(
            f"{place}: is a model of format {number!r:.40}, this version reads formats "
            f"{_UNCHECKED} to {FORMAT} (update asr, or train the model again)"
        )
    if number == _UNCHECKED:
        description["files"] = {}
        paths = {WEIGHTS: inside(folder, WEIGHTS, place)}
    else:
        table = description.get("files")
        if only is not None and isinstance(table, dict):
            table = {name: about for name, about in table.items() if name == only}
        paths = check_files(folder, table, place, SETTINGS)
        if only is None and WEIGHTS not in paths:
            raise CheckpointError(
                f"{place}: has no checksum of {WEIGHTS} (copy the whole folder again)"
            )
    return description, paths


def _as_json(description: Mapping[str, Any]) -> bytes:
    return (json.dumps(description, indent=2) + "\n").encode()


def _no_model(place: Path, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())
    if isinstance(error, CheckpointError):  # of the tokenizer
        return CheckpointError(f"{place}: {reason}")
    return CheckpointError(f"{place}: does not describe a model ({reason})")


def las_config(tree: Mapping[str, Any]) -> LASConfig:
    """Rebuild the settings of a network from what `dataclasses.asdict` made of them.

    Raises:
        KeyError, TypeError, ValueError: they are not such settings.
    """
    attention = tree["attention"]
    if isinstance(attention, dict) and "segment" in attention:  # of format 2
        attention = {**attention, "block_size": attention["segment"]}
        del attention["segment"]
    return LASConfig(
        listener=settings_of(ListenerConfig, tree["listener"]),
        attention=settings_of(AttentionConfig, attention),
        speller=settings_of(SpellerConfig, tree["speller"]),
    )
