"""Redis servers that belong together: a cluster, or a master and its replica with sentinels.

A pytest plugin, as `redis_servers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial

import pytest

from tests.processes import Opened
from tests.redis_servers import RedisServer
from tests.servers import until

_SLOTS = 16_384


class RedisCluster(Opened):
    """Three masters that share the slots, running inside the `with` block.

    Args:
        settings: as for `RedisServer`, for each of them.

    Attributes:
        servers: the masters, in the order of their slots.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        super().__init__()
        whole = {
            "cluster-enabled": "yes",
            "cluster-announce-ip": "127.0.0.1",
            "cluster-node-timeout": "1000",
            **(settings or {}),
        }
        self.servers = [RedisServer(whole) for _ in range(3)]

    def _open(self, opened: ExitStack) -> None:
        for server in self.servers:
            opened.enter_context(server)
        self._join()

    @property
    def url(self) -> str:
        """Where they listen."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{one.port}" for one in self.servers)

    def owner(self, key: str) -> RedisServer:
        """The master that holds a key."""
        slot: int = self.servers[0].cli("CLUSTER KEYSLOT", key)
        return self.servers[slot * len(self.servers) // _SLOTS]

    def settle(self) -> None:
        """Wait until each of them says that the cluster is well."""
        for server in self.servers:
            until(partial(self._well, server), what="the cluster to be well")

    def renew(self) -> None:
        """Have all of them run and be empty, whatever a test did."""
        for server in self.servers:
            if server.alive:
                server.resume()
            (server.folder / "dump.rdb").unlink(missing_ok=True)
            server.start()
        self.settle()
        for server in self.servers:
            server.cli("FLUSHALL")
            server.cli(
                "SCRIPT FLUSH",
            )

    def _join(self) -> None:
        for number, server in enumerate(self.servers):
            first, end = (_SLOTS * one // len(self.servers) for one in (number, number + 1))
            # No two may claim the same slots with the same right.
            server.cli("CLUSTER SET-CONFIG-EPOCH", number + 1)
            server.cli("CLUSTER ADDSLOTS", *range(first, end))
            for other in self.servers[:number]:
                server.cli("CLUSTER MEET", "127.0.0.1", other.port)
        self.settle()

    def _well(self, server: RedisServer) -> bool:
        info = server.cli("CLUSTER INFO")
        wanted = {"cluster_state": "ok", "cluster_size": "3", "cluster_slots_ok": str(_SLOTS)}
        return bool(wanted.items() <= info.items())


class RedisSentinel(Opened):
    """A master, its replica, and sentinels that put the replica in the master's place within 2 s.

    Args:
        sentinels: how many; one of them is enough to say that the master is down.

    Attributes:
        servers: the first master, and the first replica.
        sentinels: the sentinels.
    """

    def __init__(self, *, sentinels: int = 1) -> None:
        super().__init__()
        at_once = {"repl-diskless-sync-delay": "0"}
        master = RedisServer(at_once)
        replica = RedisServer({**at_once, "replicaof": f"127.0.0.1 {master.port}"})
        self.servers = [master, replica]
        self.sentinels = [_Sentinel(master.port) for _ in range(sentinels)]

    def _open(self, opened: ExitStack) -> None:
        for server in self.servers:
            opened.enter_context(server)
        until(self._replicated, what="the replica to have the master's data")
        for sentinel in self.sentinels:
            opened.enter_context(sentinel)
        until(self._seen, what="the sentinels to see the replica and one another")

    @property
    def url(self) -> str:
        """Where the sentinels listen, and the name of what they watch."""
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://{hosts}/mymaster"

    @property
    def master(self) -> RedisServer:
        """The one that the sentinels call the master now."""
        _, port = self.sentinels[0].cli("SENTINEL GET-MASTER-ADDR-BY-NAME", "mymaster")
        return next(one for one in self.servers if one.port == int(port))

    def failover(self) -> None:
        """Have the sentinels put the replica in the master's place, and wait until it is there."""
        before = self.master
        self.sentinels[0].cli("SENTINEL FAILOVER", "mymaster")
        self.wait_for_failover(before)

    def wait_for_failover(self, before: RedisServer, *, seconds: float = 15.0) -> None:
        """Wait until all sentinels know of another master than `before`, and it takes writes."""

        def done() -> bool:
            masters = {
                tuple(one.cli("SENTINEL GET-MASTER-ADDR-BY-NAME", "mymaster"))
                for one in self.sentinels
            }
            master = self.master
            return len(masters) == 1 and master is not before and master.cli("ROLE")[0] == "master"

        until(done, what="another master", seconds=seconds)

    def _replicated(self) -> bool:
        # The replica is connected before the master sends it what is new.
        replica = self.servers[0].cli("INFO", "replication").get("slave0")
        return replica is not None and replica["state"] == "online"

    def _seen(self) -> bool:
        return all(self._sees(sentinel) for sentinel in self.sentinels)

    def _sees(self, sentinel: RedisServer) -> bool:
        master = sentinel.cli("SENTINEL MASTERS")["mymaster"]
        replicas = sentinel.cli("SENTINEL SLAVES", "mymaster")
        # Without the last of it, the replica is not yet good enough to take over.
        return bool(
            master["num-other-sentinels"] == len(self.sentinels) - 1
            and [one["flags"] for one in replicas] == ["slave"]
            and replicas[0]["master-link-status"] == "ok"
        )


class _Sentinel(RedisServer):
    _arguments = ("--sentinel",)

    def __init__(self, master: int) -> None:
        super().__init__()
        self._master = master

    def _lines(self) -> Iterator[str]:
        yield "bind 127.0.0.1"
        yield f"dir {self.folder}"
        yield f"port {self.port}"
        yield f"sentinel monitor mymaster 127.0.0.1 {self._master} 1"
        yield "sentinel down-after-milliseconds mymaster 500"
        yield "sentinel failover-timeout mymaster 3000"


@pytest.fixture(scope="module")
def cluster_of_module() -> Iterator[RedisCluster]:
    """The cluster of a module's tests; it takes some 3 s to start."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
def redis_cluster(cluster_of_module: RedisCluster) -> RedisCluster:
    """A cluster without data, all of whose masters run."""
    cluster_of_module.renew()
    return cluster_of_module
