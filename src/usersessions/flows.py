"""One logic for blocking and awaited callers.

A flow is a generator that yields requests and is sent replies; it does no I/O itself, so the same
flow serves threads and event loops. `run` drives it with a function that answers, `arun` with a
coroutine function that answers.

1. A request knows its reply: `yield from SomeRequest(...)` inside a flow gives the decoded result.
2. What a flow can handle is a reply, or an error that this library raises on purpose, which is
   raised where the flow yielded. Any other exception from the answerer, a cancellation above all,
   ends the flow and reaches the caller as it is.
3. A flow never yields in `finally` or `except BaseException`: that would swallow a cancellation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import closing
from functools import partial
from typing import TypeAlias, TypeVar

from .errors import UserSessionsError

__all__ = ["Flow", "Reply", "Request", "arun", "expect", "run"]

T = TypeVar("T")
R = TypeVar("R", bound="Reply")


class Request:
    """Something a flow asks of the world outside; subclasses are frozen records."""

    __slots__ = ()


class Reply:
    """What the world answers; subclasses are frozen records."""

    __slots__ = ()


Flow: TypeAlias = Generator[Request, Reply, T]


def expect(reply: Reply, kind: type[R]) -> R:
    """Narrow a reply to the kind its request asks for.

    Raises:
        TypeError: if the answerer mixed up its replies.
    """
    if not isinstance(reply, kind):
        raise TypeError(f"expected the reply {kind.__name__}, got {type(reply).__name__}")
    return reply


def run(flow: Flow[T], answer: Callable[[Request], Reply]) -> T:
    """Drive a flow to its end with an answerer that blocks, and give what it returns."""
    with closing(flow):
        step: Callable[[], Request] = partial(next, flow)
        while True:
            # Only the flow's own step may end it: an answerer's StopIteration is an error.
            try:
                request = step()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                step = partial(flow.send, answer(request))
            except UserSessionsError as error:
                step = partial(flow.throw, error)


async def arun(flow: Flow[T], answer: Callable[[Request], Awaitable[Reply]]) -> T:
    """Drive a flow to its end with an answerer that is awaited, and give what it returns."""
    with closing(flow):
        step: Callable[[], Request] = partial(next, flow)
        while True:
            try:
                request = step()
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                step = partial(flow.send, await answer(request))
            except UserSessionsError as error:
                step = partial(flow.throw, error)
