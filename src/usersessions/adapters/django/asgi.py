"""The streams under ASGI, around Django's own handler.

Django's handler knows no WebSocket and no lifespan, and before Django 5 it does not notice that a
client has left. So what the project's URLs hand to us never gets there; all else does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from django import conf
from django.core.exceptions import ImproperlyConfigured
from django.urls import (
    Resolver404,
    URLResolver,
    get_resolver,
    get_script_prefix,
    resolve,
    reverse,
)
from django.urls.exceptions import NoReverseMatch

from ...http.asgi import ASGIApp, Receive, Scope, Send, path_of, spared_scope
from .conf import configured

__all__ = ["with_usersessions"]

_URLS = "usersessions.adapters.django.urls"


def with_usersessions(application: Callable[[Any, Any, Any], Awaitable[None]]) -> ASGIApp:
    """Serve the streams beside a Django project, and tell them when the server stops.

    What the project's URLs include of ours is served at the same paths, without its middleware;
    all else by `application`.

    Args:
        application: what `get_asgi_application()` gives, or what stands around it.

    Raises:
        ImproperlyConfigured: if the project's URLs do not include ours, or not at a fixed path; or
            if the settings cannot work.

    >>> from django.core.asgi import get_asgi_application
    >>> def make():  # as your asgi.py does
    ...     return with_usersessions(get_asgi_application())
    """
    ours, prefix = configured().asgi, _prefix()

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or _takes(scope, prefix):
            await ours(scope, receive, send)
        else:
            await application(spared_scope(scope), receive, send)

    return served


def _prefix() -> str:
    for name in _names_of_api(get_resolver()):
        with suppress(NoReverseMatch):
            api = unquote(reverse(name))
            return "/" + api[len(get_script_prefix()) :].removesuffix("api")
    raise ImproperlyConfigured(
        f'the URLs do not include ours at a fixed path: add path("rt/", include("{_URLS}")) to '
        "urlpatterns; no part of the path before it may vary, as in <slug:tenant>/rt/"
    )


def _names_of_api(resolver: URLResolver, outer: str = "") -> Iterator[str]:
    # Ours may be in a namespace of the project's, such as that of an app which includes it.
    yield f"{outer}usersessions:api"
    for namespace, (_, inner) in resolver.namespace_dict.items():
        yield from _names_of_api(inner, f"{outer}{namespace}:")


def _takes(scope: Scope, prefix: str) -> bool:
    """Whether a path is ours; then it is said in the scope where our part of it begins."""
    root = conf.settings.FORCE_SCRIPT_NAME or scope.get("root_path", "")
    path = path_of({"path": scope["path"], "root_path": root})
    if not path.startswith(prefix):
        return False
    rest = "/" + path[len(prefix) :]
    try:
        resolve(rest, urlconf=_URLS)
    except Resolver404:
        return False
    scope["root_path"] = scope["path"].removesuffix(rest)
    return True
