"""Who is kept out: blocked users, revoked tokens, and tokens issued before a moment. No clock.

1. Every entry ends by itself, but a block without an end, which lasts until it is lifted.
2. What has ended is dropped as entries are added, so that there are never more than about twice as
   many as count. It is dropped an hour later: a clock that is set back by less lets nobody in.
3. A later entry never shortens an earlier one of the same kind that has not ended.
"""

from __future__ import annotations

import math
from enum import Enum

__all__ = ["KEPT_SECONDS", "Refusal", "Refusals"]

KEPT_SECONDS = 30 * 24 * 3600.0
"""How long a token stays refused where nothing says when it ends."""

_SET_BACK_SECONDS = 3600.0
_FEW = 64


class Refusal(Enum):
    """Why somebody is kept out."""

    BLOCKED = "the user is blocked"
    REVOKED = "the token is revoked"


class Refusals:
    """Nobody is kept out yet; not safe to share between threads by itself.

    >>> refusals = Refusals()
    >>> refusals.block("42", until=100.0, now=0.0)
    >>> refusals.check("42", token_id=None, issued_at=None, now=99.0)
    <Refusal.BLOCKED: 'the user is blocked'>
    >>> refusals.check("42", token_id=None, issued_at=None, now=100.0)
    """

    def __init__(self) -> None:
        self._blocked: dict[str, float] = {}
        self._revoked: dict[str, float] = {}
        self._invalidated: dict[str, tuple[float, float]] = {}
        self._sweep_at = _FEW

    def __len__(self) -> int:
        return len(self._blocked) + len(self._revoked) + len(self._invalidated)

    def block(self, user: str, *, until: float | None, now: float) -> None:
        """Keep a user out; `until` None is until it is lifted."""
        ends = math.inf if until is None else until
        self._blocked[user] = max(ends, self._blocked.get(user, -math.inf))
        self._sweep(now)

    def unblock(self, user: str) -> None:
        """Let a user in again."""
        self._blocked.pop(user, None)

    def revoke(self, token_id: str, *, until: float, now: float) -> None:
        """Keep a token out."""
        self._revoked[token_id] = max(until, self._revoked.get(token_id, -math.inf))
        self._sweep(now)

    def invalidate(self, user: str, *, issued_before: float, until: float, now: float) -> None:
        """Keep out the tokens of a user that were issued before a moment."""
        before, ends = self._invalidated.get(user, (-math.inf, -math.inf))
        if now < ends:
            issued_before, until = max(issued_before, before), max(until, ends)
        self._invalidated[user] = issued_before, until
        self._sweep(now)

    def check(
        self, user: str, *, token_id: str | None, issued_at: float | None, now: float
    ) -> Refusal | None:
        """Why somebody is kept out; None if they are not.

        Args:
            user: who it is.
            token_id: the `jti` of their token.
            issued_at: the `iat` of their token, 0 for a token without; None if there is no token.
            now: this moment.
        """
        if now < self._blocked.get(user, -math.inf):
            return Refusal.BLOCKED
        if token_id is not None and now < self._revoked.get(token_id, -math.inf):
            return Refusal.REVOKED
        if issued_at is not None:
            issued_before, until = self._invalidated.get(user, (-math.inf, -math.inf))
            if now < until and issued_at < issued_before:
                return Refusal.REVOKED
        return None

    def _sweep(self, now: float) -> None:
        if len(self) < self._sweep_at:
            return
        past = now - _SET_BACK_SECONDS
        self._blocked = {user: until for user, until in self._blocked.items() if past < until}
        self._revoked = {token: until for token, until in self._revoked.items() if past < until}
        self._invalidated = {
            user: entry for user, entry in self._invalidated.items() if past < entry[1]
        }
        self._sweep_at = max(_FEW, 2 * len(self))
