"""The page at `/`: records or takes a file, and shows what `asr explain` shows.

It needs nothing but this server, and a browser would refuse to load anything else. The
files of the page are there for everybody, also where the server has an API key; what
transcribes is not.
"""

import asyncio
import json
from dataclasses import replace
from importlib.resources import files
from typing import Any

import torch
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from torch import Tensor

from asr.errors import AudioError
from asr.output import FORMATS
from asr.output import render as written
from asr.reports.recording_page import sound_data, transcript_data
from asr.reports.templates import render, source
from asr.server.access import require_key
from asr.server.engine import Engine
from asr.server.errors import ApiError
from asr.server.reading import ReadLimits, reading
from asr.server.settings import MIB, ServerSettings
from asr.server.transcriptions import place, received_form, until_gone
from asr.server.uploads import Form
from asr.transcript import Transcript

MOST_SECONDS = 3600.0
"""Of a recording that the page shows: its sound, spectrogram and attention are held in
memory, here and in the browser."""
MOST_SOUNDS = 2
"""Whole recordings that are in memory at the same time: `app.state.sounds`."""
_READ_SECONDS = 120.0
"""Within which a recording must have been read: others wait for its place."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; media-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",  # a new version of the server has a new page
}
_KINDS = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_FOLDERS = ("recording", "server")

router = APIRouter(include_in_schema=False)


@router.get("/")
async def show_page(request: Request) -> Response:
    """Return the page."""
    settings: ServerSettings = request.app.state.settings
    page = render(
        "server/page.html",
        language=settings.language,
        needs_key=settings.api_key is not None,
        max_upload=settings.max_upload,
        shown_upload=f"{settings.max_upload / MIB:.3g} MiB",
    )
    return Response(page, media_type="text/html", headers=HEADERS)


@router.get("/page/sample.opus")
async def show_sample() -> Response:
    """Return the recording that comes with the package."""
    sample = (files("asr") / "assets" / "sample.opus").read_bytes()
    return Response(sample, media_type="audio/ogg", headers=HEADERS)


@router.get("/page/{name:path}")
async def show_file(name: str) -> Response:
    """Return a style sheet, script or picture of the page."""
    if name not in _FILES:
        raise ApiError(404, "the page has no such file", code="not_found")
    kind = _KINDS[name[name.rindex(".") :]]
    return Response(source(name), media_type=kind, headers=HEADERS)


@router.post("/page/recording", dependencies=[Depends(require_key)])
async def transcribe(request: Request) -> Response:
    """Transcribe a recording: what its page shows, and a file of each format."""
    settings: ServerSettings = request.app.state.settings
    async with place(request), received_form(request, settings) as form:
        content = await until_gone(request, _recording(request, form))
    return Response(content, media_type="application/json", headers=HEADERS)


async def _recording(request: Request, form: Form) -> bytes:
    """Read a recording for the page, and have it transcribed.

    Raises:
        AsrError: it cannot be read, is too long, or the server has too much to do.
    """
    state = request.app.state
    engine: Engine = state.engine
    async with state.sounds:
        sound = await _sound(form, state.settings)
    transcript = await engine.transcribe(
        form.path, name=form.name, return_alignment=True
    )
    return await asyncio.to_thread(_content, transcript, sound)


async def _sound(form: Form, settings: ServerSettings) -> dict[str, Any]:
    """Read a whole recording, for its sound and its spectrogram.

    Raises:
        AudioError: it cannot be read, is too long, or takes too much time.
    """
    limits = ReadLimits(
        min(settings.max_seconds, MOST_SECONDS),
        settings.read_memory,
        settings.read_timeout,
    )
    parts = list[Tensor]()
    try:
        async with (
            asyncio.timeout(_READ_SECONDS),
            reading(form.path, form.name, limits) as pieces,
        ):
            async for piece in pieces:
                if piece.waveform is None:
                    part = torch.zeros(piece.num_samples)
                else:
                    part = torch.from_numpy(piece.waveform.copy())
                parts.append(part[piece.overlap :])
    except TimeoutError as error:
        raise AudioError(
            f"{form.name}: reading takes too long (over {_READ_SECONDS:g} s)"
        ) from error
    return await asyncio.to_thread(sound_data, torch.cat(parts))


def _content(transcript: Transcript, sound: dict[str, Any]) -> bytes:
    plain = replace(
        transcript,
        segments=tuple(replace(one, alignment=None) for one in transcript.segments),
    )
    answer = {
        "recording": {**transcript_data(transcript.audio, transcript), **sound},
        "files": {format: written(plain, format) for format in FORMATS},
    }
    return json.dumps(answer, ensure_ascii=False).encode(errors="backslashreplace")


def _files() -> frozenset[str]:
    pages = files("asr") / "assets" / "pages"
    there = [
        (folder, path.name)
        for folder in _FOLDERS
        for path in (pages / folder).iterdir()
    ]
    names = {f"{folder}/{name}" for folder, name in there}
    return frozenset(
        {"base.css", *(name for name in names if name.endswith(tuple(_KINDS)))}
    )


_FILES = _files()
