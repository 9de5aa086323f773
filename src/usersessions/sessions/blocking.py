"""`UserSessions`: what an app holds where calls block."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ..callbacks import call_plain, is_async
from ..dispatch import dispatch
from ..errors import ConfigError, ConnectRefused, InvalidValue, StoreUnavailable
from ..fetch import Fetch
from ..flows import Flow, Reply, Request, run
from ..live import Close, Session
from ..models import ConnectRequest, Disconnect, Identity, SessionLimit
from ..node import NodeInfo
from ..operations import Admitted, Operations, time_left
from ..own_sessions import Caller, OwnOperations
from ..proxy import (
    Call,
    ConnectCallable,
    ConnectProxy,
    as_proxy,
    call_blocking,
    check_blocking,
)
from ..records import Connections
from ..stores.base import Store, StoreRequest
from ..stores.memory import MemoryStore
from ..strictjson import JSON
from ..tokens import Verifier
from .blocking_control import Control
from .blocking_own import OwnSessions
from .events import not_registered, session_began, session_ended
from .expiry import ThreadExpiry

if TYPE_CHECKING:
    from ..fetchers import BlockingFetcher

__all__ = ["UserSessions"]

T = TypeVar("T")

OnConnect: TypeAlias = Callable[[Session], None]
OnDisconnect: TypeAlias = Callable[[Session, Disconnect, float], None]


class UserSessions(Control):
    """The sessions of your users, for code that blocks: threads, WSGI apps, scripts.

    Args:
        verifier: verifies the connection tokens, usually a `TokenVerifier`; None refuses tokens.
        connect_proxy: decides on connections without a token: a callable, or an
            `HttpConnectProxy`; None refuses them.
        store: where sessions are; None is a `MemoryStore` of its own, for this process alone.
        allow_anonymous: whether a connection of the user `""` is let in.
        limit: how many sessions a user may have at once; None is any number.
        on_connect: called with each session once it is registered.
        on_disconnect: called with each session after it is gone, the `Disconnect` it ended with
            (3000 where the connection just went), and how many seconds it lived.
        end_others_min_age: how old a login has to be to end other sessions of its user by `own`, in
            seconds; 0 is any age.

    Attributes:
        store: where sessions are.
        operations: the logic behind it, for whoever writes an adapter.

    Raises:
        ConfigError: if `connect_proxy` is not a proxy, one of the callables has to be awaited, or
            another value cannot work.

    >>> sessions = UserSessions()
    >>> with sessions.connect(user="42", transport="websocket", app_name="web") as session:
    ...     [info.app_name for info in sessions.user_connections("42").values()]
    ['web']
    >>> sessions.user_connections("42")
    {}
    """

    def __init__(
        self,
        verifier: Verifier | None = None,
        *,
        connect_proxy: ConnectProxy | ConnectCallable | None = None,
        store: Store | None = None,
        allow_anonymous: bool = False,
        limit: SessionLimit | None = None,
        on_connect: OnConnect | None = None,
        on_disconnect: OnDisconnect | None = None,
        end_others_min_age: float = 0.0,
    ) -> None:
        proxy = None if connect_proxy is None else as_proxy(connect_proxy)
        check_blocking(proxy)
        for callback in (on_connect, on_disconnect):
            if callback is not None and is_async(callback):
                raise ConfigError(
                    "UserSessions cannot await: make on_connect and on_disconnect plain functions, "
                    "or use AsyncUserSessions"
                )
        self.store: Store = MemoryStore() if store is None else store
        self.operations = Operations(
            self.store.node,
            verifier=verifier,
            connect_proxy=proxy,
            allow_anonymous=allow_anonymous,
            limit=limit,
            end_others_min_age=end_others_min_age,
        )
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._expiry = ThreadExpiry(self.store.node)
        self._keeper = _Keeper(self)
        self._fetchers: dict[str, BlockingFetcher] = {}

    @contextmanager
    def connect(
        self,
        *,
        token: str | None = None,
        identity: Identity | None = None,
        user: str | None = None,
        transport: str,
        protocol: str = "json",
        app_name: str | None = None,
        app_version: str | None = None,
        data: JSON = None,
        headers: Mapping[str, str] | None = None,
        remote_addr: str | None = None,
        user_agent: str | None = None,
        close: Close | None = None,
    ) -> Generator[Session, None, None]:
        """Hold a session: registered inside the block, gone after it, whatever ends the block.

        Give the `token` of the connection, or the `identity` or just the `user` where your app has
        authenticated already, or none of them to ask the connect proxy.

        Args:
            token: the connection JWT.
            identity: who is behind the connection.
            user: their ID alone, where there is nothing more to say.
            transport: how the connection is made, as lists show it: "websocket", "sse", ...
            protocol: the encoding of its messages, as lists show it.
            app_name: the client's app name.
            app_version: the client's app version.
            data: any JSON value from the client, for the connect proxy.
            headers: HTTP headers from the client, names in lower case, for the connect proxy.
            remote_addr: the client's address, for lists.
            user_agent: what the client says it is, for lists.
            close: told the `Disconnect` when the session has to end; it makes the connection end,
                so that the block ends.

        Raises:
            ConnectRefused: if the connection may not be made; close it with its code and reason.
            InvalidValue: if a value is outside of its bounds, or two of `token`, `identity` and
                `user` are given.

        >>> sessions = UserSessions()
        >>> with sessions.connect(user="42", transport="websocket", close=print) as session:
        ...     closed = sessions.disconnect("42", timeout=0)
        Disconnect(code=3503, reason='force disconnect')
        """
        request = ConnectRequest(
            self.operations.node.client_ids.draw(),
            transport,
            protocol=protocol,
            token=token,
            name=app_name,
            version=app_version,
            data=data,
            headers=headers or {},
            remote_addr=remote_addr,
            user_agent=user_agent,
        )
        admitted = self.run(self.operations.admit(request, identity=identity, user=user))
        with self.hold(admitted, close=close) as session:
            yield session

    @contextmanager
    def hold(
        self, admitted: Admitted, *, close: Close | None = None
    ) -> Generator[Session, None, None]:
        """Hold the session of a connection that was admitted; `connect` does both.

        Raises:
            ConnectRefused: if the session may not be; close it with its code and reason.
            InvalidValue: if it is held already.
        """
        client, user = admitted.request.client, admitted.identity.user
        session = Session(
            client,
            admitted.identity,
            admitted.facts.connected_at,
            close=close,
            keeper=self._keeper,
        )
        try:
            self.run(self.operations.register(admitted, session.tell))
        except (ConnectRefused, InvalidValue):
            # Nothing was registered; under this client ID, another session may be.
            raise
        except BaseException as error:
            # It may have been registered all the same, before a cancellation for instance.
            self.store.end(user, client)
            session.end()
            if isinstance(error, StoreUnavailable):
                raise not_registered(client, error) from error
            raise
        try:
            if admitted.facts.expire_at is not None:
                self.arm()
            session_began(admitted)
            if self._on_connect is not None:
                call_plain(self._on_connect, session, what="on_connect", client=client)
            yield session
        finally:
            held = self.store.end(user, client)
            ended = session.end()
            # It is not held here any more where this process was forked meanwhile.
            if held:
                self._gone(session, ended)

    def user_connections(self, user: str) -> Connections:
        """List a user's connections by client ID, oldest first.

        What it gives is a dict; its `partial` is true if there may be more than could be seen.

        Raises:
            InvalidValue: if `user` is not a string, or too long.
            StoreUnavailable: if the store did not answer in time.

        >>> sessions = UserSessions()
        >>> identity = Identity("42", meta={"plan": "pro"})
        >>> with sessions.connect(identity=identity, transport="sse"):
        ...     [(info.transport, info.meta) for info in sessions.user_connections("42").values()]
        [('sse', {'plan': 'pro'})]
        """
        return self.run(self.operations.user_connections(user))

    def info(self) -> tuple[NodeInfo, ...]:
        """List the processes that share the store, each with what it says of itself.

        Raises:
            StoreUnavailable: if the store did not answer in time.

        >>> [node.num_clients for node in UserSessions().info()]
        [0]
        """
        return self.run(self.operations.info())

    def authenticate(self, token: str) -> Identity:
        """Say who a token speaks for; the one call for your ordinary endpoints.

        Unlike a verifier alone, it refuses what was revoked, invalidated or blocked here.

        Raises:
            TokenExpired: if the token was good until its `exp`.
            TokenRevoked: if it, or its user, is kept out.
            KeysUnavailable: if its keys cannot be fetched now.
            TokenError: if it is refused for any other reason.
            StoreUnavailable: if the store did not say in time whether it is kept out.

        >>> UserSessions().authenticate("not a token")
        Traceback (most recent call last):
        usersessions.errors.TokenError: no token verifier is configured
        """
        return self.run(self.operations.authenticate(token))

    def own(self, caller: Caller) -> OwnSessions:
        """A user's own sessions: to list, to end one, to end all others.

        Args:
            caller: the user's token, or the identity that your app has authenticated.

        >>> sessions = UserSessions()
        >>> with sessions.connect(user="42", transport="websocket", app_name="web") as session:
        ...     own = sessions.own(Identity("42")).list(current=session.client)
        ...     [(one.app_name, one.current) for one in own]
        [('web', True)]
        """
        return OwnSessions(self.run, OwnOperations(self.operations, caller))

    def dispatch(self, body: bytes) -> bytes:
        """Answer raw commands, for a transport of your own; for any bytes, and never an exception.

        API keys are not asked for: whoever can reach this may list and close everything.

        Args:
            body: one or more `{"method": M, "params": {...}}`, at most 65536 bytes.

        Returns:
            As many replies, one a line: `{"result": {...}}` or `{"error": {"code", "message"}}`.

        >>> UserSessions().dispatch(b'{"method": "user_connections", "params": {"user": "42"}}')
        b'{"result":{"connections":{}}}'
        """
        return self.run(dispatch(self.operations, body))

    def join(self) -> None:
        """Be listed by `info` from now on; a process that connects somebody is so anyway.

        A server does this when it starts, as `lifespan` does; a script need not.

        >>> UserSessions().join()
        """
        self.store.join()

    def drain(self, *, timeout: float = 5.0) -> int:
        """Refuse new sessions, end the open ones with 3001 `shutdown`, and give how many are left.

        Few sessions are ended at once. Many are ended in batches over the time given, so that not
        all their clients come back to your other servers in the same moment.

        Args:
            timeout: seconds that this may take; it takes less where all sessions are gone.

        Raises:
            InvalidValue: if `timeout` is no number.

        >>> UserSessions().drain()
        0
        """
        for pause in self.operations.node.drain(timeout):
            time.sleep(pause)
        return self.operations.node.registry.counts()[0]

    def close(self, *, timeout: float = 5.0) -> None:
        """Drain, and release what this object holds: timer, HTTP connections, and its store's.

        A store that is used again afterwards starts anew, as by another object that shares it.

        Args:
            timeout: seconds that draining may take; the store gets what is left, and a little.

        Raises:
            InvalidValue: if `timeout` is no number.

        >>> sessions = UserSessions()
        >>> sessions.close()
        >>> with sessions.connect(user="42", transport="websocket"):
        ...     pass
        Traceback (most recent call last):
        usersessions.errors.ConnectRefused: connection refused: 3001 shutdown
        """
        began = time.monotonic()
        self.drain(timeout=timeout)
        self._expiry.stop()
        for fetcher in self._fetchers.values():
            fetcher.close()
        self.store.close(timeout=time_left(timeout, since=began))

    def run(self, flow: Flow[T]) -> T:
        """Drive one of this library's flows with what this object holds."""
        return run(flow, self._answer)

    def arm(self) -> None:
        """Have the timer wait for the first session to expire."""
        self._expiry.arm()

    def _gone(self, session: Session, disconnect: Disconnect) -> None:
        lived = session_ended(session, disconnect, now=self.operations.node.clock())
        if self._on_disconnect is not None:
            call_plain(
                self._on_disconnect,
                session,
                disconnect,
                lived,
                what="on_disconnect",
                client=session.client,
            )

    def _answer(self, request: Request) -> Reply:
        if isinstance(request, StoreRequest):
            return self.store.answer(request)
        if isinstance(request, Fetch):
            return self._fetching().fetch(request)
        if isinstance(request, Call):
            return call_blocking(request)
        raise TypeError(f"nothing answers {type(request).__name__}")

    def _fetching(self) -> BlockingFetcher:
        # Only here is httpx needed, which is an extra.
        from ..fetchers import BlockingFetcher

        # `setdefault` is atomic: two threads never get two fetchers, each with its own thread.
        return self._fetchers.setdefault("only", BlockingFetcher())


class _Keeper:
    """What sessions ask of the facade."""

    def __init__(self, sessions: UserSessions) -> None:
        self._sessions = sessions

    def touch(self, client: str, user: str) -> None:
        self._sessions.store.touch(user, client)

    def rebind(self, client: str, user: str, token: str) -> None:
        self._sessions.run(self._sessions.operations.rebind(client, user, token))
        self._sessions.arm()
