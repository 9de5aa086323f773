"""What 100 000 sessions cost the registry, and what a list costs.

Run it with `python benchmarks/registry.py`. Memory is what Python's allocator was asked for, so it
does not depend on the machine; times are ratios between things timed in turns in this one run.
The time that the sessions add to a full garbage collection is given in ms, and against the same
sessions held as trees of objects, which is what a hand-made dict of sockets holds.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack

from usersessions import ConnectRequest, Disconnect, Identity, UserSessions
from usersessions.models import ConnectionInfo
from usersessions.node import ClientIds
from usersessions.registry import Registry, connections_json

SESSIONS = 100_000
META = {"plan": "pro", "tenant": "acme", "roles": ["admin", "billing"], "seat": 1234567890}
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
        entry = ConnectionInfo.prepare(
            ConnectRequest(client, "websocket"), Identity(user, meta=META)
        )
        registry.add(user, client, entry, connection.close)


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


def megabytes(build: Callable[[], object]) -> tuple[object, float]:
    """What `build` makes, and what it holds in MB."""
    gc.collect()
    tracemalloc.start()
    built = build()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    return built, held


def collection() -> float:
    """Milliseconds that a full collection takes, as a median."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        gc.collect()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def filled(per_user: int) -> Callable[[], Registry]:
    """A builder of a full registry."""

    def build() -> Registry:
        registry = Registry()
        fill(registry, per_user=per_user)
        return registry

    return build


def compare_memory() -> None:
    """Print memory and collection times of the registry and of trees."""
    size = len(json.dumps(META, separators=(",", ":")))
    print(f"{SESSIONS} sessions, {size} bytes of meta, their close callbacks included:")
    before = collection()
    for per_user in (2, 1):
        registry, ours = megabytes(filled(per_user))
        our_pause = collection() - before
        del registry
        held, theirs = megabytes(lambda per_user=per_user: trees(per_user=per_user))  # type: ignore[misc]
        their_pause = collection() - before
        del held
        gc.collect()
        print(
            f"  {per_user} a user: {ours:5.1f} MB and {our_pause:5.1f} ms a collection; "
            f"as trees {theirs:6.1f} MB and {their_pause:6.1f} ms: "
            f"{ours / theirs:.2f} and {our_pause / their_pause:.2f}"
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
        tree = json.loads(connections_json(registry.entries("42")))
        subjects: dict[str, Callable[[], object]] = {
            "json.dumps of the same tree": lambda: json.dumps(tree),
            "joining prepared pieces": lambda: connections_json(registry.entries("42")),
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
    compare_memory()
    compare_lists()
    compare_ids()
