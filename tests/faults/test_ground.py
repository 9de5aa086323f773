"""The ground that the fault tests stand on: the proxy and the worker processes do what they say."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from typing import Literal

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.faults.nodes import CallFailed, Worker, WorkerGone
from tests.faults.proxy import WAYS, Proxy
from tests.redis_servers import RedisServer
from tests.servers import until

FACES: tuple[Literal["async", "sync"], ...] = ("async", "sync")


def client_of(url: str, *, timeout: float = 5.0) -> redis.Redis:
    """A client that tries nothing twice."""
    client: redis.Redis = redis.Redis.from_url(
        url, socket_timeout=timeout, decode_responses=True, retry=Retry(NoBackoff(), 0), protocol=2
    )
    return client


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    with Proxy(redis_server.url) as running:
        yield running


@pytest.fixture
def client(proxy: Proxy) -> Iterator[redis.Redis]:
    """A client with one connection by way of the proxy."""
    with closing(client_of(proxy.url, timeout=1.0)) as connected:
        connected.ping()
        yield connected


# The proxy ------------------------------------------------------------------------------------


def test_the_proxy_passes_everything_on(proxy: Proxy, client: redis.Redis) -> None:
    value = "x" * 1_000_000
    assert client.set("key", value)
    assert client.get("key") == value
    assert (proxy.accepted, proxy.connections) == (1, 1)
    client.close()
    until(lambda: proxy.connections == 0, what="the proxy to hang up")


def test_the_proxy_delays_each_way_and_heals_at_once(proxy: Proxy, client: redis.Redis) -> None:
    proxy.delay(0.05)
    began = time.monotonic()
    client.ping()
    assert 0.1 <= time.monotonic() - began < 0.9
    proxy.delay(3600)
    with pytest.raises(redis.TimeoutError):
        client.incr("key")
    with ThreadPoolExecutor(1) as pool, closing(client_of(proxy.url)) as patient:
        asked = pool.submit(patient.incr, "key")
        until(lambda: proxy.accepted == 2, what="a second connection")
        proxy.heal()
        # What was on its way has arrived, also that of the client that had gone.
        assert asked.result(5) in (1, 2)
    assert client.get("key") == "2"


def test_the_proxy_cuts_amid_a_reply(
    proxy: Proxy, client: redis.Redis, redis_server: RedisServer
) -> None:
    redis_server.cli("SET", "key", "0123456789")
    with raw_to(proxy) as connection:
        proxy.cut_after(8)
        connection.sendall(b"GET key\r\n")
        assert read_all(connection) == b"$10\r\n012"
    with pytest.raises(redis.ConnectionError):
        client.get("key")
    with raw_to(proxy) as connection:
        connection.sendall(b"PING\r\nPING\r\n")
        assert read_all(connection) == b"+PONG\r\n+"
    proxy.heal()
    assert client.get("key") == "0123456789"


def test_the_proxy_cuts_once(proxy: Proxy, client: redis.Redis) -> None:
    proxy.cut_after(0, once=True)
    with pytest.raises(redis.ConnectionError):
        client.incr("key")
    assert client.incr("key") == 2


def test_the_proxy_resets_all_connections_and_new_ones(proxy: Proxy, client: redis.Redis) -> None:
    with raw_to(proxy) as connection:
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(redis.ConnectionError):
        client.ping()
    with pytest.raises(ConnectionResetError), raw_to(proxy) as connection:
        connection.recv(1)
    proxy.heal()
    assert client.ping()


def test_the_proxy_refuses_connections_and_listens_again(proxy: Proxy, client: redis.Redis) -> None:
    proxy.refuse()
    with pytest.raises(redis.ConnectionError):
        client.ping()
    with pytest.raises(ConnectionRefusedError):
        raw_to(proxy)
    proxy.heal()
    assert client.ping()


def test_the_proxy_kills_the_connections_there_are(proxy: Proxy, client: redis.Redis) -> None:
    with raw_to(proxy) as connection:
        until(lambda: proxy.connections == 2, what="two connections")
        proxy.kill_all()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    until(lambda: proxy.connections == 0, what="no connections")
    with raw_to(proxy) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PONG\r\n"


def test_what_a_black_hole_swallowed_is_lost(
    proxy: Proxy, client: redis.Redis, redis_server: RedisServer
) -> None:
    with raw_to(proxy) as connection:
        proxy.blackhole()
        connection.sendall(b"INCR key\r\n")
        with pytest.raises(redis.TimeoutError):
            client.incr("key")
        until(lambda: proxy.swallowed["to_server"] > 20, what="bytes to be swallowed")
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert client.ping()
    assert redis_server.cli("GET", "key") is None


def test_what_a_black_hole_held_arrives_late(
    proxy: Proxy, client: redis.Redis, redis_server: RedisServer
) -> None:
    with raw_to(proxy) as connection:
        proxy.blackhole(hold=True)
        connection.sendall(b"INCR key\r\n")
        with pytest.raises(redis.TimeoutError):
            client.incr("key")
        client.close()
        with raw_to(proxy) as late:
            late.sendall(b"INCR key\r\n")
        until(lambda: proxy.swallowed["to_server"] > 30, what="bytes to be held")
        assert redis_server.cli("GET", "key") is None
        proxy.heal()
        assert connection.recv(100).startswith(b":")
    until(lambda: redis_server.cli("GET", "key") == "3", what="all that was held to arrive")
    until(lambda: proxy.connections == 0, what="the proxy to hang up")


@pytest.mark.parametrize("way", WAYS)
def test_the_proxy_swallows_one_way(
    proxy: Proxy, client: redis.Redis, redis_server: RedisServer, way: Literal["to_server"]
) -> None:
    proxy.swallow(way)
    with pytest.raises(redis.TimeoutError):
        client.incr("key")
    proxy.heal()
    assert redis_server.cli("GET", "key") == (None if way == "to_server" else "1")
    assert client.incr("key") == (1 if way == "to_server" else 2)


def test_a_reply_that_was_held_arrives_late(proxy: Proxy, redis_server: RedisServer) -> None:
    with raw_to(proxy) as connection:
        proxy.swallow("to_client", hold=True)
        connection.sendall(b"INCR key\r\n")
        until(lambda: redis_server.cli("GET", "key") == "1", what="the command to be carried out")
        proxy.heal()
        assert connection.recv(100) == b":1\r\n"


def test_the_proxy_outlasts_its_server(
    proxy: Proxy, client: redis.Redis, redis_server: RedisServer
) -> None:
    redis_server.kill()
    with pytest.raises(redis.ConnectionError):
        client.ping()
    proxy.blackhole()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    redis_server.start()
    proxy.heal()
    assert client.ping()


def test_the_url_of_the_proxy_keeps_what_else_the_url_says() -> None:
    proxy = Proxy("redis://app:secret@127.0.0.1:6379/3?protocol=3")
    assert proxy.url == f"redis://app:secret@127.0.0.1:{proxy.port}/3?protocol=3"


def raw_to(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(100), b""))


# The workers ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FACES)
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    with Worker("memory", face=request.param) as running:
        yield running


def test_a_worker_opens_lists_and_ends_sessions(worker: Worker) -> None:
    clients = worker.open("42", count=3, app_name="web", meta={"plan": "pro"})
    listed = worker.list("42")
    assert (set(listed.connections), listed.partial) == (set(clients), False)
    shown = listed.connections[clients[0]]
    assert (shown["app_name"], shown["meta"]) == ("web", {"plan": "pro"})
    assert worker.info()[worker.node]["num_clients"] == 3
    worker.end(clients[0])
    assert worker.clients("42") == set(clients[1:])
    worker.end()
    assert worker.clients("42") == set()
    assert [one.code for one in worker.held() if one.user == "42"] == [None] * 3


def test_a_worker_tells_how_and_when_its_sessions_ended(worker: Worker) -> None:
    (client,) = worker.open("43")
    before = time.monotonic()
    assert worker.disconnect("43", code=4001).closed == (client,)
    held = worker.ended(client)
    assert held.code == 4001
    assert held.opened_at is not None and held.told_at is not None and held.ended_at is not None
    assert held.opened_at <= before <= held.told_at <= held.ended_at <= time.monotonic()


def test_a_session_lingers_if_it_is_told_to(worker: Worker) -> None:
    (slow,) = worker.open("44", linger=0.2)
    (stubborn,) = worker.open("44", linger=None)
    closed = worker.disconnect("44", timeout=1)
    assert (closed.closed, closed.unconfirmed) == ((slow,), (stubborn,))
    worker.end(stubborn)
    assert worker.ended(stubborn).code == 3503


def test_a_worker_keeps_out_whom_it_is_told_to(worker: Worker) -> None:
    clients = worker.open("45", token_id="t1", issued_at=1)
    assert worker.revoke_token("t1").closed == tuple(clients)
    assert [one.refused for one in worker.attempt("45", token_id="t1", issued_at=1)] == [3500]
    assert worker.invalidate_user_tokens("45") == worker.block_user("45")
    assert [one.refused for one in worker.attempt("45", count=2)] == [3503, 3503]
    with pytest.raises(AssertionError, match=r"1 sessions were refused with \{3503\}"):
        worker.open("45")


def test_a_worker_gives_sessions_the_client_ids_it_is_told(worker: Worker) -> None:
    assert set(worker.open("46", clients=["c1", "c2"])) == {"c1", "c2"}
    assert worker.clients("46") == {"c1", "c2"}
    with pytest.raises(CallFailed, match="client c1 is registered already") as failed:
        worker.open("46", clients=["c1"])
    assert failed.value.kind == "InvalidValue"
    worker.end("c1", "c2")


def test_a_worker_answers_the_server_api(worker: Worker) -> None:
    reply = worker.api("user_connections", user="nobody")
    assert reply == {"result": {"connections": {}}}


def test_requests_to_a_worker_run_side_by_side(worker: Worker) -> None:
    worker.open("47", linger=None)
    slow = worker.ask("call", method="disconnect", arguments={"user": "47", "timeout": 1})
    assert worker.api("user_connections", user="nobody")
    assert not slow.done()
    assert 1 <= slow.result(5).took < 2
    worker.end()


def test_a_worker_has_a_limit_and_a_clock_of_its_own() -> None:
    with Worker("memory", limit=2, policy="evict_oldest", clock_offset=-86400) as worker:
        clients = worker.open("42", count=3)
        assert sum(one.code == 3504 for one in worker.held()) == 1
        until(lambda: len(worker.clients("42")) == 2, what="the oldest to go")
        connections = worker.list("42").connections
        assert set(connections) < set(clients)
        assert all(
            one["connected_at"] == pytest.approx(time.time() - 86400, abs=60)
            for one in connections.values()
        )
        worker.set_clock(0.0)
        (client,) = worker.open("43")
        shown = worker.list("43").connections[client]
        assert shown["connected_at"] == pytest.approx(time.time(), abs=60)


def test_a_worker_can_block_its_event_loop() -> None:
    with Worker("memory") as worker:
        blocked = worker.block_loop(0.3)
        answer = worker.ask("held").result(5)
        assert blocked.result(5).began + 0.3 <= answer.began
        worker.join()


def test_a_worker_can_be_paused_and_resumed() -> None:
    with Worker("memory") as worker:
        worker.pause()
        asked = worker.ask("held")
        assert not wait([asked], 0.2).done
        worker.resume()
        assert asked.result(5).value == []
        worker.pause()
    assert not worker.alive


def test_a_worker_that_is_killed_answers_no_more() -> None:
    with Worker("memory") as worker:
        asked = worker.block_loop(60)
        worker.kill()
        with pytest.raises(WorkerGone):
            asked.result(5)
        with pytest.raises(WorkerGone):
            worker.do("held")
    assert worker.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("face", FACES)
def test_a_worker_that_is_terminated_ends_in_good_order(face: Literal["async", "sync"]) -> None:
    with Worker("memory", face=face) as worker:
        worker.open("42", count=2)
        assert worker.terminate() == 0
        assert worker.log == ""


def test_a_worker_that_cannot_start_says_why() -> None:
    with pytest.raises(WorkerGone, match="invalid choice"), Worker("memory", face="x"):  # type: ignore[arg-type]
        pass


def test_a_worker_holds_many_sessions(worker: Worker) -> None:
    assert len(worker.open("48", count=2000)) == 2000
    assert len(worker.disconnect("48", timeout=20).closed) == 2000
