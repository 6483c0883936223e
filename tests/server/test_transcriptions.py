"""Transcriptions by an engine that does as a test asks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asr.errors import AudioError
from asr.transcript import Transcript, silence
from tests.server.fake_engine import FakeEngine, client


class FailingEngine(FakeEngine):
    """Fails after the first text of a recording."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def transcribe(
        self, path: Path, *, on_segment: Any = None, **_: Any
    ) -> Transcript:
        await on_segment(replace(silence(1.0), text="GO"))
        raise self._error


def streamed(error: Exception) -> str:
    """Return the events of a stream."""
    response = client(FailingEngine(error)).post(
        "/v1/audio/transcriptions", files={"file": b"talk"}, data={"stream": "true"}
    )
    return response.text


def test_an_unexpected_error_of_a_stream_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = streamed(ZeroDivisionError("by zero"))
    assert "internal error" in events
    assert "by zero" not in events
    assert "a transcription failed" in caplog.text
    assert "ZeroDivisionError: by zero" in caplog.text


def test_an_error_of_the_recording_is_for_its_client_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert "talk: is cut short" in streamed(AudioError("talk: is cut short"))
    assert "failed" not in caplog.text
