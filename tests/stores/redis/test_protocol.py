"""What is answered to each request of a store, with a test in the place of Redis."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from tests.stores.redis.answerers import FAILED, LATE, OOM, Answered
from tests.stores.redis.pieces import NOW
from usersessions.errors import StoreUnavailable
from usersessions.flows import Reply, Request, run
from usersessions.models import Disconnect
from usersessions.node import NodeInfo
from usersessions.refusals import Refusal
from usersessions.stores.base import (
    Allowed,
    CheckIdentity,
    DisconnectUser,
    Entries,
    ListNodes,
    ListUser,
    Nodes,
    Refused,
    StoreRequest,
    UnblockUser,
)
from usersessions.stores.redis.asks import Ask, Pause
from usersessions.stores.redis.line import Answers

LIST = ListUser("42")


@pytest.fixture
def process() -> Answered:
    return Answered()


def listed(process: Answered) -> Entries:
    entries = process.run(LIST)
    assert isinstance(entries, Entries)
    return entries


# Lists --------------------------------------------------------------------------------------------


def test_a_list_has_the_sessions_of_all_processes_oldest_first(process: Answered) -> None:
    process.replies["HGETALL"] = {
        **process.value("c2", lease="0b", at=20),
        **process.value("c1", lease="0a", at=10),
    }
    process.replies["nodes"] = process.alive("0a", "0b")
    entries = listed(process)
    assert (list(entries.records), entries.partial, entries.seen) == (["c1", "c2"], False, {})
    # Who is alive is known for a while, and a list is one trip then.
    listed(process)
    assert process.names == ["HGETALL", "nodes", "HGETALL"]


def test_of_its_own_sessions_a_process_knows_best(process: Answered) -> None:
    own = process.leases.own
    process.let_in("c1", expire_at=2e9)
    process.member.touch("42", "c1")
    process.clock.now += 5
    process.let_in("c3")
    process.replies["HGETALL"] = {
        **process.value("c1", lease=own, at=10),
        **process.value("c2", lease=own, at=20),
    }
    entries = listed(process)
    # One is not written yet, and of another one Redis has not learned that it has ended.
    assert entries.records == process.node.registry.records("42")
    assert list(entries.records) == ["c1", "c3"]
    assert entries.seen == {"c1": NOW}


def test_when_a_client_of_another_process_was_heard_of_is_as_redis_says(process: Answered) -> None:
    value = process.value("c1")[b"c1"].replace(b" 1 0\n", b" 1 1500000\n")
    process.replies["HGETALL"] = {b"c1": value}
    process.replies["nodes"] = process.alive("0b")
    assert listed(process).seen == {"c1": 1.5}


def test_a_session_of_a_process_that_is_gone_is_not_listed(process: Answered) -> None:
    process.replies["HGETALL"] = process.value("c1")
    assert listed(process) == Entries({}, {})
    assert [call.name for call in process.made] == ["sweep"]


def test_a_list_says_that_it_may_not_be_whole(process: Answered) -> None:
    process.leases.is_taken = True
    assert listed(process).partial is False
    process.replies["ZSCORE"] = None
    assert listed(process).partial is True
    process.replies["ZSCORE"] = b"1"
    process.is_doubtful = True
    assert listed(process).partial is True
    process.is_doubtful = False
    process.replies["HGETALL"] = {b"c1": b"2+ something newer"}
    assert listed(process).partial is True


# Who is kept out ----------------------------------------------------------------------------------

CHECK = CheckIdentity("42", "t1", 9.0)
BLOCKED = Refused(3503, Refusal.BLOCKED)  # type: ignore[arg-type]  # equal to the code
REVOKED = Refused(3500, Refusal.REVOKED)  # type: ignore[arg-type]


def test_who_is_kept_out_is_refused(process: Answered) -> None:
    assert process.run(CHECK) == Allowed()
    process.replies["check"] = b"blocked"
    assert process.run(CHECK) == BLOCKED
    process.replies["check"] = b"revoked"
    assert process.run(CHECK) == REVOKED


def test_in_a_cluster_the_mark_of_the_token_is_asked_for_with_it() -> None:
    process = Answered(in_one_place=False)
    assert process.run(CHECK) == Allowed()
    process.replies["EXISTS"] = 1
    assert process.run(CHECK) == REVOKED
    process.replies["check"] = b"blocked"
    process.replies["EXISTS"] = 0
    assert process.run(CHECK) == BLOCKED
    assert process.run(CheckIdentity("42", None, None)) == BLOCKED
    assert process.names == ["check", "EXISTS"] * 3 + ["check"]


def test_a_block_is_lifted(process: Answered) -> None:
    assert process.run(UnblockUser("42")) == Allowed()
    assert process.call("HDEL").keys == ("t:{u:42}:out",)


# Nodes --------------------------------------------------------------------------------------------

INFO = NodeInfo("uid-b", "b_1", "9.9", 3, 2, 60)


def about(info: NodeInfo) -> bytes:
    return json.dumps(asdict(info)).encode()


def test_nodes_are_as_they_say_and_it_itself_as_it_is_now(process: Answered) -> None:
    former = process.leases.another()
    stale = NodeInfo("stale", "stale", "0", 9, 9, 9)
    process.let_in("c1")
    process.replies["nodes"] = [
        *(b"0b", 1500, about(INFO)),
        *(process.leases.own.encode(), 1500, about(stale)),
        *(former.encode(), 1500, about(stale)),
        *(b"0c", 1500, b"garbage"),
        *(b"0d", 1500, b"[]"),
        *(b"0e", 1500, b'{"uid":1,"num_clients":"x"}'),
    ]
    nodes = process.run(ListNodes())
    assert isinstance(nodes, Nodes)
    assert sorted(node.uid for node in nodes.nodes) == sorted(["uid-b", process.node.id])
    assert INFO in nodes.nodes and process.node.info() in nodes.nodes
    assert list(nodes.nodes) == sorted(nodes.nodes, key=lambda node: node.name)


# What is not there --------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [LIST, CHECK, UnblockUser("42"), ListNodes()])
@pytest.mark.parametrize(
    ("reply", "why"),
    [(LATE, "it did not answer in time"), (FAILED, "TimeoutError"), (OOM, "it answered OOM")],
)
def test_where_redis_does_not_answer_that_is_said(
    process: Answered, request_: StoreRequest, reply: object, why: str
) -> None:
    process.replies.update(dict.fromkeys(("HGETALL", "check", "HDEL", "nodes"), reply))
    with pytest.raises(StoreUnavailable, match=f"^Redis is not available: {why}$"):
        process.run(request_)


def test_what_is_no_request_of_a_store_is_refused(process: Answered) -> None:
    with pytest.raises(TypeError, match="not a request of this store: StoreRequest"):
        process.run(StoreRequest())


def test_an_answer_to_something_else_is_a_mistake(process: Answered) -> None:
    def mixed_up(request: Request) -> Reply:
        if isinstance(request, Ask) and request.calls[-1].name != "post":
            return process.answer(request)
        return Allowed() if isinstance(request, Ask) else Answers(())

    with pytest.raises(TypeError, match="expected an outcome, got Allowed"):
        run(process.protocol.answer(DisconnectUser("42", Disconnect(4001), timeout=1)), mixed_up)

    def unpaused(request: Request) -> Reply:
        return Answers(()) if isinstance(request, Pause) else process.answer(request)

    with pytest.raises(TypeError, match="expected the reply Paused, got Answers"):
        run(process.protocol.answer(DisconnectUser("42", Disconnect(4001), timeout=1)), unpaused)
    assert process.waits == {}
