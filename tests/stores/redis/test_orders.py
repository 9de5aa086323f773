"""Doing what the log says, to the sessions that were registered before it was said."""

from __future__ import annotations

import pytest

from tests.stores.redis.pieces import Pieces
from usersessions.models import Disconnect
from usersessions.records import facts_of
from usersessions.stores.base import (
    BlockUser,
    DisconnectUser,
    InvalidateTokens,
    RefreshUser,
    RevokeToken,
)
from usersessions.stores.redis.entries import Entry, EntryId, EvictClients, Mail, Order
from usersessions.stores.redis.line import Call

BLOCK = BlockUser("42", None, timeout=0)
GONE = Disconnect(4001)


@pytest.fixture
def pieces() -> Pieces:
    return Pieces()


def read(pieces: Pieces, number: int, order: Order, **about: object) -> list[Call]:
    """Have an entry read, and those told who are; the calls that are left."""
    entry = Entry(order, **about)  # type: ignore[arg-type]  # as a test says
    effect = pieces.orders.read((number, 0), entry)
    pieces.follow(effect)
    return list(effect.calls)


def told(pieces: Pieces) -> dict[str, int]:
    return {client: disconnect.code for client, disconnect in pieces.told}


def answers(calls: list[Call]) -> list[Mail | None]:
    return [Mail.read(call.arguments[0]) for call in calls if call.name == "mail"]  # type: ignore[arg-type]


# What is done -------------------------------------------------------------------------------------


def test_each_order_tells_whom_it_concerns_and_nobody_twice(pieces: Pieces) -> None:
    for client, user, token in (("c1", "42", "t1"), ("c2", "42", "t2"), ("c3", "43", "t1")):
        pieces.let_in(client, user=user, token_id=token, issued_at=5.0 if client == "c1" else 9.0)
    read(pieces, 1, InvalidateTokens("42", 6.0, None, timeout=0))
    assert told(pieces) == {"c1": 3500}
    read(pieces, 2, RevokeToken("t1", None, timeout=0))
    assert told(pieces) == {"c1": 3500, "c3": 3500}
    read(pieces, 3, BLOCK)
    assert told(pieces) == {"c1": 3500, "c3": 3500, "c2": 3503}
    read(pieces, 4, EvictClients("43", ("c3", "c9")))
    read(pieces, 5, DisconnectUser("42", GONE, timeout=0))
    assert len(pieces.told) == 3


def test_those_that_make_room_are_told_so(pieces: Pieces) -> None:
    pieces.let_in("c1")
    read(pieces, 1, EvictClients("42", ("c1", "c9")))
    assert told(pieces) == {"c1": 3504}


def test_a_disconnect_is_as_wide_as_it_says(pieces: Pieces) -> None:
    for client in ("c1", "c2", "c3"):
        pieces.let_in(client)
    read(pieces, 1, DisconnectUser("42", GONE, client="c1", timeout=0))
    read(pieces, 2, DisconnectUser("42", GONE, whitelist=frozenset(["c2"]), timeout=0))
    assert told(pieces) == {"c1": 4001, "c3": 4001}


def test_an_invalidation_that_says_no_moment_concerns_nobody(pieces: Pieces) -> None:
    pieces.let_in("c1", token_id="t1", issued_at=5.0)
    assert read(pieces, 1, InvalidateTokens("42", None, None, timeout=0)) == []
    assert told(pieces) == {}


def test_a_token_that_only_this_process_knows_of_is_revoked_by_it(pieces: Pieces) -> None:
    pieces.let_in("c1", token_id="t1", issued_at=5.0)
    pieces.let_in("c2", token_id="t2", issued_at=5.0)
    order = DisconnectUser("42", GONE, revoke=True, timeout=0)
    calls = read(pieces, 1, order, revoked=("t1",))
    assert [call.keys for call in calls if call.name == "revoke"] == [("t:{t:t2}",)]
    assert told(pieces) == {"c1": 4001, "c2": 4001}


def test_a_token_that_is_spared_elsewhere_is_spared_here(pieces: Pieces) -> None:
    pieces.let_in("c1", token_id="t1", issued_at=5.0)
    order = DisconnectUser("42", GONE, client="c1", revoke=True, timeout=0)
    assert read(pieces, 1, order, spared=("t1",)) == []
    assert told(pieces) == {}


def test_a_refresh_gives_the_open_ones_another_end(pieces: Pieces) -> None:
    for client in ("c1", "c2"):
        pieces.let_in(client)
    read(pieces, 1, EvictClients("42", ("c2",)))
    calls = read(pieces, 2, RefreshUser("42", None, 2e9), command="7f", mail="0b")
    assert [call.name for call in calls] == ["update", "mail"]
    assert answers(calls) == [Mail("7f", pieces.leases.mine, told=("c1",))]
    records = pieces.node.registry.records("42")
    assert [facts_of(record).expire_at for record in records.values()] == [2e9, None]
    assert pieces.node.registry.next_deadline == 2e9 + 25
    read(pieces, 3, RefreshUser("42", "c2", 1.0))
    read(pieces, 4, RefreshUser("42", "c1", None))
    assert pieces.node.registry.next_deadline is None


# Who answers --------------------------------------------------------------------------------------


def test_who_told_somebody_answers_and_says_when_they_are_gone(pieces: Pieces) -> None:
    pieces.let_in("c1")
    calls = read(pieces, 1, BLOCK, command="7f", mail="0b")
    (call,) = calls
    assert call.keys == ("t:{n}:mail:0b",)
    assert answers(calls) == [Mail("7f", pieces.leases.mine, told=("c1",))]
    read(pieces, 2, BLOCK, command="80", mail="0c")
    gone = pieces.orders.gone("c1")
    assert gone == [
        ("0b", Mail("7f", pieces.leases.mine, gone=("c1",))),
        ("0c", Mail("80", pieces.leases.mine, gone=("c1",))),
    ]
    assert pieces.orders.gone("c1") == []


def test_who_is_named_answers_though_nobody_was_told(pieces: Pieces) -> None:
    own = pieces.leases.own
    about = {"command": "7f", "mail": "0b"}
    assert len(read(pieces, 1, BLOCK, leases=("0a", own), **about)) == 1
    assert len(read(pieces, 2, BLOCK, leases=None, **about)) == 1
    assert read(pieces, 3, BLOCK, leases=("0a",), **about) == []
    pieces.leases.another()
    # By a lease that it had before, too.
    assert len(read(pieces, 4, BLOCK, leases=(own,), **about)) == 1


def test_an_order_that_asks_for_no_answer_gets_none(pieces: Pieces) -> None:
    pieces.let_in("c1")
    assert read(pieces, 1, BLOCK, leases=None) == []
    assert pieces.orders.gone("c1") == []
    assert told(pieces) == {"c1": 3503}


# When ---------------------------------------------------------------------------------------------


def test_an_entry_is_done_once(pieces: Pieces) -> None:
    read(pieces, 5, BLOCK)
    pieces.let_in("c1")
    read(pieces, 5, BLOCK)
    read(pieces, 4, BLOCK)
    assert (told(pieces), pieces.orders.position) == ({}, (5, 0))


def test_an_entry_that_cannot_be_read_is_passed_over(pieces: Pieces) -> None:
    assert pieces.follow(pieces.orders.read((5, 0), None)) == []
    assert pieces.orders.position == (5, 0)


@pytest.mark.parametrize(("since", "is_told"), [((4, 0), True), ((5, 0), False), ((6, 0), False)])
def test_a_session_that_is_younger_than_an_entry_is_not_concerned(
    pieces: Pieces, since: EntryId, is_told: bool
) -> None:
    pieces.let_in("c1", since=since)
    read(pieces, 5, BLOCK)
    assert bool(told(pieces)) == is_told
    read(pieces, 7, BLOCK)
    assert told(pieces) == {"c1": 3503}


def test_what_was_read_before_a_session_was_decided_on_catches_up(pieces: Pieces) -> None:
    pieces.orders.found((3, 0))
    pending = pieces.begin("c1")
    assert read(pieces, 4, BLOCK, command="7f", mail="0b") == []
    assert told(pieces) == {}
    effect = pieces.member.allowed(pending, (3, 0))
    pieces.follow(effect)
    assert told(pieces) == {"c1": 3503}
    assert answers(list(effect.calls)) == [Mail("7f", pieces.leases.mine, told=("c1",))]


def test_what_it_is_younger_than_does_not_catch_up_with_it(pieces: Pieces) -> None:
    pieces.begin("c0")
    pending = pieces.begin("c1")
    read(pieces, 4, BLOCK)
    pieces.follow(pieces.member.allowed(pending, (4, 0)))
    assert told(pieces) == {}


def test_catching_up_concerns_that_session_alone(pieces: Pieces) -> None:
    pieces.let_in("c1", token_id="t1", issued_at=1.0)
    pending = pieces.begin("c2", token_id="t1", issued_at=1.0)
    orders: list[Order] = [
        RefreshUser("42", None, 2e9),
        EvictClients("42", ("c2",)),
        RevokeToken("t1", None, timeout=0),
    ]
    for number, order in enumerate(orders):
        read(pieces, 4 + number, order, command="7f", mail="0b", leases=None)
    assert told(pieces) == {"c1": 3500}
    pieces.told.clear()
    effect = pieces.member.allowed(pending, (3, 0))
    pieces.follow(effect)
    assert [client for client, _ in pieces.told] == ["c2"]
    # Others were answered for already.
    assert [mail.told for mail in answers(list(effect.calls)) if mail] == [("c2",)] * 3


def test_once_all_is_decided_nothing_is_kept_to_catch_up_with(pieces: Pieces) -> None:
    first, second = pieces.begin("c1"), pieces.begin("c2")
    read(pieces, 4, BLOCK)
    pieces.member.refused(first)
    assert pieces.orders.undecided == 1
    pieces.follow(pieces.member.allowed(second, (4, 0)))
    assert pieces.orders.undecided == 0
    pieces.let_in("c3", since=(3, 0))
    assert told(pieces) == {}


def test_reading_begins_where_the_log_was_when_the_lease_was_taken(pieces: Pieces) -> None:
    assert pieces.orders.position == (0, 0)
    pieces.orders.found((7, 1))
    pieces.orders.found((9, 0))
    assert pieces.orders.position == (7, 1)


def test_a_log_that_is_shorter_than_what_was_read_began_anew(pieces: Pieces) -> None:
    pieces.orders.found((7, 0))
    pieces.let_in("c1", since=(9, 0))
    pieces.orders.found((2, 0))
    assert pieces.orders.position == (2, 0)
    # It is older than whatever the new log says.
    read(pieces, 3, BLOCK)
    assert told(pieces) == {"c1": 3503}
