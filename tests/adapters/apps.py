"""Small real apps, one a function, which servers in the tests run: `uvicorn --factory`.

Each serves the same, somewhere; `TARGETS` says which and where.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from tests.servers import python
from usersessions import AsyncUserSessions, ConnectRequest, Disconnect, Identity, Key, TokenVerifier
from usersessions.adapters.asgi import UserSessionsApp, lifespan
from usersessions.adapters.starlette import lifespan as starlette_lifespan
from usersessions.adapters.starlette import routes
from usersessions.http.asgi import ASGIApp, Receive, Scope, Send

SECRET = "a secret of at least thirty-two bytes"
API_KEY = "the-key-of-the-server-api"
OTHER_API_KEY = "the-key-before-the-rotation"
ALLOWED_ORIGIN = "https://app.example.com"


@dataclass(frozen=True)
class Target:
    """An app, the path under which it serves, and further options of uvicorn."""

    factory: Callable[[], ASGIApp]
    prefix: str = ""
    options: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """The command that serves it with uvicorn, on a port that the system chooses."""
        app = f"{__name__}:{self.factory.__name__}"
        return python(
            "-m", "uvicorn", "--host=127.0.0.1", "--port=0", "--factory", app, *self.options
        )


def decide(request: ConnectRequest) -> Identity | Disconnect:
    """The connect proxy: whoever has a cookie is in."""
    user = request.headers.get("cookie", "").removeprefix("user=")
    return Identity(user) if user else Disconnect(3507, "permission denied")


def new_sessions() -> AsyncUserSessions:
    return AsyncUserSessions(TokenVerifier(Key(SECRET, algorithm="HS256")), connect_proxy=decide)


def settings() -> dict[str, Any]:
    return {
        "api_keys": [API_KEY, OTHER_API_KEY],
        "ping_interval": int(os.environ.get("PING_INTERVAL", "25")),
        "allowed_origins": [ALLOWED_ORIGIN],
    }


def _say(what: str) -> None:
    print(what, flush=True)


# Plain ASGI


def plain() -> ASGIApp:
    return UserSessionsApp(new_sessions(), **settings())


def plain_mounted() -> ASGIApp:
    """An app that knows no framework, with a lifespan of its own, serving ours under /rt."""
    sessions = new_sessions()
    ours = UserSessionsApp(sessions, **settings())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            async with lifespan(sessions):
                _say("the app's own start")
                await send({"type": "lifespan.startup.complete"})
                await receive()
            _say("the app's own end")
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["path"].startswith("/rt/"):
            scope["root_path"] = scope.get("root_path", "") + "/rt"
            await ours(scope, receive, send)
        else:
            await PlainTextResponse("the app's own")(scope, receive, send)

    return app


def stubborn() -> ASGIApp:
    """An app with a handler that does not end when its session is told to."""
    sessions = new_sessions()

    async def hold(request: Request) -> Response:
        async with sessions.connect(user="stubborn", transport="http"):
            _say("holding")
            await asyncio.Event().wait()
        return PlainTextResponse("never")

    return Starlette(
        routes=[*routes(sessions, **settings()), Route("/hold", hold)],
        lifespan=starlette_lifespan(sessions),
    )


# Starlette


async def _own_page(request: Request) -> Response:
    return PlainTextResponse("the app's own")


def _own_lifespan(sessions: AsyncUserSessions) -> Callable[[Any], Any]:
    @asynccontextmanager
    async def own(app: Any) -> AsyncGenerator[None, None]:
        _say("the app's own start")
        async with starlette_lifespan(sessions)(app):
            yield
        _say("the app's own end")

    return own


def starlette() -> ASGIApp:
    sessions = new_sessions()
    return Starlette(
        routes=[Route("/page", _own_page), *routes(sessions, **settings())],
        lifespan=starlette_lifespan(sessions),
    )


def starlette_mounted_routes() -> ASGIApp:
    sessions = new_sessions()
    return Starlette(
        routes=[Route("/page", _own_page), Mount("/rt", routes=routes(sessions, **settings()))],
        lifespan=_own_lifespan(sessions),
    )


def starlette_mounted_app() -> ASGIApp:
    sessions = new_sessions()
    return Starlette(
        routes=[Mount("/a/rt", app=UserSessionsApp(sessions, **settings()))],
        lifespan=_own_lifespan(sessions),
    )


class _Stamp(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-stamp"] = "stamped"
        return response


def starlette_middleware() -> ASGIApp:
    """A middleware that stands between the server and each response."""
    sessions = new_sessions()
    return Starlette(
        routes=routes(sessions, **settings()),
        lifespan=starlette_lifespan(sessions),
        middleware=[Middleware(_Stamp)],
    )


# FastAPI


def fastapi() -> ASGIApp:
    sessions = new_sessions()
    app = FastAPI(lifespan=starlette_lifespan(sessions))
    app.router.routes.extend(routes(sessions, **settings()))

    @app.get("/users/{user}/devices")
    async def devices(user: str) -> list[str | None]:
        return [info.app_name for info in (await sessions.user_connections(user)).values()]

    return app


def fastapi_routes() -> ASGIApp:
    """Routes given to the constructor, a router included, a lifespan of the app's own."""
    sessions = new_sessions()
    app = FastAPI(routes=routes(sessions, **settings()), lifespan=_own_lifespan(sessions))
    router = APIRouter()

    @router.get("/users/{user}/devices")
    async def devices(user: str) -> list[str | None]:
        return [info.app_name for info in (await sessions.user_connections(user)).values()]

    app.include_router(router)
    return app


def fastapi_mounted() -> ASGIApp:
    sessions = new_sessions()
    app = FastAPI(lifespan=_own_lifespan(sessions))
    app.mount("/rt", UserSessionsApp(sessions, **settings()))
    return app


TARGETS = {
    "plain": Target(plain),
    "plain, under a root path": Target(plain, "", ("--root-path", "/proxied")),
    "plain, mounted": Target(plain_mounted, "/rt"),
    "starlette": Target(starlette),
    "starlette, under a root path": Target(starlette, "", ("--root-path", "/proxied")),
    "starlette, mounted routes": Target(starlette_mounted_routes, "/rt"),
    "starlette, mounted app": Target(starlette_mounted_app, "/a/rt"),
    "starlette, middleware": Target(starlette_middleware),
    "fastapi": Target(fastapi),
    "fastapi, routes": Target(fastapi_routes),
    "fastapi, mounted": Target(fastapi_mounted, "/rt"),
    "fastapi, mounted, under a root path": Target(
        fastapi_mounted, "/rt", ("--root-path", "/proxied")
    ),
}
"""Where the same is served, in all the ways that an app may do it."""
