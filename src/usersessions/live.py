"""A session as the app holds it while its connection lives: what `connect` gives.

1. The first disconnect wins: the registry calls `tell` at most once.
2. `tell` never blocks on the connection and never raises; an exception of the app's `close` is
   logged and harms nobody else.
3. Once the block is over, `close` is not called any more.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from .errors import DisconnectCode
from .models import Disconnect, Identity

__all__ = ["AsyncClose", "AsyncSession", "Close", "Session"]

logger = logging.getLogger(__name__)

Close: TypeAlias = Callable[[Disconnect], None]
AsyncClose: TypeAlias = Callable[[Disconnect], "Awaitable[None] | None"]


class _Live:
    __slots__ = ("client", "disconnect", "labels", "user")

    def __init__(self, client: str, identity: Identity) -> None:
        self.client = client
        self.user = identity.user
        self.labels: Mapping[str, str] = identity.labels
        self.disconnect: Disconnect | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(client={self.client!r}, user={self.user!r})"


class Session(_Live):
    """A live session in a blocking app.

    Attributes:
        client: the ID of this connection, a random UUID.
        user: the ID of its user; `""` is the anonymous user.
        labels: the labels of its identity.
        disconnect: how the session was told to end; None as long as it was not.
    """

    __slots__ = ("_close",)

    def __init__(self, client: str, identity: Identity, close: Close | None) -> None:
        super().__init__(client, identity)
        self._close = close

    def tell(self, disconnect: Disconnect) -> None:
        """Call the app's `close`, in the thread that asked for the disconnect."""
        self.disconnect = disconnect
        close, self._close = self._close, None
        if close is None:
            return
        try:
            close(disconnect)
        except Exception:
            logger.exception("the close callback of client %s failed", self.client)

    def end(self) -> None:
        """Note that the block is over: `close` is not called any more."""
        self._close = None


class AsyncSession(_Live):
    """A live session in an asyncio app.

    Attributes:
        client: the ID of this connection, a random UUID.
        user: the ID of its user; `""` is the anonymous user.
        labels: the labels of its identity.
        disconnect: how the session was told to end; None as long as it was not.
    """

    __slots__ = ("_close", "_loop", "_outcome")

    def __init__(self, client: str, identity: Identity, close: AsyncClose | None) -> None:
        super().__init__(client, identity)
        self._close = close
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

    def tell(self, disconnect: Disconnect) -> None:
        """Have the session's own event loop run the app's `close`; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._deliver, disconnect)
        except RuntimeError:
            logger.warning("client %s outlived its event loop", self.client)

    def end(self) -> None:
        """Note that the block is over: `close` is not called any more, and nobody waits on."""
        self._close = None
        if self.disconnect is None:
            self._settle(Disconnect.of(DisconnectCode.CONNECTION_CLOSED))

    def _deliver(self, disconnect: Disconnect) -> None:
        if self.disconnect is not None:
            return
        self._settle(disconnect)
        close, self._close = self._close, None
        if close is None:
            return
        try:
            result = close(disconnect)
        except Exception:
            logger.exception("the close callback of client %s failed", self.client)
            return
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(result)
            _closing.add(task)
            task.add_done_callback(self._close_done)

    def _settle(self, disconnect: Disconnect) -> None:
        self.disconnect = disconnect
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(disconnect)

    def _close_done(self, task: asyncio.Future[None]) -> None:
        _closing.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error(
                "the close callback of client %s failed", self.client, exc_info=task.exception()
            )


# An event loop holds its tasks weakly: without this, a close could be collected half way.
_closing: set[asyncio.Future[None]] = set()
