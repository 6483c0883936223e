"""A server process: it listens, finishes what is running when it is stopped, and ends.

uvicorn speaks HTTP. What it lacks is here: a limit on the time that the head of a
request may take, and on the connections that are open.
"""

import asyncio
import contextlib
import json
import logging
import resource
import signal
import socket
import sys
import time
from typing import Any, ClassVar

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from asr.errors import ConfigError
from asr.inference.recognizer_settings import RecognizerSettings
from asr.server.app import create_app
from asr.server.engine import Engine
from asr.server.errors import ApiError
from asr.server.realtime import MAX_MESSAGE
from asr.server.settings import ServerSettings

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_FILES = 512
"""Files that are open beside connections."""
_WAITING = 2048
"""Connections that wait to be accepted."""
_LINGERING = 256
"""Connections that were refused, and whose clients may still read the answer."""
_LINGER_SECONDS = 1.0
_RETRY_AFTER = {"Retry-After": "1"}
_MOMENT = 0.1
"""Seconds after which it is looked again whether all sessions have ended."""


def serve(
    recognizer: RecognizerSettings,
    settings: ServerSettings,
    processes: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT comes, finish what is running, and return.

    A second SIGINT does not wait for what is running.

    Args:
        recognizer: what workers load.
        settings: of the server.
        processes: how many workers; None for one a core, or one alone on a GPU.

    Raises:
        AsrError: the address cannot be listened on, or the model not be loaded.
    """
    recognizer.check()
    _log_to_stderr()
    with _bound(settings) as listening:
        _allow_files(settings.max_connections + _LINGERING + _FILES)
        asyncio.run(
            _serve(Engine(recognizer, settings, processes), settings, listening)
        )


async def _serve(
    engine: Engine, settings: ServerSettings, listening: socket.socket
) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in _STOPPING:
        loop.add_signal_handler(number, task.cancel)
    try:
        async with engine:
            server = _Server(create_app(engine, settings), settings)
            for number in _STOPPING:
                loop.add_signal_handler(number, server.handle_exit, number, None)
            await server.serve(sockets=[listening])
    except asyncio.CancelledError:  # stopped before it began
        return
    finally:
        for number in _STOPPING:
            loop.remove_signal_handler(number)


def _log_to_stderr() -> None:
    """Have requests and errors logged, a line each, with the time."""
    logging.basicConfig(
        level=logging.INFO, format="asr: %(asctime)s %(message)s", stream=sys.stderr
    )


class _Server(uvicorn.Server):
    """A server that leaves signals to whoever runs it, and says where it listens."""

    def __init__(self, app: FastAPI, settings: ServerSettings) -> None:
        class Protocol(_Protocol):
            limits = settings
            lingering: ClassVar[set[_Protocol]] = set()

        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                lifespan="off",
                log_config=None,
                server_header=False,
                ws_max_size=MAX_MESSAGE,
                ws_per_message_deflate=False,  # little could become very much
                # a client's pong waits, unread, where its audio does
                ws_ping_timeout=None,
                backlog=_WAITING,
            )
        )
        self._app = app

    def capture_signals(self) -> Any:
        """Leave signals alone."""
        return contextlib.nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and print where."""
        await super().startup(sockets)
        assert sockets is not None
        engine: Engine = self._app.state.engine
        print(
            f"asr: serving {engine.model} on {_address(sockets[0])} (workers: "
            f"{engine.num_workers}; Ctrl-C stops)",
            file=sys.stderr,
            flush=True,
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is running: live sessions first, while others are refused."""
        state = self._app.state
        state.draining.set()
        end = time.monotonic() + state.settings.drain_timeout
        while self._has_sessions and not self.force_exit and time.monotonic() < end:
            await asyncio.sleep(_MOMENT)
        left = max(1, round(end - time.monotonic()))
        self.config.timeout_graceful_shutdown = left
        await super().shutdown(sockets)

    @property
    def _has_sessions(self) -> bool:
        """Whether a WebSocket is open; one is until its client has read all."""
        connections = self.server_state.connections
        return any(not isinstance(one, _Protocol) for one in connections)


class _Protocol(H11Protocol):
    """A connection with limits."""

    limits: ServerSettings
    lingering: "ClassVar[set[_Protocol]]"
    """Those that were refused, and are not closed yet."""
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Take a connection, or refuse it where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            error = ApiError(
                *(503, "too many connections (try again in 1 s)"),
                code="server_busy",
                headers=_RETRY_AFTER,
            )
            self._refuse(error)
            return
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a client that was refused are forgotten."""
        if self in self.lingering:
            return
        super().data_received(data)
        if not self._has_no_request:
            self._forget_timer()
        elif self._head_timer is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._forget_timer()
        self.lingering.discard(self)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(ApiError(400, msg))

    @property
    def _has_no_request(self) -> bool:
        """Whether the head of a request is still to come."""
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        timeout = self.limits.header_timeout
        self._head_timer = self.loop.call_later(timeout, self._end_without_head)

    def _forget_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_without_head(self) -> None:
        self._head_timer = None
        has_changed = self.transport.get_protocol() is not self  # it is a WebSocket
        if self._has_no_request and not has_changed:
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Answer without an application, and close.

        A client may still be sending, and would lose the answer if the connection were
        closed before it has read that: so nothing more is sent, and it may close.
        """
        content = json.dumps({"error": error.to_dict()}).encode()
        phrase = {400: "Bad Request", 503: "Service Unavailable"}[error.status]
        more = "".join(f"{name}: {value}\r\n" for name, value in error.headers.items())
        head = (
            f"HTTP/1.1 {error.status} {phrase}\r\nContent-Type: application/json\r\n"
            f"{more}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        if len(self.lingering) >= _LINGERING or not self._has_no_request:
            self.transport.close()
            return
        self.connections.discard(self)
        self.lingering.add(self)
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)


def _bound(settings: ServerSettings) -> socket.socket:
    """Return a socket that listens; who connects waits until the server has begun.

    Two sockets may be bound to an address, but only one can listen on it.

    Raises:
        ConfigError: the address is not to be had.
    """
    host, port = settings.host, settings.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(_WAITING)
        except OSError:
            found.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"{host}:{port}: cannot be listened on ({error.strerror}; give another "
            "--host or --port)"
        ) from error
    return found


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _allow_files(number: int) -> None:
    """Let this process have so many files open, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        number = min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
