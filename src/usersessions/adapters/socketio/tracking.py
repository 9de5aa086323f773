"""python-socketio: each connected socket is a session, named by its sid.

1. A socket is registered once the app's own `connect` handler has let it in, and before its client
   hears so. Whoever is refused, by the app or by us, was never visible.
2. Its session is over before the app's `disconnect` handler is called, whatever ended the socket.
3. The app's handlers are called as they were, whenever they were registered: not they are replaced,
   but how the server calls them. Where we refuse what the app's `connect` has let in, its
   `disconnect` is called, so that its own books are right.
4. A socket that is told to end, or is lost, while it is being let in, ends as soon as it is in.
5. A client may name an event "connect" or "disconnect", too; such an event is an event.
6. A client may ask for a namespace again while it is being let in, which the server refuses. So a
   socket belongs to the packet that asked for it, not to its transport and namespace.
7. No event comes from a client before it is in, and none goes to it before it is known who it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast, overload

import socketio  # type: ignore[import-untyped]

from ...callbacks import call_awaited, call_plain, is_async
from ...errors import ConfigError, ConnectRefused, NoSuchSession
from ...flows import Flow, arun, run
from ...http.endpoints import checked_hops
from ...live import AsyncSession, Session
from ...models import Disconnect, Identity
from ...operations import Admitted
from ...sessions import AsyncUserSessions, UserSessions
from .admission import Admission, Identify, refusal
from .calls import Do, aanswer, answer, enter, leave

__all__ = ["DISCONNECT_EVENT", "Tracking", "track"]

S = TypeVar("S", Session, AsyncSession)

_NOT_HERE = "no socket with this sid is connected here"

DISCONNECT_EVENT = "usersessions:disconnect"
"""The event that tells a client why it is about to be disconnected: `{"code", "reason"}`.

A client in Python listens with `@sio.on(DISCONNECT_EVENT)`, one in JavaScript with
`socket.on("usersessions:disconnect", ({code, reason}) => ...)`.
"""


@overload
def track(
    sio: socketio.AsyncServer,
    sessions: AsyncUserSessions,
    *,
    identify: Identify | None = None,
    namespaces: Collection[str] | None = None,
    trusted_hops: int = 0,
) -> Tracking[AsyncSession]: ...


@overload
def track(
    sio: socketio.Server,
    sessions: UserSessions,
    *,
    identify: Identify | None = None,
    namespaces: Collection[str] | None = None,
    trusted_hops: int = 0,
) -> Tracking[Session]: ...


def track(
    sio: Any,
    sessions: Any,
    *,
    identify: Identify | None = None,
    namespaces: Collection[str] | None = None,
    trusted_hops: int = 0,
) -> Any:
    """Have each socket of a server be a session from now on.

    Who connects is said by the client's `auth={"token": ...}`, else by the bearer token in its
    `Authorization` header, else by the connect proxy. `name` and `version` in `auth` are its app's.

    Args:
        sio: an `AsyncServer`, or a `Server`.
        sessions: where its sockets are registered: `AsyncUserSessions`, or `UserSessions`.
        identify: says who connects where your app knows better. Given what a `connect` handler is,
            `(sid, environ, auth)`, it returns an `Identity`, a user ID, or None to go on as above;
            it raises `ConnectRefused` to refuse. With an `AsyncServer` it may be async.
        namespaces: those whose sockets are sessions, such as `["/", "/chat"]`, each beginning with
            a slash; None is all.
        trusted_hops: how many proxies of your own stand in front and add to `X-Forwarded-For`, so
            that lists show the client's address; 0 believes no such header.

    Raises:
        ConfigError: if a value cannot work, such as a namespace that there cannot be, one of `sio`
            and `sessions` is async and the other is not, or `sio` lets everybody in first, with
            `always_connect`.

    >>> tracking = track(socketio.Server(async_mode="threading"), UserSessions())
    """
    return Tracking(sio, sessions, identify, namespaces, checked_hops(trusted_hops))


class Tracking(Generic[S]):
    """The sockets of a server as sessions; `track` makes it."""

    def __init__(
        self,
        sio: Any,
        sessions: Any,
        identify: Identify | None,
        namespaces: Collection[str] | None,
        trusted_hops: int,
    ) -> None:
        awaits: bool = sio.is_asyncio_based()
        if not isinstance(sessions, AsyncUserSessions if awaits else UserSessions):
            raise ConfigError("an AsyncServer needs AsyncUserSessions, and a Server UserSessions")
        if sio.always_connect:
            raise ConfigError(
                "with always_connect, the server lets clients in before it is known who they are"
            )
        if not awaits and is_async(identify):
            raise ConfigError("a Server cannot await: make identify a plain function")
        self._sio, self._sessions = sio, sessions
        self._namespaces = _checked(namespaces)
        self._admit = Admission(sio, sessions, identify=identify, trusted_hops=trusted_hops)
        self._drive: Any = partial(arun, answer=aanswer) if awaits else partial(run, answer=answer)
        self._call = call_awaited if awaits else call_plain
        self._sockets: dict[str, _Socket] = {}
        self._holds: dict[str, Any] = {}
        self._attempt: ContextVar[_Attempt | None] = ContextVar("attempt", default=None)
        self._trigger, self._handle_connect = sio._trigger_event, sio._handle_connect
        sio._trigger_event = self._event
        sio._handle_connect = lambda *args: self._drive(self._connected(*args))
        self._participants = sio.manager.get_participants
        sio.manager.get_participants = self._known

    def identity(self, sid: str) -> Identity:
        """Who is behind a socket; known from the app's `connect` to its `disconnect` handler.

        Raises:
            NoSuchSession: if no such socket is connected here.

        >>> def whoami(sid):
        ...     return tracking.identity(sid).user
        """
        socket = self._sockets.get(sid)
        if socket is None or socket.admitted is None:
            raise NoSuchSession(_NOT_HERE)
        return socket.admitted.identity

    def session(self, sid: str) -> S:
        """The session of a socket, such as for `refresh`; there is one once `connect` is over.

        Raises:
            NoSuchSession: if no such socket is connected here.

        >>> def refresh(sid, token):
        ...     tracking.session(sid).refresh(token)
        """
        socket = self._sockets.get(sid)
        if socket is None or socket.session is None:
            raise NoSuchSession(_NOT_HERE)
        return cast(S, socket.session)

    # What the server calls ----------------------------------------------------------------------

    def _event(self, event: str, namespace: str, *args: Any) -> Any:
        sid = args[0]
        if event == "disconnect" and not self._sio.manager.is_connected(sid, namespace):
            return self._drive(self._gone(namespace, *args))
        attempt = self._attempt.get()
        is_ours = self._namespaces is None or namespace in self._namespaces
        if is_ours and event == "connect" and attempt is not None:
            return self._drive(self._let_in(attempt, namespace, *args))
        socket = self._sockets.get(sid)
        if socket is not None:
            if socket.session is None:
                # Before 5.18, the server listens to whoever is still being let in.
                return self._drive(iter(Do(lambda: self._sio.not_handled)))
            socket.session.touch()
        return self._trigger(event, namespace, *args)

    def _let_in(
        self, attempt: _Attempt, namespace: str, sid: str, environ: dict[str, Any], *auth: Any
    ) -> Flow[object]:
        # The server tries a handler with and without `auth`; who connects is asked once.
        socket = attempt.socket or _Socket(sid, namespace, attempt.eio_sid)
        attempt.socket = self._sockets[sid] = socket
        if socket.admitted is None:
            socket.admitted = yield from self._admit(namespace, sid, environ, *auth)
        accepted = yield from Do(partial(self._trigger, "connect", namespace, sid, environ, *auth))
        if accepted is False:
            return False
        close = partial(self._sio.start_background_task, self._end, socket)
        hold = self._sessions.hold(socket.admitted, close=close)
        try:
            socket.session = yield from Do(partial(enter, hold))
        except ConnectRefused as refused:
            # It stays known until the server has let go of it, so that nothing is heard from it.
            yield from self._tell_gone(namespace, sid, self._sio.reason.SERVER_DISCONNECT)
            raise refusal(refused) from refused
        self._holds[sid] = hold
        return accepted

    def _connected(self, eio_sid: str, namespace: str | None, data: Any) -> Flow[None]:
        attempt, was_handled = _Attempt(eio_sid), False
        self._attempt.set(attempt)
        try:
            yield from Do(partial(self._handle_connect, eio_sid, namespace, data))
            was_handled = True
        finally:
            self._attempt.set(None)
            socket = attempt.socket
            if socket is not None and socket.session is None:
                self._sockets.pop(socket.sid, None)
            elif socket is not None and not was_handled:
                self._sio.start_background_task(lambda: self._drive(self._drop(socket)))
        if socket is None or socket.session is None:
            return
        socket.is_open = True
        transport = self._sio.eio.sockets.get(eio_sid)
        if (
            # A transport that went meanwhile has passed over a socket that was not in yet.
            transport is None
            or transport.closing
            or transport.closed
            or not self._sio.manager.is_connected(socket.sid, socket.namespace)
        ):
            yield from self._drop(socket)
        elif socket.session.disconnect is not None:
            yield from self._ending(socket, socket.session.disconnect)

    def _gone(self, namespace: str, sid: str, *reason: str) -> Flow[None]:
        yield from self._leave(sid)
        try:
            yield from self._tell_gone(namespace, sid, *reason)
        finally:
            self._sockets.pop(sid, None)

    def _tell_gone(self, namespace: str, sid: str, *reason: str) -> Flow[None]:
        # One that fails must not be raised, whatever its namespace: the server would leave out what
        # else was on the same transport.
        event = ("disconnect", namespace, sid, *reason)
        yield from Do(partial(self._call, self._trigger, *event, what="disconnect", client=sid))

    def _known(self, namespace: str, room: Any) -> Iterator[tuple[str, str]]:
        # The server counts among a namespace whoever is still being let in.
        for sid, eio_sid in self._participants(namespace, room):
            socket = self._sockets.get(sid)
            if socket is None or socket.admitted is not None:
                yield sid, eio_sid

    # How a socket ends --------------------------------------------------------------------------

    def _end(self, socket: _Socket, disconnect: Disconnect) -> Any:
        return self._drive(self._ending(socket, disconnect))

    def _ending(self, socket: _Socket, disconnect: Disconnect) -> Flow[None]:
        if not socket.is_open:
            return
        socket.is_open = False
        why = {"code": disconnect.code, "reason": disconnect.reason}
        to = {"to": socket.sid, "namespace": socket.namespace, "ignore_queue": True}
        yield from Do(partial(self._sio.emit, DISCONNECT_EVENT, why, **to))
        transport = self._sio.eio.sockets.get(socket.eio_sid)
        if not disconnect.reconnect:
            yield from Do(partial(self._sio.disconnect, socket.sid, namespace=socket.namespace))
        elif transport is not None:
            # Clients come back by themselves where their transport just closes; after a packet that
            # says "disconnect" or "close", they do not.
            yield from Do(partial(transport.close, wait=False, abort=True))
            yield from Do(partial(transport.queue.put, None))

    def _drop(self, socket: _Socket) -> Flow[None]:
        yield from Do(partial(self._sio.disconnect, socket.sid, namespace=socket.namespace))
        yield from self._leave(socket.sid)
        self._sockets.pop(socket.sid, None)

    def _leave(self, sid: str) -> Flow[None]:
        hold = self._holds.pop(sid, None)
        if hold is not None:
            yield from Do(partial(leave, hold))


def _checked(namespaces: Collection[str] | None) -> frozenset[str] | None:
    if namespaces is None:
        return None
    if isinstance(namespaces, str):
        raise ConfigError("namespaces must be a list of strings, not one string")
    # One that no client can ask for would leave without a check those that are meant. So would an
    # empty list, and "*", which means all of them to Socket.IO's handlers alone.
    checked = frozenset(namespaces)
    if not checked or not all(isinstance(each, str) and each[:1] == "/" for each in checked):
        raise ConfigError(
            'namespaces must be a list such as ["/", "/chat"], each with its slash; leave it out, '
            "and all are tracked"
        )
    return checked


@dataclass(slots=True)
class _Attempt:
    """A connect packet that is being handled, and the socket that it made."""

    eio_sid: str
    socket: _Socket | None = None


@dataclass(eq=False, slots=True)
class _Socket:
    sid: str
    namespace: str
    eio_sid: str
    admitted: Admitted | None = None
    session: Session | AsyncSession | None = None
    is_open: bool = False
