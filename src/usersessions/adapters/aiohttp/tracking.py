"""Who makes a request, and the app's own WebSockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from ...errors import ConnectRefused
from ...http.aio import ClientGone, deliver
from ...http.authentication import Refusal, authenticate
from ...http.base import Request
from ...http.connection import checked_disconnect
from ...http.handshakes import Handshakes, without_token
from ...live import AsyncSession
from ...models import Disconnect, Identity
from ...sessions import AsyncUserSessions
from .connections import close_websocket, drop, headers_of, set_query

__all__ = ["current_identity", "track"]


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
    or to a client that has left, just ends the block.

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

    async def prepare() -> None:
        await websocket.prepare(request)
        prepared.set_result(None)

    async def close(disconnect: Disconnect) -> None:
        await prepared
        async with closing:
            try:
                await deliver(close_websocket(websocket, disconnect))
            except ClientGone:
                drop(request)

    async with AsyncExitStack() as held:
        # Where it is never prepared, there is nothing to close, and nobody waits on.
        held.callback(prepared.cancel)
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
            session = await held.enter_async_context(sessions.hold(admitted, close=close))
        except ConnectRefused as refused:
            await prepare()
            await close(checked_disconnect(refused))
            # So that nothing of the exception goes over what was a WebSocket.
            drop(request)
            raise web.HTTPForbidden from None
        await prepare()
        try:
            yield session
        except ConnectionError:
            # What is raised where something is sent to a client that has just left, or was told to.
            is_gone = request.transport is None or request.transport.is_closing()
            if not (websocket.closed or is_gone):
                raise
        told = session.disconnect
        await held.aclose()
        if told is not None:
            # Before the handler is over and the server closes it in its own way.
            await close(told)
