"""Sessions for the WebSockets that an ASGI app serves itself, whatever framework it uses.

1. A session is registered when the app accepts its WebSocket, just before the client is told, and
   is gone when the app has done with it, whatever ends it. A WebSocket that the app does not accept
   was never listed.
2. A WebSocket whose session has to end is closed with the code and the reason, at once, but not
   before it is open. The app is told as if the client had left: it receives
   `websocket.disconnect`, and what it sends fails with an OSError, as the ASGI specification has it
   for connections that are over. If it goes on for `END_TIMEOUT`, it is cancelled: it may be held
   up by a client that does not read, or wait for something else than the WebSocket.
3. A client that may not connect is told why: browsers do not show what refuses a handshake, so
   the WebSocket is accepted and then closed. Nothing that the app does after its accept is done:
   that fails, as if the client had left.
4. Servers write the query into their access logs: so a token is taken out of it before the app is
   asked. The app, which may want it, has a copy of the scope that is as it came.
5. No message of the client is lost where the app stops waiting for one.
6. One message is read ahead, so that a client that leaves is noticed whether the app receives or
   not: its session is gone at once. The app may be busy with what that client has said, and is left
   alone until it sends, which fails, whether or not the server would have it so. But if it waits
   for nothing that will come, its server could never stop: when that stops, an app is cancelled
   that has not received the `websocket.disconnect`.
7. What an app raises is its own, unless all that it says is that the connection is over.
8. No message of the app waits longer than `OWN_SEND_TIMEOUT` for a client that does not read: its
   session ends with 3008 `slow`, and the app goes on as after any other end.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Protocol, TypeAlias

from ..errors import ConnectRefused, DisconnectCode
from ..live import AsyncClose, AsyncSession
from ..models import Disconnect, Identity
from ..sessions import AsyncUserSessions
from .aio import ClientGone, Interruptible, deliver
from .asgi import TRACKED, ASGIApp, Message, Receive, Scope, Send, Tracked, peer_of, read_handshake
from .base import Request
from .connection import checked_disconnect
from .handshakes import Handshakes
from .lifespan import ensure_lifespan
from .silence import bound_hidden

__all__ = [
    "END_TIMEOUT",
    "Hold",
    "Identify",
    "SessionOver",
    "TrackWebSockets",
    "Tracking",
    "raised_in",
    "rest_of",
    "send_in_time",
    "session_of",
]

logger = logging.getLogger(__name__)

END_TIMEOUT = 5.0
"""The longest that an app may go on with a WebSocket whose session has ended, in seconds."""

LOOK_SECONDS = 1.0
"""How often an app whose client has left looks whether its server stops."""

OWN_SEND_TIMEOUT = 10.0
"""The longest that one message of an app waits for a client to read, in seconds.

It may be a big one. But it is less than 20 seconds, after which the system gives up the
connection of a client that does not read: then nobody could tell it from one that has left.
"""

Who: TypeAlias = "Identity | str | None"
Identify: TypeAlias = "Callable[[Scope], Who | Awaitable[Who]]"


class Hold(Protocol):
    """Holds the session of one connection, which `close` has to end."""

    def __call__(self, *, close: AsyncClose) -> AbstractAsyncContextManager[AsyncSession]: ...


class SessionOver(OSError):
    """What an app sends has nobody to go to."""

    def __init__(self) -> None:
        super().__init__("the session of this connection has ended")


async def send_in_time(send: Send, message: Message, session: AsyncSession | None) -> None:
    """Send a message of an app's own; a session that it is held up by is told so.

    Args:
        send: the server's.
        message: what it sends.
        session: that of the connection; without one, the message may take any time.

    Raises:
        SessionOver: if the client does not read.
    """
    if session is None:
        await send(message)
        return
    with Interruptible(after=OWN_SEND_TIMEOUT):
        await send(message)
        return
    session.tell(Disconnect.of(DisconnectCode.SLOW))
    raise SessionOver


class Tracking:
    """What is needed to hold the sessions of an app's own connections; the base of middlewares."""

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

    def _opened(self, scope: Scope, transport: str) -> tuple[Scope, Hold]:
        """The scope for the app, and how to hold the session once there is to be one."""
        inner = dict(scope)
        return inner, partial(self._hold, inner, read_handshake(scope), transport)

    @asynccontextmanager
    async def _hold(
        self, scope: Scope, request: Request, transport: str, *, close: AsyncClose
    ) -> AsyncGenerator[AsyncSession, None]:
        await ensure_lifespan(self._sessions)
        bound_hidden(scope.get("client"))
        try:
            who = None if self._identify is None else self._identify(scope)
            admitted = await self._sessions.run(
                self._handshakes.admit(
                    request,
                    transport=transport,
                    peer=peer_of(scope),
                    who=await who if inspect.isawaitable(who) else who,
                )
            )
        except ConnectRefused:
            raise
        except Exception as error:
            # A verifier, proxy or `identify` of the app's own failed.
            logger.exception("a connection failed before it had a session")
            raise ConnectRefused(DisconnectCode.INTERNAL_SERVER_ERROR) from error
        async with self._sessions.hold(admitted, close=close) as session:
            yield session

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, *, until: asyncio.Future[Any]
    ) -> None:
        """Have the app serve its scope, and cancel it when time is up."""
        serving = asyncio.ensure_future(self._app(scope, receive, send))
        try:
            await asyncio.wait((serving, until), return_when=asyncio.FIRST_COMPLETED)
        finally:
            serving.cancel()
            await asyncio.wait((serving,))
        if serving.cancelled():
            if not until.done():
                serving.result()
            return
        error = serving.exception()
        rest = None if error is None else rest_of(error, _is_over)
        if rest is not None:
            raise rest


def rest_of(error: BaseException, is_over: Callable[[BaseException], bool]) -> BaseException | None:
    """What is left of an error, or of a group of them, without what says that all is over."""
    if _members(error):
        group: Any = error
        rest: BaseException | None = group.split(is_over)[1]
        return rest
    return None if is_over(error) else error


def _members(error: BaseException) -> tuple[BaseException, ...]:
    # Python 3.10 has groups only where a package brings them.
    members: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return members if hasattr(error, "split") else ()


def raised_in(error: BaseException) -> str:
    """The name of the module whose code raised an error; empty if none did.

    Frameworks use classes that an app's own errors may have as well.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__")) if frames else ""


def _is_over(error: BaseException, above: frozenset[int] = frozenset()) -> bool:
    while not isinstance(error, SessionOver):
        # A group may be the context of an exception that it holds.
        if id(error) in above:
            return False
        above |= {id(error)}
        # Frameworks put it into a group,
        inner = _members(error)
        if inner:
            return all(_is_over(one, above) for one in inner)
        # or make an exception of their own of it. What fails while it passes by has it as context,
        # too: so Starlette's are told by their names, WebSocketDisconnect and ClientDisconnect.
        is_made_of_it = error.__suppress_context__ or "Disconnect" in type(error).__name__
        cause = error.__cause__ or error.__context__
        if cause is None or not is_made_of_it:
            return False
        error = cause
    return True


class TrackWebSockets(Tracking):
    """An ASGI middleware: each WebSocket that the app accepts is a session while it is open.

    Who connects is said by a token, a bearer token or the query parameter `access_token`; without
    one by the connect proxy. From which app, the client says in the query parameters `app_name` and
    `app_version`. Put it around all of the app or around a part; other scopes, and the streams of
    this library, pass through.

    Args:
        app: the app, or the part of it, whose WebSockets it tracks.
        sessions: where they are registered.
        identify: says who connects, where the app has authenticated already: given the scope, it
            gives an `Identity`, or a user ID, or None to ask the token; it may be async, and raise
            `ConnectRefused`.
        allowed_origins: origins whose pages may connect without a token, such as
            `"https://app.example.com"`; the page's own host always may.
        trusted_hops: how many proxies of your own stand in front and add to `X-Forwarded-For`.

    Raises:
        ConfigError: if a value is outside of its bounds.

    >>> async def app(scope, receive, send):
    ...     print(session_of(scope).user)
    >>> app = TrackWebSockets(app, AsyncUserSessions())
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        inner, hold = self._opened(scope, "websocket")
        async with AsyncExitStack() as held:
            node = self._sessions.operations.node
            tracked = inner[TRACKED] = _WebSocket(
                receive, send, hold, held, is_stopping=lambda: node.draining
            )
            try:
                await self._serve(inner, tracked.receive, tracked.send, until=tracked.overdue)
            finally:
                tracked.leave()


def session_of(scope: Mapping[str, object]) -> AsyncSession:
    """The session of a WebSocket that was accepted, or of an event stream that has begun.

    Args:
        scope: the scope of the connection; frameworks have it as `websocket.scope`.

    Raises:
        LookupError: if it is not tracked, or was not accepted yet.

    >>> session_of({"type": "websocket"})
    Traceback (most recent call last):
    LookupError: this connection has no session: accept it first, inside of TrackWebSockets
    """
    tracked = scope.get(TRACKED)
    session = tracked.session if isinstance(tracked, Tracked) else None
    if session is None:
        raise LookupError(
            "this connection has no session: accept it first, inside of TrackWebSockets"
        )
    return session


class _WebSocket(Tracked):
    """One WebSocket, between its server and its app."""

    def __init__(
        self,
        receive: Receive,
        send: Send,
        hold: Hold,
        held: AsyncExitStack,
        *,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._receive = receive
        self._send = send
        self._hold = hold
        self._held = held
        self._is_stopping = is_stopping
        self._receiving: asyncio.Future[Message] | None = None
        self._is_open = False
        self._is_left = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Disconnect] = self._loop.create_future()
        self.overdue: asyncio.Future[None] = self._loop.create_future()

    async def receive(self) -> Message:
        receiving = None
        # Where two wait at once, each message is for one of them.
        while receiving is None or self._receiving is not receiving:
            receiving = self._receiving = self._receiving or asyncio.ensure_future(self._read())
            await asyncio.wait((receiving, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():
                return {"type": "websocket.disconnect", **self._why()}
        self._receiving = None
        message = receiving.result()
        if message["type"] == "websocket.disconnect":
            # It knows now, and may have something to finish.
            self.leave()
        elif self.session is not None:
            self.session.touch()
            if self._is_open:
                self._receiving = asyncio.ensure_future(self._read())
        return message

    async def send(self, message: Message) -> None:
        if self._ended.done() or self._is_left:
            raise SessionOver
        opens = message["type"] == "websocket.accept" and not self.is_passed_over
        if opens:
            try:
                self.session = await self._held.enter_async_context(self._hold(close=self._end))
            except ConnectRefused as refused:
                await self._end(checked_disconnect(refused))
        elif message["type"] == "websocket.close":
            self._is_open = False
        await send_in_time(self._send, message, self.session)
        if opens:
            self._is_open = True
            if self._ended.done():
                await self._close()
                raise SessionOver
            self._receiving = self._receiving or asyncio.ensure_future(self._read())

    def leave(self) -> None:
        """The app is done with it."""
        for pending in (self._receiving, self._timer):
            if pending is not None:
                pending.cancel()

    async def _end(self, disconnect: Disconnect) -> None:
        if self._ended.done():
            return
        self._ended.set_result(disconnect)
        self._timer = self._loop.call_later(END_TIMEOUT, self.overdue.set_result, None)
        if self._is_open:
            await self._close()

    async def _read(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._is_left = True
            await self._held.aclose()
            # One that was told to end is cancelled sooner.
            if not self._ended.done():
                self._look()
        return message

    def _look(self) -> None:
        if self._is_stopping():
            self.overdue.set_result(None)
        else:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    async def _close(self) -> None:
        closing = self._send({"type": "websocket.close", **self._why()})
        with suppress(ClientGone):
            await deliver(closing)

    def _why(self) -> Message:
        disconnect = self._ended.result()
        return {"code": disconnect.code, "reason": disconnect.reason}
