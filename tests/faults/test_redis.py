"""Redis hangs, drops its connections, or forgets its scripts, while there is work to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from statistics import median

import pytest

from tests.faults.here import (
    AT_ONCE,
    HEALED,
    IN_TIME,
    LEASE,
    TIMEOUT,
    Here,
    at_most,
    never_sees,
    records,
    sees,
    sees_all,
)
from tests.redis_servers import RedisServer
from tests.servers import until
from usersessions import StoreUnavailable


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server that a test may stop."""
    with RedisServer() as running:
        yield running


@contextmanager
def again_and_again(act: Callable[[], object], *, pause: float) -> Iterator[None]:
    """Do something all the time while the block runs; whatever it raises fails the test."""
    over = threading.Event()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            while not over.wait(pause):
                act()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="again-and-again")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert raised == []


class Work:
    """Sessions of some users that come and go on two nodes, and what is left of them.

    Attributes:
        unanswered: how many lists were not answered.
    """

    def __init__(self, nodes: tuple[Here, Here]) -> None:
        self._nodes = cycle(nodes)
        self._users = cycle(("42", "43", "44"))
        self._held: dict[str, dict[str, Here]] = {"42": {}, "43": {}, "44": {}}
        self._ended: set[str] = set()
        self._took: list[float] = []
        self.unanswered = 0

    def do(self, *, seconds: float) -> None:
        """Work for so many seconds; connecting and ending never waits."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            user, node = next(self._users), next(self._nodes)
            held = self._held[user]
            with self._timed():
                held[node.open(user)] = node
            if len(held) > 4:
                client = next(iter(held))
                with self._timed():
                    held.pop(client).end(client)
                self._ended.add(client)
            with at_most(IN_TIME):
                try:
                    listed = node.list(user)
                except StoreUnavailable:
                    self.unanswered += 1
                else:
                    assert node.held(user) <= set(listed)
        # Of so many, one may have been unlucky; nobody has waited for Redis to time out.
        assert median(self._took) <= AT_ONCE / 2
        assert max(self._took) < TIMEOUT

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._took.append(time.monotonic() - began)

    def converges(self, server: RedisServer, nodes: tuple[Here, Here]) -> None:
        """Wait until both nodes list what there is, and nothing that has ended is in Redis."""
        for user, held in self._held.items():
            assert held
            for node in nodes:
                sees(node, user, set(held))
            for node in nodes:
                sees_all(node, user, set(held))
            until(
                lambda: not self._ended & records(server, user),  # noqa: B023 - asked at once
                what="the ended sessions to be gone",
            )


# It hangs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [LEASE / 2, LEASE + TIMEOUT + 0.3])
def test_a_redis_that_hangs_delays_nobody_and_all_heals(
    server: RedisServer, seconds: float
) -> None:
    """Promises 12 (local availability), 3 (re-assertion), 4 (no resurrection).

    What was sent to the stopped Redis is carried out when it goes on.
    """
    with Here(server.url) as one, Here(server.url) as other:
        stays, ended = one.open("42"), one.open("42")
        others = other.open("42")
        sees_all(other, "42", {stays, ended, others})
        server.pause()
        began = time.monotonic()
        with at_most(AT_ONCE):
            made = one.open("42")
        with at_most(AT_ONCE):
            one.end(ended)
        with at_most(AT_ONCE):
            passing = one.open("42")
        with at_most(AT_ONCE):
            one.end(passing)
        passed = [passing]
        for node in (one, other):
            with at_most(IN_TIME), pytest.raises(StoreUnavailable):
                node.list("42")
        while time.monotonic() < began + seconds:
            with at_most(AT_ONCE):
                passed.append(one.open("42"))
            with at_most(AT_ONCE):
                one.end(passed[-1])
            with at_most(IN_TIME), pytest.raises(StoreUnavailable):
                other.sessions.disconnect("43")
        server.resume()
        for node in (one, other):
            sees(node, "42", {stays, made, others})
        for gone in (ended, *passed):
            never_sees(other, "42", gone, seconds=0.02)
        assert {one.code(stays), one.code(made), other.code(others)} == {None}
        until(
            lambda: records(server, "42") == {stays, made, others},
            what="late packets to have left nothing",
        )


def test_a_disconnect_that_a_hanging_redis_carries_out_late_is_not_lost(
    server: RedisServer,
) -> None:
    """Promises 6 (a disconnect is not lost), 7 (not too wide), 8 (idempotent)."""
    with Here(server.url) as one, Here(server.url) as other:
        before = one.open("42")
        sees_all(other, "42", {before})
        server.pause()
        with at_most(IN_TIME), pytest.raises(StoreUnavailable):
            other.sessions.block_user("42")
        server.resume()
        # It may or may not have been carried out: once more is no harm.
        until(lambda: other.whole("42") is not None, what="Redis to be back")
        other.sessions.block_user("42", timeout=1.0)
        assert one.code(before) == 3503
        sees(other, "42", set())
        other.sessions.unblock_user("42")
        after = one.open("42")
        sees_all(other, "42", {after})
        assert one.code(after) is None


@pytest.mark.parametrize("which", ["ALL", "WRITE"])
def test_a_paused_redis_delays_nobody_and_all_heals(server: RedisServer, which: str) -> None:
    """Promises 12 (local availability), 3 (re-assertion), 4 (no resurrection)."""
    with Here(server.url) as one, Here(server.url) as other:
        stays, ended = one.open("42"), one.open("42")
        others = other.open("42")
        sees_all(other, "42", {stays, ended, others})
        server.cli("CLIENT PAUSE", 800, which)
        with at_most(AT_ONCE):
            made = one.open("42")
        with at_most(AT_ONCE):
            one.end(ended)
        with at_most(AT_ONCE):
            passing = one.open("42")
        one.end(passing)
        with at_most(IN_TIME), pytest.raises(StoreUnavailable):
            other.sessions.disconnect("43")
        # It answers when the pause is over, and not before.
        server.cli("SET", "key", "value")
        for node in (one, other):
            sees(node, "42", {stays, made, others})
        never_sees(other, "42", ended)
        never_sees(other, "42", passing)


# It drops connections -------------------------------------------------------------------------


def test_connections_that_are_killed_all_the_time_stop_nothing(redis_server: RedisServer) -> None:
    """Promises 8 (idempotent), 12 (local availability), 4 (no resurrection)."""
    with ExitStack() as opened:
        one = opened.enter_context(Here(redis_server.url))
        other = opened.enter_context(Here(redis_server.url))
        client = opened.enter_context(redis_server.client())
        work = Work((one, other))
        kinds = cycle(
            [("TYPE", "normal"), ("TYPE", "pubsub"), ("USER", "default"), ("SKIPME", "yes")]
        )

        def kill() -> None:
            client.execute_command("CLIENT KILL", *next(kinds), "SKIPME", "yes")

        work.do(seconds=0.2)
        with again_and_again(kill, pause=0.03):
            work.do(seconds=1.5)
        work.converges(redis_server, (one, other))


def test_each_connection_that_is_killed_alone_is_made_anew(redis_server: RedisServer) -> None:
    """Promises 1 (complete) and 6 (a disconnect is not lost): whichever connection it was."""
    with Here(redis_server.url) as one, Here(redis_server.url) as other:
        others = other.open("42")
        sees_all(one, "42", {others})
        own = one.open("42")
        sees_all(other, "42", {own, others})
        with redis_server.client() as client:
            mine = client.client_id()
            for each in client.client_list():
                if int(each["id"]) == mine:
                    continue
                client.execute_command("CLIENT KILL", "ID", each["id"])
                for node in (one, other):
                    sees_all(node, "42", {own, others})
                ended = one.open("42")

                def closes() -> bool:
                    try:
                        return ended in other.sessions.disconnect("42", client=ended).closed  # noqa: B023 - asked at once
                    except StoreUnavailable:
                        return False

                until(closes, what="the session to be closed", seconds=HEALED)
                assert one.code(ended) == 3503


# It forgets its scripts -----------------------------------------------------------------------


def test_scripts_that_are_forgotten_all_the_time_stop_nothing(redis_server: RedisServer) -> None:
    """Promise 8 (idempotent): nobody notices, and nothing is done twice."""
    with ExitStack() as opened:
        one = opened.enter_context(Here(redis_server.url))
        other = opened.enter_context(Here(redis_server.url))
        client = opened.enter_context(redis_server.client())
        work = Work((one, other))
        with again_and_again(client.script_flush, pause=0.003):
            work.do(seconds=1.5)
            own = one.open("45")
            assert other.sessions.disconnect("45").closed == (own,)
        assert work.unanswered == 0
        work.converges(redis_server, (one, other))


# Several apps ---------------------------------------------------------------------------------


def test_two_apps_with_prefixes_of_their_own_do_not_see_each_other(
    redis_server: RedisServer,
) -> None:
    """Promise 7 (a disconnect is not too wide): nor does it reach into another app."""
    with (
        Here(redis_server.url, prefix="shop") as shop,
        Here(redis_server.url, prefix="shop:b") as other,
    ):
        bought, read = shop.open("42"), other.open("42")
        sees_all(shop, "42", {bought})
        sees_all(other, "42", {read})
        assert [node.num_clients for node in shop.sessions.info()] == [1]
        assert shop.sessions.block_user("42").closed == (bought,)
        sees_all(other, "42", {read})
        assert other.code(read) is None
        other.open("42")
        names = redis_server.cli("KEYS", "*")
        assert names and all(name.startswith(("shop:{", "shop:b:{")) for name in names)


# What is said of it ---------------------------------------------------------------------------


def test_a_redis_that_does_not_answer_is_not_named(redis_server: RedisServer) -> None:
    """Promise 12 (local availability): the answer by the deadline says what is wrong, not where."""
    with Here(redis_server.url) as one:
        own = one.open("42")
        redis_server.pause()
        try:
            with at_most(IN_TIME), pytest.raises(StoreUnavailable) as told:
                one.list("42")
        finally:
            redis_server.resume()
        assert str(told.value) in {
            "Redis is not available: it did not answer in time",
            "Redis is not available: TimeoutError",
        }
        assert (told.value.__cause__, told.value.__context__) == (None, None)
        sees_all(one, "42", {own})
