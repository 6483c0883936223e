"""The page at `/`, asked by a client; `test_page_in_chromium` uses it."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from asr.output import FORMATS
from asr.server import page
from asr.server.reading import ReadPiece, start_forking
from tests.server.fake_engine import FakeEngine, app, client, wav

KEY = "sesame"


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
    assert (
        response.json()["error"]["message"] == "the server is busy (try again in 3 s)"
    )


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


@pytest.mark.usefixtures("forking")
def test_a_recording_whose_reading_takes_too_long_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page, "_READ_SECONDS", 0.0)
    response = client().post("/page/recording", files={"file": ("a.wav", wav())})
    assert response.status_code == 400
    message = "a.wav: reading takes too long (over 0 s)"
    assert response.json()["error"]["message"] == message


@pytest.mark.usefixtures("forking")
def test_one_upload_that_is_read_does_not_keep_another_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = asyncio.Barrier(2)

    async def pieces() -> AsyncIterator[ReadPiece]:
        yield ReadPiece(0, 16_000, 0, None)

    @asynccontextmanager
    async def reading(*_: Any) -> AsyncIterator[AsyncIterator[ReadPiece]]:
        async with asyncio.timeout(10), both:
            yield pieces()

    monkeypatch.setattr(page, "reading", reading)

    async def ask(made: FastAPI) -> list[int]:
        transport = httpx.ASGITransport(made)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost"
        ) as asked:
            posts = [
                asked.post("/page/recording", files={"file": ("a.wav", wav())})
                for _ in range(2)
            ]
            return [found.status_code for found in await asyncio.gather(*posts)]

    assert asyncio.run(ask(app(FakeEngine()))) == [200, 200]
