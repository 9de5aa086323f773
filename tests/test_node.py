"""The node: IDs that are never given out twice, not even over a fork."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import uuid
import weakref

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
node.registry.add("42", node.client_ids.draw(), b"{}", print)
parent = os.getpid()
# Held over the fork, as another thread of the parent could hold it.
with node.registry._lock:
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
