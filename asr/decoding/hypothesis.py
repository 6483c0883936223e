"""What a search finds, and its settings: plain data, whoever searches.

    score(y) = log P(y|x) / |y|^length_norm        |y| counts <eos>

because a plain product of probabilities favours short hypotheses.
"""

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Hypothesis:
    """A spelling that the search considers."""

    tokens: tuple[int, ...]
    """Without <sos> and <eos>."""
    log_prob: float
    """log P(y|x), or what the model gives for it: summed over tokens, <eos> too."""
    length_norm: float = 1.0
    """Power of the length by which `log_prob` is divided for ranking."""
    finished: bool = True
    """Whether it ended in <eos>. If not, it was cut, and <eos> is not in `log_prob`."""

    @property
    def score(self) -> float:
        """What hypotheses are ranked by: the higher, the better.

        >>> Hypothesis(tokens=(5, 6, 7), log_prob=-2.0).score
        -0.5
        """
        return normalized(self.log_prob, len(self.tokens), self.length_norm)


WIDEST_BEAM = 10_000
"""Hypotheses that are followed at most; a hundred are of use."""


@dataclass(frozen=True)
class SearchConfig:
    """Settings of `beam_search`."""

    beam_size: int = 8
    """K: how many hypotheses of an utterance are followed, and returned, at most."""
    length_norm: float = 1.0
    """0 ranks by log P, 1 by log P per token; more favours longer hypotheses."""
    eos_threshold: float | None = None
    """<eos> may follow only where log P(<eos>) >= threshold * log P(best other token).

    Keeps a wide beam from stopping early: 1.5 lets a hypothesis end where <eos> is the
    best token or nearly so. None lets it end anywhere. Where bonuses put the best
    other token above zero, its score is divided by the threshold.
    """

    def __post_init__(self) -> None:
        """Refuse a search that could find nothing."""
        if self.beam_size < 1:
            raise ValueError(
                f"decoding.beam_size must be at least 1, not {self.beam_size}"
            )
        if self.beam_size > WIDEST_BEAM:
            raise ValueError(
                f"decoding.beam_size must be at most {WIDEST_BEAM}, "
                f"not {self.beam_size}"
            )
        if not 0 <= self.length_norm < inf:
            raise ValueError(
                f"decoding.length_norm must be zero or more, not {self.length_norm}"
            )
        if self.eos_threshold is not None and not 0 < self.eos_threshold < inf:
            raise ValueError(
                f"decoding.eos_threshold must be above zero, not {self.eos_threshold}"
            )


def normalized(log_prob: float, num_tokens: int, length_norm: float) -> float:
    """Return the score of a hypothesis of so many tokens, <eos> not counted."""
    return float(log_prob / (num_tokens + 1) ** length_norm)
