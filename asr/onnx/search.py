"""The beam search of `asr.decoding`, by numpy: the same steps, scores and rules.

What asks whom is described there: `search` (the beam), `fusion` (the sum of models).
Tests hold both together: the same hypotheses, scores within 1e-4.

Shapes: B utterances still being searched, K live hypotheses of each, R = B * K rows,
        V vocabulary size. The K hypotheses of one utterance stand together: a group.
"""

from collections.abc import Sequence
from math import inf
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from asr.decoding.endings import Followed, hypotheses
from asr.decoding.hypothesis import Hypothesis, SearchConfig

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


class StepModel(Protocol):
    """A model of the next token; see `asr.decoding.search.StepModel`."""

    def start(self) -> Any:
        """Return one row per utterance."""

    def step(self, tokens: Ints, state: Any) -> tuple[Floats, Any]:
        """(R,) last tokens -> (R, V) scores of the next, and the new state."""

    def select(self, state: Any, rows: Ints) -> Any:
        """Keep the rows (B', K')."""


class Fusion:
    """The weighted sum of step models; see `asr.decoding.fusion`."""

    def __init__(self, parts: Sequence[tuple[StepModel, float]]) -> None:
        """Join models; one of weight zero is not asked."""
        self.parts = [(model, weight) for model, weight in parts if weight]

    def start(self) -> tuple[Any, ...]:
        """Start all models."""
        return tuple(model.start() for model, _ in self.parts)

    def step(self, tokens: Ints, state: tuple[Any, ...]) -> tuple[Floats, Any]:
        """Let all models read a token; add up their scores of the next."""
        total: Floats | None = None
        states = list[Any]()
        for (model, weight), own in zip(self.parts, state, strict=True):
            scores, after = model.step(tokens, own)
            weighted = scores * np.float32(weight)
            total = weighted if total is None else np.add(total, weighted, out=total)
            states.append(after)
        assert total is not None
        return total, tuple(states)

    def select(self, state: tuple[Any, ...], rows: Ints) -> tuple[Any, ...]:
        """Repeat, reorder and drop the hypotheses of all models alike."""
        return tuple(
            model.select(own, rows)
            for (model, _), own in zip(self.parts, state, strict=True)
        )


def beam_search(
    model: StepModel,
    config: SearchConfig,
    *,
    sos: int,
    eos: int,
    max_lengths: Sequence[int],
) -> list[list[Hypothesis]]:
    """Follow the `beam_size` best hypotheses of each utterance.

    Args:
        model: is asked for the next tokens.
        config: settings.
        sos: token that starts every hypothesis.
        eos: token that ends it.
        max_lengths: (B,) the most tokens, <eos> not counted, an utterance may have.

    Returns:
        For each utterance 1 to `beam_size` hypotheses, best first.

    Raises:
        ValueError: the model gives NaN.
    """
    utterances = [Followed(limit) for limit in max_lengths]
    links, spelled = list[list[int]](), list[list[int]]()
    live, state = utterances, model.start()
    tokens: Ints = np.full(len(live), sos, dtype=np.int64)
    log_probs: Floats = np.zeros((len(live), 1), dtype=np.float32)
    while live:
        scores, state = model.step(tokens, state)
        width = log_probs.shape[1]
        best, rows, nexts, ending, highest = _extend(log_probs, scores, config, eos)
        kept = [
            group
            for group, utterance in enumerate(live)
            if utterance.goes_on(
                [*best[group].tolist(), *ending[group].tolist()],
                *(float(highest[group]), len(links), group * width, config),
            )
        ]
        if len(kept) < len(live):
            live = [live[group] for group in kept]
            best, rows, nexts = best[kept], rows[kept], nexts[kept]
        if live:
            state = model.select(state, rows)
            log_probs, tokens = best, nexts.flatten()
            links.append(rows.flatten().tolist())
            spelled.append(tokens.tolist())
    return hypotheses(utterances, links, spelled, config)


def _extend(
    log_probs: Floats, scores: Floats, config: SearchConfig, eos: int
) -> tuple[Floats, Ints, Ints, Floats, Floats]:
    """Find the best extensions of (B, K) hypotheses by (R, V) scores of what follows.

    Returns:
        (B, K') log P, the old row and the new token of each extension; (B, K) log P
        where a hypothesis ends; (B,) the highest of the scores.
    """
    groups, width = log_probs.shape
    size = scores.shape[1]
    scores = scores.reshape(groups, width, size)
    highest = scores.max(axis=(1, 2))
    ending, others = scores[:, :, eos], scores.copy()
    others[:, :, eos] = -inf
    if config.eos_threshold is not None:
        best = others.max(axis=2)
        worse = np.float32(config.eos_threshold) ** -np.sign(best)
        with np.errstate(invalid="ignore"):
            least = best * worse
        ending = np.where(ending < least, np.float32(-inf), ending)
    totals = (log_probs[:, :, None] + others).reshape(groups, -1)
    count = min(config.beam_size, totals.shape[1])
    index = np.argpartition(totals, totals.shape[1] - count, axis=1)[:, -count:]
    found = np.take_along_axis(totals, index, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    index = np.take_along_axis(index, order, axis=1)
    first = np.arange(groups)[:, None] * width
    return (
        np.take_along_axis(found, order, axis=1),
        index // size + first,
        index % size,
        log_probs + ending,
        highest,
    )
