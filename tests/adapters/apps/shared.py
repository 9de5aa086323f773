"""What all the apps have in common, and how a server is told to serve one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.servers import python
from usersessions import (
    AsyncSession,
    AsyncUserSessions,
    ConnectRequest,
    Disconnect,
    Identity,
    Key,
    RedisStore,
    Session,
    TokenVerifier,
    UserSessions,
)
from usersessions.http import aio, silence, tracking

SECRET = "a secret of at least thirty-two bytes"
API_KEY = "the-key-of-the-server-api"
OTHER_API_KEY = "the-key-before-the-rotation"
ALLOWED_ORIGIN = "https://app.example.com"

PING_INTERVAL = int(os.environ.get("PING_INTERVAL", "25"))

# No test has to wait as long as clients may say nothing, or not read.
silence.MAX_UNACKNOWLEDGED = min(PING_INTERVAL, silence.MAX_UNACKNOWLEDGED)
silence.ASK_AFTER = min(PING_INTERVAL, silence.ASK_AFTER)
silence.ASK_EVERY = min(PING_INTERVAL, silence.ASK_EVERY)
silence.ASK_TIMES = min(PING_INTERVAL + 1, silence.ASK_TIMES)
if "SEND_TIMEOUT" in os.environ:
    aio.SEND_TIMEOUT = tracking.OWN_SEND_TIMEOUT = float(os.environ["SEND_TIMEOUT"])


def decide(request: ConnectRequest) -> Identity | Disconnect:
    """The connect proxy: whoever has a cookie is in."""
    user = request.headers.get("cookie", "").removeprefix("user=")
    return Identity(user) if user else Disconnect(3507, "permission denied")


def tell_end(session: AsyncSession | Session, disconnect: Disconnect, lived: float) -> None:
    """Say how a session has ended: the callback `on_disconnect`."""
    say(ending(session.user, disconnect.code))


def ending(user: str, code: int) -> str:
    """What is said of a session that has ended."""
    return f"{user} ended with {code}"


def new_sessions() -> AsyncUserSessions:
    """What an app that awaits holds."""
    return AsyncUserSessions(
        _verifier(), connect_proxy=decide, on_disconnect=tell_end, store=_store()
    )


def new_blocking_sessions() -> UserSessions:
    """What an app with threads holds."""
    return UserSessions(_verifier(), connect_proxy=decide, store=_store())


def settings() -> dict[str, Any]:
    """What every adapter is given."""
    return {
        "api_keys": [API_KEY, OTHER_API_KEY],
        "ping_interval": PING_INTERVAL,
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
        ended: what the server says at last when it ends as it should; some say nothing.
        prefix: the path under which the adapter serves.
        env: variables that the command needs besides `tests.adapters.serving.ENVIRONMENT`.
        has_websockets: whether it serves any; `/connection/uni_websocket` is 404 where not.
        processes: how many serve it; several need `REDIS_URL`.
        ends_slow: whether the session of an app's own WebSocket ends when its client does not
            read. It needs an adapter that stands between the app and its server, and a server
            that lets it wait.
        gives_reasons: whether it closes a WebSocket with the reason, besides the code.
        logs_queries: whether its access log has the query of a request, whatever an app does.
        own_errors: which exceptions the server itself logs with a traceback, as a pattern of the
            line that says what was raised.
    """

    command: list[str]
    ended: str
    prefix: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    has_websockets: bool = True
    processes: int = 1
    ends_slow: bool = True
    gives_reasons: bool = True
    logs_queries: bool = False
    own_errors: str = ""

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
        # What the system says of a client that has vanished; and that it stops while a message
        # waits for an app that has ended.
        **{
            "own_errors": r"(TimeoutError|OSError): \[Errno 110\]|"
            r"asyncio\.exceptions\.CancelledError$",
            **differences,
        },
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
        # It takes whatever is sent, and keeps what is not read.
        **{"ends_slow": False, "gives_reasons": False, "logs_queries": True, **differences},
    )


def gunicorn(
    app: str, prefix: str = "", *options: str, processes: int = 1, **differences: Any
) -> Target:
    """The WSGI app that a function makes, with gunicorn."""
    return Target(
        python(
            *("-m", "gunicorn", "--bind=127.0.0.1:0", "--access-logfile=-"),
            # They would all use the same.
            "--no-control-socket",
            *([f"--workers={processes}"] if processes > 1 else []),
            *(*options, f"{__package__}.{app}()"),
        ),
        "Shutting down: Master",
        prefix,
        processes=processes,
        **{"has_websockets": False, **differences},
    )
