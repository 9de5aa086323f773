"""`AsyncUserSessions`: what an app holds where calls are awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from ..dispatch import dispatch
from ..errors import ConnectRefused, DisconnectCode
from ..fetch import Fetch
from ..flows import Flow, Reply, Request, arun
from ..live import AsyncClose, AsyncSession
from ..models import ConnectionInfo, ConnectRequest, Disconnect, Identity
from ..operations import Operations
from ..proxy import Call, ConnectCallable, ConnectProxy, as_proxy, call_awaited
from ..stores.base import AsyncStore, StoreRequest
from ..stores.memory import MemoryStore
from ..strictjson import JSON
from ..tokens import Verifier

if TYPE_CHECKING:
    from ..fetchers import AsyncFetcher

__all__ = ["AsyncUserSessions"]

T = TypeVar("T")

_POLL = 0.01


class AsyncUserSessions:
    """The sessions of your users, for asyncio: FastAPI, Starlette, aiohttp, Django's async views.

    Args:
        verifier: verifies the connection tokens, usually a `TokenVerifier`; None refuses tokens.
        connect_proxy: decides on connections without a token: a callable, or an
            `HttpConnectProxy`; None refuses them.
        store: where sessions are; None is a `MemoryStore` of its own, for this process alone.
        allow_anonymous: whether a connection of the user `""` is let in.

    Raises:
        ConfigError: if `connect_proxy` is not a proxy.

    >>> sessions = AsyncUserSessions()
    >>> async def serve():
    ...     async with sessions.connect(user="42", transport="websocket", app_name="web"):
    ...         return [info.app_name for info in (await sessions.user_connections("42")).values()]
    >>> asyncio.run(serve())
    ['web']
    """

    def __init__(
        self,
        verifier: Verifier | None = None,
        *,
        connect_proxy: ConnectProxy | ConnectCallable | None = None,
        store: AsyncStore | None = None,
        allow_anonymous: bool = False,
    ) -> None:
        proxy = None if connect_proxy is None else as_proxy(connect_proxy)
        self._store: AsyncStore = MemoryStore() if store is None else store
        self.operations = Operations(
            self._store.node,
            verifier=verifier,
            connect_proxy=proxy,
            allow_anonymous=allow_anonymous,
        )
        self._fetcher: AsyncFetcher | None = None
        self._closed = False

    @asynccontextmanager
    async def connect(
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
        close: AsyncClose | None = None,
    ) -> AsyncGenerator[AsyncSession, None]:
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
                so that the block ends. It may be async; or await `session.closed` instead.

        Raises:
            ConnectRefused: if the connection may not be made; close it with its code and reason.
            InvalidValue: if a value is outside of its bounds, or two of `token`, `identity` and
                `user` are given.

        >>> sessions = AsyncUserSessions()
        >>> async def serve():
        ...     async with sessions.connect(user="42", transport="websocket") as session:
        ...         await sessions.disconnect("42")
        ...         return await session.closed
        >>> asyncio.run(serve())
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
        admitted = await self.run(self.operations.admit(request, identity=identity, user=user))
        async with self.hold(request, admitted, close=close) as session:
            yield session

    @asynccontextmanager
    async def hold(
        self, request: ConnectRequest, identity: Identity, *, close: AsyncClose | None = None
    ) -> AsyncGenerator[AsyncSession, None]:
        """Hold the session of a connection that was admitted; `connect` does both."""
        if self._closed:
            raise ConnectRefused(DisconnectCode.SHUTDOWN)
        session = AsyncSession(request.client, identity, close)
        try:
            await self.run(self.operations.register(request, identity, session.tell))
            yield session
        finally:
            self._store.end(identity.user, request.client)
            session.end()

    async def user_connections(self, user: str) -> dict[str, ConnectionInfo]:
        """List a user's connections by client ID, oldest first.

        Raises:
            InvalidValue: if `user` is not a string, or too long.

        >>> sessions = AsyncUserSessions()
        >>> async def serve():
        ...     identity = Identity("42", meta={"plan": "pro"})
        ...     async with sessions.connect(identity=identity, transport="sse"):
        ...         return [info.meta for info in (await sessions.user_connections("42")).values()]
        >>> asyncio.run(serve())
        [{'plan': 'pro'}]
        """
        entries = await self.run(self.operations.user_connections(user))
        return {client: ConnectionInfo(entry) for client, entry in entries.items()}

    async def disconnect(
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

        >>> sessions = AsyncUserSessions()
        >>> async def serve():
        ...     async with sessions.connect(user="42", transport="websocket") as session:
        ...         return await sessions.disconnect("42") == (session.client,)
        >>> asyncio.run(serve())
        True
        """
        return await self.run(
            self.operations.disconnect(
                user, client=client, whitelist=whitelist, code=code, reason=reason
            )
        )

    async def dispatch(self, body: bytes) -> bytes:
        """Answer raw commands, for a transport of your own; for any bytes, and never an exception.

        API keys are not asked for: whoever can reach this may list and close everything.

        Args:
            body: one or more `{"method": M, "params": {...}}`, at most 65536 bytes.

        Returns:
            As many replies, one a line: `{"result": {...}}` or `{"error": {"code", "message"}}`.

        >>> command = b'{"method": "user_connections", "params": {"user": "42"}}'
        >>> asyncio.run(AsyncUserSessions().dispatch(command))
        b'{"result":{"connections":{}}}'
        """
        return await self.run(dispatch(self.operations, body))

    async def aclose(self, *, timeout: float = 5.0) -> None:
        """End all sessions of this process with 3001 `shutdown`, and refuse new ones.

        Args:
            timeout: seconds to wait for their blocks to end.

        >>> sessions = AsyncUserSessions()
        >>> async def serve():
        ...     await sessions.aclose()
        ...     async with sessions.connect(user="42", transport="websocket"):
        ...         pass
        >>> asyncio.run(serve())
        Traceback (most recent call last):
        usersessions.errors.ConnectRefused: connection refused: 3001 shutdown
        """
        self._closed = True
        registry = self.operations.node.registry
        registry.disconnect_all(Disconnect.of(DisconnectCode.SHUTDOWN))
        deadline = time.monotonic() + timeout
        while registry.counts()[0] and time.monotonic() < deadline:
            await asyncio.sleep(_POLL)
        if self._fetcher is not None:
            await self._fetcher.aclose()

    async def run(self, flow: Flow[T]) -> T:
        """Drive one of this library's flows with what this object holds."""
        return await arun(flow, self._answer)

    async def _answer(self, request: Request) -> Reply:
        if isinstance(request, StoreRequest):
            return await self._store.aanswer(request)
        if isinstance(request, Fetch):
            return await self._fetching().fetch(request)
        if isinstance(request, Call):
            return await call_awaited(request)
        raise TypeError(f"nothing answers {type(request).__name__}")

    def _fetching(self) -> AsyncFetcher:
        if self._fetcher is None:
            # Only here is httpx needed, which is an extra.
            from ..fetchers import AsyncFetcher

            self._fetcher = AsyncFetcher()
        return self._fetcher
