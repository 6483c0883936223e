"""What a corpus holds, in 64 letters: two that are equal have the same utterances.

Ids, texts and durations in their order count, and where in a recording an utterance
is; where the recordings are does not, so a corpus that was moved stays the same.
"""

import hashlib
import json
from collections.abc import Iterable

from asr.data.manifest import Utterance


class CorpusDigest:
    """Works out the digest of utterances that come one after the other."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()

    def add(self, utterance: Utterance) -> None:
        """Count one more utterance."""
        parts = [utterance.id, utterance.text, float(utterance.duration)]
        start = getattr(utterance, "start", None)
        if start:  # an utterance that is a part of a recording
            parts.append(float(start))
        self._sum.update(json.dumps(parts).encode() + b"\n")

    def __str__(self) -> str:
        """Return the digest of what was added so far."""
        return self._sum.hexdigest()


def digest(utterances: Iterable[Utterance]) -> str:
    """Return the digest of utterances.

    >>> u = Utterance("a", "x/a.wav", 2, "GO")
    >>> digest([u]) == digest([Utterance("a", "elsewhere/a.wav", 2.0, "GO")])
    True
    """
    found = CorpusDigest()
    for utterance in utterances:
        found.add(utterance)
    return str(found)
