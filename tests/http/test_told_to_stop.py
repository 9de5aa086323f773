"""Workers that hear no signal, but are handed an event, as those of hypercorn are."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from types import SimpleNamespace

import pytest

from usersessions import AsyncUserSessions, Disconnect
from usersessions.http.lifespan import lifespan
from usersessions.http.workers import told_to_stop


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The event that this process is handed."""
    event = threading.Event()
    worker = SimpleNamespace(_kwargs={"shutdown_event": event})
    monkeypatch.setattr(multiprocessing, "current_process", lambda: worker)
    return event


def test_what_is_asked_is_the_event(told: threading.Event) -> None:
    is_told = told_to_stop()
    assert is_told is not None and not is_told()
    told.set()
    assert is_told()


@pytest.mark.anyio
async def test_sessions_end_when_the_event_is_set_while_the_server_goes_on(
    told: threading.Event,
) -> None:
    sessions = AsyncUserSessions()
    async with (
        lifespan(sessions),
        sessions.connect(user="42", transport="test") as session,
    ):
        asyncio.get_running_loop().call_later(0.25, told.set)
        assert await asyncio.wait_for(session.closed, 5.0) == Disconnect(3001, "shutdown")


@pytest.mark.anyio
async def test_a_server_may_stop_without_setting_it(told: threading.Event) -> None:
    sessions = AsyncUserSessions()
    async with lifespan(sessions):
        await asyncio.sleep(0)
    assert not told.is_set()
