"""The time that a training takes, by a clock that the test sets."""

import pytest

from asr.training.stopwatch import Stopwatch


def test_laps_add_up_to_the_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    stopwatch = Stopwatch()

    now = 102.0
    assert stopwatch.seconds == 2.0
    assert stopwatch.restart() == 2.0
    now = 105.0
    assert stopwatch.seconds == 3.0
    assert stopwatch.restart() == 3.0
    assert stopwatch.seconds == 0.0
