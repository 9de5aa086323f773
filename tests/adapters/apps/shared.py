"""What all the apps have in common, and how a server is told to serve one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.servers import python
from usersessions import (
    AsyncUserSessions,
    ConnectRequest,
    Disconnect,
    Identity,
    Key,
    RedisStore,
    TokenVerifier,
    UserSessions,
)

SECRET = "a secret of at least thirty-two bytes"
API_KEY = "the-key-of-the-server-api"
OTHER_API_KEY = "the-key-before-the-rotation"
ALLOWED_ORIGIN = "https://app.example.com"


def decide(request: ConnectRequest) -> Identity | Disconnect:
    """The connect proxy: whoever has a cookie is in."""
    user = request.headers.get("cookie", "").removeprefix("user=")
    return Identity(user) if user else Disconnect(3507, "permission denied")


def new_sessions() -> AsyncUserSessions:
    """What an app that awaits holds."""
    return AsyncUserSessions(_verifier(), connect_proxy=decide, store=_store())


def new_blocking_sessions() -> UserSessions:
    """What an app with threads holds."""
    return UserSessions(_verifier(), connect_proxy=decide, store=_store())


def settings() -> dict[str, Any]:
    """What every adapter is given."""
    return {
        "api_keys": [API_KEY, OTHER_API_KEY],
        "ping_interval": int(os.environ.get("PING_INTERVAL", "25")),
        "allowed_origins": [ALLOWED_ORIGIN],
    }


def say(what: str) -> None:
    """Say something in the output of the server."""
    print(what, flush=True)


def _verifier() -> TokenVerifier:
    return TokenVerifier(Key(SECRET, algorithm="HS256"))


def _store() -> RedisStore | None:
    url = os.environ.get("REDIS_URL")
    return None if url is None else RedisStore(url)


@dataclass(frozen=True)
class Target:
    """An app on a server, and what differs between servers; between adapters nothing does.

    Besides what its adapter serves under `prefix`, each app has of its own, at the root:

    - `GET /me`: the user's ID as text, guarded by what the adapter has for that. Without a token,
      or with one that is refused: 401 with `WWW-Authenticate: Bearer`.
    - `/own/echo`, where `has_websockets`: a tracked WebSocket that sends back what it is sent.

    Attributes:
        command: serves it, on a port that the system chooses.
        ended: what the server says at last when it ends as it should, if anything.
        prefix: the path under which the adapter serves.
        env: variables that the command needs besides `tests.adapters.serving.ENVIRONMENT`.
        has_websockets: whether it serves any; `/connection/uni_websocket` is 404 where not.
        shares_redis: whether it needs `REDIS_URL`, as it is served by several processes.
        sees_vanished: whether a stream over HTTP ends when its client's network is gone without a
            packet; only servers that let the client's socket be seen make that possible.
        gets_stuck: whether, while an app waits to send over a WebSocket, it never notices that the
            client left; then only the server API ends the session.
        gives_reasons: whether it closes a WebSocket with the reason, besides the code.
        logs_queries: whether its access log has the query of a request, whatever an app does.
    """

    command: list[str]
    ended: str
    prefix: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    has_websockets: bool = True
    shares_redis: bool = False
    sees_vanished: bool = False
    gets_stuck: bool = False
    gives_reasons: bool = True
    logs_queries: bool = False

    @property
    def server(self) -> str:
        """The module that serves."""
        return self.command[self.command.index("-m") + 1]


def uvicorn(app: str, prefix: str = "", *options: str, **differences: Any) -> Target:
    """The app that a function makes, such as "plain:plain", with uvicorn."""
    return Target(
        python(
            *("-m", "uvicorn", "--host=127.0.0.1", "--port=0"),
            *("--factory", f"{__package__}.{app}", *options),
        ),
        "Finished server process",
        prefix,
        **differences,
    )


def hypercorn(app: str, prefix: str = "", *options: str, **differences: Any) -> Target:
    """The app that a function makes, with hypercorn."""
    return Target(
        python(
            *("-m", "hypercorn", "--bind=127.0.0.1:0", "--access-logfile=-"),
            *(*options, f"{__package__}.{app}()"),
        ),
        "",
        prefix,
        **{"gets_stuck": True, **differences},
    )


def daphne(app: str, prefix: str = "", *options: str, **differences: Any) -> Target:
    """An app, such as "plain:application", with daphne, which calls no function to make one."""
    return Target(
        python(
            *("-m", "daphne", "--endpoint=tcp:port=0:interface=127.0.0.1"),
            *(*options, f"{__package__}.{app}"),
        ),
        "",
        prefix,
        **{"gives_reasons": False, "logs_queries": True, **differences},
    )


def gunicorn(app: str, prefix: str = "", *options: str, **differences: Any) -> Target:
    """The WSGI app that a function makes, with gunicorn."""
    return Target(
        python(
            *("-m", "gunicorn", "--bind=127.0.0.1:0", "--access-logfile=-"),
            # They would all use the same.
            "--no-control-socket",
            *(*options, f"{__package__}.{app}()"),
        ),
        "Shutting down: Master",
        prefix,
        **{"has_websockets": False, "sees_vanished": True, **differences},
    )
