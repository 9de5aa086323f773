"""ASGI in this process, on a clock that leaps: whatever a client does, no session is left over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.http.exchange import Connection, Exchange, LeapingLoop, scope, sessions_held, settle
from tests.standins import AWAY, SharedStandIn
from usersessions import (
    AsyncUserSessions,
    ConnectRefused,
    ConnectRequest,
    Disconnect,
    Identity,
    __version__,
)
from usersessions.http import aio
from usersessions.http.app import UserSessionsApp
from usersessions.http.asgi import (
    ASGIApp,
    Message,
    read_headers,
    read_request,
    send_response,
    spared_scope,
)
from usersessions.http.base import MAX_BODY_BYTES, MAX_DISCARDED, UNREADABLE, Request, Response
from usersessions.stores.base import Register
from usersessions.transports.unidirectional import Stream

pytestmark = pytest.mark.anyio

EACH_KIND = pytest.mark.parametrize("kind", Connection.KINDS)
LIST = b'{"method": "user_connections", "params": {"user": "42"}}'


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"debug": True, "loop_factory": LeapingLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


async def admit(request: ConnectRequest) -> Identity:
    """A connect proxy that takes a few steps; the client is whom its name says."""
    for _ in range(3):
        await asyncio.sleep(0)
    return Identity(request.name or "42", data=request.data)


def make(decide: Callable[..., Any] = admit) -> tuple[AsyncUserSessions, UserSessionsApp]:
    sessions = AsyncUserSessions(connect_proxy=decide)
    return sessions, UserSessionsApp(sessions, api_keys=["the-key-of-the-server-api"])


# Requests and responses ---------------------------------------------------------------------------


async def read(*messages: dict[str, object], query: bytes = b"") -> Any:
    waiting = list(messages)

    async def receive() -> dict[str, object]:
        return waiting.pop(0)

    request = await read_request(scope("/", query=query), receive)
    return request, len(waiting)


async def test_a_body_in_chunks_is_joined() -> None:
    request, _ = await read(
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "more_body": True},
        {"type": "http.request", "body": b"b"},
    )
    assert (request.method, request.body) == ("POST", b"ab")


async def test_a_request_without_a_body_has_an_empty_one() -> None:
    request, _ = await read({"type": "http.request"})
    assert request.body == b""


async def test_a_body_of_exactly_64_kib_is_taken() -> None:
    request, _ = await read({"type": "http.request", "body": b"x" * MAX_BODY_BYTES})
    assert request.body == b"x" * MAX_BODY_BYTES


async def test_of_a_body_over_64_kib_no_more_is_read_than_lets_its_client_hear_so() -> None:
    request, _ = await read(
        {"type": "http.request", "body": b"x" * MAX_BODY_BYTES, "more_body": True},
        {"type": "http.request", "body": b"x"},
    )
    assert request.body is None
    request, unread = await read(
        {"type": "http.request", "body": b"x" * MAX_BODY_BYTES, "more_body": True},
        {"type": "http.request", "body": b"x" * MAX_DISCARDED, "more_body": True},
        {"type": "http.request", "body": b"x", "more_body": True},
        {"type": "http.request", "body": b"x", "more_body": True},
    )
    assert request.body is None
    assert unread == 1


async def test_a_body_that_breaks_off_is_no_request() -> None:
    answer, _ = await read(
        {"type": "http.request", "body": b"{}", "more_body": True}, {"type": "http.disconnect"}
    )
    assert answer is UNREADABLE


async def test_the_query_is_read_and_taken_out_of_the_scope() -> None:
    given = scope("/", query=b"api_key=swordfish\xff")

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    request = await read_request(given, receive)
    assert isinstance(request, Request)
    assert request.query == "api_key=swordfish\xff"
    assert given["query_string"] == b""
    del given["query_string"]
    request = await read_request(given, receive)
    assert isinstance(request, Request)
    assert request.query == ""


def test_headers_of_one_name_are_joined_by_comma_and_cookies_by_semicolon() -> None:
    given = scope(
        "/",
        headers=[
            (b"accept", b"a"),
            (b"cookie", b"x=1"),
            (b"Accept", b"b"),
            (b"cookie", b"y=2"),
            (b"x-name", b"\xe9\xff"),
        ],
    )
    assert read_headers(given) == {
        "accept": "a, b",
        "cookie": "x=1; y=2",
        "x-name": "\xe9\xff",
    }


async def test_a_response_has_its_length() -> None:
    async def app(_: Any, __: Any, send: Any) -> None:
        await send_response(Response(200, b"abc", {"content-type": "text/plain"}), send)

    exchange = Exchange(app, scope("/"))
    await exchange.end()
    assert exchange.sent == [
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain"), (b"content-length", b"3")],
        },
        {"type": "http.response.body", "body": b"abc"},
    ]


@pytest.mark.parametrize("fails_at", [0, 1])
async def test_a_response_to_nobody_is_no_error(fails_at: int) -> None:
    _, app = make()
    exchange = Exchange(app, scope("/nowhere"), [{"type": "http.request"}], fails_at=fails_at)
    await exchange.end()
    assert len(exchange.sent) == fails_at


@pytest.mark.parametrize("path", ["/api", "/connection/uni_sse"])
async def test_a_body_that_breaks_off_is_400_to_whoever_stands_around_the_app(path: str) -> None:
    sessions, app = make()
    incoming: list[Message] = [
        {"type": "http.request", "body": b"{}", "more_body": True},
        {"type": "http.disconnect"},
    ]
    exchange = Exchange(app, scope(path), incoming)
    await exchange.end()
    start, body = exchange.sent
    assert (start["status"], body["body"]) == (400, b"the body of the request could not be read\n")
    assert sessions_held(sessions) == 0
    exchange = Exchange(app, scope(path), incoming, fails_at=0)
    await exchange.end()
    assert exchange.sent == []


@pytest.mark.parametrize("path", ["/api", "/connection/uni_sse"])
@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_a_body_that_trickles_is_408_in_time_and_its_connection_is_over(
    path: str, version: str
) -> None:
    sessions, app = make()
    exchange = Exchange(app, {**scope(path), "http_version": version})
    began = now()
    while not exchange.task.done():
        exchange.push({"type": "http.request", "body": b" ", "more_body": True})
        await asyncio.wait((exchange.task,), timeout=0.7)
    await exchange.end()
    assert now() - began == pytest.approx(aio.BODY_TIMEOUT)
    start, body = exchange.sent
    assert start["status"] == 408
    # RFC 9113, 8.2.2: HTTP/2 has no such header.
    assert dict(start["headers"]).get(b"connection") == (b"close" if version == "1.1" else None)
    assert body["body"] == b"the body of the request did not come in time\n"
    assert sessions_held(sessions) == 0


async def test_a_body_that_is_whole_in_time_is_taken_however_it_came() -> None:
    _, app = make()
    key = [(b"x-api-key", b"the-key-of-the-server-api")]
    exchange = Exchange(app, scope("/api", headers=key))
    exchange.push({"type": "http.request", "body": LIST[:9], "more_body": True})
    await asyncio.sleep(aio.BODY_TIMEOUT - 0.1)
    exchange.push({"type": "http.request", "body": LIST[9:]})
    await exchange.end()
    assert json.loads(exchange.sent[1]["body"]) == {"result": {"connections": {}}}


# A connection -------------------------------------------------------------------------------------


async def test_a_stream_over_http_has_its_head() -> None:
    _, app = make()
    for kind, media_type in (("uni_http_stream", b"application/json"), ("uni_sse", b"text/event")):
        connection = Connection(app, kind, {})
        head = await connection.message(0)
        assert (head["type"], head["status"]) == ("http.response.start", 200)
        headers = dict(head["headers"])
        assert headers[b"content-type"].startswith(media_type)
        assert b"no-store" in headers[b"cache-control"]
        assert headers[b"x-accel-buffering"] == b"no"
        assert b"content-length" not in headers
        connection.leave()
        await connection.end()


@EACH_KIND
async def test_a_client_is_told_its_id_and_listed_until_it_leaves(kind: str) -> None:
    sessions, app = make()
    connection = Connection(app, kind, {"name": "7", "version": "1.2", "data": {"a": [1]}})
    frame = await connection.frame(0)
    client = frame["connect"]["client"]
    assert frame == {
        "connect": {"client": client, "version": __version__, "ping": 25, "data": {"a": [1]}}
    }
    info = (await sessions.user_connections("7"))[client]
    assert (info.app_name, info.app_version) == ("7", "1.2")
    assert (info.transport, info.protocol) == (kind, "json")
    connection.leave()
    await connection.end()
    assert sessions_held(sessions) == 0
    assert len(connection.frames) == 1 and not connection.was_ended


@EACH_KIND
async def test_a_disconnect_is_the_last_frame_and_by_then_the_session_is_gone(kind: str) -> None:
    sessions, app = make()
    held: list[int] = []

    async def watching(given: Any, receive: Any, send: Any) -> None:
        async def watch(message: Any) -> None:
            held.append(sessions_held(sessions))
            await send(message)

        await app(given, receive, watch)

    connection = Connection(watching, kind, {})
    await connection.frame(0)
    await sessions.disconnect("42", code=4001, reason="é")
    await connection.end()
    assert connection.frames[1:] == [{"disconnect": {"code": 4001, "reason": "é"}}]
    assert connection.was_ended
    assert held[:3] == [0, 1, 0]


async def test_a_websocket_is_closed_with_the_code_and_reason_of_the_disconnect() -> None:
    sessions, app = make()
    connection = Connection(app, "uni_websocket", {})
    await connection.frame(0)
    await sessions.disconnect("42")
    await connection.end()
    assert connection.sent[-1] == {
        "type": "websocket.close",
        "code": 3503,
        "reason": "force disconnect",
    }


@EACH_KIND
async def test_a_ping_goes_out_after_every_25_seconds_of_silence(kind: str) -> None:
    _, app = make()
    connection = Connection(app, kind, {})
    await connection.frame(0)
    started = now()
    for number in (1, 2, 3):
        assert await connection.frame(number) == {}
        assert now() - started == pytest.approx(25 * number)
    connection.leave()
    await connection.end()
    assert len(connection.frames) == 4


async def test_a_timer_that_fires_early_sends_no_ping_too_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    due, early = Stream.due, [True]

    def on_time(stream: Stream, now: float) -> bytes | None:
        return None if early and early.pop() else due(stream, now)

    monkeypatch.setattr(Stream, "due", on_time)
    _, app = make()
    connection = Connection(app, "uni_sse", {})
    assert await connection.frame(1) == {}
    assert not early
    connection.leave()
    await connection.end()
    assert len(connection.frames) == 2


@EACH_KIND
async def test_what_a_client_sends_after_its_request_is_ignored(kind: str) -> None:
    sessions, app = make()
    connection = Connection(app, kind, {})
    await connection.frame(0)
    more = "websocket.receive" if kind == "uni_websocket" else "http.request"
    for _ in range(3):
        connection.push({"type": more, "text": "{}", "body": b"{}"})
    await settle()
    assert sessions_held(sessions) == 1
    connection.leave()
    await connection.end()
    assert len(connection.frames) == 1


@EACH_KIND
async def test_a_client_that_left_is_told_nothing_more(kind: str) -> None:
    sessions, app = make()
    connection = Connection(app, kind, {})
    await connection.frame(0)
    connection.leave()
    await sessions.disconnect("42")
    await connection.end()
    assert len(connection.frames) == 1
    assert sessions_held(sessions) == 0


# Refusals -----------------------------------------------------------------------------------------


@EACH_KIND
async def test_a_refused_client_gets_its_disconnect_as_the_only_frame(kind: str) -> None:
    def decide(_: ConnectRequest) -> Disconnect:
        return Disconnect(4500, "banned")

    async def awaited(request: ConnectRequest) -> Disconnect:
        return decide(request)

    sessions, app = make(awaited)
    connection = Connection(app, kind, {})
    await connection.end()
    assert connection.frames == [{"disconnect": {"code": 4500, "reason": "banned"}}]
    assert connection.was_ended
    assert sessions_held(sessions) == 0


@EACH_KIND
async def test_a_token_that_nobody_can_verify_is_refused(kind: str) -> None:
    _, app = make()
    connection = Connection(app, kind, {"token": "t"})
    await connection.end()
    assert connection.frames == [{"disconnect": {"code": 3500, "reason": "invalid token"}}]


@EACH_KIND
async def test_after_the_shutdown_clients_are_refused_with_3001(kind: str) -> None:
    sessions, app = make()
    await sessions.aclose()
    connection = Connection(app, kind, {})
    await connection.end()
    assert connection.frames == [{"disconnect": {"code": 3001, "reason": "shutdown"}}]


@EACH_KIND
async def test_a_foreign_page_may_connect_with_a_token_alone(kind: str) -> None:
    sessions = AsyncUserSessions(connect_proxy=admit)
    app = UserSessionsApp(sessions, allowed_origins=["https://App.example.com"])

    async def codes(origin: bytes, **request: object) -> Any:
        headers = [(b"host", b"api.example.com"), (b"origin", origin)]
        connection = Connection(app, kind, request, headers=headers)
        frame = await connection.frame(0)
        connection.leave()
        await connection.end()
        return frame["disconnect"]["code"] if "disconnect" in frame else None

    assert await codes(b"https://evil.example.com") == 3507
    assert await codes(b"null") == 3507
    assert await codes(b"https://evil.example.com", token="t") == 3500
    assert await codes(b"https://app.example.com") is None
    assert await codes(b"https://api.example.com") is None


@EACH_KIND
async def test_a_proxy_of_the_apps_own_that_fails_costs_the_client_3004(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    sessions, app = make()

    def fail(*_: object, **__: object) -> None:
        raise LookupError("the app's own")

    sessions.operations.admit = fail  # type: ignore[method-assign,assignment]
    connection = Connection(app, kind, {})
    await connection.end()
    assert connection.frames == [{"disconnect": {"code": 3004, "reason": "internal server error"}}]
    (record,) = caplog.records
    assert record.message.startswith("the connection of client ")
    assert record.exc_info is not None and record.exc_info[0] is LookupError


@EACH_KIND
async def test_a_store_that_does_not_answer_costs_the_client_3004_and_one_line(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = SharedStandIn()
    store.away = {Register}
    app = UserSessionsApp(AsyncUserSessions(connect_proxy=admit, store=store))
    connection = Connection(app, kind, {})
    await connection.end()
    assert connection.frames == [{"disconnect": {"code": 3004, "reason": "internal server error"}}]
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert record.getMessage().endswith(f" refused: {AWAY}")


@EACH_KIND
@pytest.mark.parametrize(("code", "reason"), [(1000, "no"), (3000, "x" * 124)])
async def test_a_refusal_that_is_no_disconnect_costs_the_client_3004(
    kind: str, code: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    sessions, app = make()

    def refuse(*_: object, **__: object) -> None:
        raise ConnectRefused(code, reason)

    sessions.operations.admit = refuse  # type: ignore[method-assign,assignment]
    connection = Connection(app, kind, {})
    await connection.end()
    assert connection.frames == [{"disconnect": {"code": 3004, "reason": "internal server error"}}]
    (record,) = caplog.records
    assert record.levelname == "ERROR" and "impossible disconnect" in record.message


# The first message of a WebSocket -----------------------------------------------------------------


def websocket(app: ASGIApp, *first: dict[str, object]) -> Connection:
    connection = Connection(app, "uni_websocket", None)
    for message in first:
        connection.push({"type": "websocket.receive", **message})
    return connection


async def test_a_websocket_waits_ten_seconds_for_its_connect_request() -> None:
    sessions, app = make()
    connection = websocket(app)
    await connection.message(0)
    started = now()
    await connection.end()
    assert now() - started == pytest.approx(10.0)
    assert connection.frames == [{"disconnect": {"code": 3502, "reason": "stale"}}]
    assert connection.sent[-1]["code"] == 3502
    assert sessions_held(sessions) == 0


@pytest.mark.parametrize(
    "first",
    [
        {"bytes": b'{"name": "7"}'},
        {"bytes": b'{"name": "7"}', "text": None},
        {"text": '{"name": "7"}', "bytes": None},
    ],
)
async def test_the_first_message_may_be_binary_or_text(first: dict[str, object]) -> None:
    sessions, app = make()
    connection = websocket(app, first)
    await connection.frame(0)
    assert len(await sessions.user_connections("7")) == 1
    connection.leave()
    await connection.end()


@pytest.mark.parametrize(
    "first",
    [
        {"text": ""},
        {"bytes": b""},
        {"text": None, "bytes": None},
        {"text": "{"},
        {"text": "[]"},
        {"text": '{"token": 1}'},
        {"bytes": b"\xff\xff"},
        {"text": '{"name": "\ud800"}'},
        {"text": json.dumps({"data": "x" * MAX_BODY_BYTES})},
        {"bytes": json.dumps({"data": "x" * MAX_BODY_BYTES}).encode()},
        {"text": '{"name": "x", "extra": "' + "é" * (MAX_BODY_BYTES // 2) + '"}'},
    ],
)
async def test_a_first_message_that_is_no_connect_request_is_refused(
    first: dict[str, object],
) -> None:
    sessions, app = make()
    connection = websocket(app, first)
    await connection.end()
    assert connection.frames == [{"disconnect": {"code": 3501, "reason": "bad request"}}]
    assert connection.sent[-1]["code"] == 3501
    assert sessions_held(sessions) == 0


async def test_a_first_message_of_exactly_64_kib_is_taken() -> None:
    _, app = make()
    frame = b'{"extra": "%b"}'
    connection = websocket(app, {"bytes": frame % (b"x" * (MAX_BODY_BYTES - len(frame) + 2))})
    assert "connect" in await connection.frame(0)
    connection.leave()
    await connection.end()


async def test_a_websocket_that_leaves_before_its_first_message_is_told_nothing() -> None:
    _, app = make()
    connection = websocket(app)
    connection.leave()
    await connection.end()
    assert connection.sent == [{"type": "websocket.accept"}]


# Clients that do not read, or have left -----------------------------------------------------------


@EACH_KIND
@pytest.mark.parametrize("number", [0, 1, 2], ids=["head", "connect", "ping"])
async def test_a_client_that_does_not_read_is_dropped_in_time(kind: str, number: int) -> None:
    sessions, app = make()
    connection = Connection(app, kind, {}, blocks_at=number)
    expected = aio.SEND_TIMEOUT + (25.0 if number == 2 else 0.0)
    started = now()
    await connection.end()
    assert now() - started == pytest.approx(expected)
    assert len(connection.sent) == number
    assert sessions_held(sessions) == 0


@EACH_KIND
async def test_a_client_that_does_not_read_its_disconnect_is_dropped_in_time(kind: str) -> None:
    sessions, app = make()
    connection = Connection(app, kind, {}, blocks_at=2)
    await connection.frame(0)
    await sessions.disconnect("42")
    await settle()
    assert sessions_held(sessions) == 0
    started = now()
    await connection.end()
    assert now() - started == pytest.approx(aio.SEND_TIMEOUT)
    assert len(connection.sent) == 2


@EACH_KIND
@pytest.mark.parametrize("number", [0, 1, 2, 3])
@pytest.mark.parametrize("error", [OSError, RuntimeError])
async def test_a_client_that_the_server_has_lost_is_no_error(
    kind: str, number: int, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    sessions, app = make()
    connection = Connection(app, kind, {}, fails_at=number, error=error)
    if number == 3:
        await connection.frame(1)
        await sessions.disconnect("42")
    await connection.end()
    assert len(connection.sent) == number
    assert sessions_held(sessions) == 0
    assert caplog.records == []


@EACH_KIND
async def test_a_client_that_leaves_while_it_is_admitted_leaves_no_session(kind: str) -> None:
    sessions, app = make()
    connection = Connection(app, kind, {})
    connection.leave()
    await connection.end()
    assert sessions_held(sessions) == 0
    assert "disconnect" not in connection.frames[-1]


@EACH_KIND
async def test_a_server_that_fails_to_receive_leaves_no_session(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    sessions, app = make()
    connection = Connection(app, kind, {})
    await connection.frame(0)
    connection.push(LookupError("the server's own"))
    await connection.end()
    assert connection.frames[-1]["disconnect"]["code"] == 3004
    assert sessions_held(sessions) == 0
    assert caplog.records[0].exc_info is not None


# Cancellation -------------------------------------------------------------------------------------


async def steps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def cancelled_after(count: int, connection: Exchange, sessions: AsyncUserSessions) -> bool:
    """Cancel an app after some steps of the loop; whether it was still running then."""
    await steps(count)
    was_running = connection.task.cancel()
    await settle()
    assert connection.task.cancelled() == was_running
    assert sessions_held(sessions) == 0
    # This test, and what runs it.
    assert len(asyncio.all_tasks()) == 2
    return was_running


@EACH_KIND
async def test_cancelling_a_connection_at_any_step_leaves_neither_session_nor_task(
    kind: str,
) -> None:
    was_held = False
    for count in range(60):
        sessions, app = make()
        connection = Connection(app, kind, {})
        await steps(count)
        was_held = was_held or sessions_held(sessions) == 1
        assert await cancelled_after(0, connection, sessions)
    assert was_held


@EACH_KIND
@pytest.mark.parametrize("leaves", [True, False], ids=["it leaves", "it is disconnected"])
async def test_cancelling_a_connection_at_any_step_of_its_end_leaves_nothing(
    kind: str, leaves: bool
) -> None:
    was_running: list[bool] = []
    for count in range(40):
        sessions, app = make()
        connection = Connection(app, kind, {})
        await connection.frame(0)
        if leaves:
            connection.leave()
        else:
            await sessions.disconnect("42")
        was_running.append(await cancelled_after(count, connection, sessions))
    assert was_running[0] and not was_running[-1]


@EACH_KIND
async def test_cancelling_a_connection_at_any_step_around_a_ping_leaves_nothing(kind: str) -> None:
    for count in range(20):
        sessions, app = make()
        # Every other client does not read its ping.
        connection = Connection(app, kind, {}, blocks_at=2 if count % 2 else None)
        await connection.frame(0)
        await asyncio.sleep(25)
        assert await cancelled_after(count // 2, connection, sessions)


async def test_cancelling_a_request_at_any_step_is_not_held_up() -> None:
    was_running: list[bool] = []
    for count in range(30):
        sessions, app = make()
        request = scope("/api", headers=[(b"x-api-key", b"the-key-of-the-server-api")])
        exchange = Exchange(app, request, [{"type": "http.request", "body": LIST}])
        was_running.append(await cancelled_after(count, exchange, sessions))
    assert was_running[0] and not was_running[-1]


async def test_what_a_server_logs_has_no_token_and_what_the_app_is_given_has_it() -> None:
    query = b"room=5&access_token=secret"
    outer = scope("/echo", kind="websocket", query=query)
    inner = spared_scope(outer)
    assert outer["query_string"] == b"room=5"
    assert inner == {**outer, "query_string": query}
