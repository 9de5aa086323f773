"""Starlette, and FastAPI, which uses these as they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

from ..errors import require
from ..http.app import PATHS, WEBSOCKET_PATH, UserSessionsApp
from ..http.lifespan import lifespan as hold
from ..sessions import AsyncUserSessions

require("starlette", extra="starlette")
from starlette.routing import BaseRoute, Route, WebSocketRoute  # noqa: E402 - checked above

__all__ = ["lifespan", "routes"]


def routes(
    sessions: AsyncUserSessions,
    *,
    api_keys: Iterable[str] = (),
    ping_interval: int = 25,
    allowed_origins: Collection[str] = (),
) -> list[BaseRoute]:
    """The server API and the three streams as routes, to be put among an app's own.

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
    )
    return [*(Route(path, app) for path in PATHS), WebSocketRoute(WEBSOCKET_PATH, app)]


def lifespan(
    sessions: AsyncUserSessions,
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """The lifespan of an app that needs no other: open streams get 3001 when the server stops.

    In a lifespan of your own, enter `lifespan(sessions)(app)`.
    """
    return lambda app: hold(sessions)
