"""Errors of recordings that several modules raise."""

from typing import Final

from asr.errors import AudioError

AGAIN: Final = "copy or download it again"
"""What helps against damage."""


def damaged(place: str) -> AudioError:
    """Return the error of a file that no decoder reads to its end."""
    return AudioError(f"{place}: is damaged or cut short ({AGAIN})")


def damaged_because(place: str, reason: str) -> AudioError:
    """Return the error of a file in which something is not what it must be.

    >>> damaged_because("a.mp3", "no frame starts at byte 417").args[0]
    'a.mp3: is damaged: no frame starts at byte 417 (copy or download it again)'
    """
    return AudioError(f"{place}: is damaged: {reason} ({AGAIN})")


def cut_short(place: str, there: object, promised: object, what: str) -> AudioError:
    """Return the error of a file that has less than its header promises.

    >>> cut_short("a.wav", 8000, 16000, "samples").args[0]
    'a.wav: is damaged or cut short: 8000 of 16000 samples are there (copy or download it again)'
    """  # noqa: E501
    return AudioError(
        f"{place}: is damaged or cut short: {there} of {promised} {what} are there "
        f"({AGAIN})"
    )


def no_samples(place: str) -> AudioError:
    """Return the error of a recording without a sample."""
    return AudioError(f"{place}: holds no samples (record or convert it again)")
