"""A stream, held by a coroutine, whatever carries its frames.

1. A session is registered while its stream is being sent, and at no other time: it is registered
   by the coroutine that sends, and gone when that ends, whatever ends it.
2. No frame waits longer than `SEND_TIMEOUT` for a client that does not read: its session ends with
   3008 `slow`, and it is dropped, as nothing reaches it any more.
3. A client that leaves is no error: all that comes of it is `ClientGone`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TypeVar

from typing_extensions import Self

from ..errors import ConnectRefused, DisconnectCode
from ..live import AsyncSession
from ..models import Disconnect
from ..sessions import AsyncUserSessions
from ..transports.unidirectional import ConnectMessage, Stream, Transport
from ..version import __version__
from .connection import checked_disconnect, read_first_message
from .endpoints import Endpoints

__all__ = [
    "BodyLate",
    "ClientGone",
    "Interruptible",
    "deliver",
    "first_message",
    "hold_stream",
    "whole_body",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

SEND_TIMEOUT = 5.0
"""The longest that one frame waits for a client to read, in seconds."""

FIRST_MESSAGE_TIMEOUT = 10.0
"""The longest that a WebSocket waits for its connect request, in seconds."""

BODY_TIMEOUT = FIRST_MESSAGE_TIMEOUT
"""The longest that a request waits for all of its body, in seconds."""


class ClientGone(Exception):
    """The client left, or does not read: there is nobody to tell anything."""


class BodyLate(Exception):
    """The body of a request did not come in time."""


async def hold_stream(
    sessions: AsyncUserSessions,
    endpoints: Endpoints,
    message: ConnectMessage,
    transport: Transport,
    *,
    headers: Mapping[str, str],
    peer: str | None,
    write: Callable[[bytes], Awaitable[None]],
    left: Callable[[], Awaitable[None]],
) -> Disconnect:
    """Hold a session while its stream lasts, and give what the client has to be told at its end.

    Args:
        sessions: where it is registered.
        endpoints: say who may connect.
        message: the connect request.
        transport: that of the stream.
        headers: the headers of the HTTP request, as `Request` has them.
        peer: the other end of the TCP connection.
        write: sends one frame; an OSError or a RuntimeError says that the client has left.
        left: ends when the client has left; it is cancelled when nobody waits for that any more.

    Raises:
        ClientGone: if the client leaves, or does not read.
    """
    operations = sessions.operations
    client = operations.node.client_ids.draw()
    try:
        admitted = await sessions.run(
            endpoints.admit(client, message, transport, headers=headers, peer=peer)
        )
        async with sessions.hold(admitted) as session:
            stream = Stream(
                client,
                admitted.identity,
                version=__version__,
                ping_interval=endpoints.ping_interval,
                now=asyncio.get_running_loop().time(),
                ttl=admitted.facts.ttl(operations.node.clock()),
            )
            return await _carry(stream, session, write=write, left=left)
    except ConnectRefused as refused:
        return checked_disconnect(refused)
    except ClientGone:
        raise
    except Exception:
        # A verifier, proxy or store of the app's own failed.
        logger.exception("the connection of client %s failed", client)
        return Disconnect.of(DisconnectCode.INTERNAL_SERVER_ERROR)


async def deliver(sending: Awaitable[None], *, session: AsyncSession | None = None) -> None:
    """Wait until something is sent, but not for ever; a session that is held up is told so.

    Raises:
        ClientGone: if the client left, or does not read.
    """
    try:
        await _in_time(sending, seconds=SEND_TIMEOUT)
    except _TooLate as error:
        if session is not None:
            session.tell(Disconnect.of(DisconnectCode.SLOW))
        raise ClientGone from error
    except (OSError, RuntimeError) as error:
        # As is whatever servers raise once the client has left, or the connection begins to close.
        raise ClientGone from error


async def first_message(receiving: Awaitable[bytes | None]) -> ConnectMessage:
    """Wait for the connect request of a WebSocket, but not for ever.

    Args:
        receiving: gives the first message; None where the client left instead.

    Raises:
        ClientGone: if the client left.
        ConnectRefused: if none comes in time, or what comes is none.
    """
    try:
        body = await _in_time(receiving, seconds=FIRST_MESSAGE_TIMEOUT)
    except _TooLate:
        raise ConnectRefused(DisconnectCode.STALE) from None
    if body is None:
        raise ClientGone
    return read_first_message(body)


async def whole_body(reading: Awaitable[T]) -> T:
    """Wait until all of the body of a request is read, but not for ever.

    Raises:
        BodyLate: if it does not come in time.
    """
    # Nearly all bodies are there at once: a task for each, as for a frame, would cost too much.
    with Interruptible(after=BODY_TIMEOUT):
        return await reading
    raise BodyLate


class Interruptible:
    """A block that may be ended from outside, where it is stuck in something that does not end.

    Whatever it is stuck in is cancelled, and the task goes on after the block. If somebody else
    cancels the task as well, it is cancelled. (Not before Python 3.11, which cannot tell.)

    Args:
        after: seconds until it ends by itself; None is never.

    >>> async def stuck():
    ...     with Interruptible() as block:
    ...         asyncio.get_running_loop().call_soon(block.interrupt)
    ...         await asyncio.Event().wait()
    ...     return "went on"
    >>> asyncio.run(stuck())
    'went on'
    """

    def __init__(self, *, after: float | None = None) -> None:
        self._after = after
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._was_interrupted = False
        if self._after is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._after, self.interrupt)
        self._cancelling: int = getattr(self._task, "cancelling", int)()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        task, self._task = self._task, None
        if not self._was_interrupted:
            return False
        # Python 3.10 does not count cancellations.
        left: int = getattr(task, "uncancel", int)()
        return isinstance(error, asyncio.CancelledError) and left <= self._cancelling

    def interrupt(self) -> None:
        """End the block, if it runs, once; from another task."""
        if self._task is not None and not self._was_interrupted:
            self._was_interrupted = True
            self._task.cancel()


class _TooLate(Exception):
    """Time was up. Not a TimeoutError, which a lost connection may raise as well."""


async def _in_time(doing: Awaitable[T], *, seconds: float) -> T:
    # Before Python 3.12, `asyncio.wait_for` swallows a cancellation that comes with the result.
    task = asyncio.ensure_future(doing)
    try:
        await asyncio.wait((task,), timeout=seconds)
        if not task.done():
            raise _TooLate
        return task.result()
    finally:
        task.cancel()


async def _carry(
    stream: Stream,
    session: AsyncSession,
    *,
    write: Callable[[bytes], Awaitable[None]],
    left: Callable[[], Awaitable[None]],
) -> Disconnect:
    loop = asyncio.get_running_loop()
    await deliver(write(stream.connect_frame), session=session)
    closed, gone = session.closed, asyncio.ensure_future(left())
    try:
        while True:
            timeout = max(0.0, stream.next_deadline - loop.time())
            ends = (closed, gone)
            await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                gone.result()
                raise ClientGone
            if closed.done():
                return closed.result()
            if frame := stream.due(loop.time()):
                await deliver(write(frame), session=session)
                session.touch()
    finally:
        gone.cancel()
