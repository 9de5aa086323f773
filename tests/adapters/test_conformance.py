"""What every app promises, over real servers: the same bytes in, the same bytes out.

How connections and servers end is in `test_loss.py`.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.adapters.apps.shared import ALLOWED_ORIGIN, API_KEY, OTHER_API_KEY
from tests.adapters.matrix import EACH_OPENER, WITH_WEBSOCKETS
from tests.adapters.serving import (
    Running,
    bearer,
    connections,
    exchange,
    expired_token,
    gone,
    last,
    new_user,
    open_as,
    token,
    transport_of,
)
from tests.servers import until
from tests.streams import Answer, Stream, ask, closed_with, command, open_stream, open_websocket
from usersessions import __version__

WITH_KEY = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
PIN = "a pin that nobody may see"
TOO_LARGE = b" " * 65537


def chunks(body: bytes) -> Iterable[bytes]:
    """A body to send in chunks, without its length."""
    return (body[start : start + 20_000] for start in range(0, len(body), 20_000))


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


def test_all_streams_of_a_user_are_listed_together(running: Running, user: str) -> None:
    url = running.url
    streams, clients = opened_one_by_one(running, user)
    assert list(connections(url, user)) == clients
    streams[0].leave()
    until(lambda: list(connections(url, user)) == clients[1:], what="the list", seconds=1.0)
    for stream in streams[1:]:
        stream.leave()
    gone(url, user)


# Disconnecting ------------------------------------------------------------------------------------


@EACH_OPENER
def test_a_disconnect_ends_the_stream_with_code_and_reason(
    opener: str, running: Running, user: str
) -> None:
    url = running.url
    with open_as(opener, url, {"token": token(user)}) as stream:
        client = stream.client()
        ended = command(url, "disconnect", key=API_KEY, user=user, client=client)
        assert ended == {"closed": [client], "unconfirmed": [], "not_revocable": []}
        assert stream.frames() == [last(3503, "force disconnect")]
        if opener == "uni_websocket":
            assert closed_with(stream) == running.closing(3503, "force disconnect")
        assert connections(url, user) == {}


@EACH_OPENER
def test_an_app_may_give_a_code_and_a_reason_of_its_own(
    opener: str, running: Running, user: str
) -> None:
    url = running.url
    with open_as(opener, url, {"token": token(user)}) as stream:
        stream.client()
        disconnect = {"code": 4001, "reason": 'an "other" dévice'}
        command(url, "disconnect", key=API_KEY, user=user, disconnect=disconnect)
        assert stream.frames() == [last(4001, 'an "other" dévice')]
        if opener == "uni_websocket":
            assert closed_with(stream) == running.closing(4001, 'an "other" dévice')


def test_a_disconnect_closes_one_all_or_all_but_those_in_the_whitelist(
    running: Running, user: str
) -> None:
    url = running.url
    streams, clients = opened_one_by_one(running, user)

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
    opener: str, running: Running, user: str
) -> None:
    url = running.url
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
                assert closed_with(stream) == running.closing(told["code"], told["reason"])
    assert connections(url, user) == {}


@EACH_OPENER
def test_without_a_token_a_foreign_page_cannot_use_the_cookies_of_a_user(
    opener: str, running: Running, user: str
) -> None:
    url = running.url

    def first(**headers: str) -> bytes:
        with open_as(opener, url, {}, headers={"Cookie": f"user={user}", **headers}) as stream:
            frame = stream.frame()
            assert frame is not None
            return frame

    denied = last(3507, "permission denied")
    assert first(Origin="https://evil.example.com") == denied
    assert first(Origin="null") == denied
    for headers in ({}, {"Origin": running.server.url}, {"Origin": ALLOWED_ORIGIN}):
        assert first(**headers).startswith(b'{"connect":')
    gone(url, user)


@pytest.mark.parametrize("path", ["uni_http_stream", "uni_sse"])
@pytest.mark.parametrize(
    ("method", "body", "status"),
    [
        ("POST", b"", 400),
        ("POST", b"{", 400),
        ("POST", b"[]", 400),
        ("POST", b"\xff", 400),
        ("POST", b'{"token": 1}', 400),
        ("POST", b'{"token": "a", "token": "b"}', 400),
        ("POST", TOO_LARGE, 413),
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


@WITH_WEBSOCKETS
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"token": 1}', b"[" * 60_000, TOO_LARGE], ids=range(6)
)
def test_a_first_message_that_is_no_connect_request_closes_the_websocket(
    body: bytes, running: Running
) -> None:
    with open_stream(running.url, "uni_websocket", body) as stream:
        assert stream.frames() == [last(3501, "bad request")]
        assert closed_with(stream) == running.closing(3501, "bad request")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/connection/uni_grpc", {404}),
        ("/connection", {404}),
        ("/api/a/b", {404}),
        ("/sessions/a/b", {404}),
        ("/sessions/", {404}),
        # Some frameworks send the client to the path without the slash at its end.
        ("/api/", {404, 307}),
        ("/connection/uni_sse/", {404, 307}),
    ],
)
def test_a_path_that_is_not_served_is_404(path: str, status: set[int], url: str) -> None:
    assert ask(url, path, body=b"{}", headers=WITH_KEY).status in status


def test_a_path_where_a_name_is_missing_ends_nothing(url: str, user: str) -> None:
    current, other = token(user, jti=new_user()), token(user, jti=new_user())
    with open_stream(url, "uni_sse", {"token": other}) as stream:
        stream.client()
        answer = ask(url, "/sessions/", method="DELETE", headers=bearer(current))
        assert answer.status == 404
        assert len(connections(url, user)) == 1


def test_where_there_is_no_websocket_none_opens(running: Running) -> None:
    paths = ["/nowhere/uni_websocket", "/connection/uni_websocket/", "/api"]
    if not running.target.has_websockets:
        paths.append("/connection/uni_websocket")
    for path in paths:
        with open_websocket(running.url, path) as websocket:
            assert 400 <= websocket.head.status < 500


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
        (f"/%61pi/user%5Fconnections?a=%FF&api_key={API_KEY[:-1]}%69", {}),
    ],
    ids=range(6),
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
    ids=range(6),
)
def test_without_a_key_the_answer_is_401_and_empty(
    target: str, headers: dict[str, str], url: str
) -> None:
    for body in (b"{}", b"{", TOO_LARGE):
        answer = ask(url, target, body=body, headers=headers)
        assert (answer.status, answer.body) == (401, b"")


@pytest.mark.parametrize("target", ["/api", "/api/user_connections", "/api/batch"])
def test_the_server_api_has_its_statuses(target: str, url: str) -> None:
    answer = ask(url, target, method="GET", headers=WITH_KEY)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert ask(url, target, body=b"{", headers=WITH_KEY).status == 400
    assert ask(url, target, body=b'{"user": "\xff"}', headers=WITH_KEY).status == 400
    assert ask(url, target, body=TOO_LARGE, headers=WITH_KEY).status == 413
    assert ask(url, target, body=b" " * 1_000_000, headers=WITH_KEY).status == 413


def test_commands_come_one_a_line_by_path_and_in_a_batch(url: str, user: str) -> None:
    params = json.dumps({"user": user}).encode()
    one = b'{"method": "user_connections", "params": %b}' % params
    listed = b'{"result":{"connections":{}}}'
    unknown = b'{"error":{"code":104,"message":"method not found"}}'
    lines = ask(url, "/api", body=one + b'\n{"method": "no"}\n' + one, headers=WITH_KEY)
    assert lines.body == listed + b"\n" + unknown + b"\n" + listed
    assert ask(url, "/api/user_connections", body=params, headers=WITH_KEY).body == listed
    for name in ("no", "%FF", "n%C3%B3", "%20"):
        assert ask(url, f"/api/{name}", body=b"", headers=WITH_KEY).body == unknown
    batch = b'{"commands": [{"user_connections": %b}, {"no": {}}]}' % params
    assert ask(url, "/api/batch", body=batch, headers=WITH_KEY).body == (
        b'{"replies":[{"user_connections":{"connections":{}}},' + unknown + b"]}"
    )


# How a request is read ----------------------------------------------------------------------------


def test_a_body_may_come_in_chunks(url: str, user: str) -> None:
    body = json.dumps({"user": user}).encode() + b" " * 50_000
    answer = ask(url, "/api/user_connections", body=chunks(body), headers=WITH_KEY)
    assert (answer.status, answer.body) == (200, b'{"result":{"connections":{}}}')
    assert ask(url, "/api", body=chunks(TOO_LARGE), headers=WITH_KEY).status == 413
    assert ask(url, "/connection/uni_sse", body=chunks(TOO_LARGE)).status == 413
    assert ask(url, "/connection/uni_sse", body=chunks(b"{")).status == 400


@pytest.mark.parametrize("size", [65_537, 300_000])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_what_is_left_of_a_body_that_is_too_large_is_no_request(
    size: int, chunked: bool, url: str
) -> None:
    body = b"POST /me HTTP/1.1\r\n\r\n".ljust(size)
    with closing(connection_to(url)) as connection:
        connection.request(
            "POST", path_of(url, "/api"), chunks(body) if chunked else body, WITH_KEY
        )
        assert answer_of(connection).status == 413
        # On the same connection, unless the server closes it.
        with suppress(ConnectionError):
            connection.request("POST", path_of(url, "/api/no"), b"", WITH_KEY)
            assert answer_of(connection).status == 200


def test_a_header_that_comes_twice_is_one_that_is_joined(url: str, user: str) -> None:
    def first_line(*lines: str) -> str:
        head = [*lines, "Host: localhost", "Content-Length: 2", "Connection: close", "", "{}"]
        path = path_of(url, "/api/user_connections")
        return exchange(url, "\r\n".join([f"POST {path} HTTP/1.1", *head]).encode()).decode()

    key = f"X-API-Key: {API_KEY}"
    assert first_line(key).startswith("HTTP/1.1 200 ")
    assert first_line(key, key).startswith("HTTP/1.1 401 ")
    assert first_line(f"Authorization: apikey {API_KEY}").startswith("HTTP/1.1 200 ")
    twice = first_line(f"Authorization: apikey {API_KEY}", "Authorization: Bearer no")
    assert twice.startswith("HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("path", "status"),
    [("/api", 405), ("/sessions", 405), ("/connection/uni_http_stream", 405), ("/nowhere", 404)],
)
def test_head_is_answered_without_a_body(path: str, status: int, url: str) -> None:
    request = f"HEAD {path_of(url, path)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    head, _, body = exchange(url, request.encode()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert body == b""


# A user's own sessions, and the app's own ---------------------------------------------------------


def said(answer: Answer) -> Any:
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    return json.loads(answer.body)


def test_a_user_lists_and_ends_their_own_sessions(url: str, user: str) -> None:
    mine, lost = token(user, jti=new_user(), meta={"plan": "pro"}), token(user, jti=new_user())
    agent = {"User-Agent": "a-device/1.0"}
    with (
        open_stream(url, "uni_sse", {"token": mine, "name": "web"}, headers=agent) as current,
        open_stream(url, "uni_http_stream", {"token": token(new_user())}) as stranger,
    ):
        clients = [current.client()]
        phone = open_stream(url, "uni_http_stream", {"token": lost})
        clients.append(phone.client())
        listed = said(ask(url, "/sessions", method="GET", headers=bearer(mine)))["sessions"]
        assert [one["client"] for one in listed] == clients
        assert [one["current"] for one in listed] == [True, False]
        assert listed[0]["app_name"] == "web"
        assert "a-device" in listed[0]["device"]
        assert listed[0]["remote_addr"] == "127.0.0.1"
        assert "plan" not in str(listed)

        target = f"/sessions/{stranger.client()}"
        assert ask(url, target, method="DELETE", headers=bearer(mine)).status == 404
        target = f"/sessions/{clients[1]}"
        ended = ask(url, target, method="DELETE", headers=bearer(mine))
        assert said(ended) == {"closed": [clients[1]], "unconfirmed": [], "not_revocable": []}
        assert phone.frames() == [last(3503, "force disconnect")]
        phone.leave()
        assert ask(url, target, method="DELETE", headers=bearer(mine)).status == 404
        assert ask(url, "/sessions", method="GET", headers=bearer(lost)).status == 401


def test_a_user_ends_all_other_sessions(url: str, user: str) -> None:
    first, second = token(user, jti=new_user()), token(user)
    with (
        open_stream(url, "uni_sse", {"token": first}) as one,
        open_stream(url, "uni_http_stream", {"token": second}) as current,
    ):
        client, other = current.client(), one.client()
        assert ask(url, "/sessions", method="DELETE", headers=bearer(second)).status == 400
        target = f"/sessions?current={client}"
        ended = said(ask(url, target, method="DELETE", headers=bearer(second)))
        assert ended == {"closed": [other], "unconfirmed": [], "not_revocable": []}
        assert one.frames() == [last(3503, "force disconnect")]
        assert list(connections(url, user)) == [client]


@pytest.mark.parametrize("target", ["/sessions", "/sessions/2d1f8fb4-1e0b-4f0a-9e65-4a2f3f2a8f4e"])
def test_own_sessions_have_their_statuses(target: str, url: str, user: str) -> None:
    for headers in ({}, bearer("swordfish"), {"Cookie": f"user={user}"}, WITH_KEY):
        answer = ask(url, target, method="DELETE", headers=headers)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert said(answer)["error"]["code"] == 101
    expired = ask(url, target, method="DELETE", headers=bearer(expired_token(user)))
    assert (expired.status, said(expired)["error"]["code"]) == (401, 109)
    answer = ask(url, target, body=b"{}", headers=bearer(token(user)))
    allowed = "GET, DELETE" if target == "/sessions" else "DELETE"
    assert (answer.status, answer.headers["allow"]) == (405, allowed)


def me(running: Running, **headers: str) -> Answer:
    return ask(running.server.url, "/me", method="GET", headers=headers)


def test_an_endpoint_of_the_apps_own_is_for_those_who_have_a_token(
    running: Running, user: str
) -> None:
    answer = me(running, **bearer(token(user)))
    assert (answer.status, answer.body) == (200, user.encode())
    refused = [{}, bearer("swordfish"), bearer(expired_token(user)), {"Cookie": f"user={user}"}]
    for headers in refused:
        answer = me(running, **headers)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert user.encode() not in answer.body


def test_an_endpoint_of_the_apps_own_knows_who_is_kept_out(running: Running, user: str) -> None:
    url = running.url
    revoked, blocked = token(user, jti=new_user()), token(user, jti=new_user())
    assert me(running, **bearer(revoked)).status == 200
    with open_stream(url, "uni_sse", {"token": revoked}) as stream:
        client = stream.client()
        command(url, "disconnect", key=API_KEY, user=user, client=client, revoke=True)
    assert me(running, **bearer(revoked)).status == 401
    assert me(running, **bearer(blocked)).status == 200
    command(url, "block_user", key=API_KEY, user=user)
    assert me(running, **bearer(blocked)).status == 401
    command(url, "unblock_user", key=API_KEY, user=user)
    assert me(running, **bearer(blocked)).status == 200


@WITH_WEBSOCKETS
@pytest.mark.parametrize("where", ["header", "query"])
def test_a_websocket_of_the_apps_own_is_a_session_while_it_is_open(
    where: str, running: Running, user: str
) -> None:
    url = running.url
    given = token(user, meta={"plan": "pro"})
    target = "/own/echo" if where == "header" else f"/own/echo?room=1&access_token={given}"
    headers = bearer(given) if where == "header" else {}
    with open_websocket(running.server.url, target, headers=headers) as websocket:
        websocket.send("né".encode())
        assert websocket.frame() == "né".encode()
        ((client, info),) = connections(url, user).items()
        assert info == {"transport": "websocket", "protocol": "json", "meta": {"plan": "pro"}}
        (own,) = said(ask(url, "/sessions", method="GET", headers=bearer(given)))["sessions"]
        assert (own["client"], own["remote_addr"]) == (client, "127.0.0.1")

        ended = command(url, "disconnect", key=API_KEY, user=user)
        assert ended == {"closed": [client], "unconfirmed": [], "not_revocable": []}
        assert websocket.frames() == []
        assert websocket.closed == running.closing(3503, "force disconnect")
        assert connections(url, user) == {}


@WITH_WEBSOCKETS
def test_a_websocket_of_the_apps_own_that_is_refused_is_told_why(
    running: Running, user: str
) -> None:
    evil = {"Cookie": f"user={user}", "Origin": "https://evil.example.com"}
    for headers, code, reason in (
        (bearer("swordfish"), 3500, "invalid token"),
        (bearer(expired_token(user)), 3005, "connection expired"),
        (evil, 3507, "permission denied"),
        ({}, 3507, "permission denied"),
    ):
        with open_websocket(running.server.url, "/own/echo", headers=headers) as websocket:
            assert websocket.head.status == 101
            assert websocket.frames() == []
            assert websocket.closed == running.closing(code, reason)
    assert connections(running.url, user) == {}


@WITH_WEBSOCKETS
def test_a_websocket_of_the_apps_own_may_go_by_a_cookie(running: Running, user: str) -> None:
    for origin in (running.server.url, ALLOWED_ORIGIN):
        headers = {"Cookie": f"user={user}", "Origin": origin}
        with open_websocket(running.server.url, "/own/echo", headers=headers) as websocket:
            websocket.send(b"hello")
            assert websocket.frame() == b"hello"
            assert len(connections(running.url, user)) == 1
        gone(running.url, user)


# What is left behind ------------------------------------------------------------------------------


def test_the_log_of_the_server_has_no_secret_and_no_traceback(running: Running, user: str) -> None:
    server, url = running.server, running.url
    secret = token(user, meta={"pin": PIN})
    for opener in running.openers:
        with open_as(opener, url, {"token": secret}) as stream:
            stream.client()
        with open_as(opener, url, {"token": secret[:-6] + "AAAAAA"}) as stream:
            stream.frames()
    ask(url, f"/api/user_connections?api_key={API_KEY}", body=b'{"user": "42"}')
    ask(url, f"/api?api_key={API_KEY}", body=b"{")
    ask(url, "/sessions", method="GET", headers=bearer(secret))
    me(running, **bearer(secret))
    if running.target.has_websockets:
        for given in (secret, secret[:-6] + "AAAAAA"):
            target = f"/own/echo?access_token={given}"
            with open_websocket(server.url, target) as websocket:
                websocket.send(b"hello")
                websocket.frame()
    gone(url, user)
    assert "/connection/uni_sse" in server.output, "there is no access log to look at"
    leaks = [PIN, "Traceback"]
    if not running.target.logs_queries:
        leaks += [secret, secret[:-6], secret.split(".")[1], API_KEY]
    for leaked in leaks:
        assert leaked not in server.output


def opened_one_by_one(running: Running, user: str) -> tuple[list[Stream], list[str]]:
    """Streams of every kind, and their client IDs, in the order in which they are listed."""
    streams, clients = [], []
    for opener in running.openers:
        streams.append(open_as(opener, running.url, {"token": token(user)}))
        clients.append(streams[-1].client())
    return streams, clients


# Requests -----------------------------------------------------------------------------------------


def connection_to(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=10.0)


def path_of(url: str, path: str) -> str:
    return urlsplit(url).path + path


def answer_of(connection: http.client.HTTPConnection) -> Answer:
    response = connection.getresponse()
    return Answer(response.status, dict(response.getheaders()), response.read())
