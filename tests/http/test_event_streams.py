"""Event streams of an app's own: who opens one, how it ends, and that no session is left over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tests.http.exchange import Exchange, Group, LeapingLoop, scope, sessions_held, settle
from usersessions import (
    AsyncUserSessions,
    ConnectRefused,
    ConnectRequest,
    Disconnect,
    Identity,
)
from usersessions.http.app import UserSessionsApp
from usersessions.http.asgi import Message, Receive, Scope, Send
from usersessions.http.event_streams import TrackEventStreams
from usersessions.http.tracking import OWN_SEND_TIMEOUT, SessionOver, session_of

pytestmark = pytest.mark.anyio

REQUEST: Message = {"type": "http.request", "body": b""}
GONE: Message = {"type": "http.disconnect"}
START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"Content-Type", b"text/event-stream; charset=utf-8")],
}
LAST: Message = {"type": "http.response.body", "body": b""}


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"debug": True, "loop_factory": LeapingLoop}


def event(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": more}


def opened(app: Any, sessions: AsyncUserSessions, identify: Any = None, **options: Any) -> Exchange:
    tracked = TrackEventStreams(app, sessions, identify=identify or (lambda scope: "42"))
    return Exchange(tracked, scope("/events", method="GET"), [REQUEST], **options)


class Events:
    """An app that reads its request, and sends an event each second; it notes how it ends."""

    def __init__(self, *, last: int = 1000) -> None:
        self.ended: list[object] = []
        self._last = last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await receive()
            await send(START)
            for number in range(self._last + 1):
                await send(event(b"%d" % number, more=number < self._last))
                await asyncio.sleep(1.0)
            self.ended.append(session_of(scope).user)
        except BaseException as error:
            self.ended.append(type(error))
            raise


async def test_an_event_stream_is_a_session_until_its_client_leaves() -> None:
    sessions, app = AsyncUserSessions(), Events()
    exchange = opened(app, sessions)
    assert await exchange.message(1) == event(b"0")
    ((_, info),) = (await sessions.user_connections("42")).items()
    assert (info.transport, info.protocol) == ("sse", "json")
    exchange.push({"type": "http.request", "body": b"more"})
    await settle()
    assert sessions_held(sessions) == 1
    exchange.push(GONE)
    await exchange.end()
    assert sessions_held(sessions) == 0
    assert (app.ended, exchange.sent) == ([asyncio.CancelledError], [START, event(b"0")])


async def test_a_stream_that_the_app_ends_itself_is_gone_when_the_app_is() -> None:
    sessions, app = AsyncUserSessions(), Events(last=2)
    exchange = opened(app, sessions)
    await exchange.message(3)
    assert sessions_held(sessions) == 1
    await exchange.end()
    assert (app.ended, sessions_held(sessions)) == (["42"], 0)


async def test_each_event_touches_the_session() -> None:
    sessions = AsyncUserSessions()
    moments = iter(range(100, 200))
    sessions.operations.node.clock = lambda: float(next(moments))
    exchange = opened(Events(), sessions)
    await exchange.message(1)
    ((client, before),) = (await sessions.user_connections("42")).items()
    await exchange.message(2)
    await settle()
    assert (await sessions.user_connections("42"))[client].last_seen > before.last_seen
    exchange.push(GONE)
    await exchange.end()


async def test_a_stream_whose_session_has_to_end_comes_to_its_proper_end() -> None:
    sessions, app = AsyncUserSessions(), Events()
    exchange = opened(app, sessions)
    await exchange.message(1)
    ended = await sessions.disconnect("42")
    assert len(ended.closed) == 1
    await exchange.end()
    assert exchange.sent == [START, event(b"0"), LAST]
    assert app.ended == [asyncio.CancelledError]


async def test_a_client_that_leaves_in_the_very_moment_is_no_error() -> None:
    for steps in range(12):
        sessions, app = AsyncUserSessions(), Events()
        exchange = opened(app, sessions)
        await exchange.message(1)
        exchange.push(GONE)
        for _ in range(steps):
            await asyncio.sleep(0)
        await sessions.disconnect("42", timeout=0)
        await exchange.end()
        assert exchange.sent in ([START, event(b"0")], [START, event(b"0"), LAST])
        assert sessions_held(sessions) == 0


async def test_the_end_of_a_stream_to_a_client_that_has_left_is_no_error() -> None:
    sessions = AsyncUserSessions()
    exchange = opened(Events(), sessions, fails_at=2)
    await exchange.message(1)
    await sessions.disconnect("42")
    await exchange.end()
    assert len(exchange.sent) == 2


@pytest.mark.parametrize("blocks_at", [0, 2])
async def test_a_stream_whose_client_does_not_read_ends_as_slow(blocks_at: int) -> None:
    ends: list[Disconnect] = []
    sessions = AsyncUserSessions(
        on_disconnect=lambda session, disconnect, lived: ends.append(disconnect)
    )
    began = asyncio.get_running_loop().time()
    exchange = opened(Events(), sessions, blocks_at=blocks_at)
    waited = 0.0
    while not ends and waited < 2 * OWN_SEND_TIMEOUT:
        await asyncio.sleep(0.5)
        waited = asyncio.get_running_loop().time() - began
    assert waited == pytest.approx(OWN_SEND_TIMEOUT + max(0, blocks_at - 1), abs=1.0)
    assert sessions_held(sessions) == 0
    assert ends == [Disconnect(3008, "slow")]
    await exchange.end()
    assert len(exchange.sent) == blocks_at


async def test_a_response_that_is_no_event_stream_may_take_any_time() -> None:
    took: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        took.append(asyncio.get_running_loop().time())

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_late(message: Message) -> None:
            await asyncio.sleep(10 * OWN_SEND_TIMEOUT)
            await send(message)

        await TrackEventStreams(app, AsyncUserSessions())(scope, receive, send_late)

    began = asyncio.get_running_loop().time()
    await Exchange(slow, scope("/page", method="GET")).end()
    assert took == [pytest.approx(began + 10 * OWN_SEND_TIMEOUT)]


async def test_a_server_that_fails_to_receive_fails_the_app() -> None:
    sessions, app = AsyncUserSessions(), Events()
    exchange = opened(app, sessions)
    await exchange.message(1)
    exchange.push(LookupError("the server's own"))
    with pytest.raises(LookupError):
        await exchange.end()
    assert (app.ended, sessions_held(sessions)) == ([asyncio.CancelledError], 0)


async def test_a_server_that_fails_to_receive_once_a_stream_has_to_end_is_not_heard() -> None:
    ended = []
    for steps in range(12):
        sessions, app = AsyncUserSessions(), Events()
        exchange = opened(app, sessions)
        await exchange.message(1)
        await sessions.disconnect("42", timeout=0)
        for _ in range(steps):
            await asyncio.sleep(0)
        exchange.push(LookupError("the server's own"))
        try:
            await exchange.end()
        except LookupError:
            assert exchange.sent == [START, event(b"0")]
        else:
            assert exchange.sent == [START, event(b"0"), LAST]
            ended.append(steps)
        assert sessions_held(sessions) == 0
    # At the latest once the session knows.
    assert ended == [*range(12 - len(ended), 12)] and len(ended) > 6


async def test_a_stream_that_is_whole_is_not_ended_again() -> None:
    sessions = AsyncUserSessions()
    exchange = opened(Events(last=0), sessions)
    await exchange.message(1)
    await sessions.disconnect("42")
    await exchange.end()
    assert exchange.sent == [START, event(b"0", more=False)]


@pytest.mark.parametrize(
    ("code", "status"), [(3001, 503), (3004, 503), (4001, 503), (3507, 403), (4501, 403)]
)
async def test_a_client_that_may_not_connect_gets_a_status(code: int, status: int) -> None:
    def refuse(scope: Scope) -> str:
        raise ConnectRefused(code, "not you")

    app = Events()
    exchange = opened(app, AsyncUserSessions(), refuse)
    await exchange.end()
    assert (exchange.sent[0]["status"], exchange.sent[1]["body"]) == (status, b"not you\n")
    assert len(exchange.sent) == 2
    assert app.ended in ([SessionOver], [asyncio.CancelledError])


async def test_an_app_that_clings_to_a_refused_stream_sends_nothing() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(2):
            with pytest.raises(OSError, match="has ended"):
                await send(START)

    def refuse(scope: Scope) -> str:
        raise ConnectRefused(3507)

    exchange = opened(app, AsyncUserSessions(), refuse)
    await exchange.end()
    assert exchange.sent[0]["status"] == 403


async def test_a_session_that_is_told_to_end_before_its_stream_has_begun_gets_a_status() -> None:
    async def kick(session: Any) -> None:
        await sessions.disconnect("42", timeout=0)

    sessions = AsyncUserSessions(on_connect=kick)
    exchange = opened(Events(), sessions)
    await exchange.end()
    assert (exchange.sent[0]["status"], sessions_held(sessions)) == (403, 0)


async def test_other_responses_scopes_and_streams_pass_through() -> None:
    sessions = AsyncUserSessions(connect_proxy=admit)
    ours = UserSessionsApp(sessions)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/page":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send(LAST)
            with pytest.raises(LookupError):
                session_of(scope)
        elif scope["path"] == "/short":
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.trailers"})
        else:
            await ours(scope, receive, send)

    tracked = TrackEventStreams(app, sessions)
    for path, kind in (("/page", "http"), ("/short", "http"), ("/page", "websocket")):
        exchange = Exchange(tracked, scope(path, kind=kind))
        await exchange.end()
        assert exchange.sent[0]["status"] == 204
    exchange = Exchange(tracked, scope("/connection/uni_sse", method="GET"), [REQUEST])
    assert b"connect" in (await exchange.message(1))["body"]
    (info,) = (await sessions.user_connections("42")).values()
    assert info.transport == "uni_sse"
    exchange.push(GONE)
    await exchange.end()


async def admit(request: ConnectRequest) -> Identity:
    return Identity("42")


@pytest.mark.parametrize("after_start", [False, True])
async def test_an_app_that_fails_fails_as_ever(after_start: bool) -> None:
    sessions = AsyncUserSessions()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if after_start:
            await send(START)
        raise ValueError("the app failed")

    with pytest.raises(ValueError, match="the app failed"):
        await opened(app, sessions).end()
    assert sessions_held(sessions) == 0


async def test_no_log_of_the_server_sees_a_token_and_the_app_sees_its_query() -> None:
    seen: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["query_string"])

    given = scope("/events", query=b"a=1&access_token=e30")
    await Exchange(TrackEventStreams(app, AsyncUserSessions()), given).end()
    assert (seen, given["query_string"]) == ([b"a=1&access_token=e30"], b"a=1")


async def test_cancelling_at_any_step_leaves_no_session_and_is_not_held_up() -> None:
    for count in range(60):
        sessions, app = AsyncUserSessions(), Events()
        exchange = opened(app, sessions)
        for _ in range(count // 2):
            await asyncio.sleep(0)
        if count % 2:
            await sessions.disconnect("42", timeout=0)
        exchange.task.cancel()
        await asyncio.wait([exchange.task])
        assert sessions_held(sessions) == 0
        assert len(app.ended) <= 1


def refuses(scope: Scope) -> str:
    raise ConnectRefused(3507)


class ClientDisconnect(Exception):
    """As Starlette has it."""


@pytest.mark.parametrize("how", ["cause", "none", "starlette", "group"])
async def test_a_refusal_is_told_whatever_the_framework_makes_of_it(how: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(START)
        except OSError as error:
            if how == "cause":
                raise Group from error
            if how == "none":
                raise Group from None
            if how == "starlette":
                raise ClientDisconnect  # noqa: B904
            raise Group(error, Group(error)) from None

    exchange = opened(app, AsyncUserSessions(), refuses)
    await exchange.end()
    assert exchange.sent[0]["status"] == 403


async def test_an_error_of_the_apps_own_in_a_group_is_not_lost() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(START)
        except OSError as error:
            raise Group(error, LookupError("the app's own")) from None

    exchange = opened(app, AsyncUserSessions(), refuses)
    with pytest.raises(Group):
        await exchange.end()


async def test_an_error_of_the_apps_own_is_not_lost_where_it_comes_while_another_passes_by() -> (
    None
):
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(START)
        finally:
            raise KeyError("the app's own")

    with pytest.raises(KeyError, match="the app's own"):
        await opened(app, AsyncUserSessions(), refuses).end()


async def test_an_error_that_was_taken_out_of_a_group_is_the_apps_own() -> None:
    # Its context is the group that it is in.
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        try:
            raise Group(LookupError("the app's own"))
        except Group as group:
            raise group.exceptions[0]  # noqa: B904

    with pytest.raises(LookupError, match="the app's own"):
        await opened(app, AsyncUserSessions()).end()


async def test_a_stream_of_starlette_that_fails_fails_as_ever() -> None:
    async def events() -> AsyncGenerator[str, None]:
        yield "data: 0\n\n"
        raise RuntimeError("the app's own")

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(events(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/events", stream)])
    sessions = AsyncUserSessions()
    with pytest.raises(RuntimeError, match="the app's own"):
        await opened(app, sessions).end()
    assert sessions_held(sessions) == 0
