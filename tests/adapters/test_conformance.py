"""What every app promises, over real servers: the same bytes in, the same bytes out."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from tests.adapters.apps import ALLOWED_ORIGIN, API_KEY, OTHER_API_KEY, TARGETS
from tests.adapters.serving import (
    ENVIRONMENT,
    OPENERS,
    SHUTDOWN,
    connections,
    expired_token,
    last,
    new_user,
    open_as,
    token,
    transport_of,
)
from tests.conftest import Serve
from tests.servers import Server, serving, until
from tests.streams import ask, closed_with, command, open_stream
from usersessions import __version__

EACH_OPENER = pytest.mark.parametrize("opener", OPENERS)
WITH_KEY = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
GONE_SECONDS = 1.0
"""How long a connection that is lost may still be listed."""


@pytest.fixture(scope="module", params=list(TARGETS))
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, str]]:
    target = TARGETS[request.param]
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(target.command, log=log, env=ENVIRONMENT) as server:
        yield server, server.url + target.prefix


@pytest.fixture
def url(running: tuple[Server, str]) -> str:
    return running[1]


@pytest.fixture
def user() -> str:
    return new_user()


def gone(url: str, user: str) -> None:
    until(lambda: not connections(url, user), what="the list to be empty", seconds=GONE_SECONDS)


# Streams ------------------------------------------------------------------------------------------


@EACH_OPENER
def test_a_stream_opens_with_its_connect_frame_and_is_listed(
    opener: str, url: str, user: str
) -> None:
    with open_as(opener, url, {"token": token(user)}) as stream:
        frame = stream.frame()
        assert frame is not None
        client = json.loads(frame)["connect"]["client"]
        assert frame == (
            f'{{"connect":{{"client":"{client}","version":"{__version__}","ping":25}}}}'.encode()
        )
        assert connections(url, user) == {
            client: {"transport": transport_of(opener), "protocol": "json"}
        }
    gone(url, user)


@EACH_OPENER
def test_a_stream_has_the_headers_of_its_transport(opener: str, url: str, user: str) -> None:
    with open_as(opener, url, {"token": token(user)}) as stream:
        if opener == "uni_websocket":
            assert stream.head.status == 101
            return
        assert stream.head.status == 200
        media_type = "application/json" if opener == "uni_http_stream" else "text/event-stream"
        assert stream.head.headers["content-type"] == media_type
        assert "no-store" in stream.head.headers["cache-control"]
        assert stream.head.headers["x-accel-buffering"] == "no"
        assert "content-length" not in stream.head.headers


@EACH_OPENER
def test_name_version_and_meta_are_listed_and_meta_is_not_sent(
    opener: str, url: str, user: str
) -> None:
    request = {"token": token(user, meta={"plan": "pré"}), "name": "web", "version": "1.2"}
    with open_as(opener, url, request) as stream:
        frame = stream.frame()
        assert frame is not None and b"plan" not in frame
        (info,) = connections(url, user).values()
        assert info == {
            "app_name": "web",
            "app_version": "1.2",
            "transport": transport_of(opener),
            "protocol": "json",
            "meta": {"plan": "pré"},
        }


def test_all_streams_of_a_user_are_listed_together(url: str, user: str) -> None:
    streams = [open_as(opener, url, {"token": token(user)}) for opener in OPENERS]
    clients = [stream.client() for stream in streams]
    assert list(connections(url, user)) == clients
    streams[0].leave()
    until(lambda: list(connections(url, user)) == clients[1:], what="the list", seconds=1.0)
    for stream in streams[1:]:
        stream.leave()
    gone(url, user)


@EACH_OPENER
@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_a_connection_that_is_lost_is_not_listed_a_second_later(
    opener: str, reset: bool, url: str, user: str
) -> None:
    with open_as(opener, url, {"token": token(user)}) as stream:
        stream.client()
        assert len(connections(url, user)) == 1
        stream.leave(reset=reset)
        gone(url, user)


# Disconnecting ------------------------------------------------------------------------------------


@EACH_OPENER
def test_a_disconnect_ends_the_stream_with_code_and_reason(
    opener: str, url: str, user: str
) -> None:
    with open_as(opener, url, {"token": token(user)}) as stream:
        client = stream.client()
        ended = command(url, "disconnect", key=API_KEY, user=user, client=client)
        assert ended == {"closed": [client], "unconfirmed": [], "not_revocable": []}
        assert stream.frames() == [last(3503, "force disconnect")]
        if opener == "uni_websocket":
            assert closed_with(stream) == (3503, "force disconnect")
        assert connections(url, user) == {}


@EACH_OPENER
def test_an_app_may_give_a_code_and_a_reason_of_its_own(opener: str, url: str, user: str) -> None:
    with open_as(opener, url, {"token": token(user)}) as stream:
        stream.client()
        disconnect = {"code": 4001, "reason": 'an "other" dévice'}
        command(url, "disconnect", key=API_KEY, user=user, disconnect=disconnect)
        assert stream.frames() == [last(4001, 'an "other" dévice')]
        if opener == "uni_websocket":
            assert closed_with(stream) == (4001, 'an "other" dévice')


def test_a_disconnect_closes_one_all_or_all_but_those_in_the_whitelist(url: str, user: str) -> None:
    streams = [open_as(opener, url, {"token": token(user)}) for opener in OPENERS]
    clients = [stream.client() for stream in streams]

    command(url, "disconnect", key=API_KEY, user=user, client=clients[0])
    assert streams[0].frames() == [last(3503, "force disconnect")]
    assert list(connections(url, user)) == clients[1:]

    command(url, "disconnect", key=API_KEY, user=user, whitelist=clients[2:])
    assert streams[1].frames() == [last(3503, "force disconnect")]
    assert list(connections(url, user)) == clients[2:]

    command(url, "disconnect", key=API_KEY, user=user)
    for stream in streams[2:]:
        assert stream.frames() == [last(3503, "force disconnect")]
    assert connections(url, user) == {}
    for stream in streams:
        stream.leave()


# Refusals -----------------------------------------------------------------------------------------


@EACH_OPENER
def test_a_refused_token_gets_a_disconnect_as_the_only_frame(
    opener: str, url: str, user: str
) -> None:
    refusals = [
        ("swordfish", last(3500, "invalid token")),
        (token(user)[:-6] + "AAAAAA", last(3500, "invalid token")),
        (expired_token(user), last(3005, "connection expired")),
    ]
    for refused, frame in refusals:
        with open_as(opener, url, {"token": refused}) as stream:
            assert stream.frames() == [frame]
            if opener == "uni_websocket":
                told = json.loads(frame)["disconnect"]
                assert closed_with(stream) == (told["code"], told["reason"])
    assert connections(url, user) == {}


@EACH_OPENER
def test_without_a_token_a_foreign_page_cannot_use_the_cookies_of_a_user(
    opener: str, url: str, user: str
) -> None:
    def first(**headers: str) -> bytes:
        with open_as(opener, url, {}, headers={"Cookie": f"user={user}", **headers}) as stream:
            frame = stream.frame()
            assert frame is not None
            return frame

    own = url.partition("/rt")[0].partition("/a/")[0]
    denied = last(3507, "permission denied")
    assert first(Origin="https://evil.example.com") == denied
    assert first(Origin="null") == denied
    for headers in ({}, {"Origin": own}, {"Origin": ALLOWED_ORIGIN}):
        assert first(**headers).startswith(b'{"connect":')
    gone(url, user)


@pytest.mark.parametrize("path", ["uni_http_stream", "uni_sse"])
@pytest.mark.parametrize(
    ("method", "body", "status"),
    [
        ("POST", b"", 400),
        ("POST", b"{", 400),
        ("POST", b"[]", 400),
        ("POST", b'{"token": 1}', 400),
        ("POST", b" " * 65537, 413),
        ("PUT", b"{}", 405),
        ("DELETE", b"", 405),
    ],
)
def test_what_is_no_connect_request_gets_a_status(
    path: str, method: str, body: bytes, status: int, url: str
) -> None:
    answer = ask(url, f"/connection/{path}", method=method, body=body)
    assert answer.status == status
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_an_http_stream_takes_post_alone(url: str) -> None:
    answer = ask(url, "/connection/uni_http_stream", method="GET")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"token": 1}', b"[" * 60_000, b" " * 65537])
def test_a_first_message_that_is_no_connect_request_closes_the_websocket(
    body: bytes, url: str
) -> None:
    with open_stream(url, "uni_websocket", body) as stream:
        assert stream.frames() == [last(3501, "bad request")]
        assert closed_with(stream) == (3501, "bad request")


def test_a_path_that_is_not_served_is_404_and_over_websocket_403(url: str) -> None:
    assert ask(url, "/connection/uni_grpc", body=b"{}").status == 404
    with open_stream(url, "../nowhere/uni_websocket", b"") as stream:
        assert stream.head.status == 404
    websocket = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    headers = {**websocket, "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    answer = ask(url, "/connection/uni_sse", method="GET", headers=headers)
    assert answer.status == 403


# The server API -----------------------------------------------------------------------------------


def test_a_command_is_answered_with_json(url: str, user: str) -> None:
    body = json.dumps({"method": "user_connections", "params": {"user": user}}).encode()
    answer = ask(url, "/api", body=body, headers=WITH_KEY)
    assert (answer.status, answer.body) == (200, b'{"result":{"connections":{}}}')
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/api/user_connections", {"X-API-Key": API_KEY}),
        ("/api/user_connections", {"X-API-Key": OTHER_API_KEY}),
        ("/api/user_connections", {"Authorization": f"apikey {API_KEY}"}),
        ("/api/user_connections", {"authorization": f"ApiKey {API_KEY}"}),
        (f"/api/user_connections?api_key={API_KEY}", {}),
    ],
)
def test_a_key_may_be_presented_in_three_ways(
    target: str, headers: dict[str, str], url: str
) -> None:
    answer = ask(url, target, body=b'{"user": "42"}', headers=headers)
    assert answer.status == 200 and b"error" not in answer.body


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/api", {}),
        ("/api", {"X-API-Key": "wrong"}),
        ("/api", {"X-API-Key": "\xff\xe9"}),
        ("/api", {"Authorization": f"Bearer {API_KEY}"}),
        ("/api/batch", {"Authorization": "apikey \xff"}),
        ("/api/user_connections?api_key=%FF", {}),
    ],
)
def test_without_a_key_the_answer_is_401_and_empty(
    target: str, headers: dict[str, str], url: str
) -> None:
    answer = ask(url, target, body=b"{}", headers=headers)
    assert (answer.status, answer.body) == (401, b"")


@pytest.mark.parametrize("target", ["/api", "/api/user_connections", "/api/batch"])
def test_the_server_api_has_its_statuses(target: str, url: str) -> None:
    answer = ask(url, target, method="GET", headers=WITH_KEY)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert ask(url, target, body=b"{", headers=WITH_KEY).status == 400
    assert ask(url, target, body=b" " * 65537, headers=WITH_KEY).status == 413
    assert ask(url, target, body=b" " * 1_000_000, headers=WITH_KEY).status == 413


def test_commands_come_one_a_line_by_path_and_in_a_batch(url: str, user: str) -> None:
    params = json.dumps({"user": user}).encode()
    one = b'{"method": "user_connections", "params": %b}' % params
    listed = b'{"result":{"connections":{}}}'
    unknown = b'{"error":{"code":104,"message":"method not found"}}'
    lines = ask(url, "/api", body=one + b'\n{"method": "no"}\n' + one, headers=WITH_KEY)
    assert lines.body == listed + b"\n" + unknown + b"\n" + listed
    assert ask(url, "/api/user_connections", body=params, headers=WITH_KEY).body == listed
    assert ask(url, "/api/no", body=b"", headers=WITH_KEY).body == unknown
    batch = b'{"commands": [{"user_connections": %b}, {"no": {}}]}' % params
    assert ask(url, "/api/batch", body=batch, headers=WITH_KEY).body == (
        b'{"replies":[{"user_connections":{"connections":{}}},' + unknown + b"]}"
    )


# What is left behind ------------------------------------------------------------------------------


def test_the_log_of_the_server_has_no_secret_and_no_traceback(
    running: tuple[Server, str], user: str
) -> None:
    server, url = running
    secret = token(user, meta={"pin": "swordfish"})
    for opener in OPENERS:
        with open_as(opener, url, {"token": secret}) as stream:
            stream.client()
        with open_as(opener, url, {"token": secret[:-6] + "AAAAAA"}) as stream:
            stream.frames()
    ask(url, f"/api/user_connections?api_key={API_KEY}", body=b'{"user": "42"}')
    ask(url, f"/api?api_key={API_KEY}", body=b"{")
    gone(url, user)
    assert "/connection/uni_sse" in server.output, "there is no access log to look at"
    for leaked in (secret, secret[:-6], secret.split(".")[1], API_KEY, "swordfish", "Traceback"):
        assert leaked not in server.output


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *((name, signal.SIGTERM) for name in TARGETS),
        *((name, signal.SIGINT) for name in ("plain", "starlette", "fastapi")),
    ],
)
def test_a_server_that_is_stopped_tells_every_stream_and_ends_in_time(
    name: str, number: signal.Signals, serve: Serve, user: str
) -> None:
    target = TARGETS[name]
    server = serve(target.command, env=ENVIRONMENT)
    url = server.url + target.prefix
    streams = [open_as(opener, url, {"token": token(user)}) for opener in OPENERS]
    for stream in streams:
        stream.client()
    server.process.send_signal(number)
    for stream in streams:
        assert stream.frames() == [SHUTDOWN]
    assert closed_with(streams[OPENERS.index("uni_websocket")]) == (3001, "shutdown")
    # That clients keep their connections open holds nothing up.
    server.process.wait(3.0)
    for stream in streams:
        stream.leave()
    assert "Traceback" not in server.output
    assert "Finished server process" in server.output
