"""Servers that never say that they start: signals are heard from the first connection on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from tests.standins import SharedStandIn
from usersessions import AsyncUserSessions, Disconnect
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


@pytest.mark.anyio
async def test_where_a_lifespan_was_entered_there_is_nothing_to_do(heard: list[int]) -> None:
    store = SharedStandIn()
    sessions = AsyncUserSessions(store=store)
    async with lifespan(sessions):
        ours = signal.getsignal(signal.SIGTERM)
        assert await serve(sessions) is ours
        assert store.joined == 1
