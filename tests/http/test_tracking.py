"""WebSockets of an app's own: who connects, how they end, and that no session is left over."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from tests.http.exchange import Exchange, Group, LeapingLoop, scope, sessions_held, settle
from tests.standins import SharedStandIn, TellsAndFails
from usersessions import (
    AsyncUserSessions,
    ConfigError,
    ConnectRefused,
    ConnectRequest,
    Disconnect,
    Identity,
    Key,
    TokenVerifier,
)
from usersessions.http.app import UserSessionsApp
from usersessions.http.asgi import ASGIApp, Message, Receive, Scope, Send
from usersessions.http.silence import ASK_AFTER, ASK_EVERY, ASK_TIMES
from usersessions.http.tracking import (
    END_TIMEOUT,
    LOOK_SECONDS,
    OWN_SEND_TIMEOUT,
    TrackWebSockets,
    session_of,
)

pytestmark = pytest.mark.anyio

SECRET = "a secret of at least thirty-two bytes"
HOST = (b"host", b"example.com")
FOREIGN = (b"origin", b"https://evil.example.net")
CONNECT: Message = {"type": "websocket.connect"}
GONE: Message = {"type": "websocket.disconnect", "code": 1001}
KICKED: Message = {"type": "websocket.close", "code": 3503, "reason": "force disconnect"}
DENIED: Message = {"type": "websocket.close", "code": 3507, "reason": "permission denied"}


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"debug": True, "loop_factory": LeapingLoop}


def token(user: str) -> str:
    return jwt.encode({"sub": user}, SECRET, algorithm="HS256")


async def cookie(request: ConnectRequest) -> Identity | Disconnect:
    """A connect proxy: whoever has a cookie is in."""
    user = request.headers.get("cookie")
    return Identity(user) if user else Disconnect(3507, "permission denied")


def make(**options: Any) -> AsyncUserSessions:
    verifier = TokenVerifier(Key(SECRET, algorithm="HS256"))
    return AsyncUserSessions(verifier, connect_proxy=cookie, **options)


def text(said: str) -> Message:
    return {"type": "websocket.receive", "text": said}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that accepts, sends back what it gets, and notes all that it received."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
    scope.setdefault("heard", []).append(message)


def opened(
    app: ASGIApp,
    *incoming: Message,
    headers: tuple[tuple[bytes, bytes], ...] = ((b"cookie", b"42"),),
    query: bytes = b"",
    **options: Any,
) -> Exchange:
    shaken = scope("/chat", kind="websocket", headers=[HOST, *headers], query=query)
    shaken["client"] = ["192.0.2.7", 50_000]
    return Exchange(app, shaken, [CONNECT, *incoming], **options)


async def told(exchange: Exchange) -> Message:
    """The last message, once the app has ended."""
    await exchange.end()
    return exchange.sent[-1]


# A session ----------------------------------------------------------------------------------------


async def test_a_websocket_is_a_session_from_its_acceptance_until_its_client_leaves() -> None:
    sessions = make()
    held: list[int] = []

    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        async def watch(message: Message) -> None:
            held.append(sessions_held(sessions))
            await send(message)

        await TrackWebSockets(echo, sessions)(scope, receive, watch)

    exchange = opened(watching, text("hello"), headers=((b"cookie", b"42"), (b"user-agent", b"u")))
    assert await exchange.message(1) == {"type": "websocket.send", "text": "hello"}
    (info,) = (await sessions.user_connections("42")).values()
    assert (info.transport, info.protocol, info.app_name) == ("websocket", "json", None)
    assert (info.remote_addr, info.user_agent) == ("192.0.2.7", "u")
    exchange.push(GONE)
    await exchange.end()
    assert (held, sessions_held(sessions)) == ([1, 1], 0)
    assert [message["type"] for message in exchange.sent] == ["websocket.accept", "websocket.send"]


async def test_the_app_has_its_session_and_a_message_touches_it() -> None:
    sessions, found = make(), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(LookupError):
            session_of(scope)
        await send({"type": "websocket.accept"})
        # A middleware in between may have copied the scope.
        found.append(session_of(dict(scope)))
        for _ in range(3):
            await receive()

    moments = iter(range(100, 200))
    sessions.operations.node.clock = lambda: float(next(moments))
    exchange = opened(TrackWebSockets(app, sessions))
    await exchange.message(0)
    await settle()
    ((client, before),) = (await sessions.user_connections("42")).items()
    exchange.push(text("hello"))
    await settle()
    after = (await sessions.user_connections("42"))[client]
    assert (found[0].client, found[0].user) == (client, "42")
    assert after.last_seen > before.last_seen
    exchange.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange.end()
    assert sessions_held(sessions) == 0


@pytest.mark.parametrize("how", ["close", "fail", "return"])
async def test_a_websocket_that_the_app_does_not_accept_was_never_listed(how: str) -> None:
    began: list[object] = []
    sessions = make(on_connect=began.append)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if how == "close":
            await send({"type": "websocket.close"})
        elif how == "fail":
            raise ValueError("the app failed")

    exchange = opened(TrackWebSockets(app, sessions))
    if how == "fail":
        with pytest.raises(ValueError, match="the app failed"):
            await exchange.end()
    else:
        await exchange.end()
    assert (began, len(exchange.sent)) == ([], how == "close")


async def test_an_error_that_has_exceptions_of_its_own_is_no_group() -> None:
    class Invalid(Exception):
        exceptions = ("a field", "another one")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise Invalid

    with pytest.raises(Invalid):
        await opened(TrackWebSockets(app, make())).end()


async def test_an_app_that_fails_fails_as_ever_and_its_session_is_gone() -> None:
    sessions = make()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        raise ValueError("the app failed")

    with pytest.raises(ValueError, match="the app failed"):
        await opened(TrackWebSockets(app, sessions)).end()
    assert sessions_held(sessions) == 0


async def test_an_app_that_cancels_itself_is_cancelled() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await opened(TrackWebSockets(app, make())).end()


async def test_a_failing_server_fails_the_app() -> None:
    sessions = make()
    exchange = opened(TrackWebSockets(echo, sessions))
    await exchange.message(0)
    exchange.push(ConnectionResetError("the server's own"))
    with pytest.raises(ConnectionResetError):
        await exchange.end()
    assert sessions_held(sessions) == 0


async def test_other_scopes_and_the_streams_of_this_library_pass_through() -> None:
    sessions, kinds = make(), []
    ours = UserSessionsApp(sessions)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kinds.append(scope["type"])
        if scope["type"] == "websocket":
            scope["root_path"] = "/live"
            await ours(scope, receive, send)

    tracked = TrackWebSockets(app, sessions)
    given = scope("/", query=b"access_token=e30")
    await Exchange(tracked, given).end()
    assert given["query_string"] == b"access_token=e30"
    stream = scope("/live/connection/uni_websocket", kind="websocket", headers=[(b"cookie", b"42")])
    exchange = Exchange(tracked, stream, [CONNECT, text("{}")])
    assert "connect" in (await exchange.message(1))["text"]
    assert [info.transport for info in (await sessions.user_connections("42")).values()] == [
        "uni_websocket"
    ]
    exchange.push(GONE)
    await exchange.end()
    assert kinds == ["http", "websocket"]


async def test_an_app_that_only_calls_itself_like_a_stream_is_tracked() -> None:
    sessions = make()
    given = scope("/x/connection/uni_websocket", kind="websocket", headers=[(b"cookie", b"42")])
    exchange = Exchange(TrackWebSockets(echo, sessions), given, [CONNECT])
    await exchange.message(0)
    assert sessions_held(sessions) == 1
    exchange.push(GONE)
    await exchange.end()


async def test_a_server_that_has_no_lifespan_is_heard_to_stop_from_the_first_session_on() -> None:
    store = SharedStandIn()
    sessions = AsyncUserSessions(connect_proxy=cookie, store=store)
    for joined, app in ((0, refusing), (1, echo), (1, echo)):
        exchange = opened(TrackWebSockets(app, sessions), GONE)
        await exchange.end()
        assert store.joined == joined


async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that lets nobody in."""
    await send({"type": "websocket.close"})


# How it ends --------------------------------------------------------------------------------------


async def test_a_session_that_has_to_end_closes_its_websocket_and_the_app_hears_why() -> None:
    sessions = make()
    exchange = opened(TrackWebSockets(heard := Heard(), sessions))
    await exchange.message(0)
    ended = await sessions.disconnect("42", code=4001, reason="é")
    assert len(ended.closed) == 1
    why = {"code": 4001, "reason": "é"}
    assert await told(exchange) == {"type": "websocket.close", **why}
    assert heard.message == {"type": "websocket.disconnect", **why}
    assert sessions_held(sessions) == 0


class Heard:
    """An app that waits for its last message, and may do something then."""

    def __init__(self, then: Callable[[Receive, Send], Any] | None = None) -> None:
        self.message: Message = {}
        self._then = then

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        self.message = await receive()
        if self._then is not None:
            await self._then(receive, send)


async def test_what_an_app_sends_and_receives_after_the_end_is_as_after_a_client_has_left() -> None:
    seen: list[object] = []

    async def then(receive: Receive, send: Send) -> None:
        seen.append((await receive())["type"])
        try:
            await send({"type": "websocket.send", "text": "too late"})
        except OSError as error:
            seen.append(str(error))
            raise

    sessions = make()
    exchange = opened(TrackWebSockets(Heard(then), sessions))
    await exchange.message(0)
    await sessions.disconnect("42")
    # That the app does not catch it is no failure.
    assert await told(exchange) == KICKED
    assert seen == ["websocket.disconnect", "the session of this connection has ended"]


@pytest.mark.parametrize("blocks_at", [None, 1])
async def test_an_app_that_goes_on_is_cancelled_in_the_end(blocks_at: int | None) -> None:
    sessions, cleaned = make(), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        try:
            if blocks_at is None:
                await asyncio.Event().wait()
            # To a client that does not read.
            await send({"type": "websocket.send", "text": "hello"})
        finally:
            cleaned.append(asyncio.get_running_loop().time())

    exchange = opened(TrackWebSockets(app, sessions), blocks_at=blocks_at)
    await exchange.message(0)
    start = asyncio.get_running_loop().time()
    await sessions.disconnect("42", timeout=0)
    await exchange.end()
    assert cleaned == [pytest.approx(start + END_TIMEOUT)]
    assert sessions_held(sessions) == 0
    assert [KICKED] * (blocks_at is None) == exchange.sent[1:]


@pytest.mark.parametrize("blocks_at", [0, 1, 2])
async def test_an_app_whose_client_does_not_read_goes_on_as_after_the_end_and_its_session_is_slow(
    blocks_at: int,
) -> None:
    ends: list[Disconnect] = []
    sessions = make(on_disconnect=lambda session, disconnect, lived: ends.append(disconnect))
    began = asyncio.get_running_loop().time()
    exchange = opened(TrackWebSockets(echo, sessions), *map(text, "abc"), blocks_at=blocks_at)
    await exchange.end()
    waited = asyncio.get_running_loop().time() - began
    assert waited == pytest.approx(OWN_SEND_TIMEOUT) and waited < ASK_AFTER + ASK_EVERY * ASK_TIMES
    assert ends == [Disconnect(3008, "slow")]
    assert (len(exchange.sent), sessions_held(sessions)) == (blocks_at, 0)


async def test_a_message_that_its_client_reads_late_but_in_time_was_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sessions, loop = make(), asyncio.get_running_loop()
    call_later, timers = loop.call_later, []

    def noted(delay: float, *call: Any, **options: Any) -> asyncio.TimerHandle:
        timer = call_later(delay, *call, **options)
        if delay == OWN_SEND_TIMEOUT:
            timers.append(timer)
        return timer

    monkeypatch.setattr(loop, "call_later", noted)

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_late(message: Message) -> None:
            await asyncio.sleep(OWN_SEND_TIMEOUT - 0.1)
            await send(message)

        await TrackWebSockets(echo, sessions)(scope, receive, send_late)

    exchange = opened(slow, *map(text, "abc"))
    await exchange.message(3)
    exchange.push(GONE)
    await exchange.end()
    assert len(exchange.sent) == 4
    # What waits with each message goes with it.
    assert len(timers) == 4 and all(timer.cancelled() for timer in timers)


async def test_a_message_that_the_server_does_not_take_is_an_error_of_the_app() -> None:
    exchange = opened(TrackWebSockets(echo, make()), text("a"), fails_at=1, error=RuntimeError)
    with pytest.raises(RuntimeError):
        await exchange.end()


async def test_a_websocket_that_the_app_has_closed_itself_is_not_closed_again() -> None:
    sessions = make()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1000})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    exchange = opened(TrackWebSockets(app, sessions), text("on its way"))
    await exchange.message(1)
    await settle()
    await sessions.disconnect("42", timeout=0)
    assert await told(exchange) == {"type": "websocket.close", "code": 1000}
    assert len(exchange.sent) == 2


@pytest.mark.parametrize("error", [RuntimeError, ConnectionResetError])
async def test_a_client_that_has_left_in_the_same_moment_is_no_error(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    sessions = make()

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        async def fail(message: Message) -> None:
            if message["type"] == "websocket.close":
                raise error("too late")
            await send(message)

        await TrackWebSockets(echo, sessions)(scope, receive, fail)

    exchange = opened(server)
    await exchange.message(0)
    with caplog.at_level(logging.WARNING):
        await sessions.disconnect("42")
        await exchange.end()
    assert caplog.records == []


async def test_a_session_that_is_told_to_end_before_its_client_knows_of_it_is_opened_first() -> (
    None
):
    after: list[str] = []

    async def kick(session: Any) -> None:
        await sessions.disconnect("42", timeout=0)
        await settle()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        after.append("went on")

    sessions = make(on_connect=kick)
    exchange = opened(TrackWebSockets(app, sessions))
    await exchange.end()
    assert exchange.sent == [{"type": "websocket.accept"}, KICKED]
    assert after == []


@pytest.mark.parametrize("own", [(), (LookupError("the app's own"),)])
async def test_of_a_group_the_errors_of_the_apps_own_are_left(own: tuple[Exception, ...]) -> None:
    async def then(receive: Receive, send: Send) -> None:
        try:
            await send({"type": "websocket.send", "text": "too late"})
        except OSError as error:
            raise Group(error, *own) from None

    sessions = make()
    exchange = opened(TrackWebSockets(Heard(then), sessions))
    await exchange.message(0)
    await sessions.disconnect("42", timeout=0)
    if own:
        with pytest.raises(Group) as raised:
            await exchange.end()
        assert raised.value.exceptions == own
    else:
        assert await told(exchange) == KICKED


# Clients that leave -------------------------------------------------------------------------------


class Pushing:
    """An app that never receives anything after it has accepted; it notes when it ends."""

    def __init__(self) -> None:
        self.is_done = asyncio.Event()
        self.ended_at = -1.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            await self.is_done.wait()
        finally:
            self.ended_at = asyncio.get_running_loop().time()


async def test_a_client_that_leaves_is_noticed_where_the_app_does_not_receive() -> None:
    ends: list[Disconnect] = []
    sessions = make(on_disconnect=lambda session, disconnect, lived: ends.append(disconnect))
    exchange = opened(TrackWebSockets(app := Pushing(), sessions))
    await exchange.message(0)
    await settle()
    assert sessions_held(sessions) == 1
    exchange.push(GONE)
    await settle()
    assert sessions_held(sessions) == 0
    assert ends == [Disconnect(3000, "connection closed")]
    # It may be busy with what that client has said.
    await asyncio.sleep(2 * END_TIMEOUT)
    assert app.ended_at == -1.0
    app.is_done.set()
    await exchange.end()
    assert len(exchange.sent) == 1


async def test_an_app_that_outlives_its_client_is_cancelled_when_the_server_stops() -> None:
    sessions = make()
    exchange = opened(TrackWebSockets(app := Pushing(), sessions))
    await exchange.message(0)
    exchange.push(GONE)
    await asyncio.sleep(2 * END_TIMEOUT)
    assert app.ended_at == -1.0
    await sessions.aclose()
    await exchange.end()
    assert 2 * END_TIMEOUT <= app.ended_at <= 2 * END_TIMEOUT + LOOK_SECONDS


async def test_a_session_that_is_told_to_end_is_gone_once_its_client_is() -> None:
    sessions = make()
    exchange = opened(TrackWebSockets(app := Pushing(), sessions))
    await exchange.message(0)
    began = asyncio.get_running_loop().time()
    ending = asyncio.ensure_future(sessions.disconnect("42"))
    assert await exchange.message(1) == KICKED
    exchange.push(GONE)
    assert len((await ending).closed) == 1
    assert asyncio.get_running_loop().time() < began + END_TIMEOUT
    await exchange.end()
    assert app.ended_at == pytest.approx(began + END_TIMEOUT)


async def test_a_client_that_leaves_before_it_is_accepted_was_never_listed() -> None:
    began: list[object] = []
    heard: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.extend([await receive(), await receive()])

    await opened(TrackWebSockets(app, make(on_connect=began.append)), GONE).end()
    assert (heard, began) == ([CONNECT, GONE], [])


async def test_an_app_that_has_heard_that_its_client_left_may_take_its_time() -> None:
    finished: list[int] = []

    async def then(receive: Receive, send: Send) -> None:
        finished.append(sessions_held(sessions))
        await sessions.aclose()
        await asyncio.sleep(10 * END_TIMEOUT)
        finished.append(sessions_held(sessions))

    sessions = make()
    exchange = opened(TrackWebSockets(heard := Heard(then), sessions), GONE)
    await exchange.end()
    assert (heard.message, finished) == (GONE, [0, 0])


async def test_what_an_app_sends_to_a_client_that_has_left_fails_on_every_server() -> None:
    sessions = make()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while sessions_held(sessions):
            await asyncio.sleep(0)
        await send({"type": "websocket.send", "text": "late"})

    exchange = opened(TrackWebSockets(app, sessions))
    await exchange.message(0)
    exchange.push(GONE)
    await exchange.end()
    assert len(exchange.sent) == 1


async def test_no_more_than_one_message_is_read_ahead() -> None:
    sessions, go_on, heard = make(), asyncio.Event(), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append(await receive())
        await send({"type": "websocket.accept"})
        await go_on.wait()
        while heard[-1] != GONE:
            heard.append(await receive())

    exchange = opened(TrackWebSockets(app, sessions), text("1"), text("2"), text("3"), GONE)
    await exchange.message(0)
    await settle()
    assert exchange.received == 2
    assert sessions_held(sessions) == 1
    go_on.set()
    await exchange.end()
    assert heard == [CONNECT, text("1"), text("2"), text("3"), GONE]


# Messages -----------------------------------------------------------------------------------------


async def test_an_app_that_stops_waiting_loses_no_message() -> None:
    heard: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        for steps in itertools.islice(itertools.cycle(range(6)), 200):
            if heard and heard[-1] == GONE:
                break
            waiting = asyncio.ensure_future(receive())
            for _ in range(steps):
                await asyncio.sleep(0)
            waiting.cancel()
            try:
                heard.append(await waiting)
            except asyncio.CancelledError:
                await asyncio.sleep(0)

    messages = [text(str(number)) for number in range(20)]
    exchange = opened(TrackWebSockets(app, make()), *messages, GONE)
    await exchange.end()
    assert heard == [CONNECT, *messages, GONE]


async def test_of_two_that_wait_each_gets_a_message_of_its_own() -> None:
    heard: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        heard.extend(await asyncio.gather(receive(), receive(), receive()))

    await opened(TrackWebSockets(app, make()), text("1"), text("2")).end()
    assert sorted(message.get("text", "") for message in heard) == ["", "1", "2"]


# Who connects -------------------------------------------------------------------------------------


async def user_of(tracked: TrackWebSockets, sessions: AsyncUserSessions, **how: Any) -> str | int:
    """Whose session a WebSocket is, or the code that it is closed with."""
    exchange = opened(tracked, **how)
    assert (await exchange.message(0))["type"] == "websocket.accept"
    await settle()
    if exchange.task.done():
        code: int = (await told(exchange))["code"]
        assert len(exchange.sent) == 2
        return code
    users = list(sessions.operations.node.registry.users())
    exchange.push(GONE)
    await exchange.end()
    return users[0]


BEARER = (b"authorization", b"Bearer " + token("bearer").encode())
QUERY = b"room=5&access_token=" + token("query").encode()


@pytest.mark.parametrize(
    ("headers", "query", "outcome"),
    [
        ((), b"", 3507),
        (((b"cookie", b"proxied"),), b"", "proxied"),
        ((BEARER,), b"", "bearer"),
        ((BEARER,), QUERY, "bearer"),
        ((), QUERY, "query"),
        ((), b"access_token=swordfish", 3500),
        # The origin is checked where no token says who connects.
        (((b"cookie", b"proxied"), FOREIGN), b"", 3507),
        (((b"cookie", b"proxied"), (b"origin", b"https://example.com")), b"", "proxied"),
        (((b"cookie", b"proxied"), (b"origin", b"https://app.example.com")), b"", "proxied"),
        ((FOREIGN,), QUERY, "query"),
    ],
)
async def test_a_token_says_who_connects_or_else_the_connect_proxy(
    headers: tuple[tuple[bytes, bytes], ...], query: bytes, outcome: str | int
) -> None:
    sessions = make()
    tracked = TrackWebSockets(echo, sessions, allowed_origins=["https://app.example.com"])
    assert await user_of(tracked, sessions, headers=headers, query=query) == outcome


async def gives_awaited(scope: Scope) -> str:
    return "awaited"


def refuses(scope: Scope) -> str:
    raise ConnectRefused(4503, "not you")


def fails(scope: Scope) -> str:
    raise LookupError("swordfish")


@pytest.mark.parametrize(
    ("identify", "headers", "query", "outcome"),
    [
        (lambda scope: "42", (), b"", "42"),
        (lambda scope: Identity("43", meta=1), (), b"", "43"),
        (gives_awaited, (), b"", "awaited"),
        (lambda scope: scope["query_string"].decode(), (), b"a=1", "a=1"),
        (lambda scope: None, (BEARER,), b"", "bearer"),
        (lambda scope: "", (), b"", 3507),
        (lambda scope: "42", (BEARER,), QUERY, "42"),
        (refuses, (), b"", 4503),
        # A cookie that identifies may come from a foreign page, whatever else that sends along.
        (lambda scope: "42", (FOREIGN,), b"", 3507),
        (lambda scope: "42", (FOREIGN,), b"access_token=x", 3507),
        (lambda scope: "42", (FOREIGN, (b"authorization", b"Bearer x")), b"", 3507),
    ],
)
async def test_an_app_that_has_authenticated_says_who_connects(
    identify: Any, headers: tuple[tuple[bytes, bytes], ...], query: bytes, outcome: str | int
) -> None:
    sessions = make()
    tracked = TrackWebSockets(echo, sessions, identify=identify)
    assert await user_of(tracked, sessions, headers=headers, query=query) == outcome


@pytest.mark.parametrize("identify", [fails, lambda scope: 42, lambda scope: "x" * 1000])
async def test_an_identify_that_fails_is_logged_and_its_client_may_come_back(
    identify: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = make()
    exchange = opened(TrackWebSockets(echo, sessions, identify=identify))
    assert (await told(exchange))["code"] == 3004
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_the_log_says_what_an_identify_has_to_give(caplog: pytest.LogCaptureFixture) -> None:
    exchange = opened(TrackWebSockets(echo, make(), identify=lambda scope: 42424))  # type: ignore[arg-type,return-value]
    await told(exchange)
    assert "must be an Identity or a user ID as a string, not int" in caplog.text
    assert "str(user.id)" in caplog.text
    assert "42424" not in caplog.text.replace("lambda scope: 42424", "")


async def test_after_an_accept_that_was_refused_an_app_does_nothing_more() -> None:
    after: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "websocket.accept", "subprotocol": "chat"})
            after.append("went on")
        finally:
            with pytest.raises(LookupError):
                session_of(scope)

    exchange = opened(TrackWebSockets(app, make()), headers=())
    await exchange.end()
    assert exchange.sent == [{"type": "websocket.accept", "subprotocol": "chat"}, DENIED]
    assert after == []


async def test_no_log_of_the_server_sees_a_token_and_the_app_sees_its_query() -> None:
    seen: list[bytes] = []
    logged: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["query_string"])
        await send({"type": "websocket.close"})

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        async def log(message: Message) -> None:
            logged.append(scope["query_string"])
            await send(message)

        await TrackWebSockets(app, make())(scope, receive, log)

    await opened(server, query=QUERY).end()
    assert (seen, logged) == ([QUERY], [b"room=5"])


@pytest.mark.parametrize(
    "options", [{"allowed_origins": "https://a.example"}, {"trusted_hops": -1}]
)
def test_what_cannot_work_is_said_at_once(options: Any) -> None:
    with pytest.raises(ConfigError):
        TrackWebSockets(echo, make(), **options)


# Cancellation -------------------------------------------------------------------------------------


async def test_cancelling_at_any_step_leaves_no_session_and_is_not_held_up() -> None:
    was_running: list[bool] = []
    for count in range(60):
        sessions = make()
        exchange = opened(TrackWebSockets(echo, sessions), text("hello"))
        for _ in range(count // 2):
            await asyncio.sleep(0)
        if count % 2:
            await sessions.disconnect("42", timeout=0)
        was_running.append(exchange.task.cancel())
        await asyncio.wait([exchange.task])
        assert sessions_held(sessions) == 0
    assert was_running[0]


async def test_of_two_reasons_to_end_before_it_has_begun_the_first_is_told() -> None:
    sessions = make(store=TellsAndFails())
    exchange = opened(TrackWebSockets(echo, sessions))
    assert await told(exchange) == {"type": "websocket.close", "code": 4001, "reason": "moved"}
    assert sessions_held(sessions) == 0
