"""This process as a holder of sessions: its ID, its registry, and the IDs it gives out.

1. The node's ID is random, made in the running process and never reused.
2. After a fork the child is another node: new ID, empty registry with a lock of its own, and none
   of the parent's drawn randomness, or both would give out the same client IDs.
"""

from __future__ import annotations

import os
import uuid
import weakref
from functools import cache

from .registry import Registry

__all__ = ["ClientIds", "Node"]

_BATCH = 256


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


class Node:
    """The state of one node.

    Attributes:
        id: the node's own ID, a random UUID.
        registry: the sessions it holds.
        client_ids: where client IDs come from.
    """

    def __init__(self) -> None:
        self._begin()
        _nodes.add(self)
        _watch_forks()

    def _begin(self) -> None:
        self.id = str(uuid.uuid4())
        self.registry = Registry()
        self.client_ids = ClientIds()


_nodes: weakref.WeakSet[Node] = weakref.WeakSet()


@cache
def _watch_forks() -> None:
    # One hook for all nodes: it can never be taken back, and must not keep a node alive.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_anew)


def _begin_anew() -> None:
    for node in list(_nodes):
        node._begin()
