"""The groups of Redis servers that other tests rely on."""

from __future__ import annotations

import pytest
import redis

from tests.redis_groups import RedisCluster, RedisSentinel


def test_a_cluster_keeps_each_key_at_its_owner_and_is_renewed(redis_cluster: RedisCluster) -> None:
    client = redis.RedisCluster("127.0.0.1", redis_cluster.servers[0].port)
    try:
        keys = [f"u:{{{number}}}" for number in range(30)]
        for key in keys:
            client.set(key, "value")
    finally:
        client.close()
    assert {redis_cluster.owner(key) for key in keys} == set(redis_cluster.servers)
    assert all(redis_cluster.owner(key).cli("GET", key) == "value" for key in keys)
    redis_cluster.servers[1].kill()
    redis_cluster.renew()
    assert [server.cli("DBSIZE") for server in redis_cluster.servers] == [0, 0, 0]


@pytest.mark.parametrize("sentinels", [1, 3])
def test_sentinels_replace_a_master_that_dies(sentinels: int) -> None:
    with RedisSentinel(sentinels=sentinels) as group:
        first = group.master
        with first.client() as client:
            client.set("key", "value")
            assert client.wait(1, 1000) == 1
        first.kill()
        group.wait_for_failover(first)
        assert group.master.cli("GET", "key") == "value"


def test_a_failover_can_be_asked_for() -> None:
    with RedisSentinel() as group:
        first = group.master
        group.failover()
        assert group.master is not first
        assert group.url == f"redis+sentinel://127.0.0.1:{group.sentinels[0].port}/mymaster"
