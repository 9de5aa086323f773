"""What a process holds, and what Redis still has to learn of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.stores.redis.pieces import NOW, Pieces
from usersessions.errors import DisconnectCode
from usersessions.records import facts_of, refreshed
from usersessions.refusals import Refusal
from usersessions.stores.base import BlockUser, Refused
from usersessions.stores.redis.entries import Entry, EvictClients, Mail
from usersessions.stores.redis.line import Answers, Call, Failed
from usersessions.stores.redis.member import Pending, refusal, refused_as

OK = Answers(([b"ok", b"5-0"],))
LOST = Failed("TimeoutError")
BLOCK = Entry(BlockUser("42", None, timeout=0), "7f", "0b")


@pytest.fixture
def pieces() -> Pieces:
    return Pieces()


def says(*verdict: bytes) -> Answers:
    return Answers((list(verdict),))


def registration(pieces: Pieces, client: str, user: str = "42") -> dict[str, object]:
    """What the call that writes a session says, by the names that the script gives it."""
    call = pieces.member.registration(user, client, None)
    assert call is not None and call.name == "register"
    names = (
        "client record lease mine new age seen last kept issued most policy begin held lost told"
    )
    return dict(zip(names.split(), call.arguments, strict=True))


def due(pieces: Pieces) -> list[str]:
    """The clients that have to be written, which are taken with it."""
    return [client for _, client in pieces.member.due_writes()]


def provisional(pieces: Pieces, client: str) -> Pending:
    """A session that is held without a verdict."""
    pending = pieces.begin(client)
    pieces.member.registration("42", client, None)
    verdict, effect = pieces.member.hold(pending)
    assert verdict is None and pieces.follow(effect) == []
    return pending


# Registering --------------------------------------------------------------------------------------


def test_a_session_is_held_once_it_is_allowed(pieces: Pieces) -> None:
    pending = pieces.begin("c1")
    assert registration(pieces, "c1")["new"] == "new"
    assert pieces.held() == []
    assert pieces.follow(pieces.member.allowed(pending, (5, 0))) == []
    assert pieces.held() == ["c1"]
    assert (pieces.member.has_due, pieces.member.is_behind, due(pieces)) == (False, False, [])


def test_a_session_that_is_refused_was_never_held(pieces: Pieces) -> None:
    pending = pieces.begin("c1")
    pieces.member.registration("42", "c1", None)
    pieces.member.refused(pending)
    pieces.member.refused(pending)
    assert pieces.member.registration("42", "c1", None) is None
    assert pieces.held() == [] and pieces.orders.undecided == 0
    assert isinstance(pieces.member.begin(pieces.request("c1")), Pending)


def test_a_client_id_is_taken_while_it_is_asked_for_and_while_it_is_held(pieces: Pieces) -> None:
    pending = pieces.begin("c1")
    assert pieces.member.begin(pieces.request("c1", user="43")) is None
    pieces.member.allowed(pending, (0, 0))
    assert pieces.member.begin(pieces.request("c1")) is None


def test_who_is_about_to_stop_takes_nobody(pieces: Pieces) -> None:
    asked = pieces.begin("c1")
    pieces.node.draining = True
    assert pieces.member.begin(pieces.request("c2")) == Refused(DisconnectCode.SHUTDOWN)
    pieces.follow(pieces.member.allowed(asked, (5, 0)))
    assert [(client, one.code) for client, one in pieces.told] == [("c1", 3001)]
    assert pieces.held() == ["c1"]


def test_a_session_that_ended_while_redis_was_asked_is_not_held(pieces: Pieces) -> None:
    pending = pieces.begin("c1")
    pieces.member.registration("42", "c1", None)
    held, calls = pieces.member.end("42", "c1")
    # The call that makes it visible may still arrive.
    assert (held, [call.arguments[2] for call in calls]) == (False, [300_000])
    assert pieces.follow(pieces.member.allowed(pending, (5, 0))) == []
    assert pieces.held() == []
    assert pieces.follow(pieces.member.late(pending, OK)) == []


def test_a_new_session_is_as_old_as_its_writing_and_one_that_was_held_older(
    pieces: Pieces,
) -> None:
    pieces.begin("c1")
    pieces.clock.now += 10
    assert registration(pieces, "c1")["age"] == 0
    pending = pieces.begin("c2", connected_at=NOW)
    pieces.member.hold(pending)
    pieces.member.touch("42", "c2")
    pieces.clock.now += 5
    asked = registration(pieces, "c2")
    assert (asked["age"], asked["seen"], asked["new"]) == (15_000_000, 5_000_000, "new")


def test_a_session_is_written_again_as_it_is_now(pieces: Pieces) -> None:
    pieces.let_in("c1")
    record = refreshed(pieces.node.registry.records("42")["c1"], expire_at=2e9)
    pieces.orders.replace("42", "c1", record)
    pieces.node.registry.take(["c1"])
    asked = registration(pieces, "c1")
    assert (asked["new"], asked["most"], asked["told"]) == ("again", 0, "-")
    assert isinstance(asked["record"], bytes) and record in asked["record"]


def test_without_a_verdict_a_session_is_held_all_the_same_and_hears_it_later(
    pieces: Pieces,
) -> None:
    pending = provisional(pieces, "c1")
    assert pieces.held() == ["c1"] and not pieces.member.is_behind
    # Whatever the log says meanwhile concerns it only if it turns out to be older.
    pieces.follow(pieces.orders.read((6, 0), BLOCK))
    assert pieces.told == []
    assert pieces.follow(pieces.member.late(pending, OK)) == ["mail"]
    assert [client for client, _ in pieces.told] == ["c1"]


def test_a_verdict_that_comes_in_the_last_moment_counts(pieces: Pieces) -> None:
    pending = pieces.begin("c1")
    pieces.member.registration("42", "c1", None)
    assert pieces.follow(pieces.member.late(pending, OK)) == []
    verdict, _ = pieces.member.hold(pending)
    assert verdict == OK and pieces.held() == []


def test_what_was_heard_before_it_was_asked_again_is_no_verdict(pieces: Pieces) -> None:
    pending = pieces.begin("c1")
    pieces.member.registration("42", "c1", None)
    pieces.member.late(pending, says(b"unsure", b"0b"))
    verdict, _ = pieces.member.hold(pending, is_asked=False)
    assert verdict is None and pieces.held() == ["c1"]
    assert due(pieces) == ["c1"]


def test_a_write_that_failed_is_made_again(pieces: Pieces) -> None:
    pending = pieces.begin("c1")
    pieces.member.registration("42", "c1", None)
    pieces.member.late(pending, LOST)
    assert pieces.member.hold(pending)[0] is None
    assert pieces.member.is_behind and due(pieces) == ["c1"]
    assert registration(pieces, "c1")["new"] == "new"
    assert pieces.follow(pieces.member.written("42", "c1", LOST)) == []
    assert due(pieces) == ["c1"]
    assert pieces.follow(pieces.member.written("42", "c1", OK)) == []
    assert due(pieces) == [] and pieces.orders.undecided == 0


@pytest.mark.parametrize(
    ("verdict", "code"),
    [(b"blocked", 3503), (b"revoked", 3500), (b"limit", 3504), (b"ended", 3000)],
)
def test_a_session_that_is_refused_late_is_told_so(
    pieces: Pieces, verdict: bytes, code: int
) -> None:
    pending = provisional(pieces, "c1")
    pieces.follow(pieces.member.late(pending, says(verdict)))
    assert [(client, one.code) for client, one in pieces.told] == [("c1", code)]
    assert pieces.orders.undecided == 0 and due(pieces) == []


def test_a_session_whose_client_id_another_process_holds_is_told_to_come_back(
    pieces: Pieces,
) -> None:
    pieces.leases.know(["0b"], {"0b": 15.0}, asked_at=pieces.monotonic.now)
    pending = provisional(pieces, "c1")
    pieces.follow(pieces.member.late(pending, says(b"taken", b"0b")))
    assert [(client, one.code) for client, one in pieces.told] == [("c1", 3011)]


@pytest.mark.parametrize(("verdict", "code"), [(b"ended", 3000), (b"something newer", 3011)])
def test_a_session_that_redis_will_not_have_again_is_told_so(
    pieces: Pieces, verdict: bytes, code: int
) -> None:
    pieces.let_in("c1")
    pieces.member.write_later("42", "c1")
    assert due(pieces) == ["c1"]
    registration(pieces, "c1")
    pieces.follow(pieces.member.written("42", "c1", says(verdict)))
    assert [(client, one.code) for client, one in pieces.told] == [("c1", code)]
    assert due(pieces) == []


def test_those_that_make_room_late_are_ended_by_the_log(pieces: Pieces) -> None:
    pending = provisional(pieces, "c1")
    assert pieces.follow(pieces.member.late(pending, says(b"ok", b"5-0", b"c8", b"c9"))) == ["post"]
    (call,) = pieces.member.evict("42", ["c8"])
    assert Entry.read(call.arguments[0]) == Entry(EvictClients("42", ("c8",)))  # type: ignore[arg-type]
    assert pieces.member.evict("42", []) == []


@pytest.mark.parametrize("verdict", [b"unsure", b"taken"])
def test_where_it_is_not_known_who_is_alive_it_is_asked_and_then_decided(
    pieces: Pieces, verdict: bytes
) -> None:
    pending = provisional(pieces, "c1")
    pieces.follow(pieces.member.late(pending, says(verdict, b"0b", b"0c")))
    assert pieces.told == []
    assert pieces.member.questions() == ["0b", "0c"]
    pieces.leases.know(["0b", "0c"], {"0b": 9.0}, asked_at=pieces.monotonic.now)
    assert pieces.member.questions() == []
    assert due(pieces) == ["c1"]
    assert registration(pieces, "c1")["lost"] == "0c"
    pieces.follow(pieces.member.written("42", "c1", OK))
    assert registration(pieces, "c1")["lost"] == ""


def test_rivals_are_known_from_the_first_answer_on(pieces: Pieces) -> None:
    pieces.begin("c1")
    pieces.member.rivals("c1", ["0b"])
    pieces.leases.know(["0b"], {}, asked_at=pieces.monotonic.now)
    assert registration(pieces, "c1")["lost"] == "0b"


def test_only_a_session_without_a_verdict_has_a_token_to_check(pieces: Pieces) -> None:
    pending = pieces.begin("c1", token_id="t1", issued_at=1.0)
    assert pieces.member.token_to_check("c1") == "t1"
    pieces.member.allowed(pending, (0, 0))
    assert pieces.member.token_to_check("c1") is None


def test_what_comes_of_writing_a_session_that_is_gone_is_nobodys(pieces: Pieces) -> None:
    pieces.let_in("c1")
    pieces.member.end("42", "c1")
    assert pieces.follow(pieces.member.written("42", "c1", says(b"blocked"))) == []
    pieces.member.write_later("42", "c1")
    assert (pieces.told, due(pieces)) == ([], [])
    assert pieces.member.registration("42", "c1", None) is None


# The lease ----------------------------------------------------------------------------------------


def test_a_lease_that_is_taken_says_how_far_the_log_has_got(pieces: Pieces) -> None:
    pieces.member.joined(pieces.leases.own, (7, 0))
    assert (pieces.leases.is_taken, pieces.orders.position) == (True, (7, 0))


def test_what_is_said_of_a_lease_that_was_given_up_meanwhile_is_nothing(pieces: Pieces) -> None:
    lost = pieces.member.begin_anew()
    pieces.member.joined(lost, (7, 0))
    assert (pieces.leases.is_taken, pieces.orders.position) == (False, (0, 0))


def test_with_another_lease_everything_is_written_again_and_ends_are_forgotten(
    pieces: Pieces,
) -> None:
    pieces.let_in("c1")
    pieces.let_in("c2", user="43")
    pieces.let_in("c3")
    pieces.member.end("42", "c3")
    own = pieces.leases.own
    assert pieces.member.begin_anew() == own
    assert pieces.member.due_ends() == []
    assert sorted(pieces.member.due_writes()) == [("42", "c1"), ("43", "c2")]
    asked = registration(pieces, "c1")
    assert (asked["new"], asked["lease"]) == ("again", pieces.leases.own)
    assert str(asked["mine"]).split() == [pieces.leases.own, own]


def test_what_was_written_under_a_lease_that_was_lost_before_it_was_heard_is_written_again(
    pieces: Pieces,
) -> None:
    pending = pieces.begin("c1")
    pieces.member.registration("42", "c1", None)
    pieces.member.begin_anew()
    pieces.follow(pieces.member.allowed(pending, (5, 0)))
    assert pieces.held() == ["c1"] and due(pieces) == ["c1"]


# Other tokens -------------------------------------------------------------------------------------


def test_a_session_has_another_token_once_redis_has_taken_it(pieces: Pieces) -> None:
    pieces.let_in("c1", token_id="t1", issued_at=1.0)
    record = pieces.member.begin_rebinding("42", "c1")
    assert record is not None
    renewed = refreshed(record, token_id="t2")
    assert pieces.member.rebound("42", "c1", renewed, (5, 0))[0] is True
    assert pieces.node.registry.of_token("t2") == ["c1"]
    assert pieces.node.registry.of_token("t1") == []
    assert pieces.orders.undecided == 0


def test_what_was_said_of_the_new_token_meanwhile_catches_up(pieces: Pieces) -> None:
    pieces.let_in("c1")
    record = pieces.member.begin_rebinding("42", "c1")
    assert record is not None
    pieces.follow(pieces.orders.read((6, 0), replace(BLOCK, order=EvictClients("42", ()))))
    pieces.follow(pieces.orders.read((7, 0), BLOCK))
    assert [client for client, _ in pieces.told] == ["c1"]
    pieces.let_in("c2", since=(7, 0))
    record = pieces.member.begin_rebinding("42", "c2")
    pieces.orders.read((8, 0), Entry(EvictClients("42", ())))
    pieces.follow(pieces.member.rebound("42", "c2", record, (7, 0))[1])
    assert [client for client, _ in pieces.told] == ["c1"]


def test_a_session_that_ends_meanwhile_stays_gone(pieces: Pieces) -> None:
    pieces.let_in("c1")
    record = pieces.member.begin_rebinding("42", "c1")
    pieces.member.end("42", "c1")
    assert pieces.member.rebound("42", "c1", record, (5, 0))[0] is False
    assert pieces.held() == []
    assert pieces.member.begin_rebinding("42", "c1") is None
    assert pieces.orders.undecided == 0


def test_what_redis_has_not_taken_changes_nothing_here(pieces: Pieces) -> None:
    pieces.let_in("c1", token_id="t1", issued_at=1.0)
    pieces.member.begin_rebinding("42", "c1")
    assert pieces.follow(pieces.member.rebound("42", "c1", None, (0, 0))[1]) == []
    assert pieces.node.registry.of_token("t1") == ["c1"]
    assert pieces.orders.undecided == 0


def test_a_session_without_a_verdict_may_have_another_token_and_catches_up_later(
    pieces: Pieces,
) -> None:
    pending = provisional(pieces, "c1")
    record = pieces.member.begin_rebinding("42", "c1")
    assert record is not None
    pieces.orders.read((6, 0), BLOCK)
    renewed = refreshed(record, token_id="t2")
    is_open, effect = pieces.member.rebound("42", "c1", renewed, (5, 0))
    assert (is_open, pieces.follow(effect), pieces.told) == (True, [], [])
    pieces.follow(pieces.member.late(pending, OK))
    assert [client for client, _ in pieces.told] == ["c1"]
    assert facts_of(pieces.node.registry.records("42")["c1"]).token_id == "t2"


# Ends ---------------------------------------------------------------------------------------------


def mark_of(calls: list[Call]) -> list[object]:
    """The milliseconds of the marks that keep ended sessions away."""
    assert {call.name for call in calls} <= {"end"}
    return [call.arguments[2] for call in calls]


def test_an_end_is_told_until_redis_knows(pieces: Pieces) -> None:
    pieces.let_in("c1")
    held, calls = pieces.member.end("42", "c1")
    assert (held, mark_of(calls)) == (True, [0])
    assert pieces.member.has_due and not pieces.member.is_behind
    assert pieces.member.told_of_end("c1", LOST) == []
    ((client, call),) = pieces.member.due_ends()
    assert (client, call.arguments) == ("c1", calls[0].arguments)
    assert pieces.member.told_of_end("c1", Answers((1,))) == []
    assert pieces.member.due_ends() == [] and not pieces.member.has_due
    assert pieces.member.told_of_end("c1", Answers((1,))) == []


def test_who_waits_for_an_end_is_told_once_redis_knows(pieces: Pieces) -> None:
    pieces.let_in("c1")
    pieces.follow(pieces.orders.read((6, 0), BLOCK))
    pieces.member.end("42", "c1")
    (call,) = pieces.member.told_of_end("c1", Answers((1,)))
    assert Mail.read(call.arguments[0]) == Mail("7f", pieces.leases.mine, gone=("c1",))  # type: ignore[arg-type]


def test_a_session_that_nobody_holds_does_not_end(pieces: Pieces) -> None:
    assert pieces.member.end("42", "c1") == (False, [])
    pieces.let_in("c1")
    assert pieces.member.end("43", "c1") == (False, [])
    assert pieces.held() == ["c1"]


def test_a_write_without_a_reply_leaves_a_mark_when_the_session_ends(pieces: Pieces) -> None:
    pending = provisional(pieces, "c1")
    pieces.member.late(pending, LOST)
    _, calls = pieces.member.end("42", "c1")
    assert mark_of(calls) == [300_000]
    assert due(pieces) == []


def test_of_a_session_that_redis_never_heard_of_it_is_told_no_end(pieces: Pieces) -> None:
    pending = pieces.begin("c1")
    pieces.member.hold(pending, is_asked=False)
    assert pieces.member.end("42", "c1") == (True, [])
    assert not pieces.member.has_due


def test_who_waits_for_the_end_of_one_that_redis_never_heard_of_is_told_at_once(
    pieces: Pieces,
) -> None:
    pending = pieces.begin("c1")
    pieces.member.hold(pending, is_asked=False)
    pieces.follow(pieces.orders.read((6, 0), Entry(EvictClients("42", ("c1",)), "7f", "0b")))
    held, calls = pieces.member.end("42", "c1")
    assert (held, [call.name for call in calls]) == (True, ["mail"])


# What Redis still has to learn --------------------------------------------------------------------


def test_what_is_due_is_given_in_parts_of_a_bounded_size(pieces: Pieces) -> None:
    for number in range(600):
        pieces.let_in(f"c{number}", user=str(number % 7))
    pieces.member.begin_anew()
    parts = [due(pieces) for _ in range(4)]
    assert [len(part) for part in parts] == [256, 256, 88, 0]
    assert {client for part in parts for client in part} == set(pieces.held())
    for number in range(600):
        pieces.member.end(str(number % 7), f"c{number}")
    assert len(pieces.member.due_ends()) == 256


def test_news_of_clients_is_given_once_and_in_parts(pieces: Pieces) -> None:
    for number in range(300):
        pieces.let_in(f"c{number}")
        pieces.member.touch("42", f"c{number}")
    pieces.clock.now += 3
    news = [pieces.member.news() for _ in range(3)]
    assert [len(part) for part in news] == [256, 44, 0]
    assert {call.arguments[2] for part in news for call in part} == {3_000_000}


def test_news_of_one_user_is_all_of_it(pieces: Pieces) -> None:
    for client, user in (("c1", "42"), ("c2", "42"), ("c3", "42"), ("c4", "43")):
        pieces.let_in(client, user=user)
    for client, user in (("c1", "42"), ("c2", "42"), ("c4", "43")):
        pieces.member.touch(user, client)
    assert [call.arguments[0] for call in pieces.member.news("42")] == ["c1", "c2"]
    assert [call.arguments[0] for call in pieces.member.news()] == ["c4"]


def test_there_is_no_news_of_who_is_gone_or_never_was(pieces: Pieces) -> None:
    pieces.member.touch("42", "c9")
    pieces.let_in("c1")
    pieces.member.touch("42", "c1")
    pieces.member.end("42", "c1")
    assert pieces.member.news() == []


def test_all_users_have_their_turn_with_the_oldest_session_of_each(pieces: Pieces) -> None:
    assert pieces.member.next_users() == []
    for number in range(200):
        for client in ("a", "b"):
            pieces.let_in(f"{client}{number}", user=str(number))
    first = pieces.member.next_users()
    pieces.let_in("late", user="200")
    pieces.member.end("199", "a199")
    pieces.member.end("199", "b199")
    second = pieces.member.next_users()
    assert [len(first), len(second)] == [128, 71]
    assert first[0] == ("0", "a0")
    assert len({user for user, _ in [*first, *second]}) == 199
    # The next round has those who came meanwhile.
    third = [*pieces.member.next_users(), *pieces.member.next_users()]
    assert ("200", "late") in third


def test_what_redis_lost_of_a_user_is_written_again(pieces: Pieces) -> None:
    for client, user in (("c1", "42"), ("c2", "42"), ("c3", "43")):
        pieces.let_in(client, user=user)
    pieces.member.missing("42")
    assert due(pieces) == ["c1", "c2"]
    assert due(pieces) == []


def test_a_verdict_that_nobody_knows_is_an_error_of_the_server() -> None:
    assert refusal("blocked") == Refused(DisconnectCode.FORCE_DISCONNECT, Refusal.BLOCKED)
    assert refused_as("ok") is None
    assert refusal("something newer") == Refused(DisconnectCode.INTERNAL_SERVER_ERROR)
