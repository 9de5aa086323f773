"""How sessions are reached on all nodes, with a test in the place of Redis and of the others."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stores.redis.answerers import FAILED, LATE, OOM, Answered
from tests.stores.redis.pieces import NOW
from usersessions.errors import StoreUnavailable
from usersessions.models import Disconnect
from usersessions.stores.base import (
    BlockUser,
    Closed,
    DisconnectUser,
    InvalidateTokens,
    Reached,
    RefreshUser,
    RevokeToken,
    StoreRequest,
)
from usersessions.stores.redis.entries import Mail

GONE = Disconnect(4001)
DISCONNECT = DisconnectUser("42", GONE, timeout=1.0)
REQUESTS: list[StoreRequest] = [
    DISCONNECT,
    BlockUser("42", None, timeout=1.0),
    InvalidateTokens("42", None, None, timeout=1.0),
    RevokeToken("t1", None, timeout=1.0),
    RefreshUser("42", None, 2e9),
]


@pytest.fixture
def process() -> Answered:
    return Answered()


def elsewhere(process: Answered, **asked: Any) -> None:
    """Have two other processes hold two sessions of the user."""
    process.replies["HGETALL"] = {
        **process.value("c2", lease="0b", at=20, **asked),
        **process.value("c1", lease="0a", at=10, **asked),
    }
    process.replies["nodes"] = process.alive("0a", "0b")


def told(lease: str, *clients: str) -> Mail:
    return Mail("", (lease,), told=clients)


def gone(lease: str, *clients: str) -> Mail:
    return Mail("", (lease,), gone=clients)


# Whose sessions end -------------------------------------------------------------------------------


def test_a_disconnect_is_in_the_log_and_waits_for_those_who_hold_the_sessions(
    process: Answered,
) -> None:
    elsewhere(process)
    process.mails = [told("0a", "c1"), gone("0a", "c1"), told("0b", "c2")]
    assert process.run(DISCONNECT) == Closed(("c1",), ("c2",))
    assert process.names == ["HGETALL", "nodes", "mark", "post"]
    entry = process.posted()
    assert entry.order == DisconnectUser("42", GONE, whitelist=frozenset(), timeout=0)
    assert entry.leases is not None and set(entry.leases) == {"0a", "0b"}
    assert (entry.mail, process.waits, process.joined) == ("0e", {}, [0, 1])


def test_whoever_does_not_answer_leaves_it_partial(process: Answered) -> None:
    elsewhere(process)
    process.mails = [told("0a", "c1"), gone("0a", "c1")]
    assert process.run(DISCONNECT) == Closed(("c1",), ("c2",), partial=True)


def test_sessions_that_were_not_listed_but_told_are_named(process: Answered) -> None:
    elsewhere(process)
    process.mails = [told("0a", "c1", "c9"), told("0b"), gone("0a", "c1", "c9")]
    closed = process.run(DISCONNECT)
    assert isinstance(closed, Closed)
    assert (set(closed.closed), closed.unconfirmed) == ({"c1", "c2", "c9"}, ())


def test_where_nobody_is_chosen_others_are_asked_all_the_same(process: Answered) -> None:
    elsewhere(process)
    process.mails = [told("0a"), told("0b")]
    nobody = DisconnectUser("42", GONE, client="c7", timeout=1.0)
    assert process.run(nobody) == Closed()
    assert process.names == ["HGETALL", "nodes", "post"]


def test_tokens_go_with_their_sessions_before_the_log_says_so(process: Answered) -> None:
    elsewhere(process, token_id="t1", issued_at=1.0)
    order = DisconnectUser("42", GONE, client="c1", revoke=True, timeout=1.0)
    process.mails = [told("0a", "c1"), told("0b", "c2"), gone("0a", "c1"), gone("0b", "c2")]
    closed = process.run(order)
    assert isinstance(closed, Closed) and set(closed.closed) == {"c1", "c2"}
    assert process.names == ["HGETALL", "nodes", "revoke", "mark", "post"]
    assert process.posted().revoked == ("t1",)


def test_what_cannot_be_revoked_and_what_is_spared_is_said(process: Answered) -> None:
    process.replies["HGETALL"] = {
        **process.value("c1", lease="0a"),
        **process.value("c2", lease="0a", token_id="t2", issued_at=1.0),
    }
    process.replies["nodes"] = process.alive("0a")
    spares = DisconnectUser("42", GONE, whitelist=frozenset(["c2"]), revoke=True, timeout=1.0)
    closed = process.run(spares)
    assert isinstance(closed, Closed) and closed.not_revocable == ("c1",)
    assert process.posted().spared == ("t2",)


def test_a_block_stands_before_anybody_is_ended(process: Answered) -> None:
    elsewhere(process)
    process.mails = [told("0a", "c1"), told("0b", "c2")]
    closed = process.run(BlockUser("42", None, timeout=1.0))
    assert closed == Closed((), ("c1", "c2")) or closed == Closed((), ("c2", "c1"))
    assert process.names[:2] == ["block", "HGETALL"]


@pytest.mark.parametrize(("before", "said"), [(None, NOW), (7.0, 7.0)])
def test_an_invalidation_says_its_moment_to_all(
    process: Answered, before: float | None, said: float
) -> None:
    process.run(InvalidateTokens("42", before, None, timeout=1.0))
    assert process.names[:2] == ["invalidate", "HGETALL"]
    assert process.posted().order == InvalidateTokens("42", said, None, timeout=0)


def test_a_token_is_looked_for_everywhere(process: Answered) -> None:
    process.replies["nodes"] = process.alive("0a", "0b")
    process.mails = [told("0a", "c1"), gone("0a", "c1")]
    assert process.run(RevokeToken("t1", None, timeout=1.0)) == Closed(("c1",), partial=True)
    assert process.names == ["revoke", "nodes", "post"]
    assert process.posted().leases is None


def test_a_refresh_says_whom_it_reached_oldest_first(process: Answered) -> None:
    elsewhere(process)
    process.mails = [told("0b", "c9", "c2"), told("0a", "c1")]
    assert process.run(RefreshUser("42", None, 2e9)) == Reached(("c1", "c2", "c9"))
    assert process.names == ["HGETALL", "nodes", "post"]


# What is not whole --------------------------------------------------------------------------------


def test_a_session_of_a_process_that_is_gone_is_swept_and_not_waited_for(
    process: Answered,
) -> None:
    elsewhere(process)
    process.replies["nodes"] = process.alive("0b")
    process.mails = [told("0b", "c2"), gone("0b", "c2")]
    assert process.run(DISCONNECT) == Closed(("c2",))
    assert [(call.name, call.arguments) for call in process.made] == [("sweep", ("0a", "c1"))]


def test_of_its_own_former_leases_nothing_is_swept(process: Answered) -> None:
    former = process.leases.another()
    process.replies["HGETALL"] = process.value("c1", lease=former)
    process.mails = [told(former, "c1"), gone(former, "c1")]
    assert process.run(DISCONNECT) == Closed(("c1",))
    assert process.made == []


def test_where_redis_may_know_less_than_there_is_it_is_partial(process: Answered) -> None:
    process.is_doubtful = True
    assert process.run(DISCONNECT) == Closed(partial=True)


def test_a_value_that_cannot_be_read_leaves_it_partial(process: Answered) -> None:
    process.replies["HGETALL"] = {b"c1": b"2+ something newer"}
    assert process.run(DISCONNECT) == Closed(partial=True)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("reply", [LATE, FAILED, OOM])
def test_what_is_not_in_the_log_is_not_done_and_that_is_said(
    process: Answered, request_: StoreRequest, reply: object
) -> None:
    process.replies["post"] = reply
    with pytest.raises(StoreUnavailable, match=r"^Redis is not available: \w+"):
        process.run(request_)
    assert process.waits == {}


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: type(one).__name__)
def test_nothing_is_ended_of_whom_nothing_is_known(
    process: Answered, request_: StoreRequest
) -> None:
    process.replies.update(HGETALL=LATE, nodes=FAILED)
    with pytest.raises(StoreUnavailable):
        process.run(request_)
    assert "post" not in process.names


def test_where_nobody_says_who_is_alive_nothing_is_ended(process: Answered) -> None:
    elsewhere(process)
    process.replies["nodes"] = LATE
    with pytest.raises(StoreUnavailable):
        process.run(DISCONNECT)
    assert "post" not in process.names
