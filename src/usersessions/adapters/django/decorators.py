"""Views of the project's own, guarded by the tokens that its streams are opened with."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse

from ...flows import Flow
from ...http.authentication import Refusal, authenticate
from ...http.wsgi import read_headers
from ...models import Identity
from ...sessions import AsyncUserSessions, UserSessions
from .conf import get_async_sessions, get_sessions

__all__ = ["token_required"]

View = TypeVar("View", bound=Callable[..., Any])


def token_required(view: View) -> View:
    """Have a view, sync or async, answer requests with a good bearer token alone.

    `request.identity` is then the `Identity` of the token. Other requests are refused: with 401, or
    with 503 where nobody can say now whether the token is good. No cookie is asked who it is, so
    the view needs no CSRF token and no login. Decorate a class-based view where it becomes a view:
    `token_required(Devices.as_view())`.

    >>> @token_required
    ... def whoami(request):
    ...     return HttpResponse(request.identity.user)
    """
    guarded: Any
    if iscoroutinefunction(view):

        @wraps(view)
        async def awaited(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            sessions = get_async_sessions()
            who = await sessions.run(_authenticate(sessions, request))
            if isinstance(who, Refusal):
                return _refused(who)
            request.identity = who  # type: ignore[attr-defined]
            return await view(request, *args, **kwargs)

        guarded = awaited
    else:

        @wraps(view)
        def called(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            sessions = get_sessions()
            who = sessions.run(_authenticate(sessions, request))
            if isinstance(who, Refusal):
                return _refused(who)
            request.identity = who  # type: ignore[attr-defined]
            return view(request, *args, **kwargs)

        guarded = called
    guarded.csrf_exempt = True
    # For LoginRequiredMiddleware, from Django 5.1 on.
    guarded.login_required = False
    return cast(View, guarded)


def _authenticate(
    sessions: UserSessions | AsyncUserSessions, request: HttpRequest
) -> Flow[Identity | Refusal]:
    return authenticate(sessions.operations, read_headers(request.META))


def _refused(refusal: Refusal) -> HttpResponse:
    response = refusal.response
    return HttpResponse(response.body, status=response.status, headers=dict(response.headers))
