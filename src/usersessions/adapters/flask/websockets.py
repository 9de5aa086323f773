"""The WebSockets of flask-sock: each held as a session, or carrying a stream.

1. A WebSocket is closed by a thread of its own: whoever tells its session to end is not held up by
   a client that does not read. Its handler does not end before that thread has.
2. flask-sock takes `ConnectionClosed` for the end of a WebSocket, and goes on in silence: that is
   what a handler gets whose session has ended, or may not be.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from simple_websocket import (  # type: ignore[import-untyped]
    ConnectionClosed,
    Server,
)

from ...errors import ConnectRefused
from ...flows import Flow
from ...http.aio import FIRST_MESSAGE_TIMEOUT
from ...http.base import MAX_BODY_BYTES
from ...http.blocking import send_all
from ...http.connection import checked_disconnect
from ...http.silence import bound_silence
from ...http.watch import Watch
from ...http.wsgi import UserSessionsWSGI
from ...live import Session
from ...models import Disconnect
from ...operations import Admitted
from ...sessions import UserSessions

__all__ = ["carry_stream", "hold_websocket"]

CLOSE_SECONDS = 5.0
"""The longest that a WebSocket waits for its client to read that it is closed."""

# For a connection that ended without a close frame (RFC 6455, 7.4.1); an int serves as the enum.
_ABNORMAL_CLOSURE: Any = 1006


@contextmanager
def hold_websocket(
    ws: Server, sessions: UserSessions, admission: Flow[Admitted]
) -> Generator[Session, None, None]:
    """Hold the session of a WebSocket inside the block, and close the one with the other.

    Args:
        ws: the WebSocket.
        sessions: where it is registered.
        admission: says who connects.

    Raises:
        ConnectionClosed: if the client may not connect, or leaves.
        InvalidValue: if a value is outside of its bounds.
    """
    closing = _Closing(ws)
    client_socket: Any = ws.sock
    with ExitStack() as held:
        held.callback(closing.wait)
        try:
            admitted = sessions.run(admission)
            bound_silence(client_socket)
            session = held.enter_context(sessions.hold(admitted, close=closing.begin))
        except ConnectRefused as refused:
            why: Any = checked_disconnect(refused)
            _close(ws, why)
            raise ConnectionClosed(why.code, why.reason) from refused
        try:
            yield session
        except OSError as error:
            # What the socket raises where something is sent to a client that has just left, or to
            # one that is being told to.
            if session.disconnect is None and _is_connected(ws):
                raise
            raise ConnectionClosed(_ABNORMAL_CLOSURE) from error


def carry_stream(ws: Server, served: UserSessionsWSGI) -> None:
    """Carry a stream, whose connect request is the first message, to its end."""
    # Until a message is whole, all of it is kept; one that is just too large is told so.
    ws.max_message_size = MAX_BODY_BYTES + 1
    first = ws.receive(timeout=FIRST_MESSAGE_TIMEOUT)
    message = first.encode() if isinstance(first, str) else first
    frames = served.websocket(ws.environ, message, _WebSocketWatch(ws))
    with suppress(OSError):
        why = send_all(frames, lambda frame: ws.send(frame.decode()))
        if why is not None:
            _close(ws, why)


class _WebSocketWatch(Watch):
    """Waits for the event that is set by whatever the reading thread of a WebSocket hears."""

    sees_client = True

    def __init__(self, ws: Server) -> None:
        super().__init__()
        self._ws = ws

    def _wake(self) -> None:
        self._ws.event.set()

    def wait(self, seconds: float) -> None:
        self._ws.event.wait(seconds)
        self._ws.event.clear()
        # What comes after the connect request is ignored, and must not pile up.
        self._ws.input_buffer.clear()
        self.client_is_gone = not self._ws.connected


class _Closing:
    """Closes a WebSocket in a thread of its own."""

    def __init__(self, ws: Server) -> None:
        self._ws = ws
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_over = False

    def begin(self, why: Disconnect) -> None:
        with self._lock:
            if self._is_over:
                return
            thread = threading.Thread(target=_close, args=(self._ws, why), daemon=True)
            thread.start()
            self._thread = thread

    def wait(self) -> None:
        """Wait until it is closed, if it is being closed: a server must send nothing after that."""
        with self._lock:
            self._is_over = True
        if self._thread is not None:
            self._thread.join()


def _close(ws: Any, why: Disconnect) -> None:
    # What the handler is told as well.
    ws.close_reason, ws.close_message = why.code, why.reason
    # Whatever it raises: the client leaves in this moment, or does not read.
    with suppress(Exception):
        ws.sock.settimeout(CLOSE_SECONDS)
        ws.close(why.code, why.reason)
        ws.event.set()
        # Time for the client to answer.
        ws.thread.join(CLOSE_SECONDS)
    # A handler that is stuck as it sends goes on once the connection is gone.
    ws.connected = False
    ws.event.set()
    with suppress(OSError):
        ws.sock.shutdown(socket.SHUT_RDWR)


def _is_connected(ws: Any) -> bool:
    try:
        ws.sock.getpeername()
    except OSError:
        return False
    return True
