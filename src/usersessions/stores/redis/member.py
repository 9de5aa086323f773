"""The sessions of this process, and what Redis still has to learn of them.

1. The registry is the truth about this process's sessions; Redis has a copy for the others, which
   is written again whenever it may be incomplete.
2. A session without a verdict is pending: Redis has not said yet whether it may be. Where Redis
   takes too long, it is held all the same, and the verdict is heard later.
3. A write without a reply leaves a session in doubt. When it ends, a mark in Redis keeps that write
   from bringing it back, however late it arrives.
4. What has to be written again is bounded by the sessions that are held: ends are forgotten with
   the lease that they were under, as what is under a lost lease is nobody's.
5. All of this is guarded by the node's lock; nothing here waits, and nobody is told under it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...errors import DisconnectCode
from ...models import Disconnect
from ...node import SHUTDOWN, Node
from ...records import facts_of
from ...refusals import Refusal
from ..base import Refused, Register, deadline_of
from .calls import Calls
from .entries import Entry, EntryId, EvictClients, Mail, entry_id
from .leases import Leases
from .line import Answers, Call, Outcome
from .orders import Effect, Orders
from .replies import verdict as read_verdict

__all__ = ["Member", "Pending", "refusal", "refused_as"]

_CHUNK = 256
_SLICE = 128


@dataclass(slots=True, eq=False)
class Pending:
    """A session without a verdict.

    Attributes:
        request: what was asked.
        is_held: whether it is held all the same.
        outcome: what came when nobody waited for it any more.
        lease: the lease that it was written under.
    """

    request: Register
    is_held: bool = False
    outcome: Outcome | None = None
    lease: str = ""


@dataclass(slots=True)
class _Ended:
    user: str
    in_doubt: bool
    mails: list[tuple[str, Mail]] = field(repr=False)


class Member:
    """What this process holds.

    Args:
        node: its sessions.
        leases: who it is.
        calls: how Redis is told.
    """

    def __init__(self, node: Node, leases: Leases, calls: Calls) -> None:
        self._node = node
        self._leases = leases
        self._calls = calls
        self._pending: dict[str, Pending] = {}
        self.orders = Orders(node, leases, calls, self._pending)
        self._doubt: set[str] = set()
        self._unwritten: dict[str, str] = {}
        self._ended: dict[str, _Ended] = {}
        self._touched: dict[str, str] = {}
        self._rivals: dict[str, list[str]] = {}
        self._round: list[str] = []

    def begin_anew(self) -> str:
        """Take another lease, and give the one that is lost: everything has to be written again."""
        with self._node.lock:
            lost = self._leases.another()
            # Whatever is still on its way is under the lost lease.
            self._doubt.clear()
            self._ended.clear()
            self._unwritten = {client: user for user, client in self._node.registry.all()}
        return lost

    # Registering ------------------------------------------------------------------------------

    def begin(self, request: Register) -> Pending | Refused | None:
        """Note that a session is about to be registered; None if its client ID is taken here."""
        client = request.client
        with self._node.lock:
            if self._node.draining:
                return Refused(DisconnectCode.SHUTDOWN)
            if client in self._pending or self._node.registry.held([client]):
                return None
            self.orders.undecided += 1
            pending = self._pending[client] = Pending(request)
        return pending

    def registration(self, user: str, client: str, last: EntryId | None) -> Call | None:
        """The call that makes a session visible, or writes it again; None if it is gone.

        Args:
            user: whose it is.
            client: its ID.
            last: the last entry of the log, where a script cannot see it.
        """
        with self._node.lock:
            registry = self._node.registry
            pending = self._pending.get(client)
            if pending is not None:
                pending.outcome, pending.lease = None, self._leases.own
            is_waiting = pending is not None and not pending.is_held
            # Whoever is about to be registered is not among them, and they may be many.
            held = None if is_waiting else registry.records(user).get(client)
            if held is None:
                if pending is None:
                    return None
                record, facts = pending.request.record, pending.request.facts
            else:
                record, facts = held, facts_of(held)
            now = self._node.clock()
            seen = registry.seen([client]).get(client)
            self._doubt.add(client)
            return self._calls.register(
                user,
                client,
                record,
                facts,
                is_new=pending is not None,
                is_told=held is not None and client not in registry.open(user),
                limit=None if pending is None else pending.request.limit,
                age=0.0 if is_waiting else now - facts.connected_at,
                unheard=None if seen is None else now - seen,
                rivals=self._rivals.get(client, ()),
                last=last,
            )

    def hold(self, pending: Pending, *, is_asked: bool = True) -> tuple[Answers | None, Effect]:
        """Hold a session without a verdict, or give the verdict that has just come.

        Args:
            pending: the session.
            is_asked: whether Redis was asked, so that the verdict may still come.
        """
        client = pending.request.client
        with self._node.lock:
            outcome, pending.outcome = pending.outcome, None
            # Where it was not asked again, what came is what it went on from.
            if isinstance(outcome, Answers) and is_asked:
                return outcome, Effect()
            if self._pending.get(client) is not pending:
                # It ended while Redis was asked.
                return None, Effect()
            pending.is_held = True
            effect = self._add(pending.request)
            if outcome is not None or not is_asked:
                self._unwritten[client] = pending.request.user
            return None, effect

    def joined(self, lease: str, last: EntryId) -> None:
        """Note that a lease was taken or renewed, and how far the log had got then."""
        with self._node.lock:
            if lease == self._leases.own:
                self._leases.is_taken = True
                self.orders.found(last)

    def write_later(self, user: str, client: str) -> None:
        """Note that Redis has to be told of a session that is held."""
        with self._node.lock:
            if self._node.registry.held([client]):
                self._unwritten[client] = user

    def allowed(self, pending: Pending, since: EntryId) -> Effect:
        """Hold a session that Redis has allowed, and give what follows."""
        client = pending.request.client
        with self._node.lock:
            if self._pending.get(client) is not pending:
                # It ended while Redis was asked.
                return Effect()
            return self._add(pending.request) + self._known(pending, since)

    def refused(self, pending: Pending) -> None:
        """Forget a session that Redis has refused."""
        client = pending.request.client
        with self._node.lock:
            if self._pending.get(client) is pending:
                self._doubt.discard(client)
                self._decided(client)

    def late(self, pending: Pending, outcome: Outcome) -> Effect:
        """Take a verdict that nobody may be waiting for any more."""
        request = pending.request
        with self._node.lock:
            if self._pending.get(request.client) is not pending:
                return Effect()
            if not pending.is_held:
                pending.outcome = outcome
                return Effect()
        return self.written(request.user, request.client, outcome)

    def written(self, user: str, client: str, outcome: Outcome) -> Effect:
        """Take what came of writing a session that is held here."""
        with self._node.lock:
            pending = self._pending.get(client)
            if not self._node.registry.held([client]):
                return Effect()
            self._rivals.pop(client, None)
            if not isinstance(outcome, Answers):
                self._unwritten[client] = user
                return Effect()
            verdict, details = read_verdict(outcome.values[-1])
            if verdict == "unsure" or (
                verdict == "taken" and not all(map(self._leases.is_held, details))
            ):
                self._rivals[client] = details
                self._unwritten[client] = user
                return Effect()
            if verdict == "ok" and pending is not None:
                effect = self._known(pending, entry_id(details[0]))
                return effect + Effect(calls=self.evict(user, details[1:]))
            self._doubt.discard(client)
            if verdict == "ok":
                return Effect()
            if pending is not None:
                self._decided(client)
            refused = refused_as(verdict)
            code = DisconnectCode.FORCE_RECONNECT if refused is None else refused.code
            tells = [(tell, Disconnect.of(code)) for tell in self._node.registry.take([client])]
            return Effect(tells)

    def rivals(self, client: str, leases: list[str]) -> None:
        """Note of which leases it has to be known whether they are held, to register a session."""
        with self._node.lock:
            self._rivals[client] = leases

    def questions(self) -> list[str]:
        """The leases of which it has to be known whether they are held, and is not."""
        with self._node.lock:
            return self._leases.unknown(
                lease for client in self._unwritten for lease in self._rivals.get(client, ())
            )

    def token_to_check(self, client: str) -> str | None:
        """The token of a session that has no verdict yet."""
        with self._node.lock:
            pending = self._pending.get(client)
            return None if pending is None else pending.request.facts.token_id

    def evict(self, user: str, clients: Sequence[str]) -> list[Call]:
        """The call that ends sessions that have to make room."""
        return [self._calls.post(Entry(EvictClients(user, tuple(clients))))] if clients else []

    def _add(self, request: Register) -> Effect:
        self._node.registry.add(
            request.user,
            request.client,
            request.record,
            request.tell,
            token_id=request.facts.token_id,
            deadline=deadline_of(request.facts.expire_at),
        )
        if not self._node.draining:
            return Effect()
        # It began to stop while Redis was asked, and has told all others already.
        return Effect([(tell, SHUTDOWN) for tell in self._node.registry.take([request.client])])

    def _known(self, pending: Pending, since: EntryId) -> Effect:
        client = pending.request.client
        self._doubt.discard(client)
        if pending.lease != self._leases.own:
            # What was written was lost before this was heard.
            self._unwritten[client] = pending.request.user
        return self._decided(client, since)

    def _decided(self, client: str, since: EntryId | None = None) -> Effect:
        del self._pending[client]
        self._rivals.pop(client, None)
        effect = Effect() if since is None else self.orders.catch_up(client, since)
        self.orders.decided()
        return effect

    # Other tokens -----------------------------------------------------------------------------

    def begin_rebinding(self, user: str, client: str) -> bytes | None:
        """The record of a session that is about to get another token; None if it is gone.

        Call `rebound` when it is over, whatever came of it.
        """
        with self._node.lock:
            record = self._node.registry.open(user).get(client)
            if record is not None:
                self.orders.undecided += 1
            return record

    def rebound(
        self, user: str, client: str, record: bytes | None, since: EntryId
    ) -> tuple[bool, Effect]:
        """Give a session the record that Redis has taken; whether it is there, and what follows."""
        with self._node.lock:
            is_open = record is not None and client in self._node.registry.open(user)
            effect = Effect()
            if is_open and record is not None:
                self.orders.replace(user, client, record)
                if client not in self._pending:
                    effect = self.orders.catch_up(client, since)
            self.orders.decided()
            return is_open, effect

    # Ends -------------------------------------------------------------------------------------

    def end(self, user: str, client: str) -> tuple[bool, list[Call]]:
        """Forget a session; whether it was held, and the calls that tell Redis.

        Call `told_of_end` with what came of them.
        """
        with self._node.lock:
            pending = self._pending.get(client)
            if pending is not None:
                self._decided(client)
            held = self._node.registry.remove(user, client)
            if not held and pending is None:
                return False, []
            in_doubt = client in self._doubt
            self._doubt.discard(client)
            was_unwritten = self._unwritten.pop(client, None) is not None
            self._touched.pop(client, None)
            self._rivals.pop(client, None)
            mails = self.orders.gone(client)
            if pending is not None and was_unwritten and not in_doubt:
                # Redis never heard of it.
                return held, [self._calls.mail(*mail) for mail in mails]
            self._ended[client] = _Ended(user, in_doubt, mails)
            return held, [self._calls.end(user, client, in_doubt=in_doubt)]

    def told_of_end(self, client: str, outcome: Outcome) -> list[Call]:
        """Take what came of telling Redis of an end; the calls that tell who waits for it."""
        if not isinstance(outcome, Answers):
            return []
        with self._node.lock:
            ended = self._ended.pop(client, None)
            return [] if ended is None else [self._calls.mail(*mail) for mail in ended.mails]

    # What Redis still has to learn ------------------------------------------------------------

    @property
    def has_due(self) -> bool:
        """Whether there is anything that Redis has to be told again."""
        return bool(self._ended or self._unwritten)

    @property
    def is_behind(self) -> bool:
        """Whether there are sessions that Redis may not have."""
        return bool(self._unwritten)

    def due_ends(self) -> list[tuple[str, Call]]:
        """Some of the sessions whose end Redis may not know, with the call that tells it."""
        with self._node.lock:
            return [
                (client, self._calls.end(one.user, client, in_doubt=one.in_doubt))
                for client, one in list(self._ended.items())[:_CHUNK]
            ]

    def due_writes(self) -> list[tuple[str, str]]:
        """Take some of the sessions that have to be written: user and client."""
        with self._node.lock:
            chunk = list(self._unwritten.items())[:_CHUNK]
            for client, _ in chunk:
                del self._unwritten[client]
        return [(user, client) for client, user in chunk]

    def touch(self, user: str, client: str) -> None:
        """Note that a client was heard of, which Redis learns some time."""
        self._node.registry.touch(client, self._node.clock())
        self._touched[client] = user

    def news(self, user: str | None = None) -> list[Call]:
        """The calls that say when clients were last heard of; all of a user's, or some of any."""
        with self._node.lock:
            now = self._node.clock()
            if user is None:
                chunk = list(self._touched.items())[:_CHUNK]
            else:
                own = self._node.registry.records(user)
                chunk = [(client, user) for client in own if client in self._touched]
            for client, _ in chunk:
                del self._touched[client]
            seen = self._node.registry.seen(client for client, _ in chunk)
            return [
                self._calls.seen(user, client, ago=now - seen[client])
                for client, user in chunk
                if client in seen
            ]

    def next_users(self) -> list[tuple[str, str]]:
        """Some users whose sessions have to be kept for longer, each with the oldest of those held
        here; in the end it was everybody.

        Sessions are written oldest first, so that whatever is lost, the oldest is lost with it.
        """
        with self._node.lock:
            if not self._round:
                self._round = self._node.registry.users()
            users, self._round = self._round[:_SLICE], self._round[_SLICE:]
            oldest = [(user, next(iter(self._node.registry.records(user)), "")) for user in users]
        return [(user, client) for user, client in oldest if client]

    def missing(self, user: str) -> None:
        """Note that Redis has lost sessions of a user."""
        with self._node.lock:
            for client in self._node.registry.records(user):
                self._unwritten[client] = user


def refusal(verdict: str) -> Refused:
    """How a verdict of Redis refuses somebody."""
    return refused_as(verdict) or Refused(DisconnectCode.INTERNAL_SERVER_ERROR)


def refused_as(verdict: str) -> Refused | None:
    """How a verdict of Redis refuses somebody; None if it does not."""
    return {
        "blocked": Refused(DisconnectCode.FORCE_DISCONNECT, Refusal.BLOCKED),
        "revoked": Refused(DisconnectCode.INVALID_TOKEN, Refusal.REVOKED),
        "limit": Refused(DisconnectCode.CONNECTION_LIMIT),
        "ended": Refused(DisconnectCode.CONNECTION_CLOSED),
    }.get(verdict)
