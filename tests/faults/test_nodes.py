"""Nodes that die, stop, stall, are cut off, fork or race: what is promised holds all the same.

Each test names the promise that it tests, by its number in docs/reliability.md. The bounds are
those that are promised, for the short lease that these nodes have; where a promise allows 50 ms, a
busy machine gets 250.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest

from tests.faults.here import AT_ONCE, HEALED, LEASE, RENEWAL
from tests.faults.nodes import CallFailed, Held, Worker, side_by_side
from tests.faults.proxy import Proxy
from tests.redis_servers import RedisServer
from tests.servers import until
from usersessions import Closed, RedisStore, UserSessions
from usersessions.stores.redis.keys import Keys

FACES: tuple[Literal["async", "sync"], ...] = ("async", "sync")

NOBODY = set[str]()


class Start(Protocol):
    """Start equal nodes, which live until the test is over; `how` as for `Worker`."""

    def __call__(self, number: int, **how: Any) -> Sequence[Worker]: ...


class Ground:
    """What a test's nodes have in Redis."""

    def __init__(self, server: RedisServer, prefix: str) -> None:
        self.server = server
        self.prefix = prefix
        self.keys = Keys(prefix)

    def ends(self, worker: Worker) -> float:
        """When the lease of a node ends, in seconds since the epoch."""
        abouts = self.server.cli("HGETALL", self.keys.about)
        leases = [one for one, about in abouts.items() if json.loads(about)["uid"] == worker.node]
        scores = [float(self.server.cli("ZSCORE", self.keys.leases, one)) for one in leases]
        return max(scores) / 1000

    def records(self, user: str) -> int:
        """How many sessions of a user are there, listed or not."""
        number: int = self.server.cli("HLEN", self.keys.sessions(user))
        return number

    def everything(self) -> set[str]:
        """The names of all keys, but those of the nodes themselves and marks of sessions' ends."""
        with self.server.client() as client:
            names = set(client.scan_iter(match=f"{self.prefix}:*", count=1000))
        nodes = f"{self.prefix}:{{n}}:"
        return {name for name in names if not name.startswith(nodes) and ":end:" not in name}

    def verdict(self, worker: Worker, user: str, **how: Any) -> tuple[str | None, int | None]:
        """Open a session of a user; its client ID if it may be, or the code that it may not with.

        On a busy machine, it may go on without a verdict, and is told to end later.
        """
        (held,) = worker.attempt(user, **how)
        if held.client is None:
            return None, held.refused
        client = held.client

        def found() -> tuple[str | None, int | None] | None:
            if self.server.cli("HEXISTS", self.keys.sessions(user), client):
                return client, None
            now = next(one for one in worker.held() if one.client == client)
            return None if now.ended_at is None else (None, now.code)

        return until(found, what="a verdict")

    @contextmanager
    def script(self) -> Iterator[UserSessions]:
        """A process that has never seen any of this, and holds nothing itself."""
        sessions = UserSessions(store=RedisStore(self.server.url, prefix=self.prefix, lease=LEASE))
        try:
            yield sessions
        finally:
            sessions.close()


@pytest.fixture
def ground(redis_of_module: RedisServer, request: pytest.FixtureRequest) -> Ground:
    number = request.session.items.index(request.node)
    return Ground(redis_of_module, f"test-{number}")


@pytest.fixture
def start(ground: Ground) -> Iterator[Start]:
    with ExitStack() as running:

        def start(number: int, **how: Any) -> Sequence[Worker]:
            settings = {
                "url": ground.server.url,
                "prefix": ground.prefix,
                "lease": LEASE,
                **how,
            }
            workers = [Worker(**settings) for _ in range(number)]
            return running.enter_context(side_by_side(*workers))

        yield start


@pytest.fixture
def proxy(ground: Ground) -> Iterator[Proxy]:
    with Proxy(ground.server.url) as running:
        yield running


def holds(claim: Callable[[], bool], *, while_: Callable[[], bool]) -> int:
    """Ask again and again whether a claim holds as long as `while_` does, and give how often."""
    asked = 0
    while while_():
        # What was asked too late does not count.
        held = claim()
        assert held or not while_(), "what has to hold all the time did not"
        asked += 1
        time.sleep(0.005)
    return asked


def for_seconds(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def visible(workers: Sequence[Worker], user: str, clients: Sequence[str] | set[str]) -> bool:
    """Whether each of these nodes lists just these sessions of a user."""
    return all(worker.clients(user) == set(clients) for worker in workers)


def shown(workers: Sequence[Worker], user: str, clients: Sequence[str] | set[str]) -> None:
    """Wait until each of these nodes lists just these sessions of a user."""
    until(lambda: visible(workers, user, clients), what=f"the sessions of {user} to be listed")


def open_at_once(workers: Sequence[Worker], user: str, *, count: int) -> list[Held]:
    """Have each of these nodes open sessions of a user at the same time."""
    asked = [worker.ask("open", user=user, count=count) for worker in workers]
    return [Held(**one) for answer in asked for one in answer.result(30).value]


def held_by(workers: Sequence[Worker]) -> list[Held]:
    return [one for worker in workers for one in worker.held()]


# A node that dies -----------------------------------------------------------------------------


def test_the_sessions_of_a_killed_node_are_gone_when_its_lease_is(
    ground: Ground, start: Start
) -> None:
    """Promise 2, bounded removal, by whoever lists all the time; and it sweeps what is left."""
    dying, other = start(2)
    clients = dying.open("42", count=3)
    (spared,) = other.open("43")
    shown([dying, other], "42", clients)
    dying.kill()
    ends = ground.ends(dying)
    until(lambda: other.clients("42") == NOBODY, what="the sessions of a dead node to be gone")
    assert time.time() <= ends + 1
    until(lambda: not ground.server.cli("EXISTS", ground.keys.sessions("42")), what="the sweep")
    assert other.clients("43") == {spared}
    assert dying.node not in other.info()


def test_nobody_has_to_sweep_for_a_dead_node_to_be_gone(ground: Ground, start: Start) -> None:
    """Promise 2, by a script that lists for the first time, after the lease and before a sweep."""
    (dying,) = start(1)
    shown([dying], "42", dying.open("42", count=3))
    until(lambda: ground.records("42") == 3, what="the records")
    dying.kill()
    ends = ground.ends(dying)
    until(lambda: time.time() > ends, what="the lease to end")
    assert ground.records("42") == 3
    with ground.script() as script:
        connections = script.user_connections("42")
        assert (dict(connections), connections.partial) == ({}, False)
        assert time.time() <= ends + 1
        until(lambda: not ground.everything(), what="the sweep")


def test_a_dead_node_takes_no_place_of_a_limit_for_long(ground: Ground, start: Start) -> None:
    """Promise 2, where sessions are counted; and 5, as its place is taken while it may live."""
    dying, other = start(2, limit=1)
    shown([other], "42", dying.open("42"))
    dying.kill()
    ends = ground.ends(dying)
    assert ground.verdict(other, "42") == (None, 3504)

    def admitted() -> str | None:
        client, code = ground.verdict(other, "42")
        assert code in (None, 3504)
        return client

    client = until(admitted, what="a place")
    assert ends <= time.time() <= ends + 1
    assert other.clients("42") == {client}


@pytest.mark.parametrize("face", FACES)
def test_a_node_that_is_told_to_end_takes_its_sessions_along(start: Start, face: str) -> None:
    """Promise 2, for a node that can say so: at once, long before its lease ends."""
    ending, other = start(2, face=face, lease=15.0)
    clients = ending.open("42", count=20)
    shown([other], "42", clients)
    assert set(other.info()) >= {ending.node}
    began = time.monotonic()
    assert ending.terminate() == 0
    until(lambda: other.clients("42") == NOBODY, what="the sessions to be gone")
    assert time.monotonic() - began < 2
    assert {one.code for one in ending.left} == {3001}
    assert len(ending.left) == 20
    assert ending.node not in other.info()
    assert ending.log == ""


# A node that stops ----------------------------------------------------------------------------


def test_a_node_that_stops_for_less_than_its_lease_is_visible_throughout(
    ground: Ground, start: Start
) -> None:
    """Promise 5, no early death."""
    stopped, other = start(2)
    clients = stopped.open("42", count=2)
    shown([other], "42", clients)
    stopped.pause()
    # It has to go on a little before it is too late.
    goes_on = ground.ends(stopped) - 0.4
    assert holds(lambda: visible([other], "42", clients), while_=lambda: time.time() < goes_on)
    stopped.resume()
    assert holds(lambda: visible([other], "42", clients), while_=for_seconds(LEASE))
    assert visible([stopped], "42", clients)
    assert set(other.disconnect("42").closed) == set(clients)


def test_a_node_that_stops_for_longer_than_its_lease_comes_back(
    ground: Ground, start: Start
) -> None:
    """Promises 2 and 3, for its sessions; 6 and 7, for what was asked meanwhile."""
    stopped, other = start(2, face="sync")
    (kept,) = stopped.open("42")
    (hit_early,) = stopped.open("43")
    (hit_late,) = stopped.open("44")
    for user, client in (("42", kept), ("43", hit_early), ("44", hit_late)):
        shown([other], user, [client])
    stopped.pause()
    closed = other.disconnect("43", timeout=0.1)
    assert closed == Closed(unconfirmed=(hit_early,), partial=True)
    ends = ground.ends(stopped)
    until(lambda: other.clients("42") == NOBODY, what="the sessions to be gone")
    assert time.time() <= ends + 1
    assert hit_late not in other.disconnect("44", timeout=0.1).closed
    # It does this first of all when it goes on.
    asked = stopped.ask("open", user="44")
    (there,) = other.open("44")

    stopped.resume()
    resumed = time.monotonic()
    until(lambda: kept in other.clients("42"), what="the session to be visible again")
    assert time.monotonic() - resumed <= HEALED
    assert [stopped.ended(one).code for one in (hit_early, hit_late)] == [3503, 3503]
    (younger,) = (one["client"] for one in asked.result(5).value)
    until(lambda: visible([other, stopped], "44", [there, younger]), what="the younger ones")
    assert holds(
        lambda: visible([other], "44", [there, younger]) and visible([other], "42", [kept]),
        while_=for_seconds(LEASE),
    )


def test_a_node_whose_event_loop_is_blocked_is_visible_throughout(start: Start) -> None:
    """Promise 5, as the lease does not depend on the app; 6, once the app goes on."""
    blocked, other = start(2)
    clients = blocked.open("42", count=2)
    (hit,) = blocked.open("43")
    shown([other], "42", clients)
    shown([other], "43", [hit])
    blocking = blocked.block_loop(3 * LEASE)
    closed = other.disconnect("43", timeout=1.0)
    assert closed == Closed(unconfirmed=(hit,))
    claim = lambda: visible([other], "42", clients)  # noqa: E731 - a claim
    assert holds(claim, while_=lambda: not wait([blocking], 0).done)
    free = blocking.result(0)
    ended = blocked.ended(hit)
    assert ended.code == 3503 and ended.ended_at is not None
    assert free.began + free.took <= ended.ended_at <= free.began + free.took + 1
    assert holds(claim, while_=for_seconds(RENEWAL))


# A node that is cut off -----------------------------------------------------------------------


@pytest.mark.parametrize(("face", "fault"), [("async", "blackhole"), ("sync", "refuse")])
def test_a_node_that_is_cut_off_does_what_it_missed_and_is_complete_again(
    start: Start, proxy: Proxy, face: str, fault: str
) -> None:
    """Promises 3, 6 and 7, over the time that it was cut off; 12, meanwhile."""
    (cut,) = start(1, url=proxy.url, face=face)
    (other,) = start(1)
    (kept,) = cut.open("42")
    (hit_early,) = cut.open("43")
    (hit_late,) = cut.open("44")
    for user, client in (("42", kept), ("43", hit_early), ("44", hit_late)):
        shown([other], user, [client])

    getattr(proxy, fault)()
    meanwhile = [*cut.attempt("45"), *cut.attempt("45")]
    assert [one.refused for one in meanwhile] == [None, None]
    assert max(one.took or math.inf for one in meanwhile) <= AT_ONCE
    closed = other.disconnect("43", timeout=0.1)
    assert closed == Closed(unconfirmed=(hit_early,), partial=True)
    until(lambda: other.clients("42") == NOBODY, what="the lease to end")
    assert hit_late not in other.disconnect("44", timeout=0.1).closed
    assert {one.code for one in cut.held()} == {None}

    proxy.heal()
    healed = time.monotonic()
    (younger,) = cut.open("43")
    new = {one.client for one in meanwhile if one.client is not None}
    until(
        lambda: visible([other], "42", [kept]) and visible([other], "45", new),
        what="all sessions to be visible",
    )
    assert time.monotonic() - healed <= HEALED
    assert [cut.ended(one).code for one in (hit_early, hit_late)] == [3503, 3503]
    until(lambda: visible([other], "43", [younger]), what="the younger one to be visible")
    assert holds(
        lambda: visible([other], "43", [younger]) and visible([other], "42", [kept]),
        while_=for_seconds(RENEWAL),
    )


# Clocks ---------------------------------------------------------------------------------------


def test_clocks_a_day_apart_change_nothing(ground: Ground, start: Start) -> None:
    """Promise 11, clock irrelevance: of lists, leases, limits and ends."""
    day = 24 * 3600.0
    how: dict[str, Any] = {"limit": 2, "policy": "evict_oldest"}
    (ahead,) = start(1, clock_offset=day, **how)
    (behind,) = start(1, clock_offset=-day, **how)
    both = [ahead, behind]
    (first,) = ahead.open("42")
    (second,) = behind.open("42")
    shown(both, "42", [first, second])
    assert all(list(one.list("42").connections) == [first, second] for one in both)
    (third,) = ahead.open("42")
    assert ahead.ended(first).code == 3504
    (fourth,) = behind.open("42")
    assert behind.ended(second).code == 3504
    until(lambda: visible(both, "42", [third, fourth]), what="the oldest two to go")
    assert holds(lambda: visible(both, "42", [third, fourth]), while_=for_seconds(LEASE))
    assert set(behind.disconnect("42").closed) == {third, fourth}
    (after,) = ahead.open("42")
    shown(both, "42", [after])
    ahead.kill()
    ends = ground.ends(ahead)
    until(lambda: behind.clients("42") == NOBODY, what="the sessions of a dead node to be gone")
    assert time.time() <= ends + 1


# Forks ----------------------------------------------------------------------------------------


def test_a_fork_with_a_live_store_makes_another_node(ground: Ground) -> None:
    """Promise 14, fork safety: nothing is shared over a fork, and nothing ends with a child."""
    command = [sys.executable, "-m", "tests.faults.preloaded"]
    with (
        ground.script() as script,
        subprocess.Popen(
            [*command, ground.server.url, ground.prefix, str(LEASE)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as first,
    ):
        try:
            assert first.stdin is not None and first.stdout is not None
            said = [json.loads(first.stdout.readline()) for _ in range(5)]
            roles, nodes, clients, wrong = zip(*said, strict=True)
            assert set(roles) == {"parent", "child-0", "child-1", "child-2", "child-3"}
            assert [one for many in wrong for one in many] == []
            assert len(set(nodes)) == 5
            drawn = [one for many in clients for one in many]
            assert len(set(drawn)) == len(drawn)
            (kept,) = script.user_connections("first")
            claim = lambda: list(script.user_connections("first")) == [kept]  # noqa: E731
            assert holds(claim, while_=for_seconds(LEASE))
            alive = {one.uid for one in script.info()}
            assert alive == {
                node for role, node in zip(roles, nodes, strict=True) if role[0] == "p"
            }
            assert not any(script.user_connections(role) for role in roles)
            first.stdin.close()
            assert first.wait(10) == 0
            until(lambda: not ground.everything(), what="the last session to be gone")
        finally:
            first.kill()


# Races ----------------------------------------------------------------------------------------


def test_a_client_id_belongs_to_one_node_as_long_as_that_lives(
    ground: Ground, start: Start
) -> None:
    """Promise 9, ownership; and 2, for whoever comes after it."""
    owner, other = start(2)
    other.open("43")
    owner.open("42", clients=["c1"], app_name="owner")
    shown([owner, other], "42", ["c1"])

    def refused() -> bool:
        try:
            other.open("42", clients=["c1"], app_name="other")
        except CallFailed as failed:
            assert (failed.kind, "client c1 is registered already" in str(failed)) == (
                "InvalidValue",
                True,
            )
            return True
        # It went on without a verdict, and is told to come back under another ID.
        assert other.ended("c1").code == 3011
        return False

    until(refused, what="the ID to be refused")
    assert owner.list("42").connections["c1"]["app_name"] == "owner"
    assert visible([owner], "42", ["c1"])
    owner.kill()
    ends = ground.ends(owner)
    with ground.script() as script:

        def taken_over() -> bool:
            with suppress(CallFailed):
                other.open("42", clients=["c1"], app_name="other")
            found = script.user_connections("42").get("c1")
            return found is not None and found.app_name == "other"

        until(taken_over, what="another node to take over")
    assert ends <= time.time() <= ends + 1


@pytest.mark.parametrize("policy", ["reject", "evict_oldest"])
def test_a_limit_is_exact_however_many_come_at_once(
    ground: Ground, start: Start, policy: str
) -> None:
    """Promise 10, with a limit that is atomic with registering: of 100 at once, 5 remain."""
    workers = start(4, limit=5, policy=policy)
    attempts = open_at_once(workers, "42", count=25)
    assert len(attempts) == 100

    def settled() -> list[Held] | None:
        # One that went on without a verdict may have had to end since.
        live = [one for one in held_by(workers) if one.refused is None and one.ended_at is None]
        return live if len(live) == 5 else None

    live = until(settled, what="5 sessions to remain")
    until(
        lambda: visible(workers, "42", {one.client or "" for one in live}),
        what="all nodes to list them",
    )
    others = [one for one in held_by(workers) if one.refused is not None or one.ended_at]
    assert len(others) == 95
    assert {one.refused or one.code for one in others} == {3504}
    if policy == "evict_oldest":
        assert {one.refused for one in others} == {None}
    _, code = ground.verdict(workers[0], "42")
    assert code == (3504 if policy == "reject" else None)


def test_a_session_is_not_lost_while_it_is_found_out_who_has_to_make_room(
    start: Start, proxy: Proxy
) -> None:
    """Promises 1, 6 and 12: what goes on without a verdict is visible, closed and counted."""
    how: dict[str, Any] = {"limit": 1, "policy": "evict_oldest"}
    (other,) = start(1, **how)
    (slow,) = start(1, url=proxy.url, **how)
    slow.open("43")
    (oldest,) = other.open("42")
    shown([other], "42", [oldest])
    # It hears that it has to ask whether the other node lives, but not the answer to that.
    proxy.delay(0.014)
    (client,) = slow.open("42")
    until(lambda: visible([other, slow], "42", [client]), what="it to take the other's place")
    assert other.ended(oldest).code == 3504
    assert other.disconnect("42", timeout=1.0) == Closed((client,))
    assert slow.ended(client).code == 3503


@pytest.mark.parametrize(
    ("method", "whom", "code"),
    [("disconnect", "42", 3503), ("revoke_token", "t1", 3500), ("block_user", "42", 3503)],
)
def test_what_is_done_twice_is_done_once(
    ground: Ground, start: Start, proxy: Proxy, method: str, whom: str, code: int
) -> None:
    """Promise 8, idempotence: also where the first answer was lost."""
    (holder,) = start(1)
    (caller,) = start(1, url=proxy.url, timeout=0.5)
    (client,) = holder.open("42", token_id="t1", issued_at=1.0)
    (spared,) = holder.open("43")
    shown([caller], "42", [client])
    shown([caller], "43", [spared])

    def call() -> Closed:
        closed: Closed = getattr(caller, method)(whom)
        return closed

    proxy.swallow("to_client")
    with pytest.raises(CallFailed, match="Redis is not available") as failed:
        call()
    assert failed.value.kind == "StoreUnavailable"
    proxy.heal()

    def answered() -> Closed | None:
        try:
            return call()
        except CallFailed:
            return None

    until(answered, what="an answer")
    assert holder.ended(client).code == code
    before = ground.everything()
    # Until the time is over in which Redis may have lost something, it is said to be partial.
    until(lambda: call() == Closed(), what="nothing to be left to do", seconds=2 * HEALED)
    assert ground.everything() == before
    holder.end(client)
    holder.end(client)
    shown([holder, caller], "42", NOBODY)
    assert visible([holder, caller], "43", [spared])
    # Without a token, only a user who is blocked is kept out.
    _, kept_out = ground.verdict(holder, "42")
    assert kept_out == (3503 if method == "block_user" else None)
    for _ in range(2):
        caller.call("unblock_user", user="42")
    _, kept_out = ground.verdict(holder, "42", token_id="t1", issued_at=1.0)
    assert kept_out == (3500 if method == "revoke_token" else None)


@pytest.mark.parametrize("face", FACES)
def test_a_close_callback_that_hangs_delays_nobody_else(start: Start, face: str) -> None:
    """Promise 13, honest partiality: who has not ended is unconfirmed, and nobody waits for it."""
    hanging, other = start(2, face=face)
    (stuck,) = hanging.open("42", hang=4.0)
    clients = [*hanging.open("42", count=2), *other.open("42", count=2)]
    (unrelated,) = hanging.open("43")
    shown([other], "42", [stuck, *clients])
    shown([other], "43", [unrelated])
    began = time.monotonic()
    closed = other.disconnect("42", timeout=0.8)
    assert time.monotonic() - began < 3
    assert (closed.unconfirmed, closed.partial) == ((stuck,), False)
    assert set(closed.closed) == set(clients)
    assert other.disconnect("43", timeout=1.0).closed == (unrelated,)
    shown([other, hanging], "42", [stuck])
    ended = hanging.ended(stuck)
    assert ended.code == 3503 and ended.ended_at is not None and ended.ended_at >= began + 4
    shown([other], "42", NOBODY)


# Numbers --------------------------------------------------------------------------------------


def test_thousands_of_sessions_of_one_user_are_listed_and_closed_within_seconds(
    start: Start,
) -> None:
    """Promises 1, 6 and 10, for a user with 2 000 sessions on four nodes."""
    workers = start(4)
    attempts = open_at_once(workers, "42", count=500)
    clients = {one.client or "" for one in attempts}
    assert len(clients) == 2000
    until(lambda: visible(workers, "42", clients), what="all of them to be listed", seconds=1.0)
    began = time.monotonic()
    closed = workers[0].disconnect("42", timeout=10.0)
    assert (set(closed.closed), closed.unconfirmed, closed.partial) == (clients, (), False)
    assert time.monotonic() - began < 5
    assert visible(workers, "42", NOBODY)
    assert {one.code for one in held_by(workers)} == {3503}


def test_ten_thousand_reconnects_in_a_burst_are_all_visible_and_leave_nothing_behind(
    ground: Ground, start: Start
) -> None:
    """Promises 1, 10 and 16: nothing is lost in a burst, counts are right, and all goes again."""
    workers = start(2, lease=15.0)
    users = [f"user-{number}" for number in range(20)]
    asked = [worker.ask("open", user=user, count=250) for user in users for worker in workers]
    opened: dict[str, set[str]] = {user: set() for user in users}
    for answer in asked:
        for one in answer.result(30).value:
            opened[one["user"]].add(one["client"])
    assert sum(map(len, opened.values())) == 10_000
    with ground.script() as script:
        until(
            lambda: all(set(script.user_connections(user)) == opened[user] for user in users),
            what="all to be visible",
            seconds=2.0,
        )
    for ending in [worker.ask("end") for worker in workers]:
        ending.result(30)
    for user in users:
        shown(workers, user, NOBODY)
    until(lambda: not ground.everything(), what="all keys to be gone")


def test_counts_are_as_many_as_are_listed(start: Start) -> None:
    """Promise 10: what the nodes say of themselves is what is listed."""
    workers = start(3)
    for number in range(6):
        open_at_once(workers, f"user-{number}", count=number)

    def counted() -> bool:
        nodes = workers[0].info()
        lists = [workers[1].clients(f"user-{number}") for number in range(6)]
        counts = [int(one["num_clients"]) for one in nodes.values()]
        return sum(counts) == sum(map(len, lists)) == 45

    until(counted, what="the nodes to say so", seconds=HEALED)


def test_a_session_is_visible_on_another_node_within_a_second(start: Start) -> None:
    """Promise 1, complete, from registering to being listed; with the usual lease."""
    here, there = start(2, lease=15.0)
    delays = []
    for number in range(100):
        user = f"user-{number}"
        opening = here.ask("open", user=user)
        seen = until(lambda: there.list(user).connections, what="the session")  # noqa: B023
        now = time.monotonic()
        (held,) = opening.result(5).value
        delays.append(now - held["opened_at"])
        assert set(seen) == {held["client"]}
    assert max(delays) <= 1.0


def test_sessions_that_did_not_wait_for_a_slow_redis_are_visible_within_a_second(
    start: Start, proxy: Proxy
) -> None:
    """Promises 1 and 12, with the usual lease: nothing waits for the next sign of life."""
    (slow,) = start(1, url=proxy.url, lease=15.0)
    (other,) = start(1)
    slow.open("43")
    proxy.delay(0.06)
    # The first is on its way while the others give up waiting for their turn.
    attempts = [one for _ in range(3) for one in slow.attempt("42")]
    assert max(one.took or math.inf for one in attempts) <= AT_ONCE
    began = time.monotonic()
    clients = {one.client or "" for one in attempts}
    until(lambda: visible([other], "42", clients), what="all of them to be visible")
    assert time.monotonic() - began <= 1
