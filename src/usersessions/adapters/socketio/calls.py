"""Calling what has to be awaited with an `AsyncServer`, but not with a `Server`: by a flow."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from ...flows import Flow, Reply, Request, expect

__all__ = ["Do", "aanswer", "answer", "enter", "leave"]


@dataclass(frozen=True, slots=True)
class Do(Request):
    """Something to call, and to await if it is async; what it raises, a flow can catch."""

    act: Callable[[], Any]

    def __iter__(self) -> Flow[Any]:
        done = expect((yield self), Done)
        if done.error is not None:
            raise done.error
        return done.value


@dataclass(frozen=True, slots=True)
class Done(Reply):
    """What came of it."""

    value: Any = None
    error: Exception | None = None


def answer(request: Request) -> Reply:
    """Call it."""
    try:
        return Done(cast(Do, request).act())
    except Exception as error:
        return Done(error=error)


async def aanswer(request: Request) -> Reply:
    """Call it, and await what has to be."""
    try:
        value = cast(Do, request).act()
        return Done(await value if inspect.isawaitable(value) else value)
    except Exception as error:
        return Done(error=error)


def enter(hold: Any) -> Any:
    """Enter what either facade's `hold` gives."""
    return hold.__aenter__() if hasattr(hold, "__aenter__") else hold.__enter__()


def leave(hold: Any) -> Any:
    """Leave it again."""
    none = (None, None, None)
    return hold.__aexit__(*none) if hasattr(hold, "__aexit__") else hold.__exit__(*none)
