"""Start-up and shutdown of a server that holds sessions: on an event loop, or with threads.

1. Several servers of one process may serve the same sessions. The end of one leaves the others
   alone: the last to end ends the sessions. A signal is for all of them.
2. Who serves after all have ended finds the sessions as they were. Where an app has ended them
   before anybody served them, they stay so until a lifespan is entered.
3. On one event loop, serving begins once: a connection that comes when a lifespan is over begins
   nothing again.
4. An event loop that does not run serves nobody: it may have been left without a word.
"""

from __future__ import annotations

import _thread
import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeAlias
from weakref import WeakKeyDictionary, WeakSet

from ..sessions import AsyncUserSessions, UserSessions
from .signals import SignalRelay
from .workers import told_to_stop, warn_of_other_workers

__all__ = ["drainable_lifespan", "end_with_server", "ensure_lifespan", "lifespan"]

LAST_FRAMES_SECONDS = 0.25
"""How long a process goes on once its sessions have ended, so that their last frames are sent.

Servers that stop in good order wait for those themselves; others are gone at the signal.
"""

STOP_POLL_SECONDS = 0.1
"""How often a worker asks whether it has to stop, where no signal says so."""

_Loop: TypeAlias = asyncio.AbstractEventLoop


class _Served:
    """Who serves one `AsyncUserSessions`.

    Attributes:
        lifespans: those that are entered, and the event loop of each.
        ensured: the event loops that serve without one, and what is to be held until they end.
        begun: the event loops that serving began on.
    """

    def __init__(self) -> None:
        self.lifespans: dict[object, _Loop] = {}
        self.ensured: dict[_Loop, AsyncGenerator[None, None]] = {}
        self.begun: WeakSet[_Loop] = WeakSet()

    def is_alone(self, loop: _Loop) -> bool:
        """Whether no lifespan is entered, and no other event loop serves without."""
        others = [other for other in list(self.ensured) if other is not loop]
        return not any(other.is_running() for other in [*self.lifespans.values(), *others])


_served: WeakKeyDictionary[AsyncUserSessions, _Served] = WeakKeyDictionary()


def _served_by(sessions: AsyncUserSessions) -> _Served:
    return _served.get(sessions) or _served.setdefault(sessions, _Served())


@asynccontextmanager
async def lifespan(sessions: AsyncUserSessions) -> AsyncGenerator[None, None]:
    """Hold while the server runs: `info` lists it, and at its end open streams get 3001 `shutdown`.

    It has to be entered after the server has installed its signal handlers, as all servers do
    before they start an app. Only the main thread can hear signals: where the server runs in
    another, await `sessions.aclose()` before you stop it. Where several are entered at once, over
    the same sessions, those end with the last of them.

    >>> async def serve(sessions):
    ...     async with lifespan(sessions):
    ...         return len(await sessions.info())
    >>> asyncio.run(serve(AsyncUserSessions()))
    1
    """
    async with drainable_lifespan(sessions):
        yield


@asynccontextmanager
async def drainable_lifespan(
    sessions: AsyncUserSessions,
) -> AsyncGenerator[Callable[[], Awaitable[None]], None]:
    """Hold the same, and give what ends the sessions before its end.

    That is for servers that say that they stop, then wait for their streams, and end then.
    """
    loop, served = asyncio.get_running_loop(), _served_by(sessions)
    if served.is_alone(loop):
        # One app may be served again, in tests for instance; what drained before may serve anew.
        sessions.operations.node.draining = False
    served.begun.add(loop)
    entered = object()
    served.lifespans[entered] = loop

    def is_last() -> bool:
        served.lifespans.pop(entered, None)
        return served.is_alone(loop)

    async def drain() -> None:
        if is_last():
            await sessions.drain()

    try:
        with _heard(sessions):
            yield drain
    finally:
        if is_last():
            await sessions.aclose()


async def ensure_lifespan(sessions: AsyncUserSessions) -> None:
    """Have the same without `lifespan`, where a server never says that it starts, such as daphne.

    To be awaited with each connection: with the first one, it hears what stops the server, until
    the event loop ends; the sessions are held as long. It does nothing of that where `lifespan` was
    entered.
    """
    loop = asyncio.get_running_loop()
    was_served, served = sessions in _served, _served_by(sessions)
    if loop in served.begun:
        return
    if was_served and served.is_alone(loop):
        sessions.operations.node.draining = False
    for closed in [other for other in list(served.ensured) if other.is_closed()]:
        served.ensured.pop(closed, None)
    serving = _serve(sessions)
    await serving.__anext__()
    # A generator that nobody holds would be closed.
    served.ensured[loop] = serving
    served.begun.add(loop)


async def _serve(sessions: AsyncUserSessions) -> AsyncGenerator[None, None]:
    with _heard(sessions):
        yield


@contextmanager
def _heard(sessions: AsyncUserSessions) -> Iterator[None]:
    sessions.join()
    warn_of_other_workers(sessions.store)
    loop = asyncio.get_running_loop()
    closing: list[asyncio.Task[None]] = []

    def end_sessions(number: int, pass_on: Callable[[], None]) -> bool:
        def start() -> None:
            task = loop.create_task(sessions.aclose())
            # Whatever becomes of it. The handler may raise KeyboardInterrupt, which in a callback
            # goes straight to whoever runs the event loop.
            task.add_done_callback(lambda _: pass_on())
            closing.append(task)

        if not loop.is_running():
            return False
        loop.call_soon_threadsafe(start)
        return True

    relay = SignalRelay(end_sessions)
    relay.begin()
    is_told = told_to_stop()
    waiting = None if is_told is None else loop.create_task(_end_when(is_told, sessions))
    try:
        yield
    finally:
        relay.end()
        if waiting is not None:
            waiting.cancel()


async def _end_when(is_told: Callable[[], bool], sessions: AsyncUserSessions) -> None:
    while not is_told():
        await asyncio.sleep(STOP_POLL_SECONDS)
    await sessions.aclose()


def end_with_server(sessions: UserSessions) -> None:
    """Have open streams end with 3001 `shutdown` when this process is told to stop, and be listed.

    Call it in the main thread, the only one that can hear signals, once the server has installed
    its own signal handlers: where an app is loaded, that is so for gunicorn without `--preload`.
    Servers without any, such as waitress and those for development, may be started by the same
    module. Elsewhere call `sessions.close()` when the server stops.

    >>> end_with_server(UserSessions())
    """
    sessions.join()

    def end_sessions(number: int, pass_on: Callable[[], None]) -> bool:
        def end() -> None:
            has_sessions = any(sessions.operations.node.registry.counts())
            try:
                sessions.close()
                if has_sessions:
                    time.sleep(LAST_FRAMES_SECONDS)
            finally:
                # In the main thread again, where the server's own handler is in its place by now.
                os.kill(os.getpid(), number)

        ending = threading.Thread(target=end, name="usersessions-shutdown", daemon=True)

        def begin() -> None:
            # A second signal may have the interpreter end meanwhile, and then no thread starts.
            with suppress(RuntimeError):
                ending.start()

        try:
            # Not started here: the signal may have come while the main thread, which this is, held
            # a lock that `start` takes.
            _thread.start_new_thread(begin, ())
        except RuntimeError:
            return False
        return True

    SignalRelay(end_sessions).begin()
