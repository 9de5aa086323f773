"""Starlette: routes among an app's own, and a lifespan alone or inside of the app's own."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from tests.adapters.apps import TARGETS
from tests.adapters.serving import ENVIRONMENT, SHUTDOWN, new_user, token
from tests.conftest import Serve
from tests.http.exchange import Connection, Exchange, scope, sessions_held
from tests.servers import python
from tests.streams import ask, open_stream
from usersessions import AsyncUserSessions, ConfigError, ConnectRefused, Disconnect, Identity
from usersessions.adapters.starlette import close_websocket, lifespan, routes

KEY = "the-key-of-the-server-api"


def make(**settings: Any) -> tuple[AsyncUserSessions, Starlette]:
    sessions = AsyncUserSessions(connect_proxy=lambda request: Identity("42"))
    app = Starlette(routes=routes(sessions, **settings), lifespan=lifespan(sessions))
    return sessions, app


def test_the_routes_are_those_of_the_server_api_and_the_streams() -> None:
    found = routes(AsyncUserSessions())
    assert [type(route) for route in found] == [Route] * 6 + [WebSocketRoute]
    assert [getattr(route, "path", None) for route in found] == [
        "/api",
        "/api/{method}",
        "/sessions",
        "/sessions/{client}",
        "/connection/uni_http_stream",
        "/connection/uni_sse",
        "/connection/uni_websocket",
    ]


def test_settings_are_checked_when_the_routes_are_made() -> None:
    sessions = AsyncUserSessions()
    with pytest.raises(ConfigError):
        routes(sessions, api_keys=["short"])
    with pytest.raises(ConfigError):
        routes(sessions, ping_interval=0)
    with pytest.raises(ConfigError):
        routes(sessions, allowed_origins=["*"])


def test_without_starlette_the_adapter_says_what_to_install() -> None:
    script = """
import sys
sys.modules["starlette"] = None
from usersessions import MissingExtraError
try:
    import usersessions.adapters.starlette
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run(python("-c", script), capture_output=True, text=True, check=True)
    assert done.stdout == (
        'starlette is not installed; run: pip install "usersessions[starlette]"\n'
    )


@pytest.mark.anyio
async def test_settings_reach_the_app() -> None:
    sessions, app = make(api_keys=[KEY], ping_interval=7, allowed_origins=["https://a.example"])
    headers = [(b"origin", b"https://a.example"), (b"host", b"b.example")]
    connection = Connection(app, "uni_sse", {}, headers=headers)
    assert (await connection.frame(0))["connect"]["ping"] == 7
    listing = Exchange(
        app,
        scope("/api/user_connections", headers=[(b"x-api-key", KEY.encode())]),
        [{"type": "http.request", "body": b'{"user": "42"}'}],
    )
    assert (await listing.message(0))["status"] == 200
    assert b"uni_sse" in (await listing.message(1))["body"]
    await listing.end()
    connection.leave()
    await connection.end()
    assert sessions_held(sessions) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("kind", Connection.KINDS)
async def test_the_lifespan_ends_the_sessions(kind: str) -> None:
    sessions, app = make()
    async with lifespan(sessions)(app):
        connection = Connection(app, kind, {})
        await connection.frame(0)
    await connection.end()
    assert connection.frames[1:] == [{"disconnect": {"code": 3001, "reason": "shutdown"}}]
    assert sessions_held(sessions) == 0


@pytest.mark.anyio
async def test_mounted_routes_are_served_under_their_prefix() -> None:
    sessions = AsyncUserSessions(connect_proxy=lambda request: Identity("42"))
    app = Starlette(routes=[Mount("/a", routes=[Mount("/b", routes=routes(sessions))])])
    for path, status in (("/a/b/api", 401), ("/a/b/api/list", 401), ("/api", 404)):
        exchange = Exchange(app, scope(path), [{"type": "http.request"}])
        assert (await exchange.message(0))["status"] == status
        await exchange.end()


@pytest.mark.anyio
async def test_a_lifespan_of_the_apps_own_may_hold_ours_and_its_own_state() -> None:
    sessions = AsyncUserSessions()
    order: list[str] = []

    @asynccontextmanager
    async def own(app: Starlette) -> AsyncGenerator[dict[str, str], None]:
        order.append("start")
        async with lifespan(sessions)(app):
            yield {"database": "open"}
        order.append(f"end, {sessions_held(sessions)} held")

    app = Starlette(routes=routes(sessions), lifespan=own)
    given = scope("", kind="lifespan")
    given["state"] = {}
    serving = Exchange(app, given, [{"type": "lifespan.startup"}])
    await serving.message(0)
    assert given["state"] == {"database": "open"}
    serving.push({"type": "lifespan.shutdown"})
    await serving.end()
    assert [message["type"] for message in serving.sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert order == ["start", "end, 0 held"]


@pytest.mark.parametrize("name", ["starlette, mounted routes", "starlette, mounted app"])
def test_a_server_runs_the_apps_own_lifespan_around_ours(name: str, serve: Serve) -> None:
    target = TARGETS[name]
    server = serve(target.command, env=ENVIRONMENT)
    with open_stream(
        server.url + target.prefix, "uni_http_stream", {"token": token(new_user())}
    ) as stream:
        stream.client()
        server.process.send_signal(signal.SIGTERM)
        assert stream.frames() == [SHUTDOWN]
    server.process.wait(5.0)
    assert server.output.index("the app's own start") < server.output.index("the app's own end")


def test_the_apps_own_routes_and_middleware_work_beside_ours(serve: Serve) -> None:
    server = serve(TARGETS["starlette, mounted routes"].command, env=ENVIRONMENT)
    assert ask(server.url, "/page", method="GET").body == b"the app's own"
    stamped = serve(TARGETS["starlette, middleware"].command, env=ENVIRONMENT)
    assert ask(stamped.url, "/api").headers["x-stamp"] == "stamped"
    with open_stream(stamped.url, "uni_sse", {"token": token(new_user())}) as stream:
        assert stream.head.headers["x-stamp"] == "stamped"
        stream.client()


class LeavingWebSocket:
    """A WebSocket whose client may have left."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.closed: list[tuple[int, str]] = []

    async def close(self, code: int, reason: str) -> None:
        if self.error is not None:
            raise self.error
        self.closed.append((code, reason))


@pytest.mark.anyio
@pytest.mark.parametrize("why", [Disconnect(4001, "bye"), ConnectRefused(4001, "bye")])
@pytest.mark.parametrize("error", [None, WebSocketDisconnect(1006), RuntimeError("closed already")])
async def test_a_websocket_is_closed_with_code_and_reason_also_where_its_client_left(
    why: Disconnect | ConnectRefused, error: Exception | None
) -> None:
    websocket = LeavingWebSocket(error)
    await close_websocket(websocket, why)  # type: ignore[arg-type]  # all of it that is used
    assert websocket.closed == ([] if error else [(4001, "bye")])
