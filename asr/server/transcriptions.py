"""`POST /v1/audio/transcriptions` and `GET /v1/models`, as OpenAI has them."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import lru_cache
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from asr.errors import AsrError, ConfigError
from asr.server.access import require_key
from asr.server.engine import Engine
from asr.server.errors import ApiError, api_error, shutdown_error
from asr.server.request_options import (
    FORMATS,
    LONGEST_WORD,
    RequestOptions,
    check_address,
    check_model,
    read_options,
)
from asr.server.responses import END, event, response, usage
from asr.server.settings import ServerSettings
from asr.server.uploads import Form, received
from asr.transcript import Segment, Transcript

ALIAS = "whisper-1"
"""The name that many clients have written into them: the model that is here."""
_BEGAN = int(time.time())
_CLIENT_GONE = 499
"""Status of a request that nobody waits for any more; it is for the log only."""
_WORD = re.compile(r"[^\W\d_][\w'-]*")
_MOST_NAMES = 100
"""Hot words that a prompt can give."""

LOGGER = logging.getLogger("asr.server")

Result = TypeVar("Result")

router = APIRouter(prefix="/v1", dependencies=[Depends(require_key)])


def _text(about: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": about, **more}


def _list(about: str) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string"}, "description": about}


_FIELDS = {
    "file": _text("the recording, of any length and format", format="binary"),
    "model": _text("of GET /v1/models, or whisper-1"),
    "language": _text("that of the model; others are refused"),
    "prompt": _text("words in it that the language model lacks become hot words"),
    "hotwords": _list("words and phrases to favour; with commas, or several"),
    "keywords": _list("the same"),
    "temperature": {"type": "number", "description": "0"},
    "response_format": _text("of the response", enum=list(FORMATS)),
    "timestamp_granularities[]": _list("word, segment or both, for verbose_json"),
    "stream": {"type": "boolean", "description": "send text as it is found"},
    "chunking_strategy": _text("auto"),
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": _FIELDS,
                }
            }
        },
    }
}


@router.get("/models", summary="List the models")
async def list_models(request: Request) -> dict[str, Any]:
    """Return the model that is here, under each of its names."""
    models = [_model(name) for name in _names(request.app.state.engine)]
    return {"object": "list", "data": models}


@router.get("/models/{name:path}", summary="Look a model up")
async def get_model(request: Request, name: str) -> dict[str, Any]:
    """Return a model."""
    check_model(name, _names(request.app.state.engine))
    return _model(name)


def _names(engine: Engine) -> list[str]:
    return [engine.model, ALIAS]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _BEGAN, "owned_by": "asr"}


@router.post("/audio/translations", summary="Refused: nothing is translated here")
async def translate() -> None:
    """Refuse to translate."""
    raise ApiError(
        400,
        "translation is not possible (use /v1/audio/transcriptions)",
        code="unsupported_value",
    )


@router.post(
    "/audio/transcriptions", summary="Transcribe a recording", openapi_extra=_BODY
)
async def transcribe(request: Request) -> Response:
    """Transcribe a recording of any length."""
    engine: Engine = request.app.state.engine
    settings: ServerSettings = request.app.state.settings
    check_address(request.query_params)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(place(request))
        form = await stack.enter_async_context(received_form(request, settings))
        options = read_options(form.fields, _names(engine), settings.language)
        if options.stream:
            events = _Events(engine, form, options)
            await until_gone(request, events.begin())
            return _Stream(events, stack.pop_all(), settings.idle_timeout)
        transcript = await until_gone(request, _transcript(engine, form, options))
        return response(transcript, options, settings.language)


@asynccontextmanager
async def place(request: Request) -> AsyncIterator[None]:
    """Take a place among the requests that are received or transcribed.

    Raises:
        ApiError: the server shuts down.
        OverloadError: there is none left.
    """
    state = request.app.state
    if state.draining.is_set():
        raise shutdown_error()
    open_requests: set[Request] = state.open_requests
    if error := state.engine.overload(len(open_requests)):
        raise error
    open_requests.add(request)
    try:
        yield
    finally:
        open_requests.discard(request)


@asynccontextmanager
async def received_form(
    request: Request, settings: ServerSettings
) -> AsyncIterator[Form]:
    """Receive the form of a recording; see `uploads.received`.

    Raises:
        ApiError: it cannot be received, or its client has gone.
    """
    try:
        async with received(request, settings) as form:
            yield form
    except ClientDisconnect as error:
        raise _gone() from error


async def _transcript(
    engine: Engine, form: Form, options: RequestOptions, on_segment: Any = None
) -> Transcript:
    hotwords = (*options.hotwords, *names_in(options.prompt, engine.words))
    try:
        return await engine.transcribe(
            form.path,
            name=form.name,
            hotwords=tuple(dict.fromkeys(hotwords)),
            on_segment=on_segment,
        )
    except ConfigError as error:
        raise ApiError(
            400, str(error), param="hotwords", code="invalid_value"
        ) from error


def names_in(prompt: str, known: frozenset[str]) -> tuple[str, ...]:
    """Return the words of a prompt that a language model does not know.

    Those are what a prompt is most often given for: names and terms. The others would
    only be favoured over words that sound like them.

    Args:
        prompt: a text, or a list of words.
        known: words of the language model; without any, nothing is returned.
    """
    letters = _letters(known)
    found = [
        word
        for word in _WORD.findall(
            prompt.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
        )
        if len(word) <= LONGEST_WORD
        and known.isdisjoint((word, word.upper(), word.lower()))
        and letters & {*word, *word.upper(), *word.lower()}
    ]
    return tuple(dict.fromkeys(found))[:_MOST_NAMES]


@lru_cache(maxsize=4)
def _letters(words: frozenset[str]) -> frozenset[str]:
    return frozenset("".join(words)) - {"'"}


async def until_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Wait for work, and cancel it where its client goes away.

    Args:
        request: whose body has been read.
        work: for it.

    Raises:
        ApiError: the client has gone.
        Exception: what the work raises.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _gone()
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _gone() -> ApiError:
    return ApiError(_CLIENT_GONE, "the client has gone", code="client_gone")


class _Events:
    """What is sent of a transcription while it goes on."""

    def __init__(self, engine: Engine, form: Form, options: RequestOptions) -> None:
        self._engine, self._form, self._options = engine, form, options
        self._deltas = asyncio.Queue[str | None](1)
        self._first: str | None = None
        self._task: asyncio.Task[Transcript] | None = None

    async def begin(self) -> None:
        """Wait for the first text, or the end.

        Raises:
            AsrError: the recording cannot be read.
            ApiError: a hot word is impossible.
        """
        self._task = asyncio.create_task(self._transcribe())
        try:
            self._first = await self._deltas.get()
            if self._first is None:
                await self._task  # what went wrong is answered as usual
        except BaseException:
            await self.close()
            raise

    async def _transcribe(self) -> Transcript:
        try:
            return await _transcript(
                self._engine, self._form, self._options, self._take
            )
        finally:
            if not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                await self._deltas.put(None)

    async def _take(self, segment: Segment) -> None:
        if text := " ".join(segment.text.split()):
            await self._deltas.put(text)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield events."""
        assert self._task is not None
        delta, space = self._first, ""
        while delta is not None:
            text = space + delta
            yield event({"type": "transcript.text.delta", "delta": text})
            delta, space = await self._deltas.get(), " "
        try:
            transcript = await self._task
        except Exception as error:
            if not isinstance(error, (ApiError, AsrError)):
                LOGGER.exception("a transcription failed")
            yield event({"error": api_error(error).to_dict()})
            return
        yield event(
            {
                "type": "transcript.text.done",
                "text": transcript.text,
                "usage": usage(transcript),
            }
        )
        yield END

    async def close(self) -> None:
        """Stop the work, if it goes on."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class _Stream(Response):
    """Sends events, until the client goes away or does not read any more."""

    def __init__(self, events: _Events, stack: AsyncExitStack, patience: float) -> None:
        super().__init__(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",  # nginx sends each event at once
            }
        )
        del self.headers["content-length"]
        self._events, self._stack, self._patience = events, stack, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events."""
        request = Request(scope, receive)
        async with self._stack:
            try:
                await until_gone(request, self._send_all(send))
            except (ApiError, TimeoutError):
                return  # nobody reads
            finally:
                await self._events.close()

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": self.raw_headers})
        body: dict[str, Any] = {"type": "http.response.body"}
        async for content in self._events:
            async with asyncio.timeout(self._patience):
                await send({**body, "body": content, "more_body": True})
        await send({**body, "body": b"", "more_body": False})
