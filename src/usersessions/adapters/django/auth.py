"""A connect proxy for sites on which users log in: `django.contrib.auth` says who connects."""

from __future__ import annotations

from importlib import import_module

from django import conf
from django.contrib.auth import get_user
from django.http import HttpRequest, parse_cookie

from ...errors import DisconnectCode
from ...models import ConnectRequest, Disconnect, Identity

__all__ = ["logged_in"]


def logged_in(request: ConnectRequest) -> Identity | Disconnect:
    """Let in whoever is logged in to the site, as the user whose ID is their primary key.

    It is there to be named in the settings, and reads the session cookie. Pages of other origins
    than the site's own are refused before it is asked, but for those in `ALLOWED_ORIGINS`.

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
    return Identity(str(user.pk))
