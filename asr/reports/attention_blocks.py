"""The two looks of a hierarchical attention, from their product.

An alignment has one weight for each step, beta_im alpha_ij. Both factors are in it:
the alpha_ij of a block sum to one, so that the weights of its steps sum to beta_im.

Shapes: I tokens, J listener steps, M blocks of G steps, the last of which may be short.
"""

import torch
from torch import Tensor, nn


def across_weights(weights: Tensor, block_size: int) -> Tensor:
    """(I, J) weights of steps -> (I, M) of blocks, beta.

    >>> across_weights(torch.tensor([[0.1, 0.2, 0.3, 0.3, 0.1]]), 2)
    tensor([[0.3000, 0.6000, 0.1000]])
    """
    behind = -weights.size(1) % block_size
    padded = nn.functional.pad(weights, (0, behind))
    return padded.view(len(weights), -1, block_size).sum(dim=2)


def inside_weights(weights: Tensor, block_size: int) -> Tensor:
    """(I, J) weights of steps -> (I, J) the share of each within its block, alpha.

    Of a block that has no weight at all, as one outside of an attention window has
    none, the shares are zero.

    >>> inside_weights(torch.tensor([[0.1, 0.2, 0.3, 0.3, 0.1]]), 2)
    tensor([[0.3333, 0.6667, 0.5000, 0.5000, 1.0000]])
    """
    across = across_weights(weights, block_size)
    of_steps = across.repeat_interleave(block_size, dim=1)[:, : weights.size(1)]
    return weights / of_steps.clamp_min(torch.finfo(weights.dtype).tiny)
