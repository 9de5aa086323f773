"""`AsyncUserSessions`: what an app holds where calls are awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ..callbacks import call_awaited as call_back
from ..callbacks import call_soon
from ..dispatch import dispatch
from ..errors import ConnectRefused, InvalidValue, StoreUnavailable
from ..fetch import Fetch
from ..flows import Flow, Reply, Request, arun
from ..live import AsyncClose, AsyncSession
from ..models import ConnectRequest, Disconnect, Identity, SessionLimit
from ..node import NodeInfo
from ..operations import Admitted, Operations, time_left
from ..own_sessions import Caller, OwnOperations
from ..proxy import Call, ConnectCallable, ConnectProxy, as_proxy, call_awaited
from ..records import Connections
from ..stores.base import AsyncStore, StoreRequest
from ..stores.memory import MemoryStore
from ..strictjson import JSON
from ..tokens import Verifier
from .aio_control import AsyncControl
from .aio_own import AsyncOwnSessions
from .events import not_registered, session_began, session_ended
from .expiry import LoopExpiry

if TYPE_CHECKING:
    from ..fetchers import AsyncFetcher

__all__ = ["AsyncUserSessions"]

T = TypeVar("T")

OnConnect: TypeAlias = "Callable[[AsyncSession], Awaitable[None] | None]"
OnDisconnect: TypeAlias = "Callable[[AsyncSession, Disconnect, float], Awaitable[None] | None]"


class AsyncUserSessions(AsyncControl):
    """The sessions of your users, for asyncio: FastAPI, Starlette, aiohttp, Django's async views.

    Args:
        verifier: verifies the connection tokens, usually a `TokenVerifier`; None refuses tokens.
        connect_proxy: decides on connections without a token: a callable, or an
            `HttpConnectProxy`; None refuses them.
        store: where sessions are; None is a `MemoryStore` of its own, for this process alone.
        allow_anonymous: whether a connection of the user `""` is let in.
        limit: how many sessions a user may have at once; None is any number.
        on_connect: called with each session once it is registered; it may be async.
        on_disconnect: called with each session after it is gone, the `Disconnect` it ended with
            (3000 where the connection just went), and how many seconds it lived; it may be async.
        end_others_min_age: how old a login has to be to end other sessions of its user by `own`, in
            seconds; 0 is any age.

    Attributes:
        store: where sessions are.
        operations: the logic behind it, for whoever writes an adapter.

    Raises:
        ConfigError: if `connect_proxy` is not a proxy, or another value cannot work.

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
        limit: SessionLimit | None = None,
        on_connect: OnConnect | None = None,
        on_disconnect: OnDisconnect | None = None,
        end_others_min_age: float = 0.0,
    ) -> None:
        proxy = None if connect_proxy is None else as_proxy(connect_proxy)
        self.store: AsyncStore = MemoryStore() if store is None else store
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
        self._expiry = LoopExpiry(self.store.node)
        self._keeper = _Keeper(self)
        self._fetcher: AsyncFetcher | None = None

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
        remote_addr: str | None = None,
        user_agent: str | None = None,
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
            remote_addr: the client's address, for lists.
            user_agent: what the client says it is, for lists.
            close: told the `Disconnect` when the session has to end; it makes the connection end,
                so that the block ends. It may be async; or await `session.closed` instead.

        Raises:
            ConnectRefused: if the connection may not be made; close it with its code and reason.
            InvalidValue: if a value is outside of its bounds, or two of `token`, `identity` and
                `user` are given.

        >>> sessions = AsyncUserSessions()
        >>> async def serve():
        ...     async with sessions.connect(user="42", transport="websocket") as session:
        ...         await sessions.disconnect("42", timeout=0)
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
            remote_addr=remote_addr,
            user_agent=user_agent,
        )
        admitted = await self.run(self.operations.admit(request, identity=identity, user=user))
        async with self.hold(admitted, close=close) as session:
            yield session

    @asynccontextmanager
    async def hold(
        self, admitted: Admitted, *, close: AsyncClose | None = None
    ) -> AsyncGenerator[AsyncSession, None]:
        """Hold the session of a connection that was admitted; `connect` does both.

        Raises:
            ConnectRefused: if the session may not be; close it with its code and reason.
            InvalidValue: if it is held already.
        """
        client, user = admitted.request.client, admitted.identity.user
        session = AsyncSession(
            client,
            admitted.identity,
            admitted.facts.connected_at,
            close=close,
            keeper=self._keeper,
        )
        try:
            await self.run(self.operations.register(admitted, session.tell))
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
                await call_back(self._on_connect, session, what="on_connect", client=client)
            yield session
        finally:
            held = self.store.end(user, client)
            ended = session.end()
            # It is not held here any more where this process was forked meanwhile.
            if held:
                self._gone(session, ended)

    async def user_connections(self, user: str) -> Connections:
        """List a user's connections by client ID, oldest first.

        What it gives is a dict; its `partial` is true if there may be more than could be seen.

        Raises:
            InvalidValue: if `user` is not a string, or too long.
            StoreUnavailable: if the store did not answer in time.

        >>> sessions = AsyncUserSessions()
        >>> async def serve():
        ...     identity = Identity("42", meta={"plan": "pro"})
        ...     async with sessions.connect(identity=identity, transport="sse"):
        ...         return [info.meta for info in (await sessions.user_connections("42")).values()]
        >>> asyncio.run(serve())
        [{'plan': 'pro'}]
        """
        return await self.run(self.operations.user_connections(user))

    async def info(self) -> tuple[NodeInfo, ...]:
        """List the processes that share the store, each with what it says of itself.

        Raises:
            StoreUnavailable: if the store did not answer in time.

        >>> [node.num_clients for node in asyncio.run(AsyncUserSessions().info())]
        [0]
        """
        return await self.run(self.operations.info())

    async def authenticate(self, token: str) -> Identity:
        """Say who a token speaks for; the one call for your ordinary endpoints.

        Unlike a verifier alone, it refuses what was revoked, invalidated or blocked here.

        Raises:
            TokenExpired: if the token was good until its `exp`.
            TokenRevoked: if it, or its user, is kept out.
            KeysUnavailable: if its keys cannot be fetched now.
            TokenError: if it is refused for any other reason.
            StoreUnavailable: if the store did not say in time whether it is kept out.

        >>> asyncio.run(AsyncUserSessions().authenticate("not a token"))
        Traceback (most recent call last):
        usersessions.errors.TokenError: no token verifier is configured
        """
        return await self.run(self.operations.authenticate(token))

    def own(self, caller: Caller) -> AsyncOwnSessions:
        """A user's own sessions: to list, to end one, to end all others.

        Args:
            caller: the user's token, or the identity that your app has authenticated.

        >>> sessions = AsyncUserSessions()
        >>> async def serve():
        ...     async with sessions.connect(user="42", transport="sse", app_name="web") as session:
        ...         own = await sessions.own(Identity("42")).list(current=session.client)
        ...         return [(one.app_name, one.current) for one in own]
        >>> asyncio.run(serve())
        [('web', True)]
        """
        return AsyncOwnSessions(self.run, OwnOperations(self.operations, caller))

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

    def join(self) -> None:
        """Be listed by `info` from now on; a process that connects somebody is so anyway.

        A server does this when it starts, as `lifespan` does; a script need not.

        >>> AsyncUserSessions().join()
        """
        self.store.join()

    async def drain(self, *, timeout: float = 5.0) -> int:
        """Refuse new sessions, end the open ones with 3001 `shutdown`, and give how many are left.

        Few sessions are ended at once. Many are ended in batches over the time given, so that not
        all their clients come back to your other servers in the same moment.

        Args:
            timeout: seconds that this may take; it takes less where all sessions are gone.

        Raises:
            InvalidValue: if `timeout` is no number.

        >>> asyncio.run(AsyncUserSessions().drain())
        0
        """
        for pause in self.operations.node.drain(timeout):
            await asyncio.sleep(pause)
        return self.operations.node.registry.counts()[0]

    async def aclose(self, *, timeout: float = 5.0) -> None:
        """Drain, and release what this object holds: timer, HTTP connections, and its store's.

        A store that is used again afterwards starts anew, as by another object that shares it.

        Args:
            timeout: seconds that draining may take; the store gets what is left, and a little.

        Raises:
            InvalidValue: if `timeout` is no number.

        >>> sessions = AsyncUserSessions()
        >>> async def serve():
        ...     await sessions.aclose()
        ...     async with sessions.connect(user="42", transport="websocket"):
        ...         pass
        >>> asyncio.run(serve())
        Traceback (most recent call last):
        usersessions.errors.ConnectRefused: connection refused: 3001 shutdown
        """
        began = time.monotonic()
        await self.drain(timeout=timeout)
        self._expiry.stop()
        if self._fetcher is not None:
            await self._fetcher.aclose()
        if not isinstance(self.store, MemoryStore):
            # It may wait for the network, and for threads to end.
            await asyncio.to_thread(self.store.close, timeout=time_left(timeout, since=began))

    async def run(self, flow: Flow[T]) -> T:
        """Drive one of this library's flows with what this object holds."""
        return await arun(flow, self._answer)

    def arm(self) -> None:
        """Have the timer wait for the first session to expire."""
        self._expiry.arm()

    def _gone(self, session: AsyncSession, disconnect: Disconnect) -> None:
        lived = session_ended(session, disconnect, now=self.operations.node.clock())
        if self._on_disconnect is not None:
            call_soon(
                self._on_disconnect,
                session,
                disconnect,
                lived,
                what="on_disconnect",
                client=session.client,
            )

    async def _answer(self, request: Request) -> Reply:
        if isinstance(request, StoreRequest):
            return await self.store.aanswer(request)
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


class _Keeper:
    """What sessions ask of the facade."""

    def __init__(self, sessions: AsyncUserSessions) -> None:
        self._sessions = sessions

    def touch(self, client: str, user: str) -> None:
        self._sessions.store.touch(user, client)

    async def rebind(self, client: str, user: str, token: str) -> None:
        await self._sessions.run(self._sessions.operations.rebind(client, user, token))
        self._sessions.arm()
