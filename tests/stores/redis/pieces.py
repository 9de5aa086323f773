"""The parts of the store on Redis, put together without threads, and a Redis that a test plays.

A stand-in for Redis is a function from a command, as `Sent`, to the reply.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, cast

from usersessions.models import ConnectRequest, Disconnect, Identity, SessionLimit
from usersessions.node import Node
from usersessions.records import Facts, prepare
from usersessions.registry import Tell
from usersessions.stores.base import Register
from usersessions.stores.redis.calls import Calls
from usersessions.stores.redis.entries import Entry, EntryId, EvictClients, Mail
from usersessions.stores.redis.keys import Keys
from usersessions.stores.redis.leases import Leases
from usersessions.stores.redis.line import Call
from usersessions.stores.redis.link import Command, LinkBroken, Target
from usersessions.stores.redis.member import Member, Pending
from usersessions.stores.redis.orders import Effect, Orders
from usersessions.stores.redis.scripts import script

NOW = 1_700_000_000.0
LINK_SECONDS = 5.0


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Pieces:
    """One process, as far as it is data."""

    def __init__(self, *, in_one_place: bool = True, prefix: str = "t") -> None:
        self.clock, self.monotonic = Clock(), Clock(1000.0)
        self.node = Node(self.clock)
        self.leases = Leases(clock=self.monotonic)
        self.calls = Calls(Keys(prefix), self.leases, self.clock, in_one_place=in_one_place)
        self.member = Member(self.node, self.leases, self.calls)
        self.told: list[tuple[str, Disconnect]] = []

    @property
    def orders(self) -> Orders:
        """What it has read of the log."""
        return self.member.orders

    def request(
        self,
        client: str,
        *,
        user: str = "42",
        app: str | None = None,
        limit: SessionLimit | None = None,
        connected_at: float = NOW,
        token_id: str | None = None,
        issued_at: float | None = None,
        expire_at: float | None = None,
    ) -> Register:
        """What is asked when a session is registered; `told` says how it was told to end."""
        facts = Facts(connected_at, expire_at=expire_at, token_id=token_id, issued_at=issued_at)
        record = prepare(ConnectRequest(client, "sse", name=app), Identity(user), facts)
        return Register(user, client, record, facts, self.tell(client), limit)

    def begin(self, client: str, **asked: Any) -> Pending:
        """A session without a verdict, asked for as in `request`."""
        pending = self.member.begin(self.request(client, **asked))
        assert isinstance(pending, Pending)
        return pending

    def let_in(self, client: str, *, since: EntryId = (0, 0), **asked: Any) -> list[str]:
        """Have a session written and allowed; the names of the calls that follow."""
        pending = self.begin(client, **asked)
        self.member.registration(pending.request.user, client, since)
        return self.follow(self.member.allowed(pending, since))

    def tell(self, client: str) -> Tell:
        """How that client is told to end."""
        return lambda disconnect: self.told.append((client, disconnect))

    def follow(self, effect: Effect) -> list[str]:
        """Tell whom an effect tells, and give the names of its calls."""
        for tell, disconnect in effect.tells:
            tell(disconnect)
        return [call.name for call in effect.calls]

    def held(self) -> list[str]:
        """The clients that are held here."""
        return self.node.registry.clients()


@dataclass(frozen=True)
class Sent:
    """A command as Redis gets it; a script by its name."""

    name: str
    keys: tuple[str, ...] = ()
    arguments: tuple[object, ...] = field(default=())


def script_names() -> list[str]:
    """The scripts there are."""
    folder = files("usersessions.stores.redis") / "lua"
    names = [one.name.removesuffix(".lua") for one in folder.iterdir()]
    return sorted(name for name in names if name != "shared")


@cache
def _digests() -> dict[str, str]:
    return {script(name).digest: name for name in script_names()}


def sent(command: Command) -> Sent:
    """Read a command."""
    name, *rest = command
    if name != "EVALSHA":
        return Sent(str(name), (), tuple(rest))
    digest, number, *words = rest
    size = cast(int, number)
    return Sent(_digests()[str(digest)], tuple(map(str, words[:size])), tuple(words[size:]))


class StandInLink:
    """A link whose other end is a function of the test.

    Attributes:
        exchanged: the commands of each exchange so far.
        closed: how many times it was closed.
        is_open: while it is not set, exchanges hang until the link is closed.
        named: what it says who the server is.
    """

    def __init__(self, reply: Callable[[Sent], object] = lambda sent: b"OK") -> None:
        self.reply = reply
        self.exchanged: list[list[Sent]] = []
        self.closed = 0
        self.named = b"one"
        self.is_open = threading.Event()
        self.is_open.set()
        self.is_entered = threading.Event()
        self._closing = threading.Condition()

    def exchange(self, commands: Sequence[Command]) -> list[object]:
        asked = [sent(command) for command in commands]
        before = self.closed
        self.exchanged.append(asked)
        self.is_entered.set()
        with self._closing:
            passes = self._closing.wait_for(
                lambda: self.is_open.is_set() or self.closed > before, LINK_SECONDS
            )
        if not passes or self.closed > before:
            raise LinkBroken("ConnectionError")
        return [self.reply(one) for one in asked]

    def identity(self) -> bytes:
        return self.named

    def hang(self) -> None:
        """Have exchanges hang from now on."""
        self.is_entered.clear()
        self.is_open.clear()

    def go_on(self) -> None:
        """Have them go on."""
        with self._closing:
            self.is_open.set()
            self._closing.notify_all()

    def close(self) -> None:
        with self._closing:
            self.closed += 1
            self._closing.notify_all()

    @property
    def all_sent(self) -> list[Sent]:
        """All commands so far."""
        return [one for exchange in self.exchanged for one in exchange]


@dataclass(frozen=True, slots=True, repr=False)
class StandInTarget(Target):
    """A target with one link for everybody."""

    kind: str = "redis"
    url: str = ""
    only: StandInLink = field(default_factory=StandInLink)

    def link(self, *, timeout: float, scripts: Sequence[bytes] = ()) -> StandInLink:
        return self.only


def every_call(calls: Calls) -> list[Call]:
    """One call of each kind at least; what is secret in them says so."""
    pieces = Pieces()
    limit = SessionLimit(3, policy="evict_idle", per_app=True)
    asked = pieces.request("c1", app="secret", limit=limit, token_id="t1", issued_at=1.0)
    named = asked.user, asked.client, asked.record
    mail = Mail("secret", ("0a",), told=("c1",))
    return [
        calls.register(
            *named,
            asked.facts,
            is_new=True,
            is_told=False,
            limit=limit,
            age=0.0,
            unheard=1.0,
            rivals=("0b",),
            last=(5, 0),
        ),
        calls.end("42", "c1", in_doubt=True),
        calls.update(*named),
        calls.rebind(*named, asked.facts, last=(5, 0)),
        calls.seen("42", "c1", ago=1.0),
        calls.list_user("42"),
        calls.mark("42", ["c1", "c2"]),
        calls.sweep("42", ["c1"], ["0b"]),
        *calls.touch([("42", "c1"), ("43", "c2")]),
        *calls.check("42", "t1", 1.0),
        *calls.is_revoked("t1"),
        calls.block("42", None),
        calls.unblock("42"),
        calls.invalidate("42", 1.0, None),
        calls.revoke("t1", None),
        calls.renew(15_000, b"secret", give_up="0b"),
        calls.has_lease(),
        calls.leave("0a"),
        calls.nodes(["0a"]),
        calls.last(),
        calls.post(Entry(EvictClients("secret", ("c1",)), "7f", "0a", None)),
        calls.mail("0a", mail),
    ]
