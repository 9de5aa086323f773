"""Plain WSGI."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.servers import python
from usersessions import TokenError
from usersessions.adapters.wsgi import UserSessionsWSGI, end_with_server
from usersessions.http.wsgi import Environ, StartResponse

from .shared import Target, gunicorn, new_blocking_sessions, settings


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


def waitress(app: str, *options: str) -> Target:
    """The WSGI app that a function makes, with waitress."""
    command = ("waitress", "--listen=127.0.0.1:0", *options, "--call", f"{__package__}.{app}")
    return Target(python("-m", *command), "", has_websockets=False)


WITHOUT_LOSSES = {"wsgi, waitress": waitress("wsgi:plain", "--threads=8")}
"""It shows nobody the socket of a client, so that the end of a stream is seen by writing alone."""

TARGETS = {
    "wsgi, threads": gunicorn("wsgi:plain", "", "--threads=32"),
    "wsgi, processes": gunicorn("wsgi:plain", "", processes=5),
}
