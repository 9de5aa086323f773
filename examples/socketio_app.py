"""A chat on python-socketio, each of whose sockets is a session.

    pip install "usersessions[socketio]" uvicorn websockets
    python examples/socketio_app.py

Clients connect with `auth={"token": ...}`. Make a token with the same secret: `usersessions
gentoken -u 42` reads it from the same variable. It serves the server API and the users' own
`/sessions`, too. Run one worker: the sessions are in the memory of one process.
"""

# mypy: disable-error-code="import-untyped,misc,untyped-decorator"

from __future__ import annotations

import os
import secrets
from typing import Any

import socketio
import uvicorn

from usersessions import AsyncUserSessions, Key, TokenVerifier
from usersessions.adapters.asgi import UserSessionsApp
from usersessions.adapters.socketio import track


def secret_of(name: str) -> str:
    """A secret from the environment, or one that is good until the app stops."""
    value = os.environ.get(name)
    if not value:
        value = secrets.token_urlsafe(48)
        print(f"WARNING: {name} is not set; made up for this run: {value}", flush=True)
    return value


SECRET = secret_of("USERSESSIONS_TOKEN_HMAC_SECRET_KEY")
API_KEY = secret_of("USERSESSIONS_API_KEY")

# A client that is lost without a word is noticed after 15 + 10 s, on polling 10 s later at most.
sio = socketio.AsyncServer(async_mode="asgi", ping_interval=15, ping_timeout=10)
sessions = AsyncUserSessions(TokenVerifier(Key(SECRET, algorithm="HS256")))
tracking = track(sio, sessions)


@sio.event
async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
    await sio.enter_room(sid, f"user:{tracking.identity(sid).user}")


@sio.event
async def message(sid: str, text: str) -> None:
    user = tracking.identity(sid).user
    await sio.emit("message", {"from": user, "text": text})


@sio.event
async def refresh(sid: str, token: str) -> None:
    # Before the old token expires, and the session with it.
    await tracking.session(sid).refresh(token)


app = socketio.ASGIApp(sio, UserSessionsApp(sessions, api_keys=[API_KEY]))

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), access_log=False)
