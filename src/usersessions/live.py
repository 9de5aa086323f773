"""A session as the app holds it while its connection lives: what `connect` gives.

1. The first disconnect wins; it is set once, by the registry, under the registry's lock.
2. `tell` is called once, after that, outside of the lock; it runs or schedules the app's `close`.
3. An exception of the app's `close` is logged and harms nobody else.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from .errors import DisconnectCode
from .models import Disconnect

__all__ = ["AsyncClose", "AsyncSession", "Close", "LiveSession", "Session"]

logger = logging.getLogger("usersessions.live")

Close: TypeAlias = Callable[[Disconnect], None]
AsyncClose: TypeAlias = Callable[[Disconnect], "Awaitable[None] | None"]


class LiveSession(Protocol):
    """What the registry knows of a live session: how it ends."""

    disconnect: Disconnect | None

    def tell(self) -> None:
        """Pass `disconnect` on to the connection, without blocking."""


class Session:
    """A live session in a blocking app.

    Attributes:
        client: the ID of this connection, a random UUID.
        user: the ID of its user; `""` is the anonymous user.
        disconnect: how the session was told to end; None as long as it was not.
    """

    __slots__ = ("_close", "client", "disconnect", "user")

    def __init__(self, client: str, user: str, close: Close | None) -> None:
        self.client = client
        self.user = user
        self.disconnect: Disconnect | None = None
        self._close = close

    def __repr__(self) -> str:
        return f"{type(self).__name__}(client={self.client!r}, user={self.user!r})"

    def tell(self) -> None:
        """Call the app's `close` in the thread that asked for the disconnect."""
        if self._close is None or self.disconnect is None:
            return
        try:
            self._close(self.disconnect)
        except Exception:
            logger.exception("the close callback of client %s failed", self.client)


class AsyncSession:
    """A live session in an asyncio app.

    Attributes:
        client: the ID of this connection, a random UUID.
        user: the ID of its user; `""` is the anonymous user.
        disconnect: how the session was told to end; None as long as it was not.
    """

    __slots__ = ("_close", "_ended", "_loop", "_waiters", "client", "disconnect", "user")

    def __init__(self, client: str, user: str, close: AsyncClose | None) -> None:
        self.client = client
        self.user = user
        self.disconnect: Disconnect | None = None
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._waiters: list[asyncio.Future[Disconnect]] | None = None
        self._ended = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}(client={self.client!r}, user={self.user!r})"

    @property
    def closed(self) -> asyncio.Future[Disconnect]:
        """A future of how the session ends: the disconnect it is told, or 3000 when its block ends.

        Each use gives a future of its own, so that cancelling one (as `asyncio.wait_for` does)
        cancels no other.
        """
        waiter: asyncio.Future[Disconnect] = self._loop.create_future()
        if self.disconnect is not None:
            waiter.set_result(self.disconnect)
        elif self._ended:
            waiter.set_result(Disconnect.of(DisconnectCode.CONNECTION_CLOSED))
        else:
            pending = [other for other in self._waiters or () if not other.done()]
            self._waiters = [*pending, waiter]
        return waiter

    def tell(self) -> None:
        """Have the session's own event loop run the app's `close`; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            logger.warning("client %s outlived its event loop", self.client)

    def end(self) -> None:
        """Note that the block is over: `close` is not called any more, and nobody waits on."""
        self._ended = True
        self._wake(self.disconnect or Disconnect.of(DisconnectCode.CONNECTION_CLOSED))

    def _deliver(self) -> None:
        if self._ended or self.disconnect is None:
            return
        self._wake(self.disconnect)
        if self._close is None:
            return
        try:
            result = self._close(self.disconnect)
        except Exception:
            logger.exception("the close callback of client %s failed", self.client)
            return
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(result)
            _closing.add(task)
            task.add_done_callback(self._close_done)

    def _wake(self, disconnect: Disconnect) -> None:
        for waiter in self._waiters or ():
            if not waiter.done():
                waiter.set_result(disconnect)
        self._waiters = None

    def _close_done(self, task: asyncio.Future[None]) -> None:
        _closing.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error(
                "the close callback of client %s failed", self.client, exc_info=task.exception()
            )


# An event loop holds its tasks weakly: without this, a close could be collected half way.
_closing: set[asyncio.Future[None]] = set()
