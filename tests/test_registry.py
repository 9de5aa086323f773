"""The registry: exact, held to a model step by step, and safe from any thread."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from usersessions.models import Disconnect
from usersessions.records import Facts
from usersessions.registry import Registry, Tell, connections_json, tell_all

WIRE = b'{"transport":"websocket","protocol":"json"}'
ENTRY = WIRE + b'\n{"connected_at":0}'


def test_a_client_is_listed_from_its_registration_to_its_removal() -> None:
    registry = Registry()
    registry.add("42", "c1", ENTRY, print)
    assert registry.records("42") == {"c1": ENTRY}
    assert registry.remove("42", "c1")
    assert registry.records("42") == {}
    assert registry.counts() == (0, 0)


def test_removing_twice_or_under_another_user_changes_nothing() -> None:
    registry = Registry()
    registry.add("42", "c1", ENTRY, print)
    assert not registry.remove("43", "c1")
    assert not registry.remove("42", "c2")
    assert registry.remove("42", "c1")
    assert not registry.remove("42", "c1")


def test_a_client_cannot_be_registered_twice_not_even_by_another_user() -> None:
    registry = Registry()
    registry.add("42", "c1", ENTRY, print)
    with pytest.raises(ValueError, match="c1 is registered already"):
        registry.add("43", "c1", ENTRY, print)
    assert registry.records("42") == {"c1": ENTRY}
    assert registry.records("43") == {}
    assert registry.counts() == (1, 1)


def test_a_list_is_a_copy_that_later_changes_do_not_reach() -> None:
    registry = Registry()
    registry.add("42", "c1", ENTRY, print)
    listed = registry.records("42")
    registry.remove("42", "c1")
    assert listed == {"c1": ENTRY}


def test_a_session_is_told_once() -> None:
    registry = Registry()
    registry.add("42", "c1", ENTRY, print)
    assert registry.take(["c1", "c2"]) == [print]
    assert registry.take(["c1"]) == []


def test_a_client_that_was_told_is_listed_until_it_is_removed_but_is_not_open() -> None:
    registry = Registry()
    registry.add("42", "c1", ENTRY, print)
    registry.take(["c1"])
    assert list(registry.records("42")) == registry.clients() == ["c1"]
    assert registry.open("42") == {}
    assert registry.held(["c1", "c2"]) == {"c1"}
    assert registry.remove("42", "c1")


def test_a_client_is_known_by_its_token_while_it_has_it() -> None:
    registry = Registry()
    of_t1, of_t2 = (b"{}\n" + Facts(0.0, token_id=one).to_json() for one in ("t1", "t2"))
    registry.add("42", "c1", of_t1, print, token_id="t1")
    registry.add("42", "c2", of_t1, print, token_id="t1")
    assert registry.of_token("t1") == ["c1", "c2"]
    registry.replace("42", "c1", of_t2, token_id="t2", deadline=None)
    registry.replace("42", "c3", of_t2, token_id="t2", deadline=None)
    assert (registry.of_token("t1"), registry.of_token("t2")) == (["c2"], ["c1"])
    registry.remove("42", "c1")
    registry.remove("42", "c2")
    assert (registry.of_token("t1"), registry._tokens) == ([], {})


def test_a_meta_that_looks_like_a_token_is_none() -> None:
    registry = Registry()
    registry.add("42", "c1", b'{"meta":{"token_id":"t1"}}\n{"connected_at":0}', print)
    assert registry.remove("42", "c1")


def test_a_client_expires_once_at_its_last_deadline() -> None:
    registry = Registry()
    registry.add("42", "c1", ENTRY, print, deadline=10.0)
    registry.add("42", "c2", ENTRY, print, deadline=20.0)
    registry.replace("42", "c1", ENTRY, token_id=None, deadline=30.0)
    assert registry.next_deadline == 20.0
    assert registry.expired(20.0) == ["c2"]
    assert registry.expired(30.0) == ["c1"]
    assert registry.expired(99.0) == []
    registry.add("42", "c3", ENTRY, print, deadline=40.0)
    registry.remove("42", "c3")
    assert registry.next_deadline is None


def test_a_farewell_is_called_when_its_client_goes_and_may_use_the_registry() -> None:
    registry = Registry()
    registry.add("42", "c1", ENTRY, print)
    registry.add("42", "c2", ENTRY, print)
    counts: list[tuple[int, int]] = []

    def farewell() -> None:
        counts.append(registry.counts())

    assert registry.when_gone(["c1", "c2", "c3"], farewell) == 2
    registry.remove("42", "c1")
    assert counts == [(1, 1)]
    registry.forget_farewell(["c1", "c2"], farewell)
    registry.remove("42", "c2")
    assert counts == [(1, 1)]


def test_of_several_farewells_of_a_client_the_others_are_kept() -> None:
    registry = Registry()
    registry.add("42", "c1", ENTRY, print)
    called: list[int] = []
    first, second = (lambda: called.append(1)), (lambda: called.append(2))
    registry.when_gone(["c1"], first)
    registry.when_gone(["c1"], second)
    registry.forget_farewell(["c1"], first)
    registry.forget_farewell(["c1"], first)
    registry.remove("42", "c1")
    assert called == [2]
    assert registry._farewells == {}


def test_all_are_told_in_their_order_whatever_one_of_them_raises() -> None:
    told: list[int] = []

    def interrupted(disconnect: Disconnect) -> None:
        told.append(2)
        raise KeyboardInterrupt

    tells: list[Tell] = [lambda _: told.append(1), interrupted, lambda _: told.append(3)]
    with pytest.raises(KeyboardInterrupt):
        tell_all(tells, Disconnect(4001))
    assert told == [1, 2, 3]


def test_many_threads_leave_exactly_what_they_meant_to() -> None:
    registry = Registry()
    told: list[str] = []
    start = threading.Barrier(8)

    def note(client: str, disconnect: Disconnect) -> None:
        told.append(client)

    def work(number: int) -> None:
        start.wait()
        for turn in range(200):
            client = f"{number}-{turn}"
            registry.add("42", client, ENTRY, functools.partial(note, client))
            if turn % 2:
                registry.remove("42", client)
            elif turn % 4 == 0:
                for tell in registry.take([client]):
                    tell(Disconnect(4001))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(registry.records("42")) == registry.counts()[0] == 8 * 100
    assert sorted(told) == sorted(
        f"{number}-{turn}" for number in range(8) for turn in range(0, 200, 4)
    )


def test_connections_json_joins_the_prepared_pieces() -> None:
    assert connections_json({}) == b"{}"
    records = {"c1": ENTRY, "c2": b"{}\n{}"}
    assert connections_json(records) == b'{"c1":' + WIRE + b',"c2":{}}'


@dataclass
class Held:
    """What the model knows of a session."""

    user: str
    entry: bytes
    told: list[Disconnect] = field(default_factory=list)
    expected: Disconnect | None = None


USERS = st.sampled_from(["", "42", "43", "ünïcode"])
DISCONNECTS = st.builds(Disconnect, st.integers(3000, 4999))


class RegistryMachine(RuleBasedStateMachine):
    """The registry against the plainest model of it: one flat table."""

    clients: Bundle[str] = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.model: dict[str, Held] = {}
        self.made = 0

    @rule(target=clients, user=USERS, count=st.integers(1, 3))
    def connect(self, user: str, count: int) -> MultipleResults[str]:
        names = []
        for _ in range(count):
            self.made += 1
            client = f"c{self.made}"
            held = Held(user, b'{"n":%d}\n{"connected_at":0}' % self.made)
            self.registry.add(user, client, held.entry, held.told.append)
            self.model[client] = held
            names.append(client)
        return multiple(*names)

    @rule(client=clients, user=USERS)
    def connect_again(self, client: str, user: str) -> None:
        if client in self.model:
            with pytest.raises(ValueError, match="already"):
                self.registry.add(user, client, b"{}", print)

    @rule(client=consumes(clients))
    def end(self, client: str) -> None:
        held = self.model.pop(client)
        assert self.registry.remove(held.user, client)
        assert not self.registry.remove(held.user, client)

    @rule(chosen=st.lists(clients, max_size=4), disconnect=DISCONNECTS)
    def tell(self, chosen: list[str], disconnect: Disconnect) -> None:
        expected = self._untold(lambda client, held: client in chosen)
        for tell in self.registry.take(chosen):
            tell(disconnect)
        self._told(expected, disconnect)

    @rule(user=USERS, disconnect=DISCONNECTS)
    def tell_user(self, user: str, disconnect: Disconnect) -> None:
        expected = self._untold(lambda client, held: held.user == user)
        assert list(self.registry.open(user)) == expected
        for tell in self.registry.take(self.registry.records(user)):
            tell(disconnect)
        self._told(expected, disconnect)

    @rule(client=clients, moment=st.floats(0, 1e9))
    def touch(self, client: str, moment: float) -> None:
        self.registry.touch(client, moment)
        assert self.registry.seen([client]) == ({client: moment} if client in self.model else {})

    def _untold(self, hit: Callable[[str, Held], bool]) -> list[str]:
        return [
            client
            for client, held in self.model.items()
            if held.expected is None and hit(client, held)
        ]

    def _told(self, clients: list[str], disconnect: Disconnect) -> None:
        for client in clients:
            self.model[client].expected = disconnect

    @invariant()
    def lists_and_counts_agree_with_the_model(self) -> None:
        users = {held.user for held in self.model.values()}
        for user in {"", "42", "43", "ünïcode"}:
            assert self.registry.records(user) == {
                client: held.entry for client, held in self.model.items() if held.user == user
            }
        assert self.registry.counts() == (len(self.model), len(users))
        for held in self.model.values():
            assert held.told == ([] if held.expected is None else [held.expected])


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=60, stateful_step_count=40)
