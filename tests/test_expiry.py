"""The timers: one for all sessions of a node, on a loop or in a thread, by whatever clock."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from usersessions.models import Disconnect
from usersessions.node import Node
from usersessions.registry import Tell
from usersessions.sessions import expiry
from usersessions.sessions.expiry import LoopExpiry, ThreadExpiry

EXPIRED = Disconnect(3005, "connection expired")
RECORD = b'{}\n{"connected_at":0}'


class World:
    """A node on a clock that a test sets, and what its clients were told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.node = Node(lambda: self.now)
        self.told: list[str] = []

    def add(self, client: str, deadline: float, tell: Tell | None = None) -> None:
        def note(disconnect: Disconnect) -> None:
            assert disconnect == EXPIRED
            self.told.append(client)

        self.node.registry.add("42", client, RECORD, tell or note, deadline=deadline)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def timer(world: World) -> Iterator[ThreadExpiry]:
    one = ThreadExpiry(world.node)
    yield one
    one.stop()


def until(probe: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10.0
    while not probe():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


async def auntil(probe: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10.0
    while not probe():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0)


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "usersessions-expiry"]


# In a thread ----------------------------------------------------------------------------------


def test_there_is_no_thread_as_long_as_nothing_expires(world: World, timer: ThreadExpiry) -> None:
    timer.arm()
    assert threads() == []


def test_one_thread_serves_all_and_goes_when_nothing_is_left(
    world: World, timer: ThreadExpiry
) -> None:
    world.add("c1", 10.0)
    timer.arm()
    world.add("c2", 20.0)
    timer.arm()
    assert len(threads()) == 1
    world.now = 10.0
    timer.arm()
    until(lambda: world.told == ["c1"])
    world.now = 20.0
    timer.arm()
    until(lambda: world.told == ["c1", "c2"])
    until(lambda: threads() == [])


def test_a_clock_that_is_set_forward_is_noticed(
    world: World, timer: ThreadExpiry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "_LONGEST", 0.001)
    world.add("c1", 1e9)
    timer.arm()
    world.now = 1e9
    until(lambda: world.told == ["c1"])


def test_a_clock_that_is_set_back_delays_and_loses_nothing(
    world: World, timer: ThreadExpiry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "_LONGEST", 0.001)
    world.now = 9.0
    world.add("c1", 10.0)
    timer.arm()
    world.now = -1e9
    timer.arm()
    assert world.told == []
    world.now = 10.0
    until(lambda: world.told == ["c1"])


def test_stopping_ends_the_thread_and_a_later_deadline_starts_another(
    world: World, timer: ThreadExpiry
) -> None:
    timer.stop()
    world.add("c1", 10.0)
    timer.arm()
    timer.stop()
    assert threads() == []
    # As where an app is served again: its sessions expire like the ones before.
    world.now = 10.0
    timer.arm()
    until(lambda: world.told == ["c1"])


def test_a_close_may_stop_the_very_timer_that_calls_it(world: World, timer: ThreadExpiry) -> None:
    stopped = threading.Event()

    def close(disconnect: Disconnect) -> None:
        timer.stop()
        stopped.set()

    world.add("c1", 0.0, close)
    world.add("c2", 10.0)
    timer.arm()
    assert stopped.wait(10.0)
    until(lambda: threads() == [])


def test_stopping_does_not_wait_for_a_close_that_hangs(
    world: World, timer: ThreadExpiry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "_PATIENCE", 0.001)
    hanging, release = threading.Event(), threading.Event()

    def close(disconnect: Disconnect) -> None:
        hanging.set()
        release.wait(10.0)

    world.add("c1", 0.0, close)
    timer.arm()
    assert hanging.wait(10.0)
    timer.stop()
    assert len(threads()) == 1
    release.set()
    until(lambda: threads() == [])


def test_what_a_close_raises_does_not_end_the_timer(
    world: World, timer: ThreadExpiry, caplog: pytest.LogCaptureFixture
) -> None:
    def close(disconnect: Disconnect) -> None:
        raise SystemExit("swordfish")

    world.add("c1", 0.0, close)
    world.add("c2", 0.0)
    world.add("c3", 10.0)
    timer.arm()
    until(lambda: world.told == ["c2"])
    world.now = 10.0
    timer.arm()
    until(lambda: world.told == ["c2", "c3"])
    failures = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
    assert failures == ["a session that expired was not told to end"]


def test_a_thread_that_cannot_start_is_tried_again(
    world: World, timer: ThreadExpiry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    world.add("c1", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_more)
        with pytest.raises(RuntimeError, match="can't start"):
            timer.arm()
    timer.arm()
    until(lambda: world.told == ["c1"])


FORK = """
import os, threading, time
from usersessions import Identity, UserSessions

sessions = UserSessions()
identity = Identity("42", expire_at=time.time() + 3600)
soon = Identity("42", expire_at=time.time() - 25)
with sessions.connect(identity=identity, transport="sse"):
    (timer,) = sessions._expiry._timers.values()
    # Held over the fork, as the parent's timer could hold it.
    with timer._changed:
        child = os.fork()
        if child == 0:
            sessions.close(timeout=0)
            sessions.operations.node.draining = False
            told = threading.Event()
            with sessions.connect(
                identity=soon, transport="sse", close=lambda disconnect: told.set()
            ):
                print(told.wait(10), sessions.operations.node.registry.counts(), flush=True)
            sessions.close(timeout=0)
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
sessions.close()
print("closed")
"""


def test_a_forked_child_has_a_timer_of_its_own_whatever_its_parents_held() -> None:
    # In a process of its own: forking one that has threads is deprecated.
    output = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert output == "True (1, 1)\nclosed\n"


# On a loop ------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_loop_tells_when_time_is_up_and_then_waits_for_the_next(world: World) -> None:
    timer = LoopExpiry(world.node)
    timer.arm()
    world.add("c1", 0.0)
    world.add("c2", 0.0)
    timer.arm()
    await auntil(lambda: world.told == ["c1", "c2"])
    assert world.node.registry.next_deadline is None


@pytest.mark.anyio
async def test_a_loop_notices_a_clock_that_is_set(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "_LONGEST", 0.001)
    timer = LoopExpiry(world.node)
    world.add("c1", 1e9)
    timer.arm()
    world.now = -1e9
    await asyncio.sleep(0)
    world.now = 1e9
    await auntil(lambda: world.told == ["c1"])


@pytest.mark.anyio
async def test_a_loop_waits_for_nothing_once_it_was_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = LoopExpiry(world.node)
    world.add("c1", 0.0)
    timer.arm()
    timer.stop()
    timer.stop()
    for _ in range(5):
        await asyncio.sleep(0)
    assert world.told == []
    timer.arm()
    await auntil(lambda: world.told == ["c1"])


def test_loops_may_follow_one_another(world: World) -> None:
    timer = LoopExpiry(world.node)

    async def arm() -> None:
        timer.arm()

    async def arm_and_wait() -> None:
        timer.arm()
        await auntil(lambda: world.told)

    world.add("c1", 10.0)
    for _ in range(3):
        asyncio.run(arm())
    world.now = 10.0
    asyncio.run(arm_and_wait())
    assert world.told == ["c1"]
    assert len(timer._timers) <= 1


def test_a_loop_that_comes_and_goes_does_not_stop_the_timer_of_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "_LONGEST", 0.001)
    timer = LoopExpiry(world.node)

    async def arm() -> None:
        timer.arm()

    world.add("c1", 10.0)
    lasting = asyncio.new_event_loop()
    try:
        lasting.run_until_complete(arm())
        # As an awaited call from a thread without a loop would do it.
        asyncio.run(arm())
        world.now = 10.0
        lasting.run_until_complete(auntil(lambda: world.told == ["c1"]))
    finally:
        lasting.close()


def test_what_a_close_raises_does_not_end_the_timer_of_a_loop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "_LONGEST", 0.001)

    def close(disconnect: Disconnect) -> None:
        raise KeyboardInterrupt

    timer = LoopExpiry(world.node)

    async def arm() -> None:
        timer.arm()
        await asyncio.Event().wait()

    async def wait() -> None:
        await auntil(lambda: world.told == ["c2", "c3"])

    world.add("c1", 0.0, close)
    world.add("c2", 0.0)
    world.add("c3", 10.0)
    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(arm())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        world.now = 10.0
        loop.run_until_complete(wait())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    finally:
        loop.close()
