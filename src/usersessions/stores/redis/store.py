"""The store that many processes and machines share."""

from __future__ import annotations

import atexit
import math
import os
import time
import weakref
from collections.abc import Callable

from ...errors import ConfigError
from ...flows import Reply, Request, arun, run
from ...node import Node
from ..base import StoreRequest
from .engine import Engine
from .keys import Keys
from .link import parse_url
from .waiting import ask_awaited, ask_blocking

__all__ = ["RedisStore"]

_AT_EXIT = 1.0


class RedisStore:
    """Sessions of many processes and machines, which share a Redis or Valkey, 6.2 or newer.

    Every process makes a store of its own with the same `url` and `prefix`. Nothing is connected,
    and no thread is started, before the store is used.

    Hand one store to a `UserSessions` and an `AsyncUserSessions` of a process, and both see the
    same sessions. Closing either of them closes the store.

    Args:
        url: where Redis is: `redis://`, `rediss://` (TLS) or `unix://` as redis-py reads them;
            `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB`; `redis+cluster://HOST:PORT,...`.
        prefix: how the names of all keys begin, so that several apps may share one Redis; letters,
            digits and `_ . : -`, 64 at most.
        lease: after how many seconds without a sign of life the sessions of a process are not
            listed any more, from 0.5 to 3600; signs are given three times as often.
        timeout: how many seconds a request may take, from 0.05 to 60.
        clock: tells this moment in seconds since the epoch.

    Raises:
        ConfigError: if a value is outside of its bounds.
        MissingExtraError: if redis-py is not installed.

    >>> from usersessions import UserSessions
    >>> sessions = UserSessions(store=RedisStore("redis://localhost:6379/0", prefix="shop"))
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "usersessions",
        lease: float = 15.0,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._target = parse_url(url)
        self._keys = Keys(prefix)
        self._lease = _seconds("lease", lease, 0.5, 3600)
        self._timeout = _seconds("timeout", timeout, 0.05, 60)
        self.node = Node(clock)
        # By the node's ID, which a forked child has anew: threads do not come along with a fork,
        # and connections must not be shared over one.
        self._engines: dict[str, Engine] = {}

    def __repr__(self) -> str:
        return f"RedisStore({self._target.kind!r})"

    def answer(self, request: StoreRequest) -> Reply:
        """Do what is asked.

        Raises:
            StoreUnavailable: if Redis does not answer in time.
        """
        engine = self._engine()

        def ask(asked: Request) -> Reply:
            return ask_blocking(engine.line, asked)

        return run(engine.protocol.answer(request), ask)

    async def aanswer(self, request: StoreRequest) -> Reply:
        """Do what is asked.

        Raises:
            StoreUnavailable: if Redis does not answer in time.
        """
        engine = self._engine()

        async def ask(asked: Request) -> Reply:
            return await ask_awaited(engine.line, asked)

        return await arun(engine.protocol.answer(request), ask)

    def end(self, user: str, client: str) -> bool:
        """Forget a session of this process at once, and have the others learn of it."""
        return self._engine().end(user, client)

    def touch(self, user: str, client: str) -> None:
        """Note that a client was heard of; the others learn of it with the next sign of life."""
        self._engine().member.touch(user, client)

    def join(self) -> None:
        """Be seen among the nodes from now on."""
        self._engine().join()

    def close(self, *, timeout: float) -> None:
        """Leave the other nodes, and release threads and connections."""
        engine = self._engines.get(self.node.id)
        if engine is not None:
            engine.close(until=time.monotonic() + timeout)

    def _engine(self) -> Engine:
        found = self._engines.get(self.node.id)
        return self._begin() if found is None else found

    def _begin(self) -> Engine:
        engine = Engine(
            self.node, self._target, self._keys, lease=self._lease, timeout=self._timeout
        )
        # `setdefault` is atomic, and an engine that is not used starts nothing. Those of parents
        # are left alone: a lock of theirs may be held for ever in this process.
        kept = self._engines.setdefault(self.node.id, engine)
        if kept is engine:
            atexit.register(_close_at_exit, weakref.ref(engine), os.getpid())
        return kept


def _close_at_exit(reference: weakref.ref[Engine], process: int) -> None:
    # What has ended is on its way to the others, and the threads that bring it are about to be
    # killed. A forked child is not the one that this belongs to.
    engine = reference()
    if engine is not None and process == os.getpid():
        engine.close(until=time.monotonic() + _AT_EXIT)


def _seconds(name: str, value: object, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise ConfigError(f"{name} must be a number of seconds")
    if not least <= value <= most:
        raise ConfigError(f"{name} must be from {least:g} to {most:g} seconds")
    return value
