"""Starlette: routes among an app's own, and a lifespan alone or inside of the app's own."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.adapters.apps.shared import SECRET
from tests.adapters.apps.targets import TARGETS
from tests.adapters.serving import ENVIRONMENT, SHUTDOWN, new_user, token
from tests.conftest import Serve
from tests.http.exchange import Connection, Exchange, scope, sessions_held, settle
from tests.servers import python
from tests.standins import TellsAndFails
from tests.streams import ask, open_stream
from usersessions import (
    AsyncSession,
    AsyncUserSessions,
    ConfigError,
    ConnectRefused,
    Disconnect,
    Identity,
    Key,
    SessionLimit,
    TokenVerifier,
    callbacks,
)
from usersessions.adapters import starlette
from usersessions.adapters.starlette import (
    close_websocket,
    current_identity,
    lifespan,
    routes,
    track,
)
from usersessions.http import aio
from usersessions.http.asgi import Message

KEY = "the-key-of-the-server-api"


def make(**settings: Any) -> tuple[AsyncUserSessions, Starlette]:
    sessions = AsyncUserSessions(connect_proxy=lambda request: Identity("42"))
    app = Starlette(routes=routes(sessions, **settings), lifespan=lifespan(sessions))
    return sessions, app


def test_the_routes_are_those_of_the_server_api_and_the_streams() -> None:
    found = routes(AsyncUserSessions())
    assert [type(route) for route in found] == [Route] * 7 + [WebSocketRoute]
    assert [getattr(route, "path", None) for route in found] == [
        "/api",
        "/api/{method}",
        "/sessions",
        "/sessions/{client}",
        "/connection/uni_http_stream",
        "/connection/uni_sse",
        "/sessions/",
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


# Who asks, and the app's own WebSockets -----------------------------------------------------------


@pytest.mark.anyio
async def test_a_tracked_websocket_is_listed_as_what_it_is_and_closed_with_code_and_reason() -> (
    None
):
    sessions = AsyncUserSessions()

    async def own(websocket: WebSocket) -> None:
        identity = Identity("42", meta={"plan": "pro"})
        async with track(
            websocket, sessions, who=identity, subprotocol="v1", app_name="web", app_version="2"
        ) as session:
            await websocket.send_text(session.client)
            await websocket.receive_text()
        await settle()

    app = Starlette(routes=[WebSocketRoute("/own", own)])
    exchange = Exchange(app, scope("/own", kind="websocket"), [{"type": "websocket.connect"}])
    client = (await exchange.message(1))["text"]
    assert exchange.sent[0]["subprotocol"] == "v1"
    ((listed, info),) = (await sessions.user_connections("42")).items()
    assert (listed, info.app_name, info.app_version) == (client, "web", "2")
    assert (info.transport, info.meta) == ("websocket", {"plan": "pro"})
    await sessions.disconnect("42", code=4001, reason="moved", timeout=0)
    assert await exchange.message(2) == {
        "type": "websocket.close",
        "code": 4001,
        "reason": "moved",
    }
    exchange.push({"type": "websocket.disconnect", "code": 4001})
    await exchange.end()
    assert sessions_held(sessions) == 0


@pytest.mark.anyio
async def test_a_websocket_that_a_foreign_page_opens_is_refused_whomever_the_app_says() -> None:
    sessions = AsyncUserSessions()

    async def own(websocket: WebSocket) -> None:
        async with track(websocket, sessions, who="42", allowed_origins=["https://a.example"]):
            raise AssertionError("it was let in")

    app = Starlette(routes=[WebSocketRoute("/own", own)])
    headers = [(b"origin", b"https://evil.example"), (b"host", b"b.example")]
    exchange = Exchange(
        app, scope("/own", kind="websocket", headers=headers), [{"type": "websocket.connect"}]
    )
    await exchange.end()
    assert exchange.sent[1:] == [
        {"type": "websocket.close", "code": 3507, "reason": "permission denied"}
    ]


@pytest.mark.anyio
async def test_a_websocket_that_is_told_to_end_before_it_is_accepted_is_closed_after_that() -> None:
    sessions = AsyncUserSessions(limit=SessionLimit(1, policy="evict_oldest"))

    async def own(websocket: WebSocket) -> None:
        async with track(websocket, sessions, who="42"):
            await websocket.receive_text()

    app = Starlette(routes=[WebSocketRoute("/own", own)])
    opened: list[Message] = [{"type": "websocket.connect"}]
    first = Exchange(app, scope("/own", kind="websocket"), opened)
    second = Exchange(app, scope("/own", kind="websocket"), opened)
    for exchange in (first, second):
        await exchange.message(0)
    assert (await first.message(1))["code"] == 3504
    for exchange in (first, second):
        assert exchange.sent[0]["type"] == "websocket.accept"
        exchange.push({"type": "websocket.disconnect", "code": 1000})
        await exchange.end()
    assert sessions_held(sessions) == 0


@pytest.mark.anyio
async def test_nothing_waits_for_a_websocket_that_is_given_up_before_it_is_accepted() -> None:
    is_in = asyncio.Event()

    async def never_done(session: AsyncSession) -> None:
        is_in.set()
        await asyncio.Event().wait()

    sessions = AsyncUserSessions(on_connect=never_done)

    async def own(websocket: WebSocket) -> None:
        async with track(websocket, sessions, who="42"):
            raise AssertionError("it was accepted")

    app = Starlette(routes=[WebSocketRoute("/own", own)])
    exchange = Exchange(app, scope("/own", kind="websocket"), [{"type": "websocket.connect"}])
    await is_in.wait()
    running = set(callbacks._running)
    await sessions.disconnect("42", timeout=0)
    await settle()
    (closing,) = callbacks._running - running
    exchange.task.cancel()
    await asyncio.wait((exchange.task, closing), timeout=5.0)
    assert closing.done()
    assert (exchange.sent, sessions_held(sessions)) == ([], 0)


@pytest.mark.anyio
async def test_a_websocket_that_is_told_to_end_and_refused_as_well_is_accepted_first() -> None:
    sessions = AsyncUserSessions(store=TellsAndFails())

    async def own(websocket: WebSocket) -> None:
        async with track(websocket, sessions, who="42"):
            raise AssertionError("it was let in")

    app = Starlette(routes=[WebSocketRoute("/own", own)])
    exchange = Exchange(app, scope("/own", kind="websocket"), [{"type": "websocket.connect"}])
    running = set(callbacks._running)
    await exchange.end()
    await settle()
    assert [(message["type"], message.get("code")) for message in exchange.sent] == [
        ("websocket.accept", None),
        ("websocket.close", 3004),
    ]
    assert callbacks._running <= running


@pytest.mark.anyio
async def test_where_nobody_runs_a_lifespan_the_first_websocket_has_signals_heard() -> None:
    sessions = AsyncUserSessions()
    heard: list[int] = []

    async def own(websocket: WebSocket) -> None:
        async with track(websocket, sessions, who="42"):
            await websocket.receive_text()

    # The lifespan of an app that is mounted is run by nobody.
    mounted = Starlette(routes=[WebSocketRoute("/own", own)], lifespan=lifespan(sessions))
    app = Starlette(routes=[Mount("/v1", mounted)])
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        exchange = Exchange(
            app, scope("/v1/own", kind="websocket"), [{"type": "websocket.connect"}]
        )
        await exchange.message(0)
        signal.raise_signal(signal.SIGTERM)
        assert heard == []
        told = await exchange.message(1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told == {"type": "websocket.close", "code": 3001, "reason": "shutdown"}
    exchange.push({"type": "websocket.disconnect", "code": 3001})
    await exchange.end()


@pytest.mark.anyio
async def test_an_endpoint_knows_who_asks_or_answers_401() -> None:
    sessions = AsyncUserSessions(TokenVerifier(Key(SECRET, algorithm="HS256")))

    async def me(request: Request) -> PlainTextResponse:
        return PlainTextResponse((await current_identity(request, sessions)).user)

    app = Starlette(routes=[Route("/me", me)])
    for authorization, status in ((f"Bearer {token('42')}", 200), ("Bearer no", 401), ("", 401)):
        headers = [(b"authorization", authorization.encode())]
        exchange = Exchange(app, scope("/me", method="GET", headers=headers))
        await exchange.end()
        assert exchange.sent[0]["status"] == status
        challenge = dict(exchange.sent[0]["headers"]).get(b"www-authenticate")
        assert challenge == (None if status == 200 else b"Bearer")


async def tracked(
    block: Callable[[WebSocket, AsyncSession], Awaitable[None]], **options: Any
) -> Any:
    """An app whose WebSocket is tracked, opened by one client; and what comes after its block."""
    sessions = AsyncUserSessions()
    ended: list[str] = []

    async def own(websocket: WebSocket) -> None:
        async with track(websocket, sessions, who="42") as session:
            await block(websocket, session)
        ended.append("after the block")

    app = Starlette(routes=[WebSocketRoute("/own", own)])
    exchange = Exchange(
        app, scope("/own", kind="websocket"), [{"type": "websocket.connect"}], **options
    )
    await exchange.message(0)
    await settle()
    return sessions, exchange, ended


FORCED = {"type": "websocket.close", "code": 3503, "reason": "force disconnect"}


@pytest.mark.anyio
@pytest.mark.parametrize("use", ["send", "receive"])
async def test_a_block_that_is_busy_when_its_session_ends_just_ends(use: str) -> None:
    go_on = asyncio.Event()

    async def busy(websocket: WebSocket, session: AsyncSession) -> None:
        await go_on.wait()
        if use == "send":
            await websocket.send_text("too late")
        else:
            await websocket.receive_text()
        raise AssertionError("it went on")

    sessions, exchange, ended = await tracked(busy)
    await sessions.disconnect("42", timeout=0)
    await settle()
    exchange.push({"type": "websocket.disconnect", "code": 3503})
    go_on.set()
    await exchange.end()
    assert exchange.sent[1:] == [FORCED]
    assert (ended, sessions_held(sessions)) == (["after the block"], 0)


@pytest.mark.anyio
async def test_a_client_that_does_not_read_cannot_keep_its_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aio, "SEND_TIMEOUT", 0.05)

    async def send(websocket: WebSocket, session: AsyncSession) -> None:
        await websocket.send_text("nobody reads this")

    sessions, exchange, ended = await tracked(send, blocks_at=1)
    assert sessions_held(sessions) == 1
    await sessions.block_user("42", timeout=0)
    await exchange.end()
    assert (ended, sessions_held(sessions)) == (["after the block"], 0)
    assert len(exchange.sent) == 1


@pytest.mark.anyio
async def test_a_session_that_is_told_as_its_block_ends_is_closed_with_the_code() -> None:
    async def leave(websocket: WebSocket, session: AsyncSession) -> None:
        session.tell(Disconnect(3503, "force disconnect"))

    _, exchange, _ = await tracked(leave)
    await exchange.end()
    assert exchange.sent[1:] == [FORCED]


@pytest.mark.anyio
async def test_errors_of_a_block_are_its_own() -> None:
    async def fail(websocket: WebSocket, session: AsyncSession) -> None:
        raise RuntimeError("the app's own")

    with pytest.raises(RuntimeError, match="the app's own"):
        await (await tracked(fail))[1].end()


@pytest.mark.anyio
async def test_errors_of_a_block_are_its_own_after_its_session_was_told_to_end_as_well() -> None:
    async def fail(websocket: WebSocket, session: AsyncSession) -> None:
        try:
            await websocket.receive_text()
        finally:
            raise RuntimeError("the app's own")

    sessions, exchange, _ = await tracked(fail)
    await sessions.disconnect("42", timeout=0)
    assert await exchange.message(1) == FORCED
    exchange.push({"type": "websocket.disconnect", "code": 3503})
    with pytest.raises(RuntimeError, match="the app's own"):
        await exchange.end()


@pytest.mark.anyio
async def test_a_block_that_does_not_use_its_websocket_is_ended_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starlette, "END_TIMEOUT", 0.05)

    async def push(websocket: WebSocket, session: AsyncSession) -> None:
        await asyncio.Event().wait()

    sessions, exchange, ended = await tracked(push)
    result = await sessions.disconnect("42")
    assert len(result.closed) == 1
    await exchange.end()
    assert exchange.sent[1:] == [FORCED]
    assert (ended, sessions_held(sessions)) == (["after the block"], 0)


@pytest.mark.anyio
@pytest.mark.parametrize("is_told", [False, True])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_client_that_leaves_tasks_of_a_group_is_no_error(
    is_told: bool, fails: bool
) -> None:
    go_on = asyncio.Event()

    async def read(websocket: WebSocket) -> None:
        try:
            await websocket.receive_text()
        finally:
            if fails:
                raise LookupError("the app's own")

    async def write(websocket: WebSocket) -> None:
        await go_on.wait()
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(0)
            await websocket.send_text("too late")

    async def block(websocket: WebSocket, session: AsyncSession) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(read, websocket)
            group.start_soon(write, websocket)

    sessions, exchange, ended = await tracked(block, fails_at=None if is_told else 1)
    if is_told:
        await sessions.disconnect("42", timeout=0)
        assert await exchange.message(1) == FORCED
    exchange.push({"type": "websocket.disconnect", "code": 1001})
    go_on.set()
    if fails:
        with pytest.raises(Exception, match="unhandled errors") as raised:
            await exchange.end()
        assert [type(one) for one in raised.value.exceptions] == [LookupError]  # type: ignore[attr-defined]
    else:
        await exchange.end()
    assert (ended, sessions_held(sessions)) == ([] if fails else ["after the block"], 0)
