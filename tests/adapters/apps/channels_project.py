"""A Django project with consumers of each kind, which know nothing of sessions.

It is a module apart, as no process can have the settings of two projects.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import django
from django.conf import settings as django_settings

django_settings.configure(
    SECRET_KEY="a secret key of this project alone",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "channels"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    AUTHENTICATION_BACKENDS=[f"{__name__}.Backend"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
)
django.setup()

from channels.auth import AuthMiddlewareStack  # noqa: E402 - Django is set up
from channels.generic.http import AsyncHttpConsumer  # noqa: E402
from channels.generic.websocket import (  # noqa: E402
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    WebsocketConsumer,
)
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import WebsocketDenier  # noqa: E402
from django.contrib.auth import BACKEND_SESSION_KEY, SESSION_KEY  # noqa: E402
from django.contrib.auth.signals import user_logged_in  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.urls import path, re_path  # noqa: E402

from usersessions import TokenError, UserSessions  # noqa: E402
from usersessions.adapters.channels import (  # noqa: E402
    UserSessionsApp,
    UserSessionsMiddleware,
    session_of,
)
from usersessions.http.asgi import ASGIApp  # noqa: E402

from .shared import ALLOWED_ORIGIN, new_sessions, say, settings  # noqa: E402

sessions = new_sessions()
store: Any = sessions.store
blocking_sessions = UserSessions(store=store)


class Known:
    """A user of no database."""

    is_authenticated = True

    def __init__(self, pk: int | str) -> None:
        self.pk = pk

    def save(self, **_: Any) -> None:
        """Django notes when a user was last here."""


class Backend:
    """Knows everybody whom a session names."""

    def get_user(self, pk: int) -> Known:
        return Known(pk)


# Django's own -------------------------------------------------------------------------------------


async def me(request: HttpRequest) -> HttpResponse:
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    try:
        identity = await sessions.authenticate(token)
    except TokenError:
        return HttpResponse(status=401, headers={"WWW-Authenticate": "Bearer"})
    return HttpResponse(identity.user, content_type="text/plain")


def login(request: HttpRequest) -> HttpResponse:
    """What Django does at a login; its own asks for a user with a table."""
    request.session[SESSION_KEY] = request.GET["user"]
    request.session[BACKEND_SESSION_KEY] = f"{__name__}.Backend"
    user_logged_in.send(sender=Known, request=request, user=Known(request.GET["user"]))
    return HttpResponse()


def kick(request: HttpRequest) -> HttpResponse:
    """A view that blocks, as most do."""
    ended = blocking_sessions.disconnect(request.GET["user"], code=4001, reason="kicked")
    return HttpResponse(json.dumps(ended.closed))


urlpatterns = [path("me", me), path("login", login), path("kick", kick)]


# Consumers ----------------------------------------------------------------------------------------


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data == "fail":
            raise LookupError("a handler failed")
        if text_data == "who":
            text_data = session_of(self.scope).user
        await self.send(text_data=text_data)

    async def disconnect(self, code: int) -> None:
        say(f"echo disconnected {code}")


class SyncEcho(WebsocketConsumer):
    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.send(text_data=text_data)

    def disconnect(self, code: int) -> None:
        say(f"sync disconnected {code}")


class JsonEcho(AsyncJsonWebsocketConsumer):
    groups = ["everybody"]  # noqa: RUF012 - so it is said with Channels

    async def receive_json(self, content: Any, **_: Any) -> None:
        await self.channel_layer.group_send("everybody", {"type": "said", "what": content})

    async def said(self, event: Any) -> None:
        await self.send_json(event["what"])

    async def disconnect(self, code: int) -> None:
        say(f"json disconnected {code}")


class Busy(AsyncWebsocketConsumer):
    """Sends in one handler, which waits for no message: so many times, or for ever."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        times = int(text_data or "0")
        while times:
            times -= 1
            await self.send(text_data="tick")
            await asyncio.sleep(0.05)
        say("busy no more")

    async def disconnect(self, code: int) -> None:
        say(f"busy disconnected {code}")


class Closed(AsyncWebsocketConsumer):
    """Lets nobody in."""

    async def connect(self) -> None:
        await self.close()


class Events(AsyncHttpConsumer):
    async def handle(self, body: bytes) -> None:
        await self.send_headers(headers=[(b"Content-Type", b"text/event-stream")])
        await self.send_body(b"data: hello\n\n", more_body=True)
        try:
            await asyncio.Event().wait()
        finally:
            say("no more events")


def channels() -> ASGIApp:
    """All at the root."""
    return _application("")


def mounted() -> ASGIApp:
    """What the library serves is under /rt."""
    return _application("/rt")


def _application(prefix: str) -> ASGIApp:
    # The types of Django know of views alone.
    def tracked(inner: Any) -> Any:
        return AuthMiddlewareStack(
            UserSessionsMiddleware(inner, sessions, allowed_origins=[ALLOWED_ORIGIN])
        )

    consumers: dict[str, Any] = {
        "echo": Echo,
        "sync": SyncEcho,
        "json": JsonEcho,
        "busy": Busy,
        "closed": Closed,
    }
    denied: Any = WebsocketDenier.as_asgi()
    websockets: list[Any] = [
        *(path(f"own/{name}", consumer.as_asgi()) for name, consumer in consumers.items()),
        re_path("", denied),
    ]
    django_app: Any = get_asgi_application()
    http: list[Any] = [path("own/events", tracked(Events.as_asgi())), re_path("", django_app)]
    project = ProtocolTypeRouter(
        {"http": URLRouter(http), "websocket": tracked(URLRouter(websockets))}
    )
    return UserSessionsApp(sessions, inner=project, prefix=prefix, **settings())


application = channels()
"""For daphne, which calls no function to make an app."""
