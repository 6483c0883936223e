"""Several models of the next token as one: the weighted sum of their scores.

    score(c | y, x) = sum_m weight_m * score_m(c | y, x)

With LAS and a language model this is shallow fusion; with LAS and CTC prefix scores it
is joint decoding; with a weight below zero a model is taken off: the one inside LAS.

Source: Gulcehre et al. (2015), arXiv:1503.03535, section 4.1 (shallow fusion); Hori et
al. (2017), doi:10.18653/v1/P17-1048, section 3 (joint decoding).
"""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from torch import Tensor

from asr.decoding.search import StepModel


class Fusion:
    """The weighted sum of step models, which is again a step model.

    A token that one of the models rules out is ruled out; a model with a weight below
    zero must rule out none. A model of weight zero does not count: it is not asked.
    """

    def __init__(
        self, models: Sequence[StepModel[Any]], weights: Sequence[float]
    ) -> None:
        """Join models.

        Args:
            models: all with the same vocabulary, for the same utterances.
            weights: one for each model.

        Raises:
            ValueError: a weight is missing or no number, or none is above zero.
        """
        if len(models) != len(weights):
            raise ValueError(
                f"{len(models)} models need as many weights, got {weights}"
            )
        if not all(map(isfinite, weights)) or not any(weight > 0 for weight in weights):
            raise ValueError(
                f"weights must be numbers, and one above zero, got {weights}"
            )
        pairs = zip(models, weights, strict=True)
        self.parts = [(model, weight) for model, weight in pairs if weight]

    def start(self) -> tuple[Any, ...]:
        """Start all models."""
        return tuple(model.start() for model, _ in self.parts)

    def step(
        self, tokens: Tensor, state: tuple[Any, ...]
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Let all models read a token; add up their scores of the next.

        Raises:
            ValueError: the models do not have the same vocabulary.
        """
        asked = [
            model.step(tokens, own)
            for (model, _), own in zip(self.parts, state, strict=True)
        ]
        sizes = [tuple(scores.shape) for scores, _ in asked]
        if len(set(sizes)) > 1:
            raise ValueError(f"models must score the same tokens, got scores {sizes}")
        total = asked[0][0] * self.parts[0][1]
        for (scores, _), (_, weight) in zip(asked[1:], self.parts[1:], strict=True):
            total = total.add(scores, alpha=weight)
        return total, tuple(own for _, own in asked)

    def select(self, state: tuple[Any, ...], rows: Tensor) -> tuple[Any, ...]:
        """Repeat, reorder and drop the hypotheses of all models alike."""
        return tuple(
            model.select(own, rows)
            for (model, _), own in zip(self.parts, state, strict=True)
        )
