"""Two failures of a search that an error rate does not show.

A *loop*: attention does not move on, and the speller writes the same words again and
again. An *early stop*: the speller ends the utterance long before the speaker does.
"""

from asr.inference.repetition import longest_repetition

FEWEST_TIMES = 3
"""How often in a row a stretch stands in a loop."""
SHORT = 0.5
"""An early stop has fewer than this many words per reference word."""


def is_loop(reference: str, hypothesis: str) -> bool:
    """Return whether words stand three times in a row that were not said so often.

    >>> is_loop("NO NO NO", "NO NO NO")
    False
    """
    times = longest_repetition(hypothesis).times
    return times >= FEWEST_TIMES and times > longest_repetition(reference).times


def is_early_stop(reference: str, hypothesis: str) -> bool:
    """Return whether fewer than half as many words were found as said.

    >>> is_early_stop("A B C D", "A B"), is_early_stop("A B C D", "A")
    (False, True)
    """
    return len(hypothesis.split()) < SHORT * len(reference.split())
