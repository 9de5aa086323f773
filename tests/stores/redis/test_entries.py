"""What stands in the log and in mailboxes: what is written is read, all else passed over."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stores.redis.pieces import Pieces
from usersessions.models import Disconnect
from usersessions.stores.base import (
    BlockUser,
    DisconnectUser,
    InvalidateTokens,
    RefreshUser,
    RevokeToken,
)
from usersessions.stores.redis.entries import Entry, EvictClients, Mail, Order, entry_id

# What a user calls themselves may be any text, but no lone surrogates.
IDS = st.text(max_size=10)
MOMENTS = st.floats(-(2.0**53), 2.0**53) | st.integers(-(2**53), 2**53)
TEXTS = st.lists(IDS, max_size=3).map(tuple)

ORDERS: st.SearchStrategy[Order] = st.one_of(
    st.builds(
        DisconnectUser,
        IDS,
        st.builds(Disconnect, st.integers(3000, 4999), IDS),
        client=st.none() | IDS,
        whitelist=st.frozensets(IDS, max_size=3),
        labels=st.dictionaries(IDS, IDS, max_size=3),
        revoke=st.booleans(),
        spared_token=st.none() | IDS,
        timeout=st.just(0),
    ),
    st.builds(BlockUser, IDS, st.none(), timeout=st.just(0)),
    st.builds(InvalidateTokens, IDS, MOMENTS, st.none(), timeout=st.just(0)),
    st.builds(RevokeToken, IDS, st.none(), timeout=st.just(0)),
    st.builds(RefreshUser, IDS, st.none() | IDS, st.none() | MOMENTS),
    st.builds(EvictClients, IDS, TEXTS),
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(("42", "c1", "t1", "")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(IDS, inner, max_size=3),
    max_leaves=6,
)

DISCONNECT = {
    "user": "42",
    "code": 3503,
    "reason": "",
    "client": None,
    "whitelist": [],
    "labels": {},
    "revoke": False,
    "spared_token": None,
}


@given(
    order=ORDERS,
    answered=st.none() | st.tuples(st.text(min_size=1, max_size=9), IDS, st.none() | TEXTS),
    revoked=TEXTS,
    spared=TEXTS,
)
def test_every_entry_is_read_as_it_was_written(
    order: Order,
    answered: tuple[str, str, tuple[str, ...] | None] | None,
    revoked: tuple[str, ...],
    spared: tuple[str, ...],
) -> None:
    entry = Entry(order, *(answered or ("", "", ())), revoked, spared)
    assert Entry.read(entry.to_json()) == entry


@given(
    st.builds(Mail, IDS, TEXTS, told=st.none() | TEXTS, gone=TEXTS),
)
def test_every_answer_is_read_as_it_was_written(mail: Mail) -> None:
    assert Mail.read(mail.to_json()) == mail


@given(st.binary())
def test_no_bytes_are_too_strange_to_be_passed_over(data: bytes) -> None:
    assert Entry.read(data) is None
    assert Mail.read(data) is None


@given(
    name=st.sampled_from(("disconnect", "block", "invalidate", "revoke", "refresh", "evict")),
    value=JSON | st.lists(JSON, min_size=1, max_size=3),
    changes=st.dictionaries(st.sampled_from(tuple(DISCONNECT)), JSON, max_size=2),
    more=st.dictionaries(
        st.sampled_from(("command", "mail", "leases", "revoked", "spared", "planet")), JSON
    ),
)
def test_whatever_can_be_read_can_be_done(
    name: str, value: object, changes: dict[str, object], more: dict[str, object]
) -> None:
    pieces = Pieces()
    for client in ("c1", "c2"):
        pieces.let_in(client, token_id="t1", issued_at=1.0)
    members = {name: {**DISCONNECT, **changes} if name == "disconnect" else value, **more}
    entry = Entry.read(json.dumps(members).encode())
    effect = pieces.orders.read((5, 0), entry)
    for call in effect.calls:
        assert call.command()
    assert pieces.orders.position == (5, 0)


@pytest.mark.parametrize(
    "members",
    [
        [],
        {},
        {"explode": ["42"]},
        {"block": "42"},
        {"block": [42]},
        {"block": ["42", "43"]},
        {"revoke": [None]},
        {"invalidate": ["42", "then"]},
        {"invalidate": ["42", True]},
        {"refresh": ["42", None, 10**400]},
        {"refresh": ["42", [], 1]},
        {"evict": ["42", "c1"]},
        {"disconnect": {**DISCONNECT, "code": 1000}},
        {"disconnect": {**DISCONNECT, "user": None}},
        {"disconnect": {**DISCONNECT, "labels": {"app": 1}}},
        {"disconnect": {**DISCONNECT, "whitelist": "c1"}},
        {"disconnect": {"user": "42"}},
        {"block": ["42"], "command": 7},
        {"block": ["42"], "command": "7f", "mail": "0a", "leases": [7]},
        {"block": ["42"], "revoked": "t1"},
    ],
)
def test_an_entry_that_is_not_of_the_form_is_passed_over(members: object) -> None:
    assert Entry.read(json.dumps(members).encode()) is None


@pytest.mark.parametrize(
    "members",
    [
        [],
        {},
        {"command": "7f"},
        {"command": 7, "leases": []},
        {"command": "7f", "leases": "0a"},
        {"command": "7f", "leases": ["0a"], "told": 7},
        {"command": "7f", "leases": ["0a"], "gone": [[]]},
    ],
)
def test_an_answer_that_is_not_of_the_form_is_passed_over(members: object) -> None:
    assert Mail.read(json.dumps(members).encode()) is None


def test_what_a_newer_version_adds_is_no_harm() -> None:
    entry = Entry.read(b'{"block":["42"],"planet":"Mars"}')
    assert entry == Entry(BlockUser("42", None, timeout=0))


def test_tokens_are_not_shown() -> None:
    spared = DisconnectUser("42", Disconnect(4001), spared_token="t-secret", timeout=0)
    shown = repr(Entry(spared, revoked=("t-secret",), spared=("t-secret",)))
    assert "t-secret" not in shown + repr(Entry(RevokeToken("t-secret", None, timeout=0)))


@given(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)))
def test_an_id_is_read_from_text_and_bytes(entry: tuple[int, int]) -> None:
    written = f"{entry[0]}-{entry[1]}"
    assert entry_id(written) == entry_id(written.encode()) == entry


def test_ids_are_ordered_as_the_entries_are() -> None:
    written = ["9-0", "10-0", "10-9", "10-10"]
    assert sorted(written, key=entry_id) == written
    assert entry_id("10") == (10, 0)
