"""The thread that keeps this process a node, with a Redis that a test plays."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.servers import until
from tests.stores.redis.pieces import Clock, Pieces, Sent, StandInLink, StandInTarget
from usersessions.stores.base import BlockUser
from usersessions.stores.redis import reader as reader_module
from usersessions.stores.redis.entries import Entry, EvictClients, Mail
from usersessions.stores.redis.line import Answers, Call, Failed
from usersessions.stores.redis.link import LinkBroken, Refused
from usersessions.stores.redis.reader import Reader
from usersessions.stores.redis.waits import Wait

LEASE = 15.0
SOON = 5.0
BLOCK = Entry(BlockUser("42", None, timeout=0))


class PlayedRedis:
    """What answers the reader's commands.

    Attributes:
        replies: by the name of the command, what is answered; a function of the command, or that.
        log: what is in the log, by ID; the other is the mailbox.
    """

    def __init__(self) -> None:
        self.replies: dict[str, Any] = {}
        self.log: dict[bytes, bytes] = {}
        self.mail: dict[bytes, bytes] = {}
        self.link = StandInLink(self)
        self._changed = threading.Event()

    def __call__(self, sent: Sent) -> object:
        if sent.name == "XREAD" and "XREAD" not in self.replies:
            return self._read(sent)
        reply = self.replies.get(sent.name, self._usual(sent))
        return reply(sent) if callable(reply) else reply

    def times(self, name: str) -> int:
        """How many times it was asked this."""
        return len(self.sent(name))

    def sent(self, name: str) -> list[Sent]:
        """What it was sent of this name."""
        return [one for one in self.link.all_sent if one.name == name]

    def _usual(self, sent: Sent) -> object:
        if sent.name in ("renew", "register"):
            return [b"ok", b"5-0"]
        return [] if sent.name in ("touch", "nodes") else 0 if sent.name == "EXISTS" else b"5-0"

    def _read(self, sent: Sent) -> object:
        words = list(sent.arguments)
        named = words[words.index("STREAMS") + 1 :]
        found = []
        for name, place in zip(named[: len(named) // 2], named[len(named) // 2 :], strict=True):
            kept, field = (self.log, b"entry") if name == "t:{n}:log" else (self.mail, b"mail")
            new = [[at, [field, data]] for at, data in kept.items() if at > str(place).encode()]
            if new:
                found.append([str(name).encode(), new])
        if not found:
            self._changed.wait(0.005)
        return found or None


class Process(Pieces):
    """A process whose reader is the only thing that runs."""

    def __init__(self, redis: PlayedRedis, now: Clock, *, in_one_place: bool = True) -> None:
        super().__init__(in_one_place=in_one_place)
        self.now = now
        self.redis = redis
        self.waits: dict[str, Wait] = {}
        self.made: list[Call] = []
        self.reader = Reader(
            self.node,
            self.leases,
            self.calls,
            self.member,
            StandInTarget(only=redis.link),
            waits=self.waits,
            act=self.act,
            lease=LEASE,
            timeout=2.0,
        )

    def act(self, effect: Any) -> None:
        self.follow(effect)
        self.made.extend(effect.calls)

    def start(self) -> None:
        """Have it be a node, and wait until it is."""
        self.reader.start()
        until(lambda: self.leases.is_taken, what="the lease")

    def pass_round(self) -> None:
        """Wait until all that is known now was dealt with."""
        read = self.redis.times("XREAD")
        until(lambda: self.redis.times("XREAD") >= read + 3, what="another round")

    def stop(self) -> None:
        self.reader.stop(until=self.now() + SOON)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The monotonic clock of the reader."""
    clock = Clock(1000.0)
    monkeypatch.setattr(reader_module, "time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.fixture
def redis() -> PlayedRedis:
    return PlayedRedis()


@pytest.fixture
def process(redis: PlayedRedis, now: Clock) -> Iterator[Process]:
    process = Process(redis, now)
    yield process
    redis.link.go_on()
    process.stop()


@pytest.fixture
def clustered(redis: PlayedRedis, now: Clock) -> Iterator[Process]:
    process = Process(redis, now, in_one_place=False)
    yield process
    process.stop()


def breaks(sent: Sent) -> object:
    raise LinkBroken("TimeoutError")


def once(first: object, then: object) -> Callable[[Sent], object]:
    """Answer the first time one thing, and another one from then on."""
    left = [first]

    def reply(sent: Sent) -> object:
        said = left.pop() if left else then
        return said(sent) if callable(said) else said

    return reply


# Its life -----------------------------------------------------------------------------------------


def test_nothing_runs_before_it_is_started_and_stopping_is_nothing_then(process: Process) -> None:
    process.stop()
    assert not process.reader.is_running and process.redis.link.exchanged == []


def test_it_runs_once_however_often_it_is_started_and_again_after_it_was_stopped(
    process: Process,
) -> None:
    for _ in range(2):
        process.start()
        process.start()
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("usersessions-log") == 1
        process.stop()
        process.stop()
        assert not process.reader.is_running


def test_it_takes_the_lease_and_reads_the_log_from_where_it_was_then(
    process: Process, redis: PlayedRedis
) -> None:
    redis.log = {b"4-0": BLOCK.to_json(), b"6-0": Entry(EvictClients("42", ("c2",))).to_json()}
    process.let_in("c1")
    process.let_in("c2")
    process.start()
    until(lambda: process.told, what="c2 to be told")
    process.pass_round()
    assert [client for client, _ in process.told] == ["c2"]
    assert process.orders.position == (6, 0)


def test_who_only_listens_takes_no_lease_and_reads_no_log(
    process: Process, redis: PlayedRedis
) -> None:
    wait = process.waits["7f"] = Wait(["0a"], for_ends=False)
    redis.log = {b"6-0": BLOCK.to_json()}
    redis.mail = {
        b"1-0": b"garbage",
        b"2-0": Mail("80", ("0a",), told=()).to_json(),
        b"3-0": Mail("7f", ("0a",), told=("c1",)).to_json(),
    }
    process.let_in("c1")
    process.reader.start(joins=False)
    until(lambda: wait.is_complete, what="the answer")
    process.pass_round()
    assert (redis.times("renew"), process.told, process.leases.is_taken) == (0, [], False)
    # It has something to tell Redis, but no lease that it could be under.
    process.member.write_later("42", "c1")
    process.pass_round()
    assert redis.times("register") == 0
    process.start()
    until(lambda: redis.times("register"), what="c1 to be written")


def test_a_mistake_of_ours_does_not_have_it_taken_for_dead(
    process: Process, redis: PlayedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    redis.replies["renew"] = once([b"ok"], [b"ok", b"5-0"])
    process.start()
    assert [record.getMessage() for record in caplog.records] == [
        "the log of Redis could not be dealt with"
    ]


def test_it_lets_go_of_the_link_to_stop_while_it_waits(
    process: Process, redis: PlayedRedis
) -> None:
    process.start()
    redis.link.hang()
    assert redis.link.is_entered.wait(SOON)
    began = time.monotonic()
    process.stop()
    assert time.monotonic() - began < SOON / 2
    assert not process.reader.is_running


# The lease ----------------------------------------------------------------------------------------


def test_a_lease_is_renewed_three_times_while_it_lasts_with_what_is_new(
    process: Process, redis: PlayedRedis, now: Clock
) -> None:
    process.let_in("c1")
    process.start()
    process.member.touch("42", "c1")
    process.pass_round()
    assert redis.times("renew") == 1
    now.now += LEASE / 3
    until(lambda: redis.times("renew") == 2, what="another renewal")
    first, second = redis.sent("renew")
    assert (first.arguments[3], second.arguments[3]) == ("take", "renew")
    until(lambda: redis.times("seen") == 1, what="news of c1")
    assert {sent.keys for sent in redis.sent("touch")} == {("t:{u:42}",)}


def test_a_lease_that_was_lost_is_given_up_and_all_is_written_again_under_another(
    process: Process, redis: PlayedRedis, now: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    process.let_in("c1")
    process.start()
    first = process.leases.own
    assert not process.reader.doubt()
    redis.replies["renew"] = once([b"lost", b"5-0"], [b"ok", b"5-0"])
    now.now += LEASE / 3
    until(lambda: redis.times("register") == 1, what="c1 to be written")
    assert process.leases.own != first
    assert redis.sent("register")[0].arguments[2] == process.leases.own
    taken = redis.sent("renew")[-1]
    assert (taken.arguments[3], taken.arguments[4]) == ("take", first)
    assert "lost" in caplog.text
    # Until all others have noticed as well.
    assert process.reader.doubt()
    now.now += LEASE / 3 + 1
    assert not process.reader.doubt()
    until(lambda: redis.times("renew") == 4, what="another renewal")
    assert redis.sent("renew")[-1].arguments[4] == ""


def test_another_server_has_all_written_again(
    process: Process, redis: PlayedRedis, now: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    process.let_in("c1")
    process.start()
    first = process.leases.own
    redis.link.named = b"two"
    now.now += LEASE / 3
    until(lambda: redis.times("register") == 1, what="c1 to be written")
    assert process.leases.own != first
    assert "started anew or follows another one" in caplog.text


def test_a_lease_that_may_have_ended_is_given_up_at_once(
    process: Process, redis: PlayedRedis, now: Clock
) -> None:
    process.start()
    first = process.leases.own
    redis.replies["XREAD"] = redis.replies["renew"] = breaks
    broken = len(redis.link.exchanged)
    until(lambda: len(redis.link.exchanged) > broken + 1, what="a broken link")
    assert process.leases.own == first
    now.now += LEASE + 0.1
    until(lambda: process.leases.own != first, what="another lease")
    assert not process.leases.is_taken and process.reader.doubt()
    redis.replies.clear()
    until(lambda: process.leases.is_taken, what="the lease")


def test_a_redis_that_does_not_write_is_asked_again_and_lists_are_doubtful(
    process: Process, redis: PlayedRedis, now: Clock
) -> None:
    process.start()
    first = process.leases.own
    redis.replies["renew"] = Refused("READONLY")
    now.now += LEASE / 3
    until(lambda: redis.times("renew") == 2, what="another renewal")
    until(process.reader.doubt, what="doubt")
    assert process.leases.own == first
    now.now += LEASE
    until(lambda: process.leases.own != first, what="another lease")
    redis.replies.clear()
    now.now += 0.5
    until(lambda: process.leases.is_taken, what="the lease")


def test_where_the_way_broke_lists_are_doubtful_until_the_next_renewal(
    process: Process, redis: PlayedRedis, now: Clock
) -> None:
    process.start()
    now.now += 1
    redis.link.hang()
    process.reader.note_break()
    assert process.reader.doubt()
    now.now += 1
    redis.link.go_on()
    until(lambda: redis.times("renew") == 2, what="a renewal at once")
    until(lambda: not process.reader.doubt(), what="no doubt")


def test_who_takes_no_lease_doubts_for_as_long_as_others_may_not_have_noticed(
    process: Process, now: Clock
) -> None:
    assert not process.reader.doubt()
    process.reader.note_break()
    now.now += LEASE / 3
    assert process.reader.doubt()
    now.now += 1.1
    assert not process.reader.doubt()


# The log ------------------------------------------------------------------------------------------


def test_entries_that_cannot_be_read_are_passed_over(
    process: Process, redis: PlayedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    redis.log = {b"6-0": b"garbage", b"7-0": b'{"block":[7]}', b"8-0": BLOCK.to_json()}
    process.let_in("c1")
    process.start()
    until(lambda: process.told, what="c1 to be told")
    assert [client for client, _ in process.told] == ["c1"]
    assert caplog.records == []


def test_a_log_that_redis_will_not_give_is_asked_for_again(
    process: Process, redis: PlayedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    redis.log = {b"6-0": BLOCK.to_json()}
    redis.replies["XREAD"] = Refused("WRONGTYPE")
    process.let_in("c1")
    process.start()
    process.pass_round()
    assert (process.told, caplog.records) == ([], [])
    del redis.replies["XREAD"]
    until(lambda: process.told, what="c1 to be told")


def test_who_has_not_read_for_longer_than_the_log_is_kept_has_everybody_come_back(
    process: Process, redis: PlayedRedis, now: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for client, user in (("c1", "42"), ("c2", "43")):
        process.let_in(client, user=user)
    process.start()
    redis.replies["XREAD"] = Refused("WRONGTYPE")
    process.pass_round()
    now.now += 3600 - 61
    del redis.replies["XREAD"]
    process.pass_round()
    assert process.told == []
    redis.replies["XREAD"] = Refused("WRONGTYPE")
    process.pass_round()
    now.now += 3600 - 59
    del redis.replies["XREAD"]
    until(lambda: len(process.told) == 2, what="all to be told")
    assert {disconnect.code for _, disconnect in process.told} == {3011}
    process.pass_round()
    assert len(process.told) == 2
    assert "all sessions have to come back" in caplog.text


def test_a_session_whose_end_was_set_elsewhere_is_told_when_it_has_come(process: Process) -> None:
    process.let_in("c1", expire_at=process.clock.now + 60)
    process.start()
    process.clock.now += 60 + 24
    process.pass_round()
    assert process.told == []
    process.clock.now += 2
    until(lambda: process.told, what="c1 to be told")
    assert [(client, one.code) for client, one in process.told] == [("c1", 3005)]


# What Redis may not know --------------------------------------------------------------------------


def test_what_redis_has_lost_of_a_user_is_written_again(
    process: Process, redis: PlayedRedis
) -> None:
    for client, user in (("c1", "41"), ("c2", "42"), ("c3", "42")):
        process.let_in(client, user=user)
    redis.replies["touch"] = once([2], [])
    process.start()
    until(lambda: redis.times("register") == 2, what="both to be written")
    assert [sent.arguments[0] for sent in redis.sent("register")] == ["c2", "c3"]
    assert {sent.arguments[4] for sent in redis.sent("register")} == {"again"}


def test_in_a_cluster_each_server_says_what_it_has_lost(
    clustered: Process, redis: PlayedRedis
) -> None:
    for client, user in (("c1", "41"), ("c2", "42")):
        clustered.let_in(client, user=user)
    redis.replies["touch"] = lambda sent: [1] if sent.keys == ("t:{u:42}",) else Refused("ERR")
    clustered.start()
    until(lambda: redis.times("register") == 1, what="c2 to be written")
    assert redis.sent("register")[0].arguments[0] == "c2"


def test_an_end_that_redis_did_not_hear_of_is_told_again_and_then_who_waits_for_it(
    process: Process,
) -> None:
    process.let_in("c1")
    process.orders.read((4, 0), Entry(BlockUser("42", None, timeout=0), "7f", "0b"))
    process.member.end("42", "c1")
    process.member.told_of_end("c1", Failed("TimeoutError"))
    process.start()
    until(lambda: process.made, what="the answer")
    assert [call.name for call in process.made] == ["mail"]
    assert not process.member.has_due


def test_what_others_have_to_do_is_added_to_the_log_as_soon_as_that_can_be(
    process: Process, redis: PlayedRedis, now: Clock
) -> None:
    call = process.calls.post(BLOCK)
    redis.replies["post"] = once(Refused("OOM"), b"6-0")
    process.reader.make_later(call)
    process.start()
    until(lambda: redis.times("post") == 1, what="the post")
    process.pass_round()
    assert redis.times("post") == 1
    now.now += 0.5
    until(lambda: redis.times("post") == 2, what="the post again")
    process.pass_round()
    assert redis.times("post") == 2


def test_a_link_that_breaks_in_the_middle_loses_nothing_of_it(
    process: Process, redis: PlayedRedis
) -> None:
    process.let_in("c1")
    process.let_in("c2")
    process.member.end("42", "c2")
    process.member.write_later("42", "c1")
    process.reader.make_later(process.calls.post(BLOCK))
    redis.replies["register"] = once(breaks, [b"ok", b"5-0"])
    process.start()
    until(lambda: not process.member.has_due, what="all to be told")
    assert [redis.times(name) for name in ("post", "end", "register")] == [2, 2, 2]


def test_who_has_to_be_known_to_be_alive_is_asked_for_before_it_is_written(
    process: Process, redis: PlayedRedis
) -> None:
    pending = process.begin("c1")
    process.member.registration("42", "c1", None)
    process.member.hold(pending)
    process.member.late(pending, Answers(([b"unsure", b"0a", b"0b"],)))
    redis.replies["nodes"] = [b"0b", 9000, b"{}"]
    process.start()
    until(lambda: redis.times("register") == 1, what="c1 to be written")
    assert redis.sent("register")[0].arguments[14] == "0a"
    assert process.leases.is_held("0b") is True


def test_where_redis_will_not_say_who_is_alive_nobody_is_taken_for_dead(
    process: Process, redis: PlayedRedis, now: Clock
) -> None:
    pending = process.begin("c1")
    process.member.registration("42", "c1", None)
    process.member.hold(pending)
    process.member.late(pending, Answers(([b"unsure", b"0a"],)))
    redis.replies["nodes"] = Refused("BUSY")
    process.start()
    until(lambda: redis.times("nodes") == 1, what="the question")
    process.pass_round()
    assert redis.times("nodes") == 1
    assert not process.leases.is_lost("0a")
    redis.replies["nodes"] = [b"0a", 9000, b"{}"]
    now.now += 0.5
    until(lambda: redis.times("register") == 1, what="c1 to be written")
    assert not process.leases.is_lost("0a")


# In a cluster -------------------------------------------------------------------------------------


def waiting(process: Process, client: str, **asked: Any) -> None:
    """A session that is held, and that Redis was not asked about yet."""
    process.member.hold(process.begin(client, **asked), is_asked=False)


def test_in_a_cluster_tokens_are_looked_at_after_the_end_of_the_log(
    clustered: Process, redis: PlayedRedis
) -> None:
    waiting(clustered, "c1", token_id="t1", issued_at=1.0)
    waiting(clustered, "c2", token_id="t2", issued_at=1.0)
    waiting(clustered, "c3")
    redis.replies["EXISTS"] = lambda sent: int(sent.arguments == ("t:{t:t1}",))
    clustered.start()
    until(lambda: redis.times("register") == 2, what="the others to be written")
    until(lambda: clustered.told, what="c1 to be told")
    assert [(client, one.code) for client, one in clustered.told] == [("c1", 3500)]
    assert [sent.arguments[0] for sent in redis.sent("register")] == ["c2", "c3"]
    names = [sent.name for sent in redis.link.all_sent]
    assert names.index("last") < names.index("EXISTS") < names.index("register")


def test_in_a_cluster_sessions_without_tokens_are_written_without_asking(
    clustered: Process, redis: PlayedRedis
) -> None:
    waiting(clustered, "c1")
    clustered.start()
    until(lambda: redis.times("register") == 1, what="c1 to be written")
    assert redis.times("EXISTS") == 0
    assert redis.sent("register")[0].arguments[7] == "5-0"


@pytest.mark.parametrize("silent", ["last", "EXISTS"])
def test_in_a_cluster_that_will_not_say_it_a_session_is_written_later(
    clustered: Process, redis: PlayedRedis, now: Clock, silent: str
) -> None:
    waiting(clustered, "c1", token_id="t1", issued_at=1.0)
    usual = {"last": b"5-0", "EXISTS": 0}[silent]
    redis.replies[silent] = once(Refused("ERR"), usual)
    clustered.start()
    until(lambda: redis.times(silent) == 1, what="the question")
    clustered.pass_round()
    assert (redis.times(silent), redis.times("register")) == (1, 0)
    now.now += 0.5
    until(lambda: redis.times("register") == 1, what="c1 to be written")
    assert clustered.told == []


def test_in_a_cluster_a_link_that_breaks_in_the_middle_loses_nothing(
    clustered: Process, redis: PlayedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    waiting(clustered, "c1", token_id="t1", issued_at=1.0)
    redis.replies["EXISTS"] = once(breaks, 0)
    clustered.start()
    until(lambda: redis.times("register") == 1, what="c1 to be written")
    assert caplog.records == []


def test_who_called_it_while_it_was_busy_calls_once(process: Process) -> None:
    process.reader.is_called = True
    process.start()
    until(lambda: not process.reader.is_called, what="a look at what there is to do")
