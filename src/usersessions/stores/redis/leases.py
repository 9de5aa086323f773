"""Who is alive: this process's own lease, and what is known of the others'.

1. A lease that was lost never comes back: whoever loses it takes another one. So what is under a
   lost lease is nobody's, and may be forgotten by anybody.
2. That a lease is held is known until it would end, by this process's monotonic clock from when
   the question was asked; clocks of different machines are never compared.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice

__all__ = ["Leases"]

_FORMER = 16
_KNOWN = 10_000
_GIVEN = 100


class Leases:
    """A lease that is not taken yet; not safe to share between threads by itself.

    >>> leases = Leases(clock=lambda: 100.0)
    >>> leases.know(["0a", "0b"], {"0a": 15.0}, asked_at=99.0)
    >>> leases.unknown(["0a", "0b", "0c"]), leases.is_lost("0b")
    (['0c'], True)
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.own = secrets.token_hex(8)
        self.is_taken = False
        self._former: deque[str] = deque(maxlen=_FORMER)
        self._held: dict[str, float] = {}
        self._lost: dict[str, None] = {}
        self.clock = clock

    @property
    def mine(self) -> tuple[str, ...]:
        """The lease of this process, and those it had before, the last one first."""
        return (self.own, *self._former)

    def another(self) -> str:
        """Begin anew, and give the lease that is lost."""
        lost = self.own
        self._former.appendleft(lost)
        self.own = secrets.token_hex(8)
        self.is_taken = False
        return lost

    def know(self, asked: Iterable[str], held: dict[str, float], *, asked_at: float) -> None:
        """Note who is alive.

        Args:
            asked: the leases in question.
            held: those of them that are held, and for how many more seconds.
            asked_at: when that was asked, by this object's `clock`.
        """
        for lease in asked:
            self._held.pop(lease, None)
            if lease in held:
                self._held[lease] = asked_at + held[lease]
            else:
                self._lost[lease] = None
        for known in (self._held, self._lost):
            while len(known) > _KNOWN:
                del known[next(iter(known))]

    def doubt(self) -> None:
        """Forget who is known to be alive: whoever answers next may be another Redis, or this one
        with old data."""
        self._held.clear()

    def unknown(self, leases: Iterable[str]) -> list[str]:
        """Those of these of which nobody knows, now, whether they are held."""
        return [
            lease
            for lease in dict.fromkeys(leases)
            if not self.is_lost(lease) and not self.is_held(lease)
        ]

    def is_held(self, lease: str) -> bool:
        """Whether a lease is known to be held."""
        return lease == self.own or self._held.get(lease, 0.0) > self.clock()

    def is_lost(self, lease: str) -> bool:
        """Whether a lease is known to be lost."""
        return lease in self._lost or lease in self._former

    def held(self) -> list[str]:
        """Those that are known to be held; of very many, some."""
        known = islice(self._held, _GIVEN)
        return [self.own, *(lease for lease in known if self.is_held(lease))]
