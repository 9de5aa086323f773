"""Live sessions: told once, by whichever thread, and never after their block."""

from __future__ import annotations

import asyncio
import threading

import pytest

from usersessions.live import AsyncSession, Session
from usersessions.models import Disconnect, Identity

IDENTITY = Identity("42", meta={"secret": "swordfish"}, labels={"device": "phone"})
ENDED = Disconnect(3000, "connection closed")


def test_a_session_shows_its_client_user_and_labels_and_no_more() -> None:
    session = Session("c1", IDENTITY, None)
    assert (session.client, session.user, session.labels) == ("c1", "42", {"device": "phone"})
    assert repr(session) == "Session(client='c1', user='42')"


def test_close_is_called_in_the_thread_that_tells() -> None:
    called: list[tuple[Disconnect, int]] = []
    session = Session("c1", IDENTITY, lambda told: called.append((told, threading.get_ident())))
    session.tell(Disconnect(4001))
    assert called == [(Disconnect(4001), threading.get_ident())]
    assert session.disconnect == Disconnect(4001)


def test_a_session_without_close_notes_its_disconnect() -> None:
    session = Session("c1", IDENTITY, None)
    session.tell(Disconnect(4001))
    assert session.disconnect == Disconnect(4001)


def test_close_is_not_called_after_the_block(caplog: pytest.LogCaptureFixture) -> None:
    called: list[Disconnect] = []
    session = Session("c1", IDENTITY, called.append)
    session.end()
    session.tell(Disconnect(4001))
    assert called == []


def test_a_close_that_fails_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def close(told: Disconnect) -> None:
        raise LookupError("the app's own")

    Session("c1", IDENTITY, close).tell(Disconnect(4001))
    (record,) = caplog.records
    assert record.message == "the close callback of client c1 failed"
    assert record.exc_info is not None and record.exc_info[0] is LookupError


@pytest.mark.anyio
async def test_closed_gives_the_disconnect_told_from_another_thread() -> None:
    session = AsyncSession("c1", IDENTITY, None)
    waiting = session.closed
    await asyncio.to_thread(session.tell, Disconnect(4001))
    assert await waiting == Disconnect(4001)
    assert await session.closed == Disconnect(4001)
    assert session.disconnect == Disconnect(4001)


@pytest.mark.anyio
async def test_closed_gives_3000_when_the_block_ends_untold() -> None:
    session = AsyncSession("c1", IDENTITY, None)
    waiting = session.closed
    session.end()
    assert await waiting == ENDED
    assert await session.closed == ENDED


@pytest.mark.anyio
async def test_a_wait_that_is_cancelled_cancels_no_other() -> None:
    session = AsyncSession("c1", IDENTITY, None)
    first, second = session.closed, session.closed
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(first, 0.001)
    session.tell(Disconnect(4001))
    assert await second == Disconnect(4001)


@pytest.mark.anyio
async def test_only_the_first_disconnect_counts_and_close_runs_once() -> None:
    called: list[Disconnect] = []
    session = AsyncSession("c1", IDENTITY, called.append)
    session.tell(Disconnect(4001))
    session.tell(Disconnect(4002))
    assert await session.closed == Disconnect(4001)
    await asyncio.sleep(0)
    assert called == [Disconnect(4001)]


@pytest.mark.anyio
async def test_a_close_told_but_not_yet_run_is_dropped_with_its_block() -> None:
    called: list[Disconnect] = []
    session = AsyncSession("c1", IDENTITY, called.append)
    session.tell(Disconnect(4001))
    session.end()
    await asyncio.sleep(0)
    assert called == []
    assert session.disconnect == ENDED


@pytest.mark.anyio
async def test_an_async_close_runs_to_its_end() -> None:
    done = asyncio.Event()

    async def close(told: Disconnect) -> None:
        await asyncio.sleep(0)
        done.set()

    session = AsyncSession("c1", IDENTITY, close)
    session.tell(Disconnect(4001))
    await asyncio.wait_for(done.wait(), 5)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_an_async_close_that_fails_is_logged(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def plain(told: Disconnect) -> None:
        raise LookupError("the app's own")

    async def awaited(told: Disconnect) -> None:
        raise LookupError("the app's own")

    session = AsyncSession("c1", IDENTITY, plain if kind == "plain" else awaited)
    session.tell(Disconnect(4001))
    await session.closed
    for _ in range(3):
        await asyncio.sleep(0)
    (record,) = caplog.records
    assert record.message == "the close callback of client c1 failed"
    assert record.exc_info is not None and record.exc_info[0] is LookupError


@pytest.mark.anyio
async def test_a_cancelled_close_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    started = asyncio.Event()

    async def close(told: Disconnect) -> None:
        started.set()
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    session = AsyncSession("c1", IDENTITY, close)
    session.tell(Disconnect(4001))
    await started.wait()
    for _ in range(3):
        await asyncio.sleep(0)
    assert caplog.records == []


def test_a_session_that_outlived_its_loop_is_told_without_harm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def make() -> AsyncSession:
        return AsyncSession("c1", IDENTITY, None)

    asyncio.run(make()).tell(Disconnect(4001))
    assert [record.message for record in caplog.records] == ["client c1 outlived its event loop"]
