"""Signals: sessions end first, then the server has the signal, and no handler is lost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from tests.http.exchange import settle
from tests.servers import until as servers_until
from tests.standins import SharedStandIn
from usersessions import AsyncUserSessions, ConnectRefused, Disconnect, UserSessions
from usersessions.http.lifespan import (
    LAST_FRAMES_SECONDS,
    drainable_lifespan,
    end_with_server,
    lifespan,
)
from usersessions.http.signals import SignalRelay, server_is_listening

BOTH_SIGNALS = pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name
)
SHUTDOWN = Disconnect(3001, "shutdown")


class Handler:
    """A signal handler that counts, and tells how many sessions there were."""

    def __init__(self, sessions: AsyncUserSessions | UserSessions) -> None:
        self._registry = sessions.operations.node.registry
        self.heard: list[tuple[int, int]] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.heard.append((number, self._registry.counts()[0]))


@pytest.fixture
def sessions() -> AsyncUserSessions:
    return AsyncUserSessions()


@pytest.fixture
def server(sessions: AsyncUserSessions) -> Iterator[Handler]:
    """The handler of a server, in place for both signals as long as the test runs."""
    handler = Handler(sessions)
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    yield handler
    for number, previous in before.items():
        signal.signal(number, previous)


def in_place(number: int) -> object:
    return signal.getsignal(number)


class Held:
    """A session that is held by a task, which ends when told; or never, if it is stubborn."""

    def __init__(self, sessions: AsyncUserSessions, *, stubborn: bool = False) -> None:
        self._sessions = sessions
        self._stubborn = stubborn
        self._registered = asyncio.Event()
        self.told: Disconnect | None = None
        self._task = asyncio.ensure_future(self._hold())

    async def _hold(self) -> None:
        async with self._sessions.connect(user="42", transport="test") as session:
            self._registered.set()
            self.told = await session.closed
            if self._stubborn:
                await asyncio.Event().wait()

    async def begin(self) -> None:
        await self._registered.wait()

    async def until_told(self) -> None:
        while self.told is None:
            await asyncio.sleep(0)

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


async def until(probe: Callable[[], object]) -> None:
    """Ask again and again, at most for a few seconds."""
    deadline = asyncio.get_running_loop().time() + 5.0
    while not probe():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.001)


@pytest.mark.anyio
async def test_sessions_are_told_3001_when_the_lifespan_is_over(
    sessions: AsyncUserSessions,
) -> None:
    async with lifespan(sessions):
        held = Held(sessions)
        await held.begin()
    assert held.told == SHUTDOWN
    assert sessions.operations.node.registry.counts() == (0, 0)
    with pytest.raises(ConnectRefused):
        async with sessions.connect(user="42", transport="test"):
            pass


@pytest.mark.anyio
async def test_a_server_joins_the_others_at_its_start_and_leaves_them_at_its_end() -> None:
    store = SharedStandIn()
    async with lifespan(AsyncUserSessions(store=store)):
        assert (store.joined, store.closed) == (1, [])
    assert (store.joined, len(store.closed)) == (1, 1)


@pytest.mark.anyio
async def test_sessions_end_also_when_what_is_inside_the_lifespan_fails(
    sessions: AsyncUserSessions,
) -> None:
    held = Held(sessions)
    with pytest.raises(LookupError):
        async with lifespan(sessions):
            await held.begin()
            raise LookupError
    assert held.told == SHUTDOWN


@BOTH_SIGNALS
@pytest.mark.anyio
async def test_a_signal_ends_the_sessions_first_and_reaches_the_server_then(
    sessions: AsyncUserSessions, server: Handler, number: signal.Signals
) -> None:
    async with lifespan(sessions):
        held = Held(sessions)
        await held.begin()
        signal.raise_signal(number)
        assert server.heard == []
        await until(lambda: server.heard)
        assert held.told == SHUTDOWN
        assert in_place(signal.SIGINT) is server
        assert in_place(signal.SIGTERM) is server
    assert server.heard == [(number, 0)]


@pytest.mark.anyio
async def test_the_handlers_are_put_back_when_the_lifespan_is_over(
    sessions: AsyncUserSessions, server: Handler
) -> None:
    async with lifespan(sessions):
        assert in_place(signal.SIGINT) is not server
        assert in_place(signal.SIGTERM) is not server
    assert in_place(signal.SIGINT) is server
    assert in_place(signal.SIGTERM) is server


@BOTH_SIGNALS
@pytest.mark.anyio
async def test_a_second_signal_goes_straight_to_the_server(
    sessions: AsyncUserSessions, server: Handler, number: signal.Signals
) -> None:
    async with lifespan(sessions):
        held = Held(sessions, stubborn=True)
        await held.begin()
        signal.raise_signal(signal.SIGTERM)
        await held.until_told()
        assert server.heard == []
        signal.raise_signal(number)
        assert server.heard == [(number, 1)]
        await held.stop()
        await until(lambda: len(server.heard) == 2)
    assert server.heard == [(number, 1), (signal.SIGTERM, 0)]


@pytest.mark.anyio
async def test_two_signals_at_once_are_both_heard_by_the_server(
    sessions: AsyncUserSessions, server: Handler
) -> None:
    async with lifespan(sessions):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        await until(lambda: len(server.heard) == 2)
    assert [number for number, _ in server.heard] == [signal.SIGINT, signal.SIGTERM]


@pytest.mark.anyio
async def test_a_signal_that_the_process_ignores_stays_ignored(
    sessions: AsyncUserSessions, server: Handler
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    async with lifespan(sessions):
        assert in_place(signal.SIGINT) is signal.SIG_IGN
        held = Held(sessions)
        await held.begin()
        signal.raise_signal(signal.SIGINT)
        await settle()
        assert held.told is None
    assert in_place(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.anyio
async def test_a_signal_still_reaches_the_server_when_the_lifespan_ends_meanwhile(
    sessions: AsyncUserSessions, server: Handler
) -> None:
    async with lifespan(sessions):
        signal.raise_signal(signal.SIGTERM)
    await until(lambda: server.heard)
    assert [number for number, _ in server.heard] == [signal.SIGTERM]


@pytest.mark.anyio
async def test_a_handler_that_replaced_ours_is_left_alone(
    sessions: AsyncUserSessions, server: Handler
) -> None:
    later = Handler(sessions)
    async with lifespan(sessions):
        signal.signal(signal.SIGTERM, later)
        signal.raise_signal(signal.SIGTERM)
        await settle()
        assert in_place(signal.SIGTERM) is later
    assert in_place(signal.SIGTERM) is later
    assert (server.heard, len(later.heard)) == ([], 1)


@pytest.mark.anyio
async def test_a_later_handler_that_calls_ours_is_not_called_again_by_it(
    sessions: AsyncUserSessions, server: Handler
) -> None:
    calls: list[int] = []
    async with lifespan(sessions):
        ours = signal.getsignal(signal.SIGTERM)
        assert callable(ours)

        def later(number: int, frame: FrameType | None) -> None:
            calls.append(number)
            ours(number, frame)

        signal.signal(signal.SIGTERM, later)
        held = Held(sessions)
        await held.begin()
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: server.heard)
        assert held.told == SHUTDOWN
        assert (server.heard, calls) == ([(signal.SIGTERM, 0)], [signal.SIGTERM])
        signal.raise_signal(signal.SIGTERM)
        assert len(server.heard) == len(calls) == 2


@pytest.mark.anyio
async def test_ours_put_back_when_it_is_long_over_still_leads_to_the_server(
    sessions: AsyncUserSessions, server: Handler
) -> None:
    async with lifespan(sessions):
        ours = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, ours)
    signal.raise_signal(signal.SIGTERM)
    await until(lambda: server.heard)
    assert server.heard == [(signal.SIGTERM, 0)]
    assert in_place(signal.SIGTERM) is server


def test_ours_put_back_after_its_event_loop_still_leads_to_the_server(
    sessions: AsyncUserSessions, server: Handler
) -> None:
    async def serve() -> Any:
        async with lifespan(sessions):
            ours = signal.getsignal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return ours

    signal.signal(signal.SIGTERM, asyncio.run(serve()))
    signal.raise_signal(signal.SIGTERM)
    assert server.heard == [(signal.SIGTERM, 0)]


def test_a_signal_while_the_event_loop_does_not_run_goes_straight_to_the_server(
    sessions: AsyncUserSessions, server: Handler
) -> None:
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        entered = lifespan(sessions)
        loop.run_until_complete(entered.__aenter__())
        signal.raise_signal(signal.SIGTERM)
        assert server.heard == [(signal.SIGTERM, 0)]
        loop.run_until_complete(entered.__aexit__(None, None, None))


@pytest.mark.anyio
async def test_of_two_lifespans_over_the_same_sessions_the_last_to_end_ends_them(
    sessions: AsyncUserSessions, server: Handler
) -> None:
    async with lifespan(sessions):
        held = Held(sessions)
        await held.begin()
        async with lifespan(sessions):
            pass
        await settle()
        assert held.told is None
        async with sessions.connect(user="43", transport="test"):
            pass
    assert held.told == SHUTDOWN


@pytest.mark.anyio
async def test_a_server_that_says_before_that_it_ends_ends_the_sessions_unless_others_serve_them(
    sessions: AsyncUserSessions, server: Handler
) -> None:
    held = Held(sessions)
    async with (
        drainable_lifespan(sessions) as drain,
        drainable_lifespan(sessions) as drain_other,
    ):
        await held.begin()
        await drain_other()
        await settle()
        assert held.told is None
        # This one is the last that goes on.
        await drain()
        assert held.told == SHUTDOWN


@pytest.mark.anyio
async def test_who_enters_while_others_are_told_to_stop_does_not_have_them_go_on(
    sessions: AsyncUserSessions, server: Handler
) -> None:
    async with lifespan(sessions):
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: server.heard)
        async with lifespan(sessions):
            assert sessions.operations.node.draining
    async with lifespan(sessions):
        assert not sessions.operations.node.draining


def test_a_lifespan_whose_event_loop_was_left_without_a_word_holds_nothing_up(
    sessions: AsyncUserSessions, server: Handler
) -> None:
    left = asyncio.new_event_loop()
    entered = lifespan(sessions)
    left.run_until_complete(entered.__aenter__())

    async def serve() -> Disconnect | None:
        async with lifespan(sessions):
            held = Held(sessions)
            await held.begin()
        return held.told

    assert asyncio.run(serve()) == SHUTDOWN
    left.run_until_complete(entered.__aexit__(None, None, None))
    left.close()


@pytest.mark.anyio
async def test_two_lifespans_in_one_process_both_end_their_sessions(
    sessions: AsyncUserSessions, server: Handler
) -> None:
    others = AsyncUserSessions()
    async with lifespan(sessions), lifespan(others):
        held = [Held(sessions), Held(others)]
        for one in held:
            await one.begin()
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: server.heard)
        assert [one.told for one in held] == [SHUTDOWN, SHUTDOWN]
    assert server.heard == [(signal.SIGTERM, 0)]
    assert in_place(signal.SIGTERM) is server


@pytest.mark.anyio
async def test_two_lifespans_that_end_in_the_wrong_order_do_not_swallow_a_signal(
    sessions: AsyncUserSessions, server: Handler
) -> None:
    first, second = lifespan(sessions), lifespan(AsyncUserSessions())
    await first.__aenter__()
    await second.__aenter__()
    await first.__aexit__(None, None, None)
    await second.__aexit__(None, None, None)
    signal.raise_signal(signal.SIGTERM)
    await until(lambda: server.heard)
    assert len(server.heard) == 1


def test_in_a_thread_no_handler_is_touched_and_sessions_end_all_the_same(
    sessions: AsyncUserSessions, server: Handler
) -> None:
    told: list[Disconnect | None] = []
    handlers: list[object] = []

    async def serve() -> None:
        async with lifespan(sessions):
            handlers.append(signal.getsignal(signal.SIGTERM))
            held = Held(sessions)
            await held.begin()
        told.append(held.told)

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    thread.join()
    assert handlers == [server]
    assert told == [SHUTDOWN]


def test_a_signal_reaches_the_server_even_if_ending_the_sessions_fails(
    sessions: AsyncUserSessions, server: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = LookupError("the app's own")

    async def fail() -> None:
        raise failure

    async def serve() -> None:
        async with lifespan(sessions):
            monkeypatch.setattr(sessions, "aclose", fail)
            signal.raise_signal(signal.SIGTERM)
            await until(lambda: server.heard)
            monkeypatch.undo()

    failures: list[object] = []
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
        loop.run_until_complete(serve())
        gc.collect()
    assert len(server.heard) == 1
    assert failures == [failure]


ALONE = """
import asyncio, signal
from usersessions import AsyncUserSessions
from usersessions.http.lifespan import lifespan

signal.signal(signal.{name}, {handler})
sessions = AsyncUserSessions()

async def serve():
    async with lifespan(sessions):
        async with sessions.connect(user="42", transport="test") as session:
            signal.raise_signal(signal.{name})
            print(await session.closed, flush=True)
        await asyncio.sleep(60)

try:
    asyncio.run(serve())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    ("name", "handler", "status", "last"),
    [
        ("SIGTERM", "signal.SIG_DFL", -signal.SIGTERM, []),
        ("SIGINT", "signal.SIG_DFL", -signal.SIGINT, []),
        ("SIGINT", "signal.default_int_handler", 0, ["interrupted"]),
    ],
)
def test_without_a_server_a_process_ends_as_it_would_without_us(
    name: str, handler: str, status: int, last: list[str]
) -> None:
    script = ALONE.format(name=name, handler=handler)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.splitlines() == ["Disconnect(code=3001, reason='shutdown')", *last]


@pytest.mark.anyio
async def test_a_signal_without_a_handler_before_ours_gets_its_default_back(
    sessions: AsyncUserSessions, server: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[tuple[int, object]] = []
    raise_signal = signal.raise_signal
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    async with lifespan(sessions):
        monkeypatch.setattr(
            signal,
            "raise_signal",
            lambda number: raised.append((number, signal.getsignal(number))),
        )
        raise_signal(signal.SIGTERM)
        await until(lambda: raised)
    assert raised == [(signal.SIGTERM, signal.SIG_DFL)]


# With threads -------------------------------------------------------------------------------------


class HeldByThread:
    """A session that is held by a thread, which ends when told; or never, if it is stubborn."""

    def __init__(self, sessions: UserSessions, *, stubborn: bool = False) -> None:
        self._sessions = sessions
        self._told = threading.Event()
        self._registered = threading.Event()
        self.stopped = threading.Event()
        if not stubborn:
            self.stopped.set()
        self.told: Disconnect | None = None
        self._thread = threading.Thread(target=self._hold)
        self._thread.start()
        assert self._registered.wait(5.0)

    def _hold(self) -> None:
        with self._sessions.connect(user="42", transport="test", close=self._tell):
            self._registered.set()
            self._told.wait()
            self.stopped.wait()

    def _tell(self, disconnect: Disconnect) -> None:
        self.told = disconnect
        self._told.set()

    def stop(self) -> None:
        self.stopped.set()
        self._told.set()
        self._thread.join()


@pytest.fixture
def blocking() -> UserSessions:
    return UserSessions()


@pytest.fixture
def served(blocking: UserSessions) -> Iterator[Handler]:
    """The handler of a server that blocks, in place for all signals that one may have."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
    handler = Handler(blocking)
    before = {number: signal.signal(number, handler) for number in numbers}
    yield handler
    for number, previous in before.items():
        signal.signal(number, previous)


def heard(server: Handler, *, times: int = 1) -> list[tuple[int, int]]:
    """What a server has heard, which is waited for in the main thread, as servers do."""
    servers_until(lambda: len(server.heard) == times, what="the signal to reach the server")
    return server.heard


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT], ids=lambda number: number.name
)
def test_a_signal_ends_the_sessions_of_threads_first_and_reaches_the_server_then(
    blocking: UserSessions, served: Handler, number: signal.Signals
) -> None:
    end_with_server(blocking)
    held = HeldByThread(blocking)
    signal.raise_signal(number)
    assert served.heard == []
    assert heard(served) == [(number, 0)]
    assert held.told == SHUTDOWN
    assert in_place(signal.SIGINT) is in_place(signal.SIGQUIT) is served
    held.stop()


def test_a_second_signal_is_not_held_up_by_a_thread_that_does_not_end(
    blocking: UserSessions, served: Handler
) -> None:
    end_with_server(blocking)
    held = HeldByThread(blocking, stubborn=True)
    signal.raise_signal(signal.SIGTERM)
    assert served.heard == []
    signal.raise_signal(signal.SIGINT)
    assert served.heard == [(signal.SIGINT, 1)]
    held.stop()
    assert heard(served, times=2)[1] == (signal.SIGTERM, 0)


def test_a_process_without_sessions_waits_for_nothing(
    blocking: UserSessions, served: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usersessions.http.lifespan.LAST_FRAMES_SECONDS", 60.0)
    end_with_server(blocking)
    signal.raise_signal(signal.SIGTERM)
    assert heard(served) == [(signal.SIGTERM, 0)]


def test_the_last_frames_of_streams_have_a_moment_to_be_sent(
    blocking: UserSessions, served: Handler
) -> None:
    end_with_server(blocking)
    held = HeldByThread(blocking)
    began = time.monotonic()
    signal.raise_signal(signal.SIGTERM)
    heard(served)
    assert time.monotonic() - began > LAST_FRAMES_SECONDS
    held.stop()


def test_a_server_with_threads_joins_the_others_when_it_is_to_end_with_its_server(
    served: Handler,
) -> None:
    store = SharedStandIn()
    end_with_server(UserSessions(store=store))
    assert (store.joined, store.closed) == (1, [])
    signal.raise_signal(signal.SIGTERM)
    heard(served)
    assert len(store.closed) == 1


def test_a_signal_that_no_thread_can_be_started_for_goes_straight_to_the_server(
    blocking: UserSessions, served: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    end_with_server(blocking)
    monkeypatch.setattr("usersessions.http.lifespan._thread.start_new_thread", fail)
    signal.raise_signal(signal.SIGTERM)
    assert served.heard == [(signal.SIGTERM, 0)]


def test_a_thread_that_cannot_start_any_more_as_the_process_ends_is_no_error(
    blocking: UserSessions, served: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    end_with_server(blocking)
    # What else runs in a bare thread, where no test would see an error.
    monkeypatch.setattr(
        "usersessions.http.lifespan._thread.start_new_thread",
        lambda begin, arguments: begin(*arguments),
    )
    monkeypatch.setattr(threading.Thread, "start", fail)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert served.heard == [(signal.SIGTERM, 0)]


def test_a_signal_reaches_the_server_even_if_ending_the_sessions_of_threads_fails(
    blocking: UserSessions, served: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise LookupError

    failures: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: failures.append(failed.exc_type))
    monkeypatch.setattr(blocking, "close", fail)
    end_with_server(blocking)
    signal.raise_signal(signal.SIGTERM)
    assert heard(served) == [(signal.SIGTERM, 0)]
    servers_until(lambda: failures, what="the failure to be reported")
    assert failures == [LookupError]


def test_a_signal_may_come_while_the_main_thread_starts_another(
    blocking: UserSessions, served: Handler
) -> None:
    end_with_server(blocking)
    # What `Thread.start` holds for a moment.
    with threading._active_limbo_lock:  # type: ignore[attr-defined]
        signal.raise_signal(signal.SIGTERM)
    assert heard(served) == [(signal.SIGTERM, 0)]


def test_in_a_thread_it_hears_no_signal(blocking: UserSessions, served: Handler) -> None:
    thread = threading.Thread(target=end_with_server, args=[blocking])
    thread.start()
    thread.join()
    assert in_place(signal.SIGTERM) is served


def test_a_quit_that_dumps_core_is_left_alone(server: Handler) -> None:
    relay = SignalRelay(lambda number, pass_on: False)
    before = in_place(signal.SIGQUIT)
    assert before is signal.SIG_DFL
    relay.begin()
    assert in_place(signal.SIGQUIT) is before
    assert in_place(signal.SIGTERM) is not server
    relay.end()


def test_a_system_without_quit_has_the_other_signals(
    server: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usersessions.http.signals._QUICK", signal.SIGTERM)
    relay = SignalRelay(lambda number, pass_on: False)
    relay.begin()
    assert in_place(signal.SIGTERM) is not server
    relay.end()
    assert in_place(signal.SIGTERM) is server


def test_a_server_is_listening_where_it_has_a_handler_of_its_own(server: Handler) -> None:
    assert server_is_listening()
    for handler in (signal.SIG_DFL, signal.SIG_IGN):
        signal.signal(signal.SIGTERM, handler)
        assert not server_is_listening()


ALONE_WITH_THREADS = """
import os, signal, threading, time
from usersessions import UserSessions
from usersessions.http.lifespan import end_with_server

signal.signal(signal.{name}, {handler})
sessions = UserSessions()
told = threading.Event()
end_with_server(sessions)

def close(disconnect):
    print(disconnect, flush=True)
    told.set()

def hold(registered):
    with sessions.connect(user="42", transport="test", close=close):
        registered.set()
        told.wait()

registered = threading.Event()
threading.Thread(target=hold, args=[registered]).start()
registered.wait()
try:
    {act}
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    ("name", "handler", "status", "last"),
    [
        ("SIGTERM", "signal.SIG_DFL", -signal.SIGTERM, []),
        ("SIGINT", "signal.SIG_DFL", -signal.SIGINT, []),
        ("SIGINT", "signal.default_int_handler", 0, ["interrupted"]),
    ],
)
def test_without_a_server_a_process_with_threads_ends_as_it_would_without_us(
    name: str, handler: str, status: int, last: list[str]
) -> None:
    act = f"signal.raise_signal(signal.{name})"
    script = ALONE_WITH_THREADS.format(name=name, handler=handler, act=act)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.splitlines() == ["Disconnect(code=3001, reason='shutdown')", *last]


FORK = """child = os.fork()
    if not child:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(60)
    _, status = os.waitpid(child, 0)
    print(os.WTERMSIG(status), len(sessions.user_connections("42")), flush=True)
    told.set()
    raise KeyboardInterrupt
"""


def test_a_process_that_was_forked_ends_at_a_signal_and_ends_no_session_of_its_parent() -> None:
    script = ALONE_WITH_THREADS.format(name="SIGTERM", handler="signal.SIG_DFL", act=FORK)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{signal.SIGTERM:d} 1", "interrupted"]
