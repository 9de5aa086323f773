"""Plain ASGI."""

from __future__ import annotations

import asyncio

from usersessions import AsyncUserSessions, TokenError
from usersessions.adapters.asgi import TrackWebSockets, UserSessionsApp, lifespan
from usersessions.http.asgi import ASGIApp, Receive, Scope, Send, path_of

from .shared import ALLOWED_ORIGIN, daphne, hypercorn, new_sessions, say, settings, uvicorn


class Own:
    """What the app had before: three endpoints and a WebSocket."""

    def __init__(self, sessions: AsyncUserSessions) -> None:
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["path"].endswith("/me"):
            await self._me(scope, send)
        elif scope["path"].endswith("/hold"):
            await self._hold()
        elif scope["path"].endswith("/page"):
            await _answer(send, 200, b"the app's own")
        else:
            await _answer(send, 404, b"nothing is served at this path")

    async def _me(self, scope: Scope, send: Send) -> None:
        authorization = dict(scope["headers"]).get(b"authorization", b"")
        token = authorization.removeprefix(b"Bearer ").decode("latin-1")
        try:
            identity = await self._sessions.authenticate(token)
        except TokenError:
            await _answer(send, 401, b"who are you?", [(b"www-authenticate", b"Bearer")])
        else:
            await _answer(send, 200, identity.user.encode())

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if not scope["path"].endswith("/echo"):
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

    async def _hold(self) -> None:
        async with self._sessions.connect(user="stubborn", transport="http"):
            say("holding")
            await asyncio.Event().wait()


async def _answer(
    send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    plain_text = (b"content-type", b"text/plain; charset=utf-8")
    headers = [plain_text, *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def plain() -> ASGIApp:
    """Around an app that has every other path; a request to `/hold` never ends."""
    sessions = new_sessions()
    own = TrackWebSockets(Own(sessions), sessions, allowed_origins=[ALLOWED_ORIGIN])
    return UserSessionsApp(sessions, inner=own, **settings())


application = plain()
"""For daphne, which calls no function to make an app."""


def mounted() -> ASGIApp:
    """An app with a lifespan of its own, serving ours under /rt."""
    sessions = new_sessions()
    ours = UserSessionsApp(sessions, **settings())
    own = TrackWebSockets(Own(sessions), sessions, allowed_origins=[ALLOWED_ORIGIN])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            async with lifespan(sessions):
                say("the app's own start")
                await send({"type": "lifespan.startup.complete"})
                await receive()
            say("the app's own end")
            await send({"type": "lifespan.shutdown.complete"})
        elif path_of(scope).startswith("/rt/"):
            scope["root_path"] = scope.get("root_path", "") + "/rt"
            await ours(scope, receive, send)
        else:
            await own(scope, receive, send)

    return app


TARGETS = {
    "plain": uvicorn("plain:plain"),
    "plain, mounted": uvicorn("plain:mounted", "/rt", "--root-path=/proxied"),
    "plain, hypercorn": hypercorn("plain:plain"),
    "plain, daphne": daphne("plain:application"),
}
