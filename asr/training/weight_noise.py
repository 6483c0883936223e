"""Noise on the recurrent weights of a training: it must not need their last digits.

    g = grad loss(W + sigma n), n ~ N(0, 1)        W moves by g, and keeps no noise

Each update draws other noise, for all its batches, and each process its own. Dropout
blanks what goes from layer to layer; this disturbs what an LSTM tells itself from step
to step.

Source: Graves (2011), "Practical variational inference for neural networks", section
5; Chan et al. (2015), arXiv:1508.01211, section 4.1, with a deviation of 0.075.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class WeightNoise:
    """Noise on recurrent weights.

    Args:
        network: whose parts that learn nothing are frozen.
        deviation: sigma; 0 for no noise.
    """

    def __init__(self, network: nn.Module, deviation: float) -> None:
        self.deviation = deviation
        self.weights = [
            weight.detach()
            for name, weight in network.named_parameters()
            if "weight_hh" in name and weight.requires_grad
        ]

    @contextmanager
    def added(self) -> Iterator[None]:
        """Add noise for a while; afterwards the weights are what they were."""
        if not self.deviation:
            yield
            return
        kept = [weight.clone() for weight in self.weights]
        for weight in self.weights:
            weight.add_(torch.randn_like(weight), alpha=self.deviation)
        try:
            yield
        finally:
            for weight, before in zip(self.weights, kept, strict=True):
                weight.copy_(before)
