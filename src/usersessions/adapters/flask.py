"""Flask: an extension, for its views and for the WebSockets of flask-sock.

1. A WebSocket is closed by a thread of its own: whoever tells its session to end is not held up by
   a client that does not read.
2. flask-sock takes `ConnectionClosed` for the end of a WebSocket, and goes on in silence: that is
   what a handler gets whose session has ended, or may not be.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from typing import Any, ParamSpec

from ..errors import ConnectRefused, require
from ..http import base
from ..http.aio import FIRST_MESSAGE_TIMEOUT
from ..http.authentication import Refusal, authenticate
from ..http.blocking import send_all
from ..http.connection import checked_disconnect
from ..http.endpoints import PATHS, WEBSOCKET_PATH
from ..http.handshakes import Handshakes
from ..http.lifespan import end_with_server
from ..http.signals import server_is_listening
from ..http.watch import Watch
from ..http.wsgi import UserSessionsWSGI, peer_of, read_handshake, read_headers
from ..live import Session
from ..models import Disconnect, Identity
from ..sessions import UserSessions

require("flask", extra="flask")
require("flask_sock", extra="flask")
from flask import Blueprint, Flask, Response, current_app, g, request  # noqa: E402 - checked above
from flask.typing import ResponseReturnValue  # noqa: E402
from flask_sock import Sock  # type: ignore[import-untyped]  # noqa: E402
from simple_websocket import (  # type: ignore[import-untyped]  # noqa: E402
    ConnectionClosed,
    Server,
)

__all__ = ["FlaskSessions", "end_with_server"]

P = ParamSpec("P")

CLOSE_SECONDS = 5.0
"""The longest that a WebSocket waits for its client to read that it is closed."""

# For a connection that ended without a close frame (RFC 6455, 7.4.1); an int serves as the enum.
_ABNORMAL_CLOSURE: Any = 1006


class FlaskSessions:
    """A Flask extension: the server API, users' own sessions and the three streams.

    It serves them from a blueprint, and has what an app needs for endpoints of its own:
    `token_required` and `track`. Flask has it as `app.extensions["usersessions"]`.

    Args:
        sessions: what it serves.
        url_prefix: the path under which it is served.
        api_keys: this and the others are those of `UserSessionsWSGI`.

    Attributes:
        sessions: what it serves.
        blueprint: what serves it.

    Raises:
        ConfigError: if a value is outside of its bounds.

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
        api_keys: Iterable[str] = (),
        ping_interval: int = 25,
        allowed_origins: Collection[str] = (),
        trusted_hops: int = 0,
    ) -> None:
        self.sessions = sessions
        origins: dict[str, Any] = {
            "allowed_origins": allowed_origins,
            "trusted_hops": trusted_hops,
        }
        self._handshakes = Handshakes(sessions.operations, **origins)
        self._served = UserSessionsWSGI(
            sessions, api_keys=api_keys, ping_interval=ping_interval, **origins
        )
        self.blueprint = Blueprint("usersessions", __name__, url_prefix=url_prefix)
        for path in PATHS:
            self.blueprint.add_url_rule(
                path.replace("{", "<").replace("}", ">"),
                endpoint=path,
                view_func=self._serve,
                methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
            )
        Sock().route(WEBSOCKET_PATH, bp=self.blueprint)(self._stream)

    def init_app(self, app: Flask) -> None:
        """Have an app serve it.

        Where the server has its signal handlers in place by now, as gunicorn has, open streams get
        3001 `shutdown` when it is told to stop; for other servers, see `end_with_server`.
        """
        app.register_blueprint(self.blueprint)
        app.extensions["usersessions"] = self
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
            g.usersessions_identity = who
            answer: ResponseReturnValue = current_app.ensure_sync(view)(*args, **kwargs)
            return answer

        return guarded

    @property
    def identity(self) -> Identity:
        """Who makes the request, in a view with `token_required`.

        Raises:
            LookupError: in any other.
        """
        found: Identity | None = g.get("usersessions_identity")
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
            app_name: the client's app name.
            app_version: the client's app version.

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
        closing = _Closing(ws)
        with ExitStack() as held:
            held.callback(closing.wait)
            try:
                admitted = self.sessions.run(flow)
                session = held.enter_context(self.sessions.hold(admitted, close=closing.begin))
            except ConnectRefused as refused:
                why: Any = checked_disconnect(refused)
                _close(ws, why)
                raise ConnectionClosed(why.code, why.reason) from refused
            try:
                yield session
            except OSError as error:
                # What the socket raises where something is sent to a client that has just left, or
                # to one that is being told to.
                if session.disconnect is None and _is_connected(ws):
                    raise
                raise ConnectionClosed(_ABNORMAL_CLOSURE) from error

    def _serve(self, **names: str) -> Response:
        # Its blueprint, and those around it, stand before the last dot.
        _, _, path = (request.endpoint or "").rpartition(".")
        return _response(*self._served.respond(request.environ, path.format(**names)))

    def _stream(self, ws: Server) -> None:
        # Until a message is whole, all of it is kept; one that is just too large is told so.
        ws.max_message_size = base.MAX_BODY_BYTES + 1
        first = ws.receive(timeout=FIRST_MESSAGE_TIMEOUT)
        message = first.encode() if isinstance(first, str) else first
        frames = self._served.websocket(ws.environ, message, _WebSocketWatch(ws))
        with suppress(OSError):
            why = send_all(frames, lambda frame: ws.send(frame.decode()))
            if why is not None:
                _close(ws, why)


class _WebSocketWatch(Watch):
    """Waits for the event that is set by whatever the reading thread of a WebSocket hears."""

    sees_client = True

    def __init__(self, ws: Server) -> None:
        super().__init__()
        self._ws = ws

    def _wake(self) -> None:
        self._ws.event.set()

    def wait(self, seconds: float) -> None:
        self._ws.event.wait(seconds)
        self._ws.event.clear()
        # What comes after the connect request is ignored, and must not pile up.
        self._ws.input_buffer.clear()
        self.client_is_gone = not self._ws.connected


class _Closing:
    """Closes a WebSocket in a thread of its own."""

    def __init__(self, ws: Server) -> None:
        self._ws = ws
        self._thread: threading.Thread | None = None

    def begin(self, why: Disconnect) -> None:
        self._thread = threading.Thread(target=_close, args=(self._ws, why), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until it is closed, if it is being closed: a server must send nothing after that."""
        if self._thread is not None:
            self._thread.join()


def _close(ws: Any, why: Disconnect) -> None:
    # What the handler is told as well.
    ws.close_reason, ws.close_message = why.code, why.reason
    # Whatever it raises: the client leaves in this moment, or does not read.
    with suppress(Exception):
        ws.sock.settimeout(CLOSE_SECONDS)
        ws.close(why.code, why.reason)
        ws.event.set()
        # Time for the client to answer.
        ws.thread.join(CLOSE_SECONDS)
    # A handler that is stuck as it sends goes on once the connection is gone.
    ws.connected = False
    ws.event.set()
    with suppress(OSError):
        ws.sock.shutdown(socket.SHUT_RDWR)


def _is_connected(ws: Any) -> bool:
    try:
        ws.sock.getpeername()
    except OSError:
        return False
    return True


def _response(head: base.Response, body: Iterable[bytes]) -> Response:
    is_stream = not isinstance(body, list)
    headers = list(head.headers.items())
    return Response(body, head.status, headers, direct_passthrough=is_stream)
