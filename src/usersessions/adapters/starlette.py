"""Starlette, and FastAPI, which is built on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from ..errors import ConnectRefused, require
from ..http.aio import ClientGone, Interruptible, deliver
from ..http.app import UserSessionsApp
from ..http.asgi import peer_of, read_handshake, read_headers
from ..http.authentication import Refusal, authenticate
from ..http.connection import checked_disconnect
from ..http.endpoints import NAMELESS_PATH, PATHS, WEBSOCKET_PATH
from ..http.handshakes import Handshakes
from ..http.lifespan import ensure_lifespan
from ..http.lifespan import lifespan as hold
from ..http.silence import bound_hidden
from ..http.tracking import END_TIMEOUT, raised_in, rest_of
from ..live import AsyncSession
from ..models import Disconnect, Identity
from ..sessions import AsyncUserSessions

require("starlette", extra="starlette")
from starlette.exceptions import HTTPException, WebSocketException  # noqa: E402 - checked above
from starlette.requests import HTTPConnection  # noqa: E402
from starlette.routing import BaseRoute, Route, WebSocketRoute  # noqa: E402
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState  # noqa: E402

_CONNECTED = WebSocketState.CONNECTED

__all__ = ["close_websocket", "current_identity", "lifespan", "routes", "track"]


def routes(
    sessions: AsyncUserSessions,
    *,
    api_keys: Iterable[str] = (),
    ping_interval: int = 25,
    allowed_origins: Collection[str] = (),
    trusted_hops: int = 0,
) -> list[BaseRoute]:
    """The server API, users' own sessions and the three streams, as routes to put among others.

    The arguments are those of `UserSessionsApp`, and it raises what that raises.

    >>> from starlette.applications import Starlette
    >>> sessions = AsyncUserSessions()
    >>> app = Starlette(routes=routes(sessions, api_keys=["an-api-key-of-yours"]),
    ...                 lifespan=lifespan(sessions))
    >>> [route.path for route in app.routes][0]
    '/api'
    """
    app = UserSessionsApp(
        sessions,
        api_keys=api_keys,
        ping_interval=ping_interval,
        allowed_origins=allowed_origins,
        trusted_hops=trusted_hops,
    )
    paths = (*PATHS, NAMELESS_PATH)
    return [*(Route(path, app) for path in paths), WebSocketRoute(WEBSOCKET_PATH, app)]


def lifespan(
    sessions: AsyncUserSessions,
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """The lifespan of an app that needs no other: open streams get 3001 when the server stops.

    In a lifespan of your own, enter `lifespan(sessions)(app)`.

    >>> from starlette.applications import Starlette
    >>> sessions = AsyncUserSessions()
    >>> app = Starlette(lifespan=lifespan(sessions))
    >>> @asynccontextmanager
    ... async def of_your_own(app):
    ...     async with lifespan(sessions)(app):
    ...         yield
    >>> app = Starlette(lifespan=of_your_own)
    """
    return lambda app: hold(sessions)


async def current_identity(request: HTTPConnection, sessions: AsyncUserSessions) -> Identity:
    """Say who makes a request, by its bearer token (RFC 6750).

    Raises:
        HTTPException: with 401 if there is no token, or it is refused, was revoked, or its user is
            blocked; with 503 if that cannot be said now.

    >>> async def me(request):
    ...     identity = await current_identity(request, sessions)
    ...     return PlainTextResponse(identity.user)
    """
    who = await sessions.run(authenticate(sessions.operations, read_headers(request.scope)))
    if isinstance(who, Refusal):
        raise HTTPException(who.status, who.message, dict(who.headers))
    return who


@asynccontextmanager
async def track(
    websocket: WebSocket,
    sessions: AsyncUserSessions,
    *,
    who: Identity | str | None = None,
    subprotocol: str | None = None,
    app_name: str | None = None,
    app_version: str | None = None,
    allowed_origins: Collection[str] = (),
    trusted_hops: int = 0,
) -> AsyncGenerator[AsyncSession, None]:
    """Accept a WebSocket of the app's own, and hold its session inside the block.

    It is closed with the code and the reason when the session has to end. That just ends the block,
    as soon as it uses the WebSocket again, or else after 5 s, when it is cancelled. So does a
    client that leaves (`WebSocketDisconnect`); a block that never receives notices only when it
    sends.

    Args:
        websocket: one that was not accepted yet; a client that may not connect has to be told why,
            so it is accepted in any case.
        sessions: where it is registered.
        who: whom the app has authenticated: their identity, or their user ID; None asks the bearer
            token, or the query parameter `access_token`, and without one the connect proxy.
        subprotocol: the WebSocket subprotocol to accept with.
        app_name: the client's app name; None takes the query parameter `app_name`.
        app_version: the client's app version; None takes the query parameter `app_version`.
        allowed_origins: origins whose pages may connect without a token, such as
            `"https://app.example.com"`; the page's own host always may.
        trusted_hops: how many proxies of your own stand in front and add to `X-Forwarded-For`.

    Raises:
        WebSocketException: if the client may not connect; Starlette closes the WebSocket with it.
        ConfigError: if `allowed_origins` or `trusted_hops` is not what it has to be.
        InvalidValue: if another value of these is outside of its bounds.

    >>> async def chat(websocket):
    ...     async with track(websocket, sessions) as session:
    ...         async for text in websocket.iter_text():
    ...             session.touch()
    """
    # At once: servers write the query into their access logs when a WebSocket is accepted.
    handshake = read_handshake(websocket.scope)
    handshakes = Handshakes(
        sessions.operations, allowed_origins=allowed_origins, trusted_hops=trusted_hops
    )
    await ensure_lifespan(sessions)
    bound_hidden(websocket.scope.get("client"))
    accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    block = Interruptible()

    async def close(disconnect: Disconnect) -> None:
        await accepted
        try:
            await deliver(close_websocket(websocket, disconnect))
        except ClientGone:
            # It does not read, and what the block sends to it may wait for ever.
            block.interrupt()

    async def end(disconnect: Disconnect) -> None:
        await accepted
        # It may wait for something else than the WebSocket.
        timer = asyncio.get_running_loop().call_later(END_TIMEOUT, block.interrupt)
        held.callback(timer.cancel)
        await close(disconnect)

    async with AsyncExitStack() as held:
        # Where it is never accepted, there is nothing to close, and nobody waits on.
        held.callback(accepted.cancel)
        try:
            admission = handshakes.admit(
                handshake,
                transport="websocket",
                peer=peer_of(websocket.scope),
                who=who,
                app_name=app_name,
                app_version=app_version,
            )
            admitted = await sessions.run(admission)
            session = await held.enter_async_context(sessions.hold(admitted, close=end))
        except ConnectRefused as refused:
            told = checked_disconnect(refused)
            await websocket.accept(subprotocol)
            raise WebSocketException(told.code, told.reason) from None
        await websocket.accept(subprotocol)
        accepted.set_result(None)

        def is_over(error: BaseException) -> bool:
            # The latter is for whatever is done with a WebSocket that was closed.
            return isinstance(error, WebSocketDisconnect) or (
                session.disconnect is not None
                and websocket.application_state is not _CONNECTED
                and isinstance(error, RuntimeError)
                and raised_in(error) == WebSocket.__module__
            )

        rest = None
        try:
            with block:
                yield session
        except Exception as error:
            rest = rest_of(error, is_over)
        if rest is not None:
            raise rest
        disconnect = session.disconnect
        await held.aclose()
        if disconnect is not None:
            # Before the endpoint is over and the server closes it in its own way.
            await close(disconnect)


async def close_websocket(websocket: WebSocket, why: Disconnect | ConnectRefused) -> None:
    """Close a WebSocket of the app's own with a code and a reason.

    It passes over a client that has left in the same moment, for which Starlette would raise.

    Args:
        websocket: one that was accepted.
        why: what `connect` tells its `close`, or the `ConnectRefused` that it raised.

    >>> from functools import partial
    >>> async def chat(websocket):
    ...     await websocket.accept()
    ...     close = partial(close_websocket, websocket)
    ...     async with sessions.connect(user="42", transport="websocket", close=close):
    ...         await websocket.receive_text()
    """
    with suppress(WebSocketDisconnect, RuntimeError):
        await websocket.close(why.code, why.reason)
