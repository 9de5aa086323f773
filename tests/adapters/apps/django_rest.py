"""Django with users: views by token, and all that the page on Django shows for logins by cookie.

The settings and views of these parts of the page are not typed anew: its own blocks are run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from tests.pages import blocks

from .django import project

PAGE = Path(__file__).parents[3] / "docs/frameworks/django.md"

shown: dict[str, Any] = {"__name__": __name__}
_parts = [
    block.code
    for block in blocks(PAGE.read_text().split("## Your code")[1].split("## WSGI")[0])
    if block.language == "python"
]
_settings, _views = (
    [code for code in _parts if ("import" in code) is imports] for imports in (False, True)
)

if not settings.configured:
    for _code in _settings:
        exec(_code, shown)
    options = project(__name__)
    options["INSTALLED_APPS"] += ["django.contrib.sessions", "rest_framework"]
    options["SESSION_ENGINE"] = "django.contrib.sessions.backends.db"
    options["LOGIN_URL"] = "/who-are-you"
    options["REST_FRAMEWORK"] = shown["REST_FRAMEWORK"]
    options["USERSESSIONS"] |= shown["USERSESSIONS"]
    settings.configure(**options)

from rest_framework.decorators import api_view, permission_classes  # noqa: E402 - Django is set up
from rest_framework.permissions import IsAuthenticated  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402

from usersessions import Identity  # noqa: E402
from usersessions.adapters.django import end_with_server, get_sessions  # noqa: E402

for _code in _views:
    exec(_code, shown)


@api_view(["GET", "POST"])
@permission_classes([IsAuthenticated])
def me(request: Request) -> Response:
    identity = cast(Identity, request.auth)
    return Response({"user": request.user.get_username(), "meta": identity.meta})


def log_in(request: HttpRequest) -> HttpResponse:
    """As a site does, once it has asked for the password."""
    from django.contrib.auth import login
    from django.contrib.auth.models import User

    login(request, User.objects.get(username="anna"))
    return HttpResponse()


for _view in (log_in, shown["log_out"]):
    _view.login_required = False  # type: ignore[union-attr]

urlpatterns = [
    path("me", me),
    path("log-in", log_in),
    path("log-out", shown["log_out"]),
    path("log-out-everywhere", shown["log_out_everywhere"]),
    path("devices", shown["devices"]),
    path("rt/", include("usersessions.adapters.django.urls")),
]


def wsgi() -> Callable[..., Iterable[bytes]]:
    """A site with two users, of whom the second may not come in any more."""
    application = get_wsgi_application()
    call_command("migrate", verbosity=0)
    from django.contrib.auth.models import User

    User.objects.create(pk=1, username="anna")
    User.objects.create(pk=2, username="bert", is_active=False)
    end_with_server(get_sessions())
    return application
