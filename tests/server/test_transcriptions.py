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


@pytest.mark.parametrize("field", ["response_format", "timestamp_granularities[]"])
def test_a_field_in_the_address_is_refused(field: str) -> None:
    response = client().post(
        "/v1/audio/transcriptions", params={field: "word"}, files={"file": b"talk"}
    )

    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == field
    assert error["message"].endswith("the address (send it as a field of the form)")


def test_what_else_is_in_the_address_is_the_clients_own() -> None:
    response = client(FailingEngine(AudioError("talk: is cut short"))).post(
        "/v1/audio/transcriptions",
        params={"api-version": "2026-01-01"},
        files={"file": b"talk"},
        data={"stream": "true"},
    )

    assert response.status_code == 200
