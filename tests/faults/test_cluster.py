"""Redis on many servers: a cluster that loses one, and a master whose replica takes over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.faults.here import (
    AT_ONCE,
    IN_TIME,
    Here,
    at_most,
    never_sees,
    sees,
    sees_all,
    token_of,
)
from tests.faults.tour import USERS, tour
from tests.redis_groups import RedisCluster, RedisSentinel
from tests.servers import until
from usersessions import StoreUnavailable


@pytest.fixture
def nodes(redis_cluster: RedisCluster) -> Iterator[tuple[Here, Here]]:
    url = redis_cluster.url
    with Here(url, timeout=1.0) as one, Here(url, timeout=1.0) as other:
        yield one, other


# A cluster ------------------------------------------------------------------------------------


def test_everything_works_on_a_cluster(redis_cluster: RedisCluster) -> None:
    """Promises 1 (complete) and 6 (a disconnect is not lost): whichever server has what."""
    tour(redis_cluster.url)
    owners = {redis_cluster.owner(f"usersessions:{{u:{user}}}").port for user in USERS}
    assert len(owners) == 3


def test_a_url_with_one_server_finds_the_others(redis_cluster: RedisCluster) -> None:
    """Promise 1 (complete): where some of the named servers are not there."""
    url = f"redis+cluster://127.0.0.1:1,127.0.0.1:{redis_cluster.servers[1].port}"
    with Here(url, timeout=2.0) as one, Here(redis_cluster.url, timeout=2.0) as other:
        held = {user: {one.open(user)} for user in USERS[:6]}
        for user, clients in held.items():
            sees(other, user, clients)


def test_flushed_servers_cost_no_session_its_place(
    redis_cluster: RedisCluster, nodes: tuple[Here, Here]
) -> None:
    """Promises 3 (re-assertion) and 4 (no resurrection): one server at a time, and all of them."""
    one, other = nodes
    held = {user: {one.open(user), other.open(user)} for user in USERS[:8]}
    ended = one.open(USERS[0])
    for user, clients in held.items():
        sees(other, user, clients | ({ended} if user == USERS[0] else set()))
    one.end(ended)
    sees_all(other, USERS[0], held[USERS[0]])
    for servers in (*([server] for server in redis_cluster.servers), redis_cluster.servers):
        for server in servers:
            server.cli("FLUSHALL")
        for user, clients in held.items():
            for node in nodes:
                sees(node, user, clients)
    never_sees(other, USERS[0], ended)


@pytest.mark.parametrize("has_leases", [True, False], ids=["leases and log", "users alone"])
def test_a_server_that_is_killed_and_restarted_costs_no_session_its_place(
    has_leases: bool, redis_cluster: RedisCluster
) -> None:
    """Promises 12 (local availability), 3 (re-assertion), 4 (no resurrection).

    A cluster without replicas is not available as long as one of its servers is not.
    """
    url = redis_cluster.url
    chosen = redis_cluster.owner("usersessions:{n}:leases")
    if not has_leases:
        chosen = next(one for one in redis_cluster.servers if one is not chosen)
    with Here(url, timeout=1.0) as one, Here(url, timeout=1.0) as other:
        held = {user: {one.open(user), other.open(user)} for user in USERS[:6]}
        ended = {user: one.open(user) for user in USERS[:6]}
        for user, clients in held.items():
            sees_all(other, user, {*clients, ended[user]})
        chosen.kill()
        for user, client in ended.items():
            with at_most(AT_ONCE):
                one.end(client)
            with at_most(AT_ONCE):
                held[user].add(one.open(user))
        for user in USERS[:6]:
            with at_most(IN_TIME + 0.5), suppress(StoreUnavailable):
                other.list(user)
        chosen.start()
        redis_cluster.settle()
        for user, clients in held.items():
            for node in (one, other):
                sees(node, user, clients)
        for user, client in ended.items():
            never_sees(other, user, client, seconds=0.05)
        for user, clients in held.items():
            sees_all(other, user, clients)
            # What is told afterwards arrives.
            assert set(other.sessions.disconnect(user).closed) == clients


def test_a_token_that_was_revoked_while_it_connected_does_not_get_in(
    redis_cluster: RedisCluster, nodes: tuple[Here, Here]
) -> None:
    """Promise 6 (a disconnect is not lost): where no script sees both the user and the token."""
    one, other = nodes
    for number in range(12):
        token_id = f"t{number}"
        client = one.open(USERS[number], token=token_of(USERS[number], token_id))
        closed = other.sessions.revoke_token(token_id)
        # On a busy machine it may have had no verdict then, and hears of it afterwards.
        assert set(closed.closed) <= {client} and closed.unconfirmed == ()
        until(lambda: one.code(client) == 3500, what="it to be told")  # noqa: B023
        sees(other, USERS[number], set())


# Sentinel -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["asked", "killed"])
def test_a_failover_costs_no_session_its_place(how: str) -> None:
    """Promises 3 (re-assertion), 4 (no resurrection), 12 (local availability)."""
    with (
        RedisSentinel() as group,
        Here(group.url) as one,
        Here(group.url) as other,
    ):
        stays, ended = one.open("42"), one.open("42")
        others = other.open("42")
        sees_all(other, "42", {stays, ended, others})
        before = group.master
        if how == "killed":
            before.kill()
            with at_most(AT_ONCE):
                made = one.open("42")
            with at_most(AT_ONCE):
                one.end(ended)
            group.wait_for_failover(before)
        else:
            group.failover()
            made = one.open("42")
            one.end(ended)
        for node in (one, other):
            sees(node, "42", {stays, others, made})
        never_sees(other, "42", ended)
        for node in (one, other):
            sees_all(node, "42", {stays, others, made})
        assert set(other.sessions.disconnect("42").closed) == {stays, others, made}
        until(lambda: one.whole("42") == set(), what="an empty list")
