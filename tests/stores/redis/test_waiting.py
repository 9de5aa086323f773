"""How callers wait: a thread that blocks, a task that awaits."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from usersessions.flows import Request
from usersessions.stores.redis.asks import Ask, Late, Pause, Paused
from usersessions.stores.redis.entries import Mail
from usersessions.stores.redis.line import Answers, Call, Failed, Line, Outcome
from usersessions.stores.redis.waiting import ask_awaited, ask_blocking
from usersessions.stores.redis.waits import Wait

CALLS = [Call("PING", is_script=False)]
SOON = 5.0
ANSWERED = Answers((b"PONG",))


class StandInLine:
    """A line that keeps what is submitted; a test says when it is done."""

    def __init__(self, *, now: Outcome | None = None) -> None:
        self.now = now
        self.waiting: list[Callable[[Outcome], None]] = []

    def submit(
        self, calls: Sequence[Call], done: Callable[[Outcome], None], *, until: float
    ) -> None:
        self.waiting.append(done)
        if self.now is not None:
            done(self.now)


def line(**settings: Any) -> Any:
    return StandInLine(**settings)


def soon(seconds: float = SOON) -> float:
    return time.monotonic() + seconds


def in_thread(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


# Blocking -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [ANSWERED, Failed("it answered OOM")])
def test_a_thread_is_given_what_came(outcome: Outcome) -> None:
    assert ask_blocking(line(now=outcome), Ask(CALLS, soon())) == outcome


def test_a_thread_waits_no_longer_than_it_says_and_what_comes_later_is_told() -> None:
    one, heard = line(), cast(list[Outcome], [])
    assert ask_blocking(one, Ask(CALLS, soon(0.02), heard.append)) == Late()
    assert heard == []
    one.waiting[0](ANSWERED)
    assert heard == [ANSWERED]


def test_who_else_wants_to_know_is_told_first() -> None:
    order: list[str] = []
    one = line()
    thread = in_thread(
        lambda: order.append(
            type(ask_blocking(one, Ask(CALLS, soon(), lambda _: order.append("also")))).__name__
        )
    )
    while not one.waiting:
        time.sleep(0)
    one.waiting[0](ANSWERED)
    thread.join(SOON)
    assert order == ["also", "Answers"]


def test_a_thread_pauses_until_others_have_answered_and_no_longer() -> None:
    assert ask_blocking(line(), Pause(Wait(["0a"], for_ends=False), soon(0.02))) == Paused()
    wait = Wait(["0a"], for_ends=False)
    began = time.monotonic()
    thread = in_thread(lambda: wait.note(Mail("7f", ("0a",), told=())))
    assert ask_blocking(line(), Pause(wait, soon())) == Paused()
    thread.join()
    assert time.monotonic() - began < SOON / 2


def test_a_thread_refuses_what_is_no_request_of_this_store() -> None:
    with pytest.raises(TypeError, match="not a request of this store: Request"):
        ask_blocking(line(), Request())


# Awaited ------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_task_is_given_what_came_from_another_thread() -> None:
    one = line()
    heard: list[Outcome] = []
    tasks = [
        asyncio.create_task(ask_awaited(one, Ask(CALLS, soon(), heard.append))) for _ in range(3)
    ]
    await reach(lambda: len(one.waiting) == 3)
    # All that arrive together are brought together.
    thread = in_thread(lambda: [done(ANSWERED) for done in one.waiting])
    assert await asyncio.gather(*tasks) == [ANSWERED] * 3
    thread.join()
    assert heard == [ANSWERED] * 3


@pytest.mark.anyio
async def test_a_task_waits_no_longer_than_it_says_and_what_comes_later_is_told() -> None:
    one, heard = line(), cast(list[Outcome], [])
    assert await ask_awaited(one, Ask(CALLS, soon(0.02), heard.append)) == Late()
    one.waiting[0](ANSWERED)
    await asyncio.sleep(0)
    assert heard == [ANSWERED]
    # What comes once is not taken for what is asked later.
    other = line(now=Failed("it answered OOM"))
    assert await ask_awaited(other, Ask(CALLS, soon())) == Failed("it answered OOM")


@pytest.mark.anyio
async def test_a_task_that_is_cancelled_is_gone_and_others_are_answered() -> None:
    one = line()
    first, second = (asyncio.create_task(ask_awaited(one, Ask(CALLS, soon()))) for _ in range(2))
    await reach(lambda: len(one.waiting) == 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    for done in one.waiting:
        done(ANSWERED)
    assert await second == ANSWERED


@pytest.mark.anyio
async def test_a_task_pauses_until_others_have_answered_and_no_longer() -> None:
    assert await ask_awaited(line(), Pause(Wait(["0a"], for_ends=False), soon(0.02))) == Paused()
    wait = Wait(["0a"], for_ends=False)
    began = time.monotonic()
    task = asyncio.create_task(ask_awaited(line(), Pause(wait, soon())))
    thread = in_thread(lambda: wait.note(Mail("7f", ("0a",), told=())))
    assert await task == Paused()
    thread.join()
    assert time.monotonic() - began < SOON / 2


@pytest.mark.anyio
async def test_a_task_refuses_what_is_no_request_of_this_store() -> None:
    with pytest.raises(TypeError, match="not a request of this store: Request"):
        await ask_awaited(line(), Request())


def test_what_comes_after_the_loop_was_closed_is_nobodys_and_keeps_no_loop() -> None:
    one, waits = line(), [Wait(["0a"], for_ends=False)]
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def leave() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        for _ in range(3):
            assert await ask_awaited(one, Ask(CALLS, soon(0.01))) == Late()
        assert await ask_awaited(one, Pause(waits[0], soon(0.01))) == Paused()
        # It is on its way when the loop is closed.
        one.waiting[0](ANSWERED)

    asyncio.run(leave())
    while one.waiting:
        one.waiting.pop()(ANSWERED)
    waits.pop().note(Mail("7f", ("0a",), told=()))
    gc.collect()
    assert [loop() for loop in loops] == [None]


@pytest.mark.anyio
async def test_what_comes_for_a_task_that_is_gone_is_passed_over() -> None:
    one = line()
    for _ in range(2):
        assert await ask_awaited(one, Ask(CALLS, soon(0))) == Late()
    one.waiting[0](ANSWERED)
    one.waiting.clear()
    gc.collect()
    assert await ask_awaited(line(now=ANSWERED), Ask(CALLS, soon())) == ANSWERED


def test_each_loop_is_brought_its_own() -> None:
    for _ in range(2):
        assert asyncio.run(ask_awaited(line(now=ANSWERED), Ask(CALLS, soon()))) == ANSWERED


def test_a_line_is_what_it_stands_in_for() -> None:
    assert set(vars(StandInLine)) & set(vars(Line)) >= {"submit"}


async def reach(probe: Callable[[], bool]) -> None:
    deadline = soon()
    while not probe():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)
