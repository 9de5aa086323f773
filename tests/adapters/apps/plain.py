"""Plain ASGI."""

from __future__ import annotations

import asyncio

from usersessions import AsyncUserSessions, TokenError
from usersessions.adapters.asgi import TrackWebSockets, UserSessionsApp, lifespan
from usersessions.http.asgi import ASGIApp, Receive, Scope, Send, path_of

from .shared import ALLOWED_ORIGIN, daphne, hypercorn, new_sessions, say, settings, uvicorn


class Own:
    """What the app had before: two endpoints, and a page everywhere else."""

    def __init__(self, sessions: AsyncUserSessions) -> None:
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._echo(receive, send)
        elif scope["path"].endswith("/me"):
            await self._me(scope, send)
        elif scope["path"].endswith("/hold"):
            await self._hold()
        else:
            await _answer(send, 200, b"the app's own")

    async def _me(self, scope: Scope, send: Send) -> None:
        authorization = dict(scope["headers"]).get(b"authorization", b"")
        token = authorization.removeprefix(b"Bearer ").decode("latin-1")
        try:
            identity = await self._sessions.authenticate(token)
        except TokenError:
            await _answer(send, 401, b"who are you?", [(b"www-authenticate", b"Bearer")])
        else:
            await _answer(send, 200, identity.user.encode())

    async def _echo(self, receive: Receive, send: Send) -> None:
        await receive()
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
    """All paths side by side; a request to `/hold` never ends."""
    sessions = new_sessions()
    ours = UserSessionsApp(sessions, **settings())
    own = TrackWebSockets(Own(sessions), sessions, allowed_origins=[ALLOWED_ORIGIN])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        is_own = scope["type"] != "lifespan" and scope["path"].endswith(("/me", "/echo", "/hold"))
        await (own if is_own else ours)(scope, receive, send)

    return app


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
