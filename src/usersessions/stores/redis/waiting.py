"""The two ways in which callers wait for Redis and for other processes."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from ...flows import Reply, Request
from .asks import Ask, Late, Pause, Paused
from .line import Line, Outcome

__all__ = ["ask_awaited", "ask_blocking"]


def ask_blocking(line: Line, request: Request) -> Reply:
    """Wait in the calling thread."""
    if isinstance(request, Pause):
        complete = threading.Event()
        request.wait.when_complete(complete.set)
        complete.wait(max(0.0, request.until - time.monotonic()))
        return Paused()
    if not isinstance(request, Ask):
        raise TypeError(f"not a request of this store: {type(request).__name__}")
    arrived = threading.Event()
    box: list[Outcome] = []

    def done(outcome: Outcome) -> None:
        box.append(outcome)
        arrived.set()

    line.submit(request.calls, _told(request, done), until=request.until)
    arrived.wait(max(0.0, request.until - time.monotonic()))
    return box[0] if box else Late()


async def ask_awaited(line: Line, request: Request) -> Reply:
    """Wait on the running event loop."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[Reply] = loop.create_future()
    if isinstance(request, Pause):
        request.wait.when_complete(lambda: _threadsafe(loop, lambda: _settle(arrived, Paused())))
        return await _until(arrived, request.until, late=Paused())
    if not isinstance(request, Ask):
        raise TypeError(f"not a request of this store: {type(request).__name__}")
    post = _post_office(loop)
    line.submit(
        request.calls, _told(request, lambda outcome: post(arrived, outcome)), until=request.until
    )
    return await _until(arrived, request.until, late=Late())


def _told(request: Ask, done: Callable[[Outcome], None]) -> Callable[[Outcome], None]:
    also = request.also
    if also is None:
        return done

    def both(outcome: Outcome) -> None:
        also(outcome)
        done(outcome)

    return both


async def _until(future: asyncio.Future[Reply], until: float, *, late: Reply) -> Reply:
    # A timer of its own is half of the price of `asyncio.wait`, and unlike `wait_for` before
    # Python 3.12 this never swallows a cancellation.
    delay = max(0.0, until - time.monotonic())
    timer = future.get_loop().call_later(delay, _settle, future, late)
    try:
        return await future
    finally:
        timer.cancel()


def _settle(future: asyncio.Future[Reply], reply: Reply) -> None:
    if not future.done():
        future.set_result(reply)


def _threadsafe(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    # Whoever waited may be gone, with the whole loop.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(act)


class _PostOffice:
    """Brings outcomes to an event loop: all that arrive together cost it one wake-up."""

    def __init__(self) -> None:
        # Not kept alive: with a future would be its loop, though that may be closed long since.
        self._arrived: deque[tuple[weakref.ref[asyncio.Future[Reply]], Outcome]] = deque()
        self._is_called = False
        self._lock = threading.Lock()

    def __call__(self, future: asyncio.Future[Reply], outcome: Outcome) -> None:
        with self._lock:
            self._arrived.append((weakref.ref(future), outcome))
            if self._is_called:
                return
            self._is_called = True
        _threadsafe(future.get_loop(), self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            arrived, self._arrived = self._arrived, deque()
            self._is_called = False
        for reference, outcome in arrived:
            future = reference()
            if future is not None:
                _settle(future, outcome)


_post_offices: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _PostOffice] = (
    weakref.WeakKeyDictionary()
)


def _post_office(loop: asyncio.AbstractEventLoop) -> _PostOffice:
    found = _post_offices.get(loop)
    if found is None:
        found = _post_offices[loop] = _PostOffice()
    return found
