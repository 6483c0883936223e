"""Hot words as a step model of `asr.onnx.search`; see `asr.decoding.hotwords`.

Shapes: R hypotheses, V tokens.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from asr.decoding.hotwords import TokenTables

Ints = npt.NDArray[np.integer]


class HotWordPrefix:
    """Two look-ups a step; the state is (R,) that of the automaton.

    Args:
        tables: of the hot words.
        num_utterances: B.
    """

    def __init__(self, tables: TokenTables, num_utterances: int) -> None:
        self._tables, self._num_utterances = tables, num_utterances

    def start(self) -> Ints:
        """Return one row per utterance, at the start of a word."""
        return np.zeros(self._num_utterances, dtype=np.int32)

    def step(self, tokens: Ints, state: Ints) -> tuple[npt.NDArray[Any], Ints]:
        """(R,) last tokens -> (R, V) scores of the next, and the new state."""
        state = self._tables.next_states[state, tokens]
        return self._tables.scores[state], state

    def select(self, state: Ints, rows: Ints) -> Ints:
        """Repeat, reorder and drop hypotheses."""
        return state[rows.flatten()]
