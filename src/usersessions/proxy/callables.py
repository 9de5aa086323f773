"""A callable of the app decides: plain or async, asked by a blocking caller or an awaiting one.

Only the app knows what its own exceptions say. They are logged whole: without their traceback, its
developers would be left with a bare 3004.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from ..callbacks import is_async
from ..errors import ConfigError, ConnectRefused, DisconnectCode
from ..flows import Flow, Reply, Request
from ..models import ConnectRequest, Disconnect, Identity
from .base import ConnectProxy

__all__ = [
    "Call",
    "CallFailed",
    "CallableProxy",
    "Called",
    "ConnectCallable",
    "as_proxy",
    "call_awaited",
    "call_blocking",
    "check_blocking",
]

logger = logging.getLogger("usersessions.proxy")

ConnectCallable: TypeAlias = Callable[
    [ConnectRequest], "Identity | Disconnect | Awaitable[Identity | Disconnect]"
]
"""What an app may hand in: a plain or async callable.

It returns an `Identity`, or a `Disconnect` to refuse, or raises `ConnectRefused`.
"""


@dataclass(frozen=True, slots=True)
class Called(Reply):
    """How the app's callable decided."""

    outcome: Identity | Disconnect | ConnectRefused


@dataclass(frozen=True, slots=True)
class CallFailed(Reply):
    """The app's callable did not decide; `why` is a phrase for a log line.

    `error` is the exception it raised, if it raised one.
    """

    why: str
    error: Exception | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Call(Request):
    """Have the app's callable decide on a connection.

    Args:
        decide: the callable.
        request: what it gets.
    """

    decide: ConnectCallable = field(repr=False)
    request: ConnectRequest

    def __iter__(self) -> Flow[Called | CallFailed]:
        reply = yield self
        if isinstance(reply, (Called, CallFailed)):
            return reply
        raise TypeError(f"expected the reply of a call, got {type(reply).__name__}")


class CallableProxy(ConnectProxy):
    """Asks a callable of the app.

    Args:
        decide: a plain or async callable; see `ConnectCallable`.

    >>> from usersessions.flows import run
    >>> proxy = CallableProxy(lambda request: Identity("42"))
    >>> run(proxy.decide(ConnectRequest("c1", "uni_sse")), call_blocking).user
    '42'
    """

    def __init__(self, decide: ConnectCallable) -> None:
        self._decide = decide

    @property
    def is_async(self) -> bool:
        """Whether the callable is known to be async."""
        return is_async(self._decide)

    def decide(self, request: ConnectRequest) -> Flow[Identity]:
        """Ask the callable.

        Raises:
            ConnectRefused: as the callable says; 3004 if it fails.
        """
        reply = yield from Call(self._decide, request)
        if isinstance(reply, CallFailed):
            logger.error("the connect proxy's callable %s", reply.why, exc_info=reply.error)
            raise ConnectRefused(DisconnectCode.INTERNAL_SERVER_ERROR) from reply.error
        if isinstance(reply.outcome, ConnectRefused):
            raise reply.outcome
        if isinstance(reply.outcome, Disconnect):
            raise ConnectRefused(reply.outcome.code, reply.outcome.reason)
        return reply.outcome


def call_blocking(call: Call) -> Called | CallFailed:
    """Answer a call in this thread.

    An awaitable that comes back is a failure: nobody here can await it.

    >>> call_blocking(Call(lambda request: 42, ConnectRequest("c1", "uni_sse")))
    CallFailed(why='returned int, not an Identity or a Disconnect')
    """
    returned = _invoke(call)
    if isinstance(returned, (Called, CallFailed)):
        return returned
    if inspect.iscoroutine(returned):
        returned.close()
    return CallFailed("returned an awaitable, which UserSessions cannot await")


async def call_awaited(call: Call) -> Called | CallFailed:
    """Answer a call from an event loop: async callables on it, plain ones in a thread.

    >>> asyncio.run(call_awaited(Call(lambda request: 42, ConnectRequest("c1", "uni_sse"))))
    CallFailed(why='returned int, not an Identity or a Disconnect')
    """
    # `_invoke` turns exceptions into replies inside of the thread: a StopIteration could not
    # cross over to the event loop.
    returned = _invoke(call) if is_async(call.decide) else await asyncio.to_thread(_invoke, call)
    if isinstance(returned, (Called, CallFailed)):
        return returned
    try:
        value = await returned
    except Exception as error:
        return _raised(error)
    return _returned(value)


def _invoke(call: Call) -> Called | CallFailed | Awaitable[object]:
    try:
        value = call.decide(call.request)
    except Exception as error:
        return _raised(error)
    return value if inspect.isawaitable(value) else _returned(value)


def _raised(error: Exception) -> Called | CallFailed:
    if isinstance(error, ConnectRefused):
        return Called(error)
    return CallFailed(f"raised {type(error).__name__}", error)


def _returned(value: object) -> Called | CallFailed:
    if isinstance(value, (Identity, Disconnect)):
        return Called(value)
    return CallFailed(f"returned {type(value).__name__}, not an Identity or a Disconnect")


def as_proxy(proxy: ConnectProxy | ConnectCallable) -> ConnectProxy:
    """Give a connect proxy for what an app hands in: one as it is, or a callable.

    Raises:
        ConfigError: if it is neither, or a class in place of an instance.

    >>> isinstance(as_proxy(lambda request: Identity("42")), CallableProxy)
    True
    """
    if isinstance(proxy, ConnectProxy):
        return proxy
    if isinstance(proxy, type):
        raise ConfigError(f"the connect proxy must be an instance, not the class {proxy.__name__}")
    if not callable(proxy):
        raise ConfigError(
            "the connect proxy must be an HttpConnectProxy, or a callable that takes a "
            f"ConnectRequest, not {type(proxy).__name__}"
        )
    return CallableProxy(proxy)


def check_blocking(proxy: ConnectProxy | None) -> None:
    """Check that a proxy, if there is one, can be asked without an event loop.

    Raises:
        ConfigError: if it is an async callable.

    >>> check_blocking(CallableProxy(lambda request: Identity("42")))
    """
    if isinstance(proxy, CallableProxy) and proxy.is_async:
        raise ConfigError(
            "UserSessions cannot await: the connect proxy is an async callable; make it a plain "
            "one, or use AsyncUserSessions"
        )
