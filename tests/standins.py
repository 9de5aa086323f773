"""A store that stands for one that is shared: it may see a part only, or not answer at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import replace

from tests.http.exchange import settle
from usersessions import Closed, Disconnect, MemoryStore, StoreUnavailable
from usersessions.flows import Reply
from usersessions.node import Node
from usersessions.registry import tell_all
from usersessions.stores.base import Entries, Register, StoreRequest

AWAY = "the store did not answer in time"


class SharedStandIn:
    """A memory store in between.

    Args:
        clock: as for the memory store.

    Attributes:
        partial: whether it says that there may be more.
        away: the kinds of requests that it does not answer; they are carried out all the same.
        joined: how many times it was joined.
        closed: the seconds that it was given each time it was closed, and in which thread.
    """

    def __init__(self, *, clock: Callable[[], float] | None = None) -> None:
        self.memory = MemoryStore() if clock is None else MemoryStore(clock=clock)
        self.partial = False
        self.away: Collection[type[StoreRequest]] = ()
        self.joined = 0
        self.closed: list[tuple[float, threading.Thread]] = []

    @property
    def node(self) -> Node:
        return self.memory.node

    def answer(self, request: StoreRequest) -> Reply:
        return self._seen(request, self.memory.answer(request))

    async def aanswer(self, request: StoreRequest) -> Reply:
        return self._seen(request, await self.memory.aanswer(request))

    def end(self, user: str, client: str) -> bool:
        return self.memory.end(user, client)

    def touch(self, user: str, client: str) -> None:
        self.memory.touch(user, client)

    def join(self) -> None:
        self.joined += 1

    def close(self, *, timeout: float) -> None:
        self.closed.append((timeout, threading.current_thread()))

    def _seen(self, request: StoreRequest, reply: Reply) -> Reply:
        if type(request) in self.away:
            raise StoreUnavailable(AWAY)
        if self.partial and isinstance(reply, (Entries, Closed)):
            return replace(reply, partial=True)
        return reply


class TellsAndFails(SharedStandIn):
    """A store that has a session told to end, and then does not say that it was registered."""

    async def aanswer(self, request: StoreRequest) -> Reply:
        reply = await super().aanswer(request)
        if isinstance(request, Register):
            registry = self.node.registry
            tell_all(registry.take(registry.clients()), Disconnect(4001, "moved"))
            await settle()
            raise StoreUnavailable(AWAY)
        return reply
