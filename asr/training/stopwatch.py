"""The time that a training takes, which its resumes go on counting."""

import time


class Stopwatch:
    """Measures the time since its last start, by a clock that is never set."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the last start."""
        return time.monotonic() - self._started

    def restart(self) -> float:
        """Start again, and return the seconds since the last start.

        One reading of the clock ends a lap and begins the next: nothing is lost.
        """
        now = time.monotonic()
        lap, self._started = now - self._started, now
        return lap
