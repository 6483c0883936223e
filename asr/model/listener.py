"""Listen: from feature frames to fewer, richer steps.

A pyramid of bidirectional LSTMs. Before a layer, neighbours may be joined, so that the
layer above reads fewer and wider steps:

    h_j = BLSTM([x_2j ; x_2j+1])                 (here with a reduction of 2)

With reductions (2, 2, 1) there are 25 steps a second, with (2, 2, 2) the 12.5 of the
paper. Joining before the layer, not after it, halves the work; the paper's first layer
reads all frames. With `conv_channels` the pyramid reads what a `convolutional_front`
made of the frames.

The CTC head (see `las`) needs at least as many steps as there are characters, and
English has about 15 characters a second. So it listens to the highest layer that still
has 25 steps a second: `ctc_layer`.

Shapes: B utterances, T frames, F mel bands, J = ceil(T / (product of reductions))
        steps, H = 2 * size listener size.

Source: Chan et al. (2015), arXiv:1508.01211, section 3.1. Layer normalisation after
each layer: Ba et al. (2016), arXiv:1607.06450.
"""

import math
from copy import deepcopy
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from asr.model.convolutional_front import ConvolutionalFront
from asr.model.lstm import BidirectionalLSTM
from asr.padding import valid_mask
from asr.quantized import Int8LSTM

CTC_REDUCTION = 4
"""Frames a step at which CTC still has room for every character."""


@dataclass(frozen=True)
class ListenerConfig:
    """Settings of `Listener`."""

    size: int = 256
    """Units of each LSTM in each direction."""
    reductions: list[int] = field(default_factory=lambda: [2, 2, 1])
    """One number a layer: how many neighbours are joined before it reads them."""
    dropout: float = 0.2
    """Share of each layer's output that is dropped in training."""
    conv_channels: int = 0
    """Channels of two convolutions before the pyramid; 0 for none."""

    def __post_init__(self) -> None:
        """Refuse pyramids that cannot stand."""
        if self.size < 1:
            raise ValueError(f"listener.size must be at least 1, not {self.size}")
        if not self.reductions or min(self.reductions) < 1:
            raise ValueError(
                f"listener.reductions must be numbers from 1, not {self.reductions}"
            )
        if self.reductions[0] > CTC_REDUCTION:
            raise ValueError(
                f"listener.reductions may begin with at most {CTC_REDUCTION} (CTC "
                f"needs 25 steps a second), not {self.reductions[0]}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"listener.dropout is a share from 0 to below 1, not {self.dropout}"
            )
        if self.conv_channels < 0:
            raise ValueError(
                f"listener.conv_channels must be at least 0, not {self.conv_channels}"
            )


class ListenerOutput(NamedTuple):
    """What the listener made of a batch of utterances."""

    h: Tensor
    """(B, J, H) steps of the highest layer, zero on padding."""
    num_steps: Tensor
    """(B,) how many of the J steps are real."""
    ctc_h: Tensor
    """(B, J', H) steps of the layer that the CTC head reads, zero on padding."""
    num_ctc_steps: Tensor
    """(B,) how many of the J' steps are real."""


class Listener(nn.Module):
    """A pyramid of bidirectional LSTMs, perhaps with convolutions before it."""

    def __init__(self, config: ListenerConfig, num_features: int) -> None:
        super().__init__()
        self.reductions = list(config.reductions)
        self.front: ConvolutionalFront | None = None
        if config.conv_channels:
            self.front = ConvolutionalFront(config.conv_channels, num_features)
            num_features = self.front.size
        widths = [num_features] + [2 * config.size] * (len(self.reductions) - 1)
        self.layers = nn.ModuleList(
            BidirectionalLSTM(width * reduction, config.size)
            for width, reduction in zip(widths, self.reductions, strict=True)
        )
        self.norms = nn.ModuleList(
            nn.LayerNorm(2 * config.size) for _ in self.reductions
        )
        self.dropout = nn.Dropout(config.dropout)
        self.ctc_layer = max(
            layer
            for layer in range(len(self.reductions))
            if math.prod(self.reductions[: layer + 1]) <= CTC_REDUCTION
        )

    @property
    def reduction(self) -> int:
        """Frames that one step of the highest layer stands for."""
        return math.prod(self.reductions)

    @property
    def ctc_reduction(self) -> int:
        """Frames that one step of the CTC head's layer stands for."""
        return math.prod(self.reductions[: self.ctc_layer + 1])

    def forward(self, x: Tensor, num_frames: Tensor) -> ListenerOutput:
        """Listen to a batch of utterances.

        Args:
            x: (B, T, F) features; what stands in the padding does not matter.
            num_frames: (B,) how many of the T frames are real, at least one each. On a
                GPU, where looking would stop it, they are not checked.
        """
        if num_frames.device.type == "cpu" and int(num_frames.min()) < 1:
            raise ValueError(f"every utterance needs a frame: {num_frames.tolist()}")
        h, num_steps = _blank(x, num_frames), num_frames
        if self.front is not None:
            h = self.front(h, num_frames)
        ctc_h, num_ctc_steps = h, num_steps
        for index, (layer, norm) in enumerate(
            zip(self.layers, self.norms, strict=True)
        ):
            reduction = self.reductions[index]
            h, num_steps = stack_frames(h, reduction), -(-num_steps // reduction)
            h = self.dropout(norm(layer(h, num_steps)))
            h = _blank(h, num_steps)
            if index == self.ctc_layer:
                ctc_h, num_ctc_steps = h, num_steps
        return ListenerOutput(h, num_steps, ctc_h, num_ctc_steps)


def quantize_int8(listener: Listener) -> Listener:
    """Copy a listener with the weights of its LSTMs as bytes, for decoding on a CPU."""
    copy = deepcopy(listener)
    for index, layer in enumerate(copy.layers):
        assert isinstance(layer, BidirectionalLSTM)
        copy.layers[index] = Int8LSTM(layer.forwards, layer.backwards)
    return copy


def _blank(x: Tensor, lengths: Tensor) -> Tensor:
    """(B, J, D) -> (B, J, D) with zeros on padding, whatever stood there."""
    valid = valid_mask(lengths, x.size(1)).to(x.device)
    return x.masked_fill(~valid[:, :, None], 0.0)


def stack_frames(x: Tensor, reduction: int) -> Tensor:
    """(B, T, D) -> (B, ceil(T / r), r * D): stack r neighbours; zeros fill the last.

    >>> import torch
    >>> stack_frames(torch.tensor([[[1.0], [2.0], [3.0]]]), 2).tolist()
    [[[1.0, 2.0], [3.0, 0.0]]]
    """
    x = nn.functional.pad(x, (0, 0, 0, -x.size(1) % reduction))
    return x.reshape(x.size(0), x.size(1) // reduction, reduction * x.size(2))
