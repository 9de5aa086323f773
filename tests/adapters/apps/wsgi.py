"""Plain WSGI."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from usersessions import TokenError
from usersessions.adapters.wsgi import UserSessionsWSGI, end_with_server
from usersessions.http.wsgi import Environ, StartResponse

from .shared import gunicorn, new_blocking_sessions, settings


def plain() -> Callable[[Environ, StartResponse], Iterable[bytes]]:
    """All paths side by side."""
    sessions = new_blocking_sessions()
    ours = UserSessionsWSGI(sessions, **settings())
    end_with_server(sessions)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/me":
            return ours(environ, start_response)
        headers = [("content-type", "text/plain; charset=utf-8")]
        token = environ.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
        try:
            user = sessions.authenticate(token).user
        except TokenError:
            start_response("401 Unauthorized", [*headers, ("www-authenticate", "Bearer")])
            return [b"who are you?"]
        start_response("200 OK", headers)
        return [user.encode()]

    return app


TARGETS = {
    "wsgi, threads": gunicorn("wsgi:plain", "", "--threads=32"),
    "wsgi, processes": gunicorn("wsgi:plain", "", "--workers=5", shares_redis=True),
}
