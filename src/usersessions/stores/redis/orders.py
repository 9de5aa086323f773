"""Doing what the log says.

1. An entry concerns the sessions that were registered before it: those that are neither pending,
   which is to say without a verdict, nor younger than it.
2. Entries that come in while something is undecided are kept, since it may turn out to be older
   than one of them; it catches up then.
3. All of this is guarded by the node's lock; nobody is told under it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from ...models import Disconnect
from ...node import INVALID, OVER_LIMIT, Node
from ...records import facts_of, refreshed
from ...registry import Tell
from ..base import InvalidateTokens, RefreshUser, RevokeToken, deadline_of
from ..choice import choose
from .calls import Calls
from .entries import Entry, EntryId, EvictClients, Mail
from .leases import Leases
from .line import Call

__all__ = ["Effect", "Orders"]

_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Effect:
    """What is left to do once the lock is free: sessions to tell, calls to make."""

    tells: Sequence[tuple[Tell, Disconnect]] = ()
    calls: Sequence[Call] = ()

    def __add__(self, other: Effect) -> Effect:
        return Effect((*self.tells, *other.tells), (*self.calls, *other.calls))


class Orders:
    """What this process has read of the log, and what it did.

    Args:
        node: the sessions that are held here.
        leases: who this process is.
        calls: how Redis is told.
        pending: the sessions without a verdict.
    """

    def __init__(self, node: Node, leases: Leases, calls: Calls, pending: Container[str]) -> None:
        self._node = node
        self._leases = leases
        self._calls = calls
        self._pending = pending
        self._position: EntryId | None = None
        self._younger: dict[str, EntryId] = {}
        self._recent: deque[tuple[EntryId, Entry]] = deque(maxlen=_KEPT)
        self._asking: dict[str, list[tuple[str, str]]] = {}
        self.undecided = 0

    @property
    def position(self) -> EntryId:
        """The last entry that was read."""
        return self._position or (0, 0)

    def found(self, last: EntryId) -> None:
        """Note how far the log has got: less far than was read means that it began anew."""
        if self._position is None or last < self._position:
            self._position = last
            self._younger.clear()

    def read(self, entry: EntryId, order: Entry | None) -> Effect:
        """Do what an entry says; None is one that cannot be read."""
        if entry <= self.position:
            return Effect()
        self._position = entry
        # What was registered right after this very entry is younger than it, too.
        self._younger = {client: since for client, since in self._younger.items() if since >= entry}
        if order is None:
            return Effect()
        if self.undecided:
            self._recent.append((entry, order))
        return self._apply(entry, order)

    def catch_up(self, client: str, since: EntryId) -> Effect:
        """Do what a session has missed that turns out to be there since after this entry."""
        if since > self.position:
            self._younger[client] = since
        effect = Effect()
        for entry, order in self._recent:
            if entry > since:
                effect += self._apply(entry, order, only=client)
        return effect

    def decided(self, number: int = 1) -> None:
        """Note that something is not undecided any more."""
        self.undecided -= number
        if not self.undecided:
            self._recent.clear()

    def gone(self, client: str) -> list[tuple[str, Mail]]:
        """Forget a session, and give what is to be sent to the mailboxes of who waits for that."""
        self._younger.pop(client, None)
        return [
            (box, Mail(command, self._leases.mine, gone=(client,)))
            for box, command in self._asking.pop(client, ())
        ]

    def replace(self, user: str, client: str, record: bytes) -> None:
        """Give a session another record here."""
        facts = facts_of(record)
        self._node.registry.replace(
            user, client, record, token_id=facts.token_id, deadline=deadline_of(facts.expire_at)
        )

    def _apply(self, entry: EntryId, order: Entry, *, only: str | None = None) -> Effect:
        registry, request = self._node.registry, order.order
        if isinstance(request, EvictClients):
            return self._tell(order, registry.held(request.clients), OVER_LIMIT, only)
        if isinstance(request, RevokeToken):
            clients = self._concerned(registry.of_token(request.token_id), entry, only)
            return self._tell(order, clients, INVALID, only)
        records = registry.records(request.user)
        clients = self._concerned(records, entry, only)
        if isinstance(request, RefreshUser):
            return self._refresh(order, request, clients, only)
        before = request.issued_before if isinstance(request, InvalidateTokens) else None
        choice = choose(
            request,
            {client: facts_of(records[client]) for client in clients},
            issued_before=before or 0.0,
            revoked=order.revoked,
            spared=order.spared,
        )
        # Whoever gave the order could not see those that only this process knows of.
        revoked = [
            self._calls.revoke(token_id, until)
            for token_id, until in choice.revoked.items()
            if token_id not in order.revoked
        ]
        return Effect(calls=revoked) + self._tell(order, choice.clients, choice.disconnect, only)

    def _concerned(self, clients: Iterable[str], entry: EntryId, only: str | None) -> list[str]:
        return [
            client
            for client in clients
            if client not in self._pending
            and only in (None, client)
            and self._younger.get(client, (0, 0)) < entry
        ]

    def _tell(
        self, order: Entry, clients: Iterable[str], disconnect: Disconnect, only: str | None
    ) -> Effect:
        chosen = tuple(clients)
        if order.command:
            for client in chosen:
                self._asking.setdefault(client, []).append((order.mail, order.command))
        tells = [(tell, disconnect) for tell in self._node.registry.take(chosen)]
        return Effect(tells, self._answer(order, chosen, only))

    def _refresh(
        self, order: Entry, request: RefreshUser, clients: list[str], only: str | None
    ) -> Effect:
        records = self._node.registry.open(request.user)
        chosen = tuple(
            client for client in clients if client in records and request.client in (None, client)
        )
        calls = []
        for client in chosen:
            record = refreshed(records[client], expire_at=request.expire_at)
            self.replace(request.user, client, record)
            calls.append(self._calls.update(request.user, client, record))
        return Effect(calls=[*calls, *self._answer(order, chosen, only)])

    def _answer(self, order: Entry, told: tuple[str, ...], only: str | None) -> list[Call]:
        mine = self._leases.mine
        is_asked = order.leases is None or not set(order.leases).isdisjoint(mine)
        if not order.command or not (told or (is_asked and only is None)):
            return []
        return [self._calls.mail(order.mail, Mail(order.command, mine, told=told))]
