"""Starlette: routes among an app's own, mounted, and behind middlewares."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from usersessions import AsyncUserSessions
from usersessions.adapters.asgi import TrackWebSockets, UserSessionsApp
from usersessions.adapters.starlette import current_identity, lifespan, routes, track
from usersessions.http.asgi import ASGIApp

from .shared import ALLOWED_ORIGIN, new_sessions, say, settings, uvicorn


def own_lifespan(sessions: AsyncUserSessions) -> Callable[[Any], Any]:
    """A lifespan of the app's own, with ours in it."""

    @asynccontextmanager
    async def own(app: Any) -> AsyncGenerator[None, None]:
        say("the app's own start")
        async with lifespan(sessions)(app):
            yield
        say("the app's own end")

    return own


def _own(sessions: AsyncUserSessions) -> list[BaseRoute]:
    async def me(request: Request) -> Response:
        return PlainTextResponse((await current_identity(request, sessions)).user)

    async def page(request: Request) -> Response:
        return PlainTextResponse("the app's own")

    return [Route("/me", me), Route("/page", page)]


def _echo(sessions: AsyncUserSessions) -> BaseRoute:
    async def echo(websocket: WebSocket) -> None:
        async with track(websocket, sessions, allowed_origins=[ALLOWED_ORIGIN]):
            await _send_back(websocket)

    return WebSocketRoute("/own/echo", echo)


async def _send_back(websocket: WebSocket) -> None:
    async for text in websocket.iter_text():
        await websocket.send_text(text)


def mounted_routes() -> ASGIApp:
    sessions = new_sessions()
    ours = Mount("/rt", routes=routes(sessions, **settings()))
    return Starlette(
        routes=[*_own(sessions), _echo(sessions), ours], lifespan=own_lifespan(sessions)
    )


def mounted_app() -> ASGIApp:
    sessions = new_sessions()
    ours = Mount("/a/rt", app=UserSessionsApp(sessions, **settings()))
    return Starlette(
        routes=[*_own(sessions), _echo(sessions), ours], lifespan=own_lifespan(sessions)
    )


class _Stamp(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-stamp"] = "stamped"
        return response


def middleware() -> ASGIApp:
    """Middlewares that stand between the server and each response, and each WebSocket."""
    sessions = new_sessions()

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await _send_back(websocket)

    own = [*_own(sessions), WebSocketRoute("/own/echo", echo)]
    tracking = Middleware(TrackWebSockets, sessions=sessions, allowed_origins=[ALLOWED_ORIGIN])
    return Starlette(
        routes=[*own, *routes(sessions, **settings())],
        lifespan=lifespan(sessions),
        middleware=[Middleware(_Stamp), tracking],
    )


TARGETS = {
    "starlette, mounted routes": uvicorn(
        "starlette:mounted_routes", "/rt", "--root-path=/proxied", ends_slow=False
    ),
    "starlette, mounted app": uvicorn("starlette:mounted_app", "/a/rt", ends_slow=False),
    "starlette, middleware": uvicorn("starlette:middleware"),
}
