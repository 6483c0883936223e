"""Letters as a reader counts them: a base with all of its marks.

A model may write `e` and two accents one after the other; a picture shows one letter.

Shapes: I tokens, L letters, J listener steps.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from asr.alphabet import clusters
from asr.transcript import Alignment


def joined_letters(tokens: Sequence[str], weights: Tensor) -> tuple[list[str], Tensor]:
    """Join the tokens that write one letter.

    Args:
        tokens: I of them, or fewer: rows without one stay as they are.
        weights: (I, J) alpha.

    Returns:
        L letters; (L, J), where the rows of a letter are averaged, so that each still
        sums to one.
    """
    numbers = list(clusters(tokens))
    if len(set(numbers)) == len(numbers):
        return list(tokens), weights
    last = numbers[-1]
    rows = torch.tensor(
        [*numbers, *range(last + 1, last + 1 + len(weights) - len(numbers))]
    )[: len(weights)]
    summed = weights.new_zeros(int(rows.max()) + 1, weights.size(1))
    summed.index_add_(0, rows, weights)
    letters = [""] * (last + 1)
    for number, token in zip(numbers, tokens, strict=True):
        letters[number] += token
    return letters, summed / rows.bincount()[:, None]


def with_whole_letters(alignment: Alignment) -> Alignment:
    """Return an alignment with a row a letter."""
    letters, weights = joined_letters(alignment.tokens, alignment.weights)
    return replace(alignment, tokens=tuple(letters), weights=weights)
