"""Start-up and shutdown of an asyncio server that holds sessions.

Servers stop in a bad order for streams: first they wait until every response has ended, and only
then do they tell the app. So `lifespan` hears the signal itself, ends the sessions, and then lets
the server have the signal:

1. A second signal goes straight to the server: nothing here can hold up whoever insists.
2. Handlers that were there before are put back, unless somebody replaced ours since.
3. A signal that the process ignores stays ignored.
4. What is heard is passed on to the handler that was there before, once for each signal; also where
   a handler that somebody installed after ours calls ours, or puts it back when it is long over.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import TypeAlias

from ..sessions import AsyncUserSessions

__all__ = ["lifespan"]

_Handler: TypeAlias = "Callable[[int, FrameType | None], object] | signal.Handlers"

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
    relay = _SignalRelay(sessions)
    relay.begin()
    try:
        yield
    finally:
        relay.end()
        await sessions.aclose()


class _SignalRelay:
    def __init__(self, sessions: AsyncUserSessions) -> None:
        self._sessions = sessions
        self._loop = asyncio.get_running_loop()
        self._previous: dict[int, _Handler] = {}
        self._has_heard = False
        self._closing: asyncio.Task[None] | None = None

    def begin(self) -> None:
        # Python allows signal handlers in the main thread only.
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            previous = signal.getsignal(number)
            if callable(previous) or previous is signal.SIG_DFL:
                self._previous[number] = previous
                signal.signal(number, self._heard)

    def end(self) -> None:
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._heard:
                signal.signal(number, previous)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.end()
        if self._has_heard or self._loop.is_closed():
            self._pass_on(number, frame)
        else:
            self._has_heard = True
            self._loop.call_soon_threadsafe(self._start, number)

    def _start(self, number: int) -> None:
        self._closing = self._loop.create_task(self._sessions.aclose())
        # Whatever became of it. The handler may raise KeyboardInterrupt, which in a callback goes
        # straight to whoever runs the event loop.
        self._closing.add_done_callback(lambda _: self._pass_on(number, None))

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous[number]
        if callable(previous):
            previous(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
