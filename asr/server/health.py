"""`/health`, `/ready` and `/metrics` for who runs the server, `/docs` for others."""

import time
from collections.abc import Iterable
from html import escape
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asr.server.access import require_key
from asr.server.engine import Engine

router = APIRouter()


@router.get("/health", summary="Whether the server runs")
async def health() -> dict[str, str]:
    """Answer, as long as the server runs."""
    return {"status": "ok"}


@router.get("/ready", summary="Whether the server takes requests")
async def ready(request: Request) -> Response:
    """Answer 503 where requests should go to another server."""
    state = request.app.state
    if state.draining.is_set():
        return JSONResponse({"status": "draining"}, 503)
    if not state.engine.is_ready:
        return JSONResponse({"status": "no worker"}, 503)
    return JSONResponse({"status": "ready", "model": state.engine.model})


@router.get(
    "/metrics", summary="Numbers for Prometheus", dependencies=[Depends(require_key)]
)
async def metrics(request: Request) -> Response:
    """Return what the server has done, as Prometheus reads it."""
    content = generate_latest(request.app.state.metrics.registry)
    return Response(content, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """Show what can be asked: a page without scripts, and without a network."""
    return HTMLResponse(
        _page(request.app.openapi(), str(request.base_url)),
        headers={
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"
        },
    )


class Metrics:
    """Numbers about requests, and about the engine.

    Args:
        engine: that recognises.
    """

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "asr_requests",
            "Requests that were answered.",
            ["path", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "asr_request_seconds",
            "From the head of a request to the end of its answer.",
            ["path"],
            buckets=(0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300),
            registry=self.registry,
        )
        self.registry.register(_EngineCollector(engine))


class _EngineCollector(Collector):
    """Reads the counts of an engine when they are asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Any]:
        counts = self._engine.counts
        for name, about, value in (
            ("asr_audio_seconds", "Audio that was recognised.", counts.audio_seconds),
            ("asr_busy_seconds", "Of all workers.", counts.busy_seconds),
            ("asr_batches", "Batches that were recognised.", counts.batches),
            ("asr_pieces", "Pieces that were recognised.", counts.pieces),
            (
                "asr_workers_replaced",
                "Workers that ended and were replaced.",
                counts.workers_replaced,
            ),
        ):
            yield CounterMetricFamily(name, about, value)
        for name, about, value in (
            ("asr_pieces_waiting", "Pieces that wait.", self._engine.num_waiting),
            ("asr_recordings", "Recordings under way.", counts.requests),
            ("asr_workers", "Worker processes.", self._engine.num_workers),
        ):
            yield GaugeMetricFamily(name, about, value)


class Counted:
    """Counts requests by path and status.

    Args:
        app: what is behind it.
        metrics: where they are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 500, time.perf_counter()

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counting)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - began
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(seconds)


def _page(schema: dict[str, Any], base: str) -> str:
    """Write a page of the paths in a schema."""
    rows = "".join(
        _row(path, method, about)
        for path, methods in schema["paths"].items()
        for method, about in methods.items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(schema['info']['title'])}: what can be asked</title>"
        "<style>body{font:1rem/1.5 system-ui;max-width:50rem;margin:2rem auto;"
        "padding:0 1rem;color-scheme:light dark}code{font-size:.95em}</style>"
        f"<h1>asr {escape(schema['info']['version'])}</h1>"
        "<p>OpenAI's audio API: its clients work with <code>base_url="
        f'"{escape(base)}v1"</code>. For programs: '
        '<a href="openapi.json">openapi.json</a>.</p>'
        f"<pre>curl {escape(base)}v1/audio/transcriptions --form file=@talk.mp3</pre>"
        f"{rows}</html>"
    )


def _row(path: str, method: str, about: dict[str, Any]) -> str:
    heading = f"<code>{method.upper()} {escape(path)}</code>"
    body = about.get("requestBody", {}).get("content", {})
    fields = body.get("multipart/form-data", {}).get("schema", {}).get("properties", {})
    items = "".join(
        f"<dt><code>{escape(name)}</code></dt><dd>{escape(_about(field))}</dd>"
        for name, field in fields.items()
    )
    return (
        f"<h2>{heading}</h2><p>{escape(about.get('summary', ''))}</p><dl>{items}</dl>"
    )


def _about(field: dict[str, Any]) -> str:
    values = ", ".join(field.get("enum", ()))
    text = field.get("description", "")
    return f"{text}: {values}" if values else text
