"""Plain WSGI."""

from __future__ import annotations

from collections.abc import Iterable

from tests.servers import python
from usersessions import TokenError
from usersessions.adapters.wsgi import UserSessionsWSGI, end_with_server
from usersessions.http.wsgi import Environ, StartResponse

from .shared import Target, gunicorn, new_blocking_sessions, settings


def plain() -> UserSessionsWSGI:
    """Around an app that has every other path."""
    sessions = new_blocking_sessions()
    end_with_server(sessions)

    def own(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        headers = [("content-type", "text/plain; charset=utf-8")]
        if environ["PATH_INFO"] != "/me":
            body = b"nothing is served at this path"
            start_response("404 Not Found", [*headers, ("content-length", str(len(body)))])
            return [body if environ["REQUEST_METHOD"] != "HEAD" else b""]
        token = environ.get("HTTP_AUTHORIZATION", "").removeprefix("Bearer ")
        try:
            user = sessions.authenticate(token).user
        except TokenError:
            start_response("401 Unauthorized", [*headers, ("www-authenticate", "Bearer")])
            return [b"who are you?"]
        start_response("200 OK", headers)
        return [user.encode()]

    return UserSessionsWSGI(sessions, inner=own, **settings())


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
