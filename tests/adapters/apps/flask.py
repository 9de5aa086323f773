"""Flask, under a prefix, made by a factory; on gunicorn and on the server for development."""

from __future__ import annotations

from typing import Any

from flask import Flask
from flask_sock import Sock  # type: ignore[import-untyped]

from tests.servers import python
from usersessions.adapters.flask import FlaskSessions, end_with_server

from .shared import Target, gunicorn, new_blocking_sessions, settings


def extended() -> Flask:
    app, sock = Flask(__name__), Sock()
    realtime = FlaskSessions(new_blocking_sessions(), url_prefix="/rt", **settings())
    realtime.init_app(app)

    @app.get("/me")
    @realtime.token_required
    def me() -> str:
        return realtime.identity.user

    @sock.route("/own/echo")  # type: ignore[untyped-decorator]
    def echo(ws: Any) -> None:
        with realtime.track(ws) as session:
            while True:
                ws.send(ws.receive())
                session.touch()

    sock.init_app(app)
    return app


def developed() -> Flask:
    """For a server that has no signal handlers of its own."""
    app = extended()
    end_with_server(app.extensions["usersessions"].sessions)
    return app


TARGETS = {
    "flask": gunicorn(
        "flask:extended", "/rt", "--threads=32", has_websockets=True, ends_slow=False
    ),
    "flask, development": Target(
        python("-m", "flask", f"--app={__name__}:developed", "run", "--port=0"),
        "Running on",
        "/rt",
        ends_slow=False,
        logs_queries=True,
    ),
}
