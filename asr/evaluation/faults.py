"""Two faults of a search that an error rate does not tell apart from honest mistakes.

A *loop*: attention does not move on, and the speller writes the same words again and
again. An *early stop*: the speller ends the utterance long before the speaker does.
"""

from typing import NamedTuple

LONGEST_STRETCH = 6
"""Words of a stretch whose repetitions are looked for."""
FEWEST_TIMES = 3
"""How often in a row a stretch stands in a loop."""
SHORT = 0.5
"""An early stop has fewer than this many words per reference word."""


class Repetition(NamedTuple):
    """A stretch of words, and how often in a row it stands."""

    times: int
    words: str


def longest_repetition(text: str) -> Repetition:
    """Find the stretch of up to six words that stands most often in a row.

    >>> longest_repetition("AND OF THE SEA OF THE SEA OF THE SEA ROSE")
    Repetition(times=3, words='OF THE SEA')
    >>> longest_repetition("GO ON")
    Repetition(times=1, words='GO')
    """
    words = text.split()
    best = Repetition(1, words[0]) if words else Repetition(0, "")
    for size in range(1, LONGEST_STRETCH + 1):
        equal = 0  # words in a row that are the same as the word `size` before them
        for i in range(size, len(words)):
            equal = equal + 1 if words[i] == words[i - size] else 0
            if equal // size + 1 > best.times:
                start = i - size + 1
                best = Repetition(equal // size + 1, " ".join(words[start : i + 1]))
    return best


def is_loop(reference: str, hypothesis: str) -> bool:
    """Tell whether words stand three times in a row that the speaker did not repeat so.

    >>> is_loop("NO NO NO", "NO NO NO")
    False
    """
    times = longest_repetition(hypothesis).times
    return times >= FEWEST_TIMES and times > longest_repetition(reference).times


def is_early_stop(reference: str, hypothesis: str) -> bool:
    """Tell whether fewer than half as many words were heard as said.

    >>> is_early_stop("A B C D", "A B"), is_early_stop("A B C D", "A")
    (False, True)
    """
    return len(hypothesis.split()) < SHORT * len(reference.split())
