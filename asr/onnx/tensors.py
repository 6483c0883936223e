"""Files of tensors read by numpy alone: mapped into memory, nothing is executed.

`asr.tensor_files` writes them; this is the reading half for where there is no torch.
bfloat16, which numpy has not, comes as float32.

The format is safetensors: https://github.com/huggingface/safetensors.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.errors import CheckpointError
from asr.foreign import check_file, parse_json

_TYPES: dict[str, Any] = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8},
    **{"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "BOOL": np.bool_},
}
_MOST_HEADER = 10**8
_METADATA = "facts"
"""Of the header; see `asr.tensor_files`."""

Array = npt.NDArray[Any]


def read_arrays(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read what `asr.tensor_files.write_tensors` wrote.

    Returns:
        The arrays, not to be written to, and the metadata.

    Raises:
        CheckpointError: there is no such file, or it is damaged or of another make.
    """
    try:
        check_file(path)
        content = np.memmap(path, dtype=np.uint8, mode="r")
        size = int(content[:8].view("<u8")[0])
        if not 2 <= size <= min(_MOST_HEADER, len(content) - 8):
            raise ValueError("its header is longer than the file")
        header = parse_json(content[8 : 8 + size].tobytes())
        metadata = parse_json(header.pop("__metadata__")[_METADATA])
        body = content[8 + size :]
        arrays = {name: _array(body, about) for name, about in header.items()}
    except OSError as error:
        reason = error.strerror or "no such file"
        raise CheckpointError(f"{path}: cannot be read ({reason})") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{path}: is damaged, or was not written by asr ({error})"
        ) from error
    if not isinstance(metadata, dict):
        raise CheckpointError(
            f"{path}: was not written by asr (its metadata is no table)"
        )
    return arrays, metadata


def _array(body: Array, about: Any) -> Array:
    dtype, shape = np.dtype(_TYPES[about["dtype"]]), about["shape"]
    start, end = about["data_offsets"]
    if not 0 <= start <= end <= len(body):
        raise ValueError("a tensor is outside of the file")
    if math.prod(shape) * dtype.itemsize != end - start:
        raise ValueError("a tensor has not the size of its shape")
    array: Array = body[start:end].view(dtype).reshape(shape)
    if about["dtype"] == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array
