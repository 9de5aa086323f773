"""A Starlette app that tracks a WebSocket of its own.

    pip install "usersessions[starlette]" uvicorn websockets
    python examples/starlette_app.py

It serves the streams, the server API and the users' own `/sessions`, and holds a WebSocket at
`/echo?access_token=...&app_name=...`. Make a token with the same secret:
`usersessions gentoken -u 42` reads it from the same variable. Run one worker: the sessions are in
the memory of one process.

If you run it as `uvicorn examples.starlette_app:app`, add `--no-access-log`: browsers can hand a
token to `uni_sse` in the URL only, and access logs show URLs.
"""

from __future__ import annotations

import os
import secrets

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from usersessions import AsyncUserSessions, Key, TokenVerifier
from usersessions.adapters.starlette import lifespan, routes, track


def secret_of(name: str) -> str:
    """A secret from the environment, or one that is good until the app stops."""
    value = os.environ.get(name)
    if not value:
        value = secrets.token_urlsafe(48)
        print(f"WARNING: {name} is not set; made up for this run: {value}", flush=True)
    return value


SECRET = secret_of("USERSESSIONS_TOKEN_HMAC_SECRET_KEY")
API_KEY = secret_of("USERSESSIONS_API_KEY")

sessions = AsyncUserSessions(TokenVerifier(Key(SECRET, algorithm="HS256")))


async def echo(websocket: WebSocket) -> None:
    async with track(websocket, sessions) as session:
        await websocket.send_text(f"Hello, user {session.user}.")
        async for message in websocket.iter_text():
            await websocket.send_text(message)


app = Starlette(
    routes=[WebSocketRoute("/echo", echo), *routes(sessions, api_keys=[API_KEY])],
    lifespan=lifespan(sessions),
)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), access_log=False)
