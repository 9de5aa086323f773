"""The way to Redis that all callers share, with a stand-in for the link."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.servers import until
from tests.stores.redis.pieces import Sent, StandInLink
from usersessions.stores.redis.line import (
    Answers,
    Call,
    Failed,
    Line,
    Outcome,
    exchange,
    outcome_of,
)
from usersessions.stores.redis.link import Command, LinkBroken, Refused

SOON = 5.0
CLOSE_SECONDS = 5.0


class Box:
    """What came of a job."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self._arrived = threading.Event()

    def __call__(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._arrived.set()

    def wait(self) -> Outcome:
        assert self._arrived.wait(SOON), "no outcome"
        return self.outcomes[0]


class Broken:
    """A function that answers, or does not, as long as a test says so."""

    def __init__(self) -> None:
        self.is_broken = False

    def __call__(self, sent: Sent) -> object:
        if self.is_broken:
            raise LinkBroken("TimeoutError")
        return sent.name.encode()


def call(name: str) -> Call:
    return Call(name, is_script=False)


def names(link: StandInLink) -> list[list[str]]:
    return [[sent.name for sent in one] for one in link.exchanged]


@pytest.fixture
def server() -> Broken:
    return Broken()


@pytest.fixture
def link(server: Broken) -> StandInLink:
    return StandInLink(server)


@pytest.fixture
def recovered() -> list[float]:
    return []


@pytest.fixture
def line(link: StandInLink, recovered: list[float]) -> Iterator[Line]:
    line = Line(link, recovered=lambda: recovered.append(time.monotonic()))
    yield line
    link.go_on()
    line.close(until=time.monotonic() + CLOSE_SECONDS)


def submit(line: Line, *calls: Call, seconds: float = SOON) -> Box:
    box = Box()
    line.submit(calls, box, until=time.monotonic() + seconds)
    return box


def is_running() -> bool:
    return any(thread.name == "usersessions-redis" for thread in threading.enumerate())


def test_a_job_is_told_what_redis_replied_to_each_of_its_calls(line: Line) -> None:
    box = submit(line, call("ONE"), call("TWO"))
    assert box.wait() == Answers((b"ONE", b"TWO"))
    assert line.is_broken is False


def test_what_is_asked_while_another_exchange_is_under_way_goes_out_together(
    line: Line, link: StandInLink
) -> None:
    link.hang()
    first = submit(line, call("A"))
    assert link.is_entered.wait(SOON)
    others = [submit(line, call("B")), submit(line, call("C"), call("D")), submit(line, call("E"))]
    link.go_on()
    assert first.wait() == Answers((b"A",))
    assert [box.wait() for box in others] == [
        Answers((b"B",)),
        Answers((b"C", b"D")),
        Answers((b"E",)),
    ]
    assert names(link) == [["A"], ["B", "C", "D", "E"]]


def test_no_exchange_is_much_larger_than_another(line: Line, link: StandInLink) -> None:
    link.hang()
    submit(line, call("FIRST"))
    assert link.is_entered.wait(SOON)
    boxes = [submit(line, call("A"), call("B")) for _ in range(800)]
    link.go_on()
    assert {box.wait() for box in boxes} == {Answers((b"A", b"B"))}
    assert [len(one) for one in link.exchanged] == [1, 1000, 600]


def test_a_job_whose_time_is_over_is_not_begun(line: Line, link: StandInLink) -> None:
    late = submit(line, call("LATE"), seconds=-1)
    assert late.wait() == Failed("it did not answer in time")
    link.hang()
    first = submit(line, call("A"))
    assert link.is_entered.wait(SOON)
    late, other = submit(line, call("LATE"), seconds=-1), submit(line, call("B"))
    link.go_on()
    assert (first.wait(), other.wait()) == (Answers((b"A",)), Answers((b"B",)))
    assert late.wait() == Failed("it did not answer in time")
    assert names(link) == [["A"], ["B"]]
    assert len(late.outcomes) == 1


def test_a_job_without_calls_is_answered(line: Line) -> None:
    assert submit(line).wait() == Answers(())


def test_who_does_not_ask_what_came_of_it_is_not_told(line: Line, link: StandInLink) -> None:
    line.submit([call("A")], until=time.monotonic() + SOON)
    assert submit(line, call("B")).wait() == Answers((b"B",))
    assert [sent.name for sent in link.all_sent] == ["A", "B"]


def test_where_no_thread_can_be_started_a_job_fails_and_the_next_one_may_not(
    line: Line, link: StandInLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        assert submit(line, call("ONE")).outcomes == [Failed("no thread can be started")]
        line.close(until=time.monotonic())
    assert submit(line, call("TWO")).wait() == Answers((b"TWO",))
    assert names(link) == [["TWO"]]


def test_an_error_of_one_job_is_no_error_of_another(line: Line, link: StandInLink) -> None:
    link.hang()
    submit(line, call("FIRST"))
    assert link.is_entered.wait(SOON)
    link.reply = lambda sent: Refused("OOM") if sent.name == "BAD" else b"OK"
    bad, good = submit(line, call("GOOD"), call("BAD")), submit(line, call("GOOD"))
    link.go_on()
    assert bad.wait() == Failed("it answered OOM")
    assert good.wait() == Answers((b"OK",))
    assert line.is_broken is False


def test_a_broken_way_fails_who_asked_and_is_tried_again_by_itself(
    line: Line,
    link: StandInLink,
    server: Broken,
    recovered: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    server.is_broken = True
    assert submit(line, call("A"), call("B")).wait() == Failed("TimeoutError")
    until(lambda: names(link)[-2:] == [["PING"], ["PING"]], what="two more trials")
    assert (line.is_broken, recovered) == (True, [])
    server.is_broken = False
    until(lambda: recovered, what="the line to recover")
    assert line.is_broken is False
    assert submit(line, call("C")).wait() == Answers((b"C",))
    assert len(recovered) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "Redis does not answer: TimeoutError",
        "Redis answers again",
    ]


def test_that_the_way_broke_is_known_before_the_callers_know(
    link: StandInLink, server: Broken
) -> None:
    order: list[str] = []
    line = Line(link, broken=lambda: order.append("broken"), recovered=lambda: None)
    server.is_broken = True
    box = Box()

    def done(outcome: Outcome) -> None:
        order.append("done")
        box(outcome)

    line.submit([call("A")], done, until=time.monotonic() + SOON)
    assert box.wait() == Failed("TimeoutError")
    assert order[:2] == ["broken", "done"]
    line.close(until=time.monotonic() + CLOSE_SECONDS)


def test_a_broken_way_is_tried_ever_more_seldom(
    line: Line, link: StandInLink, server: Broken
) -> None:
    server.is_broken = True
    began = time.monotonic()
    submit(line, call("A")).wait()
    until(lambda: len(link.exchanged) >= 5, what="four more trials")
    # 50, 100, 200 and 400 ms later.
    assert time.monotonic() - began >= 0.7


def test_what_is_asked_of_a_broken_way_is_tried_at_once(
    line: Line, link: StandInLink, server: Broken, recovered: list[float]
) -> None:
    server.is_broken = True
    submit(line, call("A")).wait()
    server.is_broken = False
    assert submit(line, call("B")).wait() == Answers((b"B",))
    until(lambda: recovered, what="the line to recover")
    assert names(link)[-1] in (["B"], ["PING"])


def test_a_late_job_on_a_broken_way_is_told_and_the_way_tried(
    line: Line, link: StandInLink, server: Broken, recovered: list[float]
) -> None:
    server.is_broken = True
    submit(line, call("A")).wait()
    server.is_broken = False
    assert submit(line, call("B"), seconds=-1).wait() == Failed("it did not answer in time")
    until(lambda: recovered, what="the line to recover")
    assert names(link) == [["A"], ["PING"]]


def test_a_mistake_in_what_is_done_with_an_answer_ends_nothing(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(outcome: Outcome) -> None:
        raise ZeroDivisionError

    line.submit([call("A")], fail, until=time.monotonic() + SOON)
    assert submit(line, call("B")).wait() == Answers((b"B",))
    (record,) = caplog.records
    assert record.getMessage() == "an answer of Redis could not be dealt with"


def test_a_call_that_cannot_be_made_ends_nothing(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    assert submit(line, Call("there is no such script")).wait() == Failed("it was not asked")
    assert submit(line, call("B")).wait() == Answers((b"B",))
    (record,) = caplog.records
    assert record.getMessage() == "calls could not be made"


# The end ------------------------------------------------------------------------------------------


def test_nothing_runs_before_the_first_job_and_closing_is_nothing_then(
    line: Line, link: StandInLink
) -> None:
    line.close(until=time.monotonic())
    assert not is_running() and not link.exchanged


def test_what_was_submitted_is_done_before_the_line_is_closed(
    line: Line, link: StandInLink
) -> None:
    link.hang()
    boxes = [submit(line, call("A"))]
    assert link.is_entered.wait(SOON)
    boxes.append(submit(line, call("B")))
    closer = threading.Thread(target=line.close, kwargs={"until": time.monotonic() + SOON})
    closer.start()
    link.go_on()
    closer.join()
    assert [box.outcomes for box in boxes] == [[Answers((b"A",))], [Answers((b"B",))]]
    assert link.closed == 1 and not is_running()


def test_a_line_that_is_closed_begins_anew_with_the_next_job(line: Line, link: StandInLink) -> None:
    for number in (1, 2):
        assert submit(line, call("A")).wait() == Answers((b"A",))
        line.close(until=time.monotonic() + CLOSE_SECONDS)
        line.close(until=time.monotonic() + CLOSE_SECONDS)
        assert link.closed == number and not is_running()


def test_a_reply_that_does_not_come_is_given_up_when_the_time_is_over(
    line: Line, link: StandInLink
) -> None:
    link.hang()
    box = submit(line, call("A"))
    assert link.is_entered.wait(SOON)
    line.close(until=time.monotonic() + 0.05)
    assert box.wait() == Failed("ConnectionError")
    until(lambda: not is_running(), what="the thread to end")


def test_a_broken_line_is_closed_without_another_trial(
    line: Line, link: StandInLink, server: Broken
) -> None:
    server.is_broken = True
    submit(line, call("A")).wait()
    line.close(until=time.monotonic() + CLOSE_SECONDS)
    tried = len(link.exchanged)
    assert not is_running()
    assert len(link.exchanged) == tried


# One exchange -------------------------------------------------------------------------------------


class Forgetful:
    """A link to a server that knows no script before it was sent it in full."""

    def __init__(self, replies: Callable[[Command], object]) -> None:
        self.sent: list[list[Command]] = []
        self._replies = replies

    def exchange(self, commands: Sequence[Command]) -> list[object]:
        self.sent.append(list(commands))
        return [self._replies(command) for command in commands]

    def identity(self) -> bytes:
        return b""

    def close(self) -> None:
        pass


def test_scripts_that_redis_does_not_know_are_sent_in_full_and_nothing_else_is_sent_twice() -> None:
    link = Forgetful(
        lambda command: Refused("NOSCRIPT") if command[0] == "EVALSHA" else str(command[-1])
    )
    calls = [
        Call("PING", (), ("first",), is_script=False),
        Call("end", ("k",), ("second",)),
        Call("PING", (), ("third",), is_script=False),
        Call("last", ("k",), ("fourth",)),
    ]
    assert exchange(link, calls) == ["first", "second", "third", "fourth"]
    first, again = link.sent
    assert [command[0] for command in first] == ["PING", "EVALSHA", "PING", "EVALSHA"]
    assert [command[0] for command in again] == ["EVAL", "EVAL"]
    assert again[0][2:] == (1, "k", "second")


def test_a_script_that_is_known_is_sent_by_its_digest_alone() -> None:
    link = Forgetful(lambda command: command[0])
    assert exchange(link, [Call("last", ("k",))]) == ["EVALSHA"]
    assert len(link.sent) == 1


def test_one_refusal_is_what_came_of_calls_that_belong_together() -> None:
    assert outcome_of([b"OK", Refused("READONLY"), Refused("OOM")]) == Failed(
        "it answered READONLY"
    )
    assert outcome_of([b"OK", None]) == Answers((b"OK", None))


def test_answers_are_not_shown() -> None:
    assert "secret" not in repr(Answers((b"secret",)))
