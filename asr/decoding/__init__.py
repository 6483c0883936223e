"""The search for the most likely spelling, which knows no network."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.decoding.ctc import CTCPrefix
    from asr.decoding.fusion import Fusion
    from asr.decoding.hypothesis import Hypothesis, SearchConfig
    from asr.decoding.search import StepModel, beam_search, greedy_search

__all__ = [
    "CTCPrefix",
    "Fusion",
    "Hypothesis",
    "SearchConfig",
    "StepModel",
    "beam_search",
    "greedy_search",
]

_HOME = {
    "CTCPrefix": "asr.decoding.ctc",
    "Fusion": "asr.decoding.fusion",
    **dict.fromkeys(("Hypothesis", "SearchConfig"), "asr.decoding.hypothesis"),
    **dict.fromkeys(("StepModel", "beam_search", "greedy_search"),
                    "asr.decoding.search"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: the settings need no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'asr.decoding' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
