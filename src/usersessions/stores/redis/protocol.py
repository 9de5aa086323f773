"""Each request of a store as a flow of calls to Redis; no I/O.

1. A flow has one deadline for all of its calls, and raises `StoreUnavailable` once it has passed or
   Redis refuses; registering alone goes on without Redis, after `PATIENCE_SECONDS`.
2. Where one server holds all keys, a script sees all that it decides on. In a cluster, what other
   servers hold is asked first; what happens meanwhile comes by the log.
3. A flow that ends sessions first keeps out who has to be kept out, then adds to the log, and then
   waits for answers: what is in the log is done, whatever becomes of the caller.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import DisconnectCode, InvalidValue, JSONError, StoreUnavailable
from ...flows import Flow, Reply, Request, expect
from ...node import Node, NodeInfo
from ...records import facts_of, refreshed
from ...strictjson import loads
from ..base import (
    Allowed,
    BlockUser,
    CheckIdentity,
    Closed,
    DisconnectUser,
    Entries,
    InvalidateTokens,
    ListNodes,
    ListUser,
    Nodes,
    Reached,
    Rebind,
    RefreshUser,
    Refused,
    Register,
    RevokeToken,
    StoreRequest,
    UnblockUser,
)
from ..choice import choose
from .calls import Calls
from .entries import Entry, EntryId, Order, entry_id
from .leases import Leases
from .line import Answers, Call, Failed, Outcome
from .member import Member, Pending, refused_as
from .orders import Effect
from .replies import nodes, pairs, text
from .replies import verdict as read_verdict
from .values import Held, read_values
from .waits import Wait

__all__ = ["PATIENCE_SECONDS", "Act", "Ask", "Late", "Pause", "Paused", "Protocol"]

PATIENCE_SECONDS = 0.04
"""How long a connection waits for Redis before it goes on without."""

_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Ask(Request):
    """Make calls, and wait for their outcome until then, on the monotonic clock.

    `also` is told the outcome in any case, and first.
    """

    calls: Sequence[Call]
    until: float
    also: Callable[[Outcome], None] | None = field(default=None, repr=False)

    def __iter__(self) -> Flow[Answers | Failed | Late]:
        reply = yield self
        if isinstance(reply, (Answers, Failed, Late)):
            return reply
        raise TypeError(f"expected an outcome, got {type(reply).__name__}")


@dataclass(frozen=True, slots=True)
class Late(Reply):
    """There was no outcome in time."""


@dataclass(frozen=True, slots=True)
class Pause(Request):
    """Wait until others have answered, at most until then."""

    wait: Wait
    until: float

    def __iter__(self) -> Flow[None]:
        expect((yield self), Paused)


@dataclass(frozen=True, slots=True)
class Paused(Reply):
    """The wait is over, one way or the other."""


@dataclass(frozen=True, slots=True)
class Act:
    """What a flow does besides asking; none of it waits.

    Attributes:
        join: have this process be a node, and read the log.
        listen: have it read what others answer to it.
        effect: tell sessions, and make calls that nobody waits for.
        is_broken: whether the last that was asked of Redis failed.
        doubt: whether Redis may know less than there is.
    """

    join: Callable[[], None]
    listen: Callable[[], None]
    effect: Callable[[Effect], None]
    is_broken: Callable[[], bool]
    doubt: Callable[[], bool]


class Protocol:
    """Answers the requests of a store.

    Args:
        node: this process's sessions.
        leases: who is alive.
        calls: how Redis is told.
        member: what this process holds.
        waits: where answers of others are expected, by the ID of the command.
        mailbox: where they are sent.
        act: what is done besides.
        about: the call that takes the lease.
        timeout: how long a request may take, in seconds.
    """

    def __init__(
        self,
        node: Node,
        leases: Leases,
        calls: Calls,
        member: Member,
        *,
        waits: dict[str, Wait],
        mailbox: str,
        act: Act,
        join: Callable[[], Call],
        timeout: float,
    ) -> None:
        self._node = node
        self._leases = leases
        self._calls = calls
        self._member = member
        self._waits = waits
        self._mailbox = mailbox
        self._act = act
        self._join = join
        self._timeout = timeout

    def answer(self, request: StoreRequest) -> Flow[Reply]:
        """Answer a request.

        Raises:
            StoreUnavailable: if Redis does not do it in time.
            InvalidValue: if a session is registered already.
        """
        until = time.monotonic() + self._timeout
        if isinstance(request, ListUser):
            return self._list(request, until)
        if isinstance(request, Register):
            return self._register(request)
        if isinstance(request, CheckIdentity):
            return self._check(request, until)
        if isinstance(request, Rebind):
            return self._rebind(request, until)
        if isinstance(request, (DisconnectUser, BlockUser, InvalidateTokens)):
            return self._end_user(request, until)
        if isinstance(request, RevokeToken):
            return self._revoke(request, until)
        if isinstance(request, RefreshUser):
            return self._refresh(request, until)
        if isinstance(request, UnblockUser):
            return self._unblock(request, until)
        if isinstance(request, ListNodes):
            return self._nodes(until)
        raise TypeError(f"not a request of this store: {type(request).__name__}")

    # Registering ------------------------------------------------------------------------------

    def _register(self, request: Register) -> Flow[Reply]:
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
            outcome = yield from Ask([self._join()], until)
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

    def _rebind(self, request: Rebind, until: float) -> Flow[Reply]:
        user, client = request.user, request.client
        record = self._member.begin_rebinding(user, client)
        if record is None:
            return Refused(DisconnectCode.CONNECTION_CLOSED)
        accepted: bytes | None = None
        since = _UNKNOWN
        try:
            last = yield from self._before(request.token_id, until)
            if last is None:
                raise StoreUnavailable(_UNAVAILABLE)
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
                return _refusal(verdict)
            accepted, since = renewed, entry_id(details[0])
        finally:
            if accepted is None:
                # Redis may have taken it, though nobody heard so.
                self._member.write_later(user, client)
            is_open, effect = self._member.rebound(user, client, accepted, since)
            self._act.effect(effect)
        return Allowed() if is_open else Refused(DisconnectCode.CONNECTION_CLOSED)

    # Asking -----------------------------------------------------------------------------------

    def _check(self, request: CheckIdentity, until: float) -> Flow[Reply]:
        calls = self._calls.check(request.user, request.token_id, request.issued_at)
        values = (yield from self._ask(calls, until)).values
        if len(values) > 1 and values[1]:
            return _refusal("revoked")
        verdict = text(values[0])
        return Allowed() if verdict == "ok" else _refusal(verdict)

    def _list(self, request: ListUser, until: float) -> Flow[Entries]:
        user = request.user
        held, is_complete = yield from self._sessions(user, until)
        registry = self._node.registry
        with self._node.lock:
            own = registry.records(user)
            mine = set(self._leases.mine)
        records: dict[str, bytes] = {}
        seen: dict[str, float] = {}
        for one in held:
            # Of its own sessions, this process knows best.
            record = own.pop(one.client, None) if one.lease in mine else one.record
            if record is not None:
                records[one.client] = record
                if one.seen is not None:
                    seen[one.client] = one.seen
        records.update(own)
        seen.update(registry.seen(records))
        return Entries(records, seen, partial=not is_complete)

    def _sessions(self, user: str, until: float, *before: Call) -> Flow[tuple[list[Held], bool]]:
        """A user's sessions whose lease is held, and whether all could be read."""
        lease = [self._calls.has_lease()] if self._leases.is_taken else []
        calls = [*before, *lease, self._calls.list_user(user)]
        values = (yield from self._ask(calls, until)).values
        held, is_complete = read_values(pairs(values[-1]))
        if self._act.doubt() or (lease and values[-2] is None):
            # Data was lost, and who has lost it may not have noticed yet.
            is_complete = False
        if not (yield from self._learn((one.lease for one in held), until)):
            raise StoreUnavailable(_UNAVAILABLE)
        with self._node.lock:
            mine = self._leases.mine
            lost = {one.lease for one in held if self._leases.is_lost(one.lease)}.difference(mine)
        if lost:
            swept = [one.client for one in held if one.lease in lost]
            self._act.effect(Effect(calls=[self._calls.sweep(user, swept, sorted(lost))]))
        return [one for one in held if one.lease not in lost], is_complete

    def _learn(self, leases: Iterable[str], until: float) -> Flow[bool]:
        """Find out which of these leases are held; whether that is known."""
        with self._node.lock:
            unknown = self._leases.unknown(leases)
        if not unknown:
            return True
        asked_at = time.monotonic()
        outcome = yield from Ask([self._calls.nodes(unknown)], until)
        if not isinstance(outcome, Answers):
            return False
        held = {lease: left for lease, left, _ in nodes(outcome.values[0])}
        with self._node.lock:
            self._leases.know(unknown, held, asked_at=asked_at)
        return True

    def _nodes(self, until: float) -> Flow[Nodes]:
        values = (yield from self._ask([self._calls.nodes()], until)).values
        found = {}
        for lease, _, about in nodes(values[0]):
            info = _info(about)
            if info is not None:
                found[lease] = info
        with self._node.lock:
            for lease in self._leases.mine:
                if found.pop(lease, None) is not None:
                    found[self._leases.own] = self._node.info()
        return Nodes(tuple(sorted(found.values(), key=lambda info: (info.name, info.uid))))

    # Ending -----------------------------------------------------------------------------------

    def _end_user(
        self, request: DisconnectUser | BlockUser | InvalidateTokens, until: float
    ) -> Flow[Closed]:
        user, before = request.user, 0.0
        first: list[Call] = []
        order: Order = request
        if isinstance(request, BlockUser):
            first = [self._calls.block(user, request.until)]
        elif isinstance(request, InvalidateTokens):
            now = self._node.clock()
            before = now if request.issued_before is None else request.issued_before
            first = [self._calls.invalidate(user, before, request.until)]
            order = replace(request, issued_before=before)
        held, is_complete = yield from self._sessions(user, until, *first)
        facts = {one.client: facts_of(one.record) for one in held}
        choice = choose(request, facts, issued_before=before)
        calls = [self._calls.revoke(token_id, ends) for token_id, ends in choice.revoked.items()]
        if choice.clients:
            calls.append(self._calls.mark(user, choice.clients))
        if calls:
            yield from self._ask(calls, until)
        holders = {one.client: one.lease for one in held}
        wait = Wait(
            {one.lease for one in held},
            {client: holders[client] for client in choice.clients},
            for_ends=True,
        )
        yield from self._give(
            order,
            wait,
            until,
            time.monotonic() + request.timeout,
            leases=tuple({one.lease for one in held}),
            revoked=tuple(choice.revoked),
            spared=tuple(choice.spared),
        )
        return Closed(
            wait.closed,
            wait.unconfirmed,
            choice.not_revocable,
            partial=wait.is_partial or not is_complete,
        )

    def _revoke(self, request: RevokeToken, until: float) -> Flow[Closed]:
        calls = [self._calls.revoke(request.token_id, request.until), self._calls.nodes()]
        values = (yield from self._ask(calls, until)).values
        wait = Wait([lease for lease, _, _ in nodes(values[1])], for_ends=True)
        end = time.monotonic() + request.timeout
        yield from self._give(request, wait, until, end, leases=None)
        return Closed(wait.closed, wait.unconfirmed, partial=wait.is_partial)

    def _refresh(self, request: RefreshUser, until: float) -> Flow[Reached]:
        held, _ = yield from self._sessions(request.user, until)
        leases = tuple({one.lease for one in held})
        wait = Wait(leases, for_ends=False)
        yield from self._give(request, wait, until, until, leases=leases)
        order = {one.client: place for place, one in enumerate(held)}
        return Reached(tuple(sorted(wait.told, key=lambda client: order.get(client, len(order)))))

    def _give(
        self,
        order: Order,
        wait: Wait,
        until: float,
        end: float,
        *,
        leases: tuple[str, ...] | None,
        revoked: tuple[str, ...] = (),
        spared: tuple[str, ...] = (),
    ) -> Flow[None]:
        """Add an order to the log by `until`, and wait for answers until the end."""
        self._act.listen()
        command = secrets.token_hex(8)
        self._waits[command] = wait
        try:
            entry = Entry(order, command, self._mailbox, leases, revoked, spared)
            yield from self._ask([self._calls.post(entry)], until)
            yield from Pause(wait, end)
        finally:
            self._waits.pop(command, None)

    def _unblock(self, request: UnblockUser, until: float) -> Flow[Reply]:
        yield from self._ask([self._calls.unblock(request.user)], until)
        return Allowed()

    def _ask(self, calls: Sequence[Call], until: float) -> Flow[Answers]:
        outcome = yield from Ask(calls, until)
        if isinstance(outcome, Answers):
            return outcome
        why = "it did not answer in time" if isinstance(outcome, Late) else outcome.why
        raise StoreUnavailable(f"{_UNAVAILABLE}: {why}")


_UNAVAILABLE = "Redis is not available"
_UNKNOWN: EntryId = (0, 0)
_REVOKED: EntryId = (-1, -1)


def _refusal(verdict: str) -> Refused:
    return refused_as(verdict) or Refused(DisconnectCode.INTERNAL_SERVER_ERROR)


def _info(about: bytes) -> NodeInfo | None:
    try:
        members: Any = loads(about)
        return NodeInfo(
            str(members["uid"]),
            str(members["name"]),
            str(members["version"]),
            int(members["num_clients"]),
            int(members["num_users"]),
            int(members["uptime"]),
        )
    except (JSONError, TypeError, ValueError, KeyError):
        return None
