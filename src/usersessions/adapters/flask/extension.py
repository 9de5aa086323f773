"""What an app holds: a blueprint that serves it all, guards for views, sessions of WebSockets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec

from flask import Blueprint, Flask, Response, current_app, g, request
from flask.typing import ResponseReturnValue
from flask_sock import Sock  # type: ignore[import-untyped]
from simple_websocket import Server  # type: ignore[import-untyped]
from wsproto.utilities import RemoteProtocolError

from ...http import base
from ...http.authentication import Refusal, authenticate
from ...http.endpoints import NAMELESS_PATH, PATHS, WEBSOCKET_PATH
from ...http.handshakes import Handshakes
from ...http.lifespan import end_with_server
from ...http.signals import server_is_listening
from ...http.wsgi import UserSessionsWSGI, peer_of, read_handshake, read_headers
from ...live import Session
from ...models import Identity
from ...sessions import UserSessions
from .websockets import carry_stream, hold_websocket

__all__ = ["FlaskSessions"]

P = ParamSpec("P")


class FlaskSessions:
    """A Flask extension: the server API, users' own sessions and the three streams.

    It serves them from a blueprint, and has what an app needs for endpoints of its own:
    `token_required` and `track`. Flask has it as `app.extensions["usersessions"]`.

    One app may have several, such as one for customers and one for staff, each with a name and a
    prefix of its own.

    Args:
        sessions: what it serves.
        url_prefix: the path under which it is served.
        name: what its blueprint is called, and Flask's entry for it in `app.extensions`.
        api_keys: this and the others are those of `UserSessionsWSGI`.

    Attributes:
        sessions: what it serves.
        blueprint: what serves it.

    Raises:
        ConfigError: if a value is outside of its bounds.
        ValueError: if `name` is none that Flask takes for a blueprint.

    >>> app = Flask("shop")
    >>> realtime = FlaskSessions(UserSessions(), api_keys=["an-api-key-of-yours"])
    >>> realtime.init_app(app)
    >>> app.test_client().post("/api/info", headers={"X-API-Key": "an-api-key-of-yours"}).status
    '200 OK'
    """

    def __init__(
        self,
        sessions: UserSessions,
        *,
        url_prefix: str | None = None,
        name: str = "usersessions",
        api_keys: Iterable[str] = (),
        ping_interval: int = 25,
        allowed_origins: Collection[str] = (),
        trusted_hops: int = 0,
    ) -> None:
        self.sessions = sessions
        # Where `g` has who makes the request.
        self._place = f"{name}_identity"
        origins: dict[str, Any] = {
            "allowed_origins": allowed_origins,
            "trusted_hops": trusted_hops,
        }
        self._handshakes = Handshakes(sessions.operations, **origins)
        self._served = UserSessionsWSGI(
            sessions, api_keys=api_keys, ping_interval=ping_interval, **origins
        )
        self.blueprint = Blueprint(name, __name__, url_prefix=url_prefix)
        for path in (*PATHS, NAMELESS_PATH):
            self.blueprint.add_url_rule(
                path.replace("{", "<").replace("}", ">"),
                endpoint=path,
                view_func=self._serve,
                methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
            )
        Sock().route(WEBSOCKET_PATH, bp=self.blueprint)(self._stream)
        # Strangers must not fill the log of the app's errors with handshakes that are none.
        self.blueprint.register_error_handler(RemoteProtocolError, _no_handshake)

    def init_app(self, app: Flask) -> None:
        """Have an app serve it.

        Where the server has its signal handlers in place by now, as gunicorn has, open streams get
        3001 `shutdown` when it is told to stop; for other servers, see `end_with_server`.

        Raises:
            ValueError: if the app has a blueprint of that name already, as from another one of
                these: give one of the two a `name`.

        >>> realtime = FlaskSessions(UserSessions(), url_prefix="/live")
        >>> def create_app():
        ...     app = Flask("shop")
        ...     realtime.init_app(app)
        ...     return app
        >>> create_app().test_client().get("/live/sessions").status
        '401 UNAUTHORIZED'
        """
        app.register_blueprint(self.blueprint)
        app.extensions[self.blueprint.name] = self
        if server_is_listening():
            end_with_server(self.sessions)

    def token_required(
        self, view: Callable[P, ResponseReturnValue]
    ) -> Callable[P, ResponseReturnValue]:
        """Guard a view: without a good bearer token it answers 401, or 503 if nobody can say now.

        In the view, `identity` is who makes the request.

        >>> app, realtime = Flask("shop"), FlaskSessions(UserSessions())
        >>> @app.get("/me")
        ... @realtime.token_required
        ... def me():
        ...     return realtime.identity.user
        >>> app.test_client().get("/me").status
        '401 UNAUTHORIZED'
        """

        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
            headers = read_headers(request.environ)
            who = self.sessions.run(authenticate(self.sessions.operations, headers))
            if isinstance(who, Refusal):
                return _response(who.response, [who.response.body])
            setattr(g, self._place, who)
            answer: ResponseReturnValue = current_app.ensure_sync(view)(*args, **kwargs)
            return answer

        return guarded

    @property
    def identity(self) -> Identity:
        """Who makes the request, in a view with `token_required`.

        Raises:
            LookupError: in any other.

        >>> app, realtime = Flask("shop"), FlaskSessions(UserSessions())
        >>> @app.get("/me")
        ... @realtime.token_required
        ... def me():
        ...     return {"user": realtime.identity.user, "token": realtime.identity.token_id}
        """
        found: Identity | None = g.get(self._place)
        if found is None:
            raise LookupError("nobody is known here: guard this view with token_required")
        return found

    @contextmanager
    def track(
        self,
        ws: Server,
        *,
        who: Identity | str | None = None,
        app_name: str | None = None,
        app_version: str | None = None,
    ) -> Generator[Session, None, None]:
        """Hold the session of a WebSocket of flask-sock: registered inside the block.

        A token says who connects, a bearer token or the query parameter `access_token`; without one
        the connect proxy. Told to end, the WebSocket is closed with the code and the reason, and
        the handler's next `receive` or `send` raises `ConnectionClosed`.

        Args:
            ws: what flask-sock gave the handler.
            who: whom the app has authenticated: their identity, or their user ID; None asks the
                token.
            app_name: the client's app name; None takes the query parameter `app_name`.
            app_version: the client's app version; None takes the query parameter `app_version`.

        Raises:
            ConnectionClosed: if the client may not connect; it was told why.
            InvalidValue: if a value is outside of its bounds.

        >>> app, realtime = Flask("shop"), FlaskSessions(UserSessions())
        >>> sock = Sock(app)
        >>> @sock.route("/echo")
        ... def echo(ws):
        ...     with realtime.track(ws) as session:
        ...         while True:
        ...             ws.send(ws.receive())
        """
        flow = self._handshakes.admit(
            read_handshake(ws.environ),
            transport="websocket",
            peer=peer_of(ws.environ),
            who=who,
            app_name=app_name,
            app_version=app_version,
        )
        with hold_websocket(ws, self.sessions, flow) as session:
            yield session

    def _serve(self, **names: str) -> Response:
        # Its blueprint, and those around it, stand before the last dot.
        _, _, path = (request.endpoint or "").rpartition(".")
        return _response(*self._served.respond(request.environ, path.format(**names)))

    def _stream(self, ws: Server) -> None:
        carry_stream(ws, self._served)


def _no_handshake(error: Exception) -> Response:
    refused = base.text(400, "this is no handshake of a WebSocket (RFC 6455, 4.2.1)")
    return _response(refused, [refused.body])


def _response(head: base.Response, body: Iterable[bytes]) -> Response:
    is_stream = not isinstance(body, list)
    headers = list(head.headers.items())
    return Response(body, head.status, headers, direct_passthrough=is_stream)
