"""What was published of LibriSpeech: its subsets, and how large they are.

Sources: hours and speakers are the sums of SPEAKERS.TXT (the paper, Panayotov et al.,
2015, table 1, has the hours of dev-other and test-other the other way round);
utterances, and all figures of Mini LibriSpeech, are counts of the corpus, whose page
gives none.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from asr.data.manifest import Utterance


class Size(NamedTuple):
    """How large a subset is."""

    utterances: int
    hours: float
    """nan where it is not known."""
    speakers: int


PUBLISHED = {
    "train-clean-5": Size(1519, 5.31, 28),
    "dev-clean-2": Size(1089, math.nan, 26),
    "train-clean-100": Size(28539, 100.59, 251),
    "train-clean-360": Size(104014, 363.61, 921),
    "train-other-500": Size(148688, 496.86, 1166),
    "dev-clean": Size(2703, 5.39, 40),
    "dev-other": Size(2864, 5.12, 33),
    "test-clean": Size(2620, 5.40, 40),
    "test-other": Size(2939, 5.34, 33),
}


def measure(utterances: Sequence[Utterance]) -> Size:
    """Return how large a subset is."""
    hours = math.fsum(utterance.duration for utterance in utterances) / 3600
    speakers = {utterance.speaker for utterance in utterances}
    return Size(len(utterances), hours, len(speakers))


def compare(size: Size, subset: str) -> str:
    """Return whether a subset is all that was published under its name.

    Hours may differ by 1 %: compressed audio is padded, and published figures rounded.

    >>> compare(Size(1313, 2.7, 20), "dev-clean")
    'part: 1313 of 2703 utterances'
    """
    if subset not in PUBLISHED:
        return "not a published subset"
    whole = PUBLISHED[subset]
    if size.utterances != whole.utterances:
        return f"part: {size.utterances} of {whole.utterances} utterances"
    if size.speakers != whole.speakers:
        return f"differs: {size.speakers} speakers, not {whole.speakers}"
    if abs(size.hours - whole.hours) > 0.01 * whole.hours:
        return f"differs: {size.hours:.2f} hours, not {whole.hours:.2f}"
    return "whole"


def table(rows: Iterable[tuple[str, Size]]) -> str:
    """Draw named subsets as a table, a line each."""
    lines = [f"{'subset':<16}{'utterances':>12}{'hours':>9}{'speakers':>10}"]
    for subset, size in rows:
        figures = f"{size.utterances:>12}{size.hours:>9.2f}{size.speakers:>10}"
        lines.append(f"{subset:<16}{figures}   {compare(size, subset)}")
    return "\n".join(lines)
