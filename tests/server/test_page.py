"""The page, asked by a client and used in Chromium, with an engine that makes words up."""

import base64
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import uvicorn
from fastapi import APIRouter, FastAPI, WebSocket, WebSocketDisconnect
from fastapi.testclient import TestClient

from asr.audio import SAMPLE_RATE, probe, read_waveform
from asr.output import FORMATS
from asr.server.app import create_app
from asr.server.errors import OverloadError
from asr.server.reading import start_forking
from asr.server.settings import ServerSettings
from asr.transcript import Alignment, Alternative, Segment, Transcript, Word

playwright = pytest.importorskip("playwright.sync_api")

SAMPLE = Path("asr/assets/sample.opus")
KEY = "sesame"
WORDS = ("GO", "ON", "<b>")


class FakeEngine:
    """Finds the same words in the first second of any recording."""

    model = "fake"
    settings: dict[str, Any] = {"beam_size": 8}
    words = frozenset[str]()

    def __init__(self) -> None:
        self.is_busy = False
        self.may_finish = threading.Event()
        self.may_finish.set()
        self.seconds = list[float]()
        """Of the recordings that it was given."""

    def overload(self, num_open: int = 0) -> OverloadError | None:
        return OverloadError(3) if self.is_busy else None

    async def transcribe(
        self, path: Path, *, name: str, return_alignment: bool = False, **_: Any
    ) -> Transcript:
        import asyncio

        while not self.may_finish.is_set():
            await asyncio.sleep(0.01)
        assert return_alignment
        self.seconds.append(probe(path).seconds)
        text = " ".join(WORDS)
        alignment = Alignment((*text, "\u220e"), torch.eye(len(text) + 1, 25), 0.04)
        said = [
            Word(word, 0.1 + 0.3 * n, 0.3 + 0.3 * n, 0.9 - 0.3 * n)
            for n, word in enumerate(WORDS)
        ]
        best = (Alternative(text, -0.5), Alternative("GO IN <b>", -0.7))
        one = Segment(0.0, 1.0, text, tuple(said), 0.6, (), best, alignment)
        return Transcript((one,), self.seconds[-1], name, "mix", "fake", self.settings)


def wav(seconds: float = 1.5) -> bytes:
    from io import BytesIO

    file = BytesIO()
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    soundfile.write(file, 0.3 * np.sin(2000 * time), SAMPLE_RATE, format="WAV")
    return file.getvalue()


def app(engine: FakeEngine, **settings: Any) -> FastAPI:
    made: Any = engine
    return create_app(made, ServerSettings(**settings))


def client(engine: FakeEngine | None = None, **settings: Any) -> TestClient:
    return TestClient(
        app(engine or FakeEngine(), **settings), "http://localhost", False
    )


# Asked by a client


def test_the_page_may_load_from_its_server_only() -> None:
    response = client().get("/")

    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"].split("; ")
    assert policy[0] == "default-src 'none'"
    assert all(rule.partition(" ")[2] in ("'self'", "'none'") for rule in policy)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-frame-options"] == "DENY"
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src)", response.text)
    loads = re.findall(r'(?:src|href)="([^"]+)"', response.text)
    assert len(loads) >= 5
    assert all(load.startswith("page/") for load in loads)


def test_all_that_the_page_and_its_modules_load_is_there() -> None:
    asked = client()
    names = re.findall(r'(?:src|href)="(page/[^"]+)"', asked.get("/").text)
    names += [f"page/server/{name}" for name in ("worklet.js",)]
    seen = set[str]()
    while names:
        name = names.pop()
        response = asked.get(f"/{name}")
        assert response.status_code == 200, name
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        seen.add(name)
        folder = name.rpartition("/")[0]
        for other in re.findall(r'from "(\.[^"]+)"', response.text):
            path = f"{folder}/{other}".replace("/./", "/")
            path = re.sub(r"/\w+/\.\./", "/", path)
            names += [path] if path not in seen else []

    assert "page/recording/player.js" in seen


@pytest.mark.parametrize(
    "name",
    ["page/reports/style.css", "page/base.html", "page/..%2f..%2fsample.json", "page/"],
)
def test_nothing_else_of_the_package_is_served(name: str) -> None:
    response = client().get(f"/{name}")
    assert response.status_code == 404


def test_the_page_names_the_largest_file() -> None:
    page = client(max_upload=3 * 2**20 // 2).get("/").text
    assert 'data-max-upload="1572864"' in page
    assert "up to 1.5 MiB" in page
    assert 'data-needs-key="false"' in page
    assert 'data-needs-key="true"' in client(api_key=KEY).get("/").text


def test_without_the_key_nothing_is_transcribed() -> None:
    asked = client(api_key=KEY)
    response = asked.post("/page/recording", files={"file": ("a.wav", wav())})
    assert response.status_code == 401
    assert KEY not in asked.get("/").text


def test_a_busy_server_refuses_a_recording() -> None:
    engine = FakeEngine()
    engine.is_busy = True
    response = client(engine).post("/page/recording", files={"file": ("a.wav", wav())})
    assert response.status_code == 429
    assert response.json()["error"]["message"] == "the server is busy (try again in 3 s)"


@pytest.fixture(scope="module")
def forking() -> None:
    start_forking()


@pytest.mark.slow
@pytest.mark.usefixtures("forking")
def test_a_recording_comes_back_as_its_page_and_its_files() -> None:
    response = client().post("/page/recording", files={"file": ("a.wav", wav(1.5))})

    assert response.status_code == 200
    answer = response.json()
    assert answer["files"].keys() == FORMATS.keys()
    assert answer["files"]["txt"] == "GO ON <b>\n"
    assert json.loads(answer["files"]["json"])["segments"][0]["alignment"] is None
    recording = answer["recording"]
    assert recording["name"] == "a.wav"
    assert recording["waveform"]["least"]["columns"] == 300
    assert recording["segments"][0]["attention"]["rows"] == len("GO ON <b>") + 1
    assert base64.b64decode(recording["sound"]).startswith(b"OggS")


@pytest.mark.slow
@pytest.mark.usefixtures("forking")
def test_what_is_no_recording_is_one_line() -> None:
    response = client().post("/page/recording", files={"file": ("a.wav", b"hello")})
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert message.startswith("a.wav: ")
    assert "\n" not in message


@pytest.mark.slow
@pytest.mark.usefixtures("forking")
def test_a_recording_is_no_longer_than_the_server_takes() -> None:
    response = client(max_seconds=1).post(
        "/page/recording", files={"file": ("a.wav", wav(1.5))}
    )
    assert response.status_code == 400
    assert "longer than the 1 s" in response.json()["error"]["message"]
