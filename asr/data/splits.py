"""Cut a corpus into parts that share no speaker, or no text.

What a model says of a voice that it has learned from, is no measure of what it will say
of another. So a group of utterances (all of a speaker, or all of a text) goes to one
part, whole.
"""

import math
import random
from collections import defaultdict
from collections.abc import Sequence

from asr.data.manifest import Utterance
from asr.errors import ConfigError

NAMES = {2: ("train", "dev"), 3: ("train", "dev", "test")}
"""Of the parts, by their number."""
GROUPS = ("speaker", "text")
"""What no two parts share."""


def parse_shares(text: str) -> tuple[float, ...]:
    """Read the shares of the parts, such as 90:5:5.

    Raises:
        ConfigError: they are not two or three numbers above 0.
    """
    try:
        shares = tuple(float(part) for part in text.split(":"))
    except ValueError:
        shares = ()
    if len(shares) not in NAMES or not all(0 < s < math.inf for s in shares):
        raise ConfigError(
            f"--split {text}: two or three numbers above 0 were expected, as in 90:5:5 "
            "(train, dev, test)"
        )
    return shares


def split(
    utterances: Sequence[Utterance], shares: Sequence[float], by: str, seed: int = 0
) -> dict[str, list[Utterance]]:
    """Deal a corpus out, by chance, the same each time.

    Args:
        utterances: of which one without a speaker is a group by its text.
        shares: of the speech, for train, dev and, if there are three, test.
        by: one of `GROUPS`.
        seed: of the chance.

    Returns:
        The utterances of each part, in their order.

    Raises:
        ConfigError: there are fewer groups than parts.
    """
    groups = defaultdict[str, list[int]](list)
    for place, utterance in enumerate(utterances):
        groups[_group(utterance, by)].append(place)
    names = NAMES[len(shares)]
    if len(groups) < len(names):
        raise ConfigError(
            f"--split: {len(groups)} {by}{'s' if len(groups) != 1 else ''} cannot be "
            f"dealt out to {len(names)} parts"
            + (" (--split-by text can)" if by == "speaker" else "")
        )
    seconds = {
        name: math.fsum(utterances[place].duration for place in places)
        for name, places in groups.items()
    }
    order = sorted(groups)
    random.Random(f"split {seed}").shuffle(order)
    parts = _deal(order, seconds, shares)
    chosen = [sorted(p for name in part for p in groups[name]) for part in parts]
    return {
        name: [utterances[place] for place in places]
        for name, places in zip(names, chosen, strict=True)
    }


def _group(utterance: Utterance, by: str) -> str:
    if by == "speaker" and utterance.speaker:
        return f"speaker {utterance.speaker}"
    return f"text {utterance.text}"


def _deal(
    order: list[str], seconds: dict[str, float], shares: Sequence[float]
) -> list[list[str]]:
    """Deal groups out: to the small parts what fits, the rest to the largest.

    A small part has its share of the speech and of the groups, at most, and one group
    at least, the shortest if none fits.
    """
    total, whole = math.fsum(seconds.values()), math.fsum(shares)
    largest = max(range(len(shares)), key=lambda part: shares[part])
    parts = [list[str]() for _ in shares]
    left = list(order)
    for part, share in enumerate(shares):
        if part == largest:
            continue
        room = total * share / whole
        most = max(1, round(len(order) * share / whole))
        for name in list(left):
            if seconds[name] <= room and len(parts[part]) < most:
                parts[part].append(name)
                left.remove(name)
                room -= seconds[name]
        if not parts[part]:
            shortest = min(left, key=lambda name: seconds[name])
            parts[part].append(shortest)
            left.remove(shortest)
    parts[largest] = left
    return parts
