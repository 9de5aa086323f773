"""Django Channels: consumers whose connections are sessions, and all that is served beside them.

project = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": AuthMiddlewareStack(
            UserSessionsMiddleware(URLRouter(websocket_urlpatterns), sessions)
        ),
    }
)
application = UserSessionsApp(sessions, api_keys=[API_KEY], inner=project)

1. Consumers stay as they are. Channels does not call their `disconnect` when a server stops, nor
   when a handler of theirs fails: so a session is held around them, and not by them.
2. What a consumer sends to a connection that is over is dropped for `DROP_SECONDS`, as daphne does:
   otherwise a handler that happens to send something just then would fail, and `disconnect` not be
   called. After that it fails, as a handler may send for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from ..errors import require
from ..http.app import UserSessionsApp
from ..http.asgi import ASGIApp, Message, Receive, Scope, Send
from ..http.event_streams import TrackEventStreams
from ..http.tracking import Identify, TrackWebSockets, session_of
from ..models import Identity
from ..sessions import AsyncUserSessions

require("channels", extra="channels")
from .django.logins import login_of, note_logins  # noqa: E402 - checked above

__all__ = ["UserSessionsApp", "UserSessionsMiddleware", "identify_user", "session_of"]

DROP_SECONDS = 1.0
"""For how long a consumer may send to a connection that is over, counted from the first time."""


def identify_user(scope: Scope) -> Identity | None:
    """The user whom Django has authenticated, and their login; None where nobody is logged in.

    >>> identify_user({"type": "websocket"})
    """
    user, session = scope.get("user"), scope.get("session")
    if user is None or not user.is_authenticated:
        return None
    # One that did not say who the user is may be in a database still, for which nobody waits here.
    return login_of(user, session if getattr(session, "accessed", False) else None)


class UserSessionsMiddleware:
    """Each WebSocket that a consumer accepts is a session while it is open, and each event stream.

    Who connects is the user whom `AuthMiddlewareStack`, around it, has found. Where nobody is
    logged in, a token says it, a bearer token or the query parameter `access_token`; without one
    the connect proxy. From which app, the client says in the query parameters `app_name` and
    `app_version`.

    Args:
        inner: a consumer, or the `URLRouter` of some.
        sessions: where they are registered.
        identify: says who connects instead of `identify_user`: given the scope, it gives an
            `Identity`, a user ID, or None to ask the token; it may be async.
        allowed_origins: origins whose pages may connect without a token, such as
            `"https://app.example.com"`; the page's own host always may.
        trusted_hops: how many proxies of your own stand in front and add to `X-Forwarded-For`.

    Raises:
        ConfigError: if a value is outside of its bounds.

    >>> from channels.generic.websocket import AsyncWebsocketConsumer
    >>> application = UserSessionsMiddleware(AsyncWebsocketConsumer.as_asgi(), AsyncUserSessions())
    """

    def __init__(
        self,
        inner: Any,
        sessions: AsyncUserSessions,
        *,
        identify: Identify = identify_user,
        allowed_origins: Collection[str] = (),
        trusted_hops: int = 0,
    ) -> None:
        tracks: dict[str, type[TrackWebSockets] | type[TrackEventStreams]] = {
            "websocket": TrackWebSockets,
            "http": TrackEventStreams,
        }
        note_logins()
        self._inner = inner
        self._tracked: dict[str, ASGIApp] = {
            kind: track(
                _lenient(inner),
                sessions,
                identify=identify,
                allowed_origins=allowed_origins,
                trusted_hops=trusted_hops,
            )
            for kind, track in tracks.items()
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        await (self._tracked.get(scope["type"]) or self._inner)(scope, receive, send)


def _lenient(consumer: ASGIApp) -> ASGIApp:
    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        dropping_until: float | None = None

        async def send_or_drop(message: Message) -> None:
            nonlocal dropping_until
            try:
                await send(message)
            except OSError:
                if message["type"] == "websocket.accept":
                    raise
                dropping_until = dropping_until or loop.time() + DROP_SECONDS
                if loop.time() > dropping_until:
                    raise

        await consumer(scope, receive, send_or_drop)

    return serve
