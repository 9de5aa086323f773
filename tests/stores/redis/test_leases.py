"""Who is alive, as far as this process knows."""

from __future__ import annotations

import pytest

from tests.stores.redis.pieces import Clock
from usersessions.stores.redis.leases import Leases


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def leases(clock: Clock) -> Leases:
    return Leases(clock=clock)


def test_a_lease_is_random_and_not_taken_yet(leases: Leases, clock: Clock) -> None:
    assert leases.is_taken is False
    assert leases.own != Leases(clock=clock).own
    assert leases.mine == (leases.own,)


def test_its_own_lease_is_held_and_known(leases: Leases) -> None:
    assert leases.is_held(leases.own)
    assert not leases.is_lost(leases.own)
    assert leases.unknown([leases.own]) == []


def test_what_is_held_is_known_until_it_would_end_from_when_it_was_asked(
    leases: Leases, clock: Clock
) -> None:
    leases.know(["0a"], {"0a": 15.0}, asked_at=98.0)
    clock.now = 112.9
    assert leases.is_held("0a") and leases.unknown(["0a"]) == []
    clock.now = 113.0
    assert not leases.is_held("0a") and leases.unknown(["0a"]) == ["0a"]
    # It may have been renewed: nobody has said that it is lost.
    assert not leases.is_lost("0a")


def test_what_was_not_found_is_lost_for_ever(leases: Leases, clock: Clock) -> None:
    leases.know(["0a", "0b"], {"0b": 15.0}, asked_at=100.0)
    clock.now += 1e6
    assert leases.is_lost("0a") and leases.unknown(["0a"]) == []
    assert not leases.is_held("0a")


def test_what_was_held_and_is_not_found_any_more_is_lost(leases: Leases) -> None:
    leases.know(["0a"], {"0a": 15.0}, asked_at=100.0)
    leases.know(["0a"], {}, asked_at=101.0)
    assert leases.is_lost("0a") and not leases.is_held("0a")


def test_after_a_break_it_is_not_known_any_more_who_is_held_but_still_who_is_lost(
    leases: Leases,
) -> None:
    leases.know(["0a", "0b"], {"0a": 15.0}, asked_at=100.0)
    leases.doubt()
    assert leases.unknown(["0a", "0b", leases.own]) == ["0a"]
    assert leases.is_lost("0b")


def test_each_unknown_lease_is_asked_for_once(leases: Leases) -> None:
    assert leases.unknown(["0b", "0a", "0b"]) == ["0b", "0a"]


def test_another_lease_leaves_the_former_one_lost(leases: Leases) -> None:
    first = leases.own
    leases.is_taken = True
    assert leases.another() == first
    assert (leases.is_taken, leases.own != first) == (False, True)
    assert leases.is_lost(first) and not leases.is_held(first)
    assert leases.mine == (leases.own, first)


def test_the_last_leases_are_remembered_and_not_all_there_ever_were(leases: Leases) -> None:
    had = [leases.another() for _ in range(100)]
    assert leases.mine[0] == leases.own
    assert list(leases.mine[1:4]) == had[:-4:-1]
    assert len(leases.mine) < 50


def test_what_is_known_is_bounded(leases: Leases) -> None:
    many = [f"{number:x}" for number in range(12_000)]
    leases.know(many, dict.fromkeys(many, 15.0), asked_at=100.0)
    assert leases.is_held(many[-1]) and leases.unknown([many[0]]) == [many[0]]
    leases.know(many, {}, asked_at=100.0)
    assert leases.is_lost(many[-1]) and leases.unknown([many[0]]) == [many[0]]


def test_those_that_are_held_are_given_its_own_first_and_of_very_many_some(
    leases: Leases, clock: Clock
) -> None:
    leases.know(["0a", "0b"], {"0a": 1.0, "0b": 15.0}, asked_at=100.0)
    clock.now = 102.0
    assert leases.held() == [leases.own, "0b"]
    many = [f"{number:x}" for number in range(1000)]
    leases.know(many, dict.fromkeys(many, 15.0), asked_at=102.0)
    assert 50 < len(leases.held()) < 200
