"""The speller's graph as a step model of `asr.onnx.search`.

What the graph works out is described in `asr.model.onnx_graphs`. Here is what stays
outside of it: which hypothesis looks at which utterance, the bonus for coverage, and
the language model inside the speller, whose memory is one step of zeros.

Shapes: B utterances, K hypotheses of each, R = B * K rows, J listener steps, N heads,
        V vocabulary size, W what is kept of a hypothesis.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asr.onnx.sessions import Session

COVERED = 0.5
"""Attention, summed over characters, from which a step counts as covered."""
_AT_ONCE = 2**19
"""Numbers that the largest product of a run may have, hypotheses by steps by A: 2 MiB
stay in a processor's cache, which halves the time of a step."""

Floats = npt.NDArray[np.floating]
Array = npt.NDArray[Any]
Ints = npt.NDArray[np.integer]


class Memory(NamedTuple):
    """What the speller looks at: outputs of the listener's graph."""

    shares: Floats
    """(B, N * J, 5 * S)."""
    keys: Floats
    """(B, J, A)."""
    valid: npt.NDArray[np.bool_]
    """(B, J) True where the step is speech."""

    def select(self, rows: Ints) -> "Memory":
        """Keep, in this order, the given utterances."""
        return Memory(self.shares[rows], self.keys[rows], self.valid[rows])


class StepsState(NamedTuple):
    """State of R hypotheses, and the memory that they look at."""

    kept: Floats
    """(R, W)."""
    weights: Floats
    """(R, J) alpha_i."""
    attended: Floats | None
    """(R, J) attention summed over the characters so far, if it counts."""
    memory: Memory


class SpellerSteps:
    """Scores of the next token.

    Args:
        session: of the graph.
        memory: of B utterances.
        coverage: bonus for each listener step that a hypothesis has looked at for more
            than half a character; 0 leaves log P as it is.
    """

    def __init__(self, session: Session, memory: Memory, coverage: float = 0.0) -> None:
        self._session, self._memory, self._coverage = session, memory, coverage
        self._width = int(session.shapes["kept"][2])

    def start(self) -> StepsState:
        """State of B rows that hold nothing but <sos>."""
        rows, steps, _ = self._memory.keys.shape
        weights = np.zeros((rows, steps), dtype=np.float32)
        weights[:, 0] = 1.0
        kept = np.zeros((rows, self._width), dtype=np.float32)
        attended = np.zeros_like(weights) if self._coverage else None
        return StepsState(kept, weights, attended, self._memory)

    def step(self, tokens: Ints, state: StepsState) -> tuple[Floats, StepsState]:
        """(R,) last tokens -> (R, V) log P of the next, and the new state."""
        memory = state.memory
        groups, steps, size = memory.keys.shape
        width = len(tokens) // groups
        inputs: dict[str, Array] = {
            "tokens": tokens.astype(np.int64),
            "kept": state.kept,
            "previous": state.weights,
        }
        inputs = {k: v.reshape(groups, width, *v.shape[1:]) for k, v in inputs.items()}
        most = max(1, _AT_ONCE // (steps * size))
        few, utterances = min(most, width), max(1, most // width)
        outputs = list[Array]()
        for group in range(0, groups, utterances):
            for first in range(0, width, few):
                at = slice(group, group + utterances), slice(first, first + few)
                found = self._run(inputs, memory, at)
                if not outputs:
                    shape = groups, width
                    outputs = [np.empty((*shape, one.shape[2]), "f4") for one in found]
                for output, one in zip(outputs, found, strict=True):
                    output[at] = one
        scores, kept, weights = (one.reshape(len(tokens), -1) for one in outputs)
        attended = state.attended
        if attended is not None:
            after = attended + weights
            newly = ((after > COVERED) & (attended <= COVERED)).sum(axis=1)
            scores += np.float32(self._coverage) * newly[:, None].astype(np.float32)
            attended = after
        return scores, StepsState(kept, weights, attended, memory)

    def _run(
        self, inputs: Mapping[str, Array], memory: Memory, at: tuple[slice, slice]
    ) -> Sequence[Array]:
        """Run the graph on some hypotheses of some utterances."""
        given: dict[str, Array] = {name: array[at] for name, array in inputs.items()}
        given["memory"], given["keys"] = memory.shares[at[0]], memory.keys[at[0]]
        given["valid"] = memory.valid[at[0]]
        return self._session.run(["log_probs", "new_kept", "weights"], given)

    def select(self, state: StepsState, rows: Ints) -> StepsState:
        """Keep the rows (B', K') of the B' utterances that they belong to."""
        memory, groups = state.memory, len(state.memory.keys)
        if len(rows) != groups:
            memory = memory.select(rows[:, 0] // (len(state.kept) // groups))
        flat = rows.flatten()
        attended = None if state.attended is None else state.attended[flat]
        return StepsState(state.kept[flat], state.weights[flat], attended, memory)


def internal_lm(session: Session, num_utterances: int, heads: int) -> SpellerSteps:
    """Return the language model inside the speller: all contexts are zero."""
    shares = np.zeros(
        (num_utterances, heads, int(session.shapes["memory"][2])), dtype=np.float32
    )
    keys = np.zeros(
        (num_utterances, 1, int(session.shapes["keys"][2])), dtype=np.float32
    )
    valid = np.ones((num_utterances, 1), dtype=bool)
    return SpellerSteps(session, Memory(shares, keys, valid))


def score_texts(
    session: Session, memory: Memory, texts: Sequence[Sequence[int]], sos: int, eos: int
) -> list[tuple[Floats, Floats]]:
    """Feed texts to the speller, one to each utterance.

    Returns:
        For each (I,) log P of its tokens and <eos>, and (I, J) alpha.
    """
    steps = SpellerSteps(session, memory)
    state, longest = steps.start(), max(map(len, texts)) + 1
    fed = np.full((len(texts), longest + 1), eos, dtype=np.int64)
    fed[:, 0] = sos
    for row, text in enumerate(texts):
        fed[row, 1 : len(text) + 1] = text
    rows = np.arange(len(texts))
    log_probs = np.empty((len(texts), longest), dtype=np.float32)
    weights = np.empty((len(texts), longest, memory.keys.shape[1]), dtype=np.float32)
    for i in range(longest):
        scores, state = steps.step(fed[:, i], state)
        log_probs[:, i], weights[:, i] = scores[rows, fed[:, i + 1]], state.weights
    return [
        (log_probs[row, : len(text) + 1], weights[row, : len(text) + 1])
        for row, text in enumerate(texts)
    ]
