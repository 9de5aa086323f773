"""ASGI, without a framework: requests answered, streams and WebSockets carried.

1. The query of a request is taken out of its scope: it may hold a token or a key, and servers write
   it into their access logs when the response starts. (They still do where something in between
   made a copy of the scope.)
2. A client that leaves is no error: all that comes of it is `ClientGone`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

from ..errors import ConnectRefused
from ..live import AsyncSession
from ..models import Disconnect
from ..sessions import AsyncUserSessions
from ..transports.unidirectional import ConnectMessage, Transport, disconnect_frame
from .aio import BodyLate, ClientGone, deliver, first_message, hold_stream, whole_body
from .base import MAX_BODY_BYTES, MAX_DISCARDED, UNREADABLE, Request, Response, late
from .connection import STREAM_HEADERS, WEBSOCKET, checked_disconnect
from .endpoints import Endpoints
from .handshakes import without_token
from .silence import bound_hidden

__all__ = [
    "TRACKED",
    "ASGIApp",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "StreamServer",
    "Tracked",
    "path_of",
    "peer_of",
    "read_handshake",
    "read_headers",
    "read_request",
    "send_response",
    "spared_scope",
]

# As the ASGI specification has them, and so every framework.
Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

TRACKED = "usersessions"
"""Where a connection that is tracked has its `Tracked`, in its scope."""


class Tracked:
    """A connection that a middleware tracks; passed over where it turns out to be a stream here."""

    session: AsyncSession | None = None
    is_passed_over = False


async def read_request(scope: Scope, receive: Receive) -> Request | Response:
    """Read a whole request, but keep no more of its body than any handler takes.

    Returns:
        The request; or the answer to it, if its body breaks off or does not come in time.
    """
    query: bytes = scope.get("query_string", b"")
    scope["query_string"] = b""
    try:
        body = await whole_body(_read_body(receive))
    except ClientGone:
        # Nobody may read it; but for a middleware around, an app without an answer has failed.
        return UNREADABLE
    except BodyLate:
        return late(scope.get("http_version", "1.1"))
    return Request(scope["method"], query.decode("latin-1"), read_headers(scope), body)


async def _read_body(receive: Receive) -> bytes | None:
    body = bytearray()
    left = MAX_BODY_BYTES + MAX_DISCARDED
    more = True
    while more and left >= 0:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        left -= len(chunk)
        if len(body) <= MAX_BODY_BYTES:
            body += chunk
        more = message.get("more_body", False)
    return bytes(body) if len(body) <= MAX_BODY_BYTES else None


def read_headers(scope: Scope) -> dict[str, str]:
    """The headers of a request, as `Request` has them."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name in headers:
            separator = "; " if name == "cookie" else ", "
            value = headers[name] + separator + value
        headers[name] = value
    return headers


def read_handshake(scope: Scope) -> Request:
    """Read what opens a connection of the app's own; a token in its query is taken out."""
    return Request("GET", _hide_token(scope), read_headers(scope))


def spared_scope(scope: Scope) -> Scope:
    """A copy of the scope as it came, for the app; a token in the query of this one is taken out.

    Middlewares inside copy the scope again: out here alone, the server's log can be spared a token.
    """
    inner = dict(scope)
    _hide_token(scope)
    return inner


def _hide_token(scope: Scope) -> str:
    query: str = scope.get("query_string", b"").decode("latin-1")
    scope["query_string"] = without_token(query).encode("latin-1")
    return query


async def send_response(response: Response, send: Send) -> None:
    """Send a whole response.

    Raises:
        ClientGone: if the client left.
    """
    length = {"content-length": str(len(response.body))}
    try:
        await _start(send, response.status, {**response.headers, **length})
        await send({"type": "http.response.body", "body": response.body})
    except OSError as error:
        raise ClientGone from error


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


class StreamServer:
    """Carries unidirectional connections.

    Args:
        sessions: where they are registered.
        endpoints: say who may connect.
    """

    def __init__(self, sessions: AsyncUserSessions, endpoints: Endpoints) -> None:
        self._sessions = sessions
        self._endpoints = endpoints

    async def http(
        self,
        message: ConnectMessage,
        headers: Mapping[str, str],
        transport: Transport,
        *,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Carry a connection over an HTTP response that goes on.

        Raises:
            ClientGone: if the client leaves, or does not read.
        """

        async def write(frame: bytes, *, more: bool = True) -> None:
            body = transport.wrap(frame)
            await send({"type": "http.response.body", "body": body, "more_body": more})

        async def left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        _pass_over(scope)
        head = {"content-type": transport.media_type, **STREAM_HEADERS}
        await deliver(_start(send, 200, head))
        disconnect = await self._hold(message, transport, headers, scope, write, left)
        await deliver(write(disconnect_frame(disconnect), more=False))

    async def websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry a connection over a WebSocket, whose first message is the connect request.

        Raises:
            ClientGone: if the client leaves, or does not read.
        """

        async def write(frame: bytes) -> None:
            await send({"type": "websocket.send", "text": frame.decode()})

        async def left() -> None:
            while (await receive())["type"] != "websocket.disconnect":
                pass

        async def first() -> bytes | None:
            message = await receive()
            if message["type"] != "websocket.receive":
                return None
            text: str = message.get("text") or ""
            body: bytes = message.get("bytes") or text.encode(errors="surrogatepass")
            return body

        async def end(disconnect: Disconnect) -> None:
            await write(disconnect_frame(disconnect))
            code, reason = disconnect.code, disconnect.reason
            await send({"type": "websocket.close", "code": code, "reason": reason})

        _pass_over(scope)
        await receive()
        await deliver(send({"type": "websocket.accept"}))
        headers = read_headers(scope)
        try:
            message = await first_message(first())
        except ConnectRefused as refused:
            disconnect = checked_disconnect(refused)
        else:
            disconnect = await self._hold(message, WEBSOCKET, headers, scope, write, left)
        await deliver(end(disconnect))

    async def _hold(
        self,
        message: ConnectMessage,
        transport: Transport,
        headers: Mapping[str, str],
        scope: Scope,
        write: Callable[[bytes], Awaitable[None]],
        left: Callable[[], Awaitable[None]],
    ) -> Disconnect:
        bound_hidden(scope.get("client"), ping_interval=self._endpoints.ping_interval)
        return await hold_stream(
            self._sessions,
            self._endpoints,
            message,
            transport,
            headers=headers,
            peer=peer_of(scope),
            write=write,
            left=left,
        )


def _pass_over(scope: Scope) -> None:
    # A stream has a session of its own: what may be around it must not give it another one.
    tracked = scope.get(TRACKED)
    if isinstance(tracked, Tracked):
        tracked.is_passed_over = True


def peer_of(scope: Scope) -> str | None:
    """The address of the other end of the TCP connection."""
    client = scope.get("client")
    return client[0] if client else None


def path_of(scope: Scope) -> str:
    """The path of a request, from where the app is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    # A mount point stands at the start of the path, a prefix that a front proxy cut off does not.
    if root and f"{path}/".startswith(f"{root}/"):
        path = path[len(root) :]
    # Routers add or drop a slash at the end, which makes another path: see `Endpoints.answer`.
    raw = unquote_to_bytes(scope.get("raw_path") or b"")
    if raw and raw.endswith(b"/") != path.endswith("/"):
        path = path.removesuffix("/") if path.endswith("/") else f"{path}/"
    return path
