"""What no test may do: block its event loop, or leave a task or a thread behind.

A pytest plugin, on for the whole suite; it also sets the backend of the async tests.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BLOCKED_SECONDS = 2.0
"""How long one step of an event loop may take; a busy machine may hold up any step for a second."""

GRACE_SECONDS = 5.0
"""How long tasks and threads may take to end after the test that started them."""

_started = pytest.StashKey[set[threading.Thread]]()


class GuardedLoop(asyncio.SelectorEventLoop):
    """A loop that does not note where each future and each call was made.

    This is what debug mode spends nearly all of its time on, and no guard asks for it.
    """

    def get_debug(self) -> bool:
        """What futures and calls are told; the loop itself does not ask this."""
        return False


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Async tests run on asyncio, in its debug mode: it notes slow steps and misuse of threads."""
    return "asyncio", {"debug": True, "loop_factory": _event_loop}


def _event_loop() -> asyncio.AbstractEventLoop:
    loop = GuardedLoop()
    loop.slow_callback_duration = BLOCKED_SECONDS
    return loop


@contextmanager
def slow_steps() -> Iterator[list[str]]:
    """Collect what asyncio's debug mode says of steps slower than the loop's limit."""
    said: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if message.startswith("Executing "):
                said.append(message)

    collector = Collector(logging.WARNING)
    logger = logging.getLogger("asyncio")
    logger.addHandler(collector)
    try:
        yield said
    finally:
        logger.removeHandler(collector)


def lasting_threads(threads: set[threading.Thread]) -> list[str]:
    """The names of the threads that are still there after the grace; workers of pools may be."""
    waiting = {
        thread
        for thread in threads
        if not thread.name.startswith(("AnyIO worker thread", "asyncio_"))
    }
    deadline = time.monotonic() + GRACE_SECONDS
    for thread in waiting:
        thread.join(max(0.0, deadline - time.monotonic()))
    return sorted(thread.name for thread in waiting if thread.is_alive())


async def lasting_tasks(before: set[asyncio.Task[Any]]) -> list[str]:
    """What the tasks run that were not there before, and still are after the grace."""
    deadline = time.monotonic() + GRACE_SECONDS
    while (left := asyncio.all_tasks() - before) and time.monotonic() < deadline:
        # On a loop whose clock leaps, this is how far it leaps.
        await asyncio.wait(left, timeout=0.1)
    return sorted(repr(task.get_coro()) for task in left)


def _without_lasting_tasks(
    test: Callable[..., Coroutine[Any, Any, None]],
) -> Callable[..., Coroutine[Any, Any, None]]:
    @functools.wraps(test)
    async def guarded(**arguments: object) -> None:
        before = asyncio.all_tasks()
        await test(**arguments)
        if left := await lasting_tasks(before):
            pytest.fail(f"the test left tasks running: {', '.join(left)}")

    return guarded


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.obj = _without_lasting_tasks(item.obj)
    before = set(threading.enumerate())
    try:
        with slow_steps() as slow:
            yield
    finally:
        item.stash[_started] = set(threading.enumerate()) - before
    if slow:
        pytest.fail(f"the test blocked its event loop: {'; '.join(slow)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    yield
    if left := lasting_threads(item.stash.get(_started, set())):
        pytest.fail(f"the test left threads running: {', '.join(left)}")
