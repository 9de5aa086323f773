"""Who makes a request, and the app's own WebSockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import WSCloseCode, web

from ...errors import ConnectRefused
from ...http.aio import ClientGone, Interruptible, deliver
from ...http.authentication import Refusal, authenticate
from ...http.base import Request
from ...http.connection import checked_disconnect
from ...http.handshakes import Handshakes, without_token
from ...http.tracking import END_TIMEOUT, raised_in, rest_of
from ...live import AsyncSession
from ...models import Disconnect, Identity
from ...sessions import AsyncUserSessions
from .connections import bound, close_websocket, drop, headers_of, set_query

__all__ = ["current_identity", "track"]

_LOOK_SECONDS = 2.0
"""How often a connection is looked at, whose handler may not receive."""


async def current_identity(request: web.Request, sessions: AsyncUserSessions) -> Identity:
    """Say who makes a request, by its bearer token (RFC 6750).

    Raises:
        web.HTTPUnauthorized: if there is no token, or it is refused, was revoked, or its user is
            blocked.
        web.HTTPServiceUnavailable: if that cannot be said now.

    >>> async def me(request):
    ...     identity = await current_identity(request, sessions)
    ...     return web.Response(text=identity.user)
    """
    who = await sessions.run(authenticate(sessions.operations, headers_of(request)))
    if isinstance(who, Refusal):
        error = web.HTTPUnauthorized() if who.status == 401 else web.HTTPServiceUnavailable()
        error.body = who.response.body
        error.headers.update(who.response.headers)
        raise error
    return who


@asynccontextmanager
async def track(
    request: web.Request,
    websocket: web.WebSocketResponse,
    sessions: AsyncUserSessions,
    *,
    who: Identity | str | None = None,
    app_name: str | None = None,
    app_version: str | None = None,
    allowed_origins: Collection[str] = (),
    trusted_hops: int = 0,
) -> AsyncGenerator[AsyncSession, None]:
    """Prepare a WebSocket of the app's own, and hold its session inside the block.

    It is closed with the code and the reason when the session has to end. What is sent after that,
    or to a client that has left, just ends the block. A block that goes on for 5 s after it was
    told to end is cancelled. An exception of its own closes the WebSocket with 1011, and goes on.

    Args:
        request: the handshake.
        websocket: one that was not prepared yet; a client that may not connect has to be told why,
            so it is prepared in any case.
        sessions: where it is registered.
        who: whom the app has authenticated: their identity, or their user ID; None asks the bearer
            token, or the query parameter `access_token`, and without one the connect proxy.
        app_name: the client's app name; None takes the query parameter `app_name`.
        app_version: the client's app version; None takes the query parameter `app_version`.
        allowed_origins: origins whose pages may connect without a token, such as
            `"https://app.example.com"`; the page's own host always may.
        trusted_hops: how many proxies of your own stand in front and add to `X-Forwarded-For`.

    Raises:
        web.HTTPForbidden: if the client may not connect; it was told so, and its WebSocket closed.
        web.HTTPBadRequest: if the request is no handshake of a WebSocket.
        ConfigError: if `allowed_origins` or `trusted_hops` is not what it has to be.
        InvalidValue: if another value of these is outside of its bounds.

    >>> async def chat(request):
    ...     websocket = web.WebSocketResponse(heartbeat=25)
    ...     async with track(request, websocket, sessions) as session:
    ...         async for message in websocket:
    ...             session.touch()
    ...     return websocket
    """
    query = request.rel_url.raw_query_string
    set_query(request, without_token(query))
    handshakes = Handshakes(
        sessions.operations, allowed_origins=allowed_origins, trusted_hops=trusted_hops
    )
    if not websocket.can_prepare(request):
        await websocket.prepare(request)  # raises what says why
    prepared: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    closing = asyncio.Lock()
    block = Interruptible()

    async def prepare() -> None:
        await websocket.prepare(request)
        prepared.set_result(None)

    async def close(code: int, reason: str) -> None:
        async with closing:
            try:
                await deliver(close_websocket(websocket, code, reason))
            except ClientGone:
                drop(request)

    async def end(disconnect: Disconnect) -> None:
        await prepared
        # It may wait for something else than the WebSocket.
        timer = asyncio.get_running_loop().call_later(END_TIMEOUT, block.interrupt)
        held.callback(timer.cancel)
        await close(disconnect.code, disconnect.reason)

    def is_gone() -> bool:
        return request.transport is None or request.transport.is_closing()

    async def watch() -> None:
        # aiohttp tells only those that receive, or send. A handler that does neither just then may
        # be busy with what the client has said, and is left alone.
        while not is_gone():
            await asyncio.sleep(_LOOK_SECONDS)
        await listed.aclose()

    def is_over(error: BaseException) -> bool:
        # What is raised where something is sent to a client that has just left, or was told to.
        return (
            isinstance(error, ConnectionError)
            and raised_in(error).startswith("aiohttp.")
            and (websocket.closed or is_gone())
        )

    async with AsyncExitStack() as held:
        # Where it is never prepared, there is nothing to close, and nobody waits on.
        held.callback(prepared.cancel)
        listed = await held.enter_async_context(AsyncExitStack())
        try:
            admission = handshakes.admit(
                Request("GET", query, headers_of(request)),
                transport="websocket",
                peer=request.remote or None,
                who=who,
                app_name=app_name,
                app_version=app_version,
            )
            admitted = await sessions.run(admission)
            bound(request)
            session = await listed.enter_async_context(sessions.hold(admitted, close=end))
        except ConnectRefused as refused:
            await prepare()
            told = checked_disconnect(refused)
            await close(told.code, told.reason)
            # So that nothing of the exception goes over what was a WebSocket.
            drop(request)
            raise web.HTTPForbidden from None
        await prepare()
        held.callback(asyncio.ensure_future(watch()).cancel)
        rest = None
        try:
            with block:
                yield session
        except Exception as error:
            rest = rest_of(error, is_over)
        disconnect = session.disconnect
        await held.aclose()
        if disconnect is not None:
            # Before the handler is over and the server closes it in its own way.
            await close(disconnect.code, disconnect.reason)
        if rest is not None:
            await close(WSCloseCode.INTERNAL_ERROR, "")
            # So that nothing that answers the exception goes over what was a WebSocket.
            drop(request)
            raise rest
