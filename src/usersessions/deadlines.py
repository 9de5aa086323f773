"""Which sessions expire when: one queue for all of them, so that one timer is enough. No clock.

1. A client has one deadline at most; setting it again replaces it.
2. The heap may hold deadlines that were replaced or discarded; they are passed over, and swept out
   once they are the most of it, so that it stays O(clients).
"""

from __future__ import annotations

import heapq

__all__ = ["Deadlines"]


class Deadlines:
    """No deadlines yet; not safe to share between threads by itself.

    >>> deadlines = Deadlines()
    >>> deadlines.set("c1", 100.0)
    >>> deadlines.next, deadlines.due(99.0), deadlines.due(100.0), deadlines.next
    (100.0, [], ['c1'], None)
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []
        self._by_client: dict[str, float] = {}

    def set(self, client: str, when: float | None) -> None:
        """Set a client's deadline; None is none."""
        if when is None:
            self.discard(client)
        elif self._by_client.get(client) != when:
            self._by_client[client] = when
            heapq.heappush(self._heap, (when, client))
            self._sweep()

    def discard(self, client: str) -> None:
        """Forget a client's deadline, if it has one."""
        if self._by_client.pop(client, None) is not None:
            self._sweep()

    @property
    def next(self) -> float | None:
        """The first deadline there is."""
        while self._heap and self._by_client.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[str]:
        """Take the clients whose deadline is reached, the first one first."""
        clients = []
        while (when := self.next) is not None and when <= now:
            client = heapq.heappop(self._heap)[1]
            del self._by_client[client]
            clients.append(client)
        return clients

    def _sweep(self) -> None:
        if len(self._heap) > 2 * len(self._by_client) + 64:
            self._heap = [(when, client) for client, when in self._by_client.items()]
            heapq.heapify(self._heap)
