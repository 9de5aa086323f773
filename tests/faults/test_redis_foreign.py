"""What others have put under our keys: it is passed over, said to be there, and left alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.faults.here import (
    AT_ONCE,
    HEALED,
    IN_TIME,
    RENEWAL,
    Here,
    at_most,
    sees,
    sees_all,
)
from tests.redis_servers import RedisServer
from tests.servers import until
from usersessions import Identity, NoSuchSession, StoreUnavailable
from usersessions.stores.redis.values import sealed

SESSIONS = "usersessions:{u:42}"
LEASES = "usersessions:{n}:leases"
ABOUT = "usersessions:{n}:about"
LOG = "usersessions:{n}:log"
LIST = b'{"method":"user_connections","params":{"user":"42"}}'

_HEAD = b"1+ {lease} 0-0 1700000000000000 0\n"
_RECORD = b'{"transport":"sse","protocol":"json"}\n{"connected_at":0}'

FOREIGN: dict[str, bytes] = {
    "nothing": b"",
    "noise": b"\xff\xfe\x00garbage",
    "of a newer version": b'2+ {lease} 5-0 {"connected_at":1}',
    "of a newer state": b"1* {lease} 5-0 1700000000000000 0\n" + sealed(_RECORD),
    "of a newer head": b"1+ {lease} 5-0 1700000000000000 0 0\n" + sealed(_RECORD),
    "head alone": _HEAD,
    "without a checksum": _HEAD + _RECORD,
    "another record": _HEAD + sealed(_RECORD).replace(b"sse", b"SSE"),
    "half a record": _HEAD + sealed(_RECORD)[:-9],
    "facts that are no JSON": _HEAD + _RECORD[:-1],
    "labels of a wrong type": _HEAD + _RECORD[:-1] + b',"labels":[1]}',
}


@pytest.fixture
def nodes(redis_server: RedisServer) -> Iterator[tuple[Here, Here]]:
    with Here(redis_server.url) as one, Here(redis_server.url) as other:
        yield one, other


def lease_of(server: RedisServer) -> bytes:
    """The lease of some node that is there."""
    found = until(lambda: server.cli("ZRANGE", LEASES, 0, 0), what="a lease")
    return str(found[0]).encode()


# Sessions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", FOREIGN)
def test_a_value_that_cannot_be_read_is_passed_over_and_left_alone(
    what: str, redis_server: RedisServer, nodes: tuple[Here, Here]
) -> None:
    """Promises 13 (honest partiality) and 9 (ownership)."""
    one, other = nodes
    own, others = one.open("42"), other.open("42")
    sees_all(other, "42", {own, others})
    value = FOREIGN[what].replace(b"{lease}", lease_of(redis_server))
    redis_server.cli("HSET", SESSIONS, "foreign", value)
    before = redis_server.cli("HGET", SESSIONS, "foreign")
    for node in nodes:
        listed = node.list("42")
        assert (set(listed), listed.partial) == ({own, others}, True)
        answer = json.loads(node.sessions.dispatch(LIST))["result"]
        assert (set(answer["connections"]), answer["partial"]) == ({own, others}, True)
        mine = node.sessions.own(Identity("42")).list()
        assert ({session.client for session in mine}, mine.partial) == ({own, others}, True)
    with pytest.raises(StoreUnavailable):
        one.sessions.own(Identity("42")).end("foreign")
    # It is nobody's to close, and in nobody's way.
    closed = other.sessions.disconnect("42", client=own, timeout=1.0)
    assert (closed.closed, closed.partial) == ((own,), True)
    assert other.sessions.refresh("42") == (others,)
    assert other.sessions.block_user("42", timeout=1.0).closed == (others,)
    assert redis_server.cli("HGET", SESSIONS, "foreign") == before


def test_moments_out_of_reach_are_no_harm(
    redis_server: RedisServer, nodes: tuple[Here, Here]
) -> None:
    """Promise 11 (clock irrelevance): whatever a record says of when it was made."""
    one, _ = nodes
    own = one.open("42")
    redis_server.cli("ZADD", LEASES, 2**53, "0f")
    head = "1+ 0f 0-0 99999999999999999999 99999999999999999999\n"
    record = sealed(_RECORD.replace(b":0}", b":1e308}"))
    redis_server.cli("HSET", SESSIONS, "far", head.encode() + record)
    sees_all(one, "42", {own, "far"})
    assert json.loads(one.sessions.dispatch(LIST))["result"]["connections"]["far"]
    assert [session.client for session in one.sessions.own(Identity("42")).list()] == [own, "far"]
    closed = one.sessions.disconnect("42", timeout=0.2)
    assert (closed.closed, closed.unconfirmed, closed.partial) == ((own,), ("far",), True)


def test_client_ids_that_nobody_gave_out_are_passed_over(
    redis_server: RedisServer, nodes: tuple[Here, Here]
) -> None:
    """Promise 13 (honest partiality): they would break the JSON of the answer."""
    one, _ = nodes
    own = one.open("42")
    value = redis_server.cli("HGET", SESSIONS, own)
    for name in (b'"}', b"", b"\xff", b"x" * 300, b"a b"):
        redis_server.cli("HSET", SESSIONS, name, value)
    listed = one.list("42")
    assert (set(listed), listed.partial) == ({own}, True)
    assert set(json.loads(one.sessions.dispatch(LIST))["result"]["connections"]) == {own}
    assert redis_server.cli("HLEN", SESSIONS) == 6


def test_a_session_of_a_lease_that_nobody_holds_is_nobodys(
    redis_server: RedisServer, nodes: tuple[Here, Here]
) -> None:
    """Promise 2 (bounded removal): no sweeper has to run, and who lists it sweeps it."""
    one, _ = nodes
    own = one.open("42")
    record = redis_server.cli("HGET", SESSIONS, own).partition("\n")[2]
    redis_server.cli("HSET", SESSIONS, "ghost", "1+ 0a 0-0 1 0\n" + record)
    sees_all(one, "42", {own})
    until(lambda: redis_server.cli("HKEYS", SESSIONS) == [own], what="the ghost to be gone")
    with pytest.raises(NoSuchSession):
        one.sessions.own(Identity("42")).end("ghost")


# Keys that are something else -----------------------------------------------------------------


@pytest.mark.parametrize("key", [SESSIONS, f"{SESSIONS}:out", LEASES, ABOUT, LOG])
def test_a_key_that_is_something_else_keeps_nobody_out_and_all_heals_without_it(
    key: str, redis_server: RedisServer, nodes: tuple[Here, Here]
) -> None:
    """Promises 12 (local availability), 13 (honest partiality), 3 (re-assertion)."""
    one, other = nodes
    own, others = one.open("42"), other.open("42")
    alone = one.open("43")
    sees_all(other, "42", {own, others})
    redis_server.cli("DEL", key)
    redis_server.cli("SET", key, "something else")
    with at_most(AT_ONCE):
        made = one.open("42")
    with at_most(AT_ONCE):
        passing = one.open("42")
    with at_most(AT_ONCE):
        one.end(passing)
    deadline = time.monotonic() + 2 * RENEWAL
    while time.monotonic() < deadline:
        for node in nodes:
            with at_most(IN_TIME):
                # Who does not hold the new session cannot know of it before Redis does.
                known = node.whole("42") or {own, others, *node.held("42")}
                assert {own, others, *node.held("42")} <= known <= {own, others, made}
    assert (one.code(own), other.code(others), one.code(made)) == (None, None, None)
    assert redis_server.cli("GET", key) == "something else"
    redis_server.cli("DEL", key)
    for node in nodes:
        sees(node, "42", {own, others, made})
        sees_all(node, "43", {alone})
    assert set(other.sessions.disconnect("42", timeout=HEALED).closed) == {own, others, made}


def test_one_user_whose_key_is_something_else_is_no_harm_to_others(
    redis_server: RedisServer, nodes: tuple[Here, Here]
) -> None:
    """Promise 3 (re-assertion): what is lost of the others is written again all the same."""
    one, other = nodes
    held = {user: one.open(user) for user in ("42", "43", "44")}
    redis_server.cli("SET", SESSIONS, "something else")
    redis_server.cli("DEL", "usersessions:{u:43}")
    for user in ("43", "44"):
        sees(other, user, {held[user]})
    with at_most(IN_TIME), pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        other.list("42")


# The log and the mailboxes --------------------------------------------------------------------


ENTRIES: tuple[str | bytes, ...] = (
    "garbage",
    b"\xff\xfe",
    "[]",
    "{}",
    "null",
    '{"explode":["42"]}',
    '{"block":[]}',
    '{"block":"42"}',
    '{"block":[42]}',
    '{"block":[{"a":1}]}',
    '{"revoke":[7]}',
    '{"evict":["42",7]}',
    '{"evict":["42",[{}]]}',
    '{"refresh":["42",[],"soon"]}',
    '{"refresh":["42",null,{}]}',
    '{"invalidate":["42","then"]}',
    '{"disconnect":{"user":"42"}}',
    '{"disconnect":{"user":"42","code":"x","reason":7,"client":null,"whitelist":[],"labels":{},'
    '"revoke":false,"spared_token":null}}',
    '{"disconnect":{"user":"42","code":3503,"reason":"","client":null,"whitelist":7,"labels":[],'
    '"revoke":false,"spared_token":null}}',
    '{"disconnect":{"user":"43","code":3503,"reason":"","client":null,"whitelist":[[]],"labels":{},'
    '"revoke":0,"spared_token":[]}}',
    '{"block":["43"],"command":7,"mail":{},"leases":7}',
    '{"block":["43"],"command":"x","mail":"' + "y" * 70_000 + '","leases":[7,{}]}',
    '{"block":["43"],"revoked":[7,{}],"spared":{}}',
)


def test_entries_of_the_log_that_cannot_be_read_are_passed_over(
    redis_server: RedisServer,
    nodes: tuple[Here, Here],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Promises 6 (a disconnect is not lost) and 7 (not too wide)."""
    one, other = nodes
    own, others = one.open("42"), other.open("42")
    sees_all(other, "42", {own, others})
    for entry in ENTRIES:
        redis_server.cli("XADD", LOG, "*", "entry", entry)
    redis_server.cli("XADD", LOG, "*", "other", "field")
    made = one.open("44")
    assert other.sessions.disconnect("44", timeout=1.0).closed == (made,)
    assert (one.code(own), other.code(others)) == (None, None)
    for node in nodes:
        sees_all(node, "42", {own, others})
    assert not [one for one in caplog.records if one.exc_info]


MAILS: tuple[str | bytes, ...] = (
    "garbage",
    b"\xff",
    "[]",
    "{}",
    '{"command":7,"leases":7}',
    '{"command":"COMMAND","leases":[{}],"told":7}',
    '{"command":"COMMAND","leases":[[]],"told":[[]],"gone":[{}]}',
    '{"command":[],"leases":["0a"],"gone":["x"]}',
    '{"command":{},"leases":[],"told":[]}',
)


def test_answers_that_cannot_be_read_are_passed_over(
    redis_server: RedisServer,
    nodes: tuple[Here, Here],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Promise 6 (a disconnect is not lost): the answers that can be read are."""
    one, other = nodes
    own = one.open("42")
    others = other.open("43")
    sees_all(other, "42", {own})
    assert other.sessions.disconnect("44").closed == ()
    boxes = [
        f"usersessions:{{n}}:mail:{lease}" for lease in redis_server.cli("ZRANGE", LEASES, 0, -1)
    ]
    assert len(boxes) == 2
    for name in boxes:
        for mail in MAILS:
            redis_server.cli("XADD", name, "*", "mail", mail)
        redis_server.cli("XADD", name, "*", "other", "field")
    assert other.sessions.disconnect("42", timeout=1.0).closed == (own,)
    assert one.sessions.disconnect("43", timeout=1.0).closed == (others,)
    assert not [one for one in caplog.records if one.exc_info]


def test_what_others_say_of_themselves_is_passed_over_if_it_cannot_be_read(
    redis_server: RedisServer, nodes: tuple[Here, Here]
) -> None:
    """Promise 13 (honest partiality): the processes that can be read are listed."""
    one, _ = nodes
    one.open("42")
    for number, about in enumerate(("", "garbage", "[]", "{}", '{"uid":1,"num_clients":"x"}')):
        redis_server.cli("ZADD", LEASES, 2**53, f"0{number}")
        redis_server.cli("HSET", ABOUT, f"0{number}", about)
    redis_server.cli("ZADD", LEASES, 2**53, "not a lease")
    (node,) = one.sessions.info()
    assert node.num_clients == 1
