"""The whole app around another one: what is whose, and how the other starts and ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.http.exchange import Connection, Exchange, scope, sessions_held
from usersessions import AsyncUserSessions, ConfigError, Identity, UserSessions
from usersessions.http.app import UserSessionsApp
from usersessions.http.asgi import Receive, Scope, Send
from usersessions.http.tracking import TrackWebSockets
from usersessions.http.wsgi import Environ, StartResponse, UserSessionsWSGI

pytestmark = pytest.mark.anyio

STARTUP = {"type": "lifespan.startup"}
SHUTDOWN = {"type": "lifespan.shutdown"}
STARTED = {"type": "lifespan.startup.complete"}
ENDED = {"type": "lifespan.shutdown.complete"}

PATHS = [
    ("/api", True),
    ("/api/info", True),
    ("/sessions", True),
    ("/sessions/c1", True),
    ("/sessions/", True),
    ("/connection/uni_sse", True),
    ("/connection/uni_http_stream", True),
    ("/connection/uni_websocket", True),
    ("", False),
    ("/", False),
    ("/me", False),
    ("/apiary", False),
    ("/api/", False),
    ("/api/a/b", False),
    ("/sessions/c1/more", False),
    ("/connection/uni_sse/", False),
    ("/connection", False),
    ("/live/api", False),
]


def make() -> AsyncUserSessions:
    return AsyncUserSessions(connect_proxy=lambda request: Identity("42"))


async def shop(scope: Scope, receive: Receive, send: Send) -> None:
    """An app without a lifespan: it answers to whatever is there as if it were a request."""
    scope["seen"] = scope["query_string"]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 4000})
        return
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b"shop"})


# What is whose ------------------------------------------------------------------------------------


async def answered(path: str, *, prefix: str = "", root_path: str | None = None) -> bool:
    """Whether a path is answered by the library."""
    app = UserSessionsApp(make(), inner=shop, prefix=prefix)
    exchange = Exchange(app, scope(path, root_path=root_path), [{"type": "http.request"}])
    status = (await exchange.message(0))["status"]
    exchange.push({"type": "http.disconnect"})
    await exchange.end()
    return bool(status != 299)


@pytest.mark.parametrize(("path", "is_ours"), PATHS)
async def test_the_inner_app_has_every_other_path(path: str, is_ours: bool) -> None:
    assert await answered(path) is is_ours
    assert await answered(f"/live{path}", prefix="/live") is is_ours
    assert await answered(f"/rt{path}", root_path="/rt") is is_ours
    if not path.startswith("/live"):
        assert not await answered(path, prefix="/live")


@pytest.mark.parametrize(("path", "is_ours"), PATHS)
def test_over_wsgi_it_has_every_other_path_as_well(path: str, is_ours: bool) -> None:
    def inner(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return [b"shop"]

    def answered(path: str, prefix: str) -> Iterable[bytes]:
        environ: Environ = {"PATH_INFO": path, "REQUEST_METHOD": "PATCH", "QUERY_STRING": ""}
        app = UserSessionsWSGI(UserSessions(), inner=inner, prefix=prefix)
        return app(environ, lambda *head: lambda data: None)

    assert (answered(path, "") != [b"shop"]) is is_ours
    assert (answered(f"/live{path}", "/live") != [b"shop"]) is is_ours
    if not path.startswith("/live"):
        assert answered(path, "/live") == [b"shop"]


@pytest.mark.parametrize("path", ["/api", "/live", "/live/", "/live/nothing", "/"])
async def test_alone_under_a_prefix_there_is_nothing_elsewhere(path: str) -> None:
    app = UserSessionsApp(make(), prefix="/live")
    exchange = Exchange(app, scope(path), [{"type": "http.request"}])
    assert (await exchange.message(0))["status"] == 404
    await exchange.end()
    environ: Environ = {"PATH_INFO": path, "REQUEST_METHOD": "POST", "QUERY_STRING": ""}
    head: list[Any] = []
    UserSessionsWSGI(UserSessions(), prefix="/live")(environ, lambda *said: head.append(said))  # type: ignore[arg-type]
    assert head[0][0] == "404 Not Found"


@pytest.mark.parametrize("prefix", ["live", "/live/", "/", "//", "/live?x", "/%61"])
def test_a_prefix_is_a_path_without_a_slash_at_its_end(prefix: str) -> None:
    with pytest.raises(ConfigError, match="/live"):
        UserSessionsApp(AsyncUserSessions(), prefix=prefix)
    with pytest.raises(ConfigError, match="/live"):
        UserSessionsWSGI(UserSessions(), prefix=prefix)


def test_sessions_of_the_other_kind_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="ASGI takes an AsyncUserSessions"):
        UserSessionsApp(UserSessions())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="WSGI takes a UserSessions"):
        UserSessionsWSGI(AsyncUserSessions())  # type: ignore[arg-type]


async def test_a_stream_and_a_websocket_of_the_inner_apps_own_are_served_side_by_side() -> None:
    sessions = make()

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    app = UserSessionsApp(sessions, inner=TrackWebSockets(echo, sessions))
    stream = Connection(app, "uni_websocket", {})
    await stream.frame(0)
    own = Exchange(app, scope("/echo", kind="websocket"), [{"type": "websocket.connect"}])
    await own.message(0)
    assert sessions_held(sessions) == 2
    for one in (stream, own):
        one.push({"type": "websocket.disconnect", "code": 1000})
        await one.end()
    assert sessions_held(sessions) == 0


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_inner_app_sees_a_token_that_the_servers_log_is_spared(kind: str) -> None:
    seen: list[bytes] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["query_string"])

    app = UserSessionsApp(make(), inner=inner)
    exchange = Exchange(app, scope("/echo", kind=kind, query=b"a=1&access_token=swordfish"))
    await exchange.end()
    assert seen == [b"a=1&access_token=swordfish"]
    assert exchange.scope["query_string"] == b"a=1"


# Its start and its end ----------------------------------------------------------------------------


async def started(app: UserSessionsApp) -> tuple[Exchange, Connection]:
    """A lifespan that has begun, and a stream that is open."""
    lifespan = Exchange(app, scope("", kind="lifespan"), [STARTUP])
    assert await lifespan.message(0) == STARTED
    stream = Connection(app, "uni_sse", {})
    await stream.frame(0)
    return lifespan, stream


async def test_the_sessions_end_before_the_inner_app_does() -> None:
    sessions = make()
    held: list[int] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == STARTUP
        scope["state"]["pool"] = "open"
        await send(STARTED)
        assert await receive() == SHUTDOWN
        held.append(sessions_held(sessions))
        await send(ENDED)

    app = UserSessionsApp(sessions, inner=inner)
    given = {**scope("", kind="lifespan"), "state": {}}
    lifespan = Exchange(app, given, [STARTUP])
    assert await lifespan.message(0) == STARTED
    assert given["state"] == {"pool": "open"}
    stream = Connection(app, "uni_sse", {})
    await stream.frame(0)
    lifespan.push(SHUTDOWN)
    await lifespan.end()
    assert (lifespan.sent, held) == ([STARTED, ENDED], [0])
    await stream.end()
    assert stream.frames[1:] == [{"disconnect": {"code": 3001, "reason": "shutdown"}}]


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError(f"what is {scope['type']}?")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})


async def returns(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def returns_later(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


@pytest.mark.parametrize("inner", [shop, echo, raises, returns, returns_later])
async def test_an_inner_app_without_a_lifespan_does_no_harm(inner: Any) -> None:
    sessions = make()
    app = UserSessionsApp(sessions, inner=inner)
    lifespan, stream = await started(app)
    lifespan.push(SHUTDOWN)
    await lifespan.end()
    assert lifespan.sent == [STARTED, ENDED]
    await stream.end()
    assert stream.frames[1:] == [{"disconnect": {"code": 3001, "reason": "shutdown"}}]


async def test_an_inner_app_that_cannot_start_says_so() -> None:
    failed = {"type": "lifespan.startup.failed", "message": "no pool"}

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(failed)
        raise OSError("no pool")

    lifespan = Exchange(UserSessionsApp(make(), inner=inner), scope("", kind="lifespan"), [STARTUP])
    with pytest.raises(OSError, match="no pool"):
        await lifespan.end()
    assert lifespan.sent == [failed]


async def test_an_inner_app_that_fails_as_it_starts_is_no_app_without_a_lifespan() -> None:
    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise OSError("no pool")

    app = UserSessionsApp(make(), inner=inner)
    lifespan = Exchange(app, scope("", kind="lifespan"), [STARTUP])
    with pytest.raises(OSError, match="no pool"):
        await lifespan.end()
    assert lifespan.sent == []


@pytest.mark.parametrize("fails", [False, True])
async def test_an_inner_app_whose_lifespan_is_over_early_takes_no_session_along(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        if fails:
            raise OSError("the cron job is stuck")

    app = UserSessionsApp(make(), inner=inner)
    lifespan, stream = await started(app)
    assert ("the cron job is stuck" in caplog.text) is fails
    lifespan.push(SHUTDOWN)
    await lifespan.end()
    assert lifespan.sent == [STARTED, ENDED]
    await stream.end()
    assert stream.frames[1:] == [{"disconnect": {"code": 3001, "reason": "shutdown"}}]


async def test_an_inner_app_that_fails_while_it_ends_takes_the_sessions_along() -> None:
    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await receive()
        raise OSError("the pool is stuck")

    sessions = make()
    app = UserSessionsApp(sessions, inner=inner)
    lifespan, stream = await started(app)
    lifespan.push(SHUTDOWN)
    with pytest.raises(OSError, match="stuck"):
        await lifespan.end()
    await stream.end()
    assert lifespan.sent == [STARTED]
