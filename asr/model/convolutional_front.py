"""Before the pyramid: two convolutions over time and frequency.

    y = relu(conv(relu(conv(x))))        each of 3 frames x 3 bands, every second band

A convolution knows the same pattern at any pitch and place, which the pyramid's first
LSTM has to learn for each band anew. Time is left alone: joining frames is the
pyramid's work.

Padding is zero before each convolution, as what lies outside of an utterance is, so
that an utterance alone and in a batch is the same.

Shapes: B utterances, T frames, F mel bands, C channels, F'' = F / 4, rounded up.

Source: Zhang, Chan and Jaitly (2017), "Very deep convolutional networks for end-to-end
speech recognition", arXiv:1610.03022, who set them before the listener of LAS. Weights
are drawn so that relu keeps the variance: He et al. (2015), arXiv:1502.01852.
"""

import torch
from torch import Tensor, nn

from asr.padding import valid_mask

SEEN = 3
"""Frames and bands that each convolution sees."""
BANDS = 2
"""Bands to one that is kept by each."""


class ConvolutionalFront(nn.Module):
    """Two convolutions.

    Args:
        channels: C, of both.
        num_features: F.
    """

    def __init__(self, channels: int, num_features: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            _convolution(before, channels) for before in (1, channels)
        )
        for _ in self.convolutions:
            num_features = -(-num_features // BANDS)
        self.size = channels * num_features
        """C * F'', the width of what comes out."""

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        """(B, T, F), zero on padding -> (B, T, C * F''), zero on padding.

        Args:
            x: features.
            num_frames: (B,) how many of the T frames are real.
        """
        valid = valid_mask(num_frames, x.size(1)).to(x.device)[:, None, :, None]
        h = x[:, None]
        for convolution in self.convolutions:
            h = torch.relu(convolution(h)).masked_fill(~valid, 0.0)
        return h.transpose(1, 2).flatten(2)


def _convolution(before: int, after: int) -> nn.Conv2d:
    made = nn.Conv2d(before, after, SEEN, stride=(1, BANDS), padding=SEEN // 2)
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    assert made.bias is not None
    nn.init.zeros_(made.bias)
    return made
