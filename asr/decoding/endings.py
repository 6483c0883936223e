"""What a beam search keeps of an utterance, whoever works out the scores.

`search` does so by torch, `asr.onnx.search` by numpy. Here are the rules by which
hypotheses end, and the way back from an ending to its first token.

Shapes: K live hypotheses of an utterance, K' extensions that got a place, R rows of all
        utterances.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from asr.decoding.hypothesis import Hypothesis, SearchConfig, normalized


class Ending(NamedTuple):
    """A hypothesis that is not followed further; its tokens are still in the links."""

    log_prob: float
    num_tokens: int
    row: int
    """Its row once it had `num_tokens`."""
    finished: bool


@dataclass
class Followed:
    """What the host keeps of one utterance during a beam search."""

    limit: int
    """The most tokens it may have."""
    log_probs: list[float] = field(default_factory=lambda: [0.0])
    """(K,) of the live hypotheses, best first."""
    endings: list[Ending] = field(default_factory=list)
    falls: bool = True
    """Whether no score was above zero so far, so that log P only falls."""

    def goes_on(
        self,
        log_probs: list[float],
        highest: float,
        num_tokens: int,
        first_row: int,
        config: SearchConfig,
    ) -> bool:
        """Take notice of one step; return whether another is needed.

        Args:
            log_probs: (K' + K) of the best extensions, and of the K old hypotheses
                where they end here.
            highest: of the model's scores.
            num_tokens: how many tokens the live hypotheses had before the step.
            first_row: where they stood.
            config: settings.
        """
        extended = log_probs[: -len(self.log_probs)]
        endings = log_probs[-len(self.log_probs) :]
        check_score(highest)
        self.falls = self.falls and highest <= 0
        self._end(endings, extended[-1], num_tokens, first_row, finished=True)
        if num_tokens >= self.limit or extended[0] == -inf:
            if not self.endings:
                self._end(self.log_probs, -inf, num_tokens, first_row, finished=False)
            return False
        self.log_probs = extended
        return len(self.endings) < config.beam_size and self._can_improve(config)

    def _end(
        self,
        log_probs: list[float],
        above: float,
        num_tokens: int,
        first_row: int,
        finished: bool,
    ) -> None:
        self.endings += [
            Ending(log_prob, num_tokens, row, finished)
            for row, log_prob in enumerate(log_probs, first_row)
            if log_prob > above
        ]

    def _can_improve(self, config: SearchConfig) -> bool:
        if not self.endings or not self.falls:
            return True
        bound = normalized(self.log_probs[0], self.limit, config.length_norm)
        norm = config.length_norm
        return bound > min(
            normalized(e.log_prob, e.num_tokens, norm) for e in self.endings
        )


def hypotheses(
    utterances: Sequence[Followed],
    rows: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[int]],
    config: SearchConfig,
) -> list[list[Hypothesis]]:
    """Follow the links of the best endings back to the first token.

    Args:
        utterances: all of them, at the end of the search.
        rows: for each step (R,) the row of the step before that each row extends.
        tokens: for each step (R,) the token that each row adds.
        config: settings.

    Returns:
        For each utterance its `beam_size` best endings, best first.
    """

    def spell(ending: Ending) -> Hypothesis:
        row, spelled = ending.row, list[int]()
        for step in reversed(range(ending.num_tokens)):
            spelled.append(tokens[step][row])
            row = rows[step][row]
        return Hypothesis(
            tuple(reversed(spelled)),
            ending.log_prob,
            config.length_norm,
            ending.finished,
        )

    def score(ending: Ending) -> float:
        return normalized(ending.log_prob, ending.num_tokens, config.length_norm)

    return [
        [
            spell(ending)
            for ending in sorted(u.endings, key=score, reverse=True)[: config.beam_size]
        ]
        for u in utterances
    ]


def check_score(score: float) -> None:
    """Raise a ValueError where the highest score of a step is no log-probability."""
    if not score < inf:
        raise ValueError(f"scores must be log-probabilities, got {score}")
