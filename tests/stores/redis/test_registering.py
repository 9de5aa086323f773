"""How sessions are let in, with a test in the place of Redis."""

from __future__ import annotations

import pytest

from tests.stores.redis.answerers import FAILED, LATE, OOM, Answered, in_turn
from usersessions.errors import DisconnectCode, InvalidValue, StoreUnavailable
from usersessions.models import SessionLimit
from usersessions.records import facts_of
from usersessions.refusals import Refusal
from usersessions.stores.base import Allowed, Rebind, Refused
from usersessions.stores.redis.entries import EvictClients
from usersessions.stores.redis.line import Answers, Call

OK = Answers(([b"ok", b"5-0"],))


@pytest.fixture
def process() -> Answered:
    return Answered()


@pytest.fixture
def clustered() -> Answered:
    return Answered(in_one_place=False)


def behind(process: Answered) -> list[str]:
    """The clients that have to be written some time."""
    return [client for _, client in process.member.due_writes()]


# Registering --------------------------------------------------------------------------------------


def test_the_first_session_takes_the_lease_and_others_go_at_once(process: Answered) -> None:
    assert process.run(process.request("c1")) == Allowed()
    assert process.run(process.request("c2")) == Allowed()
    assert process.names == ["renew", "register", "register"]
    assert (process.leases.is_taken, process.orders.position) == (True, (5, 0))
    assert (process.held(), process.joined) == (["c1", "c2"], [2, 0])
    assert process.made == []


def test_a_client_id_that_is_held_here_is_refused_without_asking(process: Answered) -> None:
    process.run(process.request("c1"))
    with pytest.raises(InvalidValue, match="client c1 is registered already"):
        process.run(process.request("c1"))
    assert process.names == ["renew", "register"]


def test_a_process_that_stops_refuses_without_asking(process: Answered) -> None:
    process.node.draining = True
    assert process.run(process.request("c1")) == Refused(DisconnectCode.SHUTDOWN)
    assert (process.names, process.joined) == ([], [0, 0])


@pytest.mark.parametrize(
    ("verdict", "refused"),
    [
        (b"blocked", Refused(DisconnectCode.FORCE_DISCONNECT, Refusal.BLOCKED)),
        (b"revoked", Refused(DisconnectCode.INVALID_TOKEN, Refusal.REVOKED)),
        (b"limit", Refused(DisconnectCode.CONNECTION_LIMIT)),
        (b"ended", Refused(DisconnectCode.CONNECTION_CLOSED)),
    ],
)
def test_who_is_refused_is_not_held(process: Answered, verdict: bytes, refused: Refused) -> None:
    process.replies["register"] = [verdict]
    assert process.run(process.request("c1")) == refused
    assert (process.held(), process.orders.undecided, behind(process)) == ([], 0, [])


def test_those_that_have_to_make_room_are_ended_by_the_log(process: Answered) -> None:
    process.replies["register"] = [b"ok", b"5-0", b"c8", b"c9"]
    assert process.run(process.request("c1")) == Allowed()
    assert process.posted().order == EvictClients("42", ("c8", "c9"))


def test_what_is_idle_is_told_before_it_is_decided(process: Answered) -> None:
    process.let_in("c0")
    limit = SessionLimit(2, policy="evict_idle")
    process.run(process.request("c1", limit=limit))
    assert "seen" not in process.names
    process.member.touch("42", "c0")
    process.replies["seen"] = FAILED
    process.run(process.request("c2", limit=limit))
    assert process.names[-2:] == ["seen", "register"]
    process.member.touch("42", "c0")
    process.is_broken = True
    process.run(process.request("c3", limit=limit))
    assert process.names[-2:] == ["seen", "register"]


def test_over_a_broken_way_a_session_is_held_and_written_later(process: Answered) -> None:
    process.is_broken = True
    assert process.run(process.request("c1")) == Allowed()
    assert (process.names, process.held(), behind(process)) == ([], ["c1"], ["c1"])


@pytest.mark.parametrize("reply", [LATE, FAILED, OOM])
def test_where_no_lease_can_be_taken_a_session_is_held_and_written_later(
    process: Answered, reply: object
) -> None:
    process.replies["renew"] = reply
    assert process.run(process.request("c1")) == Allowed()
    assert (process.names, process.held(), behind(process)) == (["renew"], ["c1"], ["c1"])


@pytest.mark.parametrize("reply", [FAILED, OOM])
def test_where_a_write_fails_a_session_is_held_and_written_later(
    process: Answered, reply: object
) -> None:
    process.replies["register"] = reply
    assert process.run(process.request("c1")) == Allowed()
    assert (process.held(), behind(process)) == (["c1"], ["c1"])


def test_where_redis_is_slow_a_session_is_held_and_the_verdict_heard_later(
    process: Answered,
) -> None:
    process.replies["register"] = LATE
    assert process.run(process.request("c1")) == Allowed()
    assert (process.held(), behind(process), process.told) == (["c1"], [], [])
    assert process.late is not None
    process.late(Answers(([b"blocked"],)))
    assert [(client, one.code) for client, one in process.told] == [("c1", 3503)]


def test_a_verdict_that_comes_when_the_time_is_just_over_counts(process: Answered) -> None:
    def just_late(call: Call) -> object:
        assert process.late is not None
        process.late(Answers(([b"limit"],)))
        return LATE

    process.replies["register"] = just_late
    assert process.run(process.request("c1")) == Refused(DisconnectCode.CONNECTION_LIMIT)
    assert process.held() == []


def test_where_it_is_not_known_who_is_alive_that_is_asked_first(process: Answered) -> None:
    process.replies["register"] = in_turn([b"unsure", b"0a", b"0b"], [b"ok", b"5-0"])
    process.replies["nodes"] = process.alive("0b")
    assert process.run(process.request("c1", limit=SessionLimit(1))) == Allowed()
    assert process.names == ["renew", "register", "nodes", "register"]
    *_, held, lost, _ = process.call("register").arguments
    assert lost == "0a" and "0b" in str(held).split()


def test_a_client_id_that_another_process_holds_is_refused(process: Answered) -> None:
    process.replies["register"] = [b"taken", b"0b"]
    process.replies["nodes"] = process.alive("0b")
    with pytest.raises(InvalidValue, match="client c1 is registered already"):
        process.run(process.request("c1"))
    assert (process.held(), process.orders.undecided) == ([], 0)


def test_a_client_id_of_a_process_that_is_gone_is_free(process: Answered) -> None:
    process.replies["register"] = in_turn([b"taken", b"0b"], [b"ok", b"5-0"])
    assert process.run(process.request("c1")) == Allowed()
    assert process.names == ["renew", "register", "nodes", "register"]
    assert process.held() == ["c1"]


@pytest.mark.parametrize("reply", [LATE, FAILED])
def test_where_nobody_says_who_is_alive_a_session_is_held_and_decided_on_later(
    process: Answered, reply: object
) -> None:
    process.replies.update(register=[b"unsure", b"0b"], nodes=reply)
    assert process.run(process.request("c1", limit=SessionLimit(1))) == Allowed()
    assert (process.held(), behind(process)) == (["c1"], ["c1"])
    assert process.member.questions() == []


def test_what_stays_unsure_is_decided_on_later(process: Answered) -> None:
    number = iter(range(100))
    process.replies["register"] = lambda call: [b"unsure", f"0{next(number)}".encode()]
    assert process.run(process.request("c1", limit=SessionLimit(1))) == Allowed()
    assert process.names.count("register") < 10
    assert (process.held(), behind(process)) == (["c1"], ["c1"])


@pytest.mark.parametrize("when", ["renew", "register"])
def test_a_session_that_ends_while_redis_is_asked_is_not_held(process: Answered, when: str) -> None:
    def end(call: Call) -> object:
        process.member.end("42", "c1")
        return [b"ok", b"5-0"]

    process.replies[when] = end
    process.run(process.request("c1"))
    assert (process.held(), behind(process)) == ([], [])


# In a cluster -------------------------------------------------------------------------------------


def test_in_a_cluster_what_other_servers_know_is_asked_first(clustered: Answered) -> None:
    clustered.run(clustered.request("c1", token_id="t1", issued_at=1.0))
    assert clustered.names == ["renew", "last", "EXISTS", "register"]
    assert clustered.call("register").arguments[7] == "5-0"
    clustered.run(clustered.request("c2"))
    assert clustered.names[4:] == ["last", "register"]


def test_in_a_cluster_a_revoked_token_is_refused_without_a_write(clustered: Answered) -> None:
    clustered.replies["EXISTS"] = 1
    refused = clustered.run(clustered.request("c1", token_id="t1", issued_at=1.0))
    assert refused == Refused(DisconnectCode.INVALID_TOKEN, Refusal.REVOKED)
    assert "register" not in clustered.names and clustered.held() == []


@pytest.mark.parametrize("silent", ["last", "EXISTS"])
@pytest.mark.parametrize("reply", [LATE, FAILED])
def test_in_a_cluster_that_does_not_answer_a_session_is_held_and_written_later(
    clustered: Answered, silent: str, reply: object
) -> None:
    clustered.replies[silent] = reply
    asked = clustered.request("c1", token_id="t1", issued_at=1.0)
    assert clustered.run(asked) == Allowed()
    assert (clustered.held(), behind(clustered)) == (["c1"], ["c1"])


# Other tokens -------------------------------------------------------------------------------------

REBIND = Rebind("42", "c1", "t2", 9.0, None, 2e9)


@pytest.fixture(params=[True, False], ids=["in-one-place", "in-a-cluster"])
def holding(request: pytest.FixtureRequest) -> Answered:
    """A process that holds a session."""
    process = Answered(in_one_place=request.param)
    process.run(process.request("c1", token_id="t1", issued_at=1.0))
    return process


def test_a_session_has_another_token_if_redis_takes_it(holding: Answered) -> None:
    assert holding.run(REBIND) == Allowed()
    facts = facts_of(holding.node.registry.records("42")["c1"])
    assert (facts.token_id, facts.issued_at, facts.expire_at) == ("t2", 9.0, 2e9)
    assert (holding.orders.undecided, behind(holding)) == (0, [])


@pytest.mark.parametrize(
    ("verdict", "code"), [(b"blocked", 3503), (b"revoked", 3500), (b"something newer", 3004)]
)
def test_a_token_that_is_kept_out_changes_nothing(
    holding: Answered, verdict: bytes, code: int
) -> None:
    holding.replies["update"] = [verdict]
    refused = holding.run(REBIND)
    assert isinstance(refused, Refused) and refused.code == code
    assert holding.node.registry.of_token("t1") == ["c1"]
    assert holding.orders.undecided == 0


def test_in_a_cluster_a_token_that_is_revoked_is_not_taken(clustered: Answered) -> None:
    clustered.run(clustered.request("c1"))
    clustered.replies["EXISTS"] = 1
    refused = clustered.run(REBIND)
    assert refused == Refused(DisconnectCode.INVALID_TOKEN, Refusal.REVOKED)
    assert "update" not in clustered.names


@pytest.mark.parametrize("reply", [LATE, FAILED, OOM])
def test_where_redis_does_not_say_the_session_goes_on_as_it_is_and_is_written_again(
    holding: Answered, reply: object
) -> None:
    holding.replies["update"] = reply
    with pytest.raises(StoreUnavailable, match="Redis is not available"):
        holding.run(REBIND)
    assert holding.node.registry.of_token("t1") == ["c1"]
    assert (holding.orders.undecided, behind(holding)) == (0, ["c1"])


def test_where_redis_cannot_be_asked_the_session_goes_on_as_it_is(clustered: Answered) -> None:
    clustered.run(clustered.request("c1", token_id="t1", issued_at=1.0))
    clustered.replies["last"] = LATE
    with pytest.raises(StoreUnavailable):
        clustered.run(REBIND)
    assert clustered.node.registry.of_token("t1") == ["c1"]
    assert clustered.orders.undecided == 0


def test_a_session_that_is_gone_takes_no_token(holding: Answered) -> None:
    def end(call: Call) -> object:
        holding.member.end("42", "c1")
        return [b"ok", b"5-0"]

    holding.replies["update"] = end
    assert holding.run(REBIND) == Refused(DisconnectCode.CONNECTION_CLOSED)
    assert holding.run(REBIND) == Refused(DisconnectCode.CONNECTION_CLOSED)
    assert holding.names.count("update") == 1
    assert holding.orders.undecided == 0
