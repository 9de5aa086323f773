"""The network between one node and Redis goes wrong; the other node has a network of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.faults.here import (
    AT_ONCE,
    HEALED,
    IN_TIME,
    LEASE,
    VANISHED,
    Here,
    at_most,
    never_sees,
    records,
    sees,
    sees_all,
)
from tests.faults.proxy import Proxy, Way
from tests.redis_servers import RedisServer
from tests.servers import until
from usersessions import StoreUnavailable

HEALTHY = 0.25
"""How long calls of the healthy node take at most, on a busy machine."""

Fault = Callable[[Proxy], None]

FAULTS: dict[str, Fault] = {
    "resets": lambda proxy: proxy.reset(),
    "accepts and never answers": lambda proxy: proxy.blackhole(),
    "accepts, and delivers late": lambda proxy: proxy.blackhole(hold=True),
    "swallows what is asked": lambda proxy: proxy.swallow("to_server"),
    "swallows what is answered": lambda proxy: proxy.swallow("to_client"),
}


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    with Proxy(redis_server.url) as running:
        yield running


@pytest.fixture
def far(proxy: Proxy) -> Iterator[Here]:
    """The node whose network goes wrong."""
    with Here(proxy.url) as node:
        yield node
        proxy.heal()


@pytest.fixture
def near(redis_server: RedisServer) -> Iterator[Here]:
    """The node that is well."""
    with Here(redis_server.url) as node:
        yield node


@pytest.mark.parametrize("fault", FAULTS)
def test_a_node_that_is_cut_off_goes_on_and_comes_back(
    fault: str, redis_server: RedisServer, proxy: Proxy, far: Here, near: Here
) -> None:
    """Promises 2 (bounded removal), 3 (re-assertion), 4 (no resurrection), 12 (local
    availability): and the other node is not affected."""
    stays, ended = far.open("42"), far.open("42")
    others = near.open("42")
    sees_all(near, "42", {stays, ended, others})
    FAULTS[fault](proxy)
    cut_at = time.monotonic()
    with at_most(AT_ONCE):
        made = far.open("42")
    with at_most(AT_ONCE):
        far.end(ended)
    with at_most(AT_ONCE):
        passing = far.open("42")
    with at_most(AT_ONCE):
        far.end(passing)
    calls: tuple[Callable[[], object], ...] = (
        lambda: far.list("42"),
        lambda: far.sessions.disconnect("43"),
        lambda: far.sessions.info(),
        lambda: far.sessions.unblock_user("43"),
        lambda: far.sessions.refresh("43"),
    )
    with ThreadPoolExecutor(len(calls)) as pool, at_most(IN_TIME):
        for called in [pool.submit(call) for call in calls]:
            assert isinstance(called.exception(), StoreUnavailable)
    # Meanwhile, the other node is as quick as ever, and does not wait for the dead for ever.
    while time.monotonic() < cut_at + VANISHED:
        with at_most(HEALTHY):
            if set(near.list("42")) == {others}:
                break
    with at_most(HEALTHY):
        own = near.open("42")
        near.end(own)
        assert set(near.list("42")) == {others}
    assert (far.code(stays), far.code(made)) == (None, None)
    proxy.heal()
    for node in (near, far):
        sees(node, "42", {stays, made, others})
    for gone in (ended, passing):
        never_sees(near, "42", gone, seconds=0.1)
    until(
        lambda: records(redis_server, "42") == {stays, made, others},
        what="late packets to have left nothing",
    )


def test_a_short_cut_costs_no_session_its_place(proxy: Proxy, far: Here, near: Here) -> None:
    """Promise 5 (no early death): shorter than the lease, nobody notices."""
    stays = far.open("42")
    sees_all(near, "42", {stays})
    for _ in range(5):
        proxy.kill_all()
        assert stays in near.list("42")
        sees_all(far, "42", {stays}, seconds=HEALED)
    assert far.code(stays) is None


def test_a_slow_network_is_slow_and_nothing_else(proxy: Proxy, far: Here, near: Here) -> None:
    """Promise 12 (local availability): a delay that is shorter than the timeout breaks nothing."""
    sees_all(far, "42", set())
    proxy.delay(0.03)
    with at_most(AT_ONCE):
        own = far.open("42")
    with at_most(AT_ONCE):
        passing = far.open("42")
    with at_most(AT_ONCE):
        far.end(passing)
    sees(near, "42", {own})
    never_sees(near, "42", passing)
    with at_most(IN_TIME):
        assert set(far.list("42")) == {own}
    others = near.open("42")
    with at_most(3 * IN_TIME):
        assert set(far.sessions.disconnect("42", timeout=IN_TIME).closed) == {own, others}
    assert (far.code(own), near.code(others)) == (3503, 3503)


def test_a_network_that_is_slower_than_the_timeout_is_as_none(
    proxy: Proxy, far: Here, near: Here
) -> None:
    """Promises 12 (local availability), 3 (re-assertion): the late answers are not mixed up."""
    sees_all(far, "42", set())
    others = near.open("42")
    proxy.delay(0.8)
    with at_most(AT_ONCE):
        own = far.open("42")
    with at_most(IN_TIME), pytest.raises(StoreUnavailable):
        far.list("42")
    with at_most(HEALTHY):
        assert others in near.list("42")
    proxy.heal()
    for node in (near, far):
        sees(node, "42", {own, others})


def test_a_reply_that_is_cut_anywhere_is_never_half_believed(
    redis_server: RedisServer, proxy: Proxy, far: Here, near: Here
) -> None:
    """Promises 8 (idempotent), 13 (honest partiality): at each byte of the replies."""
    stays = far.open("42")
    others = near.open("42")
    sees_all(far, "42", {stays, others})
    held = {stays, others}
    for size in (*range(16), *range(16, 700, 29)):
        proxy.cut_after(size, once=True)
        with at_most(IN_TIME), suppress(StoreUnavailable):
            assert set(far.list("42")) == held
        with at_most(AT_ONCE):
            made = far.open("42")
        with at_most(IN_TIME), suppress(StoreUnavailable):
            assert set(far.list("42")) == {*held, made}
        with at_most(AT_ONCE):
            far.end(made)
    proxy.heal()
    for node in (near, far):
        sees(node, "42", held)
        sees_all(node, "42", held)
    until(lambda: records(redis_server, "42") == held, what="the ended sessions to be gone")


def test_orders_whose_answer_is_cut_anywhere_may_be_given_again(
    proxy: Proxy, far: Here, near: Here
) -> None:
    """Promises 6 (a disconnect is not lost) and 8 (idempotent)."""
    for size in range(0, 400, 23):
        own, others = far.open("42"), near.open("42")
        sees(far, "42", {own, others})
        proxy.cut_after(size, once=True)
        while True:
            with at_most(IN_TIME + HEALED), suppress(StoreUnavailable):
                far.sessions.block_user("42", timeout=HEALED)
                break
        sees(near, "42", set())
        assert (far.code(own), near.code(others)) == (3503, 3503)
        while True:
            with at_most(IN_TIME), suppress(StoreUnavailable):
                far.sessions.unblock_user("42")
                break
    proxy.heal()


def test_a_disconnect_reaches_a_node_that_was_cut_off_and_spares_what_came_later(
    proxy: Proxy, far: Here, near: Here
) -> None:
    """Promises 6 (a disconnect is not lost) and 7 (not too wide)."""
    before, others = far.open("42"), near.open("42")
    sees_all(near, "42", {before, others})
    proxy.blackhole()
    closed = near.sessions.disconnect("42", timeout=0.2)
    assert (closed.closed, closed.unconfirmed, closed.partial) == ((others,), (before,), True)
    assert far.code(before) is None
    after = near.open("42")
    with at_most(AT_ONCE):
        made = far.open("43")
    proxy.heal()
    sees(near, "42", {after})
    assert far.code(before) == 3503
    for node in (near, far):
        sees(node, "42", {after})
        sees(node, "43", {made})
    assert (near.code(after), far.code(made)) == (None, None)


def test_a_user_who_is_blocked_while_their_node_is_cut_off_is_put_out_when_it_is_back(
    proxy: Proxy, far: Here, near: Here
) -> None:
    """Promise 6 (a disconnect is not lost): also for who connected without Redis meanwhile."""
    sees_all(far, "42", set())
    proxy.blackhole()
    near.sessions.block_user("42", timeout=0)
    with at_most(AT_ONCE):
        made = far.open("42")
    assert far.held("42") == {made}
    proxy.heal()
    until(lambda: far.code(made), what="the session to be told", seconds=HEALED)
    assert far.code(made) == 3503
    never_sees(near, "42", made)


@pytest.mark.parametrize("way", ["to_server", "to_client"])
def test_packets_that_arrive_late_bring_no_session_back(
    way: Way, redis_server: RedisServer, proxy: Proxy, far: Here, near: Here
) -> None:
    """Promise 4 (no resurrection): the mark of an end outlasts what is still on its way."""
    stays = far.open("42")
    sees_all(near, "42", {stays})
    for _ in range(2):
        proxy.swallow(way, hold=True)
        ended = [far.open("42") for _ in range(2)]
        far.end(*ended)
        until(lambda: proxy.swallowed[way] > 0, what="something on its way")
        # Long enough that it is tried anew, and not so long that the lease is lost.
        began = time.monotonic()
        while time.monotonic() < began + LEASE / 3:
            with at_most(AT_ONCE):
                ended.append(far.open("42"))
                far.end(ended[-1])
            with at_most(IN_TIME), suppress(StoreUnavailable):
                far.list("42")
        proxy.heal()
        sees(near, "42", {stays})
        for client in ended[-2:]:
            never_sees(near, "42", client, seconds=0.05)
        until(lambda: records(redis_server, "42") == {stays}, what="nothing that has ended")
