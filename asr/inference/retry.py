"""A second search where the first one lost its place.

A text that repeats itself or finds no end is searched for again with more weight on the
CTC head, whose paths can only go forward.
"""

from dataclasses import replace

from asr.transcript import Flag, Segment

RETRY_CTC_WEIGHT = 0.7
"""Least weight of the CTC head in the second search."""


def is_lost(segment: Segment) -> bool:
    """Return whether a text repeats itself or has no end."""
    return Flag.LOOP in segment.flags or Flag.UNFINISHED in segment.flags


def better(first: Segment, second: Segment) -> Segment:
    """Choose between a text that is lost and what the second search found."""
    if is_lost(second):
        return first
    return replace(second, flags=(*second.flags, Flag.RETRIED))
