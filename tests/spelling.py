"""What the tests of the speller's loops compare: all of its outputs and gradients."""

import torch
from torch import Tensor

from asr.model.speller import Speller, Spelling


def weighed(spelling: Spelling) -> tuple[Tensor, Tensor]:
    """Return logits and weights, each number by a factor of its own."""
    generator = torch.Generator().manual_seed(7)
    logits, weights = (
        x * torch.randn(x.shape, generator=generator).to(x) for x in spelling
    )
    return logits, weights


def gradients_of(speller: Speller, h: Tensor, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradients of h and of every parameter."""
    leaves = {"h": h} | dict(speller.named_parameters())
    found = torch.autograd.grad(
        loss, list(leaves.values()), retain_graph=True, materialize_grads=True
    )
    return dict(zip(leaves, found, strict=True))
