"""Links to Redis whose k-th exchange fails, as a test says."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tests.faults.here import Here
from usersessions.stores.redis.link import Command, Link, LinkBroken, Target

How: TypeAlias = Literal["before", "after", "late"]
"""The commands do not get there; or the replies do not; or the commands do, but much later."""

Which: TypeAlias = Literal["line", "log"]
"""The link that carries the calls of all callers; or the one of the thread that reads the log."""

HOWS: tuple[How, ...] = ("before", "after", "late")
WHICHES: tuple[Which, ...] = ("line", "log")


class Plan:
    """What is to fail; nothing as yet.

    Attributes:
        late: the commands that are still on their way.
        fired: whether something has failed.
    """

    def __init__(self) -> None:
        self.late: list[Command] = []
        self._lock = threading.Lock()
        self._next: tuple[Which, How] | None = None
        self._left = 0
        self.fired = False

    def arm(self, which: Which, how: How, *, k: int) -> None:
        """Have the k-th exchange of a link from now on fail, and no other."""
        with self._lock:
            self._next = which, how
            self._left, self.fired = k, False

    def disarm(self) -> bool:
        """Have nothing fail any more, and say whether something has."""
        with self._lock:
            self._next = None
            return self.fired

    def take(self, which: Which, commands: Sequence[Command]) -> How | None:
        """Say how an exchange fails, if it does."""
        with self._lock:
            if self._next is None or self._next[0] != which:
                return None
            self._left -= 1
            if self._left:
                return None
            self.fired, how = True, self._next[1]
            self._next = None
            if how == "late":
                # A read that waits for news changes nothing, however late it is.
                self.late += [one for one in commands if one[0] != "XREAD"]
            return how


@dataclass(frozen=True, slots=True, repr=False)
class PlannedTarget(Target):
    """A target whose links fail as planned: the first one is that of the line."""

    plan: Plan = field(default_factory=Plan)
    made: list[Which] = field(default_factory=list)

    def link(self, *, timeout: float, scripts: Sequence[bytes] = ()) -> Link:
        which = WHICHES[len(self.made) % 2]
        self.made.append(which)
        return _PlannedLink(Target.link(self, timeout=timeout, scripts=scripts), which, self.plan)


class _PlannedLink:
    def __init__(self, link: Link, which: Which, plan: Plan) -> None:
        self._link = link
        self._which: Which = which
        self._plan = plan

    def exchange(self, commands: Sequence[Command]) -> list[object]:
        how = self._plan.take(self._which, commands)
        if how is None:
            return self._link.exchange(commands)
        if how == "after":
            self._link.exchange(commands)
        self._link.close()
        raise LinkBroken("as planned")

    def identity(self) -> bytes:
        if self._plan.take(self._which, ()) is None:
            return self._link.identity()
        self._link.close()
        raise LinkBroken("as planned")

    def close(self) -> None:
        self._link.close()


def planned(node: Here) -> Plan:
    """Have a node that was not used yet fail as planned."""
    target = node.store._target
    made = PlannedTarget(target.kind, target.url, target.hosts, target.service)
    node.store._target = made
    return made.plan


def deliver(node: Here, plan: Plan) -> None:
    """Have the commands get there that are still on their way."""
    commands, plan.late = plan.late, []
    target = node.store._target
    link = Target(target.kind, target.url, target.hosts, target.service).link(timeout=5.0)
    try:
        if commands:
            link.exchange(commands)
    finally:
        link.close()
