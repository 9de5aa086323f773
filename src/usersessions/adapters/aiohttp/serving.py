"""The server API, users' own sessions and the three streams, in an app of aiohttp.

1. A client that leaves is noticed at once, whether the server cancels handlers then or not: what
   the client sends after the request of a stream, and that its connection is over, is told to a
   parser of ours, as it is to the one of a WebSocket.
2. A client whose network vanished is noticed as soon as what was sent stays unacknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from aiohttp import WSMsgType, web

from ...errors import ConnectRefused
from ...http.aio import BodyLate, ClientGone, deliver, first_message, hold_stream, whole_body
from ...http.base import MAX_BODY_BYTES, UNREADABLE, Request, Response, is_encoded, late
from ...http.connection import STREAM_HEADERS, WEBSOCKET, checked_disconnect, read_connect_request
from ...http.endpoints import NAMELESS_PATH, PATHS, WEBSOCKET_PATH, Endpoints
from ...http.lifespan import drainable_lifespan
from ...models import Disconnect
from ...sessions import AsyncUserSessions
from ...transports.unidirectional import ConnectMessage, Transport, disconnect_frame
from .connections import bound, close_websocket, drop, headers_of, set_query

__all__ = ["setup"]

_CLOSING_SECONDS = 1.0
"""How long a client has to answer that its WebSocket is closed."""

# aiohttp takes messages shorter than that, and keeps what it has of one until it is whole. One that
# is just too large comes through, to be told so.
_MAX_MESSAGE = MAX_BODY_BYTES + 2


def setup(
    app: web.Application,
    sessions: AsyncUserSessions,
    *,
    api_keys: Iterable[str] = (),
    ping_interval: int = 25,
    allowed_origins: Collection[str] = (),
    trusted_hops: int = 0,
) -> None:
    """Have an app serve the server API, users' own sessions and the three streams.

    It starts and stops with the app: open streams get 3001 `shutdown` when the server stops.

    Args:
        app: the app, or one to hand to `add_subapp`, to have it all under a prefix.
        sessions: what it serves.
        api_keys: who may use the server API, each of 16 to 255 visible ASCII characters; without
            any, it answers 401 to all.
        ping_interval: seconds of silence before a ping on a stream, from 1 to 3600.
        allowed_origins: origins whose pages may connect without a token, such as
            `"https://app.example.com"`; the page's own host always may.
        trusted_hops: how many proxies of your own stand in front and add to `X-Forwarded-For`, so
            that lists show the client's address; 0 believes no such header.

    Raises:
        ConfigError: if a value is outside of its bounds.

    >>> app = web.Application()
    >>> setup(app, AsyncUserSessions(), api_keys=["an-api-key-of-yours"])
    >>> [resource.canonical for resource in app.router.resources()][0]
    '/api'
    """
    endpoints = Endpoints(
        sessions.operations,
        api_keys=api_keys,
        ping_interval=ping_interval,
        allowed_origins=allowed_origins,
        trusted_hops=trusted_hops,
    )
    served = _Served(sessions, endpoints)
    for path in (*PATHS, NAMELESS_PATH, WEBSOCKET_PATH):
        app.router.add_route("*", path, partial(served.answer, path))

    drains: list[Callable[[], Awaitable[None]]] = []

    async def hold(app: web.Application) -> AsyncGenerator[None, None]:
        async with drainable_lifespan(sessions) as drain:
            drains.append(drain)
            yield

    async def drain_all(app: web.Application) -> None:
        for drain in drains:
            await drain()

    app.cleanup_ctx.append(hold)
    # The server waits for its handlers after this, and cleans up when they are done.
    app.on_shutdown.append(drain_all)


class _Served:
    """What is served, by its path from where the app is mounted."""

    def __init__(self, sessions: AsyncUserSessions, endpoints: Endpoints) -> None:
        self._sessions = sessions
        self._endpoints = endpoints

    async def answer(self, pattern: str, request: web.Request) -> web.StreamResponse:
        query = request.rel_url.raw_query_string
        set_query(request, "")
        if pattern == WEBSOCKET_PATH:
            websocket = web.WebSocketResponse(
                timeout=_CLOSING_SECONDS, compress=False, max_msg_size=_MAX_MESSAGE
            )
            if websocket.can_prepare(request):
                await self._websocket(request, websocket)
                return websocket
        headers = headers_of(request)
        try:
            # An encoded one is refused, and aiohttp would decode it first.
            body = b"" if is_encoded(headers) else await whole_body(_body(request))
        except (OSError, web.RequestPayloadError):
            return _response(UNREADABLE)
        except BodyLate:
            too_late = _response(late())
            too_late.force_close()
            return too_late
        neutral = Request(request.method, query, headers, body)
        path = pattern.format_map(request.match_info)
        transport = self._endpoints.transport(path)
        if transport is None:
            return _response(await self._sessions.run(self._endpoints.answer(path, neutral)))
        message = read_connect_request(neutral, transport)
        if isinstance(message, Response):
            return _response(message)
        return await self._stream(request, message, transport)

    async def _stream(
        self, request: web.Request, message: ConnectMessage, transport: Transport
    ) -> web.StreamResponse:
        headers = {"content-type": transport.media_type, **STREAM_HEADERS}
        response = web.StreamResponse(headers=headers)
        # What comes on this connection from now on is not read as requests.
        response.force_close()
        gone = _Gone(request)

        async def write(frame: bytes) -> None:
            await response.write(transport.wrap(frame))
            await request.writer.drain()

        async def end(disconnect: Disconnect) -> None:
            await write(disconnect_frame(disconnect))
            await response.write_eof()

        with _dropping(request):
            await deliver(_prepare(response, request))
            await deliver(
                end(await self._hold(request, message, transport, write=write, left=gone.wait))
            )
        return response

    async def _websocket(self, request: web.Request, websocket: web.WebSocketResponse) -> None:
        async def first() -> bytes | None:
            message = await websocket.receive()
            if message.type is WSMsgType.TEXT:
                return cast(str, message.data).encode()
            return message.data if message.type is WSMsgType.BINARY else None

        async def left() -> None:
            async for _ in websocket:
                pass

        async def write(frame: bytes) -> None:
            await websocket.send_str(frame.decode())
            await request.writer.drain()

        async def end(disconnect: Disconnect) -> None:
            await write(disconnect_frame(disconnect))
            await close_websocket(websocket, disconnect.code, disconnect.reason)

        with _dropping(request):
            await deliver(_prepare(websocket, request))
            try:
                message = await first_message(first())
            except ConnectRefused as refused:
                disconnect = checked_disconnect(refused)
            else:
                disconnect = await self._hold(request, message, WEBSOCKET, write=write, left=left)
            await deliver(end(disconnect))

    async def _hold(
        self,
        request: web.Request,
        message: ConnectMessage,
        transport: Transport,
        *,
        write: Callable[[bytes], Awaitable[None]],
        left: Callable[[], Awaitable[None]],
    ) -> Disconnect:
        bound(request, ping_interval=self._endpoints.ping_interval)
        return await hold_stream(
            self._sessions,
            self._endpoints,
            message,
            transport,
            headers=headers_of(request),
            peer=request.remote or None,
            write=write,
            left=left,
        )


class _Gone:
    """A parser of what comes on a connection, which hears of its end."""

    def __init__(self, request: web.Request) -> None:
        self._over = asyncio.get_running_loop().create_future()
        if request.transport is None:
            self.feed_eof()
        else:
            request.protocol.set_parser(cast(Any, self))

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        return False, b""

    def feed_eof(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    async def wait(self) -> None:
        await self._over


async def _body(request: web.Request) -> bytes | None:
    body = bytearray()
    while len(body) <= MAX_BODY_BYTES and (chunk := await request.content.readany()):
        body += chunk
    return bytes(body) if len(body) <= MAX_BODY_BYTES else None


def _response(answer: Response) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=answer.headers)


async def _prepare(response: web.StreamResponse, request: web.Request) -> None:
    await response.prepare(request)


@contextmanager
def _dropping(request: web.Request) -> Generator[None, None, None]:
    # A client that does not read would hold up the end of its response, too.
    try:
        yield
    except ClientGone:
        drop(request)
