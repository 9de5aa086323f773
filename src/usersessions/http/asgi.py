"""ASGI, without a framework: requests answered, streams and WebSockets held.

1. A session is registered while its stream is being sent, and at no other time: it is registered
   by the coroutine that sends, and gone when that ends, whatever ends it.
2. No frame waits longer than `SEND_TIMEOUT` for a client that does not read: it is dropped, as it
   cannot be told why (3008 `slow`).
3. The query of a request is taken out of its scope: it may hold a token or a key, and servers write
   it into their access logs when the response starts. (They still do where something in between
   made a copy of the scope.)
4. A client that leaves is no error: all that comes of it is `ClientGone`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any, TypeAlias, TypeVar

from ..errors import ConnectRefused, DisconnectCode, InvalidValue
from ..live import AsyncSession
from ..models import Disconnect
from ..sessions import AsyncUserSessions
from ..transports.unidirectional import (
    ConnectMessage,
    Stream,
    Transport,
    disconnect_frame,
    read_connect,
)
from ..version import __version__
from .base import MAX_BODY_BYTES, Request, Response
from .connection import STREAM_HEADERS, WEBSOCKET, check_origin, remote_address

__all__ = [
    "ASGIApp",
    "ClientGone",
    "Receive",
    "Scope",
    "Send",
    "StreamServer",
    "read_headers",
    "read_request",
    "send_response",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# As the ASGI specification has them, and so every framework.
Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

SEND_TIMEOUT = 5.0
"""The longest that one frame waits for a client to read, in seconds."""

FIRST_MESSAGE_TIMEOUT = 10.0
"""The longest that a WebSocket waits for its connect request, in seconds."""


class ClientGone(Exception):
    """The client left, or does not read: there is nobody to tell anything."""


async def read_request(scope: Scope, receive: Receive) -> Request:
    """Read a whole request, but no more of its body than any handler takes.

    Raises:
        ClientGone: if the client leaves before all of the body is there.
    """
    query: bytes = scope.get("query_string", b"")
    scope["query_string"] = b""
    body = bytearray()
    more = True
    while more and len(body) <= MAX_BODY_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return Request(
        scope["method"],
        query.decode("latin-1"),
        read_headers(scope),
        bytes(body) if len(body) <= MAX_BODY_BYTES else None,
    )


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
    """Holds unidirectional connections.

    Args:
        sessions: where they are registered.
        ping_interval: seconds of silence before a ping.
        allowed_origins: see `check_origin`.
        trusted_hops: see `remote_address`.
    """

    def __init__(
        self,
        sessions: AsyncUserSessions,
        *,
        ping_interval: int,
        allowed_origins: Collection[str],
        trusted_hops: int,
    ) -> None:
        self._sessions = sessions
        self._ping_interval = ping_interval
        self._allowed_origins = allowed_origins
        self._trusted_hops = trusted_hops

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
        """Hold a connection over an HTTP response that goes on.

        Raises:
            ClientGone: if the client leaves, or does not read.
        """

        async def write(frame: bytes, *, more: bool = True) -> None:
            body = transport.wrap(frame)
            await send({"type": "http.response.body", "body": body, "more_body": more})

        async def left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        head = {"content-type": transport.media_type, **STREAM_HEADERS}
        await _written(_start(send, 200, head))
        disconnect = await self._hold(
            message, headers, transport, peer=_peer(scope), write=write, left=left
        )
        await _written(write(disconnect_frame(disconnect), more=False))

    async def websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold a connection over a WebSocket, whose first message is the connect request.

        Raises:
            ClientGone: if the client leaves, or does not read.
        """

        async def write(frame: bytes) -> None:
            await send({"type": "websocket.send", "text": frame.decode()})

        async def left() -> None:
            while (await receive())["type"] != "websocket.disconnect":
                pass

        async def end(disconnect: Disconnect) -> None:
            await write(disconnect_frame(disconnect))
            code, reason = disconnect.code, disconnect.reason
            await send({"type": "websocket.close", "code": code, "reason": reason})

        await receive()
        await _written(send({"type": "websocket.accept"}))
        headers = read_headers(scope)
        try:
            message = await _first_message(receive)
        except ConnectRefused as refused:
            disconnect = _disconnect(refused)
        else:
            disconnect = await self._hold(
                message, headers, WEBSOCKET, peer=_peer(scope), write=write, left=left
            )
        await _written(end(disconnect))

    async def _hold(
        self,
        message: ConnectMessage,
        headers: Mapping[str, str],
        transport: Transport,
        *,
        peer: str | None,
        write: Callable[[bytes], Awaitable[None]],
        left: Callable[[], Awaitable[None]],
    ) -> Disconnect:
        operations = self._sessions.operations
        request = message.request(
            operations.node.client_ids.draw(),
            transport,
            headers,
            remote_addr=remote_address(peer, headers, trusted_hops=self._trusted_hops),
        )
        try:
            check_origin(message, headers, self._allowed_origins)
            admitted = await self._sessions.run(operations.admit(request))
            async with self._sessions.hold(admitted) as session:
                stream = Stream(
                    session.client,
                    admitted.identity,
                    version=__version__,
                    ping_interval=self._ping_interval,
                    now=asyncio.get_running_loop().time(),
                    ttl=admitted.facts.ttl(operations.node.clock()),
                )
                return await _carry(stream, session, write=write, left=left)
        except ConnectRefused as refused:
            return _disconnect(refused)
        except ClientGone:
            raise
        except Exception:
            # A verifier, proxy or store of the app's own failed.
            logger.exception("the connection of client %s failed", request.client)
            return Disconnect.of(DisconnectCode.INTERNAL_SERVER_ERROR)


def _disconnect(refused: ConnectRefused) -> Disconnect:
    try:
        return Disconnect(refused.code, refused.reason)
    except InvalidValue as error:
        # It came from the app, and nobody has looked at its code and reason yet.
        logger.error("a connection was refused with an impossible disconnect: %s", error)
        return Disconnect.of(DisconnectCode.INTERNAL_SERVER_ERROR)


def _peer(scope: Scope) -> str | None:
    client = scope.get("client")
    return client[0] if client else None


async def _in_time(doing: Awaitable[T], *, seconds: float) -> T:
    # Before Python 3.12, `asyncio.wait_for` swallows a cancellation that comes with the result.
    task = asyncio.ensure_future(doing)
    try:
        await asyncio.wait((task,), timeout=seconds)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        task.cancel()


async def _written(sending: Awaitable[None]) -> None:
    # A timeout is an OSError too, as is whatever servers raise once the client has left.
    try:
        await _in_time(sending, seconds=SEND_TIMEOUT)
    except OSError as error:
        raise ClientGone from error


async def _carry(
    stream: Stream,
    session: AsyncSession,
    *,
    write: Callable[[bytes], Awaitable[None]],
    left: Callable[[], Awaitable[None]],
) -> Disconnect:
    loop = asyncio.get_running_loop()
    await _written(write(stream.connect_frame))
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
                await _written(write(frame))
                session.touch()
    finally:
        gone.cancel()


async def _first_message(receive: Receive) -> ConnectMessage:
    try:
        message = await _in_time(receive(), seconds=FIRST_MESSAGE_TIMEOUT)
    except TimeoutError:
        raise ConnectRefused(DisconnectCode.STALE) from None
    if message["type"] != "websocket.receive":
        raise ClientGone
    text: str = message.get("text") or ""
    body: bytes = message.get("bytes") or text.encode(errors="surrogatepass")
    try:
        if len(body) > MAX_BODY_BYTES:
            raise InvalidValue(f"a connect request is at most {MAX_BODY_BYTES} bytes")
        return read_connect(body)
    except InvalidValue as error:
        raise ConnectRefused(DisconnectCode.BAD_REQUEST) from error
