"""Real HTTP servers that misbehave, on loopback ports of their own, in threads of the test.

A behaviour answers one request on an open connection, and says whether the connection stays open.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias

_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Received:
    """One request; header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Backend:
    """What a running server has seen."""

    port: int
    scheme: str = "http"
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    asked: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)
    ending: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self.scheme}://127.0.0.1:{self.port}/connect"


Behaviour: TypeAlias = Callable[[socket.socket, Backend], bool]


def answers(
    body: bytes = b"", *, status: str = "200 OK", headers: Mapping[str, str] | None = None
) -> Behaviour:
    """Answer as one should, and keep the connection open."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    whole = "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def behave(connection: socket.socket, backend: Backend) -> bool:
        connection.sendall(whole)
        return True

    return behave


def says(data: bytes) -> Behaviour:
    """Send these very bytes and close the connection."""

    def behave(connection: socket.socket, backend: Backend) -> bool:
        connection.sendall(data)
        return False

    return behave


def drips(start: bytes, drop: bytes) -> Behaviour:
    """Send the start, then a drop every now and then, for ever."""

    def behave(connection: socket.socket, backend: Backend) -> bool:
        connection.sendall(start)
        while not backend.ending.wait(_POLL_SECONDS):
            connection.sendall(drop)
        return False

    return behave


def stays_silent(connection: socket.socket, backend: Backend) -> bool:
    """Say nothing until the client hangs up or the test is over."""
    with suppress(OSError):
        connection.recv(1)
    if not backend.ending.is_set():
        backend.hung_up.set()
    return False


def resets(connection: socket.socket, backend: Backend) -> bool:
    """Tear the connection down (TCP RST)."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def waits_for(gate: threading.Event, then: Behaviour) -> Behaviour:
    """Behave only once the gate is open."""

    def behave(connection: socket.socket, backend: Backend) -> bool:
        while not gate.wait(_POLL_SECONDS) and not backend.ending.is_set():
            pass
        return then(connection, backend)

    return behave


@contextmanager
def backend(behave: Behaviour, *, tls: ssl.SSLContext | None = None) -> Iterator[Backend]:
    """Run a server that behaves so, until the block ends."""
    with ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(_POLL_SECONDS)
        running = Backend(listener.getsockname()[1], "http" if tls is None else "https")
        accepting = threading.Thread(target=_accept, args=(listener, running, behave, tls))
        accepting.start()
        opened.callback(accepting.join)
        opened.callback(running.ending.set)
        yield running


def unused_port() -> int:
    """A loopback port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _accept(
    listener: socket.socket, running: Backend, behave: Behaviour, tls: ssl.SSLContext | None
) -> None:
    with ExitStack() as connected:
        while not running.ending.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            running.connections += 1
            connection.settimeout(None)
            thread = threading.Thread(target=_serve, args=(connection, running, behave, tls))
            thread.start()
            connected.callback(thread.join)
            connected.callback(_shut, connection)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _serve(
    plain: socket.socket, running: Backend, behave: Behaviour, tls: ssl.SSLContext | None
) -> None:
    with plain, suppress(OSError):
        connection = plain if tls is None else tls.wrap_socket(plain, server_side=True)
        with connection, connection.makefile("rb") as stream:
            while head := stream.readline():
                method, target, _ = head.decode("latin-1").split()
                headers = dict(_headers(iter(stream.readline, b"\r\n")))
                body = stream.read(int(headers.get("content-length", "0")))
                running.received.append(Received(method, target, headers, body))
                running.asked.set()
                if not behave(connection, running):
                    break


def _headers(lines: Iterator[bytes]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, _, value = line.decode("latin-1").partition(":")
        yield name.lower(), value.strip()
