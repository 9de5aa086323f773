"""aiohttp: at the root, in a sub-app, with handlers that are cancelled when a client leaves.

Each function takes the arguments that `python -m aiohttp.web` passes on.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from aiohttp import WSMsgType, web

from tests.servers import python
from usersessions import AsyncUserSessions
from usersessions.adapters.aiohttp import current_identity, setup, track

from .shared import ALLOWED_ORIGIN, Target, gunicorn, new_sessions, say, settings


def _app(sessions: AsyncUserSessions, **options: Any) -> web.Application:
    async def me(request: web.Request) -> web.Response:
        identity = await current_identity(request, sessions)
        return web.Response(text=identity.user)

    async def echo(request: web.Request) -> web.StreamResponse:
        websocket = web.WebSocketResponse()
        async with track(request, websocket, sessions, allowed_origins=[ALLOWED_ORIGIN]) as session:
            async for message in websocket:
                session.touch()
                # Where the client has vanished, the last one is an error.
                if message.type is WSMsgType.TEXT:
                    await websocket.send_str(message.data)
        return websocket

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="the app's own")

    app = web.Application(**options)
    app.add_routes([web.get("/me", me), web.get("/own/echo", echo), web.get("/page", page)])
    return app


def plain(arguments: Sequence[str] = ()) -> web.Application:
    sessions = new_sessions()
    app = _app(sessions)
    setup(app, sessions, **settings())
    return app


@web.middleware
async def _stamp(request: web.Request, handler: Any) -> web.StreamResponse:
    response: web.StreamResponse = await handler(request)
    if not response.prepared:
        response.headers["x-stamp"] = "stamped"
    return response


async def _own_context(app: web.Application) -> AsyncGenerator[None, None]:
    say("the app's own start")
    yield
    say("the app's own end")


def mounted(arguments: Sequence[str] = ()) -> web.Application:
    """A sub-app with ours, behind a middleware of the app around it, with a context of its own."""
    sessions = new_sessions()
    app = _app(sessions, middlewares=[_stamp])
    app.cleanup_ctx.append(_own_context)
    ours = web.Application()
    setup(ours, sessions, **settings())
    app.add_subapp("/rt", ours)
    return app


if __name__ == "__main__":
    # As it is served by an app's own program; `python -m aiohttp.web` cancels no handlers.
    logging.basicConfig(level=logging.INFO)
    web.run_app(plain(), host="127.0.0.1", port=0, handler_cancellation=True)
    say("Stopped")


# A chunk without a size, and a body with a content coding that it has not.
_OWN_ERRORS = (
    r"zlib\.error: |aiohttp\.web_protocol\.RequestPayloadError: 400,|"
    r"aiohttp\.http_exceptions\.(BadHttpMessage|TransferEncodingError|ContentEncodingError): 400,"
)


def _served(app: str, prefix: str = "") -> Target:
    command = ("aiohttp.web", "-H", "127.0.0.1", "-P", "0", f"{__package__}.aiohttp:{app}")
    return Target(
        python("-m", *command), "Stopped", prefix, ends_slow=False, own_errors=_OWN_ERRORS
    )


TARGETS = {
    "aiohttp, sub-app": _served("mounted", "/rt"),
    "aiohttp, handlers cancelled": Target(
        python("-m", f"{__package__}.aiohttp"), "Stopped", ends_slow=False, own_errors=_OWN_ERRORS
    ),
    "aiohttp, gunicorn": gunicorn(
        "aiohttp:plain",
        "",
        "--worker-class=aiohttp.GunicornWebWorker",
        processes=2,
        has_websockets=True,
        ends_slow=False,
        own_errors=_OWN_ERRORS,
    ),
}
