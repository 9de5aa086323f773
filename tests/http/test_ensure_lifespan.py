"""Servers that never say that they start: signals are heard from the first connection on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import weakref
from collections.abc import Iterator
from types import FrameType

import pytest

from tests.standins import SharedStandIn
from usersessions import AsyncUserSessions, ConnectRefused, Disconnect
from usersessions.http.lifespan import ensure_lifespan, lifespan


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """What the handler of a server hears, in place as long as the test runs."""
    numbers: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        numbers.append(number)

    before = signal.signal(signal.SIGTERM, handler)
    yield numbers
    signal.signal(signal.SIGTERM, before)


async def serve(sessions: AsyncUserSessions) -> object:
    """Serve three connections, and give what handles a signal then."""
    for _ in range(3):
        await ensure_lifespan(sessions)
    return signal.getsignal(signal.SIGTERM)


@pytest.mark.anyio
async def test_a_signal_ends_the_sessions_first_and_reaches_the_server_then(
    heard: list[int],
) -> None:
    sessions = AsyncUserSessions()
    await serve(sessions)
    told = []
    async with sessions.connect(user="42", transport="test") as session:
        signal.raise_signal(signal.SIGTERM)
        assert heard == []
        told.append(await session.closed)
    deadline = asyncio.get_running_loop().time() + 5.0
    while not heard:
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.001)
    assert told == [Disconnect(3001, "shutdown")]
    assert heard == [signal.SIGTERM]


def test_it_begins_once_for_each_event_loop_and_ends_with_it(heard: list[int]) -> None:
    store = SharedStandIn()
    sessions = AsyncUserSessions(store=store)
    server = signal.getsignal(signal.SIGTERM)
    for joined in (1, 2):
        assert asyncio.run(serve(sessions)) is not server
        assert signal.getsignal(signal.SIGTERM) is server
        # Whoever serves on the next loop finds them as they were.
        assert (store.joined, store.closed) == (joined, [])
        assert not sessions.operations.node.draining


async def lets_in(sessions: AsyncUserSessions) -> bool:
    """Serve a connection, and say whether it is let in."""
    await ensure_lifespan(sessions)
    try:
        async with sessions.connect(user="42", transport="test"):
            return True
    except ConnectRefused as refused:
        assert refused.code == 3001
        return False


def test_after_a_lifespan_it_begins_again_on_the_next_event_loop(heard: list[int]) -> None:
    sessions = AsyncUserSessions()

    async def within() -> tuple[bool, bool]:
        async with lifespan(sessions):
            was_let_in = await lets_in(sessions)
        # A connection that comes too late finds the server stopped.
        return was_let_in, await lets_in(sessions)

    for _ in range(2):
        assert asyncio.run(within()) == (True, False)
        assert asyncio.run(lets_in(sessions))


@pytest.mark.anyio
async def test_a_lifespan_takes_over_what_its_event_loop_has_served_without(
    heard: list[int],
) -> None:
    sessions = AsyncUserSessions()
    assert await lets_in(sessions)
    for _ in range(2):
        async with lifespan(sessions):
            assert await lets_in(sessions)
        assert not await lets_in(sessions)


def test_after_a_signal_it_begins_again_on_the_next_event_loop(heard: list[int]) -> None:
    sessions = AsyncUserSessions()

    async def stopped() -> bool:
        await ensure_lifespan(sessions)
        signal.raise_signal(signal.SIGTERM)
        while not heard:
            await asyncio.sleep(0.001)
        # Another server of this process may be served in a thread.
        elsewhere = asyncio.get_running_loop().run_in_executor(None, asyncio.run, lets_in(sessions))
        return await lets_in(sessions) or await elsewhere

    assert not asyncio.run(stopped())
    assert asyncio.run(lets_in(sessions))


def test_sessions_that_an_app_has_ended_before_they_were_served_stay_so(heard: list[int]) -> None:
    sessions = AsyncUserSessions()
    asyncio.run(sessions.aclose())
    assert not asyncio.run(lets_in(sessions))


@pytest.mark.anyio
async def test_a_connection_on_another_event_loop_does_not_end_what_hears_signals(
    heard: list[int],
) -> None:
    sessions = AsyncUserSessions()
    ours = await serve(sessions)
    await asyncio.to_thread(asyncio.run, ensure_lifespan(sessions))
    gc.collect()
    await asyncio.sleep(0)
    assert await serve(sessions) is ours


def test_nothing_is_held_once_the_event_loop_has_ended(heard: list[int]) -> None:
    sessions = AsyncUserSessions()
    asyncio.run(serve(sessions))
    gone = weakref.ref(sessions)
    del sessions
    gc.collect()
    assert gone() is None


def test_event_loops_that_were_left_without_a_word_are_held_until_the_next_begins(
    heard: list[int],
) -> None:
    sessions = AsyncUserSessions()

    def left() -> weakref.ref[asyncio.AbstractEventLoop]:
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            loop.run_until_complete(serve(sessions))
        return weakref.ref(loop)

    loops = [left() for _ in range(3)]
    asyncio.run(serve(sessions))
    # What heard signals on the first is in its place again.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.collect()
    assert [one() is None for one in loops] == [True, True, True]


@pytest.mark.anyio
async def test_where_a_lifespan_was_entered_there_is_nothing_to_do(heard: list[int]) -> None:
    store = SharedStandIn()
    sessions = AsyncUserSessions(store=store)
    async with lifespan(sessions):
        ours = signal.getsignal(signal.SIGTERM)
        assert await serve(sessions) is ours
        assert store.joined == 1
