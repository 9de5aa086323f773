"""What Redis forgets, or remembers though it is over: all heals by itself, from what nodes hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.faults.here import (
    AT_ONCE,
    HEALED,
    LEASE,
    Here,
    at_most,
    never_sees,
    records,
    sees,
    sees_all,
    token_of,
)
from tests.redis_servers import RedisServer
from tests.servers import until
from usersessions import StoreUnavailable, TokenRevoked


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that a test may kill."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def nodes(redis_server: RedisServer) -> Iterator[tuple[Here, Here]]:
    with Here(redis_server.url) as one, Here(redis_server.url) as other:
        yield one, other


# Restarts -------------------------------------------------------------------------------------


def test_a_restart_without_data_brings_every_session_back_but_those_that_ended(
    own_server: RedisServer,
) -> None:
    """Promises 3 (re-assertion), 4 (no resurrection), 12 (local availability)."""
    with Here(own_server.url) as one, Here(own_server.url) as other:
        stays, before, during = (one.open("42") for _ in range(3))
        others = other.open("42")
        one.end(before)
        sees_all(other, "42", {stays, during, others})
        own_server.kill()
        with at_most(AT_ONCE):
            one.end(during)
        with at_most(AT_ONCE):
            made = one.open("42")
        own_server.start()
        for node in (one, other):
            sees(node, "42", {stays, others, made})
        never_sees(other, "42", during)
        never_sees(one, "42", before)
        for node in (one, other):
            sees_all(node, "42", {stays, others, made})
        assert records(own_server, "42") == {stays, others, made}


def test_a_restart_with_old_data_brings_no_session_back_that_has_ended(
    own_server: RedisServer,
) -> None:
    """Promises 3 (re-assertion) and 4 (no resurrection)."""
    with Here(own_server.url) as one, Here(own_server.url) as other:
        stays, before, during = (one.open("42") for _ in range(3))
        own_server.cli("SAVE")
        one.end(before)
        made = one.open("42")
        others = other.open("42")
        sees_all(other, "42", {stays, during, made, others})
        own_server.kill()
        one.end(during)
        own_server.start()
        for node in (one, other):
            sees(node, "42", {stays, made, others})
        for gone in (before, during):
            never_sees(other, "42", gone)
            never_sees(one, "42", gone)
        sees_all(other, "42", {stays, made, others})
        # What was under the old lease is swept by whoever has listed it.
        until(
            lambda: records(own_server, "42") == {stays, made, others},
            what="the old records to be gone",
        )


def test_a_session_that_ended_is_not_listed_at_once_after_a_restart_with_old_data_either(
    own_server: RedisServer,
) -> None:
    """Promises 4 (no resurrection) and 13 (honest partiality): whoever lists first, and however
    long the others' leases last."""
    with Here(own_server.url, lease=6.0) as one, Here(own_server.url, lease=6.0) as other:
        stays, ended = one.open("42"), one.open("42")
        others = other.open("42")
        own_server.cli("SAVE")
        one.end(ended)
        sees_all(other, "42", {stays, others})
        own_server.kill()
        # So long ago that the saved leases have run out, though they were renewed since.
        _age(own_server)
        own_server.start()

        def is_back() -> bool:
            with suppress(StoreUnavailable):
                listed = other.list("42")
                assert ended not in listed
                assert listed.partial or set(listed) == {stays, others}
                return set(listed) == {stays, others}
            return False

        until(is_back, what="the sessions to be back", seconds=6.0 / 3 + 1.0)
        never_sees(other, "42", ended)


def test_what_a_restart_without_data_lost_of_a_session_that_its_token_had_is_still_known(
    own_server: RedisServer,
) -> None:
    """Promise 6 (a disconnect is not lost): a session that came back is closed as any other."""
    with Here(own_server.url) as one, Here(own_server.url) as other:
        own = one.open("42", token=token_of("42", "t1"))
        sees_all(other, "42", {own})
        own_server.kill()
        own_server.start()
        sees_all(other, "42", {own})
        assert other.sessions.revoke_token("t1").closed == (own,)
        assert one.code(own) == 3500
        with pytest.raises(TokenRevoked):
            one.sessions.authenticate(token_of("42", "t1"))


def _age(server: RedisServer) -> None:
    """Have the leases that a stopped server has saved be older, as after a longer time."""
    with RedisServer() as scratch:
        (scratch.folder / "dump.rdb").unlink(missing_ok=True)
        scratch.stop()
        saved = (server.folder / "dump.rdb").read_bytes()
        (scratch.folder / "dump.rdb").write_bytes(saved)
        scratch.start()
        leases = "usersessions:{n}:leases"
        for lease in scratch.cli("ZRANGE", leases, 0, -1):
            scratch.cli("ZADD", leases, 1, lease)
        scratch.cli("SAVE")
        saved = (scratch.folder / "dump.rdb").read_bytes()
    (server.folder / "dump.rdb").write_bytes(saved)


# Flushes --------------------------------------------------------------------------------------


def test_a_flush_loses_no_session(redis_server: RedisServer, nodes: tuple[Here, Here]) -> None:
    """Promises 3 (re-assertion) and 4 (no resurrection)."""
    one, other = nodes
    stays, ended = one.open("42"), one.open("42")
    others = other.open("42")
    one.end(ended)
    sees_all(other, "42", {stays, others})
    redis_server.cli("FLUSHALL")
    for node in nodes:
        sees(node, "42", {stays, others})
    never_sees(other, "42", ended)
    for node in nodes:
        sees_all(node, "42", {stays, others})


def test_a_list_just_after_a_flush_is_whole_or_says_that_it_is_not(
    redis_server: RedisServer, nodes: tuple[Here, Here]
) -> None:
    """Promise 13 (honest partiality)."""
    one, other = nodes
    held = {one.open("42"), one.open("42"), other.open("42")}
    sees_all(other, "42", held)
    for _ in range(2):
        redis_server.cli("FLUSHALL")
        seen = 0

        def is_back() -> bool:
            nonlocal seen
            seen += 1
            listed = other.list("42")
            assert set(listed) == held or listed.partial
            return not listed.partial and set(listed) == held

        until(is_back, what="a whole list")
        assert seen > 1


def test_sessions_that_come_and_go_amid_flushes_are_listed_in_the_end(
    redis_server: RedisServer, nodes: tuple[Here, Here]
) -> None:
    """Promises 3 (re-assertion), 4 (no resurrection), 8 (idempotent)."""
    one = nodes[0]
    held: set[str] = set()
    ended: set[str] = set()
    for round_ in range(20):
        for node in nodes:
            held |= {node.open("42") for _ in range(3)}
        redis_server.cli("FLUSHALL")
        gone = sorted(one.held("42"))[: 2 + round_ % 2]
        one.end(*gone)
        held -= set(gone)
        ended |= set(gone)
    for node in nodes:
        sees(node, "42", held)
    assert not ended & records(redis_server, "42")


# Parts ----------------------------------------------------------------------------------------


def test_whatever_key_is_lost_comes_back(
    redis_server: RedisServer, nodes: tuple[Here, Here]
) -> None:
    """Promise 3 (re-assertion): also where nothing but one key is lost, as by eviction."""
    one, other = nodes
    stays, others = one.open("42"), other.open("42")
    alone = one.open("43")
    sees_all(other, "42", {stays, others})
    # So that there are mailboxes, too.
    for node in nodes:
        assert node.sessions.disconnect("44").closed == ()
    keys = redis_server.cli("KEYS", "*")
    assert {"usersessions:{u:42}", "usersessions:{n}:leases", "usersessions:{n}:log"} < set(keys)
    for key in keys:
        redis_server.cli("DEL", key)
        for node in nodes:
            sees(node, "42", {stays, others})
            sees(node, "43", {alone})
    extra = one.open("43")
    assert set(other.sessions.disconnect("43").closed) == {alone, extra}
    for node in nodes:
        sees_all(node, "42", {stays, others})


def test_lost_leases_cost_no_session_its_life(
    redis_server: RedisServer, nodes: tuple[Here, Here]
) -> None:
    """Promises 3 (re-assertion) and 5 (no early death)."""
    one, other = nodes
    stays, others = one.open("42"), other.open("42")
    redis_server.cli("DEL", "usersessions:{n}:leases")
    for node in nodes:
        sees(node, "42", {stays, others})
        sees_all(node, "42", {stays, others})
    assert (one.code(stays), other.code(others)) == (None, None)
    assert len(one.sessions.info()) == 2


def test_the_loss_of_one_session_of_many_is_healed_as_is_that_of_a_whole_user(
    redis_server: RedisServer, nodes: tuple[Here, Here]
) -> None:
    """Promise 3 (re-assertion): other users are not touched."""
    one, other = nodes
    held = {user: {one.open(user), one.open(user)} for user in ("42", "43", "44")}
    redis_server.cli("DEL", "usersessions:{u:43}")
    for user, clients in held.items():
        sees(other, user, clients)


# What Redis cannot take -----------------------------------------------------------------------


def test_a_full_redis_keeps_nobody_out(own_server: RedisServer) -> None:
    """Promises 12 (local availability), 13 (honest partiality), 3 (re-assertion)."""
    with Here(own_server.url) as one, Here(own_server.url) as other:
        stays, ended = one.open("42"), one.open("42")
        others = other.open("42")
        sees_all(other, "42", {stays, ended, others})
        own_server.cli("CONFIG SET", "maxmemory-policy", "noeviction")
        own_server.cli("CONFIG SET", "maxmemory", "1")
        with at_most(AT_ONCE):
            made = one.open("42")
        with at_most(AT_ONCE):
            one.end(ended)
        with at_most(AT_ONCE):
            passing = one.open("42")
        one.end(passing)

        # By its next renewal, it knows that there may be more than it can see.
        until(lambda: other.whole("42") is None, what="an honest list", seconds=HEALED)

        def lease_is_over() -> bool:
            assert other.whole("42") in (None, {stays, made, others}), (
                "a plain list that is not right"
            )
            return not own_server.cli("ZRANGEBYSCORE", "usersessions:{n}:leases", _now(), "+inf")

        def _now() -> str:
            seconds, micros = own_server.cli("TIME")
            return str(int(seconds) * 1000 + int(micros) // 1000)

        until(lease_is_over, what="the leases to run out", seconds=LEASE + 2)
        own_server.cli("CONFIG SET", "maxmemory", "0")
        for node in (one, other):
            sees(node, "42", {stays, made, others})
        never_sees(other, "42", ended)
        never_sees(other, "42", passing)


def test_a_redis_that_follows_another_one_for_a_while_keeps_nobody_out(
    own_server: RedisServer,
) -> None:
    """Promises 12 (local availability) and 3 (re-assertion): read-only, and empty afterwards."""
    with (
        RedisServer({"repl-diskless-sync-delay": "0"}) as leader,
        Here(own_server.url) as one,
        Here(own_server.url) as other,
    ):
        stays, ended = one.open("42"), one.open("42")
        sees_all(other, "42", {stays, ended})
        own_server.cli("REPLICAOF", "127.0.0.1", leader.port)

        def is_read_only() -> bool:
            return bool(own_server.cli("INFO", "replication")["master_link_status"] == "up")

        until(is_read_only, what="the server to follow the other one")
        with at_most(AT_ONCE):
            made = one.open("42")
        with at_most(AT_ONCE):
            one.end(ended)
        own_server.cli("REPLICAOF", "NO", "ONE")
        for node in (one, other):
            sees(node, "42", {stays, made})
        never_sees(other, "42", ended)
