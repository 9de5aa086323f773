"""What a store is asked, and what it answers.

1. A request is a frozen record that decodes its own reply: `yield from ListUser("42")` inside a
   flow gives that user's sessions.
2. `Store` answers in the calling thread, `AsyncStore` is awaited; a store may be both.
3. What a request asks for happens in one act: of two requests, one is first and one second, also
   when they come from two nodes.
4. Ending a session is no request: it happens in `finally`, where nothing may be awaited. `end` is
   local and immediate; a store that shares tells the others afterwards. So is `touch`.
5. A store that cannot answer in time raises `StoreUnavailable`; one that could not see everything
   says so with `partial`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import DisconnectCode
from ..flows import Flow, Reply, Request, expect
from ..models import Disconnect, SessionLimit
from ..node import Node, NodeInfo
from ..records import Facts
from ..refusals import Refusal
from ..registry import Tell

__all__ = [
    "GRACE_SECONDS",
    "Allowed",
    "AsyncStore",
    "BlockUser",
    "CheckIdentity",
    "Closed",
    "DisconnectUser",
    "EndRequest",
    "Entries",
    "InvalidateTokens",
    "ListNodes",
    "ListUser",
    "Nodes",
    "Reached",
    "Rebind",
    "RefreshUser",
    "Refused",
    "Register",
    "RevokeToken",
    "Store",
    "StoreRequest",
    "UnblockUser",
    "deadline_of",
]

GRACE_SECONDS = 25.0
"""How long after its `expire_at` a session is closed, unless it is refreshed meanwhile."""


def deadline_of(expire_at: float | None) -> float | None:
    """When a session that expires then is closed; None is never."""
    return None if expire_at is None else expire_at + GRACE_SECONDS


@dataclass(frozen=True, slots=True)
class Allowed(Reply):
    """It may be, and it is done."""


@dataclass(frozen=True, slots=True)
class Refused(Reply):
    """It may not be, and this code says so to the client.

    `why` is None where neither the user nor the token is kept out: the code alone says it then.
    """

    code: DisconnectCode
    why: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Entries(Reply):
    """The records of a user's sessions by client ID, and when those heard of were last seen.

    `partial` says that there may be more than could be seen.
    """

    records: Mapping[str, bytes] = field(repr=False)
    seen: Mapping[str, float]
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Nodes(Reply):
    """The processes that share a store."""

    nodes: tuple[NodeInfo, ...]


@dataclass(frozen=True, slots=True)
class Reached(Reply):
    """The client IDs that something was done to."""

    clients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Closed(Reply):
    """What became of the sessions that were told to end, by client ID.

    Attributes:
        closed: those whose connection has ended.
        unconfirmed: those that were told, but have not ended in time.
        not_revocable: those whose login could not be revoked, since it has no token ID.
        partial: whether a process did not answer in time, so that there may be more.
    """

    closed: tuple[str, ...] = ()
    unconfirmed: tuple[str, ...] = ()
    not_revocable: tuple[str, ...] = ()
    partial: bool = False


class StoreRequest(Request):
    """Something that a store is asked."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Register(StoreRequest):
    """Make a session visible, unless its user or token is kept out, a limit is reached, or the
    node is draining.

    Sessions that have to make room for it under the limit are told to end.
    """

    user: str
    client: str
    record: bytes = field(repr=False)
    facts: Facts = field(repr=False)
    tell: Tell = field(repr=False)
    limit: SessionLimit | None = None

    def __iter__(self) -> Flow[Allowed | Refused]:
        return _verdict((yield self))


@dataclass(frozen=True, slots=True)
class Rebind(StoreRequest):
    """Have a session belong to another token, unless that is kept out or the session gone."""

    user: str
    client: str
    token_id: str | None = field(repr=False)
    issued_at: float
    token_expires: float | None
    expire_at: float | None

    def __iter__(self) -> Flow[Allowed | Refused]:
        return _verdict((yield self))


@dataclass(frozen=True, slots=True)
class CheckIdentity(StoreRequest):
    """Ask whether a user or their token is kept out."""

    user: str
    token_id: str | None = field(repr=False)
    issued_at: float | None

    def __iter__(self) -> Flow[Allowed | Refused]:
        return _verdict((yield self))


@dataclass(frozen=True, slots=True)
class ListUser(StoreRequest):
    """List a user's sessions."""

    user: str

    def __iter__(self) -> Flow[Entries]:
        return expect((yield self), Entries)


@dataclass(frozen=True, slots=True)
class ListNodes(StoreRequest):
    """List the processes that share the store."""

    def __iter__(self) -> Flow[tuple[NodeInfo, ...]]:
        return expect((yield self), Nodes).nodes


@dataclass(frozen=True, slots=True)
class UnblockUser(StoreRequest):
    """Let a user in again."""

    user: str

    def __iter__(self) -> Flow[None]:
        expect((yield self), Allowed)


@dataclass(frozen=True, slots=True)
class RefreshUser(StoreRequest):
    """Give a user's sessions, or one of them, another end; `expire_at` None is never."""

    user: str
    client: str | None
    expire_at: float | None

    def __iter__(self) -> Flow[tuple[str, ...]]:
        return expect((yield self), Reached).clients


@dataclass(frozen=True, slots=True)
class EndRequest(StoreRequest):
    """Tell sessions to end, and wait until they have, for `timeout` seconds at most."""

    timeout: float = field(kw_only=True)

    def __iter__(self) -> Flow[Closed]:
        return expect((yield self), Closed)


@dataclass(frozen=True, slots=True)
class DisconnectUser(EndRequest):
    """End a user's sessions: all, or one `client`; those with these `labels`; never `whitelist`.

    With `revoke`, their tokens are kept out from now on, and with them end the user's other
    sessions of these tokens. The token of a session in `whitelist` is spared, and so are its other
    sessions. `spared_token` and its sessions are spared in any case.
    """

    user: str
    disconnect: Disconnect
    client: str | None = None
    whitelist: Collection[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    revoke: bool = False
    spared_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class BlockUser(EndRequest):
    """Keep a user out, and end their sessions; `until` None is until they are unblocked."""

    user: str
    until: float | None


@dataclass(frozen=True, slots=True)
class RevokeToken(EndRequest):
    """Keep a token out, and end its sessions; `until` None is for `KEPT_SECONDS`."""

    token_id: str = field(repr=False)
    until: float | None


@dataclass(frozen=True, slots=True)
class InvalidateTokens(EndRequest):
    """Keep out a user's tokens issued before a moment, and end their sessions.

    `issued_before` None is now, `until` None is for `KEPT_SECONDS`.
    """

    user: str
    issued_before: float | None
    until: float | None


def _verdict(reply: Reply) -> Allowed | Refused:
    if isinstance(reply, (Allowed, Refused)):
        return reply
    raise TypeError(f"expected the reply Allowed or Refused, got {type(reply).__name__}")


class _BaseStore(Protocol):
    @property
    def node(self) -> Node:
        """This process's node."""
        ...

    def end(self, user: str, client: str) -> bool:
        """Forget a session of this process, at once; whether there was one."""
        ...

    def touch(self, user: str, client: str) -> None:
        """Note that a client of this process was heard of now."""

    def join(self) -> None:
        """Be seen among the nodes from now on; the first session does so, too."""

    def close(self, *, timeout: float) -> None:
        """Leave the other nodes, and release threads and connections, within some seconds.

        Whoever uses the store again afterwards starts it anew.
        """


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
