"""A messenger with the screen that all of them have: your devices, each with "log out".

    pip install "usersessions[fastapi,devices]" uvicorn websockets
    python examples/messenger/app.py

Open http://localhost:8000 in two browsers, and log in under the same name in both.

What the devices screen needs of a server is the login below, and `routes(sessions)`. All else here
is the messenger itself: a WebSocket of its own, and two ordinary endpoints.

`MESSENGER_END_OTHERS_MIN_AGE=3600` keeps a login from logging others out for its first hour.
Run one worker: the sessions are in the memory of one process.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
import uuid
from collections import deque
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import jwt
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, StringConstraints

from usersessions import (
    AsyncUserSessions,
    ConnectRefused,
    Disconnect,
    DisconnectCode,
    Identity,
    Key,
    TokenError,
    TokenVerifier,
)
from usersessions.adapters.starlette import close_websocket, lifespan, routes

# Made anew at each start: what is revoked is kept in memory, and no token may outlive that.
SECRET = secrets.token_urlsafe(48)
LOGIN_SECONDS = 7 * 24 * 3600
FIRST_MESSAGE_SECONDS = 10.0
DELIVERY_SECONDS = 1.0
HERE = Path(__file__).parent

sessions = AsyncUserSessions(
    TokenVerifier(Key(SECRET, algorithm="HS256")),
    end_others_min_age=float(os.environ.get("MESSENGER_END_OTHERS_MIN_AGE", "0")),
)
# The pages of FastAPI's own documentation load scripts from another site.
app = FastAPI(routes=routes(sessions), lifespan=lifespan(sessions), docs_url=None, redoc_url=None)


# The login ------------------------------------------------------------------------------------


class Login(BaseModel):
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40)]


@app.post("/login")
async def login(form: Login) -> dict[str, str]:
    """Log a device in. Your own look-up of users and their password hashes goes here."""
    now = int(time.time())
    claims = {"sub": form.name, "jti": str(uuid.uuid4()), "iat": now, "exp": now + LOGIN_SECONDS}
    return {"token": jwt.encode(claims, SECRET, algorithm="HS256")}


async def authenticated(
    credentials: Annotated[
        HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))
    ],
) -> Identity:
    """Who asks an ordinary endpoint; nobody whose device was logged out."""
    try:
        return await sessions.authenticate(credentials.credentials if credentials else "")
    except TokenError as error:
        raise HTTPException(401, "log in", {"WWW-Authenticate": "Bearer"}) from error


Caller = Annotated[Identity, Depends(authenticated)]


# The messenger --------------------------------------------------------------------------------


class Line(BaseModel):
    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]


class SaidLine(Line):
    user: str
    at: float


said: deque[SaidLine] = deque(maxlen=100)
sockets: set[WebSocket] = set()


@app.get("/lines")
async def lines(caller: Caller) -> list[SaidLine]:
    """What was said last."""
    return list(said)


@app.post("/lines", status_code=201)
async def say(line: Line, caller: Caller) -> SaidLine:
    """Say something to everybody."""
    new = SaidLine(text=line.text, user=caller.user, at=time.time())
    said.append(new)
    await asyncio.gather(*(deliver(new, websocket) for websocket in sockets))
    return new


async def deliver(line: SaidLine, websocket: WebSocket) -> None:
    # Who has left, was just logged out, or does not read misses it, and holds up nobody.
    with suppress(WebSocketDisconnect, RuntimeError, asyncio.TimeoutError):
        sending = websocket.send_json({"line": line.model_dump()})
        await asyncio.wait_for(sending, DELIVERY_SECONDS)


@app.websocket("/chat")
async def chat(websocket: WebSocket) -> None:
    """Hold the connection of a device; it is in the list as long as the `connect` block runs."""
    await websocket.accept()
    try:
        async with sessions.connect(
            # The first message is the token: in the URL it would end up in logs.
            token=await asyncio.wait_for(websocket.receive_text(), FIRST_MESSAGE_SECONDS),
            transport="websocket",
            app_name="messenger",
            remote_addr=websocket.client.host if websocket.client else None,
            user_agent=websocket.headers.get("user-agent"),
            close=partial(close_websocket, websocket),
        ) as session:
            sockets.add(websocket)
            await websocket.send_json({"welcome": session.user})
            while session.disconnect is None:
                # The page sends an empty message now and then, to be seen.
                await websocket.receive_text()
                session.touch()
    except ConnectRefused as refused:
        await close_websocket(websocket, refused)
    except (asyncio.TimeoutError, KeyError):
        # Silence in place of the token, or a binary message.
        await close_websocket(websocket, Disconnect.of(DisconnectCode.BAD_REQUEST))
    except WebSocketDisconnect:
        pass  # the client left
    finally:
        sockets.discard(websocket)


# The page -------------------------------------------------------------------------------------

# Whatever it loads comes from this server, and no string ever becomes HTML or code.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@app.get("/")
async def page() -> FileResponse:
    """The page, which does the rest in the browser."""
    return FileResponse(HERE / "static/index.html", headers=PAGE_HEADERS)


app.mount("/static", StaticFiles(directory=HERE / "static"))


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), access_log=False)
