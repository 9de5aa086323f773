"""Waiting in a thread for a session to be told to end, and for its client to leave.

1. Nothing is polled where the system can say that the other end has closed its connection
   (POLLRDHUP, on Linux). A client that has closed its half only counts as gone, as it does for the
   servers on event loops.
2. A client whose network vanished says nothing at all: see `silence`.
3. Elsewhere only writing shows that a client is gone; with gevent and eventlet, too, since what
   they put in place of `select.poll` does not know POLLRDHUP.
4. What the system says of a connection that has failed is taken note of here. Whoever writes to it
   next gets EPIPE, which servers take for a client that left, and not, say, ETIMEDOUT, which they
   write into their logs.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from types import BuiltinFunctionType
from typing import Protocol

from ..models import Disconnect
from .silence import TCPSocket, bound_silence

__all__ = ["ClientSocket", "Watch", "watching"]


class ClientSocket(TCPSocket, Protocol):
    """A socket, as far as it is looked at here."""

    def fileno(self) -> int:
        """Its file descriptor."""
        ...

    def getsockopt(self, level: int, option: int, /) -> int:
        """An option of it."""
        ...


class Watch(ABC):
    """Waits for what may happen to a session.

    Attributes:
        told: how the session was told to end; None if it was not.
        client_is_gone: whether the client has left, as far as can be seen.
    """

    sees_client: bool

    def __init__(self) -> None:
        self.told: Disconnect | None = None
        self.client_is_gone = False

    def tell(self, disconnect: Disconnect) -> None:
        """Tell the session to end; from any thread."""
        self.told = disconnect
        self._wake()

    @abstractmethod
    def _wake(self) -> None: ...

    @abstractmethod
    def wait(self, seconds: float) -> None:
        """Wait until something happens, but at most some seconds."""


@contextmanager
def watching(
    client_socket: ClientSocket | None, *, ping_interval: int
) -> Generator[Watch, None, None]:
    """Watch a client, if it can be seen.

    Args:
        client_socket: its connection.
        ping_interval: how many seconds lie between pings, while nobody sends anything else.
    """
    if client_socket is not None:
        bound_silence(client_socket, ping_interval=ping_interval)
    if client_socket is None or not _sees_clients():
        yield _BlindWatch(client_socket)
        return
    watch = _SocketWatch(client_socket)
    try:
        yield watch
    finally:
        watch.stop()


def _sees_clients() -> bool:
    is_system_s = isinstance(getattr(select, "poll", None), BuiltinFunctionType)
    return is_system_s and hasattr(select, "POLLRDHUP")


def _has_failed(client_socket: ClientSocket) -> bool:
    # The system says so once.
    return client_socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


class _BlindWatch(Watch):
    sees_client = False

    def __init__(self, client_socket: ClientSocket | None) -> None:
        super().__init__()
        self._socket = client_socket
        self._told = threading.Event()

    def _wake(self) -> None:
        self._told.set()

    def wait(self, seconds: float) -> None:
        self._told.wait(seconds)
        if self._socket is not None:
            self.client_is_gone = _has_failed(self._socket)


class _SocketWatch(Watch):
    sees_client = True

    def __init__(self, client_socket: ClientSocket) -> None:
        super().__init__()
        self._socket = client_socket
        self._client = client_socket.fileno()
        self._poll = select.poll()
        self._poll.register(self._client, select.POLLRDHUP)
        self._woken, self._waker = os.pipe()
        self._poll.register(self._woken, select.POLLIN)
        # Whoever tells must not write to a file descriptor that was closed meanwhile: it may be
        # another file's by then.
        self._lock = threading.Lock()
        self._stopped = False

    def _wake(self) -> None:
        with self._lock:
            if not self._stopped:
                os.write(self._waker, b"!")

    def wait(self, seconds: float) -> None:
        events = self._poll.poll(max(0.0, seconds) * 1000)
        self.client_is_gone = any(descriptor == self._client for descriptor, _ in events)
        if self.client_is_gone:
            _has_failed(self._socket)

    def stop(self) -> None:
        """Release what it holds."""
        with self._lock:
            self._stopped = True
            os.close(self._woken)
            os.close(self._waker)
