"""Waiting for other processes to do what they were asked.

1. A wait is complete once every process that has to answer has, and every session that it told is
   gone, if it is sessions' ends that are waited for.
2. A session that was listed, but that its process did not tell, is gone already.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from .entries import Mail

__all__ = ["Wait"]


class Wait:
    """What became of a command.

    Args:
        leases: who has to answer; None where that is not known yet.
        clients: the sessions that are expected to be told, with the lease of who holds each.
        for_ends: whether to wait until they are gone.

    >>> wait = Wait(["0a"], {"c1": "0a"}, for_ends=True)
    >>> wait.note(Mail("7f", ("0a",), told=("c1", "c2")))
    >>> wait.note(Mail("7f", ("0a",), gone=("c2",)))
    >>> wait.closed, wait.unconfirmed, wait.is_complete
    (('c2',), ('c1',), False)
    """

    def __init__(
        self,
        leases: Iterable[str] = (),
        clients: Mapping[str, str] | None = None,
        *,
        for_ends: bool = False,
    ) -> None:
        self._missing = set(leases)
        self._gone: dict[str, bool] = dict.fromkeys(clients or {}, False)
        self._holders = dict(clients or {})
        self._told: dict[str, None] = {}
        self._for_ends = for_ends
        self._lock = threading.Lock()
        self._complete: Callable[[], None] | None = None

    def note(self, mail: Mail) -> None:
        """Take an answer."""
        with self._lock:
            if mail.told is not None:
                self._missing.difference_update(mail.leases)
                for client in mail.told:
                    self._told[client] = None
                    self._gone.setdefault(client, False)
                for client, lease in self._holders.items():
                    if lease in mail.leases and client not in self._told:
                        self._gone[client] = True
            for client in mail.gone:
                self._gone[client] = True
            complete = self._complete if self._is_complete() else None
        if complete is not None:
            complete()

    def when_complete(self, complete: Callable[[], None]) -> None:
        """Have `complete` called once it is; at once if it is already. It may be called again."""
        with self._lock:
            self._complete = complete
            is_complete = self._is_complete()
        if is_complete:
            complete()

    def for_ends(self) -> None:
        """From now on, wait also until the sessions are gone."""
        with self._lock:
            self._for_ends = True

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing to wait for."""
        with self._lock:
            return self._is_complete()

    @property
    def is_partial(self) -> bool:
        """Whether somebody has not answered who has to."""
        with self._lock:
            return bool(self._missing)

    @property
    def told(self) -> tuple[str, ...]:
        """The sessions that were told."""
        with self._lock:
            return tuple(self._told)

    @property
    def closed(self) -> tuple[str, ...]:
        """The sessions that are gone."""
        with self._lock:
            return tuple(client for client, gone in self._gone.items() if gone)

    @property
    def unconfirmed(self) -> tuple[str, ...]:
        """The sessions that are not gone, as far as is known."""
        with self._lock:
            return tuple(client for client, gone in self._gone.items() if not gone)

    def _is_complete(self) -> bool:
        return not self._missing and not (self._for_ends and not all(self._gone.values()))
