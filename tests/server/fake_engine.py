"""An engine that makes words up, so that tests of what is around it are quick."""

import asyncio
import threading
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient

from asr.audio import SAMPLE_RATE, read_waveform
from asr.server.app import create_app
from asr.server.errors import OverloadError
from asr.server.settings import ServerSettings
from asr.transcript import Alignment, Alternative, Segment, Transcript, Word

WORDS = ("GO", "ON", "<b>")
"""In the first second of any recording."""
COUNTED = ("ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
"""In live audio: one each half a second."""


class FakeEngine:
    """Finds the same words in any recording."""

    model = "fake"
    words = frozenset[str]()

    def __init__(self) -> None:
        self.settings = {"beam_size": 8}
        self.is_busy = False
        self.may_finish = threading.Event()
        self.may_finish.set()
        self.given = list[npt.NDArray[np.float32]]()
        """The recordings."""
        self.begun = self.cancelled = 0

    def overload(self, num_open: int = 0) -> OverloadError | None:
        return OverloadError(3) if self.is_busy else None

    def check_hotwords(self, hotwords: Sequence[str]) -> None:
        pass

    async def recognize(
        self,
        waveform: npt.NDArray[np.float32],
        *,
        hotwords: Sequence[str] = (),
        beam_size: int | None = None,
    ) -> Segment:
        seconds = len(waveform) / SAMPLE_RATE
        said = COUNTED[: round(2 * seconds)]
        words = tuple(
            Word(word, 0.5 * n, 0.5 * n + 0.4, 0.9) for n, word in enumerate(said)
        )
        return Segment(0.0, seconds, " ".join(said), words, 0.9, (), (), None)

    async def transcribe(
        self, path: Path, *, name: str, return_alignment: bool = False, **_: Any
    ) -> Transcript:
        self.begun += 1
        try:
            while not self.may_finish.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        assert return_alignment
        self.given.append(read_waveform(path).numpy())
        text = " ".join(WORDS)
        alignment = Alignment((*text, "\u220e"), torch.eye(len(text) + 1, 25), 0.04)
        said = tuple(
            Word(word, 0.1 + 0.3 * n, 0.3 + 0.3 * n, 0.9 - 0.3 * n)
            for n, word in enumerate(WORDS)
        )
        nbest = (Alternative(text, -0.5), Alternative("GO IN <b>", -0.7))
        one = Segment(0.0, 1.0, text, said, 0.6, (), nbest, alignment)
        seconds = len(self.given[-1]) / SAMPLE_RATE
        return Transcript((one,), seconds, name, "mix", "fake", self.settings)


def wav(seconds: float = 1.5) -> bytes:
    """A tone, as a file."""
    file = BytesIO()
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    soundfile.write(file, 0.3 * np.sin(2000 * time), SAMPLE_RATE, format="WAV")
    return file.getvalue()


def app(engine: FakeEngine, **settings: Any) -> FastAPI:
    made: Any = engine
    return create_app(made, ServerSettings(**settings))


def client(engine: FakeEngine | None = None, **settings: Any) -> TestClient:
    made = app(engine or FakeEngine(), **settings)
    return TestClient(made, "http://localhost", raise_server_exceptions=False)
