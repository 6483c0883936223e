"""The search for the most likely spelling, which knows no network."""

from asr.decoding.ctc import CTCPrefix
from asr.decoding.fusion import Fusion
from asr.decoding.search import (
    Hypothesis,
    SearchConfig,
    StepModel,
    beam_search,
    greedy_search,
)

__all__ = [
    "CTCPrefix",
    "Fusion",
    "Hypothesis",
    "SearchConfig",
    "StepModel",
    "beam_search",
    "greedy_search",
]
