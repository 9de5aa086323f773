"""Django with users: REST framework's views by token, streams by the cookie of a login."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.urls import include, path

from .django import project

if not settings.configured:
    options = project(__name__)
    options["INSTALLED_APPS"] += ["django.contrib.sessions", "rest_framework"]
    options["SESSION_ENGINE"] = "django.contrib.sessions.backends.db"
    options["USERSESSIONS"]["CONNECT_PROXY"] = "usersessions.adapters.django.auth.logged_in"
    settings.configure(**options)

from rest_framework.decorators import api_view, authentication_classes, permission_classes
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from usersessions import Identity
from usersessions.adapters.django import end_with_server, get_sessions
from usersessions.adapters.django.rest_framework import BearerAuthentication


@api_view(["GET", "POST"])
@authentication_classes([BearerAuthentication])
@permission_classes([IsAuthenticated])
def me(request: Request) -> Response:
    identity = cast(Identity, request.auth)
    return Response({"user": request.user.get_username(), "meta": identity.meta})


urlpatterns = [path("me", me), path("rt/", include("usersessions.adapters.django.urls"))]


def wsgi() -> Callable[..., Iterable[bytes]]:
    """A site with two users, of whom the second may not come in any more."""
    application = get_wsgi_application()
    call_command("migrate", verbosity=0)
    from django.contrib.auth.models import User
    from django.contrib.sessions.backends.db import SessionStore

    anna = User.objects.create(pk=1, username="anna")
    User.objects.create(pk=2, username="bert", is_active=False)
    login = SessionStore()
    login["_auth_user_id"] = "1"
    login["_auth_user_backend"] = "django.contrib.auth.backends.ModelBackend"
    login["_auth_user_hash"] = anna.get_session_auth_hash()
    login.create()
    print(f"anna is logged in: {login.session_key}.", flush=True)
    end_with_server(get_sessions())
    return application
