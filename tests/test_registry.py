"""The registry: exact, held to a model step by step, and safe from any thread."""

from __future__ import annotations

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
from usersessions.registry import Registry, connections_json

ENTRY = b'{"transport":"websocket","protocol":"json"}'


def test_a_client_is_listed_from_its_registration_to_its_removal() -> None:
    registry = Registry()
    registry.add("42", "c1", ENTRY, print)
    assert registry.entries("42") == {"c1": ENTRY}
    assert registry.remove("42", "c1")
    assert registry.entries("42") == {}
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
        registry.add("43", "c1", b"{}", print)
    assert registry.entries("42") == {"c1": ENTRY}
    assert registry.entries("43") == {}
    assert registry.counts() == (1, 1)


def test_a_list_is_a_copy_that_later_changes_do_not_reach() -> None:
    registry = Registry()
    registry.add("42", "c1", ENTRY, print)
    listed = registry.entries("42")
    registry.remove("42", "c1")
    assert listed == {"c1": ENTRY}


def test_the_first_disconnect_wins() -> None:
    registry = Registry()
    told: list[Disconnect] = []
    registry.add("42", "c1", ENTRY, told.append)
    assert registry.disconnect("42", Disconnect(4001)) == ["c1"]
    assert registry.disconnect("42", Disconnect(4002)) == []
    assert registry.disconnect_all(Disconnect(4003)) == []
    assert told == [Disconnect(4001)]


def test_a_client_that_was_told_is_listed_until_it_is_removed() -> None:
    registry = Registry()
    registry.add("42", "c1", ENTRY, lambda disconnect: None)
    registry.disconnect("42", Disconnect(4001))
    assert list(registry.entries("42")) == ["c1"]
    assert registry.remove("42", "c1")


def test_a_callback_may_use_the_registry() -> None:
    registry = Registry()
    registry.add("42", "c1", ENTRY, lambda disconnect: _discard(registry.remove("42", "c1")))
    assert registry.disconnect("42", Disconnect(4001)) == ["c1"]
    assert registry.counts() == (0, 0)


def _discard(removed: bool) -> None:
    assert removed


def test_many_threads_leave_exactly_what_they_meant_to() -> None:
    registry = Registry()
    told: list[str] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for turn in range(200):
            client = f"{number}-{turn}"
            registry.add("42", client, ENTRY, lambda disconnect, client=client: told.append(client))
            if turn % 2:
                registry.remove("42", client)
            elif turn % 4 == 0:
                registry.disconnect("42", Disconnect(4001), client=client)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(registry.entries("42")) == registry.counts()[0] == 8 * 100
    assert sorted(told) == sorted(
        f"{number}-{turn}" for number in range(8) for turn in range(0, 200, 4)
    )


def test_connections_json_joins_the_prepared_pieces() -> None:
    assert connections_json({}) == b"{}"
    assert connections_json({"c1": ENTRY, "c2": b"{}"}) == b'{"c1":' + ENTRY + b',"c2":{}}'


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
            held = Held(user, b'{"n":%d}' % self.made)
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

    @rule(user=USERS, disconnect=DISCONNECTS)
    def disconnect_user(self, user: str, disconnect: Disconnect) -> None:
        expected = self._untold(lambda client, held: held.user == user)
        assert self.registry.disconnect(user, disconnect) == expected
        self._told(expected, disconnect)

    @rule(one=clients, user=USERS, disconnect=DISCONNECTS)
    def disconnect_one(self, one: str, user: str, disconnect: Disconnect) -> None:
        expected = self._untold(lambda client, held: client == one and held.user == user)
        assert self.registry.disconnect(user, disconnect, client=one) == expected
        self._told(expected, disconnect)

    @rule(keep=clients, user=USERS, disconnect=DISCONNECTS)
    def disconnect_others(self, keep: str, user: str, disconnect: Disconnect) -> None:
        expected = self._untold(lambda client, held: client != keep and held.user == user)
        assert self.registry.disconnect(user, disconnect, whitelist=[keep]) == expected
        self._told(expected, disconnect)

    @rule(disconnect=DISCONNECTS)
    def disconnect_all(self, disconnect: Disconnect) -> None:
        expected = self._untold(lambda client, held: True)
        assert self.registry.disconnect_all(disconnect) == expected
        self._told(expected, disconnect)

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
            assert self.registry.entries(user) == {
                client: held.entry for client, held in self.model.items() if held.user == user
            }
        assert self.registry.counts() == (len(self.model), len(users))
        for held in self.model.values():
            assert held.told == ([] if held.expected is None else [held.expected])


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=60, stateful_step_count=40)
