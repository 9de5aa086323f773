"""The sessions that this process holds.

1. `_records` holds the record of each session as `{user: {client: bytes}}`, and nothing else:
   plain strings and bytes, which the garbage collector need not walk.
2. `_tell` holds how each client is told to end, or None once it was told: the first disconnect
   wins. A client is in both tables or in neither.
3. `_tokens` holds the clients of each token ID, `_seen` when a client was last heard of,
   `_deadlines` when it expires, `_farewells` who waits for it to go: of clients that are held, and
   that have such a thing.
4. A user without sessions is not in `_records`, a token without sessions not in `_tokens`.
5. A client that was told has no deadline: there is nothing left to tell it.
6. One lock guards all. Under it, tables are changed or copied; nobody else's code runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TypeAlias

from .deadlines import Deadlines
from .errors import InvalidValue
from .models import Disconnect
from .records import facts_of, wire_of

__all__ = ["Registry", "Tell", "connections_json", "tell_all"]

Tell: TypeAlias = Callable[[Disconnect], None]
"""How a connection is told to end: called at most once, from any thread; never blocks or raises."""


class Registry:
    """An empty registry; every method may be called from any thread.

    >>> registry = Registry()
    >>> registry.add("42", "c1", b'{}\\n{"connected_at":0}', print)
    >>> registry.records("42")
    {'c1': b'{}\\n{"connected_at":0}'}
    >>> registry.take(["c1"]) == [print], registry.take(["c1"])
    (True, [])
    """

    def __init__(self) -> None:
        self._records: dict[str, dict[str, bytes]] = {}
        self._tell: dict[str, Tell | None] = {}
        self._tokens: dict[str, dict[str, None]] = {}
        self._seen: dict[str, float] = {}
        self._deadlines = Deadlines()
        self._farewells: dict[str, list[Callable[[], None]]] = {}
        self._lock = threading.Lock()

    def add(
        self,
        user: str,
        client: str,
        record: bytes,
        tell: Tell,
        *,
        token_id: str | None = None,
        deadline: float | None = None,
    ) -> None:
        """Register a session.

        Args:
            user: whose it is.
            client: its ID.
            record: its record.
            tell: how it is told to end.
            token_id: the ID of its token, as in the record.
            deadline: when it expires for good, on the clock of `expired`.

        Raises:
            InvalidValue: if the client is registered already; nothing is changed.
        """
        with self._lock:
            if client in self._tell:
                raise InvalidValue(f"client {client} is registered already")
            self._tell[client] = tell
            self._records.setdefault(user, {})[client] = record
            self._index(client, token_id, deadline)

    def replace(
        self,
        user: str,
        client: str,
        record: bytes,
        *,
        token_id: str | None,
        deadline: float | None,
    ) -> None:
        """Give a session another record, token and deadline; one that is gone stays gone."""
        with self._lock:
            held = self._records.get(user, {}).get(client)
            if held is not None:
                self._forget_token(held, client)
                self._records[user][client] = record
                self._index(client, token_id, deadline)

    def remove(self, user: str, client: str) -> bool:
        """Forget a session; whether it was there."""
        with self._lock:
            records = self._records.get(user, {})
            record = records.pop(client, None)
            if record is None:
                return False
            if not records:
                del self._records[user]
            del self._tell[client]
            self._seen.pop(client, None)
            self._deadlines.discard(client)
            self._forget_token(record, client)
            farewells = self._farewells.pop(client, ())
        for farewell in farewells:
            farewell()
        return True

    def records(self, user: str) -> dict[str, bytes]:
        """A copy of the records of a user's sessions, by client ID, oldest first."""
        with self._lock:
            return dict(self._records.get(user, ()))

    def open(self, user: str) -> dict[str, bytes]:
        """As `records`, without the sessions that were told to end."""
        with self._lock:
            records = self._records.get(user, {})
            return {client: record for client, record in records.items() if self._tell[client]}

    def of_token(self, token_id: str) -> list[str]:
        """The clients of a token."""
        with self._lock:
            return list(self._tokens.get(token_id, ()))

    def touch(self, client: str, now: float) -> None:
        """Note that a client was heard of."""
        with self._lock:
            if client in self._tell:
                self._seen[client] = now

    def seen(self, clients: Iterable[str]) -> dict[str, float]:
        """When each of these clients was last heard of; those that never were are left out."""
        with self._lock:
            return {client: self._seen[client] for client in clients if client in self._seen}

    def take(self, clients: Iterable[str]) -> list[Tell]:
        """Mark sessions as told to end, and give how to tell those that were not told before.

        Call what it gives as soon as no lock is held.
        """
        with self._lock:
            taken = {
                client: tell for client in clients if (tell := self._tell.get(client)) is not None
            }
            self._tell.update(dict.fromkeys(taken))
            for client in taken:
                self._deadlines.discard(client)
        return list(taken.values())

    def expired(self, now: float) -> list[str]:
        """Take the clients whose deadline is reached; each is given once."""
        with self._lock:
            return self._deadlines.due(now)

    @property
    def next_deadline(self) -> float | None:
        """When the next session expires."""
        with self._lock:
            return self._deadlines.next

    def when_gone(self, clients: Collection[str], farewell: Callable[[], None]) -> int:
        """Have `farewell` called once for each of these clients that is held, when it goes.

        Returns:
            How many times it will be called. It must not block or raise.
        """
        with self._lock:
            held = [client for client in clients if client in self._tell]
            for client in held:
                self._farewells.setdefault(client, []).append(farewell)
            return len(held)

    def forget_farewell(self, clients: Collection[str], farewell: Callable[[], None]) -> None:
        """Take back what `when_gone` was given."""
        with self._lock:
            for client in clients:
                farewells = self._farewells.get(client, [])
                if farewell in farewells:
                    farewells.remove(farewell)
                    if not farewells:
                        del self._farewells[client]

    def held(self, clients: Iterable[str]) -> frozenset[str]:
        """Those of these clients that are registered."""
        with self._lock:
            return frozenset(client for client in clients if client in self._tell)

    def clients(self) -> list[str]:
        """All clients, oldest first."""
        with self._lock:
            return list(self._tell)

    def all(self) -> list[tuple[str, str]]:
        """All sessions, as user and client."""
        with self._lock:
            return [(user, client) for user, records in self._records.items() for client in records]

    def users(self) -> list[str]:
        """All users."""
        with self._lock:
            return list(self._records)

    def counts(self) -> tuple[int, int]:
        """How many sessions there are, and of how many users."""
        with self._lock:
            return len(self._tell), len(self._records)

    def _index(self, client: str, token_id: str | None, deadline: float | None) -> None:
        self._deadlines.set(client, deadline)
        if token_id is not None:
            self._tokens.setdefault(token_id, {})[client] = None

    def _forget_token(self, record: bytes, client: str) -> None:
        # Sessions without a token need no parsing.
        token_id = facts_of(record).token_id if b'"token_id":' in record else None
        if token_id is not None:
            clients = self._tokens[token_id]
            del clients[client]
            if not clients:
                del self._tokens[token_id]


def tell_all(tells: Sequence[Tell], disconnect: Disconnect) -> None:
    """Tell each of them to end, the first one first.

    A `close` of the app may raise what ends a program, such as KeyboardInterrupt. It goes on from
    here once all are told: each was marked as told before, and nobody would ever tell it again.

    >>> tell_all([print], Disconnect(4001))
    Disconnect(code=4001, reason='')
    """
    with ExitStack() as rest:
        for tell in reversed(tells):
            rest.callback(tell, disconnect)


def connections_json(records: Mapping[str, bytes]) -> bytes:
    """One JSON object of what lists show, by client ID.

    Client IDs are UUIDs, made here and never taken from outside, so that they need no escaping.

    >>> connections_json({"c1": b'{}\\n{"connected_at":0}'})
    b'{"c1":{}}'
    """
    pieces = [b'"%b":%b' % (client.encode(), wire_of(record)) for client, record in records.items()]
    return b"{%b}" % b",".join(pieces)
