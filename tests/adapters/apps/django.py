"""Django: a project in one module, on WSGI and on ASGI, with the middleware that projects have."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, cast

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import include, path, re_path

from usersessions.adapters.asgi import TrackWebSockets
from usersessions.adapters.django import (
    end_with_server,
    get_async_sessions,
    get_sessions,
    token_required,
    with_usersessions,
)
from usersessions.http.asgi import ASGIApp, Receive, Scope, Send, path_of

from .shared import ALLOWED_ORIGIN, SECRET, gunicorn, uvicorn
from .shared import settings as shared_settings

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
if django.VERSION >= (5, 1):
    MIDDLEWARE.append("django.contrib.auth.middleware.LoginRequiredMiddleware")


def project(urls: str = __name__) -> dict[str, Any]:
    """The settings of the project, whose URLs are in a module."""
    return {
        "ALLOWED_HOSTS": ["127.0.0.1", "localhost"],
        "DATABASES": {
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": os.environ.get("DATABASE", ":memory:"),
            }
        },
        "FORCE_SCRIPT_NAME": os.environ.get("SCRIPT_NAME"),
        "INSTALLED_APPS": [
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "usersessions.adapters.django",
        ],
        "MIDDLEWARE": MIDDLEWARE,
        "ROOT_URLCONF": urls,
        "SECRET_KEY": "django-needs-one-whatever-it-is-used-for",
        "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies",
        "USE_TZ": True,
        "USERSESSIONS": {
            "TOKEN_HMAC_SECRET_KEY": SECRET,
            "CONNECT_PROXY": "tests.adapters.apps.shared.decide",
            "ON_DISCONNECT": "tests.adapters.apps.shared.tell_end",
            "STORE": os.environ.get("REDIS_URL", "memory"),
            **{name.upper(): value for name, value in shared_settings().items()},
        },
    }


@token_required
def me(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.identity.user)  # type: ignore[attr-defined]


@token_required
async def me_awaited(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.identity.user)  # type: ignore[attr-defined]


def wsgi() -> Callable[..., Iterable[bytes]]:
    """What the project's wsgi.py has."""
    settings.configure(**project())
    application = get_wsgi_application()
    end_with_server(get_sessions())
    return application


def asgi() -> ASGIApp:
    """What the project's asgi.py has, beside a WebSocket of the app's own."""
    served: ASGIApp = bare()
    echo = TrackWebSockets(_echo, get_async_sessions(), allowed_origins=[ALLOWED_ORIGIN])

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await (echo if scope["type"] == "websocket" else served)(scope, receive, send)

    return with_usersessions(application)


def channels() -> ASGIApp:
    """What it has where Channels serves the WebSockets, behind middlewares that copy the scope."""
    application: Any = bare()
    from channels.auth import AuthMiddlewareStack
    from channels.generic.websocket import AsyncWebsocketConsumer
    from channels.routing import ProtocolTypeRouter, URLRouter
    from channels.security.websocket import WebsocketDenier

    from usersessions.adapters.channels import UserSessionsMiddleware

    class Echo(AsyncWebsocketConsumer):
        async def receive(
            self, text_data: str | None = None, bytes_data: bytes | None = None
        ) -> None:
            await self.send(text_data=text_data)

    echo, denied = cast(Any, Echo.as_asgi()), cast(Any, WebsocketDenier.as_asgi())
    consumers: Any = UserSessionsMiddleware(
        URLRouter([path("own/echo", echo), re_path("", denied)]),
        get_async_sessions(),
        allowed_origins=[ALLOWED_ORIGIN],
    )
    websockets: Any = AuthMiddlewareStack(consumers)
    return with_usersessions(ProtocolTypeRouter({"http": application, "websocket": websockets}))


def bare() -> ASGIApp:
    """An asgi.py in which nobody has put anything."""
    settings.configure(**project())
    return cast(ASGIApp, get_asgi_application())


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    if path_of(scope) != "/own/echo":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


urlpatterns = [
    path("me", me),
    path("me/awaited", me_awaited),
    path("rt/", include("usersessions.adapters.django.urls")),
]

TARGETS = {
    "django, wsgi": gunicorn("django:wsgi", "/rt", "--threads=32"),
    "django, asgi": uvicorn("django:asgi", "/rt"),
    "django, channels, under a root path": uvicorn(
        "django:channels", "/rt", "--root-path=/proxied"
    ),
}
