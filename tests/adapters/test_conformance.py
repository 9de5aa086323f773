"""What every app promises, over real servers: the same bytes in, the same bytes out.

How connections and servers end is in `test_loss.py`.
"""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.adapters.apps.shared import ALLOWED_ORIGIN, API_KEY, OTHER_API_KEY
from tests.adapters.matrix import EACH_FOR_REQUESTS, EACH_OPENER, WITH_WEBSOCKETS
from tests.adapters.serving import (
    PIN,
    Running,
    bearer,
    check_log,
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
TOO_LARGE = b" " * 65537
NO_JSON = b"not valid JSON: Expecting property name enclosed in double quotes at line 1, column 2\n"
NO_TEXT = b"not valid JSON: the text is not UTF-8\n"


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


@EACH_FOR_REQUESTS
@pytest.mark.parametrize(
    ("path", "methods"), [("uni_http_stream", "POST"), ("uni_sse", "GET, POST")]
)
def test_what_is_no_connect_request_is_told_what_is_wrong(
    path: str, methods: str, url: str
) -> None:
    for body, status, said in (
        (b"", 400, b"not valid JSON: the text is empty\n"),
        (b"{", 400, NO_JSON),
        (b"[]", 400, b"a connect request must be a JSON object\n"),
        (b"\xff", 400, NO_TEXT),
        (b'{"token": 1}', 400, b"token must be a string\n"),
        (
            b'{"token": "a", "token": "b"}',
            400,
            b"not valid JSON: a member name stands twice in one object\n",
        ),
        (TOO_LARGE, 413, b"a connect request is at most 65536 bytes\n"),
    ):
        assert told(ask(url, f"/connection/{path}", body=body)) == (status, said)
    wrong = ["PUT", "DELETE", "PATCH"] + (["GET"] if "GET" not in methods else [])
    for method in wrong:
        answer = ask(url, f"/connection/{path}", method=method)
        assert told(answer) == (405, f"{path} takes {methods}\n".encode())
        assert answer.headers["allow"] == methods


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


@EACH_FOR_REQUESTS
def test_a_path_that_is_not_served_is_404(url: str) -> None:
    for path, statuses in (
        ("/connection/uni_grpc", {404}),
        ("/connection", {404}),
        ("/api/a/b", {404}),
        ("/sessions/a/b", {404}),
        ("/sessions/", {404}),
        ("/sessions%2F", {404}),
        # Some frameworks send the client to the path without the slash at its end.
        ("/api/", {404, 307}),
        ("/connection/uni_sse/", {404, 307}),
    ):
        assert ask(url, path, body=b"{}", headers=WITH_KEY).status in statuses, path


@pytest.mark.parametrize("path", ["/sessions/", "/sessions%2F", "/sessions%2f"])
def test_a_path_where_a_name_is_missing_ends_nothing(path: str, url: str, user: str) -> None:
    current, other = token(user, jti=new_user()), token(user, jti=new_user())
    with open_stream(url, "uni_sse", {"token": other}) as stream:
        stream.client()
        answer = ask(url, path, method="DELETE", headers=bearer(current))
        assert answer.status == 404
        assert len(connections(url, user)) == 1


def test_where_there_is_no_websocket_none_opens(running: Running) -> None:
    paths = ["/nowhere/uni_websocket", "/connection/uni_websocket/", "/api"]
    if not running.target.has_websockets:
        paths.append("/connection/uni_websocket")
    for path in paths:
        with open_websocket(running.url, path) as websocket:
            assert 400 <= websocket.head.status < 500


@pytest.mark.parametrize("missing", ["Sec-WebSocket-Key", "Sec-WebSocket-Version"])
def test_a_handshake_that_is_none_is_refused_and_no_error_of_the_app(
    missing: str, running: Running, url: str
) -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    del headers[missing]
    answer = ask(url, "/connection/uni_websocket", method="GET", headers=headers)
    assert 400 <= answer.status < 500
    check_log(running)


# The server API -----------------------------------------------------------------------------------


def test_a_command_is_answered_with_json(url: str, user: str) -> None:
    body = json.dumps({"method": "user_connections", "params": {"user": user}}).encode()
    answer = ask(url, "/api", body=body, headers=WITH_KEY)
    assert (answer.status, answer.body) == (200, b'{"result":{"connections":{}}}')
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.body))


@EACH_FOR_REQUESTS
def test_a_key_may_be_presented_in_three_ways(url: str, user: str) -> None:
    path = "/api/user_connections"
    presented: list[tuple[str, dict[str, str]]] = [
        (path, {"X-API-Key": API_KEY}),
        (path, {"X-API-Key": OTHER_API_KEY}),
        (path, {"Authorization": f"apikey {API_KEY}"}),
        (path, {"authorization": f"ApiKey {API_KEY}"}),
        (f"{path}?api_key={API_KEY}", {}),
        (f"/%61pi/user%5Fconnections?a=%FF&api_key={API_KEY[:-1]}%69", {}),
    ]
    body = json.dumps({"user": user}).encode()
    for target, headers in presented:
        answer = ask(url, target, body=body, headers=headers)
        assert (answer.status, answer.body) == (200, b'{"result":{"connections":{}}}'), target


@EACH_FOR_REQUESTS
def test_without_a_key_the_answer_is_401_and_empty(url: str) -> None:
    presented: list[tuple[str, dict[str, str]]] = [
        ("/api", {}),
        ("/api", {"X-API-Key": "wrong"}),
        ("/api", {"X-API-Key": "\xff\xe9"}),
        ("/api", {"Authorization": f"Bearer {API_KEY}"}),
        ("/api/batch", {"Authorization": "apikey \xff"}),
        ("/api/user_connections?api_key=%FF", {}),
    ]
    for target, headers in presented:
        for body in (b"{}", b"{", TOO_LARGE):
            answer = ask(url, target, body=body, headers=headers)
            assert (answer.status, answer.body) == (401, b""), (target, headers)


@EACH_FOR_REQUESTS
def test_the_server_api_has_its_statuses(url: str) -> None:
    too_large = (413, b"a request body is at most 65536 bytes\n")
    for target in ("/api", "/api/user_connections", "/api/batch"):
        for method in ("GET", "PUT", "DELETE"):
            answer = ask(url, target, method=method, headers=WITH_KEY)
            assert told(answer) == (405, b"the server API takes POST\n")
            assert answer.headers["allow"] == "POST"
        for body, expected in (
            (b"{", (400, NO_JSON)),
            (b'{"user": "\xff"}', (400, NO_TEXT)),
            (TOO_LARGE, too_large),
            (b" " * 1_000_000, too_large),
        ):
            assert told(ask(url, target, body=body, headers=WITH_KEY)) == expected


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


@EACH_FOR_REQUESTS
def test_a_body_may_come_in_chunks(url: str, user: str) -> None:
    body = json.dumps({"user": user}).encode() + b" " * 50_000
    answer = ask(url, "/api/user_connections", body=chunks(body), headers=WITH_KEY)
    assert (answer.status, answer.body) == (200, b'{"result":{"connections":{}}}')
    assert ask(url, "/api", body=chunks(TOO_LARGE), headers=WITH_KEY).status == 413
    assert ask(url, "/connection/uni_sse", body=chunks(TOO_LARGE)).status == 413
    assert ask(url, "/connection/uni_sse", body=chunks(b"{")).status == 400


@EACH_FOR_REQUESTS
@pytest.mark.parametrize("path", ["/api", "/connection/uni_sse"])
def test_a_body_that_breaks_off_is_refused_if_it_is_answered(path: str, url: str) -> None:
    for length, begun in (
        ("Content-Length: 100", b'{"a'),
        ("Transfer-Encoding: chunked", b'5\r\n{"a'),
    ):
        for reset in (False, True):
            assert broken_off(url, path, length, begun, reset=reset)[:13] in (
                b"",
                b"HTTP/1.1 400 ",
            )


@EACH_FOR_REQUESTS
def test_a_chunk_without_a_size_is_refused(url: str) -> None:
    for path in ("/api", "/connection/uni_sse"):
        body = b"nothing\r\n{}\r\n0\r\n\r\n"
        answer = exchange(url, head_of(url, path, "Transfer-Encoding: chunked") + body)
        assert answer[:9] in (b"HTTP/1.1 ", b"HTTP/1.0 ") and answer[9:13] == b"400 "


@EACH_FOR_REQUESTS
def test_a_body_with_a_content_coding_is_refused_whatever_is_in_it(url: str) -> None:
    for path, what in (
        ("/api", b"a request body"),
        ("/api/user_connections", b"a request body"),
        ("/api/batch", b"a request body"),
        ("/connection/uni_http_stream", b"a connect request"),
        ("/connection/uni_sse", b"a connect request"),
    ):
        for body in (gzip.compress(b'{"user": "42"}'), b'{"user": "42"}', b""):
            headers = {**WITH_KEY, "Content-Encoding": "gzip"}
            answer = ask(url, path, body=body, headers=headers)
            assert told(answer) == (415, what + b" must have no content encoding\n")
            assert answer.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("size", [65_537, 300_000])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_what_is_left_of_a_body_that_is_too_large_is_no_request(
    size: int, chunked: bool, url: str
) -> None:
    body = b"POST /me HTTP/1.1\r\n\r\n".ljust(size)
    with connection_to(url) as connection:
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


@EACH_FOR_REQUESTS
def test_head_is_answered_without_a_body(url: str) -> None:
    for path, status in (
        ("/api", 405),
        ("/sessions", 405),
        ("/connection/uni_http_stream", 405),
        ("/nowhere", 404),
    ):
        request = f"HEAD {path_of(url, path)} HTTP/1.1\r\nHost: localhost\r\n"
        answer = exchange(url, f"{request}Connection: close\r\n\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert body == b""
        with connection_to(url) as connection:
            # What would be left of the first answer, the client would take for the second one.
            connection.request("HEAD", path_of(url, path))
            assert answer_of(connection).status == status
            connection.request("GET", path_of(url, "/sessions"))
            assert answer_of(connection).status == 401


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
    target = "/own/echo?room=1&app_name=web&app_version=1.2"
    headers = bearer(given) if where == "header" else {}
    if where == "query":
        target += f"&access_token={given}"
    with open_websocket(running.server.url, target, headers=headers) as websocket:
        websocket.send("né".encode())
        assert websocket.frame() == "né".encode()
        ((client, info),) = connections(url, user).items()
        assert info == {
            "app_name": "web",
            "app_version": "1.2",
            "transport": "websocket",
            "protocol": "json",
            "meta": {"plan": "pro"},
        }
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
    for query, headers, code, reason in (
        ("", bearer("swordfish"), 3500, "invalid token"),
        ("", bearer(expired_token(user)), 3005, "connection expired"),
        ("", evil, 3507, "permission denied"),
        ("", {}, 3507, "permission denied"),
        (f"?app_name={'x' * 256}", bearer(token(user)), 3501, "bad request"),
    ):
        target = f"/own/echo{query}"
        with open_websocket(running.server.url, target, headers=headers) as websocket:
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
    check_log(running)
    if not running.target.logs_queries:
        assert secret.split(".")[1] not in server.output


def opened_one_by_one(running: Running, user: str) -> tuple[list[Stream], list[str]]:
    """Streams of every kind, and their client IDs, in the order in which they are listed."""
    streams, clients = [], []
    for opener in running.openers:
        streams.append(open_as(opener, running.url, {"token": token(user)}))
        clients.append(streams[-1].client())
    return streams, clients


# Requests -----------------------------------------------------------------------------------------


@contextmanager
def connection_to(url: str) -> Iterator[http.client.HTTPConnection]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    with closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=10.0)) as one:
        yield one


def told(answer: Answer) -> tuple[int, bytes]:
    """The status and the sentence of a refusal."""
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    return answer.status, answer.body


def head_of(url: str, path: str, *lines: str) -> bytes:
    """The head of a POST with an API key."""
    head = [f"POST {path_of(url, path)} HTTP/1.1", "Host: localhost", f"X-API-Key: {API_KEY}"]
    return "\r\n".join([*head, *lines, "", ""]).encode()


def broken_off(url: str, path: str, length: str, begun: bytes, *, reset: bool) -> bytes:
    """Leave within a body, with FIN or RST, and give what was answered if that can be heard."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port or 80), timeout=10.0) as connection:
        connection.sendall(head_of(url, path, length, "Expect: 100-continue"))
        # The app reads by now: otherwise it might never hear of a request that is taken back.
        assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
        connection.sendall(begun)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return b""
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        # Some say twice that they read.
        return answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")


def path_of(url: str, path: str) -> str:
    return urlsplit(url).path + path


def answer_of(connection: http.client.HTTPConnection) -> Answer:
    response = connection.getresponse()
    return Answer(response.status, dict(response.getheaders()), response.read())
