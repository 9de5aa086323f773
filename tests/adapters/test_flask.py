"""Flask: the extension in its ways to be used, guarded views, and WebSockets of flask-sock.

What all apps have in common is in `test_conformance.py` and `test_loss.py`.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType
from typing import Any

import pytest
from flask import Blueprint, Flask, abort, current_app, g, request
from flask.testing import FlaskClient
from flask_sock import Sock  # type: ignore[import-untyped]
from simple_websocket import ConnectionClosed  # type: ignore[import-untyped]
from simple_websocket import Server as WebSocketServer
from werkzeug.exceptions import HTTPException
from werkzeug.serving import make_server

from tests.adapters.apps.shared import API_KEY, SECRET, decide
from tests.adapters.serving import bearer, expired_token, token
from tests.servers import until
from tests.standins import SharedStandIn
from tests.streams import WebSocket, ask, open_stream, open_websocket
from usersessions import (
    ConfigError,
    Disconnect,
    Identity,
    Key,
    TokenError,
    TokenVerifier,
    UserSessions,
)
from usersessions.adapters.flask import FlaskSessions, end_with_server, websockets
from usersessions.http.lifespan import end_with_server as neutral
from usersessions.stores.base import StoreRequest

WITH_KEY = {"X-API-Key": API_KEY}


def new_sessions(**options: Any) -> UserSessions:
    verifier = TokenVerifier(Key(SECRET, algorithm="HS256"))
    return UserSessions(verifier, connect_proxy=decide, **options)


@pytest.fixture
def sessions() -> UserSessions:
    return new_sessions()


@pytest.fixture
def realtime(sessions: UserSessions) -> FlaskSessions:
    return FlaskSessions(sessions, api_keys=[API_KEY])


@pytest.fixture
def app(realtime: FlaskSessions) -> Flask:
    app = Flask(__name__)
    app.testing = True
    realtime.init_app(app)
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


# The extension ------------------------------------------------------------------------------------


def test_what_ends_with_the_server_is_what_it_is_elsewhere() -> None:
    assert end_with_server is neutral


def test_it_serves_several_apps_and_is_found_in_each(sessions: UserSessions) -> None:
    realtime = FlaskSessions(sessions, api_keys=[API_KEY], url_prefix="/rt")

    def create_app(name: str) -> Flask:
        app = Flask(name)
        realtime.init_app(app)
        return app

    for name in ("shop", "blog"):
        app = create_app(name)
        assert app.extensions["usersessions"] is realtime
        assert app.test_client().post("/rt/api/info", headers=WITH_KEY).status_code == 200
        assert app.test_client().post("/api/info", headers=WITH_KEY).status_code == 404


def test_one_app_may_have_two_each_of_which_knows_its_own_users() -> None:
    app = Flask(__name__)
    customers = FlaskSessions(new_sessions(), url_prefix="/customers", api_keys=[API_KEY])
    staff = FlaskSessions(new_sessions(), url_prefix="/staff", name="staff", api_keys=[API_KEY])
    for realtime in (customers, staff):
        realtime.init_app(app)
    assert [app.extensions[name] for name in ("usersessions", "staff")] == [customers, staff]

    @app.get("/me")
    @customers.token_required
    def me() -> str:
        with pytest.raises(LookupError):
            _ = staff.identity
        return customers.identity.user

    client = app.test_client()
    with customers.sessions.connect(user="42", transport="sse"):
        for name, sessions in (("customers", 1), ("staff", 0)):
            answer = client.post(
                f"/{name}/api/user_connections", json={"user": "42"}, headers=WITH_KEY
            )
            assert answer.json is not None
            assert len(answer.json["result"]["connections"]) == sessions
    assert client.get("/me", headers=bearer(token("42"))).text == "42"


def test_two_of_one_name_in_one_app_are_refused(app: Flask, realtime: FlaskSessions) -> None:
    with pytest.raises(ValueError, match="already registered"):
        FlaskSessions(new_sessions(), url_prefix="/staff").init_app(app)
    assert app.extensions["usersessions"] is realtime


def test_its_blueprint_may_be_nested_in_another(sessions: UserSessions) -> None:
    app, outer = Flask(__name__), Blueprint("outer", __name__, url_prefix="/outer")
    realtime = FlaskSessions(sessions, api_keys=[API_KEY], url_prefix="/rt")
    outer.register_blueprint(realtime.blueprint)
    app.register_blueprint(outer)
    answer = app.test_client().post("/outer/rt/api/info", headers=WITH_KEY)
    assert (answer.status_code, answer.is_json) == (200, True)


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize("prefix", [None, "/rt"])
def test_where_the_name_of_a_session_is_missing_none_ends_whatever_slashes_mean_to_the_app(
    prefix: str | None, is_strict: bool, sessions: UserSessions
) -> None:
    app = Flask(__name__)
    app.url_map.strict_slashes = is_strict
    FlaskSessions(sessions, url_prefix=prefix).init_app(app)
    client, headers = app.test_client(), bearer(token("42", jti="phone"))
    with sessions.connect(user="42", transport="sse"):
        answer = client.delete(f"{prefix or ''}/sessions/", headers=headers)
        assert (answer.status_code, answer.text) == (404, "nothing is served at this path\n")
        # With two of them, some are sent on to the path with one.
        client.delete(f"{prefix or ''}/sessions//", headers=headers, follow_redirects=True)
        assert len(sessions.user_connections("42")) == 1
        assert client.get(f"{prefix or ''}/sessions", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "setting",
    [
        {"api_keys": ["short"]},
        {"ping_interval": 0},
        {"allowed_origins": "https://app.example.com"},
        {"trusted_hops": -1},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FlaskSessions(UserSessions(), **setting)


def test_its_answers_go_through_what_the_app_has_around_its_views(
    app: Flask, client: FlaskClient
) -> None:
    @app.after_request
    def stamp(response: Any) -> Any:
        response.headers["X-Stamp"] = str(len(response.get_data()))
        return response

    answer = client.post("/api/user_connections", json={"user": "42"}, headers=WITH_KEY)
    assert answer.json == {"result": {"connections": {}}}
    assert answer.headers["X-Stamp"] == answer.headers["Content-Length"] == "29"
    preflight = client.options("/sessions")
    assert (preflight.status_code, preflight.headers["X-Stamp"]) == (200, "0")


def test_a_protection_from_forged_requests_can_let_its_blueprint_pass(
    app: Flask, realtime: FlaskSessions, client: FlaskClient
) -> None:
    exempt: set[str] = set()

    @app.before_request
    def protect() -> None:
        # As Flask-WTF does, which asks for both.
        view = app.view_functions[str(request.endpoint)]
        assert f"{view.__module__}.{view.__name__}" not in exempt
        if request.method == "POST" and request.blueprint not in exempt:
            abort(400)

    assert client.post("/api/info", headers=WITH_KEY).status_code == 400
    exempt.add(realtime.blueprint.name)
    assert client.post("/api/info", headers=WITH_KEY).status_code == 200


def test_a_stream_outlives_the_contexts_of_its_request_and_is_closed_with_its_response(
    app: Flask, client: FlaskClient, sessions: UserSessions
) -> None:
    torn_down: list[str] = []
    app.teardown_request(lambda error: torn_down.append("request"))
    app.teardown_appcontext(lambda error: torn_down.append("app"))
    user = {"token": token("42")}
    for kind in ("uni_http_stream", "uni_sse"):
        with client.post(f"/connection/{kind}", json=user, buffered=False) as response:
            frames = response.iter_encoded()
            assert b'"connect"' in next(frames)
            assert len(sessions.user_connections("42")) == 1
            assert torn_down == ["request", "app"]
        assert sessions.user_connections("42") == {}
        torn_down.clear()


# Start-up and shutdown ----------------------------------------------------------------------------


def in_place() -> object:
    return signal.getsignal(signal.SIGTERM)


@contextmanager
def handled(handler: Any) -> Iterator[None]:
    """The handlers of a process; what is put in their place is put back."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
    before = [(number, signal.getsignal(number)) for number in numbers]
    signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        for number, previous in before:
            signal.signal(number, previous)


def test_a_shell_a_script_or_a_test_is_left_alone() -> None:
    store = SharedStandIn()
    with handled(signal.SIG_DFL):
        before = signal.getsignal(signal.SIGINT)
        FlaskSessions(UserSessions(store=store)).init_app(Flask(__name__))
        assert (in_place(), signal.getsignal(signal.SIGINT)) == (signal.SIG_DFL, before)
    assert store.joined == 0


def test_where_a_server_has_its_handlers_streams_end_before_it_hears_of_a_signal() -> None:
    store = SharedStandIn()
    heard: list[int] = []

    def server(number: int, frame: FrameType | None) -> None:
        heard.append(len(store.closed))

    with handled(server):
        FlaskSessions(UserSessions(store=store)).init_app(Flask(__name__))
        assert store.joined == 1
        signal.raise_signal(signal.SIGTERM)
        until(lambda: heard, what="the server to hear of it")
    assert heard == [1]


# Guarded views ------------------------------------------------------------------------------------


def test_a_view_that_requires_a_token_knows_who_makes_the_request(
    app: Flask, client: FlaskClient, realtime: FlaskSessions
) -> None:
    @app.get("/users/<name>")
    @realtime.token_required
    def user(name: str) -> dict[str, Any]:
        """What it does."""
        return {"name": name, "user": realtime.identity.user, "token": realtime.identity.token_id}

    assert (user.__name__, user.__doc__) == ("user", "What it does.")
    answer = client.get("/users/me", headers=bearer(token("42", jti="phone")))
    assert answer.json == {"name": "me", "user": "42", "token": "phone"}


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 101),
        ({"Authorization": "Basic e30="}, 101),
        (bearer("swordfish"), 101),
        (bearer(expired_token("42")), 109),
    ],
    ids=range(4),
)
def test_without_a_good_token_it_is_refused_and_not_called(
    headers: dict[str, str],
    code: int,
    app: Flask,
    client: FlaskClient,
    realtime: FlaskSessions,
) -> None:
    called: list[str] = []

    @app.get("/me")
    @realtime.token_required
    def me() -> str:
        called.append("me")
        return "never"

    answer = client.get("/me", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json is not None and answer.json["error"]["code"] == code
    assert "swordfish" not in answer.text
    assert not called


def test_a_revoked_token_is_refused(
    app: Flask, client: FlaskClient, realtime: FlaskSessions, sessions: UserSessions
) -> None:
    app.get("/me")(realtime.token_required(lambda: realtime.identity.user))
    headers = bearer(token("42", jti="phone"))
    assert client.get("/me", headers=headers).text == "42"
    sessions.revoke_token("phone")
    assert client.get("/me", headers=headers).status_code == 401


def test_where_nobody_can_say_now_it_answers_503() -> None:
    store = SharedStandIn()
    app, realtime = Flask(__name__), FlaskSessions(new_sessions(store=store))
    app.get("/me")(realtime.token_required(lambda: "never"))
    store.away = [StoreRequest, *StoreRequest.__subclasses__()]
    answer = app.test_client().get("/me", headers=bearer(token("42")))
    assert answer.status_code == 503
    assert answer.json is not None and answer.json["error"]["code"] == 108


def test_nobody_is_known_in_a_view_that_requires_no_token(
    app: Flask, client: FlaskClient, realtime: FlaskSessions
) -> None:
    @app.get("/anyone")
    def anyone() -> str:
        with pytest.raises(LookupError, match="token_required"):
            _ = realtime.identity
        return "anyone"

    assert client.get("/anyone", headers=bearer(token("42"))).text == "anyone"


def test_who_one_request_is_from_is_forgotten_with_it(
    app: Flask, client: FlaskClient, realtime: FlaskSessions
) -> None:
    app.get("/me")(realtime.token_required(lambda: realtime.identity.user))
    for user in ("42", "43"):
        assert client.get("/me", headers=bearer(token(user))).text == user
    with app.test_request_context():
        assert not g.get("usersessions_identity")


# WebSockets ---------------------------------------------------------------------------------------


@pytest.fixture
def serve() -> Iterator[Callable[[Flask], str]]:
    """Serve apps in threads of this process, on ports of their own."""
    with_threads: list[tuple[Any, threading.Thread]] = []

    def start(app: Flask) -> str:
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        with_threads.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in with_threads:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server for development writes each request to its log, which no test needs."""
    monkeypatch.setattr(logging.getLogger("werkzeug"), "disabled", True)


class Echo:
    """An app whose own WebSocket is tracked; what its handlers saw is in `ended`."""

    def __init__(
        self, realtime: FlaskSessions, serve: Callable[[Flask], str], **options: Any
    ) -> None:
        self.ended: list[BaseException] = []
        app = Flask(__name__)
        sock = Sock(app)

        @sock.route("/echo")  # type: ignore[untyped-decorator]
        def echo(ws: Any) -> None:
            try:
                with realtime.track(ws, **options) as session:
                    while True:
                        ws.send(f"{session.user} says {ws.receive()}")
            except BaseException as error:
                self.ended.append(error)
                raise

        realtime.init_app(app)
        self.url = serve(app)

    def open(self, query: str = "", **headers: str) -> WebSocket:
        return open_websocket(self.url, f"/echo{query}", headers=headers)

    def reason(self) -> tuple[int, str | None]:
        """What the handler is told at its end."""
        error = until(lambda: self.ended, what="the handler to end")[0]
        assert isinstance(error, ConnectionClosed)
        return error.reason, error.message


def said_to(websocket: WebSocket) -> tuple[int, str] | None:
    """How a WebSocket was closed."""
    assert websocket.frame() is None
    return websocket.closed


def test_a_websocket_is_a_session_while_its_handler_holds_it(
    realtime: FlaskSessions, sessions: UserSessions, serve: Callable[[Flask], str]
) -> None:
    echo = Echo(realtime, serve, app_name="shop", app_version="1.2")
    headers = {**bearer(token("42", meta={"plan": "pro"})), "User-Agent": "a test"}
    with echo.open(**headers) as websocket:
        websocket.send(b"hello")
        assert websocket.frame() == b"42 says hello"
        (info,) = sessions.user_connections("42").values()
        assert (info.app_name, info.app_version, info.transport) == ("shop", "1.2", "websocket")
        assert (info.remote_addr, info.user_agent) == ("127.0.0.1", "a test")
        assert info.meta == {"plan": "pro"}
    until(lambda: not sessions.user_connections("42"), what="the list to be empty", seconds=1.0)


def test_what_stays_unacknowledged_ends_a_websocket_of_the_apps_own(
    realtime: FlaskSessions, serve: Callable[[Flask], str]
) -> None:
    limits: list[int] = []
    app = Flask(__name__)
    sock = Sock(app)

    @sock.route("/look")  # type: ignore[untyped-decorator]
    def look(ws: Any) -> None:
        with realtime.track(ws):
            limits.append(ws.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))

    with open_websocket(serve(app), "/look", headers=bearer(token("42"))) as websocket:
        assert websocket._read()[0] == 8
    assert limits == [20_000]


@pytest.mark.parametrize("who", ["7", Identity("7")], ids=["user", "identity"])
def test_an_app_may_say_itself_who_connects(
    who: Any,
    realtime: FlaskSessions,
    sessions: UserSessions,
    serve: Callable[[Flask], str],
) -> None:
    with Echo(realtime, serve, who=who).open() as websocket:
        websocket.send(b"hello")
        assert websocket.frame() == b"7 says hello"
        assert len(sessions.user_connections("7")) == 1


def test_a_websocket_whose_session_is_told_is_closed_and_so_is_its_handler(
    realtime: FlaskSessions, sessions: UserSessions, serve: Callable[[Flask], str]
) -> None:
    echo = Echo(realtime, serve)
    with echo.open(f"?access_token={token('42')}") as websocket:
        websocket.send(b"hello")
        assert websocket.frame() == b"42 says hello"
        ended = sessions.disconnect("42", code=4001, reason="another device")
        assert (len(ended.closed), ended.unconfirmed) == (1, ())
        assert said_to(websocket) == (4001, "another device")
    assert echo.reason() == (4001, "another device")


@pytest.mark.parametrize(
    ("query", "headers", "why"),
    [
        ("?access_token=swordfish", {}, (3500, "invalid token")),
        ("", bearer("swordfish"), (3500, "invalid token")),
        ("", {}, (3507, "permission denied")),
        (
            "",
            {"Cookie": "user=42", "Origin": "https://evil.example.com"},
            (3507, "permission denied"),
        ),
    ],
    ids=range(4),
)
def test_who_may_not_connect_is_told_why_and_was_never_listed(
    query: str,
    headers: dict[str, str],
    why: tuple[int, str],
    realtime: FlaskSessions,
    sessions: UserSessions,
    serve: Callable[[Flask], str],
) -> None:
    began: list[str] = []
    sessions._on_connect = lambda session: began.append(session.user)
    echo = Echo(realtime, serve)
    with echo.open(query, **headers) as websocket:
        assert said_to(websocket) == why
    assert echo.reason() == why
    assert not began


def test_a_client_that_does_not_answer_a_close_holds_nobody_up(
    realtime: FlaskSessions,
    sessions: UserSessions,
    serve: Callable[[Flask], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websockets, "CLOSE_SECONDS", 1.0)
    with Echo(realtime, serve).open(**bearer(token("42"))):
        until(lambda: sessions.user_connections("42"), what="the WebSocket to be listed")
        began = time.monotonic()
        # Its client reads nothing, and so answers nothing.
        ended = sessions.disconnect("42")
        assert (len(ended.closed), ended.unconfirmed) == (1, ())
        assert time.monotonic() - began < 0.5
        # Nor does it keep a thread of the server.
        reading = [one for one in threading.enumerate() if "websocket" in one.name]
        assert reading
        for thread in reading:
            thread.join(3.0)
            assert not thread.is_alive()


class Closed:
    """What is seen of a WebSocket that is being closed."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.event = threading.Event()
        self.connected = True
        self.sock = socket.socket()
        self.thread = threading.current_thread()

    def close(self, code: int, reason: str) -> None:
        self.codes.append(code)
        self.sock.close()


def test_a_block_that_ends_as_its_websocket_is_told_to_waits_until_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ws: Any = Closed()
    closing, closings = websockets._Closing(ws), []
    errors: list[BaseException] = []
    is_closed: list[list[int]] = []

    def end() -> None:
        try:
            closing.wait()
        except BaseException as error:
            errors.append(error)
        is_closed.append(list(ws.codes))

    ending = threading.Thread(target=end)

    class Slow(threading.Thread):
        def start(self) -> None:
            closings.append(self)
            ending.start()
            # If the block does not wait, it is over by then.
            ending.join(0.1)
            super().start()

    monkeypatch.setattr(threading, "Thread", Slow)
    closing.begin(Disconnect(4001))
    ending.join(10.0)
    assert (errors, is_closed) == ([], [[4001]])
    # Once it is over, nothing more is sent.
    closing.begin(Disconnect(4002))
    assert len(closings) == 1


def test_a_handler_that_only_sends_is_closed_at_once_and_listed_until_it_ends(
    realtime: FlaskSessions, sessions: UserSessions, serve: Callable[[Flask], str]
) -> None:
    items: SimpleQueue[str] = SimpleQueue()
    app = Flask(__name__)
    sock = Sock(app)

    @sock.route("/feed")  # type: ignore[untyped-decorator]
    def feed(ws: Any) -> None:
        with realtime.track(ws):
            while True:
                ws.send(items.get())

    with open_websocket(serve(app), "/feed", headers=bearer(token("42"))) as websocket:
        items.put("one")
        assert websocket.frame() == b"one"
        assert len(sessions.disconnect("42", timeout=0).unconfirmed) == 1
        assert said_to(websocket) == (3503, "force disconnect")
        assert len(sessions.user_connections("42")) == 1
        items.put("two")
        until(lambda: not sessions.user_connections("42"), what="the handler to end")


def test_a_handler_that_sends_as_its_client_leaves_is_told_so_and_no_errors_are_hidden(
    realtime: FlaskSessions, sessions: UserSessions, serve: Callable[[Flask], str]
) -> None:
    ended: list[BaseException] = []
    go_on = threading.Event()
    app = Flask(__name__)
    sock = Sock(app)

    @sock.route("/feed")  # type: ignore[untyped-decorator]
    def feed(ws: Any) -> None:
        try:
            with realtime.track(ws):
                ws.receive()
                raise ConnectionRefusedError("the app's own database")
        except ConnectionRefusedError as error:
            ended.append(error)
        try:
            with realtime.track(ws):
                assert go_on.wait(10.0)
                until(lambda: not is_connected(ws.sock), what="the reset to arrive")
                # What the reading thread has found out meanwhile does not matter.
                ws.connected = True
                ws.send("one")
        except ConnectionClosed as error:
            ended.append(error)

    def is_connected(connection: socket.socket) -> bool:
        try:
            connection.getpeername()
        except OSError:
            return False
        return True

    with open_websocket(serve(app), "/feed", headers=bearer(token("42"))) as websocket:
        websocket.send(b"go")
        until(lambda: len(ended) == 1, what="the first error")
        websocket.leave(reset=True)
        go_on.set()
        until(lambda: len(ended) == 2, what="the handler to end")
    refused, closed = ended
    assert isinstance(refused, ConnectionRefusedError)
    assert isinstance(closed, ConnectionClosed) and closed.reason == 1006
    assert sessions.user_connections("42") == {}


def test_what_a_handler_refuses_inside_of_its_block_is_its_own(
    realtime: FlaskSessions, serve: Callable[[Flask], str]
) -> None:
    seen: list[BaseException] = []
    app = Flask(__name__)
    sock = Sock(app)

    @sock.route("/own")  # type: ignore[untyped-decorator]
    def own(ws: Any) -> None:
        try:
            with realtime.track(ws) as session:
                session.refresh("swordfish")
        except TokenError as error:
            seen.append(error)
        ws.close(4002, "done")

    with open_websocket(serve(app), "/own", headers=bearer(token("42"))) as websocket:
        assert websocket._read() == (8, (4002).to_bytes(2, "big") + b"done")
    assert len(seen) == 1


def test_a_token_in_the_query_is_kept_from_what_servers_log(
    realtime: FlaskSessions, serve: Callable[[Flask], str]
) -> None:
    environs: list[dict[str, Any]] = []
    app = Flask(__name__)
    sock = Sock(app)

    @sock.route("/look")  # type: ignore[untyped-decorator]
    def look(ws: Any) -> None:
        with realtime.track(ws):
            environs.append(dict(request.environ))
            ws.send(request.args["room"])

    secret = token("42")
    target = f"/look?room=5&access_token={secret}"
    with open_websocket(serve(app), target) as websocket:
        assert websocket.frame() == b"5"
    shown = {name: environs[0][name] for name in ("QUERY_STRING", "RAW_URI", "REQUEST_URI")}
    assert shown == {
        "QUERY_STRING": "room=5",
        "RAW_URI": "/look?room=5",
        "REQUEST_URI": "/look?room=5",
    }


def test_a_stream_over_a_websocket_ignores_what_comes_after_its_connect_request(
    app: Flask, sessions: UserSessions, serve: Callable[[Flask], str]
) -> None:
    url = serve(app)
    with open_stream(url, "uni_websocket", {"token": token("42")}) as stream:
        assert isinstance(stream, WebSocket)
        stream.client()
        for _ in range(100):
            stream.send(b"hello")
        stream.send(b"\x00", opcode=2)
        assert len(sessions.user_connections("42")) == 1
        sessions.disconnect("42")
        frame = stream.frame()
        assert frame is not None and json.loads(frame)["disconnect"]["code"] == 3503
        assert said_to(stream) == (3503, "force disconnect")


def test_a_stream_over_a_websocket_without_a_connect_request_is_stale(
    app: Flask, serve: Callable[[Flask], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websockets, "FIRST_MESSAGE_TIMEOUT", 0.2)
    with open_websocket(serve(app), "/connection/uni_websocket") as websocket:
        assert websocket.frame() == b'{"disconnect":{"code":3502,"reason":"stale"}}'
        assert said_to(websocket) == (3502, "stale")


def test_a_stream_over_a_websocket_pings_and_sees_its_client_leave(
    sessions: UserSessions, serve: Callable[[Flask], str]
) -> None:
    app = Flask(__name__)
    FlaskSessions(sessions, ping_interval=1).init_app(app)
    url = serve(app)
    with open_stream(url, "uni_websocket", {"token": token("42")}) as stream:
        assert isinstance(stream, WebSocket)
        stream.client()
        assert stream.frame() == b"{}"
        # A proper farewell.
        stream.send((1000).to_bytes(2, "big"), opcode=8)
        until(lambda: not sessions.user_connections("42"), what="the list to be empty")


def test_a_websocket_path_is_no_page_and_a_page_no_websocket(
    app: Flask, serve: Callable[[Flask], str]
) -> None:
    url = serve(app)
    assert ask(url, "/connection/uni_websocket", method="GET").status == 400
    with open_websocket(url, "/connection/uni_sse") as websocket:
        assert websocket.head.status == 400


def test_errors_of_the_app_itself_stay_its_own(app: Flask, client: FlaskClient) -> None:
    @app.errorhandler(HTTPException)
    def own(error: HTTPException) -> tuple[str, int]:
        return f"{current_app.name}: {error.name}", error.code or 500

    answer = client.post("/nowhere")
    assert (answer.status_code, answer.text) == (404, f"{__name__}: Not Found")
    # What this library answers is left as it is.
    assert client.get("/api").text != f"{__name__}: Method Not Allowed"


def test_a_stream_over_a_websocket_keeps_no_more_of_a_message_than_anything_takes(
    app: Flask,
    sessions: UserSessions,
    serve: Callable[[Flask], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # simple_websocket may miss to wake who waits for a message that was too large.
    monkeypatch.setattr(websockets, "FIRST_MESSAGE_TIMEOUT", 3.0)
    seen: list[Any] = []
    receive = WebSocketServer.receive

    def received(ws: Any, timeout: float | None = None) -> Any:
        seen.append(ws)
        return receive(ws, timeout=timeout)

    monkeypatch.setattr(WebSocketServer, "receive", received)
    with open_websocket(serve(app), "/connection/uni_websocket") as websocket:
        # What came before its handler began is kept, until there is more.
        until(lambda: seen, what="the handler to begin")
        # A message that never ends: text at first, then continuations (RFC 6455, 5.4).
        websocket.send(b"x" * 60_000, is_last=False)
        websocket.send(b"x" * 60_000, opcode=0, is_last=False)
        opcode, payload = websocket._read()
        assert (opcode, payload[:2]) == (8, (1009).to_bytes(2, "big"))
    threads = threading.enumerate
    until(
        lambda: not any("process_request" in thread.name for thread in threads()),
        what="the handler to end",
    )
    assert sessions.user_connections("42") == {}
