"""A stream, held by a thread: its frames as a generator, for servers that iterate.

1. A session is registered while the generator runs, and at no other time: not before a server asks
   for the first frame, and gone when it closes the generator, whatever makes it do so.
2. A thread waits for three things at once: that the session is told to end, that the client leaves
   (where the server lets its socket be seen), and that a ping is due.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, closing
from typing import TypeAlias

from ..errors import ConnectRefused, DisconnectCode
from ..live import Session
from ..models import Disconnect
from ..sessions import UserSessions
from ..transports.unidirectional import ConnectMessage, Stream, Transport, disconnect_frame
from ..version import __version__
from .connection import checked_disconnect
from .endpoints import Endpoints
from .watch import Watch

__all__ = ["Frames", "send_all", "stream_body"]

logger = logging.getLogger(__name__)

Frames: TypeAlias = "Generator[bytes, None, Disconnect | None]"
"""The frames of a stream, and at the end what the client was told; None if it has left."""

UNSEEN_PING_INTERVAL = 18
"""The longest between two pings where only writing shows that a client has left.

The first ping after it has left draws a reset, the second one fails: together under 40 seconds.
"""


def stream_body(
    sessions: UserSessions,
    endpoints: Endpoints,
    message: ConnectMessage,
    transport: Transport,
    *,
    headers: Mapping[str, str],
    peer: str | None,
    watching: AbstractContextManager[Watch],
) -> Frames:
    """The body of a stream, a frame at a time, which holds its session as long as it is iterated.

    Args:
        sessions: where it is registered.
        endpoints: say who may connect.
        message: the connect request.
        transport: that of the stream.
        headers: the headers of the HTTP request, as `Request` has them.
        peer: the other end of the TCP connection.
        watching: gives what waits for the session to be told to end, and for its client to leave.
    """
    operations = sessions.operations
    client = operations.node.client_ids.draw()
    try:
        admitted = sessions.run(
            endpoints.admit(client, message, transport, headers=headers, peer=peer)
        )
        with (
            watching as watch,
            sessions.hold(admitted, close=watch.tell) as session,
        ):
            stream = Stream(
                client,
                admitted.identity,
                version=__version__,
                ping_interval=endpoints.ping_interval,
                now=time.monotonic(),
                ttl=admitted.facts.ttl(operations.node.clock()),
                longest_silence=None if watch.sees_client else UNSEEN_PING_INTERVAL,
            )
            yield transport.wrap(stream.connect_frame)
            disconnect = yield from _carry(stream, session, watch, transport)
    except ConnectRefused as refused:
        disconnect = checked_disconnect(refused)
    except Exception:
        # A verifier, proxy or store of the app's own failed.
        logger.exception("the connection of client %s failed", client)
        disconnect = Disconnect.of(DisconnectCode.INTERNAL_SERVER_ERROR)
    if disconnect is not None:
        yield transport.wrap(disconnect_frame(disconnect))
    return disconnect


def send_all(frames: Frames, write: Callable[[bytes], None]) -> Disconnect | None:
    """Send the frames of a stream one by one, and give what its client was told at the end.

    Args:
        frames: the stream; it is over in any case.
        write: sends one frame; what it raises ends the stream.
    """
    with closing(frames):
        while True:
            try:
                frame = next(frames)
            except StopIteration as end:
                told: Disconnect | None = end.value
                return told
            write(frame)


def _carry(
    stream: Stream, session: Session, watch: Watch, transport: Transport
) -> Generator[bytes, None, Disconnect | None]:
    # What the client is told at the end; None if it has left.
    while True:
        watch.wait(stream.next_deadline - time.monotonic())
        if watch.told is not None:
            return watch.told
        if watch.client_is_gone:
            return None
        if frame := stream.due(time.monotonic()):
            yield transport.wrap(frame)
            session.touch()
