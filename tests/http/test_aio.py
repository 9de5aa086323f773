"""A stream that a coroutine holds, whatever carries it: on a clock that leaps.

What the streams of ASGI show of it stands in `test_asgi.py`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import jwt
import pytest

from tests.http.exchange import LeapingLoop, sessions_held, settle
from usersessions import (
    AsyncUserSessions,
    ConnectRefused,
    ConnectRequest,
    Disconnect,
    Identity,
    Key,
    TokenVerifier,
    __version__,
)
from usersessions.http import aio
from usersessions.http.aio import (
    BodyLate,
    ClientGone,
    Interruptible,
    deliver,
    first_message,
    hold_stream,
    whole_body,
)
from usersessions.http.connection import SSE
from usersessions.http.endpoints import Endpoints
from usersessions.transports.unidirectional import ConnectMessage, read_connect

pytestmark = pytest.mark.anyio

SECRET = "a secret of at least thirty-two bytes"
SLOW = Disconnect(3008, "slow")
GONE = Disconnect(3000, "connection closed")


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"debug": True, "loop_factory": LeapingLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


async def for_ever() -> None:
    await asyncio.Event().wait()


class Held:
    """Sessions, the client of a stream, and what is heard of both.

    Args:
        blocks_at: the number of the frame that the client never reads, from 0 on.
        error: what is raised instead, as by a server that has lost the client.
        settings: of the endpoints.
    """

    def __init__(
        self, *, blocks_at: int | None = None, error: Exception | None = None, **settings: Any
    ) -> None:
        self.frames: list[Any] = []
        self.ends: list[Disconnect] = []
        self.asked: list[ConnectRequest] = []
        self.waits_for_the_client = 0
        self.sessions = AsyncUserSessions(
            TokenVerifier(Key(SECRET, algorithm="HS256")),
            connect_proxy=self._decide,
            on_disconnect=lambda session, disconnect, lived: self.ends.append(disconnect),
        )
        self._endpoints = Endpoints(self.sessions.operations, **settings)
        self._blocks_at, self._error = blocks_at, error
        self._leaving: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def _decide(self, request: ConnectRequest) -> Identity:
        self.asked.append(request)
        return Identity("42")

    async def _write(self, frame: bytes) -> None:
        if len(self.frames) == self._blocks_at:
            if self._error is not None:
                raise self._error
            await for_ever()
        self.frames.append(json.loads(frame))

    async def _left(self) -> None:
        self.waits_for_the_client += 1
        try:
            await asyncio.shield(self._leaving)
        finally:
            self.waits_for_the_client -= 1

    def leave(self, error: Exception | None = None) -> None:
        if error is None:
            self._leaving.set_result(None)
        else:
            self._leaving.set_exception(error)

    async def hold(
        self, message: Mapping[str, object] | None = None, peer: str | None = None, **headers: str
    ) -> Disconnect:
        connect = read_connect(json.dumps(message or {}))
        return await hold_stream(
            self.sessions,
            self._endpoints,
            connect,
            SSE,
            headers=headers,
            peer=peer,
            write=self._write,
            left=self._left,
        )

    async def begin(self, message: Mapping[str, object] | None = None) -> asyncio.Task[Disconnect]:
        holding = asyncio.ensure_future(self.hold(message))
        await settle()
        return holding


def token(**claims: object) -> str:
    return jwt.encode({"sub": "42", **claims}, SECRET, algorithm="HS256")


# A stream -----------------------------------------------------------------------------------------


async def test_a_stream_gives_what_its_client_has_to_be_told_at_the_end() -> None:
    held = Held()
    holding = await held.begin()
    ((client, info),) = (await held.sessions.user_connections("42")).items()
    assert info.transport == "uni_sse"
    assert held.frames == [{"connect": {"client": client, "version": __version__, "ping": 25}}]
    await held.sessions.disconnect("42", code=4001, reason="é")
    assert await holding == Disconnect(4001, "é")
    # The disconnect itself is for the server to send.
    assert len(held.frames) == 1
    assert held.ends == [Disconnect(4001, "é")]
    await settle()
    assert (sessions_held(held.sessions), held.waits_for_the_client) == (0, 0)


async def test_a_session_is_registered_before_its_client_hears_so() -> None:
    held = Held(blocks_at=0)
    holding = await held.begin()
    assert (held.frames, sessions_held(held.sessions)) == ([], 1)
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert sessions_held(held.sessions) == 0


async def test_a_client_that_leaves_is_gone_and_its_session_with_it() -> None:
    held = Held()
    holding = await held.begin()
    held.leave()
    with pytest.raises(ClientGone):
        await holding
    assert (held.ends, sessions_held(held.sessions)) == ([GONE], 0)


async def test_a_client_that_leaves_as_it_is_told_to_has_left() -> None:
    held = Held()
    holding = await held.begin()
    held.leave()
    await held.sessions.disconnect("42")
    with pytest.raises(ClientGone):
        await holding


async def test_a_token_that_expires_is_told_with_the_time_it_has() -> None:
    held = Held()
    expires_at = int(held.sessions.operations.node.clock()) + 600
    holding = await held.begin({"token": token(exp=expires_at)})
    connect = held.frames[0]["connect"]
    assert connect["expires"] is True and 590 <= connect["ttl"] <= 600
    held.leave()
    with pytest.raises(ClientGone):
        await holding


async def test_a_ping_that_was_sent_is_heard_of_the_client() -> None:
    held = Held(ping_interval=7)
    holding = await held.begin()
    touched: list[float] = []
    held.sessions.store.touch = lambda user, client: touched.append(now())  # type: ignore[method-assign]
    began = now()
    await asyncio.sleep(15)
    assert held.frames[1:] == [{}, {}]
    assert touched == [pytest.approx(began + 7), pytest.approx(began + 14)]
    held.leave()
    with pytest.raises(ClientGone):
        await holding


async def test_a_watch_over_the_client_that_fails_is_a_failure_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    held = Held()
    holding = await held.begin()
    held.leave(LookupError("the server's own"))
    assert (await holding).code == 3004
    assert held.ends == [GONE]
    (record,) = caplog.records
    assert record.exc_info is not None and record.exc_info[0] is LookupError


# Who may connect ----------------------------------------------------------------------------------

PAGE = {"host": "api.example.com", "origin": "https://evil.example.com"}


async def test_with_a_token_any_page_may_connect_and_without_one_its_origin_is_checked() -> None:
    held = Held(allowed_origins=["https://app.example.com"])
    held.leave()
    for message in ({}, {"headers": {"origin": "https://app.example.com"}}):
        assert await held.hold(message, **PAGE) == Disconnect(3507, "permission denied")
    assert (held.asked, held.frames) == ([], [])
    with pytest.raises(ClientGone):
        await held.hold({"token": token()}, **PAGE)
    with pytest.raises(ClientGone):
        await held.hold({}, host="api.example.com", origin="https://app.example.com")
    assert len(held.asked) == 1
    assert len(held.frames) == 2


async def test_who_is_refused_was_never_registered() -> None:
    held = Held()
    assert await held.hold({"token": "swordfish"}) == Disconnect(3500, "invalid token")
    await held.sessions.aclose()
    assert await held.hold() == Disconnect(3001, "shutdown")
    assert (held.frames, held.ends, held.waits_for_the_client) == ([], [], 0)


async def test_the_proxy_is_asked_with_the_headers_and_the_peer() -> None:
    held = Held()
    held.leave()
    with pytest.raises(ClientGone):
        await held.hold({"name": "web"}, peer="192.0.2.7", cookie="user=42")
    (asked,) = held.asked
    assert (asked.remote_addr, asked.headers) == ("192.0.2.7", {"cookie": "user=42"})
    assert asked.client == held.frames[0]["connect"]["client"]


# Clients that do not read, or have left -----------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 3], ids=["connect", "ping", "a later ping"])
async def test_the_session_of_a_client_that_does_not_read_ends_as_slow(number: int) -> None:
    held = Held(blocks_at=number)
    began = now()
    with pytest.raises(ClientGone):
        await held.hold()
    assert now() - began == pytest.approx(25.0 * number + aio.SEND_TIMEOUT)
    assert held.ends == [SLOW]
    assert (sessions_held(held.sessions), len(held.frames)) == (0, number)


@pytest.mark.parametrize("number", [0, 1], ids=["connect", "ping"])
@pytest.mark.parametrize(
    "error",
    [
        OSError("gone"),
        ConnectionResetError("reset"),
        TimeoutError("unacknowledged"),
        RuntimeError("after sending 'websocket.close'"),
    ],
)
async def test_the_session_of_a_client_that_the_server_has_lost_just_ends(
    number: int, error: Exception
) -> None:
    held = Held(blocks_at=number, error=error)
    with pytest.raises(ClientGone) as gone:
        await held.hold()
    assert gone.value.__cause__ is error
    assert held.ends == [GONE]


async def test_a_session_that_was_told_otherwise_is_not_slow_as_well() -> None:
    held = Held(blocks_at=1)
    holding = await held.begin()
    await asyncio.sleep(26)
    await held.sessions.disconnect("42", timeout=0)
    with pytest.raises(ClientGone):
        await holding
    assert held.ends == [Disconnect(3503, "force disconnect")]


async def test_a_write_that_fails_otherwise_is_a_failure_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    held = Held(blocks_at=0, error=LookupError("the server's own"))
    assert (await held.hold()).code == 3004
    (record,) = caplog.records
    assert "the connection of client " in record.getMessage() and record.exc_info is not None


# Sending and receiving ----------------------------------------------------------------------------


async def test_what_is_not_taken_in_time_is_given_up() -> None:
    given_up: list[bool] = []

    async def send() -> None:
        try:
            await for_ever()
        finally:
            given_up.append(True)

    began = now()
    with pytest.raises(ClientGone):
        await deliver(send())
    assert now() - began == pytest.approx(aio.SEND_TIMEOUT)
    await settle()
    assert given_up == [True]


async def test_what_is_taken_late_but_in_time_was_sent() -> None:
    await deliver(asyncio.sleep(aio.SEND_TIMEOUT - 0.1))
    await deliver(asyncio.sleep(0))


@pytest.mark.parametrize("doing", [deliver, first_message, whole_body])
async def test_a_cancellation_reaches_what_is_waited_for(
    doing: Callable[[Awaitable[Any]], Awaitable[Any]],
) -> None:
    waiting = asyncio.ensure_future(for_ever())
    task = asyncio.ensure_future(doing(waiting))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    assert waiting.cancelled()


async def receiving(body: bytes | None, *, after: float = 0.0) -> bytes | None:
    await asyncio.sleep(after)
    return body


async def test_the_first_message_is_the_connect_request() -> None:
    message = await first_message(receiving(b'{"name": "web"}', after=9.9))
    assert message == ConnectMessage(name="web")


async def test_whoever_leaves_before_the_first_message_is_gone() -> None:
    with pytest.raises(ClientGone):
        await first_message(receiving(None))


@pytest.mark.parametrize(
    ("body", "after", "code"), [(b"{}", 10.1, 3502), (b"", 0.0, 3501), (b"[]", 0.0, 3501)]
)
async def test_a_first_message_that_comes_too_late_or_is_none_is_refused(
    body: bytes, after: float, code: int
) -> None:
    with pytest.raises(ConnectRefused) as refused:
        await first_message(receiving(body, after=after))
    assert refused.value.code == code


@pytest.mark.parametrize("after", [0.0, 9.9])
async def test_a_body_that_comes_in_time_is_given(after: float) -> None:
    assert await whole_body(receiving(b"{}", after=after)) == b"{}"
    # Nothing of the wait is left over that could end something else.
    await asyncio.sleep(aio.BODY_TIMEOUT)


async def test_a_body_that_comes_too_late_is_given_up() -> None:
    began = now()
    with pytest.raises(BodyLate):
        await whole_body(for_ever())
    assert now() - began == pytest.approx(aio.BODY_TIMEOUT)
    await asyncio.sleep(0)


async def test_a_body_that_cannot_be_read_is_an_error_at_once() -> None:
    async def read() -> bytes:
        raise OSError("the client has left")

    with pytest.raises(OSError, match="left"):
        await whole_body(read())
    await asyncio.sleep(aio.BODY_TIMEOUT)


async def test_a_block_is_interrupted_once_and_its_task_goes_on() -> None:
    async def stuck(blocks: list[Interruptible]) -> str:
        with Interruptible() as block:
            blocks.append(block)
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        return "went on"

    blocks: list[Interruptible] = []
    task = asyncio.ensure_future(stuck(blocks))
    await settle()
    blocks[0].interrupt()
    assert await task == "went on"
    # It is over: nothing is interrupted any more.
    blocks[0].interrupt()


async def test_a_cancellation_of_somebody_elses_is_not_kept_by_a_block() -> None:
    async def stuck() -> None:
        with Interruptible():
            await asyncio.Event().wait()

    task = asyncio.ensure_future(stuck())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.skipif(sys.version_info < (3, 11), reason="cancellations are not counted")
async def test_a_task_that_is_cancelled_while_its_block_is_interrupted_is_cancelled() -> None:
    async def stuck(blocks: list[Interruptible]) -> None:
        with Interruptible() as block:
            blocks.append(block)
            await asyncio.Event().wait()

    for times in (1, 2):
        blocks: list[Interruptible] = []
        task = asyncio.ensure_future(stuck(blocks))
        await settle()
        for _ in range(times):
            blocks[0].interrupt()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_block_that_is_interrupted_twice_goes_on_once() -> None:
    async def stuck(blocks: list[Interruptible]) -> None:
        with Interruptible() as block:
            blocks.append(block)
            await asyncio.Event().wait()

    blocks: list[Interruptible] = []
    task = asyncio.ensure_future(stuck(blocks))
    await settle()
    blocks[0].interrupt()
    blocks[0].interrupt()
    await task


async def test_an_error_of_an_interrupted_block_is_its_own_and_its_task_is_not_cancelled() -> None:
    async def stuck(blocks: list[Interruptible]) -> int:
        with pytest.raises(LookupError), Interruptible() as block:
            blocks.append(block)
            try:
                await asyncio.Event().wait()
            finally:
                raise LookupError("the app's own")
        # Before Python 3.11, there is no such thing.
        cancelling: int = getattr(asyncio.current_task(), "cancelling", int)()
        return cancelling

    blocks: list[Interruptible] = []
    task = asyncio.ensure_future(stuck(blocks))
    await settle()
    blocks[0].interrupt()
    assert await task == 0
