"""Sites on which users log in: `django.contrib.auth` says who connects, and who asks."""

from __future__ import annotations

from importlib import import_module

from django import conf
from django.contrib.auth import get_user
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, parse_cookie

from ...errors import DisconnectCode
from ...models import ConnectRequest, Disconnect, Identity
from .logins import login_of

__all__ = ["identity_of", "logged_in"]


def logged_in(request: ConnectRequest) -> Identity | Disconnect:
    """Let in whoever is logged in to the site, as the user whose ID is their primary key.

    A connect proxy, there to be named in the settings. It reads the session cookie. Pages of other
    origins than the site's own are refused before it is asked, but for those in `ALLOWED_ORIGINS`.

    >>> connect_proxy = {"CONNECT_PROXY": "usersessions.adapters.django.auth.logged_in"}
    """
    asked = HttpRequest()
    key = parse_cookie(request.headers.get("cookie", "")).get(conf.settings.SESSION_COOKIE_NAME)
    session = import_module(conf.settings.SESSION_ENGINE).SessionStore(key)
    # After a change of SECRET_KEY, Django would give the session a new key, of which the browser
    # could not be told here.
    session.cycle_key = lambda: None
    asked.session = session
    user = get_user(asked)
    if not user.is_authenticated:
        return Disconnect.of(DisconnectCode.PERMISSION_DENIED)
    return login_of(user, session)


def identity_of(request: HttpRequest) -> Identity:
    """Who makes a request, and by which login, for views on a user's own sessions.

    Raises:
        PermissionDenied: if nobody is logged in.

    >>> from django.http import JsonResponse
    >>> from usersessions.adapters.django import get_sessions
    >>> def devices(request):
    ...     shown = get_sessions().own(identity_of(request)).list()
    ...     return JsonResponse({"devices": [one.device for one in shown]})
    """
    if not request.user.is_authenticated:
        raise PermissionDenied("nobody is logged in")
    return login_of(request.user, getattr(request, "session", None))
