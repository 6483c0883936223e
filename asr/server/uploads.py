"""Forms that clients send, read as they come and no further than they may.

The recording of a form goes into a temporary file without a name (on Linux), which is
gone with the request or the process. A client never chooses a name.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from asr.errors import one_line
from asr.server.errors import ApiError
from asr.server.settings import MIB, ServerSettings

_MOST_FIELDS = 1000
_MOST_TEXT = 2**16
"""Bytes of a field that is no file."""
_LONGEST_NAME = 80
_HEAD = 2**16
"""Bytes that a form may have beside its file."""
_DISCARDED = 64 * MIB
"""Bytes behind the last that may be sent, which are read and forgotten."""


@dataclass(frozen=True)
class Form:
    """What came."""

    fields: tuple[tuple[str, str], ...]
    """Names without a [] behind them, and values, in their order."""
    path: Path
    """The recording, where other processes can open it."""
    name: str
    """What its client calls it, to be shown only."""


@asynccontextmanager
async def received(request: Request, settings: ServerSettings) -> AsyncIterator[Form]:
    """Receive a form with a recording, which is kept while the block runs.

    Args:
        request: whose body has not been read.
        settings: of the server.

    Raises:
        ApiError: it is no form or too large, has no file or several, or comes too
            slowly.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(
            415 if kind else 400,
            f"the request has {kind or 'no content type'}, not multipart/form-data "
            "(curl: --form file=@talk.mp3)",
        )
    parser = MultiPartParser(
        request.headers,
        _chunks(request, settings),
        max_files=1,
        max_fields=_MOST_FIELDS,
        max_part_size=_MOST_TEXT,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ApiError(400, f"the form cannot be read: {error.message}") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise ApiError(400, "the form has no file (name it `file`)", param="file")
        path = Path(f"/proc/{os.getpid()}/fd/{file.file.fileno()}")
        fields = tuple(
            (name.removesuffix("[]"), value)
            for name, value in form.multi_items()
            if isinstance(value, str)
        )
        yield Form(fields, path, _shown(file.filename))
    finally:
        await form.close()


def _shown(name: str | None) -> str:
    """Return what errors call a file: the end of the name that its client gave it."""
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    return one_line(last)[:_LONGEST_NAME] or "file"


async def _chunks(
    request: Request, settings: ServerSettings
) -> AsyncGenerator[bytes, None]:
    """Yield the body of a request as it comes.

    A body that is too large is read to its end, where that is near: many clients send
    all of it before they read an answer, and none where the connection is closed.

    Raises:
        ApiError: it is too large, or comes too slowly.
        ClientDisconnect: the client has gone.
    """
    most = settings.max_upload + _HEAD
    length = _length(request)
    waits = request.headers.get("expect", "").lower() == "100-continue"
    if length > most and (waits or length > most + _DISCARDED):
        raise _too_large(settings)
    number = 0
    async for chunk in _body(request, settings):
        number += len(chunk)
        if max(number, length) <= most:
            yield chunk
        elif number > most + _DISCARDED:
            break
    if max(number, length) > most:
        raise _too_large(settings)


def _length(request: Request) -> int:
    """Return how long a body is said to be; 0 where nothing is said."""
    length = request.headers.get("content-length", "0")
    return int(length[:20]) if length.isascii() and length.isdigit() else 0


async def _body(
    request: Request, settings: ServerSettings
) -> AsyncGenerator[bytes, None]:
    """Yield what comes, as long as it comes in time.

    Raises:
        ApiError: it comes too slowly.
        ClientDisconnect: the client has gone.
    """
    deadline = time.monotonic() + settings.upload_timeout
    while True:
        left = min(settings.idle_timeout, deadline - time.monotonic())
        try:
            async with asyncio.timeout(max(0.0, left)):
                message = await request.receive()
        except TimeoutError as error:
            raise ApiError(
                408,
                "the request came too slowly (at most "
                f"{settings.idle_timeout:g} s without a byte, and "
                f"{settings.upload_timeout:g} s for all)",
                code="request_timeout",
                headers={"Connection": "close"},
            ) from error
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _too_large(settings: ServerSettings) -> ApiError:
    return ApiError(
        413,
        f"the upload is larger than {settings.max_upload / MIB:g} MiB (send it in "
        "parts, or in a format that compresses, such as opus)",
        param="file",
        code="file_too_large",
        headers={"Connection": "close"},
    )
