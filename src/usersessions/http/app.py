"""The whole of it as one ASGI app: the server API and the three streams."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from contextlib import suppress

from ..dispatch import ApiKeys
from ..errors import ConfigError
from ..sessions import AsyncUserSessions
from .api import ServerApi
from .asgi import ClientGone, Receive, Scope, Send, StreamServer, read_request, send_response
from .base import Response, text
from .connection import HTTP_STREAM, SSE
from .connection import read_request as read_connect_request
from .lifespan import lifespan
from .own_sessions import OwnSessionsApi

__all__ = ["PATHS", "WEBSOCKET_PATH", "UserSessionsApp"]

_API = "/api"
_OWN = "/sessions"
_STREAMS = {f"/connection/{transport.name}": transport for transport in (HTTP_STREAM, SSE)}

PATHS = (_API, f"{_API}/{{method}}", _OWN, f"{_OWN}/{{client}}", *_STREAMS)
"""The paths that are served over HTTP, as routers write them."""

WEBSOCKET_PATH = "/connection/uni_websocket"
"""The path that is served over WebSocket."""

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@\\]+", re.ASCII | re.IGNORECASE)


class UserSessionsApp:
    """An ASGI app that serves the server API and the streams; mount it anywhere.

    Args:
        sessions: what it serves. With another app around it, that app's lifespan has to enter
            `lifespan(sessions)`; on its own, it does so itself.
        api_keys: who may use the server API, each of 16 to 255 visible ASCII characters; without
            any, it answers 401 to all.
        ping_interval: seconds of silence before a ping on a stream, from 1 to 3600.
        allowed_origins: origins whose pages may connect without a token, such as
            `"https://app.example.com"`; the page's own host always may.
        trusted_hops: how many proxies of your own stand in front and add to `X-Forwarded-For`, so
            that lists show the client's address; 0 believes no such header.

    Raises:
        ConfigError: if a value is outside of its bounds.

    >>> app = UserSessionsApp(AsyncUserSessions(), api_keys=["an-api-key-of-yours"])
    """

    def __init__(
        self,
        sessions: AsyncUserSessions,
        *,
        api_keys: Iterable[str] = (),
        ping_interval: int = 25,
        allowed_origins: Collection[str] = (),
        trusted_hops: int = 0,
    ) -> None:
        if type(ping_interval) is not int or not 1 <= ping_interval <= 3600:
            raise ConfigError("ping_interval must be a whole number of seconds from 1 to 3600")
        if not isinstance(trusted_hops, int) or trusted_hops < 0:
            raise ConfigError("trusted_hops must be a whole number of proxies, 0 at least")
        self._sessions = sessions
        self._answers: dict[str, ServerApi | OwnSessionsApi] = {
            _API: ServerApi(sessions.operations, ApiKeys(api_keys)),
            _OWN: OwnSessionsApi(sessions.operations),
        }
        self._streams = StreamServer(
            sessions,
            ping_interval=ping_interval,
            allowed_origins=_origins(allowed_origins),
            trusted_hops=trusted_hops,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        with suppress(ClientGone):
            if scope["type"] == "websocket":
                await self._websocket(scope, receive, send)
            else:
                await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = _path(scope)
        transport = _STREAMS.get(path)
        if transport is not None:
            request = await read_request(scope, receive)
            message = read_connect_request(request, transport)
            if isinstance(message, Response):
                await send_response(message, send)
            else:
                await self._streams.http(
                    message, request.headers, transport, scope=scope, receive=receive, send=send
                )
            return
        root, slash, name = path[1:].partition("/")
        answer = self._answers.get(f"/{root}")
        # Not where a name is missing: `DELETE /sessions/` must not end all others by mistake.
        if answer is not None and "/" not in name and bool(name) == bool(slash):
            request = await read_request(scope, receive)
            response = await self._sessions.run(answer(request, name or None))
        else:
            response = text(404, "nothing is served at this path")
        await send_response(response, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _path(scope) == WEBSOCKET_PATH:
            await self._streams.websocket(scope, receive, send)
        else:
            # Closing before accepting makes the server answer the handshake with 403.
            await receive()
            with suppress(OSError):
                await send({"type": "websocket.close"})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with lifespan(self._sessions):
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    # A mount point stands at the start of the path, a prefix that a front proxy cut off does not.
    return path[len(root) :] if root and f"{path}/".startswith(f"{root}/") else path


def _origins(origins: Collection[str]) -> frozenset[str]:
    if isinstance(origins, str):
        raise ConfigError("allowed_origins must be a list of strings, not one string")
    for origin in origins:
        if not isinstance(origin, str) or not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                'an entry of allowed_origins must be like "https://app.example.com", without a path'
            )
    # Browsers write them in lower case (RFC 6454, 6.1).
    return frozenset(origin.lower() for origin in origins)
