"""The whole app in this process: what is served where, its own lifespan, and its settings."""

from __future__ import annotations

import pytest

from tests.http.exchange import Connection, Exchange, scope, sessions_held
from tests.secrecy import said
from usersessions import AsyncUserSessions, ConfigError, Identity, InvalidValue
from usersessions.http.app import UserSessionsApp
from usersessions.http.endpoints import PATHS, WEBSOCKET_PATH

pytestmark = pytest.mark.anyio

KEY = "the-key-of-the-server-api"
LIST = b'{"method": "user_connections", "params": {"user": "42"}}'
BODY = [{"type": "http.request", "body": LIST}]


def make() -> tuple[AsyncUserSessions, UserSessionsApp]:
    sessions = AsyncUserSessions(connect_proxy=lambda request: Identity("42"))
    return sessions, UserSessionsApp(sessions, api_keys=[KEY])


async def status(
    path: str,
    *,
    root_path: str | None = None,
    raw_path: bytes | None = None,
    method: str = "POST",
    key: str = KEY,
) -> int:
    """The status that the app answers with, to a command or connect request of a client."""
    _, app = make()
    given = scope(path, method=method, headers=[(b"x-api-key", key.encode())], root_path=root_path)
    if raw_path is not None:
        given["raw_path"] = raw_path
    exchange = Exchange(app, given, BODY)
    head = await exchange.message(0)
    if "/uni_" in path:
        exchange.push({"type": "http.disconnect"})
    await exchange.end()
    number: int = head["status"]
    return number


async def test_a_command_is_answered_over_http() -> None:
    _, app = make()
    exchange = Exchange(app, scope("/api", headers=[(b"x-api-key", KEY.encode())]), BODY)
    await exchange.end()
    assert exchange.sent == [
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"29")],
        },
        {"type": "http.response.body", "body": b'{"result":{"connections":{}}}'},
    ]


async def test_a_key_in_the_query_is_taken() -> None:
    _, app = make()
    exchange = Exchange(app, scope("/api", query=b"api_key=" + KEY.encode()), BODY)
    assert (await exchange.message(0))["status"] == 200
    await exchange.end()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api", 200),
        ("/api/", 404),
        ("/sessions/", 404),
        ("/api/user_connections", 200),
        ("/api/batch", 200),
        ("/api/no\xe9such", 200),
        ("/connection/uni_http_stream", 200),
        ("/connection/uni_sse", 200),
        ("/connection/uni_websocket", 404),
        ("/connection/uni_sse/", 404),
        ("/connection", 404),
        ("/api/a/b", 404),
        ("/apis", 404),
        ("/API", 404),
        ("//api", 404),
        ("/", 404),
        ("", 404),
        ("*", 404),
    ],
)
async def test_each_path_is_served_or_is_404(path: str, expected: int) -> None:
    assert await status(path) == expected


@pytest.mark.parametrize(
    ("root_path", "path", "expected"),
    [
        ("/rt", "/rt/api", 200),
        ("/rt", "/rt/api/user_connections", 200),
        ("/rt", "/rt/connection/uni_sse", 200),
        ("/rt/", "/rt//api", 200),
        ("/rt", "/api", 200),
        ("/api", "/api/api", 200),
        ("/api", "/api/user_connections", 404),
        ("/api", "/api", 404),
        ("/rt", "/rtapi", 404),
        ("/rt", "/rt", 404),
        ("/rt", "/rt/rt/api", 404),
        ("", "/api", 200),
    ],
)
async def test_a_mount_point_is_no_part_of_the_path(
    root_path: str, path: str, expected: int
) -> None:
    assert await status(path, root_path=root_path) == expected


@pytest.mark.parametrize(
    ("path", "raw_path", "expected"),
    [
        ("/api/user_connections/", b"/rt/api/user_connections", 200),
        ("/api/user_connections", b"/rt/api/user_connections/", 404),
        ("/api", b"/api/", 404),
        ("/api/", b"/api/", 404),
        ("/api", b"/api", 200),
        ("/api", b"", 200),
        ("", b"/rt", 404),
        ("/api/", b"/api%2F", 404),
        ("/api/", b"/api%2f", 404),
        ("/api", b"/api%2F", 404),
        ("/api/info", b"/api/info%3F", 200),
    ],
)
async def test_a_slash_that_a_router_adds_or_drops_makes_no_difference(
    path: str, raw_path: bytes, expected: int
) -> None:
    assert await status(path, raw_path=raw_path) == expected


async def test_what_cannot_be_read_is_refused_with_a_status() -> None:
    assert await status("/connection/uni_http_stream", method="GET") == 405
    assert await status("/api", method="GET") == 405
    assert await status("/api", key="wrong") == 401


async def test_a_malformed_connect_request_gets_400_and_no_stream() -> None:
    sessions, app = make()
    exchange = Exchange(app, scope("/connection/uni_sse"), [{"type": "http.request", "body": b"{"}])
    await exchange.end()
    assert exchange.sent[0]["status"] == 400
    assert not exchange.sent[1].get("more_body")
    assert sessions_held(sessions) == 0


async def test_a_websocket_elsewhere_is_turned_away_before_it_is_accepted() -> None:
    _, app = make()
    for path in ("/connection/uni_sse", "/api", "/"):
        exchange = Exchange(app, scope(path, kind="websocket"), [{"type": "websocket.connect"}])
        await exchange.end()
        assert exchange.sent == [{"type": "websocket.close"}]


async def test_a_websocket_to_nobody_is_no_error() -> None:
    _, app = make()
    given = scope("/elsewhere", kind="websocket")
    exchange = Exchange(app, given, [{"type": "websocket.connect"}], fails_at=0)
    await exchange.end()
    assert exchange.sent == []


def test_the_paths_for_routers_are_those_that_are_served() -> None:
    assert PATHS == (
        "/api",
        "/api/{method}",
        "/sessions",
        "/sessions/{client}",
        "/connection/uni_http_stream",
        "/connection/uni_sse",
    )
    assert WEBSOCKET_PATH == "/connection/uni_websocket"


async def test_its_own_lifespan_ends_the_sessions() -> None:
    sessions, app = make()
    lifespan = Exchange(app, scope("", kind="lifespan"), [{"type": "lifespan.startup"}])
    assert await lifespan.message(0) == {"type": "lifespan.startup.complete"}
    connection = Connection(app, "uni_sse", {})
    await connection.frame(0)
    lifespan.push({"type": "lifespan.shutdown"})
    await lifespan.end()
    assert lifespan.sent[1:] == [{"type": "lifespan.shutdown.complete"}]
    await connection.end()
    assert connection.frames[1:] == [{"disconnect": {"code": 3001, "reason": "shutdown"}}]
    assert sessions_held(sessions) == 0


@pytest.mark.parametrize("interval", [1, 60, 3600])
async def test_the_ping_interval_is_told_to_the_client(interval: int) -> None:
    sessions = AsyncUserSessions(connect_proxy=lambda request: Identity("42"))
    app = UserSessionsApp(sessions, ping_interval=interval)
    connection = Connection(app, "uni_sse", {})
    assert (await connection.frame(0))["connect"]["ping"] == interval
    connection.leave()
    await connection.end()


@pytest.mark.parametrize("hops", [-1, 1.5, "1", None])
def test_a_number_of_proxies_out_of_bounds_is_refused(hops: object) -> None:
    with pytest.raises(ConfigError, match="trusted_hops must be a whole number of proxies"):
        UserSessionsApp(AsyncUserSessions(), trusted_hops=hops)  # type: ignore[arg-type]


@pytest.mark.parametrize("interval", [0, -1, 3601, 2.5, "25", None, True])
def test_a_ping_interval_out_of_bounds_is_refused(interval: object) -> None:
    with pytest.raises(ConfigError, match="ping_interval must be a whole number of seconds"):
        UserSessionsApp(AsyncUserSessions(), ping_interval=interval)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:8000",
        "https://app.example.com",
        "HTTPS://App.Example.com",
        "http://[::1]:3000",
        "chrome-extension://abcdef",
    ],
)
def test_an_allowed_origin_is_a_scheme_and_a_host(origin: str) -> None:
    UserSessionsApp(AsyncUserSessions(), allowed_origins=[origin])


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "*",
        "null",
        "app.example.com",
        "//app.example.com",
        "https://",
        "https://app.example.com/",
        "https://app.example.com?a",
        "https://app.example.com#a",
        "https://user:swordfish@app.example.com",
        "https://app.example.com\n",
        "https://b\xfccher.example",
        "https://app.example.com:443",
        "http://app.example.com:80",
        " https://app.example.com",
        "http:\\\\app",
        "\xe9://app",
        b"https://app.example.com",
        None,
        42,
    ],
)
def test_an_allowed_origin_that_no_browser_would_send_is_refused(origin: object) -> None:
    with pytest.raises(ConfigError, match="an entry of allowed_origins") as refusal:
        UserSessionsApp(AsyncUserSessions(), allowed_origins=[origin])  # type: ignore[list-item]
    assert "swordfish" not in said(refusal.value)


def test_one_string_is_no_list_of_origins_or_keys() -> None:
    with pytest.raises(ConfigError, match="a list of strings, not one string"):
        UserSessionsApp(AsyncUserSessions(), allowed_origins="https://app.example.com")
    with pytest.raises(ConfigError, match="a list of strings, not one string"):
        UserSessionsApp(AsyncUserSessions(), api_keys=KEY)


def test_a_key_out_of_bounds_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as refusal:
        UserSessionsApp(AsyncUserSessions(), api_keys=["swordfish"])
    assert not isinstance(refusal.value, InvalidValue)
    assert "swordfish" not in said(refusal.value)


@pytest.mark.parametrize("path", ["/connection/uni_websocket", "/nowhere"])
async def test_the_query_of_a_websocket_is_not_there_when_servers_write_their_logs(
    path: str,
) -> None:
    _, app = make()
    exchange = Exchange(
        app,
        scope(path, kind="websocket", query=b"access_token=swordfish"),
        [{"type": "websocket.connect"}],
    )
    await exchange.message(0)
    assert exchange.scope["query_string"] == b""
    exchange.push({"type": "websocket.disconnect"})
    await exchange.end()
