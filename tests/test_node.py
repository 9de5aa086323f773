"""The node: IDs that are never given out twice, not even over a fork."""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
import threading
import uuid
import weakref

import pytest

from usersessions import node as node_module
from usersessions.errors import InvalidValue
from usersessions.models import Disconnect
from usersessions.node import ClientIds, Node


def test_client_ids_are_random_uuids_of_version_4() -> None:
    ids = ClientIds()
    drawn = [uuid.UUID(ids.draw()) for _ in range(600)]
    assert {(one.version, one.variant) for one in drawn} == {(4, uuid.RFC_4122)}
    assert len(set(drawn)) == 600


def test_threads_never_draw_the_same_client_id() -> None:
    ids = ClientIds()
    drawn: list[str] = []

    def work() -> None:
        drawn.extend([ids.draw() for _ in range(2000)])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == 16000


FORK = """
import os, sys
from usersessions.node import Node

node = Node()
node.registry.add("42", node.client_ids.draw(), b"{}\\n{}", print)
parent = os.getpid()
# Held over the fork, as another thread of the parent could hold it.
with node.lock, node.registry._lock:
    child = os.fork()
    if child == 0:
        print(node.id, node.client_ids.draw(), *node.registry.counts(), flush=True)
        os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(node.id, node.client_ids.draw(), *node.registry.counts())
"""


def test_a_forked_child_is_another_node_with_nothing_of_its_parent() -> None:
    # In a process of its own: forking one that has threads is deprecated.
    output = subprocess.run(
        [sys.executable, "-c", FORK], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    child, parent = (line.split() for line in output.splitlines())
    assert child[0] != parent[0]
    assert child[1] != parent[1]
    assert (child[2:], parent[2:]) == (["0", "0"], ["1", "1"])


def test_a_node_is_forgotten_when_nobody_holds_it() -> None:
    node = weakref.ref(Node())
    gc.collect()
    assert node() is None


def test_a_system_without_forks_needs_no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    node_module._watch_forks.__wrapped__()


def test_draining_ends_few_sessions_at_once_and_waits_for_them() -> None:
    node = Node()
    told: list[Disconnect] = []
    node.registry.add("42", "c1", b"{}\n{}", told.append)
    pauses = node.drain(1.0)
    waited = next(pauses)
    assert node.draining
    assert told == [Disconnect(3001, "shutdown")]
    node.registry.remove("42", "c1")
    assert list(pauses) == []
    assert waited < 0.1


def test_draining_waits_no_longer_than_it_may() -> None:
    node = Node()
    node.registry.add("42", "c1", b"{}\n{}", lambda disconnect: None)
    assert sum(node.drain(1.0)) == pytest.approx(1.0)
    assert list(node.drain(0.0)) == []


@pytest.mark.parametrize("timeout", [0, -1.0, -math.inf, 5e-324, 0.01])
def test_draining_in_no_time_ends_all_at_once_and_waits_for_nobody(timeout: float) -> None:
    node = Node()
    told: list[Disconnect] = []
    for number in range(1000):
        node.registry.add("42", f"c{number}", b"{}\n{}", told.append)
    assert sum(node.drain(timeout)) <= 0.01
    assert len(told) == 1000


@pytest.mark.parametrize(
    "timeout", [math.inf, 1e308, 10**400, 86400], ids=lambda one: f"{len(str(one))} digits"
)
def test_draining_may_take_for_ever_and_ends_when_all_are_gone(timeout: float) -> None:
    node = Node()

    def add(client: str) -> None:
        def leave(told: Disconnect) -> None:
            node.registry.remove("42", client)

        node.registry.add("42", client, b"{}\n{}", leave)

    for number in range(250):
        add(f"c{number}")
    assert list(node.drain(timeout)) == [0.1, 0.1]
    assert node.registry.counts() == (0, 0)


@pytest.mark.parametrize("timeout", [math.nan, "5", None, True])
def test_a_time_to_drain_that_is_no_time_is_refused_and_drains_nobody(timeout: float) -> None:
    node = Node()
    with pytest.raises(InvalidValue, match="timeout must be a number of seconds"):
        list(node.drain(timeout))
    assert not node.draining


def test_what_a_close_raises_keeps_no_other_from_being_told() -> None:
    for how in ("expire", "drain"):
        node = Node(lambda: 0.0)
        told: list[Disconnect] = []

        def close(disconnect: Disconnect) -> None:
            raise KeyboardInterrupt

        for client, tell in (("c1", told.append), ("c2", close), ("c3", told.append)):
            node.registry.add("42", client, b"{}\n{}", tell, deadline=0.0)
        with pytest.raises(KeyboardInterrupt):
            node.expire() if how == "expire" else list(node.drain(0))
        assert len(told) == 2, how


def test_draining_spreads_many_sessions_over_the_time_given() -> None:
    node = Node()
    told: list[Disconnect] = []
    for number in range(1000):
        node.registry.add("42", f"c{number}", b"{}\n{}", told.append)
    ends: list[int] = []
    waited = 0.0
    for pause in node.drain(1.0):
        ends.append(len(told))
        waited += pause
    assert ends[:8] == [125, 250, 375, 500, 625, 750, 875, 1000]
    assert waited == pytest.approx(1.0, abs=0.02)


def test_a_session_is_told_when_its_time_is_up_and_not_before() -> None:
    now = 0.0
    node = Node(lambda: now)
    told: list[Disconnect] = []
    node.registry.add("42", "c1", b"{}\n{}", told.append, deadline=10.0)
    now = 9.9
    node.expire()
    assert told == []
    now = 10.0
    node.expire()
    node.expire()
    assert told == [Disconnect(3005, "connection expired")]
