"""URLs of a Redis, and bytes to it and back."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha1
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis import exceptions

from tests.redis_groups import RedisCluster, RedisSentinel
from tests.redis_servers import NoTLS, RedisServer
from tests.servers import until
from usersessions.errors import ConfigError, MissingExtraError
from usersessions.stores.redis.link import Link, LinkBroken, Refused, Target, parse_url

SOON = 5.0
PING = [("PING",)]


@pytest.fixture
def opened() -> Iterator[Callable[..., Link]]:
    """Open links that are closed after the test."""
    links: list[Link] = []

    def open_link(url: str, *, timeout: float = SOON, scripts: Sequence[bytes] = ()) -> Link:
        links.append(parse_url(url).link(timeout=timeout, scripts=scripts))
        return links[-1]

    yield open_link
    for link in links:
        link.close()


# URLs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6380/3",
        "redis://user:pass%40word@localhost:6380/3?health_check_interval=5",
        "rediss://localhost:6380/0?ssl_cert_reqs=none",
        "unix:///run/redis.sock",
        "unix://user:password@/run/redis.sock?db=2",
    ],
)
def test_what_redis_py_reads_itself_is_left_to_it(url: str) -> None:
    target = parse_url(url)
    assert (target.kind, target.url, target.is_cluster) == (url.split(":")[0], url, False)


def test_sentinels_have_a_port_of_their_own_and_name_a_service_and_a_database() -> None:
    target = parse_url(
        "redis+sentinel://u:p@10.0.0.1,10.0.0.2:26380,[::1]/mymaster/3?client_name=x"
    )
    assert target.hosts == (("10.0.0.1", 26379), ("10.0.0.2", 26380), ("[::1]", 26379))
    assert (target.kind, target.service) == ("redis+sentinel", "mymaster")
    assert target.url == "redis://u:p@10.0.0.1:26379/3?client_name=x"
    assert parse_url("redis+sentinel://10.0.0.1/mymaster").url == "redis://10.0.0.1:26379/"


@pytest.mark.parametrize("path", ["", "/", "/0"])
def test_a_cluster_is_some_of_its_servers(path: str) -> None:
    target = parse_url(f"redis+cluster://:p@10.0.0.1:7000,[::1]:7001,host{path}")
    assert target.hosts == (("10.0.0.1", 7000), ("[::1]", 7001), ("host", 6379))
    assert target.is_cluster


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "must begin with"),
        ("localhost:6379", "must begin with"),
        ("http://secret@localhost", "must begin with"),
        ("REDIS://localhost", "must begin with"),
        ("redis:/localhost/secret", "must begin with"),
        ("redis://u:secret@localhost:port", "not of the right form"),
        ("redis://u:secret@localhost:99999", "not of the right form"),
        ("redis://u:secret@[::1", "not of the right form"),
        ("redis://u:secret@localhost?socket_timeout=soon", "not of the right form"),
        ("redis+sentinel://u:secret@localhost", "names no service"),
        ("redis+sentinel://u:secret@localhost/", "names no service"),
        ("redis+sentinel://u:secret@/mymaster", "not of the right form"),
        ("redis+sentinel://u:secret@a,,b/mymaster", "not of the right form"),
        ("redis+cluster://u:secret@a:b", "not of the right form"),
        ("redis+cluster://u:secret@", "not of the right form"),
        ("redis://u:secret@localhost/secret", "its database must be a number"),
        ("rediss://u:secret@localhost/3a", "its database must be a number"),
        ("redis+sentinel://u:secret@a/mymaster/secret?x=1", "its database must be a number"),
        ("redis+cluster://u:secret@localhost/3", "no databases"),
        ("redis+cluster://u:secret@localhost/secret", "no databases"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_not_repeated(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        parse_url(url)
    error: BaseException | None = raised.value
    assert "secret" not in str(error)
    assert error is not None and error.__cause__ is None and error.__context__ is None


@pytest.mark.parametrize("url", [None, 7, b"redis://localhost"])
def test_a_url_that_is_no_string_is_refused(url: Any) -> None:
    with pytest.raises(ConfigError, match="must be a string"):
        parse_url(url)


@given(
    st.sampled_from(("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")),
    st.text(max_size=30) | st.text("[]:@/,?&=%0a", max_size=12),
)
def test_whatever_follows_a_scheme_is_read_or_refused(scheme: str, rest: str) -> None:
    try:
        target = parse_url(f"{scheme}://{rest}")
    except ConfigError:
        return
    assert target.kind == scheme


def test_a_target_shows_nothing() -> None:
    assert "secret" not in repr(parse_url("redis://u:secret@localhost"))


def test_without_redis_py_the_message_is_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtraError, match=r'pip install "usersessions\[redis\]"'):
        parse_url("redis://localhost")


# One server ---------------------------------------------------------------------------------------


def test_many_commands_are_answered_in_order_and_errors_are_answers(
    opened: Callable[..., Link], redis_server: RedisServer
) -> None:
    link = opened(redis_server.url)
    commands = [("SET", "k", b"\xff"), ("GET", "k"), ("LPUSH", "k", 1), ("GET", "k"), ("NONE",)]
    assert link.exchange(commands) == [
        b"OK",
        b"\xff",
        Refused("WRONGTYPE"),
        b"\xff",
        Refused("ERR"),
    ]
    assert link.exchange(PING) == [b"PONG"]
    assert link.exchange([]) == []


def test_it_works_over_a_unix_socket(
    opened: Callable[..., Link], redis_server: RedisServer
) -> None:
    assert opened(redis_server.unix_url).exchange(PING) == [b"PONG"]


def test_it_works_with_tls_and_a_login(opened: Callable[..., Link]) -> None:
    try:
        with RedisServer(acl="~app:* &* +@all -flushall", tls=True) as server:
            link = opened(server.url)
            replies = link.exchange([("PING",), ("SET", "other", 1), ("FLUSHALL",)])
            assert replies == [b"PONG", Refused("NOPERM"), Refused("NOPERM")]
            link.close()
    except NoTLS:
        pytest.skip("this redis-server is built without TLS")


def test_redis_says_by_a_code_why_it_refuses(opened: Callable[..., Link]) -> None:
    script = "return redis.call('SET', KEYS[1], string.rep('x', 100))"
    with RedisServer({"maxmemory": "1mb", "maxmemory-policy": "noeviction"}) as server:
        link = opened(server.url)
        assert link.exchange([("EVALSHA", "0" * 40, 0)]) == [Refused("NOSCRIPT")]
        server.cli("CONFIG SET", "maxmemory", "1")
        assert link.exchange([("SET", "k", "v"), ("EVAL", script, 1, "k")]) == [Refused("OOM")] * 2
        server.cli("CONFIG SET", "maxmemory", "0")
        server.cli("REPLICAOF", "127.0.0.1", "1")
        assert link.exchange([("SET", "k", "v")]) == [Refused("READONLY")]
        assert link.exchange([("EVAL", script, 1, "k")]) == [Refused("READONLY")]
        server.cli("CONFIG SET", "replica-serve-stale-data", "no")
        assert link.exchange([("GET", "k")]) == [Refused("MASTERDOWN")]
        server.cli("REPLICAOF", "NO", "ONE")
        server.cli("CONFIG SET", "min-replicas-to-write", "1")
        assert link.exchange([("SET", "k", "v")]) == [Refused("NOREPLICAS")]
        link.close()


def test_after_a_server_was_found_to_be_no_master_it_connects_anew(
    opened: Callable[..., Link], redis_server: RedisServer
) -> None:
    link = opened(redis_server.url)
    (before,) = link.exchange([("CLIENT", "ID")])
    redis_server.cli("REPLICAOF", "127.0.0.1", "1")
    assert link.exchange([("SET", "k", "v")]) == [Refused("READONLY")]
    (after,) = link.exchange([("CLIENT", "ID")])
    assert after != before


def test_where_nobody_answers_the_link_is_broken_and_nothing_is_named(
    opened: Callable[..., Link],
) -> None:
    with RedisServer(acl="~* &* +@all") as server:
        link = opened(server.url.replace("app:", "app:wrong-"), timeout=0.5)
        with pytest.raises(LinkBroken) as raised:
            link.exchange(PING)
        assert str(raised.value) == "AuthenticationError"
        link = opened(server.url, timeout=0.2)
        link.exchange(PING)
        server.pause()
        with pytest.raises(LinkBroken, match=r"^TimeoutError$"):
            link.exchange(PING)
        server.resume()
        assert link.exchange(PING) == [b"PONG"]
        server.kill()
        for _ in range(2):
            with pytest.raises(LinkBroken, match=r"^ConnectionError$") as raised:
                link.exchange(PING)
            assert raised.value.__suppress_context__


def test_a_command_that_cannot_be_sent_is_a_mistake_of_ours_and_no_broken_link(
    opened: Callable[..., Link], redis_server: RedisServer
) -> None:
    link = opened(redis_server.url)
    with pytest.raises(UnicodeEncodeError):
        link.exchange([("GET", "\ud800")])
    assert link.exchange(PING) == [b"PONG"]


SCRIPTS = [b"return 7", b"this is no Lua"]
DIGEST = sha1(SCRIPTS[0]).hexdigest()


def test_each_connection_knows_the_scripts_and_one_that_is_refused_is_no_matter(
    opened: Callable[..., Link], redis_server: RedisServer
) -> None:
    link = opened(redis_server.url, scripts=SCRIPTS)
    assert link.exchange([("PING",), ("EVALSHA", DIGEST, 0)]) == [b"PONG", 7]
    redis_server.cli("SCRIPT FLUSH")
    assert link.exchange([("EVALSHA", DIGEST, 0)]) == [Refused("NOSCRIPT")]
    link.close()
    assert link.exchange([("EVALSHA", DIGEST, 0)]) == [7]


def test_a_link_may_be_closed_by_another_thread_while_it_waits(
    opened: Callable[..., Link], redis_server: RedisServer
) -> None:
    closed_while_waiting(opened(redis_server.url), redis_server)


def closed_while_waiting(link: Link, server: RedisServer) -> None:
    broken: list[str] = []

    def wait() -> None:
        try:
            link.exchange([("BLPOP", "nothing", 0)])
        except LinkBroken as error:
            broken.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: server.cli("INFO", "clients")["blocked_clients"] == 1, what="a waiting client")
    link.close()
    thread.join(SOON / 2)
    assert len(broken) == 1
    assert link.exchange(PING)[0] in (b"PONG", True)


def test_closing_twice_is_closing_once(
    opened: Callable[..., Link], redis_server: RedisServer
) -> None:
    link = opened(redis_server.url)
    link.close()
    link.exchange(PING)
    link.close()
    link.close()
    assert link.exchange(PING) == [b"PONG"]


def test_a_server_that_was_started_anew_is_another_one(
    opened: Callable[..., Link], redis_server: RedisServer
) -> None:
    link = opened(redis_server.url)
    first = link.identity()
    assert first and link.identity() == first
    redis_server.kill()
    with pytest.raises(LinkBroken):
        link.identity()
    redis_server.start()
    second = link.identity()
    assert second != first
    redis_server.cli("REPLICAOF", "127.0.0.1", "1")
    redis_server.cli("REPLICAOF", "NO", "ONE")
    assert link.identity() != second


def test_who_may_not_ask_who_the_server_is_gets_no_name(opened: Callable[..., Link]) -> None:
    with RedisServer(acl="~* &* +@all -info") as server:
        assert opened(server.url).identity() == b" "


# Several servers ----------------------------------------------------------------------------------


def answers(link: Link) -> bool:
    try:
        return link.exchange(PING) == [b"PONG"]
    except LinkBroken:
        return False


def test_the_master_is_the_one_that_the_sentinels_name(opened: Callable[..., Link]) -> None:
    with RedisSentinel() as group:
        link = opened(group.url)
        assert link.exchange([("SET", "k", "v")]) == [b"OK"]
        first, before = link.identity(), group.master
        before.kill()
        with pytest.raises(LinkBroken, match=r"^ConnectionError$"):
            link.exchange(PING)
        group.wait_for_failover(before)
        until(lambda: answers(link), what="the other master")
        assert link.exchange([("SET", "k", "v")]) == [b"OK"]
        assert link.identity() != first
        link.close()


def test_a_cluster_answers_in_order_whoever_holds_the_keys(
    opened: Callable[..., Link], redis_cluster: RedisCluster
) -> None:
    link = opened(redis_cluster.url)
    keys = [f"k{number}" for number in range(20)]
    assert len({redis_cluster.owner(key).port for key in keys}) == 3
    assert link.exchange([("SET", key, key) for key in keys]) == [True] * 20
    replies = link.exchange([("GET", key) for key in keys])
    assert replies == [key.encode() for key in keys]
    replies = link.exchange([("GET", "k1"), ("LPUSH", "k1", 1), ("EVALSHA", "0" * 40, 1, "k1")])
    assert replies == [b"k1", Refused("WRONGTYPE"), Refused("NOSCRIPT")]
    with pytest.raises(UnicodeEncodeError):
        link.exchange([("GET", "\ud800")])
    assert link.exchange([("GET", "k1")]) == [b"k1"]


def test_each_server_of_a_cluster_knows_the_scripts_and_one_that_is_refused_is_no_matter(
    opened: Callable[..., Link], redis_cluster: RedisCluster
) -> None:
    link = opened(redis_cluster.url, scripts=SCRIPTS)
    commands = [("EVALSHA", DIGEST, 1, f"k{number}") for number in range(20)]
    assert link.exchange(commands) == [7] * 20


def test_a_cluster_is_another_one_once_one_of_its_servers_is(
    opened: Callable[..., Link], redis_cluster: RedisCluster
) -> None:
    link = opened(redis_cluster.url, timeout=1.0)
    first = link.identity()
    assert len(first.split()) == 6 and link.identity() == first
    redis_cluster.servers[1].kill()
    with pytest.raises(LinkBroken):
        link.exchange([("GET", f"k{number}") for number in range(20)])
    redis_cluster.servers[1].start()
    redis_cluster.settle()
    assert link.identity() != first


def test_a_server_of_a_cluster_that_hangs_costs_one_timeout_however_much_is_asked(
    opened: Callable[..., Link], redis_cluster: RedisCluster
) -> None:
    link = opened(redis_cluster.url, timeout=0.3)
    commands = [("GET", f"k{number}") for number in range(60)]
    link.exchange(commands)
    redis_cluster.servers[2].pause()
    began = time.monotonic()
    with pytest.raises(LinkBroken, match=r"^TimeoutError$"):
        link.exchange(commands)
    assert time.monotonic() - began < 2.0
    redis_cluster.servers[2].resume()
    redis_cluster.settle()
    assert link.exchange(commands) == [None] * 60


def test_a_cluster_may_move_keys_from_one_server_to_another(
    opened: Callable[..., Link], redis_cluster: RedisCluster
) -> None:
    link = opened(redis_cluster.url)
    link.exchange([("SET", "k1", "v"), ("SET", "k2", "w")])
    first = redis_cluster.owner("k1")
    other = next(one for one in redis_cluster.servers if one is not first)
    slot = first.cli("CLUSTER KEYSLOT", "k1")
    ids = {one: one.cli("CLUSTER MYID") for one in (first, other)}
    other.cli("CLUSTER SETSLOT", slot, "IMPORTING", ids[first])
    first.cli("CLUSTER SETSLOT", slot, "MIGRATING", ids[other])
    first.cli("MIGRATE", "127.0.0.1", other.port, "k1", 0, 1000)
    asked = [("GET", "k1"), ("LPUSH", "k1", 1), ("GET", "k2")]
    expected = [b"v", Refused("WRONGTYPE"), b"w"]
    assert link.exchange(asked) == expected
    try:
        for server in redis_cluster.servers:
            server.cli("CLUSTER SETSLOT", slot, "NODE", ids[other])
        assert link.exchange(asked) == expected
    finally:
        # Other tests rely on which slots are whose.
        redis_cluster.renew()
        for server in redis_cluster.servers:
            server.cli("CLUSTER SETSLOT", slot, "NODE", ids[first])


def test_a_cluster_of_which_no_server_answers_is_broken(opened: Callable[..., Link]) -> None:
    for url in ("redis+cluster://u:secret@127.0.0.1:1", "redis+cluster://127.0.0.1:1,[::1]:1"):
        link = opened(url)
        with pytest.raises(LinkBroken, match=r"^\w+$"):
            link.exchange(PING)
        link.close()


def test_a_link_to_a_cluster_may_be_closed_by_another_thread_while_it_waits(
    opened: Callable[..., Link], redis_cluster: RedisCluster
) -> None:
    closed_while_waiting(opened(redis_cluster.url), redis_cluster.owner("nothing"))


class ClusterOfErrors:
    """A cluster client whose commands have come to what they say."""

    replies: tuple[object, ...] = ()

    def __init__(self, **settings: object) -> None:
        pass

    def pipeline(self, *, transaction: bool) -> ClusterOfErrors:
        return self

    def send_cluster_commands(self, stack: Sequence[object], **settings: bool) -> list[object]:
        return list(self.replies)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "error", [redis.ConnectionError("secret"), redis.TimeoutError("secret"), OSError("secret")]
)
def test_where_one_server_of_a_cluster_is_not_reached_the_link_is_broken(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis.cluster.RedisCluster", ClusterOfErrors)
    monkeypatch.setattr(ClusterOfErrors, "replies", (b"OK", error))
    link = Target("redis+cluster", "redis://h/", (("h", 1),)).link(timeout=1.0)
    with pytest.raises(LinkBroken, match=f"^{type(error).__name__}$"):
        link.exchange(PING * 2)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (redis.ResponseError("WRONGTYPE Operation against a key"), "WRONGTYPE"),
        (exceptions.ReadOnlyError("You can't write"), "READONLY"),
        (exceptions.OutOfMemoryError("command not allowed"), "OOM"),
        (exceptions.NoPermissionError("this user has no permissions"), "NOPERM"),
        (redis.ResponseError("Error running script: -MISCONF Redis is configured"), "MISCONF"),
        (redis.ResponseError("NOREPLICAS Not enough good replicas"), "NOREPLICAS"),
        (redis.ResponseError("unknown command"), "ERR"),
        (redis.ResponseError(""), "ERR"),
    ],
)
def test_an_error_is_known_by_its_code_with_a_class_or_without(
    error: Exception, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis.cluster.RedisCluster", ClusterOfErrors)
    monkeypatch.setattr(ClusterOfErrors, "replies", (error, b"OK"))
    link = Target("redis+cluster", "redis://h/", (("h", 1),)).link(timeout=1.0)
    assert link.exchange(PING * 2) == [Refused(code), b"OK"]


def test_a_mistake_that_a_cluster_client_hands_over_is_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("redis.cluster.RedisCluster", ClusterOfErrors)
    monkeypatch.setattr(ClusterOfErrors, "replies", (ZeroDivisionError(),))
    link = Target("redis+cluster", "redis://h/", (("h", 1),)).link(timeout=1.0)
    with pytest.raises(ZeroDivisionError):
        link.exchange(PING)
