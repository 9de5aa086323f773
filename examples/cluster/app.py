"""The server of the cluster: nothing in it but the store tells it from a server that is alone.

    pip install "usersessions[serve,redis]"
    uvicorn app:app --no-access-log

Start it as often as you like, on as many machines: all that have the same `REDIS_URL` give the same
answers. They need the same secrets, too: a token is good at each of them.
"""

from __future__ import annotations

import os

from usersessions import AsyncUserSessions, Key, RedisStore, TokenVerifier
from usersessions.adapters.asgi import UserSessionsApp

SECRET = os.environ["USERSESSIONS_TOKEN_HMAC_SECRET_KEY"]
API_KEY = os.environ["USERSESSIONS_API_KEY"]

store = RedisStore(
    os.environ["REDIS_URL"],
    # For how long a server that died still counts as alive.
    lease=float(os.environ.get("LEASE_SECONDS", "15")),
)
sessions = AsyncUserSessions(TokenVerifier(Key(SECRET, algorithm="HS256")), store=store)
app = UserSessionsApp(sessions, api_keys=[API_KEY])
