"""A session as the app holds it while its connection lives: what `connect` gives.

1. The first disconnect wins: the registry has `tell` called at most once.
2. `tell` never blocks on the connection and never raises; an exception of the app's `close` is
   logged and harms nobody else.
3. Once the block is over, `close` is not called any more, and how the session ended stays as it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias

from .callbacks import call_plain, call_soon
from .errors import DisconnectCode
from .models import Disconnect, Identity

__all__ = ["AsyncClose", "AsyncKeeper", "AsyncSession", "Close", "Keeper", "Session"]

logger = logging.getLogger(__name__)

Close: TypeAlias = Callable[[Disconnect], None]
AsyncClose: TypeAlias = Callable[[Disconnect], "Awaitable[None] | None"]

_ENDED = Disconnect.of(DisconnectCode.CONNECTION_CLOSED)


class Keeper(Protocol):
    """What a session asks of the facade that it belongs to."""

    def touch(self, client: str, user: str) -> None:
        """Note that a client was heard of."""

    def rebind(self, client: str, user: str, token: str) -> None:
        """Have a session belong to another token."""


class AsyncKeeper(Protocol):
    """The same, awaited."""

    def touch(self, client: str, user: str) -> None:
        """Note that a client was heard of."""

    async def rebind(self, client: str, user: str, token: str) -> None:
        """Have a session belong to another token."""


class _Live:
    __slots__ = ("client", "connected_at", "disconnect", "labels", "user")

    def __init__(self, client: str, identity: Identity, connected_at: float) -> None:
        self.client = client
        self.user = identity.user
        self.labels: Mapping[str, str] = identity.labels
        self.connected_at = connected_at
        self.disconnect: Disconnect | None = None

    def _note(self, disconnect: Disconnect) -> Disconnect:
        # How it ends; the first one counts.
        if self.disconnect is None:
            self.disconnect = disconnect
        return self.disconnect

    def __repr__(self) -> str:
        return f"{type(self).__name__}(client={self.client!r}, user={self.user!r})"


class Session(_Live):
    """A live session in a blocking app.

    Attributes:
        client: the ID of this connection, a random UUID.
        user: the ID of its user; `""` is the anonymous user.
        labels: the labels of its identity.
        connected_at: when it was registered, in seconds since the epoch.
        disconnect: how the session ends: as it was told to, or with 3000 once its block is over;
            None before that.
    """

    __slots__ = ("_close", "_keeper")

    def __init__(
        self,
        client: str,
        identity: Identity,
        connected_at: float,
        *,
        close: Close | None,
        keeper: Keeper,
    ) -> None:
        super().__init__(client, identity, connected_at)
        self._close = close
        self._keeper = keeper

    def touch(self) -> None:
        """Note that the client was heard of; call it when a message comes in."""
        self._keeper.touch(self.client, self.user)

    def refresh(self, token: str) -> None:
        """Have the session belong to another token of the same user, and expire with that one.

        Raises:
            TokenError: if the token is refused, or another user's; the session goes on as it was.
            ConnectRefused: if the session has ended.
            StoreUnavailable: if the store did not answer in time; nothing may have changed.
        """
        self._keeper.rebind(self.client, self.user, token)

    def tell(self, disconnect: Disconnect) -> None:
        """Pass a disconnect on to the app's `close`; called once, from any thread."""
        self._note(disconnect)
        close, self._close = self._close, None
        if close is not None:
            call_plain(close, disconnect, what="close", client=self.client)

    def end(self) -> Disconnect:
        """Note that the block is over, so that nobody waits on, and give how it ended."""
        self._close = None
        return self._note(_ENDED)


class AsyncSession(_Live):
    """A live session in an asyncio app.

    Attributes:
        client: the ID of this connection, a random UUID.
        user: the ID of its user; `""` is the anonymous user.
        labels: the labels of its identity.
        connected_at: when it was registered, in seconds since the epoch.
        disconnect: how the session ends: as it was told to, or with 3000 once its block is over;
            None before that.
    """

    __slots__ = ("_close", "_keeper", "_loop", "_outcome")

    def __init__(
        self,
        client: str,
        identity: Identity,
        connected_at: float,
        *,
        close: AsyncClose | None,
        keeper: AsyncKeeper,
    ) -> None:
        super().__init__(client, identity, connected_at)
        self._close = close
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[Disconnect] | None = None

    @property
    def closed(self) -> asyncio.Future[Disconnect]:
        """Await it to learn how the session ends: the disconnect it is told, or 3000 when its
        block ends untold.

        Each use gives a future of its own: cancelling one, as `asyncio.wait_for` does, cancels no
        other.
        """
        if self._outcome is None:
            self._outcome = self._loop.create_future()
            if self.disconnect is not None:
                self._outcome.set_result(self.disconnect)
        return asyncio.shield(self._outcome)

    def touch(self) -> None:
        """Note that the client was heard of; call it when a message comes in."""
        self._keeper.touch(self.client, self.user)

    async def refresh(self, token: str) -> None:
        """Have the session belong to another token of the same user, and expire with that one.

        Raises:
            TokenError: if the token is refused, or another user's; the session goes on as it was.
            ConnectRefused: if the session has ended.
            StoreUnavailable: if the store did not answer in time; nothing may have changed.
        """
        await self._keeper.rebind(self.client, self.user, token)

    def tell(self, disconnect: Disconnect) -> None:
        """Pass a disconnect on to the app's `close`; called once, from any thread."""
        # At once: where the block ends before its loop gets to it, this is how it ended.
        self._note(disconnect)
        try:
            self._loop.call_soon_threadsafe(self._deliver, disconnect)
        except RuntimeError:
            logger.warning("client %s outlived its event loop", self.client)

    def end(self) -> Disconnect:
        """Note that the block is over, so that nobody waits on, and give how it ended."""
        self._close = None
        ended = self._note(_ENDED)
        self._settle(ended)
        return ended

    def _deliver(self, disconnect: Disconnect) -> None:
        self._settle(disconnect)
        close, self._close = self._close, None
        if close is not None:
            call_soon(close, disconnect, what="close", client=self.client)

    def _settle(self, disconnect: Disconnect) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(disconnect)
