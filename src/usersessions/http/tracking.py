"""Sessions for the WebSockets that an ASGI app serves itself, whatever framework it uses.

1. A session is registered when the app accepts its WebSocket, just before the client is told, and
   is gone when the app has done with it, whatever ends it. A WebSocket that the app does not accept
   was never listed.
2. A WebSocket whose session has to end is closed with the code and the reason, at once; the app is
   told as if the client had left: it receives `websocket.disconnect`, and what it sends fails with
   an OSError, as the ASGI specification has it for connections that are over.
3. A token in the query is taken out of the scope before the WebSocket is accepted, since servers
   write the query into their access logs then.
4. A client that may not connect is told why: browsers do not show what refuses a handshake, so
   the WebSocket is accepted and then closed.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack, suppress
from typing import TypeAlias

from ..errors import ConnectRefused
from ..live import AsyncSession
from ..models import Disconnect, Identity
from ..sessions import AsyncUserSessions
from .aio import ClientGone, deliver
from .asgi import ASGIApp, Message, Receive, Scope, Send, peer_of, read_headers
from .base import Request
from .connection import checked_disconnect
from .endpoints import WEBSOCKET_PATH
from .handshakes import Handshakes, without_token

__all__ = ["Identify", "TrackWebSockets", "session_of"]

Who: TypeAlias = "Identity | str | None"
Identify: TypeAlias = "Callable[[Scope], Who | Awaitable[Who]]"

_KEY = "usersessions"


class TrackWebSockets:
    """An ASGI middleware: each WebSocket that the app accepts is a session while it is open.

    Who connects is said by a token, a bearer token or the query parameter `access_token`; without
    one by the connect proxy. Put it around all of the app or around a part; other scopes, and the
    stream at `/connection/uni_websocket`, pass through.

    Args:
        app: the app, or the part of it, whose WebSockets it tracks.
        sessions: where they are registered.
        identify: says who connects, where the app has authenticated already: given the scope, it
            gives an `Identity`, or a user ID, or None to ask the token; it may be async.
        allowed_origins: origins whose pages may connect without a token, such as
            `"https://app.example.com"`; the page's own host always may.
        trusted_hops: how many proxies of your own stand in front and add to `X-Forwarded-For`.

    Raises:
        ConfigError: if a value is outside of its bounds.

    >>> async def app(scope, receive, send):
    ...     print(session_of(scope).user)
    >>> app = TrackWebSockets(app, AsyncUserSessions())
    """

    def __init__(
        self,
        app: ASGIApp,
        sessions: AsyncUserSessions,
        *,
        identify: Identify | None = None,
        allowed_origins: Collection[str] = (),
        trusted_hops: int = 0,
    ) -> None:
        self._app = app
        self._sessions = sessions
        self._identify = identify
        self._handshakes = Handshakes(
            sessions.operations, allowed_origins=allowed_origins, trusted_hops=trusted_hops
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "websocket" or scope["path"].endswith(WEBSOCKET_PATH):
            await self._app(scope, receive, send)
            return
        query = scope.get("query_string", b"").decode("latin-1")
        request = Request("GET", query, read_headers(scope))

        async def hold(close: Callable[[Disconnect], Awaitable[None]]) -> AsyncSession:
            who = None if self._identify is None else self._identify(scope)
            scope["query_string"] = without_token(query).encode("latin-1")
            admitted = await self._sessions.run(
                self._handshakes.admit(
                    request,
                    transport="websocket",
                    peer=peer_of(scope),
                    who=await who if inspect.isawaitable(who) else who,
                )
            )
            return await held.enter_async_context(self._sessions.hold(admitted, close=close))

        async with AsyncExitStack() as held:
            tracked = scope[_KEY] = _Tracked(receive, send, hold)
            await self._app(scope, tracked.receive, tracked.send)


def session_of(scope: Scope) -> AsyncSession:
    """The session of a WebSocket that was accepted.

    Args:
        scope: the scope of the connection; frameworks have it as `websocket.scope`.

    Raises:
        LookupError: if it is not tracked, or was not accepted yet.

    >>> session_of({"type": "websocket"})
    Traceback (most recent call last):
    LookupError: this connection has no session: accept it first, inside of TrackWebSockets
    """
    tracked = scope.get(_KEY)
    session = tracked.session if isinstance(tracked, _Tracked) else None
    if session is None:
        raise LookupError(
            "this connection has no session: accept it first, inside of TrackWebSockets"
        )
    return session


class _Tracked:
    """One WebSocket, between its server and its app."""

    def __init__(
        self,
        receive: Receive,
        send: Send,
        hold: Callable[[Callable[[Disconnect], Awaitable[None]]], Awaitable[AsyncSession]],
    ) -> None:
        self._receive = receive
        self._send = send
        self._hold = hold
        self.session: AsyncSession | None = None
        self._ended: asyncio.Future[Disconnect] = asyncio.get_running_loop().create_future()

    async def receive(self) -> Message:
        receiving = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait((receiving, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():
                disconnect = self._ended.result()
                code, reason = disconnect.code, disconnect.reason
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
            message = receiving.result()
        finally:
            receiving.cancel()
        if self.session is not None:
            self.session.touch()
        return message

    async def send(self, message: Message) -> None:
        if self._ended.done():
            raise OSError("the session of this connection has ended")
        if message["type"] == "websocket.accept" and self.session is None:
            try:
                self.session = await self._hold(self._close)
            except ConnectRefused as refused:
                await self._send(message)
                await self._close(checked_disconnect(refused))
                return
        await self._send(message)

    async def _close(self, disconnect: Disconnect) -> None:
        if not self._ended.done():
            self._ended.set_result(disconnect)
            code, reason = disconnect.code, disconnect.reason
            closing = self._send({"type": "websocket.close", "code": code, "reason": reason})
            with suppress(ClientGone, RuntimeError):
                # Servers may raise a RuntimeError where the client has left in this moment.
                await deliver(closing)
