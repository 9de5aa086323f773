"""Start-up and shutdown of a server that holds sessions: on an event loop, or with threads."""

from __future__ import annotations

import _thread
import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeAlias
from weakref import WeakKeyDictionary

from ..sessions import AsyncUserSessions, UserSessions
from .signals import SignalRelay
from .workers import told_to_stop, warn_of_other_workers

__all__ = ["end_with_server", "ensure_lifespan", "lifespan"]

LAST_FRAMES_SECONDS = 0.25
"""How long a process goes on once its sessions have ended, so that their last frames are sent.

Servers that stop in good order wait for those themselves; others are gone at the signal.
"""

STOP_POLL_SECONDS = 0.1
"""How often a worker asks whether it has to stop, where no signal says so."""

_Served: TypeAlias = "tuple[asyncio.AbstractEventLoop, AsyncGenerator[None, None] | None]"

_served: WeakKeyDictionary[AsyncUserSessions, _Served] = WeakKeyDictionary()


@asynccontextmanager
async def lifespan(sessions: AsyncUserSessions) -> AsyncGenerator[None, None]:
    """Hold while the server runs: `info` lists it, and at its end open streams get 3001 `shutdown`.

    It has to be entered after the server has installed its signal handlers, as all servers do
    before they start an app. Only the main thread can hear signals: where the server runs in
    another, await `sessions.aclose()` before you stop it.
    """
    # One app may be served again, in tests for instance; what drained before may serve anew.
    sessions.operations.node.draining = False
    try:
        with _heard(sessions):
            yield
    finally:
        await sessions.aclose()


async def ensure_lifespan(sessions: AsyncUserSessions) -> None:
    """Have the same without `lifespan`, where a server never says that it starts, such as daphne.

    To be awaited with each connection: with the first one, it hears what stops the server, until
    the event loop ends. It does nothing where `lifespan` was entered.
    """
    loop = asyncio.get_running_loop()
    if _served.get(sessions, (None,))[0] is not loop:
        served = _serve(sessions)
        await served.__anext__()
        # A generator that nobody holds would be closed.
        _served[sessions] = loop, served


async def _serve(sessions: AsyncUserSessions) -> AsyncGenerator[None, None]:
    with _heard(sessions):
        yield


@contextmanager
def _heard(sessions: AsyncUserSessions) -> Iterator[None]:
    sessions.join()
    warn_of_other_workers(sessions.store)
    loop = asyncio.get_running_loop()
    _served[sessions] = loop, None
    closing: list[asyncio.Task[None]] = []

    def end_sessions(number: int, pass_on: Callable[[], None]) -> bool:
        def start() -> None:
            task = loop.create_task(sessions.aclose())
            # Whatever becomes of it. The handler may raise KeyboardInterrupt, which in a callback
            # goes straight to whoever runs the event loop.
            task.add_done_callback(lambda _: pass_on())
            closing.append(task)

        if loop.is_closed():
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
