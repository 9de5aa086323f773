"""WSGI without a server: environs made by hand, and PEP 3333 held to by the standard library."""

from __future__ import annotations

import io
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any, cast
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import jwt
import pytest

from tests.standins import SharedStandIn
from usersessions import ConfigError, Disconnect, Identity, Key, TokenVerifier, UserSessions
from usersessions.http.base import MAX_BODY_BYTES, MAX_DISCARDED
from usersessions.http.watch import Watch
from usersessions.http.wsgi import (
    Environ,
    UserSessionsWSGI,
    peer_of,
    read_environ,
    read_handshake,
    read_headers,
)

KEY = "the-key-of-the-server-api"
SECRET = "a secret of at least thirty-two bytes"
LIST = b'{"method": "user_connections", "params": {"user": "42"}}'
TOKEN = jwt.encode({"sub": "42"}, SECRET, algorithm="HS256")


def new_sessions() -> UserSessions:
    return UserSessions(
        TokenVerifier(Key(SECRET, algorithm="HS256")),
        connect_proxy=lambda request: Identity("42"),
    )


def environ(path: str, body: bytes | None = b"", /, **given: Any) -> Environ:
    """What a server makes of a request; with None as its body, it has no length."""
    made: Environ = {"PATH_INFO": path, "REQUEST_METHOD": "POST", "SCRIPT_NAME": ""}
    setup_testing_defaults(made)
    made["wsgi.input"] = io.BytesIO(body or b"")
    made["QUERY_STRING"] = ""
    if body is not None:
        made["CONTENT_LENGTH"] = str(len(body))
    return {**made, **given}


class Answered:
    """A request that was answered; `body` is what is iterated."""

    def __init__(self, app: UserSessionsWSGI, environ: Environ) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        # It checks both sides: what an app may do, and what it has to.
        checked = cast("Callable[..., Iterable[bytes]]", validator(app))
        self.body = checked(environ, self._start)

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        self.status = int(status.split()[0])
        self.headers = dict(headers)
        return lambda data: None

    def whole(self) -> bytes:
        with closing(cast(Any, self.body)):
            return b"".join(self.body)


def with_key(path: str, body: bytes | None = LIST, /, **given: Any) -> Environ:
    return environ(path, body, **{"HTTP_X_API_KEY": KEY, **given})


@pytest.fixture
def sessions() -> UserSessions:
    return new_sessions()


@pytest.fixture
def app(sessions: UserSessions) -> UserSessionsWSGI:
    return UserSessionsWSGI(sessions, api_keys=[KEY])


# What is served -----------------------------------------------------------------------------------


def test_a_command_is_answered(app: UserSessionsWSGI) -> None:
    answered = Answered(app, with_key("/api"))
    assert answered.whole() == b'{"result":{"connections":{}}}'
    assert answered.status == 200
    assert answered.headers == {"content-type": "application/json", "content-length": "29"}


@pytest.mark.parametrize(
    ("path", "given", "status"),
    [
        ("/api", {"REQUEST_METHOD": "GET"}, 405),
        ("/api/user_connections", {}, 200),
        ("/sessions", {"REQUEST_METHOD": "GET"}, 401),
        ("/sessions", {"REQUEST_METHOD": "GET", "HTTP_AUTHORIZATION": f"Bearer {TOKEN}"}, 200),
        ("/sessions/", {"REQUEST_METHOD": "DELETE"}, 404),
        ("/nowhere", {}, 404),
        ("/", {}, 404),
        ("", {"SCRIPT_NAME": "/rt"}, 404),
        ("/api", {"SCRIPT_NAME": "/rt"}, 200),
        ("/api/caf\xc3\xa9", {}, 200),
        ("/api/\xff", {}, 200),
        ("/connection/uni_websocket", {}, 404),
    ],
    ids=range(12),
)
def test_each_path_has_its_answer(
    path: str, given: dict[str, str], status: int, app: UserSessionsWSGI
) -> None:
    answered = Answered(app, with_key(path, **given))
    body = answered.whole()
    assert answered.status == status
    assert answered.headers["content-length"] == str(len(body))


def test_an_answer_may_have_no_body(app: UserSessionsWSGI) -> None:
    response, body = app.respond(with_key("/api", HTTP_X_API_KEY="another"), "/api")
    assert (response.status, response.headers, list(body)) == (401, {"content-length": "0"}, [b""])


@pytest.mark.parametrize("path", ["/api", "/sessions", "/connection/uni_sse", "/nowhere"])
def test_an_answer_to_head_has_the_length_of_its_body_alone(
    path: str, app: UserSessionsWSGI
) -> None:
    whole = Answered(app, with_key(path, REQUEST_METHOD="PATCH"))
    head = Answered(app, with_key(path, REQUEST_METHOD="HEAD"))
    assert (head.status, head.headers) == (whole.status, whole.headers)
    assert int(head.headers["content-length"]) == len(whole.whole()) > 0
    assert head.whole() == b""


def test_an_answer_to_head_has_no_body_where_there_was_none_to_read(app: UserSessionsWSGI) -> None:
    given = {"REQUEST_METHOD": "HEAD", "CONTENT_LENGTH": "10", "wsgi.input": Broken()}
    head = Answered(app, environ("/api", **given))
    assert (head.status, head.whole()) == (400, b"")


@pytest.mark.parametrize(
    ("kind", "media_type", "before", "after"),
    [
        ("uni_http_stream", "application/json", b"", b"\n"),
        ("uni_sse", "text/event-stream", b"data: ", b"\n\n"),
    ],
)
def test_a_stream_is_open_while_its_body_is_iterated(
    kind: str,
    media_type: str,
    before: bytes,
    after: bytes,
    sessions: UserSessions,
    app: UserSessionsWSGI,
) -> None:
    request = json.dumps({"token": TOKEN, "name": "web"}).encode()
    answered = Answered(app, environ(f"/connection/{kind}", request, HTTP_USER_AGENT="a test"))
    assert answered.status == 200
    assert answered.headers["content-type"] == media_type
    assert answered.headers["x-accel-buffering"] == "no"
    assert "content-length" not in answered.headers
    with closing(cast(Any, answered.body)):
        frames = iter(answered.body)
        first = next(frames)
        (info,) = sessions.user_connections("42").values()
        assert (info.app_name, info.transport, info.user_agent) == ("web", kind, "a test")
        assert info.remote_addr is None
        sessions.disconnect("42", timeout=0)
        last = next(frames)
        assert next(frames, None) is None
    assert first.startswith(before + b'{"connect":') and first.endswith(after)
    assert last == before + b'{"disconnect":{"code":3503,"reason":"force disconnect"}}' + after
    assert sessions.user_connections("42") == {}


def test_a_browsers_event_source_connects_with_its_query(
    sessions: UserSessions, app: UserSessionsWSGI
) -> None:
    given = environ(
        "/connection/uni_sse",
        None,
        REQUEST_METHOD="GET",
        QUERY_STRING='cf_connect={"name":"page"}',
        REMOTE_ADDR="192.0.2.7",
    )
    answered = Answered(app, given)
    with closing(cast(Any, answered.body)):
        next(iter(answered.body))
        (info,) = sessions.user_connections("42").values()
        assert (info.app_name, info.remote_addr) == ("page", "192.0.2.7")


@pytest.mark.parametrize(
    ("body", "given", "status"),
    [
        (b"{", {}, 400),
        (b"", {}, 400),
        (None, {}, 400),
        (b"{}", {"REQUEST_METHOD": "PUT"}, 405),
        (b" " * (MAX_BODY_BYTES + 1), {}, 413),
    ],
    ids=range(5),
)
def test_what_is_no_connect_request_gets_a_status(
    body: bytes | None, given: dict[str, str], status: int, app: UserSessionsWSGI
) -> None:
    answered = Answered(app, environ("/connection/uni_http_stream", body, **given))
    assert answered.whole()
    assert answered.status == status


def test_a_client_that_leaves_ends_a_stream_where_the_server_lets_its_socket_be_seen(
    sessions: UserSessions, app: UserSessionsWSGI
) -> None:
    for name in ("gunicorn.socket", "werkzeug.socket"):
        server, client = socket.socketpair()
        with server, client:
            given = environ("/connection/uni_http_stream", b"{}", **{name: server})
            answered = Answered(app, given)
            with closing(cast(Any, answered.body)):
                frames = iter(answered.body)
                next(frames)
                client.close()
                # No error: where an app is watched for those, each client that leaves would be one.
                assert list(frames) == []
        assert sessions.user_connections("42") == {}


@pytest.mark.parametrize(
    "setting",
    [
        {"api_keys": ["short"]},
        {"ping_interval": 0},
        {"allowed_origins": ["app.example.com"]},
        {"trusted_hops": -1},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        UserSessionsWSGI(UserSessions(), **setting)


# Reading ------------------------------------------------------------------------------------------


class Counting(io.BytesIO):
    """A body that notes how much of it was asked for at most."""

    asked = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None and size >= 0
        self.asked += size
        # Like a socket, it gives less than it was asked for.
        return super().read(min(size, 10_000))


@pytest.mark.parametrize(
    ("length", "given", "read"),
    [
        ("5", {}, b"12345"),
        ("005", {}, b"12345"),
        ("0", {}, b""),
        ("", {}, b""),
        ("-1", {}, b""),
        ("\u0665", {}, b""),
        ("5, 5", {}, b""),
        ("9" * 5000, {}, b""),
        ("", {"wsgi.input_terminated": True}, b"123456789"),
        ("9" * 5000, {"wsgi.input_terminated": True}, b"123456789"),
    ],
    ids=range(10),
)
def test_a_body_is_read_as_far_as_its_length_says(
    length: str, given: dict[str, Any], read: bytes
) -> None:
    made = environ("/api", b"123456789", CONTENT_LENGTH=length, **given)
    assert read_environ(made).body == read


def test_of_a_body_that_is_too_large_no_more_is_read_than_lets_its_client_hear_so() -> None:
    for length, given in (("100000000", {}), ("", {"wsgi.input_terminated": True})):
        body = Counting(b" " * 2_000_000)
        made = environ("/api", **{"CONTENT_LENGTH": length, "wsgi.input": body, **given})
        assert read_environ(made).body is None
        assert body.tell() == MAX_BODY_BYTES + 1 + MAX_DISCARDED
    made = environ("/api", **{"CONTENT_LENGTH": "65536", "wsgi.input": Counting(b" " * 65536)})
    assert read_environ(made).body == b" " * 65536


def test_headers_are_named_as_requests_have_them() -> None:
    made = {
        "HTTP_X_API_KEY": KEY,
        "HTTP_COOKIE": "a=1; b=2",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": "5",
        "SERVER_NAME": "localhost",
    }
    assert read_headers(made) == {
        "x-api-key": KEY,
        "cookie": "a=1; b=2",
        "content-type": "application/json",
    }
    assert read_headers({"CONTENT_TYPE": ""}) == {}


@pytest.mark.parametrize(
    ("given", "peer"), [({"REMOTE_ADDR": "::1"}, "::1"), ({"REMOTE_ADDR": ""}, None), ({}, None)]
)
def test_a_client_behind_a_unix_socket_has_no_address(
    given: dict[str, str], peer: str | None
) -> None:
    assert peer_of(given) == peer


def test_a_query_is_read_and_kept_from_the_servers_log(app: UserSessionsWSGI) -> None:
    given = environ(
        "/api/user_connections",
        b'{"user": "42"}',
        QUERY_STRING=f"api_key={KEY}",
        RAW_URI=f"/api/user_connections?api_key={KEY}",
        REQUEST_URI=f"/api/user_connections?api_key={KEY}",
    )
    answered = Answered(app, given)
    answered.whole()
    assert answered.status == 200
    assert KEY not in repr(given)
    assert (given["QUERY_STRING"], given["RAW_URI"]) == ("", "/api/user_connections")
    assert given["REQUEST_URI"] == "/api/user_connections"


def test_a_query_is_kept_from_the_log_also_of_a_path_that_is_not_served(
    app: UserSessionsWSGI,
) -> None:
    given = environ("/nowhere", QUERY_STRING=f"api_key={KEY}", RAW_URI=f"/nowhere?api_key={KEY}")
    app.respond(given, "/nowhere")
    assert KEY not in repr(given)


def test_of_a_handshakes_query_the_token_alone_is_taken() -> None:
    given = environ(
        "/chat",
        QUERY_STRING=f"room=5&access_token={TOKEN}&a=b",
        RAW_URI=f"/chat?room=5&access_token={TOKEN}&a=b",
    )
    request = read_handshake(given)
    assert request.parameter("access_token") == TOKEN
    assert (given["QUERY_STRING"], given["RAW_URI"]) == ("room=5&a=b", "/chat?room=5&a=b")
    alone = {"QUERY_STRING": f"access_token={TOKEN}", "RAW_URI": f"/chat?access_token={TOKEN}"}
    read_handshake(alone)
    assert alone == {"QUERY_STRING": "", "RAW_URI": "/chat"}


def test_a_handshake_without_a_query_stays_as_it_is() -> None:
    given: Environ = {"HTTP_HOST": "localhost"}
    assert read_handshake(given).query == ""
    assert given == {"HTTP_HOST": "localhost"}


# WebSockets that a framework has opened -----------------------------------------------------------


class Told(Watch):
    """A watch that is told as soon as it is waited for."""

    sees_client = True

    def _wake(self) -> None:
        pass

    def wait(self, seconds: float) -> None:
        self.tell(Disconnect(3503, "force disconnect"))


def spoken(
    app: UserSessionsWSGI, message: bytes | None, given: Environ
) -> tuple[list[Any], Disconnect | None]:
    frames = app.websocket(given, message, Told())
    sent: list[Any] = []
    while True:
        try:
            sent.append(json.loads(next(frames)))
        except StopIteration as end:
            return sent, end.value


def test_a_stream_over_a_websocket_has_the_same_frames(
    sessions: UserSessions, app: UserSessionsWSGI
) -> None:
    given = environ("/connection/uni_websocket", QUERY_STRING="a=b", RAW_URI="/uni?a=b")
    message = json.dumps({"token": TOKEN}).encode()
    (connect, disconnect), told = spoken(app, message, given)
    assert connect["connect"]["ping"] == 25
    assert disconnect == {"disconnect": {"code": 3503, "reason": "force disconnect"}}
    assert told == Disconnect(3503, "force disconnect")
    assert (given["QUERY_STRING"], given["RAW_URI"]) == ("", "/uni")


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        (None, 3502, "stale"),
        (b"", 3501, "bad request"),
        (b" " * (MAX_BODY_BYTES + 1), 3501, "bad request"),
        (b'{"token": "swordfish"}', 3500, "invalid token"),
    ],
    ids=range(4),
)
def test_a_first_message_that_is_no_connect_request_is_refused(
    message: bytes | None, code: int, reason: str, app: UserSessionsWSGI
) -> None:
    sent, told = spoken(app, message, environ("/connection/uni_websocket"))
    assert sent == [{"disconnect": {"code": code, "reason": reason}}]
    assert told == Disconnect(code, reason)


def test_a_websocket_whose_client_vanishes_is_given_up(sessions: UserSessions) -> None:
    app = UserSessionsWSGI(sessions, ping_interval=5)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as server,
    ):
        spoken(app, b"{}", environ("/connection/uni_websocket", **{"gunicorn.socket": server}))
        given_up = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert given_up == 5000


# Several workers ----------------------------------------------------------------------------------


def warnings(caplog: pytest.LogCaptureFixture) -> int:
    return len([one for one in caplog.records if one.name == "usersessions.http.workers"])


def test_the_first_request_warns_once_where_the_server_says_that_it_has_several_processes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = UserSessionsWSGI(new_sessions(), api_keys=[KEY])
    together = threading.Barrier(8)

    def ask() -> None:
        given = with_key("/api", **{"wsgi.multiprocess": True})
        together.wait()
        app.respond(given, "/api")

    with caplog.at_level(logging.WARNING):
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert warnings(caplog) == 1
    assert "RedisStore" in caplog.text


@pytest.mark.parametrize(("store", "multiprocess"), [(SharedStandIn(), True), (None, False)])
def test_nothing_is_said_of_a_store_that_is_shared_or_of_a_single_process(
    store: SharedStandIn | None, multiprocess: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = UserSessionsWSGI(UserSessions(store=store))
    app.respond(environ("/api", **{"wsgi.multiprocess": multiprocess}), "/api")
    assert warnings(caplog) == 0


def test_nothing_secret_is_said(app: UserSessionsWSGI, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        request = json.dumps({"token": TOKEN + "x"}).encode()
        Answered(app, environ("/connection/uni_sse", request)).whole()
        Answered(app, with_key("/api")).whole()
    assert caplog.records
    assert TOKEN not in caplog.text and KEY not in caplog.text


class Broken(io.BytesIO):
    """A body that breaks off, for which servers raise what they like."""

    def read(self, size: int | None = -1, /) -> bytes:
        raise LookupError("an invalid chunk size")


@pytest.mark.parametrize("path", ["/api", "/connection/uni_http_stream", "/nowhere"])
@pytest.mark.parametrize("body", [Broken(), io.BytesIO(LIST)], ids=range(2))
def test_a_body_that_breaks_off_is_400_and_no_error_of_the_app(
    path: str, body: io.BytesIO, app: UserSessionsWSGI
) -> None:
    body.seek(0)
    answered = Answered(app, with_key(path, **{"CONTENT_LENGTH": "100", "wsgi.input": body}))
    assert answered.whole() == b"the body of the request could not be read\n"
    assert answered.status == 400


def test_a_body_that_a_middleware_has_read_is_empty(app: UserSessionsWSGI) -> None:
    read = {"CONTENT_LENGTH": "2", "wsgi.input": io.BytesIO()}
    assert b'"nodes"' in Answered(app, with_key("/api/info", **read)).whole()
