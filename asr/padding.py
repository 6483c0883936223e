"""Sequences of unequal length in one tensor.

Lengths (`num_frames`, `num_steps`, `num_tokens`) are int64 tensors that stay on the
CPU, all but those that a recorded CUDA graph reads. A mask is called `valid` and is
True where there is data and False where there is padding: the opposite of the
`key_padding_mask` of `torch.nn.MultiheadAttention`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def valid_mask(lengths: Tensor, width: int) -> Tensor:
    """Mark what is data and what is padding.

    Args:
        lengths: (B,) how many of the `width` positions each row really has.
        width: length that the rows are padded to.

    Returns:
        (B, width) bool, True where there is data, on the device of `lengths`.

    >>> valid_mask(torch.tensor([1, 3]), 3)
    tensor([[ True, False, False],
            [ True,  True,  True]])
    """
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def pad_rows(rows: Sequence[Tensor], value: float = 0) -> tuple[Tensor, Tensor]:
    """Stack sequences of unequal length.

    Args:
        rows: B tensors (length, ...) that differ in their first size only.
        value: what the padding is filled with.

    Returns:
        (B, longest, ...) the rows, padded at the end, and (B,) their lengths.

    >>> pad_rows([torch.tensor([1, 2]), torch.tensor([3])], value=9)
    (tensor([[1, 2],
            [3, 9]]), tensor([2, 1]))
    """
    lengths = torch.tensor([row.size(0) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence(
        list(rows), batch_first=True, padding_value=value
    )
    return padded, lengths
