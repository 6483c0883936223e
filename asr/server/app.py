"""The application: an engine behind HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from asr.server import health, transcriptions
from asr.server.access import OwnPagesOnly
from asr.server.engine import Engine
from asr.server.errors import add_error_handlers
from asr.server.settings import ServerSettings
from asr.version import version


def create_app(engine: Engine, settings: ServerSettings) -> FastAPI:
    """Make the application; it starts the engine, and closes it in the end.

    Args:
        engine: recognises; not started yet.
        settings: of the server.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine:
            yield

    app = FastAPI(
        title="asr",
        version=version(),
        summary="Speech recognition behind OpenAI's audio API",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own page loads scripts from a network
        redoc_url=None,
    )
    app.state.engine, app.state.settings = engine, settings
    add_error_handlers(app)
    app.add_middleware(OwnPagesOnly, hosts=settings.trusted_hosts)
    app.include_router(transcriptions.router)
    app.include_router(health.router)
    return app
