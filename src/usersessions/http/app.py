"""The whole of it as one ASGI app: the server API, own sessions and the three streams."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress

from ..sessions import AsyncUserSessions
from .aio import ClientGone
from .asgi import Receive, Scope, Send, StreamServer, path_of, read_request, send_response
from .base import UNREADABLE, Response
from .connection import read_connect_request
from .endpoints import WEBSOCKET_PATH, Endpoints
from .lifespan import ensure_lifespan, lifespan

__all__ = ["UserSessionsApp"]


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
        self._sessions = sessions
        self._endpoints = Endpoints(
            sessions.operations,
            api_keys=api_keys,
            ping_interval=ping_interval,
            allowed_origins=allowed_origins,
            trusted_hops=trusted_hops,
        )
        self._streams = StreamServer(sessions, self._endpoints)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        await ensure_lifespan(self._sessions)
        with suppress(ClientGone):
            if scope["type"] == "websocket":
                await self._websocket(scope, receive, send)
            else:
                await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope)
        try:
            request = await read_request(scope, receive)
        except ClientGone:
            # Nobody may read it; but for a middleware around, an app without an answer has failed.
            await send_response(UNREADABLE, send)
            return
        transport = self._endpoints.transport(path)
        if transport is None:
            response = await self._sessions.run(self._endpoints.answer(path, request))
            await send_response(response, send)
            return
        message = read_connect_request(request, transport)
        if isinstance(message, Response):
            await send_response(message, send)
        else:
            await self._streams.http(
                message, request.headers, transport, scope=scope, receive=receive, send=send
            )

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        # As for a request: see `asgi`.
        scope["query_string"] = b""
        if path_of(scope) == WEBSOCKET_PATH:
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
