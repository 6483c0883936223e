"""The application: an engine behind HTTP."""

import asyncio

from fastapi import FastAPI, Request, WebSocket
from starlette.types import ASGIApp, Receive, Scope, Send

from asr.server import health, page, realtime, transcriptions
from asr.server.access import OwnPagesOnly
from asr.server.engine import Engine
from asr.server.errors import add_error_handlers
from asr.server.settings import ServerSettings
from asr.version import version


def create_app(engine: Engine, settings: ServerSettings) -> FastAPI:
    """Make the application.

    Args:
        engine: recognises; has been started before the first request.
        settings: of the server.
    """

    app = FastAPI(
        title="asr",
        version=version(),
        summary="Speech recognition behind OpenAI's audio API",
        docs_url=None,  # FastAPI's own page loads scripts from a network
        redoc_url=None,
    )
    app.state.engine, app.state.settings = engine, settings
    app.state.open_requests = set[Request]()
    app.state.open_sessions = set[WebSocket]()
    app.state.sounds = asyncio.Semaphore(page.MOST_SOUNDS)
    app.state.draining = asyncio.Event()  # set when the server shuts down
    add_error_handlers(app)
    app.add_middleware(OwnPagesOnly, hosts=settings.trusted_hosts)
    app.state.metrics = health.Metrics(engine)
    app.add_middleware(health.Counted, metrics=app.state.metrics)
    app.include_router(transcriptions.router)
    app.include_router(realtime.router)
    app.include_router(health.router)
    app.include_router(page.router)
    app.add_middleware(_HeadAsGet)
    return app


class _HeadAsGet:
    """Has HEAD answered as GET (RFC 9110, 9.3.2); uvicorn leaves the content out.

    Args:
        app: what is behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
