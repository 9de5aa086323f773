"""Live sessions: told once, by whichever thread, and never after their block."""

from __future__ import annotations

import asyncio
import threading

import pytest

from usersessions.live import AsyncClose, AsyncSession, Close, Session
from usersessions.models import Disconnect, Identity

IDENTITY = Identity("42", meta={"secret": "swordfish"}, labels={"device": "phone"})
ENDED = Disconnect(3000, "connection closed")


class Keeper:
    """Notes what a session asks of its facade."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def touch(self, client: str, user: str) -> None:
        self.asked.append(("touch", client, user))

    def rebind(self, client: str, user: str, token: str) -> None:
        self.asked.append(("rebind", client, user, token))


class AsyncKeeper(Keeper):
    """The same, awaited."""

    async def rebind(self, client: str, user: str, token: str) -> None:  # type: ignore[override]
        super().rebind(client, user, token)


def blocking(close: Close | None = None, keeper: Keeper | None = None) -> Session:
    return Session("c1", IDENTITY, 1.0, close=close, keeper=keeper or Keeper())


def awaited(close: AsyncClose | None = None, keeper: AsyncKeeper | None = None) -> AsyncSession:
    return AsyncSession("c1", IDENTITY, 1.0, close=close, keeper=keeper or AsyncKeeper())


def test_a_session_shows_its_client_user_and_labels_and_no_more() -> None:
    session = blocking()
    assert (session.client, session.user, session.labels) == ("c1", "42", {"device": "phone"})
    assert repr(session) == "Session(client='c1', user='42')"


def test_close_is_called_in_the_thread_that_tells() -> None:
    called: list[tuple[Disconnect, int]] = []
    session = blocking(lambda told: called.append((told, threading.get_ident())))
    session.tell(Disconnect(4001))
    assert called == [(Disconnect(4001), threading.get_ident())]
    assert session.disconnect == Disconnect(4001)


def test_a_session_without_close_notes_its_disconnect() -> None:
    session = blocking()
    session.tell(Disconnect(4001))
    assert session.disconnect == Disconnect(4001)


def test_close_is_not_called_after_the_block(caplog: pytest.LogCaptureFixture) -> None:
    called: list[Disconnect] = []
    session = blocking(called.append)
    assert session.end() == ENDED
    session.tell(Disconnect(4001))
    assert called == []


def test_a_close_that_fails_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def close(told: Disconnect) -> None:
        raise LookupError("the app's own")

    blocking(close).tell(Disconnect(4001))
    (record,) = caplog.records
    assert record.message == "the close callback of client c1 failed"
    assert record.exc_info is not None and record.exc_info[0] is LookupError


@pytest.mark.anyio
async def test_closed_gives_the_disconnect_told_from_another_thread() -> None:
    session = awaited()
    waiting = session.closed
    await asyncio.to_thread(session.tell, Disconnect(4001))
    assert await waiting == Disconnect(4001)
    assert await session.closed == Disconnect(4001)
    assert session.disconnect == Disconnect(4001)


@pytest.mark.anyio
async def test_closed_gives_3000_when_the_block_ends_untold() -> None:
    session = awaited()
    waiting = session.closed
    session.end()
    assert await waiting == ENDED
    assert await session.closed == ENDED


@pytest.mark.anyio
async def test_a_wait_that_is_cancelled_cancels_no_other() -> None:
    session = awaited()
    first, second = session.closed, session.closed
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(first, 0.001)
    session.tell(Disconnect(4001))
    assert await second == Disconnect(4001)


@pytest.mark.anyio
async def test_only_the_first_disconnect_counts_and_close_runs_once() -> None:
    called: list[Disconnect] = []
    session = awaited(called.append)
    session.tell(Disconnect(4001))
    session.tell(Disconnect(4002))
    assert await session.closed == Disconnect(4001)
    await asyncio.sleep(0)
    assert called == [Disconnect(4001)]


@pytest.mark.anyio
async def test_a_close_told_but_not_yet_run_is_dropped_with_its_block() -> None:
    called: list[Disconnect] = []
    session = awaited(called.append)
    session.tell(Disconnect(4001))
    assert session.end() == Disconnect(4001)
    await asyncio.sleep(0)
    assert called == []
    assert session.disconnect == await session.closed == Disconnect(4001)


@pytest.mark.anyio
async def test_both_kinds_of_session_say_alike_how_they_end() -> None:
    for session in (blocking(), awaited()):
        assert session.disconnect is None
        session.tell(Disconnect(4001))
        assert session.disconnect == Disconnect(4001)
        assert session.end() == session.disconnect == Disconnect(4001)
    for session in (blocking(), awaited()):
        assert session.end() == session.disconnect == ENDED
        session.tell(Disconnect(4001))
        assert session.disconnect == ENDED


@pytest.mark.anyio
async def test_an_async_close_runs_to_its_end() -> None:
    done = asyncio.Event()

    async def close(told: Disconnect) -> None:
        await asyncio.sleep(0)
        done.set()

    session = awaited(close)
    session.tell(Disconnect(4001))
    await asyncio.wait_for(done.wait(), 5)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_an_async_close_that_fails_is_logged(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def plain(told: Disconnect) -> None:
        raise LookupError("the app's own")

    async def eventually(told: Disconnect) -> None:
        raise LookupError("the app's own")

    session = awaited(plain if kind == "plain" else eventually)
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

    session = awaited(close)
    session.tell(Disconnect(4001))
    await started.wait()
    for _ in range(3):
        await asyncio.sleep(0)
    assert caplog.records == []


def test_a_session_that_outlived_its_loop_is_told_without_harm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def make() -> AsyncSession:
        return awaited()

    asyncio.run(make()).tell(Disconnect(4001))
    assert [record.message for record in caplog.records] == ["client c1 outlived its event loop"]


@pytest.mark.anyio
async def test_a_session_asks_its_facade_to_touch_and_refresh_it() -> None:
    keeper, async_keeper = Keeper(), AsyncKeeper()
    session, async_session = blocking(keeper=keeper), awaited(keeper=async_keeper)
    session.touch()
    session.refresh("a token")
    async_session.touch()
    await async_session.refresh("a token")
    asked = [("touch", "c1", "42"), ("rebind", "c1", "42", "a token")]
    assert keeper.asked == async_keeper.asked == asked
