"""Who may ask: the API key, and web pages of other places.

A browser lets any page send a form to a server of the same machine, or open a WebSocket
to it; only reading the answer of a form takes permission (CORS), which is never given
here. So a request that a page of another host has made is refused before it costs
anything.
"""

import base64
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from asr.server.errors import ApiError, error_response
from asr.server.settings import is_address

SUBPROTOCOL = "openai-insecure-api-key."
"""Begins the WebSocket subprotocol that has the key: browsers cannot set headers."""
ENCODED_SUBPROTOCOL = "asr-api-key-base64url."
"""Begins one that has the key in base64url, without padding: a subprotocol must be a
token (RFC 6455, section 4.1), and a key may have letters that no token has."""


def authorized(headers: Mapping[str, str], key: str | None) -> bool:
    """Return whether a request, or a WebSocket's, brings the key.

    Args:
        headers: by their names in lower case: `connection.headers`.
        key: of the server; None where it has none.
    """
    if key is None:
        return True
    scheme, _, given = headers.get("authorization", "").partition(" ")
    offered = [given.strip()] if scheme.lower() == "bearer" else []
    for protocol in headers.get("sec-websocket-protocol", "").split(","):
        name = protocol.strip()
        if name.startswith(SUBPROTOCOL):
            offered.append(name.removeprefix(SUBPROTOCOL))
        elif name.startswith(ENCODED_SUBPROTOCOL):
            offered.append(_decoded(name.removeprefix(ENCODED_SUBPROTOCOL)))
    found = False
    for one in offered:  # all of them, and each in the same time
        found |= hmac.compare_digest(one.encode(), key.encode())
    return found


def _decoded(text: str) -> str:
    """Return the key in base64url; nothing where there is none."""
    try:
        padded = text + "=" * (-len(text) % 4)
        return base64.urlsafe_b64decode(padded).decode("ascii")
    except ValueError:
        return ""


async def require_key(request: Request) -> None:
    """Refuse a request without the key: what `fastapi.Depends` takes.

    Raises:
        ApiError: 401.
    """
    if not authorized(request.headers, request.app.state.settings.api_key):
        raise ApiError(
            401,
            "the API key is missing or wrong (send it as: Authorization: Bearer KEY)",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


class OwnPagesOnly:
    """Refuses what pages of other hosts ask, by HTTP and by WebSocket.

    Args:
        app: what is behind it.
        hosts: names, beside addresses, that the server may be called by; None for
            any.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        reason = None
        if scope["type"] in ("http", "websocket"):
            reason = self._refusal(Headers(scope=scope))
        if reason is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(1008, reason)(scope, receive, send)
        else:
            error = ApiError(403, reason, code="forbidden_origin")
            await error_response(error)(scope, receive, send)

    def _refusal(self, headers: Headers) -> str | None:
        host = _host(f"//{headers.get('host', '')}")
        if self._hosts is not None and not _is_trusted(host, self._hosts):
            return (
                f"this server is not called {host or 'nothing'!r:.80} (start it with "
                "--allow-host NAME, or with an API key)"
            )
        origin = headers.get("origin")
        if origin is not None and _host(origin) != host:
            return f"pages of {origin!r:.80} may not use this server"
        return None


def _is_trusted(host: str | None, names: frozenset[str]) -> bool:
    """Return whether a server may be called so: an address is nobody else's name."""
    return host is not None and (host in names or is_address(host))


def _host(address: str) -> str | None:
    """Return the name of the host in an address, without the port."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
