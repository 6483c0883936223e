"""Connections of a server that runs in this process."""

import asyncio
import base64
import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
import websockets

from asr.errors import ConfigError
from asr.server import serving
from asr.server.realtime import MAX_AUDIO
from asr.server.settings import MIB, ServerSettings
from asr.transcript import Segment
from tests.server.fake_engine import FakeEngine, app

HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


class CountedEngine(FakeEngine):
    """What a server prints of its engine."""

    num_workers = 1
    is_ready = True


@asynccontextmanager
async def running(
    engine: FakeEngine | None = None, **settings: Any
) -> AsyncIterator[tuple[serving._Server, int]]:
    """Serve, give the server and its port, and stop."""
    limits = ServerSettings(port=0, **settings)
    server = serving._Server(app(engine or CountedEngine(), **settings), limits)
    with serving._bound(limits) as listening:
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            async with asyncio.timeout(60):
                yield server, listening.getsockname()[1]
        finally:
            server.should_exit = True
            await task


def used(use: Callable[[int], Awaitable[Any]], **settings: Any) -> Any:
    """Serve, call `use` with the port, and stop."""

    async def work() -> Any:
        async with running(**settings) as (_, port):
            return await use(port)

    return asyncio.run(work())


async def answer(reader: asyncio.StreamReader) -> bytes:
    """Read an answer without its body; nothing where the connection is closed."""
    head = b""
    while line := await reader.readline():
        head += line
        if line == b"\r\n":
            length = head.lower().partition(b"content-length: ")[2].split()[0]
            await reader.readexactly(int(length))
            break
    return head


def test_a_connection_in_use_stays_open() -> None:
    async def use(port: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        end, number = asyncio.get_running_loop().time() + 0.8, 0
        while asyncio.get_running_loop().time() < end:
            writer.write(HEAD + b"\r\n")
            assert await answer(reader), f"closed after {number} requests"
            number += 1
            await asyncio.sleep(0.05)
        writer.close()
        return number

    assert used(use, header_timeout=0.4) > 1


def test_a_later_head_has_a_time_limit_too() -> None:
    async def use(port: int) -> tuple[bytes, float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"\r\n")
        await answer(reader)
        await asyncio.sleep(0.3)
        began = asyncio.get_running_loop().time()
        writer.write(HEAD)
        rest = await reader.read()
        writer.close()
        return rest, asyncio.get_running_loop().time() - began

    rest, seconds = used(use, header_timeout=0.4)
    assert rest == b""
    assert seconds > 0.35  # of its own: not what the first has left


def test_the_longest_message_of_a_session_is_taken_and_none_is_unpacked() -> None:
    event = {"type": "other", "audio": "A" * (MAX_AUDIO * 4 // 3)}

    async def use(port: int) -> tuple[str, str]:
        address = f"ws://127.0.0.1:{port}/v1/realtime?intent=transcription"
        async with websockets.connect(address) as session:
            assert session.response is not None
            extensions = session.response.headers.get("Sec-WebSocket-Extensions", "")
            await session.send(json.dumps(event))
            while (found := json.loads(await session.recv())["type"]) != "error":
                pass
            return extensions, found

    assert used(use) == ("", "error")


UPGRADE = (
    b"GET /v1/realtime?intent=transcription HTTP/1.1\r\nHost: localhost\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)


async def opcode(reader: asyncio.StreamReader) -> int:
    """Read a frame of a WebSocket (RFC 6455, section 5.2); return what it is."""
    first, length = await reader.readexactly(2)
    if length == 126:
        length = int.from_bytes(await reader.readexactly(2), "big")
    await reader.readexactly(length)
    return first & 15


def test_a_session_goes_on_where_pings_are_not_answered() -> None:
    async def work() -> None:
        async with running() as (server, port):
            server.config.ws_ping_interval = 0.05
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            while await opcode(reader) != 9:  # the first ping
                pass
            assert [await opcode(reader) for _ in range(3)] == [9] * 3
            writer.close()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        *(("/health", 200), ("/ready", 200), ("/", 200), ("/v1/models", 200)),
        *(("/v1/models/fake", 200), ("/v1/models/other", 404), ("/nowhere", 404)),
        ("/v1/audio/transcriptions", 405),
    ],
)
def test_head_is_answered_as_get_without_its_content(path: str, expected: int) -> None:
    async def use(port: int) -> tuple[httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            return await client.head(path), await client.get(path)

    head, get = used(use)
    assert (head.status_code, head.content) == (expected, b"")
    assert head.headers["content-length"] == get.headers["content-length"] != "0"


def test_a_port_is_taken_before_the_model_is_loaded() -> None:
    with serving._bound(ServerSettings(port=0)) as one:
        port = one.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: cannot be listened"):
            serving._bound(ServerSettings(port=port))


def test_too_many_connections_are_asked_to_come_again() -> None:
    async def use(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = await answer(reader)
            writer.close()
            return head

    head = used(use, max_connections=1)
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in head


def test_who_is_refused_gets_the_reason_after_sending_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "_LINGER_SECONDS", 3600.0)

    async def use(port: int) -> tuple[bytes, bytes]:
        with socket.create_connection(("127.0.0.1", port)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(UPLOAD + bytes(MANY))
            await writer.drain()
            found = await answer(reader), await reader.read()
            await closed(writer)
            return found

    head, rest = used(use, max_connections=1)
    assert head.startswith(b"HTTP/1.1 503 ")
    assert rest == b""


def test_who_is_refused_and_stays_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_LINGER_SECONDS", 0.01)

    async def work() -> None:
        async with running() as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"no HTTP\r\n\r\n")
            assert (await answer(reader)).startswith(b"HTTP/1.1 400 ")
            while lingering_of(server):
                await asyncio.sleep(0.01)
            await closed(writer)

    asyncio.run(work())


def lingering_of(server: serving._Server) -> set[serving._Protocol]:
    protocol = server.config.http
    assert isinstance(protocol, type)
    assert issubclass(protocol, serving._Protocol)
    return protocol.lingering


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection, which the server may have done before."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


def test_who_was_refused_takes_no_place_and_few_of_them_linger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "_LINGERING", 2)
    monkeypatch.setattr(serving, "_LINGER_SECONDS", 3600.0)

    async def work() -> tuple[int, bytes]:
        async with running(max_connections=1) as (server, port):
            lingering = lingering_of(server)
            first = await asyncio.open_connection("127.0.0.1", port)
            refused = list[asyncio.StreamWriter]()
            for _ in range(4):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                assert await answer(reader)
                refused.append(writer)
            number = len(lingering)
            await closed(first[1])
            while server.server_state.connections:
                await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD + b"\r\n")
            head = await answer(reader)
            for one in (writer, *refused):
                await closed(one)
            while lingering:
                await asyncio.sleep(0.01)
            return number, head

    number, head = asyncio.run(work())
    assert number == 2
    assert head.startswith(b"HTTP/1.1 200 ")


# Uploads that are too large

UPLOAD = (
    b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n"
)
MANY = 16 * MIB
"""Bytes: more than sockets hold that are not read."""


def refusal(*parts: bytes) -> bytes:
    """Send all of a request before anything is read; return the head of the answer."""

    async def use(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for part in (UPLOAD, *parts):
            writer.write(part)
        await writer.drain()
        head = await answer(reader)
        writer.close()
        return head

    found: bytes = used(use, max_upload=MIB)
    return found


def test_a_client_that_sends_all_before_it_reads_gets_the_reason() -> None:
    head = b"Content-Length: %d\r\n\r\n" % MANY
    assert refusal(head, bytes(MANY)).startswith(b"HTTP/1.1 413 ")


def test_a_length_that_is_not_said_is_counted() -> None:
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (form, bytes(MANY), b"")]
    found = refusal(b"Transfer-Encoding: chunked\r\n\r\n", *chunks)
    assert found.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "head",
    [b"Expect: 100-continue\r\nContent-Length: 2000000", b"Content-Length: 99999999"],
)
def test_what_need_not_be_sent_is_not_waited_for(head: bytes) -> None:
    assert refusal(head + b"\r\n\r\n").startswith(b"HTTP/1.1 413 ")


# Shutting down


class HeldEngine(CountedEngine):
    """Reads nothing until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_read = asyncio.Event()

    async def recognize(self, *given: Any, **more: Any) -> Segment:
        await self.may_read.wait()
        return await super().recognize(*given, **more)


@asynccontextmanager
async def session(port: int) -> AsyncIterator[websockets.ClientConnection]:
    """Begin a session whose first turn is committed, and whose second is open."""
    address = f"ws://127.0.0.1:{port}/v1/realtime?intent=transcription"
    audio = base64.b64encode(b"\0\x20" * 24_000).decode()
    append = {"type": "input_audio_buffer.append", "audio": audio}
    transcription = {"type": "transcription", "audio": {"input": UNDETECTED}}
    update = {"type": "session.update", "session": transcription}
    async with websockets.connect(address) as connection:
        for event in (update, append, {"type": COMMIT}, append, update):
            await connection.send(json.dumps(event))
        for _ in range(2):  # the answer to the second is behind all that was sent
            await until(connection, "session.updated")
        yield connection


COMMIT = "input_audio_buffer.commit"
UNDETECTED = {"turn_detection": None}


async def until(connection: websockets.ClientConnection, kind: str) -> None:
    while json.loads(await connection.recv())["type"] != kind:
        pass


async def statuses(port: int) -> list[int]:
    """Ask what a server takes that shuts down."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        found = [await client.get("/health"), await client.get("/ready")]
        file = {"file": b"talk"}
        found.append(await client.post("/v1/audio/transcriptions", files=file))
    address = f"ws://127.0.0.1:{port}/v1/realtime"
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(address)
    return [*(one.status_code for one in found), refused.value.response.status_code]


def test_sessions_get_their_texts_before_the_server_ends() -> None:
    async def work() -> tuple[list[int], list[dict[str, Any]], int]:
        engine = HeldEngine()
        async with running(engine) as (server, port), session(port) as client:
            server.should_exit = True
            await server._app.state.draining.wait()
            found = await statuses(port)
            await client.send(json.dumps({"type": COMMIT}))  # too late
            engine.may_read.set()
            events = list[dict[str, Any]]()
            with suppress(websockets.ConnectionClosed):
                while True:
                    events.append(json.loads(await client.recv()))
            return found, events, client.close_code or 0

    found, events, code = asyncio.run(work())
    assert found == [200, 503, 503, 503]
    texts = [event["transcript"] for event in events if "transcript" in event]
    assert texts == ["ONE TWO"] * 2
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["code"] == "server_shutdown"
    assert [event["type"] for event in events].count("error") == 1
    assert code == 1012


@pytest.mark.parametrize("reason", ["time", "signal", "client"])
def test_nothing_is_waited_for_longer_than_it_may(reason: str) -> None:
    seconds = 0.2 if reason == "time" else 3600.0

    async def work() -> None:
        async with (
            running(HeldEngine(), drain_timeout=seconds) as (server, port),
            session(port) as client,
        ):
            server.handle_exit(signal.SIGTERM, None)
            await server._app.state.draining.wait()
            if reason == "signal":
                server.handle_exit(signal.SIGINT, None)
            if reason == "client":
                await client.close()
            while server.server_state.connections:
                await asyncio.sleep(0.01)

    asyncio.run(work())
