"""What a user's hash holds: read if it is of the form, passed over if it is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usersessions.models import ConnectRequest, Identity
from usersessions.records import Facts, facts_of, prepare
from usersessions.stores.redis.values import Held, read_values, sealed

HEAD = b"1+ 0a 5-0 1700000000000000 0\n"
RECORD = b'{"transport":"sse"}\n{"connected_at":0}'
GOOD = HEAD + sealed(RECORD)
TIMES = st.integers(0, 10**17)


def read(value: bytes, client: bytes = b"c1") -> Held | None:
    held, complete = read_values({client: value})
    assert complete == bool(held)
    return held[0] if held else None


@given(
    client=st.from_regex(r"[A-Za-z0-9_.:-]{1,40}", fullmatch=True),
    is_open=st.booleans(),
    lease=st.from_regex(r"[0-9a-f]{1,32}", fullmatch=True),
    at=TIMES,
    seen=TIMES,
    meta=st.none() | st.text() | st.lists(st.integers()),
    token_id=st.none() | st.text(min_size=1, max_size=20),
    expire_at=st.none() | st.floats(0, 2**53),
)
def test_whatever_is_written_is_read(
    client: str,
    is_open: bool,
    lease: str,
    at: int,
    seen: int,
    meta: object,
    token_id: str | None,
    expire_at: float | None,
) -> None:
    facts = Facts(1.5, token_id=token_id, expire_at=expire_at)
    record = prepare(ConnectRequest(client, "sse"), Identity("42", meta=meta), facts)
    line = f"1{'+' if is_open else '-'} {lease} 5-0 {at} {seen}\n"
    held = read(line.encode() + sealed(record), client.encode())
    assert held == Held(client, is_open, lease, at, seen / 1e6 if seen else None, record)
    assert held is not None and facts_of(held.record) == facts


def test_sessions_are_given_oldest_first() -> None:
    values = {
        name: b"1+ 0a 5-0 %d 0\n" % at + sealed(RECORD)
        for name, at in ((b"c3", 30), (b"c1", 4), (b"c2", 20))
    }
    held, complete = read_values(values)
    assert ([one.client for one in held], complete) == (["c1", "c2", "c3"], True)


def test_a_user_without_sessions_is_complete() -> None:
    assert read_values({}) == ([], True)


def test_a_session_shows_nothing_of_its_record() -> None:
    held = read(HEAD + sealed(b'{"transport":"sse","meta":"secret"}\n{"connected_at":0}'))
    assert held is not None and b"secret" in held.record
    assert "secret" not in repr(held)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"garbage",
        GOOD.replace(b"1+", b"2+"),
        GOOD.replace(b"1+", b"1*"),
        GOOD.replace(b"0a", b"0A"),
        GOOD.replace(b"0a", b"a" * 65),
        GOOD.replace(b"5-0", b"5"),
        GOOD.replace(b" 0\n", b" -1\n"),
        GOOD.replace(b" 0\n", b" " + b"9" * 21 + b"\n"),
        GOOD.replace(b"\n", b"", 1),
        HEAD,
        HEAD + RECORD,
    ],
)
def test_a_value_with_another_head_is_passed_over(value: bytes) -> None:
    assert read(value) is None


@given(st.integers(0, len(sealed(RECORD)) - 1), st.integers(1, 255))
def test_a_record_that_is_not_as_it_was_written_is_passed_over(place: int, change: int) -> None:
    value = bytearray(GOOD)
    value[len(HEAD) + place] ^= change
    # The digits of a checksum say the same in upper case, which nobody writes.
    assert read(bytes(value)) is None


def test_a_record_that_was_cut_is_passed_over() -> None:
    assert all(read(GOOD[:end]) is None for end in range(len(GOOD)))


@pytest.mark.parametrize("client", [b"", b"c 1", b'c"1', b"c\n", b"\xff", b"c" * 256])
def test_a_client_id_that_nobody_gives_out_is_passed_over(client: bytes) -> None:
    assert read(GOOD, client) is None


@given(st.dictionaries(st.binary(max_size=8), st.binary() | st.just(GOOD), max_size=3))
def test_no_bytes_are_too_strange_to_be_read(values: dict[bytes, bytes]) -> None:
    held, complete = read_values(values)
    assert complete == (len(held) == len(values))


@given(st.binary())
def test_what_stands_after_a_good_head_may_be_anything(rest: bytes) -> None:
    assert read(HEAD + rest) is None
    held = read(HEAD + sealed(rest))
    assert held is not None and held.record == rest
