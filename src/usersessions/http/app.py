"""The whole of it as one ASGI app: the server API, own sessions and the three streams."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeAlias

from ..errors import ConfigError
from ..sessions import AsyncUserSessions
from .aio import ClientGone
from .asgi import (
    Message,
    Receive,
    Scope,
    Send,
    StreamServer,
    path_of,
    read_request,
    send_response,
    spared_scope,
)
from .base import Response
from .connection import read_connect_request
from .endpoints import WEBSOCKET_PATH, Endpoints
from .lifespan import ensure_lifespan, lifespan

__all__ = ["UserSessionsApp"]

logger = logging.getLogger(__name__)

# Frameworks give their own types to the arguments.
InnerApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]


class UserSessionsApp:
    """An ASGI app with the server API and the streams: alone, around another app, or mounted.

    Args:
        sessions: what it serves. Mounted in another app, that app's lifespan has to enter
            `lifespan(sessions)`; outermost, it does so itself.
        api_keys: who may use the server API, each of 16 to 255 visible ASCII characters; without
            any, it answers 401 to all.
        ping_interval: seconds of silence before a ping on a stream, from 1 to 3600.
        allowed_origins: origins whose pages may connect without a token, such as
            `"https://app.example.com"`; the page's own host always may.
        trusted_hops: how many proxies of your own stand in front and add to `X-Forwarded-For`, so
            that lists show the client's address; 0 believes no such header.
        inner: the app that it is put around: that one serves every other path, and the sessions
            are held between its start and its end.
        prefix: the path that all of it is under, such as `"/live"`; needed where the inner app has
            something of its own at `/api/...` or `/sessions`.

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
        inner: InnerApp | None = None,
        prefix: str = "",
    ) -> None:
        if not isinstance(sessions, AsyncUserSessions):
            raise ConfigError("ASGI takes an AsyncUserSessions; UserSessions is for WSGI")
        self._sessions = sessions
        self._inner = inner
        self._endpoints = Endpoints(
            sessions.operations,
            api_keys=api_keys,
            ping_interval=ping_interval,
            allowed_origins=allowed_origins,
            trusted_hops=trusted_hops,
            prefix=prefix,
        )
        self._streams = StreamServer(sessions, self._endpoints)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        path = self._endpoints.path(path_of(scope))
        if path is None and self._inner is not None:
            await self._inner(spared_scope(scope), receive, send)
            return
        await ensure_lifespan(self._sessions)
        with suppress(ClientGone):
            if scope["type"] == "websocket":
                await self._websocket(path, scope, receive, send)
            else:
                await self._http(path or "", scope, receive, send)

    async def _http(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        request = await read_request(scope, receive)
        if isinstance(request, Response):
            await send_response(request, send)
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

    async def _websocket(
        self, path: str | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        # As for a request: see `asgi`.
        scope["query_string"] = b""
        if path == WEBSOCKET_PATH:
            await self._streams.websocket(scope, receive, send)
        else:
            # Closing before accepting makes the server answer the handshake with 403.
            await receive()
            with suppress(OSError):
                await send({"type": "websocket.close"})

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as held:
            inside = _InnerLifespan(self._sessions, receive, send, held)
            if self._inner is not None:
                try:
                    await inside.run(self._inner, scope)
                except Exception:
                    # An app without a lifespan refuses the scope, or takes it for a connection.
                    if inside.has_heard and not inside.is_mistaken:
                        raise
            if not inside.has_begun:
                await inside.run(_no_lifespan, scope)


class _InnerLifespan:
    """The lifespan of an app inside: the sessions are held from its start until it is to end."""

    def __init__(
        self, sessions: AsyncUserSessions, receive: Receive, send: Send, held: AsyncExitStack
    ) -> None:
        self._sessions = sessions
        self._receive = receive
        self._send = send
        self._held = held
        self._is_running = False
        self.has_heard = False
        self.has_begun = False
        self.is_mistaken = False

    async def run(self, app: InnerApp, scope: Scope) -> None:
        """Have an app answer to its start and its end; it may go before its end."""
        self.has_heard = False
        try:
            await app(scope, self._hear, self._say)
        except Exception:
            if not self._is_running:
                raise
            logger.exception("the lifespan of the inner app has failed; all else goes on")
        if self._is_running:
            await self._hear()
            await self._say({"type": "lifespan.shutdown.complete"})

    async def _hear(self) -> Message:
        if not self.has_heard:
            self.has_heard = True
            return {"type": "lifespan.startup"}
        message = await self._receive()
        self._is_running = False
        await self._held.aclose()
        return message

    async def _say(self, message: Message) -> None:
        if not message["type"].startswith("lifespan."):
            self.is_mistaken = True
            raise RuntimeError("this is a lifespan, and no connection")
        if message["type"] == "lifespan.startup.complete":
            await self._held.enter_async_context(lifespan(self._sessions))
            self._is_running = True
        self.has_begun = True
        await self._send(message)


async def _no_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
