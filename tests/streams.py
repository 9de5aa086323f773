"""A small client for the server API and the three streams of a real server, on plain sockets.

It waits `TIMEOUT_SECONDS` at most for anything, and shows what came over the wire as it came.
"""

from __future__ import annotations

import base64
import ctypes
import http.client
import json
import os
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha1
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

from typing_extensions import Self

__all__ = [
    "KINDS",
    "Answer",
    "Reader",
    "Stream",
    "WebSocket",
    "ask",
    "ask_without_waiting",
    "closed_with",
    "command",
    "event_source",
    "open_stream",
    "open_websocket",
]

TIMEOUT_SECONDS = 10.0

KINDS = ("uni_http_stream", "uni_sse", "uni_websocket")
"""The names of the three streams."""

STUFFING = 250
"""How many messages, of 60 KB each, fill every buffer on the way."""

SO_ATTACH_FILTER = 26
"""As Linux has it; the module `socket` does not."""

_WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@dataclass(frozen=True)
class Answer:
    """A whole response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(
    url: str,
    target: str,
    *,
    method: str = "POST",
    body: bytes | Iterable[bytes] = b"",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Make one request on a connection of its own; a body that is no bytes is sent in chunks."""
    connection, _ = _connected(url)
    try:
        connection.request(method, _path(url) + target, body, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, _headers(response), response.read())
    finally:
        connection.close()


def ask_without_waiting(url: str, target: str) -> http.client.HTTPConnection:
    """GET something, and leave the answer for later; the connection is the caller's to close."""
    connection, _ = _connected(url)
    connection.request("GET", _path(url) + target)
    return connection


class Stream(ABC):
    """An open stream; `head` is the response that opened it, without its body."""

    head: Answer
    _socket: socket.socket

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()

    @abstractmethod
    def frame(self) -> bytes | None:
        """The next frame, without what its transport puts around it; None at a clean end."""

    def frames(self) -> list[bytes]:
        """All frames up to a clean end."""
        frames = []
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while (frame := self.frame()) is not None:
            frames.append(frame)
            # It may go on with pings for ever.
            assert time.monotonic() < deadline, f"the stream did not end: {frames}"
        return frames

    def client(self) -> str:
        """The client ID, from the first frame."""
        frame = self.frame()
        assert frame is not None
        client: str = json.loads(frame)["connect"]["client"]
        return client

    def leave(self, *, reset: bool = False) -> None:
        """Close the connection, without a word over what runs on it.

        Args:
            reset: with RST instead of FIN, as when a device loses its network for good.
        """
        if reset and self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._close()

    def half_close(self) -> None:
        """Say that nothing more will be sent (FIN), and go on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    def vanish(self) -> None:
        """From now on drop each packet that the server sends, as if the network were gone.

        So the server gets no acknowledgement, and the client sends nothing by itself. Linux only.
        """
        drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
        program = struct.pack("HP", 1, ctypes.addressof(drop_all))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    @abstractmethod
    def _close(self) -> None: ...


class _HttpStream(Stream):
    def __init__(
        self, url: str, method: str, target: str, body: bytes, headers: Mapping[str, str]
    ) -> None:
        self._connection, self._socket = _connected(url)
        self._is_sse = "/uni_sse" in target
        try:
            self._connection.request(method, _path(url) + target, body, dict(headers))
            self._response = self._connection.getresponse()
        except BaseException:
            self._connection.close()
            raise
        self.head = Answer(self._response.status, _headers(self._response), b"")

    def frame(self) -> bytes | None:
        line = self._response.readline()
        if not line:
            # Raises IncompleteRead unless the response came to its proper end.
            assert self._response.read() == b""
            return None
        assert line.endswith(b"\n")
        if self._is_sse:
            assert line.startswith(b"data: ") and self._response.readline() == b"\n"
            line = line[len(b"data: ") :]
        return line[:-1]

    def _close(self) -> None:
        self._response.close()
        self._connection.close()


class WebSocket(Stream):
    """An open WebSocket; once the server's close frame came, `closed` has its code and reason."""

    def __init__(self, url: str, target: str, headers: Mapping[str, str]) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self._connection, self._socket = _connected(url)
        self._connection.request(
            "GET",
            _path(url) + target,
            headers={
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Key": key,
                "Sec-WebSocket-Version": "13",
                **headers,
            },
        )
        self._file = self._socket.makefile("rb", buffering=0)
        self.closed: tuple[int, str] | None = None
        raw = b""
        while not raw.endswith(b"\r\n\r\n"):
            byte = self._file.read(1)
            assert byte, f"the server hung up after {raw!r}"
            raw += byte
        status, *lines = raw.decode("latin-1").split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines if line)
        names = {name.lower(): value for name, value in fields.items()}
        self.head = Answer(int(status.split()[1]), names, b"")
        if self.head.status == 101:
            digest = sha1(f"{key}{_WEBSOCKET_GUID}".encode()).digest()
            assert names["sec-websocket-accept"] == base64.b64encode(digest).decode()

    def send(self, payload: bytes, *, opcode: int = 1, is_last: bool = True) -> None:
        """Send a frame: opcode 1 is text, 2 binary, 8 a close (RFC 6455, 5.2)."""
        size = len(payload)
        if size < 126:
            length = bytes([0x80 | size])
        elif size < 1 << 16:
            length = b"\xfe" + size.to_bytes(2, "big")
        else:
            length = b"\xff" + size.to_bytes(8, "big")
        # A mask of zeros leaves the payload as it is.
        self._socket.sendall(bytes([is_last << 7 | opcode]) + length + bytes(4) + payload)

    def frame(self) -> bytes | None:
        opcode, payload = self._read()
        while opcode == 9:
            self.send(payload, opcode=10)
            opcode, payload = self._read()
        if opcode == 1:
            return payload
        assert opcode == 8, f"unexpected opcode {opcode}"
        self.closed = (int.from_bytes(payload[:2], "big"), payload[2:].decode())
        # A server that is being stopped does not wait for the client's close frame.
        with suppress(ConnectionError):
            self.send(payload, opcode=8)
            assert self._file.read(1) == b"", "the server went on after its close frame"
        return None

    def stuff(self) -> None:
        """Send until nothing more is taken, or it is a lot; an echo of it is not read."""
        self._socket.settimeout(0.5)
        with suppress(TimeoutError):
            for _ in range(STUFFING):
                self.send(b"x" * 60_000)
        self._socket.settimeout(TIMEOUT_SECONDS)

    def _read(self) -> tuple[int, bytes]:
        first, size = self._exactly(2)
        if size == 126:
            size = int.from_bytes(self._exactly(2), "big")
        return first & 0x0F, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._file.read(size - len(data))
            assert more, "the server hung up within a frame"
            data += more
        return data

    def _close(self) -> None:
        self._file.close()
        self._connection.close()


class Reader:
    """Reads a stream to its end in a thread of its own, as clients do.

    So each ping is answered in time: some servers miss who does not answer within a second.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.frames: list[bytes] = []
        """What has come so far."""
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def to_end(self) -> list[bytes]:
        """All frames up to a clean end."""
        self._thread.join(TIMEOUT_SECONDS)
        assert not self._thread.is_alive(), f"the stream did not end: {self.frames}"
        if self._error is not None:
            raise self._error
        return self.frames

    def _read(self) -> None:
        try:
            while (frame := self.stream.frame()) is not None:
                self.frames.append(frame)
        except BaseException as error:
            self._error = error


def open_stream(
    url: str,
    kind: str,
    request: Mapping[str, object] | bytes,
    *,
    headers: Mapping[str, str] | None = None,
) -> Stream:
    """Open a stream as curl and other programs do: with a POST, or a first message.

    Args:
        url: where the server listens, with the prefix under which the paths are.
        kind: one of `KINDS`.
        request: the connect request.
        headers: HTTP headers.
    """
    target = f"/connection/{kind}"
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    if kind != "uni_websocket":
        return _HttpStream(url, "POST", target, body, headers or {})
    websocket = WebSocket(url, target, headers or {})
    if websocket.head.status == 101:
        websocket.send(body)
    return websocket


def open_websocket(url: str, target: str, *, headers: Mapping[str, str] | None = None) -> WebSocket:
    """Shake hands for a WebSocket, and send nothing; it is open if the status of `head` is 101."""
    return WebSocket(url, target, headers or {})


def event_source(
    url: str, request: Mapping[str, object], *, headers: Mapping[str, str] | None = None
) -> Stream:
    """Open an SSE stream as a browser's `EventSource` does, which can only GET."""
    target = f"/connection/uni_sse?cf_connect={quote(json.dumps(request))}"
    own = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
    return _HttpStream(url, "GET", target, b"", {**own, **(headers or {})})


def closed_with(stream: Stream) -> tuple[int, str] | None:
    """The code and reason that a WebSocket was closed with; None for other streams."""
    return stream.closed if isinstance(stream, WebSocket) else None


def command(url: str, method: str, *, key: str, **params: object) -> Any:
    """The result of a command of the server API, parsed."""
    body = json.dumps(params).encode()
    answer = ask(url, f"/api/{method}", body=body, headers={"X-API-Key": key})
    assert answer.status == 200, answer
    return json.loads(answer.body)["result"]


def _connected(url: str) -> tuple[http.client.HTTPConnection, socket.socket]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)
    connection.connect()
    return connection, connection.sock


def _path(url: str) -> str:
    return urlsplit(url).path


def _headers(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}
