"""What a store is asked, and what it answers.

1. A request is a frozen record that decodes its own reply: `yield from ListUser("42")` inside a
   flow gives that user's entries.
2. `Store` answers in the calling thread, `AsyncStore` is awaited; a store may be both.
3. Ending a session is no request: it happens in `finally`, where nothing may be awaited. `end` is
   local and immediate; a store that shares tells the others afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..flows import Flow, Reply, Request, expect
from ..models import Disconnect
from ..node import Node
from ..registry import Tell

__all__ = [
    "AsyncStore",
    "DisconnectUser",
    "Entries",
    "ListUser",
    "Register",
    "Registered",
    "Store",
    "StoreRequest",
    "Told",
]


@dataclass(frozen=True, slots=True)
class Registered(Reply):
    """The session is registered, and visible on every node."""


@dataclass(frozen=True, slots=True)
class Entries(Reply):
    """The prepared JSON of a user's sessions, by client ID."""

    entries: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Told(Reply):
    """The client IDs that were told to end."""

    clients: tuple[str, ...]


class StoreRequest(Request):
    """Something that a store is asked."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Register(StoreRequest):
    """Make a session visible: its user, client ID, prepared JSON, and how it is told to end."""

    user: str
    client: str
    entry: bytes = field(repr=False)
    tell: Tell = field(repr=False)

    def __iter__(self) -> Flow[None]:
        expect((yield self), Registered)


@dataclass(frozen=True, slots=True)
class ListUser(StoreRequest):
    """List a user's sessions."""

    user: str

    def __iter__(self) -> Flow[Mapping[str, bytes]]:
        return expect((yield self), Entries).entries


@dataclass(frozen=True, slots=True)
class DisconnectUser(StoreRequest):
    """Tell a user's sessions to end: all, or one `client`; never those in `whitelist`."""

    user: str
    disconnect: Disconnect
    client: str | None = None
    whitelist: Collection[str] = ()

    def __iter__(self) -> Flow[tuple[str, ...]]:
        return expect((yield self), Told).clients


class _BaseStore(Protocol):
    @property
    def node(self) -> Node:
        """This process's node."""
        ...

    def end(self, user: str, client: str) -> None:
        """Forget a session of this process, at once; ending it again changes nothing."""


class Store(_BaseStore, Protocol):
    """A store that answers in the calling thread."""

    def answer(self, request: StoreRequest) -> Reply:
        """Do what is asked."""
        ...


class AsyncStore(_BaseStore, Protocol):
    """A store that is awaited."""

    async def aanswer(self, request: StoreRequest) -> Reply:
        """Do what is asked."""
        ...
