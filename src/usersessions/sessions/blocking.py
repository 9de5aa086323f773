"""`UserSessions`: what an app holds where calls block."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from ..dispatch import dispatch
from ..errors import ConnectRefused, DisconnectCode
from ..fetch import Fetch
from ..flows import Flow, Reply, Request, run
from ..live import Close, Session
from ..models import ConnectionInfo, ConnectRequest, Disconnect, Identity
from ..operations import Operations
from ..proxy import (
    Call,
    ConnectCallable,
    ConnectProxy,
    as_proxy,
    call_blocking,
    check_blocking,
)
from ..stores.base import Store, StoreRequest
from ..stores.memory import MemoryStore
from ..strictjson import JSON
from ..tokens import Verifier

if TYPE_CHECKING:
    from ..fetchers import BlockingFetcher

__all__ = ["UserSessions"]

T = TypeVar("T")

_POLL = 0.01


class UserSessions:
    """The sessions of your users, for code that blocks: threads, WSGI apps, scripts.

    Args:
        verifier: verifies the connection tokens, usually a `TokenVerifier`; None refuses tokens.
        connect_proxy: decides on connections without a token: a callable, or an
            `HttpConnectProxy`; None refuses them.
        store: where sessions are; None is a `MemoryStore` of its own, for this process alone.
        allow_anonymous: whether a connection of the user `""` is let in.

    Raises:
        ConfigError: if `connect_proxy` is not a proxy, or is one that has to be awaited.

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
    ) -> None:
        proxy = None if connect_proxy is None else as_proxy(connect_proxy)
        check_blocking(proxy)
        self._store: Store = MemoryStore() if store is None else store
        self.operations = Operations(
            self._store.node,
            verifier=verifier,
            connect_proxy=proxy,
            allow_anonymous=allow_anonymous,
        )
        self._fetchers: dict[str, BlockingFetcher] = {}
        self._closed = False

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
            close: told the `Disconnect` when the session has to end; it makes the connection end,
                so that the block ends.

        Raises:
            ConnectRefused: if the connection may not be made; close it with its code and reason.
            InvalidValue: if a value is outside of its bounds, or two of `token`, `identity` and
                `user` are given.

        >>> sessions = UserSessions()
        >>> with sessions.connect(user="42", transport="websocket", close=print) as session:
        ...     told = sessions.disconnect("42")
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
        )
        admitted = self.run(self.operations.admit(request, identity=identity, user=user))
        with self.hold(request, admitted, close=close) as session:
            yield session

    @contextmanager
    def hold(
        self, request: ConnectRequest, identity: Identity, *, close: Close | None = None
    ) -> Generator[Session, None, None]:
        """Hold the session of a connection that was admitted; `connect` does both."""
        if self._closed:
            raise ConnectRefused(DisconnectCode.SHUTDOWN)
        session = Session(request.client, identity, close)
        try:
            self.run(self.operations.register(request, identity, session.tell))
            yield session
        finally:
            self._store.end(identity.user, request.client)
            session.end()

    def user_connections(self, user: str) -> dict[str, ConnectionInfo]:
        """List a user's connections by client ID, oldest first.

        Raises:
            InvalidValue: if `user` is not a string, or too long.

        >>> sessions = UserSessions()
        >>> identity = Identity("42", meta={"plan": "pro"})
        >>> with sessions.connect(identity=identity, transport="sse"):
        ...     [(info.transport, info.meta) for info in sessions.user_connections("42").values()]
        [('sse', {'plan': 'pro'})]
        """
        entries = self.run(self.operations.user_connections(user))
        return {client: ConnectionInfo(entry) for client, entry in entries.items()}

    def disconnect(
        self,
        user: str,
        *,
        client: str | None = None,
        whitelist: Collection[str] = (),
        code: int = DisconnectCode.FORCE_DISCONNECT,
        reason: str | None = None,
    ) -> tuple[str, ...]:
        """Tell a user's connections to end, and give the client IDs that were told.

        Args:
            user: whose connections.
            client: only this one; None is all of them.
            whitelist: client IDs to leave alone.
            code: 3000 to 4999; 3000-3499 and 4000-4499 invite the client to reconnect.
            reason: for people, at most 123 bytes of UTF-8; None is the code's own.

        Raises:
            InvalidValue: if a value is outside of its bounds.

        >>> sessions = UserSessions()
        >>> with sessions.connect(user="42", transport="websocket") as session:
        ...     sessions.disconnect("42", client=session.client) == (session.client,)
        True
        """
        return self.run(
            self.operations.disconnect(
                user, client=client, whitelist=whitelist, code=code, reason=reason
            )
        )

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

    def close(self, *, timeout: float = 5.0) -> None:
        """End all sessions of this process with 3001 `shutdown`, and refuse new ones.

        Args:
            timeout: seconds to wait for their blocks to end.

        >>> sessions = UserSessions()
        >>> sessions.close()
        >>> with sessions.connect(user="42", transport="websocket"):
        ...     pass
        Traceback (most recent call last):
        usersessions.errors.ConnectRefused: connection refused: 3001 shutdown
        """
        self._closed = True
        registry = self.operations.node.registry
        registry.disconnect_all(Disconnect.of(DisconnectCode.SHUTDOWN))
        deadline = time.monotonic() + timeout
        while registry.counts()[0] and time.monotonic() < deadline:
            time.sleep(_POLL)
        for fetcher in self._fetchers.values():
            fetcher.close()

    def run(self, flow: Flow[T]) -> T:
        """Drive one of this library's flows with what this object holds."""
        return run(flow, self._answer)

    def _answer(self, request: Request) -> Reply:
        if isinstance(request, StoreRequest):
            return self._store.answer(request)
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
