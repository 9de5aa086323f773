"""What flows ask of Redis and of other processes, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ...errors import StoreUnavailable
from ...flows import Flow, Reply, Request, expect
from ...node import Node
from .calls import Calls
from .leases import Leases
from .line import Answers, Call, Failed, Outcome
from .member import Member
from .orders import Effect
from .replies import nodes, pairs
from .values import Held, read_values
from .waits import Wait

__all__ = ["UNAVAILABLE", "Act", "Ask", "Asker", "Late", "Pause", "Paused"]

UNAVAILABLE = "Redis is not available"


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
        renewal: the call that takes or renews the lease.
    """

    join: Callable[[], None]
    listen: Callable[[], None]
    effect: Callable[[Effect], None]
    is_broken: Callable[[], bool]
    doubt: Callable[[], bool]
    renewal: Callable[[], Call]


class Asker:
    """What flows know, and the questions that several of them ask.

    Args:
        node: this process's sessions.
        leases: who is alive.
        calls: how Redis is told.
        member: what this process holds.
        waits: where answers of others are expected, by the ID of the command.
        mailbox: where they are sent.
        act: what is done besides.
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
        timeout: float,
    ) -> None:
        self._node = node
        self._leases = leases
        self._calls = calls
        self._member = member
        self._waits = waits
        self._mailbox = mailbox
        self._act = act
        self._timeout = timeout

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
            raise StoreUnavailable(UNAVAILABLE)
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
        asked_at = self._leases.clock()
        outcome = yield from Ask([self._calls.nodes(unknown)], until)
        if not isinstance(outcome, Answers):
            return False
        held = {lease: left for lease, left, _ in nodes(outcome.values[0])}
        with self._node.lock:
            self._leases.know(unknown, held, asked_at=asked_at)
        return True

    def _ask(self, calls: Sequence[Call], until: float) -> Flow[Answers]:
        outcome = yield from Ask(calls, until)
        if isinstance(outcome, Answers):
            return outcome
        why = "it did not answer in time" if isinstance(outcome, Late) else outcome.why
        raise StoreUnavailable(f"{UNAVAILABLE}: {why}")
