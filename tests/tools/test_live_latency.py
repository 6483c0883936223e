from typing import Any

import pytest

from asr.inference.live import Final, LiveConfig, Provisional
from tests.beeps import beeps
from tests.cli.test_live import BeepRecognizer
from tools.live_latency import Clock, Measured, Player, report


@pytest.mark.parametrize("kind", ["real", "cpu"])
def test_a_clock_goes_on_when_somebody_waits(kind: str) -> None:
    clock = Clock(kind)

    clock.wait(0.05)

    assert clock.now() >= 0.05


def test_events_come_when_the_player_has_played_what_they_are_about() -> None:
    recognizer: Any = BeepRecognizer()
    player = Player(recognizer, recognizer, LiveConfig(), "cpu")
    waveform = beeps(", ALPHA BRAVO CHARLIE DELTA ECHO , ,")

    events = player.play(waveform)

    first = next(s for s, event in events if isinstance(event, Provisional))
    (final,) = [s for s, event in events if isinstance(event, Final)]
    assert 1.0 + 2 * 0.7 - 0.35 < first < final
    assert 1.0 + 5 * 0.35 + 0.4 < final < 1.0 + 5 * 0.35 + 2.0


def test_the_report_has_medians_and_word_errors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = Measured([1.0, 3.0], [0.5, 0.7], 2, 1.0, 4.0, ["A B"], ["A B"], ["A C"])

    report(found)

    out = capsys.readouterr().out
    assert "first word: median 2.00 s, 90 % within 2.80 s" in out
    assert "CPU: 0.25 s for each second of audio" in out
    assert "live: 0.00" in out or "live: %WER 0.00" in out
