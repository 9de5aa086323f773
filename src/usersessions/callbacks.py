"""Calling what the app handed in: one that fails is logged, and harms nobody else."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["call", "call_awaited", "call_plain", "call_soon", "is_async"]

logger = logging.getLogger(__name__)


def call(callback: Callable[..., object], *arguments: Any, what: str, client: str) -> object:
    """Call a callback; what it gives, or None if it fails.

    >>> call(max, 1, 2, what="on_connect", client="c1")
    2
    """
    try:
        return callback(*arguments)
    except Exception:
        logger.exception("the %s callback of client %s failed", what, client)
        return None


def call_plain(callback: Callable[..., object], *arguments: Any, what: str, client: str) -> None:
    """Call a callback where nothing can be awaited; one that would have to be has failed."""
    result = call(callback, *arguments, what=what, client=client)
    if inspect.iscoroutine(result):
        result.close()
        logger.error(
            "the %s callback of client %s has to be awaited, which UserSessions cannot",
            what,
            client,
        )


async def call_awaited(
    callback: Callable[..., object], *arguments: Any, what: str, client: str
) -> None:
    """Call a callback, and await it if it is async."""
    result = call(callback, *arguments, what=what, client=client)
    if inspect.isawaitable(result):
        await _finish(result, what, client)


def call_soon(callback: Callable[..., object], *arguments: Any, what: str, client: str) -> None:
    """Call a callback, and let it run on by itself if it is async.

    Nothing is awaited here, so the caller may be a `finally`, or a task that is being cancelled.
    """
    result = call(callback, *arguments, what=what, client=client)
    if inspect.isawaitable(result):
        task = asyncio.ensure_future(_finish(result, what, client))
        _running.add(task)
        task.add_done_callback(_running.discard)


def is_async(function: object) -> bool:
    """Whether a callable is known to be async: a function, a method, an object, a partial.

    >>> is_async(asyncio.sleep), is_async(max)
    (True, False)
    """
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        # That of its type, as for every call: a class makes an object, whatever that can do.
        getattr(type(function), "__call__", None)  # noqa: B004 - the method itself
    )


async def _finish(result: Awaitable[object], what: str, client: str) -> None:
    try:
        await result
    except Exception:
        logger.exception("the %s callback of client %s failed", what, client)


# An event loop holds its tasks weakly: without this, a callback could be collected half way.
_running: set[asyncio.Future[None]] = set()
