"""The store itself: its settings, its life and its end, and the engine behind it."""

from __future__ import annotations

import asyncio
import atexit
import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.redis_servers import RedisServer
from tests.servers import until
from tests.stores.redis.pieces import Pieces
from usersessions import RedisStore
from usersessions.errors import ConfigError, MissingExtraError, StoreUnavailable
from usersessions.flows import Reply
from usersessions.models import Disconnect
from usersessions.stores.base import (
    Allowed,
    BlockUser,
    CheckIdentity,
    Closed,
    DisconnectUser,
    Entries,
    ListNodes,
    ListUser,
    Nodes,
    Refused,
    StoreRequest,
)
from usersessions.stores.redis.engine import Engine
from usersessions.stores.redis.link import Command, Link, LinkBroken
from usersessions.stores.redis.link import Refused as LinkRefused
from usersessions.stores.redis.scripts import script

SOON = 5.0
LEASE = 1.2
NOWHERE = "redis://u:secret@127.0.0.1:1/0"
LIST = ListUser("42")


@pytest.fixture
def make(redis_server: RedisServer) -> Iterator[Callable[..., RedisStore]]:
    """Make stores that are closed after the test."""
    stores: list[RedisStore] = []

    def build(url: str = redis_server.url, **settings: Any) -> RedisStore:
        stores.append(RedisStore(url, **{"lease": LEASE, "prefix": "t", **settings}))
        return stores[-1]

    yield build
    for store in stores:
        store.close(timeout=SOON)


def register(store: RedisStore, client: str, told: list[Disconnect], **asked: Any) -> Reply:
    request = Pieces().request(client, connected_at=time.time(), **asked)
    return store.answer(
        type(request)("42", client, request.record, request.facts, told.append, request.limit)
    )


def records(store: RedisStore) -> set[str]:
    entries = store.answer(LIST)
    assert isinstance(entries, Entries)
    return set(entries.records)


def nodes(store: RedisStore) -> set[str]:
    found = store.answer(ListNodes())
    assert isinstance(found, Nodes)
    return {node.uid for node in found.nodes}


def threads() -> list[str]:
    names = ("usersessions-redis", "usersessions-log", "usersessions-tell")
    return sorted(one.name for one in threading.enumerate() if one.name in names)


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"lease": 0.4}, "lease must be from 0.5 to 3600 seconds"),
        ({"lease": 3601}, "lease must be from 0.5 to 3600 seconds"),
        ({"lease": float("inf")}, "lease must be from 0.5 to 3600 seconds"),
        ({"lease": float("nan")}, "lease must be a number of seconds"),
        ({"lease": "15"}, "lease must be a number of seconds"),
        ({"lease": True}, "lease must be a number of seconds"),
        ({"timeout": 0.04}, "timeout must be from 0.05 to 60 seconds"),
        ({"timeout": 61}, "timeout must be from 0.05 to 60 seconds"),
        ({"timeout": None}, "timeout must be a number of seconds"),
        ({"prefix": ""}, "prefix must be"),
    ],
)
def test_a_setting_outside_of_its_bounds_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{problem}"):
        RedisStore(NOWHERE, **settings)


@pytest.mark.parametrize(
    "settings", [{"lease": 0.5, "timeout": 0.05}, {"lease": 3600, "timeout": 60}]
)
def test_the_bounds_themselves_are_good(settings: dict[str, Any]) -> None:
    assert RedisStore(NOWHERE, **settings).node.registry.counts() == (0, 0)


def test_a_store_shows_no_password() -> None:
    store = RedisStore(NOWHERE)
    assert repr(store) == str(store) == "RedisStore('redis')"


def test_a_store_that_is_not_used_starts_nothing() -> None:
    store = RedisStore(NOWHERE)
    store.close(timeout=0)
    assert threads() == []


def test_without_redis_py_the_message_is_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtraError, match=r'pip install "usersessions\[redis\]"'):
        RedisStore(NOWHERE)


def test_a_broken_redis_py_is_not_called_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "redis")
    monkeypatch.setitem(sys.modules, "redis.client", None)
    with pytest.raises(ImportError) as raised:
        RedisStore(NOWHERE)
    assert not isinstance(raised.value, MissingExtraError)


# Requests -----------------------------------------------------------------------------------------


def test_both_faces_of_a_store_answer_the_same(make: Callable[..., RedisStore]) -> None:
    store = make()
    told: list[Disconnect] = []
    assert register(store, "c1", told) == Allowed()
    assert asyncio.run(store.aanswer(LIST)) == store.answer(LIST)
    closed = asyncio.run(store.aanswer(DisconnectUser("42", Disconnect(4001), timeout=0)))
    assert closed in (Closed(unconfirmed=("c1",)), Closed(unconfirmed=("c1",), partial=True))
    until(lambda: told == [Disconnect(4001)], what="c1 to be told")
    assert store.end("42", "c1") is True
    assert store.end("42", "c1") is False


def test_two_stores_see_each_other(make: Callable[..., RedisStore]) -> None:
    one, other = make(), make()
    told: list[Disconnect] = []
    register(one, "c1", told)
    other.join()
    assert records(other) == {"c1"}
    until(lambda: len(nodes(one)) == 2, what="the other node")
    assert nodes(one) == {one.node.id, other.node.id}
    block = BlockUser("42", None, timeout=SOON)
    ended = threading.Thread(
        target=lambda: until(lambda: told, what="a disconnect") and one.end("42", "c1")
    )
    ended.start()
    assert other.answer(block) == Closed(("c1",))
    ended.join()
    assert isinstance(register(one, "c2", told), Refused)


def test_a_client_that_is_heard_of_is_seen_by_others(make: Callable[..., RedisStore]) -> None:
    one, other = make(lease=0.6), make()
    register(one, "c1", [])
    one.touch("42", "c1")

    def seen() -> bool:
        entries = other.answer(LIST)
        return isinstance(entries, Entries) and "c1" in entries.seen

    until(seen, what="news of c1")


def test_where_no_redis_is_it_says_so_in_time_and_names_nothing() -> None:
    store = RedisStore(NOWHERE, timeout=0.3)
    began = time.monotonic()
    for request in (LIST, CheckIdentity("42", None, None), ListNodes()):
        with pytest.raises(StoreUnavailable, match=r"^Redis is not available: ") as raised:
            store.answer(request)
        assert "secret" not in str(raised.value) and "127.0.0.1" not in str(raised.value)
    assert time.monotonic() - began < 3.0
    store.close(timeout=0.3)


def test_what_is_no_request_of_a_store_is_refused(make: Callable[..., RedisStore]) -> None:
    with pytest.raises(TypeError, match="not a request of this store: StoreRequest"):
        make().answer(StoreRequest())
    with pytest.raises(TypeError, match="not a request of this store: StoreRequest"):
        asyncio.run(make().aanswer(StoreRequest()))


# The end ------------------------------------------------------------------------------------------


def test_closing_ends_all_threads_and_leaves_the_others_and_the_store_may_be_used_again(
    make: Callable[..., RedisStore], redis_server: RedisServer
) -> None:
    store, other = make(), make()
    for _ in range(2):
        register(store, "c1", [])
        store.end("42", "c1")
        store.close(timeout=SOON)
        store.close(timeout=SOON)
        assert threads() == []
        assert redis_server.cli("ZCARD", "t:{n}:leases") == 0
        assert redis_server.cli("EXISTS", "t:{u:42}") == 0
    assert records(other) == set()


def test_a_store_that_holds_no_sessions_is_no_node(
    make: Callable[..., RedisStore], redis_server: RedisServer
) -> None:
    store = make()
    store.answer(LIST)
    store.answer(DisconnectUser("42", Disconnect(4001), timeout=0))
    assert nodes(store) == set()
    store.close(timeout=SOON)
    assert redis_server.cli("ZCARD", "t:{n}:leases") == 0


def test_many_threads_may_close_a_store_at_once(make: Callable[..., RedisStore]) -> None:
    store = make()
    register(store, "c1", [])
    closing = [
        threading.Thread(target=store.close, kwargs={"timeout": SOON}, name=f"close-{number}")
        for number in range(8)
    ]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join(SOON)
    assert threads() == []


def test_closing_takes_no_longer_than_it_may_where_redis_hangs(
    make: Callable[..., RedisStore], redis_server: RedisServer
) -> None:
    store = make()
    register(store, "c1", [])
    redis_server.pause()
    began = time.monotonic()
    store.close(timeout=0.2)
    assert time.monotonic() - began < 3.0
    redis_server.resume()
    until(lambda: threads() == [], what="the threads to end")


def test_what_has_ended_is_told_when_the_process_ends(
    make: Callable[..., RedisStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_exit: list[tuple[Callable[..., object], Any]] = []
    monkeypatch.setattr(atexit, "register", lambda act, *given: at_exit.append((act, given)))
    store, other = make(), make()
    register(store, "c1", [])
    assert records(other) == {"c1"}
    store.end("42", "c1")
    (act, given), *_ = at_exit
    # In a forked child, this is not its to close.
    act(given[0], os.getpid() + 1)
    assert "usersessions-log" in threads()
    act(*given)
    assert records(other) == set()
    assert nodes(other) == set()


def test_a_store_that_is_let_go_of_is_not_kept_for_the_end(redis_server: RedisServer) -> None:
    at_exit: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atexit, "register", lambda act, *given: at_exit.append((act, given)))
        store = RedisStore(redis_server.url)
        store.answer(LIST)
        store.close(timeout=SOON)
    kept = weakref.ref(store)
    del store
    gc.collect()
    ((act, given),) = at_exit
    assert kept() is None and given[0]() is None
    act(*given)


def test_many_threads_may_use_a_new_store_at_once(
    make: Callable[..., RedisStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make()
    together = threading.Barrier(8)
    seen: list[set[str]] = []

    def begin(*given: Any, **settings: Any) -> Engine:
        together.wait(SOON)
        return Engine(*given, **settings)

    monkeypatch.setattr("usersessions.stores.redis.store.Engine", begin)
    users = [
        threading.Thread(target=lambda: seen.append(records(store)), name=f"user-{number}")
        for number in range(8)
    ]
    for thread in users:
        thread.start()
    for thread in users:
        thread.join(SOON)
    assert (seen, threads()) == ([set()] * 8, ["usersessions-redis"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_is_another_node_with_threads_and_connections_of_its_own(
    make: Callable[..., RedisStore],
) -> None:
    store = make()
    register(store, "c1", [])
    child = os.fork()
    if not child:
        status = 1
        try:
            assert threads() == [] and store.node.registry.counts() == (0, 0)
            assert register(store, "c2", []) == Allowed()
            assert records(store) == {"c1", "c2"}
            assert len(nodes(store)) == 2
            store.end("42", "c2")
            store.close(timeout=SOON)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert records(store) == {"c1"}
    assert nodes(store) == {store.node.id}


# What is done in the background -------------------------------------------------------------------


class Faulty:
    """A link that fails as a test says, on the way to a real Redis.

    `fails` is asked of each command: what it gives is raised, or is the reply to a command that is
    not sent; None has it sent.
    """

    fails: Callable[[Command], object] = staticmethod(lambda command: None)

    def __init__(self, link: Link) -> None:
        self._link = link

    def exchange(self, commands: Sequence[Command]) -> list[object]:
        replies: list[object] = []
        for command in commands:
            found = Faulty.fails(command)
            if isinstance(found, Exception):
                raise found
            replies.append(found)
        pairs = zip(commands, replies, strict=True)
        real = iter(self._link.exchange([one for one, reply in pairs if reply is None]))
        return [next(real) if reply is None else reply for reply in replies]

    def identity(self) -> bytes:
        return self._link.identity()

    def close(self) -> None:
        self._link.close()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> type[Faulty]:
    """Have all links of new stores fail as `fails` says."""
    from usersessions.stores.redis.link import Target

    link = Target.link
    monkeypatch.setattr(Target, "link", lambda target, **settings: Faulty(link(target, **settings)))
    monkeypatch.setattr(Faulty, "fails", staticmethod(lambda command: None))
    return Faulty


def carries(command: Command, *words: str) -> bool:
    """Whether a command has these words in it; no letter of theirs should be one of a digest's."""
    text = [
        part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in command
    ]
    return all(any(word in part for part in text) for word in words)


def fail_times(number: int, what: object, *words: str) -> Callable[[Command], object]:
    """Fail the first commands that carry these words."""
    left = [what] * number

    def fails(command: Command) -> object:
        return left.pop() if left and carries(command, *words) else None

    return staticmethod(fails)


def test_an_end_that_did_not_reach_redis_is_told_again_at_once(
    make: Callable[..., RedisStore], faulty: type[Faulty]
) -> None:
    store, other = make(lease=60.0), make()
    register(store, "s1", [])
    faulty.fails = fail_times(1, LinkRefused("READONLY"), "s1", "t:{u:42}:end:s1")
    store.end("42", "s1")
    began = time.monotonic()
    until(lambda: records(other) == set(), what="s1 to be gone")
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("what", [LinkRefused("OOM"), LinkBroken("ConnectionError")])
def test_what_others_wait_for_is_sent_again_if_it_fails(
    make: Callable[..., RedisStore], faulty: type[Faulty], what: object
) -> None:
    store, other = make(lease=60.0), make(lease=60.0)
    register(store, "s1", [])
    faulty.fails = fail_times(1, what, '"told"')
    assert other.answer(DisconnectUser("42", Disconnect(4001), timeout=1.0)) == Closed(
        unconfirmed=("s1",)
    )


def test_a_record_that_could_not_be_changed_is_written_again_as_it_is_then(
    make: Callable[..., RedisStore], faulty: type[Faulty]
) -> None:
    from usersessions.stores.base import Reached, RefreshUser

    store, other = make(lease=60.0), make()
    register(store, "s1", [])
    faulty.fails = fail_times(1, LinkRefused("OOM"), "s1", "1999999999")
    assert other.answer(RefreshUser("42", None, 1999999999)) == Reached(("s1",))

    def refreshed() -> bool:
        entries = other.answer(LIST)
        return isinstance(entries, Entries) and b"1999999999" in entries.records["s1"]

    until(refreshed, what="the other record")


def test_sessions_that_did_not_wait_are_written_as_soon_as_redis_answers(
    make: Callable[..., RedisStore], faulty: type[Faulty]
) -> None:
    store, other = make(lease=60.0), make()
    register(store, "s0", [])
    until(lambda: nodes(other), what="the lease")
    faulty.fails = fail_times(2, LinkBroken("TimeoutError"), "s1")
    assert register(store, "s1", []) == Allowed()
    assert register(store, "s2", []) == Allowed()
    until(lambda: records(other) == {"s0", "s1", "s2"}, what="all to be written")


def test_a_session_that_redis_refused_to_write_is_seen_to_at_once(
    make: Callable[..., RedisStore], faulty: type[Faulty]
) -> None:
    store, other = make(lease=60.0), make()
    register(store, "s0", [])
    until(lambda: nodes(other), what="the lease")
    # The call to look at it fails as well, and is made once more.
    faulty.fails = fail_times(2, LinkRefused("OOM"), "s1")
    assert register(store, "s1", []) == Allowed()
    until(lambda: records(other) == {"s0", "s1"}, what="s1 to be written")


LOOK = '{"command":""'
REGISTER, SWEEP = script("register").digest, script("sweep").digest


def test_a_call_to_look_that_fails_is_made_with_the_next_reason(
    make: Callable[..., RedisStore], faulty: type[Faulty]
) -> None:
    store, other = make(lease=60.0), make()
    register(store, "s0", [])
    until(lambda: nodes(other), what="the lease")
    looks: list[Command] = []

    def fails(command: Command) -> object:
        if carries(command, LOOK):
            looks.append(command)
            return LinkRefused("OOM") if len(looks) == 1 else None
        return LinkRefused("OOM") if carries(command, "s1") and len(looks) < 2 else None

    faulty.fails = staticmethod(fails)
    assert register(store, "s1", []) == Allowed()
    until(lambda: looks, what="a call to look")

    def is_called_again() -> bool:
        register(store, f"x{time.monotonic_ns()}", [])
        return len(looks) > 1

    until(is_called_again, what="another call to look")
    until(lambda: "s1" in records(other), what="s1 to be written")


def test_the_reader_is_called_once_however_many_wait_for_it(
    make: Callable[..., RedisStore], faulty: type[Faulty]
) -> None:
    store, other = make(lease=60.0), make()
    register(store, "s0", [])
    until(lambda: nodes(other), what="the lease")
    looks: list[Command] = []

    def fails(command: Command) -> object:
        if carries(command, LOOK):
            looks.append(command)
            # It is on its way, and has not arrived.
            return b"1-0"
        return LinkRefused("OOM") if carries(command, REGISTER) else None

    faulty.fails = staticmethod(fails)
    for client in ("s1", "s2", "s3"):
        assert register(store, client, []) == Allowed()
    until(lambda: looks, what="a call to look")
    assert records(store) == {"s0", "s1", "s2", "s3"}
    assert len(looks) == 1
    faulty.fails = staticmethod(lambda command: None)


def test_what_is_only_tidy_is_not_made_again(
    make: Callable[..., RedisStore], faulty: type[Faulty], redis_server: RedisServer
) -> None:
    store, other = make(), make()
    register(other, "s1", [])
    until(lambda: nodes(store), what="the lease")
    other.close(timeout=SOON)
    register(store, "s0", [])
    tried: list[Command] = []

    def fails(command: Command) -> object:
        if carries(command, SWEEP):
            tried.append(command)
            return LinkRefused("OOM")
        return None

    faulty.fails = staticmethod(fails)
    assert records(store) == {"s0"}
    until(lambda: tried, what="the sweep")
    assert records(store) == {"s0"}
    until(lambda: len(tried) == 2, what="the sweep of the next list")
