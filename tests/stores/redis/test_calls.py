"""The calls, and what the scripts behind them do in a real Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis.crc import key_slot

from tests.redis_servers import RedisServer
from tests.stores.redis.pieces import Pieces, every_call
from usersessions.models import SessionLimit
from usersessions.refusals import KEPT_SECONDS
from usersessions.stores.redis.calls import Calls
from usersessions.stores.redis.entries import Entry, EvictClients, Mail, entry_id
from usersessions.stores.redis.keys import ENDED_SECONDS, SESSIONS_SECONDS
from usersessions.stores.redis.line import Call, exchange
from usersessions.stores.redis.link import Link, Refused, parse_url
from usersessions.stores.redis.replies import nodes, pairs, text, verdict
from usersessions.stores.redis.values import Held, read_values

ALLOWED = ("ok", ["0-0"])


class Process(Pieces):
    """A process that makes its calls at a real Redis, one after another."""

    def __init__(self, link: Link, **settings: Any) -> None:
        super().__init__(**settings)
        self.link = link
        # The scripts go by the server's clock.
        self.clock.now = time.time()
        self.monotonic.now = time.monotonic()

    def make(self, call: Call) -> object:
        (reply,) = exchange(self.link, [call])
        assert not isinstance(reply, Refused), reply
        return reply

    def says(self, call: Call) -> tuple[str, list[str]]:
        return verdict(self.make(call))

    def register(self, client: str, **asked: Any) -> tuple[str, list[str]]:
        """Register a session as it is asked in `registration`."""
        return self.says(self.registration(client, **asked))

    def registration(
        self,
        client: str,
        *,
        is_new: bool = True,
        is_told: bool = False,
        age: float = 0.0,
        unheard: float | None = None,
        lost: tuple[str, ...] = (),
        **asked: Any,
    ) -> Call:
        request = self.request(client, **{"connected_at": self.clock.now, **asked})
        self.leases.know(lost, {}, asked_at=time.monotonic())
        return self.calls.register(
            request.user,
            client,
            request.record,
            request.facts,
            is_new=is_new,
            is_told=is_told,
            limit=request.limit,
            age=age,
            unheard=unheard,
            rivals=lost,
            last=None,
        )

    def listed(self, user: str = "42") -> dict[str, Held]:
        held, complete = read_values(pairs(self.make(self.calls.list_user(user))))
        assert complete
        return {one.client: one for one in held}

    def checked(self, **asked: Any) -> str:
        question: dict[str, Any] = {"user": "42", "token_id": None, "issued_at": None, **asked}
        (call,) = self.calls.check(*question.values())
        return text(self.make(call))

    def knows(self, other: Process) -> None:
        """Have this process know that another one is alive."""
        self.leases.know([other.leases.own], {other.leases.own: 60.0}, asked_at=time.monotonic())

    def take(self, *, seconds: float = 60.0, about: bytes = b"{}", give_up: str = "") -> str:
        """Take or renew the lease; what came of it."""
        said, _ = self.says(self.calls.renew(int(seconds * 1000), about, give_up=give_up))
        self.leases.is_taken = said == "ok"
        return said


@pytest.fixture
def link(redis_server: RedisServer) -> Iterator[Link]:
    link = parse_url(redis_server.url).link(timeout=5.0)
    yield link
    link.close()


@pytest.fixture
def one(link: Link) -> Process:
    return Process(link)


@pytest.fixture
def other(link: Link) -> Process:
    return Process(link)


# Sessions -----------------------------------------------------------------------------------------


def test_a_session_is_listed_until_it_ends(one: Process, redis_server: RedisServer) -> None:
    assert one.register("c1") == ALLOWED
    assert one.register("c2", age=60.0, unheard=20.0) == ALLOWED
    listed = one.listed()
    now = time.time()
    assert list(listed) == ["c2", "c1"]
    assert listed["c1"].record == one.request("c1", connected_at=one.clock.now).record
    assert (listed["c1"].lease, listed["c1"].is_open) == (one.leases.own, True)
    assert listed["c1"].at / 1e6 == pytest.approx(now, abs=5)
    assert listed["c1"].seen is None
    assert listed["c2"].at / 1e6 == pytest.approx(now - 60, abs=5)
    assert listed["c2"].seen == pytest.approx(now - 20, abs=5)
    assert 0 < redis_server.cli("TTL", "t:{u:42}") <= SESSIONS_SECONDS
    one.make(one.calls.end("42", "c1", in_doubt=False))
    assert list(one.listed()) == ["c2"]
    assert redis_server.cli("EXISTS", "t:{u:42}:end:c1") == 0


def test_a_session_that_ended_in_doubt_is_not_brought_back(
    one: Process, redis_server: RedisServer
) -> None:
    one.make(one.calls.end("42", "c1", in_doubt=True))
    assert one.register("c1") == ("ended", [])
    assert one.register("c1", is_new=False) == ("ended", [])
    assert one.listed() == {}
    assert 0 < redis_server.cli("TTL", "t:{u:42}:end:c1") <= ENDED_SECONDS


def test_a_session_is_written_by_its_own_process_alone(one: Process, other: Process) -> None:
    one.register("c1")
    assert other.register("c1") == ("taken", [one.leases.own])
    other.make(other.calls.end("42", "c1", in_doubt=False))
    other.make(other.calls.update("42", "c1", b"{}\n{}"))
    other.make(other.calls.seen("42", "c1", ago=1.0))
    assert other.listed()["c1"].lease == one.leases.own
    assert other.listed()["c1"].seen is None


def test_a_session_of_a_lost_lease_may_be_taken_over(one: Process, other: Process) -> None:
    one.register("c1")
    assert other.register("c1", lost=(one.leases.own,)) == ALLOWED
    assert other.listed()["c1"].lease == other.leases.own


def test_what_was_written_under_a_former_lease_is_its_own(one: Process) -> None:
    one.register("c1")
    one.leases.another()
    assert one.register("c1", is_new=False, is_told=True) == ALLOWED
    listed = one.listed()["c1"]
    assert (listed.lease, listed.is_open) == (one.leases.own, False)
    one.leases.another()
    one.make(one.calls.end("42", "c1", in_doubt=False))
    assert one.listed() == {}


def test_a_registration_that_is_asked_again_is_as_old_as_the_first_one(one: Process) -> None:
    first = one.make(one.calls.post(Entry(EvictClients("43", ()))))
    assert one.register("c1") == ("ok", [text(first)])
    one.make(one.calls.post(Entry(EvictClients("43", ()))))
    assert one.register("c1") == ("ok", [text(first)])


def test_a_session_may_have_another_record(one: Process) -> None:
    one.register("c1", unheard=9.0)
    before = one.listed()["c1"]
    changed = one.request("c1", expire_at=1.0).record
    assert one.says(one.calls.update("42", "c1", changed)) == ALLOWED
    after = one.listed()["c1"]
    assert after.record == changed != before.record
    assert (after.at, after.seen, after.lease) == (before.at, before.seen, before.lease)
    assert one.says(one.calls.update("42", "c2", changed)) == ALLOWED
    assert list(one.listed()) == ["c1"]


def test_a_client_that_is_heard_of_is_seen(one: Process) -> None:
    one.register("c1")
    record = one.listed()["c1"].record
    one.make(one.calls.seen("42", "c1", ago=30.0))
    one.make(one.calls.seen("42", "c2", ago=30.0))
    listed = one.listed()
    assert listed["c1"].seen == pytest.approx(time.time() - 30, abs=5)
    assert (listed["c1"].record, list(listed)) == (record, ["c1"])


def test_sessions_that_were_told_are_marked_once(one: Process) -> None:
    one.register("c1")
    one.register("c2")
    for _ in range(2):
        one.make(one.calls.mark("42", ["c1", "c3"]))
    listed = one.listed()
    assert {client: held.is_open for client, held in listed.items()} == {"c1": False, "c2": True}


def test_what_is_under_a_lost_lease_is_swept_and_nothing_else(one: Process, other: Process) -> None:
    one.register("c1")
    other.register("c2")
    one.make(one.calls.sweep("42", ["c1", "c2", "c3"], [other.leases.own]))
    assert list(one.listed()) == ["c1"]


def test_users_are_kept_for_longer_and_those_who_lost_a_session_are_named(
    one: Process, redis_server: RedisServer
) -> None:
    one.register("c1")
    redis_server.cli("EXPIRE", "t:{u:42}", 10)
    redis_server.cli("SET", "t:{u:44}", "something else")
    (call,) = one.calls.touch([("42", "c1"), ("43", "c2"), ("44", "c3"), ("42", "c4")])
    assert one.make(call) == [2, 4]
    assert redis_server.cli("TTL", "t:{u:42}") > 10
    assert one.calls.touch([]) == []


# Limits -------------------------------------------------------------------------------------------


def test_one_too_many_is_refused(one: Process) -> None:
    limit = SessionLimit(2)
    assert one.register("c1", limit=limit) == one.register("c2", limit=limit) == ALLOWED
    assert one.register("c3", limit=limit) == ("limit", [])
    # It is there already: asked again, the answer is the same.
    assert one.register("c2", limit=limit) == ALLOWED
    assert one.register("c3", limit=limit, is_new=False) == ALLOWED


def test_those_that_were_told_to_end_do_not_count(one: Process) -> None:
    one.register("c1")
    one.make(one.calls.mark("42", ["c1"]))
    assert one.register("c2", limit=SessionLimit(1)) == ALLOWED


def test_the_oldest_make_room_and_are_named_to_whoever_asks_again(one: Process) -> None:
    limit = SessionLimit(2, policy="evict_oldest")
    for client, age in (("c1", 10.0), ("c2", 30.0), ("c3", 20.0)):
        one.register(client, age=age)
    assert one.register("c4", limit=limit) == ("ok", ["0-0", "c2", "c3"])
    listed = one.listed()
    assert {client for client, held in listed.items() if held.is_open} == {"c1", "c4"}
    # Its answer may have been lost, and with it who has to go.
    said, (since, *told) = one.register("c4", limit=limit)
    assert (said, since, sorted(told)) == ("ok", "0-0", ["c2", "c3"])


def test_the_idlest_make_room(one: Process) -> None:
    limit = SessionLimit(2, policy="evict_idle")
    one.register("c1", age=10.0)
    one.register("c2", age=30.0, unheard=1.0)
    assert one.register("c3", limit=limit) == ("ok", ["0-0", "c1"])


def test_each_app_counts_by_itself_and_so_do_those_without_a_name(one: Process) -> None:
    limit = SessionLimit(1, per_app=True)
    assert one.register("c1", app="web", limit=limit) == ALLOWED
    assert one.register("c2", app="web2", limit=limit) == ALLOWED
    assert one.register("c3", limit=limit) == ALLOWED
    assert one.register("c4", app="web", limit=limit) == ("limit", [])
    assert one.register("c5", limit=limit) == ("limit", [])
    assert one.register("c6", app='we"b', limit=limit) == ALLOWED


def test_those_of_a_lost_lease_do_not_count_and_are_forgotten(one: Process, other: Process) -> None:
    other.register("c1")
    assert one.register("c2", limit=SessionLimit(1), lost=(other.leases.own,)) == ALLOWED
    assert list(one.listed()) == ["c2"]


def test_where_it_is_not_known_who_is_alive_nothing_is_decided(
    one: Process, other: Process
) -> None:
    other.register("c1")
    assert one.register("c2", limit=SessionLimit(1)) == ("unsure", [other.leases.own])
    assert list(one.listed()) == ["c1"]
    one.knows(other)
    assert one.register("c2", limit=SessionLimit(1)) == ("limit", [])


def test_a_value_that_cannot_be_read_counts_for_nobody(
    one: Process, redis_server: RedisServer
) -> None:
    redis_server.cli("HSET", "t:{u:42}", "c1", "2+ something newer")
    assert one.register("c2", limit=SessionLimit(1)) == ALLOWED
    assert one.register("c1") == ("taken", [""])
    one.make(one.calls.end("42", "c1", in_doubt=False))
    one.make(one.calls.mark("42", ["c1"]))
    one.make(one.calls.sweep("42", ["c1"], [""]))
    assert redis_server.cli("HGET", "t:{u:42}", "c1") == "2+ something newer"


# Who is kept out ----------------------------------------------------------------------------------


def test_a_blocked_user_is_kept_out_until_the_block_is_lifted(
    one: Process, redis_server: RedisServer
) -> None:
    one.make(one.calls.block("42", None))
    one.make(one.calls.block("42", time.time() + 60))
    assert redis_server.cli("TTL", "t:{u:42}:out") == -1
    assert one.checked() == "blocked"
    assert one.register("c1") == ("blocked", [])
    assert one.checked(user="43") == "ok"
    one.make(one.calls.unblock("42"))
    assert one.checked() == "ok"
    assert one.register("c1") == ALLOWED


def test_a_block_may_end_and_is_never_made_shorter(one: Process, redis_server: RedisServer) -> None:
    now = time.time()
    one.make(one.calls.block("42", now - 10))
    assert one.checked() == "ok"
    for ends in (60, 600, 60):
        one.make(one.calls.block("42", now + ends))
    assert one.checked() == "blocked"
    assert 60 < redis_server.cli("TTL", "t:{u:42}:out") <= 600


def test_a_session_that_was_there_before_is_written_again_all_the_same(one: Process) -> None:
    # It is the log that ends it, and only if it is older than that.
    one.make(one.calls.block("42", None))
    assert one.register("c1", is_new=False) == ALLOWED


def test_a_revoked_token_is_kept_out(one: Process, redis_server: RedisServer) -> None:
    one.make(one.calls.revoke("t1", None))
    one.make(one.calls.revoke("t1", time.time() + 60))
    assert 60 < redis_server.cli("TTL", "t:{t:t1}") <= KEPT_SECONDS
    assert one.register("c1", token_id="t1") == ("revoked", [])
    assert one.checked(token_id="t1") == "revoked"
    assert one.checked(token_id="t2") == one.checked() == "ok"
    assert one.make(*one.calls.is_revoked("t1")) == 1
    assert one.make(*one.calls.is_revoked("t2")) == 0


def test_a_token_that_has_ended_needs_no_mark(one: Process, redis_server: RedisServer) -> None:
    one.make(one.calls.revoke("t1", time.time() - 1))
    assert redis_server.cli("EXISTS", "t:{t:t1}") == 0


def test_tokens_issued_before_a_moment_are_kept_out(
    one: Process, redis_server: RedisServer
) -> None:
    one.make(one.calls.invalidate("42", 1000.5, None))
    assert one.checked(issued_at=1000.0) == "revoked"
    assert one.checked(issued_at=1000.5) == one.checked() == "ok"
    assert one.register("c1", issued_at=1000.0) == ("revoked", [])
    assert 60 < redis_server.cli("TTL", "t:{u:42}:out") <= KEPT_SECONDS


def test_an_invalidation_is_never_made_narrower_until_it_has_ended(
    one: Process, redis_server: RedisServer
) -> None:
    now = time.time()
    one.make(one.calls.invalidate("42", 1000.0, now + 600))
    one.make(one.calls.invalidate("42", 500.0, now + 60))
    assert one.checked(issued_at=900.0) == "revoked"
    assert redis_server.cli("TTL", "t:{u:42}:out") > 60
    redis_server.cli("HSET", "t:{u:42}:out", "until", now - 1)
    assert one.checked(issued_at=900.0) == "ok"
    one.make(one.calls.invalidate("42", 500.0, now + 60))
    assert one.checked(issued_at=900.0) == "ok"
    assert one.checked(issued_at=400.0) == "revoked"


def test_what_keeps_a_user_out_lasts_as_long_as_the_last_of_it(
    one: Process, redis_server: RedisServer
) -> None:
    one.make(one.calls.invalidate("42", 1000.0, time.time() + 600))
    one.make(one.calls.block("42", time.time() + 60))
    assert redis_server.cli("TTL", "t:{u:42}:out") > 60
    one.make(one.calls.block("42", None))
    one.make(one.calls.invalidate("42", 1000.0, time.time() + 600))
    assert redis_server.cli("TTL", "t:{u:42}:out") == -1


def test_a_session_may_have_another_token_unless_that_is_kept_out(one: Process) -> None:
    one.register("c1", token_id="t1", issued_at=5.0)

    def rebind(token_id: str | None, issued_at: float) -> tuple[str, list[str]]:
        asked = one.request("c1", token_id=token_id, issued_at=issued_at)
        return one.says(one.calls.rebind("42", "c1", asked.record, asked.facts, last=None))

    one.make(one.calls.revoke("t2", None))
    assert rebind("t2", 6.0) == ("revoked", [])
    one.make(one.calls.invalidate("42", 6.0, None))
    assert rebind("t3", 5.0) == rebind(None, 5.0) == ("revoked", [])
    entry = one.make(one.calls.post(Entry(EvictClients("43", ()))))
    assert rebind("t3", 6.0) == ("ok", [text(entry)])
    assert b'"t3"' in one.listed()["c1"].record
    one.make(one.calls.block("42", None))
    assert rebind("t4", 7.0) == ("blocked", [])


# Processes ----------------------------------------------------------------------------------------


def test_a_lease_is_taken_renewed_and_given_up(
    one: Process, other: Process, redis_server: RedisServer
) -> None:
    assert one.make(one.calls.has_lease()) is None
    assert one.take(about=b'{"uid":"a"}') == "ok"
    assert one.take(about=b'{"uid":"b"}') == "ok"
    assert one.make(one.calls.has_lease()) is not None
    ((lease, left, about),) = nodes(other.make(other.calls.nodes()))
    assert (lease, about) == (one.leases.own, b'{"uid":"b"}')
    assert 30 < left <= 60
    other.make(other.calls.mail("box", Mail("7f", ())))
    one.make(one.calls.leave("box"))
    assert nodes(other.make(other.calls.nodes())) == []
    assert redis_server.cli("KEYS", "*") == []


def test_a_lease_that_was_lost_is_never_renewed(one: Process, redis_server: RedisServer) -> None:
    one.take()
    redis_server.cli("ZREM", "t:{n}:leases", one.leases.own)
    assert one.take() == "lost"
    one.take()
    redis_server.cli("ZADD", "t:{n}:leases", 1, one.leases.own)
    assert one.take() == "lost"
    assert nodes(one.make(one.calls.nodes())) == []
    assert redis_server.cli("HLEN", "t:{n}:about") == 0


def test_a_former_lease_is_given_up_with_the_next_one(one: Process) -> None:
    one.take()
    former = one.leases.another()
    assert one.take(give_up=former) == "ok"
    assert [lease for lease, _, _ in nodes(one.make(one.calls.nodes()))] == [one.leases.own]


def test_a_lease_that_ends_is_not_listed_and_forgotten_by_the_next_to_renew(
    one: Process, other: Process, redis_server: RedisServer
) -> None:
    one.take()
    redis_server.cli("ZADD", "t:{n}:leases", 1, one.leases.own)
    assert nodes(other.make(other.calls.nodes([one.leases.own, "ff"]))) == []
    other.take()
    assert redis_server.cli("ZRANGE", "t:{n}:leases", 0, -1) == [other.leases.own]
    assert list(redis_server.cli("HGETALL", "t:{n}:about")) == [other.leases.own]


def test_what_processes_say_is_gone_some_time_after_the_last_of_them(
    one: Process, other: Process, redis_server: RedisServer
) -> None:
    one.take(seconds=100)
    other.take(seconds=10)
    for key in ("t:{n}:leases", "t:{n}:about"):
        assert 150 < redis_server.cli("TTL", key) <= 200


def test_the_log_gives_its_end_with_each_lease(one: Process, other: Process) -> None:
    assert text(one.make(one.calls.last())) == "0-0"
    entry = Entry(EvictClients("42", ("c1",)))
    posted = [text(one.make(one.calls.post(entry))) for _ in range(2)]
    assert entry_id(posted[0]) < entry_id(posted[1])
    assert text(one.make(one.calls.last())) == posted[1]
    assert one.says(one.calls.renew(1000, b"", give_up="")) == ("ok", [posted[1]])
    other.leases.is_taken = True
    assert other.says(other.calls.renew(1000, b"", give_up="")) == ("lost", [posted[1]])


def test_entries_are_dropped_once_they_are_older_than_the_log_keeps(
    one: Process, redis_server: RedisServer
) -> None:
    redis_server.cli("CONFIG SET", "stream-node-max-entries", "1")
    for number in range(1, 6):
        redis_server.cli("XADD", "t:{n}:log", f"{number}-0", "entry", "old")
    one.make(one.calls.post(Entry(EvictClients("42", ("c1",)))))
    assert redis_server.cli("XLEN", "t:{n}:log") <= 2
    assert 3600 < redis_server.cli("TTL", "t:{n}:log") <= 7200
    redis_server.cli("CONFIG SET", "stream-node-max-entries", "100")


def test_mail_arrives_in_its_box_and_does_not_last(one: Process, redis_server: RedisServer) -> None:
    mail = Mail("7f", ("0a",), told=("c1",))
    one.make(one.calls.mail("box", mail))
    ((_, fields),) = redis_server.cli("XRANGE", "t:{n}:mail:box", "-", "+")
    assert Mail.read(fields["mail"].encode()) == mail
    assert 0 < redis_server.cli("TTL", "t:{n}:mail:box") <= 120


# Where they go ------------------------------------------------------------------------------------


def test_in_a_cluster_each_call_is_for_one_server() -> None:
    for call in every_call(Pieces(in_one_place=False).calls):
        assert len({key_slot(key.encode()) for key in call.keys}) == 1, call.name


def test_in_one_place_a_round_of_users_is_one_call_and_in_a_cluster_one_each() -> None:
    users = [("42", "c1"), ("43", "c2")]
    alone, spread = Pieces().calls, Pieces(in_one_place=False).calls
    assert [len(call.keys) for call in alone.touch(users)] == [2]
    assert [len(call.keys) for call in spread.touch(users)] == [1, 1]


def test_in_a_cluster_a_token_is_asked_for_by_itself() -> None:
    calls: Calls = Pieces(in_one_place=False).calls
    assert [call.name for call in calls.check("42", "t1", 1.0)] == ["check", "EXISTS"]
    assert [call.name for call in calls.check("42", None, None)] == ["check"]
    assert calls.is_revoked(None) == []


def test_no_call_shows_what_it_says() -> None:
    for call in every_call(Pieces().calls):
        assert "secret" not in repr(call)
