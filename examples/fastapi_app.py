"""A FastAPI app whose users see and close their connections.

    pip install "usersessions[fastapi]" uvicorn websockets
    python examples/fastapi_app.py

It logs users in and out, holds a WebSocket of its own at `/chat`, and serves beside it what
usersessions has: the streams, the server API, and the users' own `/sessions`. Run one worker: the
sessions are in the memory of one process.

If you run it as `uvicorn examples.fastapi_app:app`, add `--no-access-log`: browsers can hand a
token to `uni_sse` in the URL only, and access logs show URLs.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
import uuid
from functools import partial
from typing import Annotated

import jwt
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from pydantic import BaseModel

from usersessions import (
    AsyncUserSessions,
    ConnectRefused,
    Disconnect,
    DisconnectCode,
    Identity,
    Key,
    TokenVerifier,
)
from usersessions.adapters.fastapi import UserSessionsRouter
from usersessions.adapters.starlette import close_websocket


def secret_of(name: str) -> str:
    """A secret from the environment, or one that is good until the app stops."""
    value = os.environ.get(name)
    if not value:
        value = secrets.token_urlsafe(48)
        print(f"WARNING: {name} is not set; made up for this run: {value}", flush=True)
    return value


SECRET = secret_of("USERSESSIONS_TOKEN_HMAC_SECRET_KEY")
API_KEY = secret_of("USERSESSIONS_API_KEY")
PASSWORD = secret_of("APP_PASSWORD")

sessions = AsyncUserSessions(TokenVerifier(Key(SECRET, algorithm="HS256")))
realtime = UserSessionsRouter(sessions, api_keys=[API_KEY])
app = FastAPI()
app.include_router(realtime)


class Login(BaseModel):
    user: str
    password: str


@app.post("/login")
async def login(form: Login) -> dict[str, str]:
    # Your own look-up of users and their password hashes goes here.
    if not secrets.compare_digest(form.password.encode(), PASSWORD.encode()):
        raise HTTPException(401, "wrong user or password")
    now = time.time()
    claims = {
        "sub": form.user,
        "iat": now,
        "exp": now + 3600,
        "jti": str(uuid.uuid4()),  # without it, this one login could not be revoked
        "meta": {"login": "password"},
    }
    return {"token": jwt.encode(claims, SECRET, algorithm="HS256")}


@app.post("/logout-everywhere")
async def logout_everywhere(
    caller: Annotated[Identity, Depends(realtime.current_identity)],
) -> dict[str, int]:
    ended = await sessions.invalidate_user_tokens(caller.user)
    return {"ended": len(ended.closed) + len(ended.unconfirmed)}


@app.websocket("/chat")
async def chat(websocket: WebSocket) -> None:
    await websocket.accept()

    try:
        # The first message is the token: in the URL it would end up in logs.
        token = await asyncio.wait_for(websocket.receive_text(), timeout=10)
        async with sessions.connect(
            token=token,
            transport="websocket",
            app_name="web",
            remote_addr=websocket.client.host if websocket.client else None,
            user_agent=websocket.headers.get("user-agent"),
            close=partial(close_websocket, websocket),
        ) as session:
            await websocket.send_text(f"Hello, user {session.user}.")
            async for message in websocket.iter_text():
                if session.disconnect is None:
                    await websocket.send_text(f"You said: {message}")
    except ConnectRefused as refused:
        await close_websocket(websocket, refused)
    except asyncio.TimeoutError:  # whoever says nothing shall not stay for ever
        await close_websocket(websocket, Disconnect.of(DisconnectCode.STALE))
    except WebSocketDisconnect:
        pass  # the client left before it was greeted


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), access_log=False)
