"""A FastAPI app whose users see and close their connections.

    pip install "usersessions[fastapi]" uvicorn websockets
    python examples/fastapi_app.py

It logs users in, holds a WebSocket of its own at `/chat`, and serves the streams and the server API
of usersessions beside it. Run one worker: the sessions are in the memory of one process.

If you run it as `uvicorn examples.fastapi_app:app`, add `--no-access-log`: browsers can hand a
token to `uni_sse` in the URL only, and access logs show URLs.
"""

from __future__ import annotations

import os
import secrets
import time

import jwt
import uvicorn
from fastapi import FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from pydantic import BaseModel

from usersessions import AsyncUserSessions, ConnectRefused, Disconnect, Key, TokenVerifier
from usersessions.adapters.starlette import lifespan, routes


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
app = FastAPI(routes=routes(sessions, api_keys=[API_KEY]), lifespan=lifespan(sessions))


class Login(BaseModel):
    user: str
    password: str


@app.post("/login")
async def login(form: Login) -> dict[str, str]:
    # Your own look-up of users and their password hashes goes here.
    if not secrets.compare_digest(form.password.encode(), PASSWORD.encode()):
        raise HTTPException(401, "wrong user or password")
    claims = {"sub": form.user, "exp": int(time.time()) + 3600, "meta": {"login": "password"}}
    return {"token": jwt.encode(claims, SECRET, algorithm="HS256")}


@app.websocket("/chat")
async def chat(websocket: WebSocket) -> None:
    await websocket.accept()

    async def close(disconnect: Disconnect) -> None:
        await websocket.close(disconnect.code, disconnect.reason)

    try:
        # The first message is the token: in the URL it would end up in logs.
        token = await websocket.receive_text()
        async with sessions.connect(
            token=token, transport="websocket", app_name="web", close=close
        ) as session:
            await websocket.send_text(f"Hello, user {session.user}.")
            async for message in websocket.iter_text():
                if session.disconnect is None:
                    await websocket.send_text(f"You said: {message}")
    except ConnectRefused as refused:
        await websocket.close(refused.code, refused.reason)
    except WebSocketDisconnect:
        pass  # the client left before it was greeted


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), access_log=False)
