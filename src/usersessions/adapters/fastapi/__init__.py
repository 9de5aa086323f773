"""FastAPI: a router that shows up in the API documentation, and dependencies.

from typing import Annotated

from fastapi import Depends, FastAPI

from usersessions import AsyncUserSessions, Identity, Key, TokenVerifier
from usersessions.adapters.fastapi import UserSessionsRouter

sessions = AsyncUserSessions(TokenVerifier(Key(SECRET, algorithm="HS256")))
realtime = UserSessionsRouter(sessions, api_keys=[API_KEY])

app = FastAPI()
app.include_router(realtime)


@app.get("/me")
async def me(caller: Annotated[Identity, Depends(realtime.current_identity)]) -> str:
    return caller.user
"""

from ...errors import require

require("fastapi", extra="fastapi")

from .router import UserSessionsRouter  # noqa: E402 - checked above

__all__ = ["UserSessionsRouter"]
