"""What a corpus holds, in 64 letters: two that are equal have the same utterances.

Ids, texts and durations in their order count, and where in a recording an utterance
is; where the recordings are does not, so a corpus that was moved stays the same. Who
speaks counts only where something hangs on it.
"""

import hashlib
import json
from collections.abc import Iterable

from asr.data.manifest import Utterance


class CorpusDigest:
    """Works out the digest of utterances that come one after the other.

    Args:
        speakers: whether those that are named count.
    """

    def __init__(self, *, speakers: bool = False) -> None:
        self._speakers = speakers
        self._sum = hashlib.sha256()

    def add(self, utterance: Utterance) -> None:
        """Count one more utterance."""
        parts: list[str | float] = [
            utterance.id,
            utterance.text,
            float(utterance.duration),
        ]
        start = getattr(utterance, "start", None)
        if start:  # an utterance that is a part of a recording
            parts.append(float(start))
        if self._speakers and utterance.speaker:
            parts.append(utterance.speaker)
        self._sum.update(json.dumps(parts).encode() + b"\n")

    def __str__(self) -> str:
        """Return the digest of what was added so far."""
        return self._sum.hexdigest()


def digest(utterances: Iterable[Utterance], *, speakers: bool = False) -> str:
    """Return the digest of utterances; see `CorpusDigest`.

    >>> u = Utterance("a", "x/a.wav", 2, "GO")
    >>> digest([u]) == digest([Utterance("a", "elsewhere/a.wav", 2.0, "GO")])
    True
    """
    found = CorpusDigest(speakers=speakers)
    for utterance in utterances:
        found.add(utterance)
    return str(found)
