"""What 100 000 sessions cost the registry, and what a list costs.

Run it with `python benchmarks/registry.py`. Memory is what Python's allocator was asked for, so it
does not depend on the machine; times are ratios between things timed in turns in this one run.
What the sessions add to a full garbage collection is the least of many, since all else that the
machine does only adds to it; it is given in ms, and against the same sessions held as trees of
objects, which is what a hand-made dict of sockets holds.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from usersessions import ConnectRequest, Disconnect, Identity, UserSessions
from usersessions.node import ClientIds
from usersessions.records import Facts, prepare
from usersessions.registry import Registry, connections_json

SESSIONS = 100_000
META = {"plan": "pro", "tenant": "acme-2030", "roles": ["admin", "billing"], "seat": 123456789}
ROUNDS = 15


class Connection:
    """Stands for an app's connection; its `close` is what the registry keeps of it."""

    __slots__ = ()

    def close(self, disconnect: Disconnect) -> None:
        """Do nothing."""


def fill(registry: Registry, *, per_user: int) -> None:
    """Register `SESSIONS` sessions, each with a meta and a callback of its own."""
    ids, connection = ClientIds(), Connection()
    for number in range(SESSIONS):
        client, user = ids.draw(), str(1_000_000 + number // per_user)
        request, identity = ConnectRequest(client, "websocket"), Identity(user, meta=META)
        record = prepare(request, identity, Facts(connected_at=1_700_000_000.5))
        registry.add(user, client, record, connection.close)


def trees(*, per_user: int) -> dict[str, dict[str, dict[str, object]]]:
    """The same sessions as a hand-made dict holds them: with `meta` as a tree."""
    ids, connection = ClientIds(), Connection()
    held: dict[str, dict[str, dict[str, object]]] = {}
    for number in range(SESSIONS):
        user = str(1_000_000 + number // per_user)
        held.setdefault(user, {})[ids.draw()] = {
            "transport": "websocket",
            "protocol": "json",
            "meta": json.loads(json.dumps(META)),
            "close": connection.close,
        }
    return held


def filled(per_user: int) -> Callable[[], Registry]:
    """A builder of a full registry."""

    def build() -> Registry:
        registry = Registry()
        fill(registry, per_user=per_user)
        return registry

    return build


def megabytes(build: Callable[[], object]) -> float:
    """What the thing that `build` makes holds, in MB."""
    tracemalloc.start()
    built = build()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] / 1e6
    del built
    return held


def pause(build: Callable[[], object]) -> float:
    """Milliseconds that the thing that `build` makes adds to a full collection."""
    before = collection()
    built = build()
    added = collection() - before
    del built
    return added


def collection() -> float:
    """Milliseconds that a full collection takes at the least."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        gc.collect()
        times.append((time.perf_counter() - start) * 1e3)
    return min(times)


def measure(what: str, which: str, per_user: int) -> float:
    """Measure in a process of its own, whose memory nothing else has been through."""
    command = [sys.executable, __file__, what, which, str(per_user)]
    return float(subprocess.run(command, check=True, capture_output=True).stdout)


def measure_here(what: str, which: str, per_user: int) -> float:
    """Measure in this process."""
    build = filled(per_user) if which == "registry" else partial(trees, per_user=per_user)
    return megabytes(build) if what == "megabytes" else pause(build)


def compare_memory() -> None:
    """Print memory and collection times of the registry and of trees."""
    size = len(json.dumps(META, separators=(",", ":")))
    print(f"{SESSIONS} sessions, {size} bytes of meta, their close callbacks included:")
    for per_user in (2, 1):
        (our_size, our_pause), (their_size, their_pause) = (
            (measure("megabytes", which, per_user), measure("pause", which, per_user))
            for which in ("registry", "trees")
        )
        print(
            f"  {per_user} a user: {our_size:5.1f} MB and {our_pause:5.1f} ms a collection; "
            f"as trees {their_size:6.1f} MB and {their_pause:6.1f} ms: "
            f"{our_size / their_size:.2f} and {our_pause / their_pause:.2f}"
        )


def per_call(function: Callable[[], object], calls: int = 500) -> float:
    """Microseconds a call."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls * 1e6


def compare_lists() -> None:
    """Print what a list of 5 sessions costs, as bytes and through the whole API."""
    sessions = UserSessions()
    command = b'{"method": "user_connections", "params": {"user": "42"}}'
    with ExitStack() as held:
        for _ in range(5):
            identity = Identity("42", meta=META)
            held.enter_context(
                sessions.connect(identity=identity, transport="websocket", app_name="web")
            )
        registry = sessions.operations.node.registry
        tree = json.loads(connections_json(registry.records("42")))
        subjects: dict[str, Callable[[], object]] = {
            "json.dumps of the same tree": lambda: json.dumps(tree),
            "joining prepared pieces": lambda: connections_json(registry.records("42")),
            "the whole of dispatch": lambda: sessions.dispatch(command),
        }
        rounds = [[per_call(subject) for subject in subjects.values()] for _ in range(ROUNDS)]
    medians = [statistics.median(times) for times in zip(*rounds, strict=True)]
    print("A list of 5 sessions as reply bytes:")
    for name, median in zip(subjects, medians, strict=True):
        print(f"  {name}: {median:.1f} us, {median / medians[0]:.2f}")


def compare_ids() -> None:
    """Print what a client ID costs, against `uuid.uuid4`."""
    import uuid

    ids = ClientIds()
    pairs = [
        (per_call(ids.draw, 2560), per_call(lambda: str(uuid.uuid4()), 2560)) for _ in range(ROUNDS)
    ]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"A client ID: {ours:.2f} us, str(uuid.uuid4()) {theirs:.2f} us: {ours / theirs:.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(measure_here(sys.argv[1], sys.argv[2], int(sys.argv[3])))
        sys.exit()
    compare_memory()
    compare_lists()
    compare_ids()
