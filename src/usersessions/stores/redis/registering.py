"""Making sessions visible, and having them belong to another token, as flows.

1. Where one server holds all keys, a script sees all that it decides on. In a cluster, what other
   servers hold is asked first: the end of the log, then the token. Whoever revokes it after that is
   read in the log.
2. Registering goes on without Redis after `PATIENCE_SECONDS`: the session is held, and the verdict
   comes later.
"""

from __future__ import annotations

import time

from ...errors import DisconnectCode, InvalidValue, StoreUnavailable
from ...flows import Flow, Reply
from ...records import facts_of, refreshed
from ..base import Allowed, Rebind, Refused, Register
from .asks import UNAVAILABLE, Ask, Asker, Late
from .entries import EntryId, entry_id
from .line import Answers, Failed, Outcome
from .member import Pending, refusal, refused_as
from .orders import Effect
from .replies import text
from .replies import verdict as read_verdict

__all__ = ["PATIENCE_SECONDS", "Registering"]

PATIENCE_SECONDS = 0.04
"""How long a connection waits for Redis before it goes on without."""

_ROUNDS = 4
_UNKNOWN: EntryId = (0, 0)
_REVOKED: EntryId = (-1, -1)


class Registering(Asker):
    """The flows that let a session in."""

    def register(self, request: Register) -> Flow[Reply]:
        """Make a session visible."""
        user, client = request.user, request.client
        pending = self._member.begin(request)
        if pending is None:
            raise InvalidValue(f"client {client} is registered already")
        if isinstance(pending, Refused):
            return pending
        self._act.join()
        verdict, details = yield from self._verdict(pending)
        if not verdict:
            return Allowed()
        if verdict == "ok":
            effect = self._member.allowed(pending, entry_id(details[0]))
            self._act.effect(effect + Effect(calls=self._member.evict(user, details[1:])))
            return Allowed()
        self._member.refused(pending)
        refused = refused_as(verdict)
        if refused is None:
            raise InvalidValue(f"client {client} is registered already")
        return refused

    def _verdict(self, pending: Pending) -> Flow[tuple[str, list[str]]]:
        """The verdict on a session; "" if it is held without one."""
        user, client = pending.request.user, pending.request.client

        def late(outcome: Outcome) -> None:
            self._act.effect(self._member.late(pending, outcome))

        until = time.monotonic() + PATIENCE_SECONDS
        limit = pending.request.limit
        if limit is not None and limit.policy == "evict_idle" and not self._act.is_broken():
            # Which session is idle is decided there.
            news = self._member.news(user)
            if news:
                yield from Ask(news, until)
        for _ in range(_ROUNDS):
            if self._act.is_broken():
                break
            last = yield from self._before(pending.request.facts.token_id, until)
            if last is _REVOKED:
                return "revoked", []
            call = None if last is None else self._member.registration(user, client, last)
            if call is None:
                break
            outcome: Answers | Failed | Late | None = yield from Ask([call], until, late)
            if not isinstance(outcome, Answers):
                outcome, effect = self._member.hold(pending)
                self._act.effect(effect)
                if outcome is None:
                    return "", []
            verdict, details = read_verdict(outcome.values[-1])
            if verdict not in ("unsure", "taken"):
                return verdict, details
            self._member.rivals(client, details)
            if not (yield from self._learn(details, until)):
                break
            if verdict == "taken" and not any(map(self._leases.is_lost, details)):
                return verdict, details
        _, effect = self._member.hold(pending, is_asked=False)
        self._act.effect(effect)
        return "", []

    def _before(self, token_id: str | None, until: float) -> Flow[EntryId | None]:
        """What has to be known before a script runs that cannot see it: the end of the log.

        Gives None if Redis does not say, and `_REVOKED` if the token is.
        """
        if not self._leases.is_taken:
            lease = self._leases.own
            outcome = yield from Ask([self._act.renewal()], until)
            if not isinstance(outcome, Answers):
                return None
            _, (last,) = read_verdict(outcome.values[0])
            self._member.joined(lease, entry_id(last))
        if self._calls.in_one_place:
            return _UNKNOWN
        outcome = yield from Ask([self._calls.last()], until)
        if not isinstance(outcome, Answers):
            return None
        before = entry_id(text(outcome.values[0]))
        if token_id is not None:
            # After the end of the log, so that whoever revokes it from now on is read there.
            outcome = yield from Ask(self._calls.is_revoked(token_id), until)
            if not isinstance(outcome, Answers):
                return None
            if outcome.values[0]:
                return _REVOKED
        return before

    def rebind(self, request: Rebind, until: float) -> Flow[Reply]:
        """Have a session belong to another token."""
        user, client = request.user, request.client
        record = self._member.begin_rebinding(user, client)
        if record is None:
            return Refused(DisconnectCode.CONNECTION_CLOSED)
        accepted: bytes | None = None
        since = _UNKNOWN
        try:
            last = yield from self._before(request.token_id, until)
            if last is None:
                raise StoreUnavailable(UNAVAILABLE)
            renewed = refreshed(
                record,
                token_id=request.token_id,
                issued_at=request.issued_at,
                token_expires=request.token_expires,
                expire_at=request.expire_at,
            )
            verdict, details = "revoked", [""]
            if last is not _REVOKED:
                call = self._calls.rebind(user, client, renewed, facts_of(renewed), last=last)
                answers = yield from self._ask([call], until)
                verdict, details = read_verdict(answers.values[0])
            if verdict != "ok":
                return refusal(verdict)
            accepted, since = renewed, entry_id(details[0])
        finally:
            if accepted is None:
                # Redis may have taken it, though nobody heard so.
                self._member.write_later(user, client)
            is_open, effect = self._member.rebound(user, client, accepted, since)
            self._act.effect(effect)
        return Allowed() if is_open else Refused(DisconnectCode.CONNECTION_CLOSED)
