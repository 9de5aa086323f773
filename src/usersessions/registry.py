"""The sessions that this process holds.

1. `_entries` holds the prepared JSON of each session as `{user: {client: bytes}}`, and nothing
   else: plain strings and bytes, which the garbage collector need not walk.
2. `_tell` holds how each client is told to end, or None once it was told: the first disconnect
   wins. A client is in both tables or in neither.
3. A user without sessions is not in `_entries`.
4. One lock guards both. Under it, tables are changed or copied; nobody else's code runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeAlias

from .models import Disconnect

__all__ = ["Registry", "Tell", "connections_json"]

Tell: TypeAlias = Callable[[Disconnect], None]
"""How a connection is told to end: called at most once, from any thread; never blocks or raises."""


class Registry:
    """An empty registry; every method may be called from any thread.

    >>> registry = Registry()
    >>> registry.add("42", "c1", b"{}", print)
    >>> registry.entries("42")
    {'c1': b'{}'}
    >>> registry.disconnect("42", Disconnect(4001))
    Disconnect(code=4001, reason='')
    ['c1']
    """

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, bytes]] = {}
        self._tell: dict[str, Tell | None] = {}
        self._lock = threading.Lock()

    def add(self, user: str, client: str, entry: bytes, tell: Tell) -> None:
        """Register a session with its prepared JSON.

        Raises:
            ValueError: if the client is registered already; nothing is changed.
        """
        with self._lock:
            if client in self._tell:
                raise ValueError(f"client {client} is registered already")
            self._tell[client] = tell
            self._entries.setdefault(user, {})[client] = entry

    def remove(self, user: str, client: str) -> bool:
        """Forget a session; whether it was there."""
        with self._lock:
            entries = self._entries.get(user)
            if entries is None or entries.pop(client, None) is None:
                return False
            del self._tell[client]
            if not entries:
                del self._entries[user]
            return True

    def entries(self, user: str) -> dict[str, bytes]:
        """A copy of the prepared JSON of a user's sessions, by client ID, oldest first."""
        with self._lock:
            return dict(self._entries.get(user, ()))

    def disconnect(
        self,
        user: str,
        disconnect: Disconnect,
        *,
        client: str | None = None,
        whitelist: Collection[str] = (),
    ) -> list[str]:
        """Tell a user's sessions to end; which client IDs were told, and were not told before.

        Args:
            user: whose sessions.
            disconnect: how they end.
            client: only this one; None is all of them.
            whitelist: client IDs to leave alone.
        """
        with self._lock:
            held: Iterable[str] = self._entries.get(user, ())
            if client is not None:
                held = (client,) if client in held else ()
            told = self._take([client for client in held if client not in whitelist])
        return _tell_all(told, disconnect)

    def disconnect_all(self, disconnect: Disconnect) -> list[str]:
        """Tell every session of this process to end; which were told, and were not told before."""
        with self._lock:
            told = self._take(self._tell)
        return _tell_all(told, disconnect)

    def counts(self) -> tuple[int, int]:
        """How many sessions there are, and of how many users."""
        with self._lock:
            return len(self._tell), len(self._entries)

    def _take(self, clients: Iterable[str]) -> dict[str, Tell]:
        told = {client: tell for client in clients if (tell := self._tell[client]) is not None}
        self._tell.update(dict.fromkeys(told))
        return told


def _tell_all(told: Mapping[str, Tell], disconnect: Disconnect) -> list[str]:
    for tell in told.values():
        tell(disconnect)
    return list(told)


def connections_json(entries: Mapping[str, bytes]) -> bytes:
    """One JSON object of prepared entries by client ID.

    Client IDs are UUIDs, made here and never taken from outside, so that they need no escaping.

    >>> connections_json({"c1": b"{}", "c2": b"{}"})
    b'{"c1":{},"c2":{}}'
    """
    pieces = [b'"%b":%b' % (client.encode(), entry) for client, entry in entries.items()]
    return b"{%b}" % b",".join(pieces)
