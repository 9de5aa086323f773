"""Sessions for the event streams (SSE) that an ASGI app serves itself, whatever framework it uses.

1. A session is registered when the app starts a response of the type `text/event-stream`, just
   before the client is told, and is gone when the app has done with it. Other responses pass.
2. Where its session has to end, or its client has left, the app is cancelled, as servers cancel it;
   a stream that is to end is ended properly. Neither code nor reason can be sent: they would have
   to be events of the app's own.
3. No event waits longer than `OWN_SEND_TIMEOUT` for a client that does not read: its session ends
   with 3008 `slow`, and it is dropped.
4. A client that may not connect gets a response that is no stream: 503 where it may come again, or
   else 403, after which browsers do not try again by themselves.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress

from ..errors import ConnectRefused
from ..models import Disconnect
from .aio import ClientGone, deliver
from .asgi import TRACKED, Message, Receive, Scope, Send, Tracked, send_response
from .base import text
from .connection import SSE, checked_disconnect
from .tracking import Hold, SessionOver, Tracking, send_in_time

__all__ = ["TrackEventStreams"]


class TrackEventStreams(Tracking):
    """An ASGI middleware: each event stream that the app serves is a session while it is open.

    Who connects is said as for `TrackWebSockets`, whose arguments it takes. The app has to have
    read the body of the request before it starts the response.

    >>> from usersessions import AsyncUserSessions
    >>> async def app(scope, receive, send):
    ...     await send({"type": "http.response.start", "status": 200, "headers": []})
    >>> app = TrackEventStreams(app, AsyncUserSessions())
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        inner, hold = self._opened(scope, "sse")
        async with AsyncExitStack() as held:
            tracked = inner[TRACKED] = _Response(receive, send, hold, held)
            try:
                await self._serve(inner, receive, tracked.send, until=tracked.ended)
            finally:
                tracked.leave()
        if tracked.ended.done():
            with suppress(ClientGone):
                await tracked.finish()


class _Response(Tracked):
    """One response, between the app and its server; `ended` is how, or None if the client left."""

    def __init__(self, receive: Receive, send: Send, hold: Hold, held: AsyncExitStack) -> None:
        self._receive = receive
        self._send = send
        self._hold = hold
        self._held = held
        self._watching: asyncio.Future[None] | None = None
        self._has_begun = self._is_whole = False
        self.ended: asyncio.Future[Disconnect | None] = asyncio.get_running_loop().create_future()

    async def send(self, message: Message) -> None:
        if self.ended.done():
            raise SessionOver
        if message["type"] == "http.response.start":
            if not self.is_passed_over and _is_event_stream(message):
                await self._register()
            self._has_begun = True
        elif message["type"] == "http.response.body":
            self._is_whole = not message.get("more_body", False)
        await send_in_time(self._send, message, self.session)
        if self.session is not None:
            self.session.touch()

    def leave(self) -> None:
        """Watch for the client no more."""
        if self._watching is not None:
            self._watching.cancel()

    async def finish(self) -> None:
        """Say what the app does not say any more.

        Raises:
            ClientGone: if there is nobody to say it to.
        """
        disconnect = self.ended.result()
        if disconnect is None or self._is_whole:
            return
        if self._has_begun:
            await deliver(self._send({"type": "http.response.body", "body": b""}))
        else:
            status = 503 if disconnect.reconnect else 403
            await send_response(text(status, disconnect.reason), self._send)

    async def _register(self) -> None:
        try:
            self.session = await self._held.enter_async_context(self._hold(close=self._end))
        except ConnectRefused as refused:
            self._end(checked_disconnect(refused))
        if self.ended.done():
            raise SessionOver
        self._watching = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        try:
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except Exception as error:
            if not self.ended.done():
                self.ended.set_exception(error)
        else:
            self._end(None)

    def _end(self, disconnect: Disconnect | None) -> None:
        if not self.ended.done():
            self.ended.set_result(disconnect)


def _is_event_stream(start: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.lower().startswith(SSE.media_type.encode())
        for name, value in start.get("headers", ())
    )
