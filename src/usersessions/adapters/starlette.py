"""Starlette, and FastAPI, which uses these as they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

from ..errors import ConnectRefused, require
from ..http.app import UserSessionsApp
from ..http.endpoints import PATHS, WEBSOCKET_PATH
from ..http.lifespan import lifespan as hold
from ..models import Disconnect
from ..sessions import AsyncUserSessions

require("starlette", extra="starlette")
from starlette.routing import BaseRoute, Route, WebSocketRoute  # noqa: E402 - checked above
from starlette.websockets import WebSocket, WebSocketDisconnect  # noqa: E402

__all__ = ["close_websocket", "lifespan", "routes"]


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
    return [*(Route(path, app) for path in PATHS), WebSocketRoute(WEBSOCKET_PATH, app)]


def lifespan(
    sessions: AsyncUserSessions,
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """The lifespan of an app that needs no other: open streams get 3001 when the server stops.

    In a lifespan of your own, enter `lifespan(sessions)(app)`.
    """
    return lambda app: hold(sessions)


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
