"""The sessions that this process holds.

1. `_entries` holds the prepared JSON of each session as `{user: {client: bytes}}`, and nothing
   else: plain strings and bytes, which the garbage collector need not walk.
2. `_live` holds the live session of each client. A client is in both tables or in neither.
3. A user without sessions is not in `_entries`.
4. One lock guards both. Under it, tables are changed or copied and a disconnect is noted; nobody
   else's code runs.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping

from .live import LiveSession
from .models import Disconnect

__all__ = ["Registry", "connections_json"]


class Registry:
    """An empty registry; every method may be called from any thread.

    >>> registry = Registry()
    >>> registry.entries("42")
    {}
    """

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, bytes]] = {}
        self._live: dict[str, LiveSession] = {}
        self._lock = threading.Lock()

    def add(self, user: str, client: str, entry: bytes, live: LiveSession) -> None:
        """Register a session with its prepared JSON.

        Raises:
            ValueError: if the client is registered already; nothing is changed.
        """
        with self._lock:
            if client in self._live:
                raise ValueError(f"client {client} is registered already")
            self._live[client] = live
            self._entries.setdefault(user, {})[client] = entry

    def remove(self, user: str, client: str) -> bool:
        """Forget a session; whether it was there."""
        with self._lock:
            entries = self._entries.get(user)
            if entries is None or entries.pop(client, None) is None:
                return False
            del self._live[client]
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
            clients = self._entries.get(user, {})
            if client is not None:
                clients = {client: clients[client]} if client in clients else {}
            told = self._note(
                disconnect, [client for client in clients if client not in whitelist]
            )
        return _tell(told)

    def disconnect_all(self, disconnect: Disconnect) -> list[str]:
        """Tell every session of this process to end; which were told, and were not told before."""
        with self._lock:
            told = self._note(disconnect, self._live)
        return _tell(told)

    def counts(self) -> tuple[int, int]:
        """How many sessions there are, and of how many users."""
        with self._lock:
            return len(self._live), len(self._entries)

    def _note(self, disconnect: Disconnect, clients: Collection[str]) -> dict[str, LiveSession]:
        told = {}
        for client in clients:
            live = self._live[client]
            if live.disconnect is None:
                live.disconnect = disconnect
                told[client] = live
        return told


def _tell(told: Mapping[str, LiveSession]) -> list[str]:
    for live in told.values():
        live.tell()
    return list(told)


def connections_json(entries: Mapping[str, bytes]) -> bytes:
    """One JSON object of prepared entries by client ID.

    Client IDs are UUIDs, made here and never taken from outside, so that they need no escaping.

    >>> connections_json({"c1": b"{}", "c2": b"{}"})
    b'{"c1":{},"c2":{}}'
    """
    pieces = [b'"%b":%b' % (client.encode(), entry) for client, entry in entries.items()]
    return b"{%b}" % b",".join(pieces)
