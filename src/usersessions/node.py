"""This process as a holder of sessions: its ID, its registry, and the IDs it gives out.

1. The node's ID is random, made in the running process and never reused.
2. After a fork the child is another node: new ID, empty registry with a lock of its own, and none
   of the parent's drawn randomness, or both would give out the same client IDs.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from math import ceil

from .errors import DisconnectCode, InvalidValue
from .models import Disconnect
from .registry import Registry, Tell, tell_all
from .version import __version__

__all__ = [
    "EXPIRED",
    "INVALID",
    "OVER_LIMIT",
    "SHUTDOWN",
    "ClientIds",
    "Node",
    "NodeInfo",
]

INVALID = Disconnect.of(DisconnectCode.INVALID_TOKEN)
OVER_LIMIT = Disconnect.of(DisconnectCode.CONNECTION_LIMIT)
EXPIRED = Disconnect.of(DisconnectCode.CONNECTION_EXPIRED)
SHUTDOWN = Disconnect.of(DisconnectCode.SHUTDOWN)

_BATCH = 256
_LEAST_ENDED = 100
_PAUSE = 0.1
_POLL = 0.01
_FOREVER = 1e9


class ClientIds:
    """Random client IDs (UUID version 4, RFC 9562), drawn from the system in batches.

    >>> len(ClientIds().draw())
    36
    """

    def __init__(self) -> None:
        self._drawn: list[str] = []

    def draw(self) -> str:
        """A client ID that was never given out before; from any thread."""
        while True:
            try:
                # `pop` is atomic: two threads never get the same ID.
                return self._drawn.pop()
            except IndexError:
                self._drawn.extend(_draw_batch())


def _draw_batch() -> list[str]:
    randomness = bytearray(os.urandom(16 * _BATCH))
    # The bits that say "version 4" and "variant of RFC 9562" (5.4), in all of them at once.
    randomness[6::16] = bytes(octet & 0x0F | 0x40 for octet in randomness[6::16])
    randomness[8::16] = bytes(octet & 0x3F | 0x80 for octet in randomness[8::16])
    digits = randomness.hex()
    return [
        f"{one[:8]}-{one[8:12]}-{one[12:16]}-{one[16:20]}-{one[20:]}"
        for one in (digits[start : start + 32] for start in range(0, len(digits), 32))
    ]


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a node says of itself.

    Attributes:
        uid: its ID.
        name: its host and process ID, for people.
        version: the version of this library that it runs.
        num_clients: how many sessions it holds.
        num_users: of how many users.
        uptime: for how many whole seconds it has been there.
    """

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    uptime: int


class Node:
    """The state of one node.

    Args:
        clock: tells this moment in seconds since the epoch.

    Attributes:
        id: the node's own ID, a random UUID.
        clock: as given.
        registry: the sessions it holds.
        lock: held by whoever decides and changes the registry in one act.
        client_ids: where client IDs come from.
        draining: whether new sessions are refused.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._begin()
        _nodes.add(self)
        _watch_forks()

    def _begin(self) -> None:
        self.id = str(uuid.uuid4())
        self.registry = Registry()
        self.lock = threading.Lock()
        self.client_ids = ClientIds()
        self.draining = False
        self._began = time.monotonic()

    def info(self) -> NodeInfo:
        """What it says of itself now."""
        clients, users = self.registry.counts()
        return NodeInfo(
            self.id,
            f"{socket.gethostname()}_{os.getpid()}",
            __version__,
            clients,
            users,
            int(time.monotonic() - self._began),
        )

    def expire(self) -> None:
        """Tell the sessions whose time is up to end, with 3005 `connection expired`."""
        tell_all(self.take_expired(), EXPIRED)

    def take_expired(self) -> list[Tell]:
        """Take the sessions whose time is up, and give how they are told."""
        with self.lock:
            return self.registry.take(self.registry.expired(self.clock()))

    def drain(self, timeout: float) -> Iterator[float]:
        """Refuse new sessions, and end the open ones with 3001, in batches over the time given.

        Few are ended at once; many are spread over four fifths of the time, so that not all their
        clients come back to other servers in the same moment.

        Yields:
            How many seconds to wait before going on.

        Raises:
            InvalidValue: if `timeout` is no number.
        """
        left = _seconds(timeout)
        with self.lock:
            # Whoever is registered before this is among them, and nobody is after it.
            self.draining = True
            clients = self.registry.clients()
        size = max(_LEAST_ENDED, ceil(len(clients) * _PAUSE / max(_PAUSE, left * 0.8)))
        for start in range(0, len(clients), size):
            if start:
                left -= _PAUSE
                yield _PAUSE
            with self.lock:
                tells = self.registry.take(clients[start : start + size])
            tell_all(tells, SHUTDOWN)
        while self.registry.counts()[0] and left > 0:
            left -= _POLL
            yield _POLL


def _seconds(timeout: object) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout != timeout:
        raise InvalidValue("timeout must be a number of seconds")
    return min(timeout, _FOREVER)


_nodes: weakref.WeakSet[Node] = weakref.WeakSet()


@cache
def _watch_forks() -> None:
    # One hook for all nodes: it can never be taken back, and must not keep a node alive.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_anew)


def _begin_anew() -> None:
    for node in list(_nodes):
        node._begin()
