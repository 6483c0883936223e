"""`WS /v1/realtime?intent=transcription`: live transcription, as OpenAI's API has it.

A client sends audio in `input_audio_buffer.append`; turns end at pauses, or by its
`input_audio_buffer.commit` where turn detection is off. What is final comes in
`conversation.item.input_audio_transcription.delta`, which clients append to what they
have, and whole in `….completed`. Words that may still change come in an event of our
own, `asr.provisional`, which replaces the one before it; other clients ignore it.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from asr.errors import AsrError, ConfigError
from asr.inference.live import (
    DRAFT_BEAM,
    Event,
    Final,
    LiveTranscriber,
    Provisional,
    Reading,
    SpeechStarted,
    SpeechStopped,
    TurnEnded,
    Unread,
)
from asr.server.access import authorized
from asr.server.engine import Engine
from asr.server.errors import (
    ApiError,
    OverloadError,
    api_error,
    error_response,
    shutdown_error,
)
from asr.server.realtime_settings import KEYWORDS, SessionSettings
from asr.server.request_options import check_model
from asr.server.settings import ServerSettings
from asr.server.transcriptions import ALIAS, names_in
from asr.transcript import Segment, Word

LOGGER = logging.getLogger("asr.server")

SESSION_SECONDS = 24 * 3600
"""How long a session may last."""
SILENT_SECONDS = 600.0
"""Without any message, after which a session ends."""
UNREAD_SECONDS = 30.0
"""Of audio that wait to be recognised: no more is received meanwhile."""
MAX_AUDIO = 15 * 2**20
"""Bytes of audio in a message, as in OpenAI's API."""
MAX_EVENTS = 1_000
"""That wait for a client that reads slowly."""
MAX_MESSAGE = MAX_AUDIO * 4 // 3 + 2**16
"""Bytes of a message: audio in base64, and what is around it."""
_RETRY_SECONDS = 10
"""Until a client may try again where there are too many sessions."""
_TRIES = 3
"""For a final reading, where the server is busy."""
_PREFIX = "conversation.item.input_audio_transcription"

router = APIRouter(prefix="/v1")


@router.websocket("/realtime")
async def realtime(websocket: WebSocket) -> None:
    """Transcribe what a client sends, while it sends it."""
    state = websocket.app.state
    engine: Engine = state.engine
    limits: ServerSettings = state.settings
    try:
        _check(websocket, engine, limits)
        if state.draining.is_set():
            raise shutdown_error()
        if error := engine.overload():
            raise error
        if len(state.open_sessions) >= limits.max_sessions:
            raise OverloadError(_RETRY_SECONDS)
    except (ApiError, OverloadError) as error:
        await websocket.send_denial_response(error_response(error))
        return
    state.open_sessions.add(websocket)
    try:
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept("realtime" if "realtime" in offered else None)
        is_beta = "realtime=v1" in websocket.headers.get("openai-beta", "")
        await _Session(websocket, engine, limits, is_beta, state.draining).run()
    finally:
        state.open_sessions.discard(websocket)


def _check(websocket: WebSocket, engine: Engine, limits: ServerSettings) -> None:
    """Refuse a client, before anything is received.

    Raises:
        ApiError: it has no key, or wants what is not here.
    """
    if not authorized(websocket.headers, limits.api_key):
        raise ApiError(
            401,
            "the API key is missing or wrong (send it as: Authorization: Bearer KEY, "
            "or from a browser as the subprotocol openai-insecure-api-key.KEY)",
            code="invalid_api_key",
        )
    intent = websocket.query_params.get("intent", "transcription")
    if intent != "transcription":
        raise ApiError(
            400,
            f"intent {intent!r:.40} is not offered (use transcription)",
            param="intent",
            code="unsupported_value",
        )
    check_model(websocket.query_params.get("model", ""), (engine.model, ALIAS))


@dataclass
class _Item:
    """What clients know of a turn."""

    id: str
    is_committed: bool = False
    has_failed: bool = False
    segments: list[Segment] = field(default_factory=list)


class _EndedError(Exception):
    """The session ends, for a reason that its client is sent.

    Args:
        error: the reason.
        close_code: of the WebSocket.
    """

    def __init__(self, error: ApiError, close_code: int = 1008) -> None:
        super().__init__(error.message)
        self.error, self.close_code = error, close_code


class _Session:
    """One connection: it receives, has readings done, and sends, side by side."""

    def __init__(
        self,
        websocket: WebSocket,
        engine: Engine,
        limits: ServerSettings,
        is_beta: bool,
        draining: asyncio.Event,
    ) -> None:
        self._websocket, self._engine, self._limits = websocket, engine, limits
        self._is_beta, self._draining = is_beta, draining
        names = (engine.model, ALIAS)
        self._settings = SessionSettings(engine.model, limits.language, names)
        self._stream = self._settings.stream()
        self._live = LiveTranscriber(self._settings.live)
        self._items = dict[int, _Item]()
        self._previous: str | None = None
        self._events = asyncio.Queue[dict[str, Any]](MAX_EVENTS)
        self._new_work, self._was_read = asyncio.Event(), asyncio.Event()
        self._id = f"sess_{uuid4().hex}"
        self._expires_at = int(time.time()) + SESSION_SECONDS
        self._error: ApiError | None = None
        self._draft: asyncio.Task[Segment] | None = None

    async def run(self) -> None:
        """Serve the client until it goes, or the session ends."""
        kind = "transcription_session" if self._is_beta else "session"
        self._put(f"{kind}.created", session=self._session(flat=self._is_beta))
        work = [self._receive(), self._read(), self._send(), self._leave()]
        tasks = [asyncio.ensure_future(one) for one in work]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
        await self._close([one for one in found if isinstance(one, Exception)])

    async def _close(self, errors: Sequence[Exception]) -> None:
        """Close the connection, where the client has not."""
        for error in errors:
            if isinstance(error, WebSocketDisconnect | TimeoutError):
                return
            if not isinstance(error, _EndedError):
                LOGGER.error("a live session failed", exc_info=error)
        if not errors:
            return
        found = errors[0]
        if not isinstance(found, _EndedError):
            found = _EndedError(api_error(found), 1011)
        try:
            async with asyncio.timeout(1.0):
                error = found.error
                event = {"type": "error", "event_id": _id(), "error": error.to_dict()}
                await self._websocket.send_text(json.dumps(event))
                await self._websocket.close(found.close_code, error.message[:80])
        except (WebSocketDisconnect, TimeoutError, RuntimeError):
            pass  # it has gone, or does not read

    # What the client sends

    async def _receive(self) -> None:
        while True:
            try:
                left = self._expires_at - time.time()
                async with asyncio.timeout(min(SILENT_SECONDS, max(0.0, left))):
                    message = await self._websocket.receive()
            except TimeoutError:
                raise _EndedError(
                    ApiError(400, "the session has ended", code="session_expired")
                ) from None
            if message["type"] == "websocket.disconnect":
                return
            if not self._draining.is_set():
                await self._take(message.get("text"))

    async def _leave(self) -> None:
        """End the session in order when the server shuts down.

        What has come by then is recognised and sent; what comes later is not taken.

        Raises:
            _EndedError: all is sent.
        """
        await self._draining.wait()
        with contextlib.suppress(ApiError):  # no turn is open
            self._commit()
        while self._items:
            await self._next_reading()
        await self._events.join()
        raise _EndedError(shutdown_error(), 1012)

    async def _take(self, text: str | None) -> None:
        """Do what a message asks for, or report what is wrong with it."""
        event_id = None
        try:
            event = _parsed(text)
            given = event.get("event_id")
            event_id = given if isinstance(given, str) else None
            kind = event.get("type")
            if kind in ("session.update", "transcription_session.update"):
                self._update(event, flat=kind == "transcription_session.update")
            elif kind == "input_audio_buffer.append":
                await self._append(_audio(event))
            elif kind == "input_audio_buffer.commit":
                self._commit()
            elif kind == "input_audio_buffer.clear":
                self._clear()
            else:
                raise ApiError(
                    400,
                    f"event {kind!r:.80} is not known in a transcription session",
                    param="type",
                    code="unknown_event",
                )
        except ApiError as error:
            self._put("error", error={**error.to_dict(), "event_id": event_id})

    def _update(self, event: dict[str, Any], flat: bool) -> None:
        before, after = self._settings, self._settings.updated(event.get("session"))
        self._check_keywords(after.keywords)
        if after.format != before.format:
            self._report(self._live.feed(self._stream.end()))
            self._stream = after.stream()
        if after.live != self._live.config:
            if self._live.turn is not None:
                self._end_turn()
            self._report(self._live.configure(after.live))
        self._settings = after
        prompted = names_in(after.prompt, self._engine.words)
        self._live.hotwords = tuple(dict.fromkeys((*after.keywords, *prompted)))
        kind = "transcription_session" if flat else "session"
        self._put(f"{kind}.updated", session=self._session(flat))

    def _check_keywords(self, keywords: Sequence[str]) -> None:
        """Refuse what every turn would fail with.

        Raises:
            ApiError: one has no letter that the model writes.
        """
        try:
            self._engine.check_hotwords(keywords)
        except ConfigError as error:
            raise ApiError(
                400, str(error), param=KEYWORDS, code="invalid_value"
            ) from error

    def _session(self, flat: bool) -> dict[str, Any]:
        form = self._settings.to_flat_dict if flat else self._settings.to_dict
        return form(self._id, self._expires_at)

    async def _append(self, audio: bytes) -> None:
        """Take audio, a second at a time: there are other sessions."""
        size = self._settings.bytes_per_second
        for start in range(0, len(audio), size):
            while self._live.unread_seconds > UNREAD_SECONDS:
                await self._next_reading()
            if self._draining.is_set():
                return
            self._report(
                self._live.feed(self._stream.feed(audio[start : start + size]))
            )
            await asyncio.sleep(0)

    def _commit(self) -> None:
        self._report(self._live.feed(self._stream.end()))
        self._end_turn()

    def _end_turn(self) -> None:
        """End the turn for the client.

        Raises:
            ApiError: there is none.
        """
        turn = self._live.turn
        events = self._live.commit()
        starts = [event for event in events if isinstance(event, SpeechStarted)]
        self._report(starts)
        if turn is None and not starts:
            raise ApiError(
                400,
                "the buffer holds no speech that has not been committed",
                code="input_audio_buffer_commit_empty",
            )
        self._committed(self._item(starts[0].turn if turn is None else turn))
        self._report(event for event in events if event not in starts)

    def _clear(self) -> None:
        self._stream.end()
        turn = self._live.turn
        events = self._live.clear()
        self._put("input_audio_buffer.cleared")
        self._report(events)  # may complete the turn, with the text that it has
        if turn is not None and not self._live.has_turn(turn):
            self._items.pop(turn, None)

    # What is recognised

    async def _read(self) -> None:
        while True:
            reading = self._live.next_reading()
            if reading is None:
                self._new_work.clear()
                await self._new_work.wait()
                continue
            task = asyncio.create_task(self._segment(reading))
            self._draft = None if reading.is_final else task
            try:
                events = self._live.done(await task)
            except AsrError as error:
                self._error = api_error(error)
                events = self._live.failed()
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
                events = self._live.failed()  # a piece has ended, and is wanted more
            self._draft = None
            self._report(events)
            self._was_read.set()

    async def _next_reading(self) -> None:
        """Wait until one more reading is done."""
        self._was_read.clear()
        await self._was_read.wait()

    async def _segment(self, reading: Reading) -> Segment:
        """Recognise; a final reading is tried again where the server is busy."""
        hotwords, waveform = reading.hotwords, reading.waveform.numpy()
        if not reading.is_final:
            return await self._engine.recognize(
                waveform, hotwords=hotwords, beam_size=DRAFT_BEAM
            )
        for _ in range(_TRIES - 1):
            try:
                return await self._engine.recognize(waveform, hotwords=hotwords)
            except OverloadError as error:
                await asyncio.sleep(error.retry_after)
        return await self._engine.recognize(waveform, hotwords=hotwords)

    # What the client is sent

    def _report(self, events: Iterable[Event]) -> None:
        for event in events:
            item = self._item(event.turn)
            if isinstance(event, SpeechStarted):
                self._speech("started", item, audio_start_ms=round(event.start * 1000))
            elif isinstance(event, SpeechStopped):
                self._speech("stopped", item, audio_end_ms=round(event.end * 1000))
                self._committed(item)
            elif isinstance(event, Provisional):
                text, words = _text(event.words), _words(event.words)
                self._put("asr.provisional", item_id=item.id, text=text, words=words)
            elif isinstance(event, Final):
                space = " " if item.segments else ""
                item.segments.append(event.segment)
                self._transcription("delta", item, delta=space + event.segment.text)
            elif isinstance(event, Unread):
                self._failed(item)
            else:
                self._completed(event, item)
        self._new_work.set()
        if self._draft and self._live.unread_seconds:
            self._draft.cancel()

    def _speech(self, what: str, item: _Item, **fields: int) -> None:
        self._put(f"input_audio_buffer.speech_{what}", item_id=item.id, **fields)

    def _committed(self, item: _Item) -> None:
        if item.is_committed:
            return
        item.is_committed = True
        before, self._previous = self._previous, item.id
        self._put(
            "input_audio_buffer.committed", item_id=item.id, previous_item_id=before
        )
        content = [{"type": "input_audio", "transcript": None}]
        message = {
            "id": item.id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": content,
        }
        for kind in ("created",) if self._is_beta else ("added", "done"):
            name = f"conversation.item.{kind}"
            self._put(name, item=message, previous_item_id=before)

    def _failed(self, item: _Item) -> None:
        item.has_failed = True
        assert self._error is not None
        self._committed(item)
        self._transcription("failed", item, error=self._error.to_dict())

    def _completed(self, ended: TurnEnded, item: _Item) -> None:
        self._committed(item)
        del self._items[ended.turn]
        if item.has_failed:
            return
        words = [word for segment in item.segments for word in segment.words]
        self._transcription(
            "completed",
            item,
            transcript=" ".join(segment.text for segment in item.segments),
            usage={"type": "duration", "seconds": round(ended.seconds, 3)},
            words=_words(words),
        )

    def _transcription(self, kind: str, item: _Item, **fields: Any) -> None:
        self._put(f"{_PREFIX}.{kind}", item_id=item.id, content_index=0, **fields)

    def _item(self, turn: int) -> _Item:
        return self._items.setdefault(turn, _Item(f"item_{self._id[5:17]}_{turn}"))

    def _put(self, kind: str, **fields: Any) -> None:
        """Have an event sent.

        Raises:
            _EndedError: too many wait.
        """
        try:
            self._events.put_nowait({"type": kind, "event_id": _id(), **fields})
        except asyncio.QueueFull:
            error = ApiError(400, "the client reads too slowly", code="too_slow")
            raise _EndedError(error) from None

    async def _send(self) -> None:
        while True:
            event = await self._events.get()
            async with asyncio.timeout(self._limits.idle_timeout):
                await self._websocket.send_text(json.dumps(event))
            self._events.task_done()


def _is_cancelled() -> bool:
    """Return whether it is this task that is to end, not one that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _id() -> str:
    return f"event_{uuid4().hex[:20]}"


def _parsed(text: str | None) -> dict[str, Any]:
    """Read a message.

    Raises:
        ApiError: it is no event.
    """
    try:
        event = json.loads(text or "")
    except (ValueError, RecursionError) as error:
        raise ApiError(
            400, f"not an event in JSON ({error!s:.80})", code="invalid_json"
        ) from error
    if not isinstance(event, dict):
        raise ApiError(400, "not an event: no object", code="invalid_json")
    return event


def _audio(event: dict[str, Any]) -> bytes:
    """Decode the audio of an event.

    Raises:
        ApiError: there is none, or too much.
    """
    content = event.get("audio")
    wrong = "audio must be in base64"
    if not isinstance(content, str):
        raise ApiError(400, wrong, param="audio", code="invalid_value")
    if len(content) > MAX_AUDIO * 4 // 3 + 4:
        raise ApiError(
            400,
            f"audio is more than {MAX_AUDIO // 2**20} MiB (send it in parts)",
            param="audio",
            code="message_too_large",
        )
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, wrong, param="audio", code="invalid_value") from error


def _text(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)


def _words(words: Sequence[Word]) -> list[dict[str, Any]]:
    return [
        {
            "word": word.text,
            "start": round(word.start, 3),
            "end": round(word.end, 3),
            "confidence": round(word.confidence, 3),
        }
        for word in words
    ]
