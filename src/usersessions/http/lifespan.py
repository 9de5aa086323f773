"""Start-up and shutdown of a server that holds sessions: on an event loop, or with threads."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from ..sessions import AsyncUserSessions, UserSessions
from .signals import SignalRelay
from .workers import warn_of_other_workers

__all__ = ["end_with_server", "lifespan"]


@asynccontextmanager
async def lifespan(sessions: AsyncUserSessions) -> AsyncGenerator[None, None]:
    """Hold while the server runs: `info` lists it, and at its end open streams get 3001 `shutdown`.

    It has to be entered after the server has installed its signal handlers, as all servers do
    before they start an app. Only the main thread can hear signals: where the server runs in
    another, await `sessions.aclose()` before you stop it.
    """
    # One app may be served again, in tests for instance; what drained before may serve anew.
    sessions.operations.node.draining = False
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

        if loop.is_closed():
            return False
        loop.call_soon_threadsafe(start)
        return True

    relay = SignalRelay(end_sessions)
    relay.begin()
    try:
        yield
    finally:
        relay.end()
        await sessions.aclose()


def end_with_server(sessions: UserSessions) -> None:
    """Have open streams end with 3001 `shutdown` when this process is told to stop, and be listed.

    Call it in the main thread, the only one that can hear signals, once the server has installed
    its own signal handlers: where an app is loaded, that is so for gunicorn without `--preload`,
    and for development servers. Elsewhere call `sessions.close()` when the server stops.

    >>> end_with_server(UserSessions())
    """
    sessions.join()

    def end_sessions(number: int, pass_on: Callable[[], None]) -> bool:
        def end() -> None:
            try:
                sessions.close()
            finally:
                # In the main thread again, where the server's own handler is in its place by now.
                os.kill(os.getpid(), number)

        threading.Thread(target=end, name="usersessions-shutdown", daemon=True).start()
        return True

    SignalRelay(end_sessions).begin()
