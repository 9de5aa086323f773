"""The store of one process: what its own registry holds, and no second copy of it."""

from __future__ import annotations

from ..flows import Reply
from ..node import Node
from .base import DisconnectUser, Entries, ListUser, Register, Registered, StoreRequest, Told

__all__ = ["MemoryStore"]


class MemoryStore:
    """Sessions of this process alone; the default.

    With several worker processes, each knows and closes only its own sessions.

    Hand one store to a `UserSessions` and an `AsyncUserSessions`, and both see the same sessions:

    >>> from usersessions import AsyncUserSessions, UserSessions
    >>> store = MemoryStore()
    >>> sessions, async_sessions = UserSessions(store=store), AsyncUserSessions(store=store)
    """

    def __init__(self) -> None:
        self.node = Node()

    def answer(self, request: StoreRequest) -> Reply:
        """Answer from the registry, without waiting for anything."""
        registry = self.node.registry
        if isinstance(request, ListUser):
            return Entries(registry.entries(request.user))
        if isinstance(request, Register):
            registry.add(request.user, request.client, request.entry, request.tell)
            return Registered()
        if isinstance(request, DisconnectUser):
            told = registry.disconnect(
                request.user,
                request.disconnect,
                client=request.client,
                whitelist=request.whitelist,
            )
            return Told(tuple(told))
        raise TypeError(f"not a request of this store: {type(request).__name__}")

    async def aanswer(self, request: StoreRequest) -> Reply:
        """Answer from the registry; it is never awaited for long."""
        return self.answer(request)

    def end(self, user: str, client: str) -> None:
        """Forget a session."""
        self.node.registry.remove(user, client)
