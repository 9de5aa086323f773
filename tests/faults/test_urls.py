"""All that two nodes do, by each way to reach a Redis."""

from __future__ import annotations

import pytest

from tests.faults.here import Here, sees_all
from tests.faults.tour import tour
from tests.redis_groups import RedisSentinel
from tests.redis_servers import NoTLS, RedisServer
from usersessions import StoreUnavailable

LEAST = "~shop:* +@all -@dangerous +info"
"""What a user of Redis has to be allowed."""


def test_by_tcp(redis_server: RedisServer) -> None:
    """Promises 1 (complete) and 6 (a disconnect is not lost)."""
    tour(redis_server.url)


def test_by_a_database_of_its_own(redis_server: RedisServer) -> None:
    """Promises 1 (complete) and 6: and no other database is touched."""
    tour(f"{redis_server.url}/3")
    assert redis_server.cli("DBSIZE") == 0


def test_by_a_unix_socket(redis_server: RedisServer) -> None:
    """Promises 1 (complete) and 6 (a disconnect is not lost)."""
    tour(redis_server.unix_url)


def test_as_a_user_who_may_do_no_more_than_is_needed() -> None:
    """Promises 1 (complete) and 6 (a disconnect is not lost)."""
    with RedisServer(acl=LEAST) as server:
        tour(server.url, prefix="shop")
        tour(server.unix_url, prefix="shop:b")


def test_a_wrong_password_is_told_as_not_available_and_not_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Promise 12 (local availability): and once the password is right, all is well."""
    with RedisServer(acl=LEAST) as server:
        assert server.password is not None
        url = server.url.replace(server.password, "a wrong one")
        with Here(url, prefix="shop") as node:
            own = node.open("42")
            assert node.held("42") == {own}
            with pytest.raises(StoreUnavailable) as told:
                node.list("42")
            assert "a wrong one" not in f"{told.value!r} {node.store!r} {caplog.text}"
            server.cli("ACL SETUSER", "app", ">a wrong one")
            sees_all(node, "42", {own})


def test_by_tls() -> None:
    """Promises 1 (complete) and 6: over a connection whose certificate is checked."""
    try:
        server = RedisServer(tls=True).__enter__()
    except NoTLS as reason:
        pytest.skip(str(reason))
    try:
        tour(server.url)
        with Here(server.url.partition("?")[0]) as node, pytest.raises(StoreUnavailable):
            node.list("42")
    finally:
        server.__exit__(None, None, None)


def test_by_sentinel() -> None:
    """Promises 1 (complete) and 6 (a disconnect is not lost)."""
    with RedisSentinel() as group:
        tour(group.url)
