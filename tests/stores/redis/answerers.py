"""A process whose flows are answered by a test, call by call; no threads, no Redis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from tests.stores.redis.pieces import Pieces
from usersessions.flows import Reply, Request, run
from usersessions.stores.base import StoreRequest
from usersessions.stores.redis.asks import Act, Ask, Late, Pause, Paused
from usersessions.stores.redis.entries import Entry, Mail
from usersessions.stores.redis.line import Call, Failed, Outcome, outcome_of
from usersessions.stores.redis.link import Refused
from usersessions.stores.redis.orders import Effect
from usersessions.stores.redis.protocol import Protocol
from usersessions.stores.redis.values import sealed
from usersessions.stores.redis.waits import Wait

Answer: TypeAlias = "object | Callable[[Call], object]"

LATE, FAILED = Late(), Failed("TimeoutError")

_USUAL: Mapping[str, object] = {
    "renew": [b"ok", b"5-0"],
    "register": [b"ok", b"5-0"],
    "update": [b"ok", b"5-0"],
    "last": b"5-0",
    "check": b"ok",
    "post": b"6-0",
    "nodes": [],
    "EXISTS": 0,
    "HGETALL": {},
    "ZSCORE": b"1",
}


class Answered(Pieces):
    """A process whose questions are answered as `replies` says.

    Attributes:
        replies: the reply to calls of a name, or a function of the call; `LATE` and `FAILED` are
            that. What is not there is answered as usual.
        mails: what others answer while a flow waits for them.
        asked: the calls of each question so far.
        made: the calls that nobody waited for.
        late: who wants to know what came, of the last question.
        is_broken: whether the way to Redis is broken.
        is_doubtful: whether Redis may know less than there is.
        joined: how many times it was told to join, and to listen.
    """

    def __init__(self, *, in_one_place: bool = True) -> None:
        super().__init__(in_one_place=in_one_place)
        self.replies: dict[str, Answer] = {}
        self.mails: list[Mail] = []
        self.asked: list[list[Call]] = []
        self.made: list[Call] = []
        self.late: Callable[[Outcome], None] | None = None
        self.is_broken = self.is_doubtful = False
        self.joined = [0, 0]
        self.waits: dict[str, Wait] = {}
        self.protocol = Protocol(
            self.node,
            self.leases,
            self.calls,
            self.member,
            waits=self.waits,
            mailbox="0e",
            act=Act(
                join=lambda: self._count(0),
                listen=lambda: self._count(1),
                effect=self._effect,
                is_broken=lambda: self.is_broken,
                doubt=lambda: self.is_doubtful,
                renewal=lambda: self.calls.renew(15_000, b"{}", give_up=""),
            ),
            timeout=2.0,
        )

    def run(self, request: StoreRequest) -> Reply:
        """Answer a request, with the answers of the test."""
        return run(self.protocol.answer(request), self.answer)

    def answer(self, request: Request) -> Reply:
        """Answer what a flow asks."""
        if isinstance(request, Pause):
            for mail in self.mails:
                request.wait.note(mail)
            return Paused()
        assert isinstance(request, Ask)
        self.asked.append(list(request.calls))
        self.late = request.also
        values = [self._reply(call) for call in request.calls]
        for value in values:
            if isinstance(value, Late):
                return value
        failed = next((value for value in values if isinstance(value, Failed)), None)
        outcome = outcome_of(values) if failed is None else failed
        if request.also is not None:
            request.also(outcome)
        return outcome

    @property
    def names(self) -> list[str]:
        """The names of the calls so far, in their order."""
        return [call.name for calls in self.asked for call in calls]

    def call(self, name: str) -> Call:
        """The last call of a name."""
        calls = [call for calls in [*self.asked, self.made] for call in calls if call.name == name]
        return calls[-1]

    def posted(self) -> Entry:
        """The last entry that was added to the log."""
        data = self.call("post").arguments[0]
        assert isinstance(data, bytes)
        entry = Entry.read(data)
        assert entry is not None
        return entry

    def value(
        self, client: str, *, lease: str = "0b", at: int = 1, state: str = "+", **asked: object
    ) -> dict[bytes, bytes]:
        """What a user's hash holds of a session of another process."""
        record = self.request(client, **asked).record  # type: ignore[arg-type]  # as a test says
        line = f"1{state} {lease} 5-0 {at} 0\n".encode()
        return {client.encode(): line + sealed(record)}

    def alive(self, *leases: str) -> list[object]:
        """What Redis says of leases that are held."""
        return [part for lease in leases for part in (lease.encode(), 15_000, b"{}")]

    def _reply(self, call: Call) -> object:
        reply = self.replies.get(call.name, _USUAL.get(call.name, b"OK"))
        return reply(call) if callable(reply) else reply

    def _count(self, place: int) -> None:
        self.joined[place] += 1

    def _effect(self, effect: Effect) -> None:
        self.follow(effect)
        self.made.extend(effect.calls)


def in_turn(*replies: object) -> Callable[[Call], object]:
    """Each reply once, and the last of them from then on."""
    left = list(replies)
    return lambda call: left.pop(0) if len(left) > 1 else left[0]


OOM = Refused("OOM")
