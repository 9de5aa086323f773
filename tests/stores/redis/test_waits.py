"""When a wait for other processes is over, and what came of it."""

from __future__ import annotations

from usersessions.stores.redis.entries import Mail
from usersessions.stores.redis.waits import Wait


def test_who_waits_for_nobody_is_done_at_once() -> None:
    wait = Wait(for_ends=True)
    called: list[bool] = []
    wait.when_complete(lambda: called.append(wait.is_complete))
    assert called == [True]
    assert (wait.is_partial, wait.told, wait.closed, wait.unconfirmed) == (False, (), (), ())


def test_it_is_over_once_all_have_answered_and_all_they_told_are_gone() -> None:
    wait = Wait(["0a", "0b"], {"c1": "0a"}, for_ends=True)
    called: list[str] = []
    wait.when_complete(lambda: called.append("complete"))
    wait.note(Mail("7f", ("0a",), told=("c1", "c2")))
    assert (wait.is_partial, wait.is_complete) == (True, False)
    wait.note(Mail("7f", ("0b",), told=()))
    assert (wait.is_partial, wait.is_complete) == (False, False)
    wait.note(Mail("7f", ("0a",), gone=("c2",)))
    assert (wait.closed, wait.unconfirmed, called) == (("c2",), ("c1",), [])
    wait.note(Mail("7f", ("0a",), gone=("c1",)))
    assert called == ["complete"]
    assert (set(wait.closed), wait.unconfirmed) == ({"c1", "c2"}, ())


def test_an_answer_for_a_lease_that_its_process_had_before_counts() -> None:
    wait = Wait(["0a"], {"c1": "0a"}, for_ends=True)
    wait.note(Mail("7f", ("0b", "0a"), told=("c1",)))
    assert wait.is_partial is False
    assert wait.unconfirmed == ("c1",)


def test_a_listed_session_that_its_process_did_not_tell_was_gone_already() -> None:
    wait = Wait(["0a", "0b"], {"c1": "0a", "c2": "0b"}, for_ends=True)
    wait.note(Mail("7f", ("0a",), told=()))
    assert (wait.closed, wait.unconfirmed) == (("c1",), ("c2",))
    wait.note(Mail("7f", ("0b",), told=("c2",)))
    assert (wait.closed, wait.unconfirmed) == (("c1",), ("c2",))


def test_an_end_may_be_heard_of_before_the_answer() -> None:
    wait = Wait(["0a"], for_ends=True)
    wait.note(Mail("7f", ("0a",), gone=("c1",)))
    assert wait.is_complete is False
    wait.note(Mail("7f", ("0a",), told=("c1",)))
    assert (wait.closed, wait.is_complete) == (("c1",), True)


def test_where_ends_are_not_waited_for_the_answers_are_enough() -> None:
    wait = Wait(["0a"], for_ends=False)
    wait.note(Mail("7f", ("0a",), told=("c1", "c2")))
    assert (wait.is_complete, wait.told) == (True, ("c1", "c2"))


def test_more_answers_do_no_harm() -> None:
    wait = Wait(["0a"], for_ends=True)
    for _ in range(2):
        wait.note(Mail("7f", ("0a",), told=("c1",)))
        wait.note(Mail("7f", ("0a",), gone=("c1",)))
        wait.note(Mail("7f", ("ff",)))
    assert (wait.closed, wait.told, wait.is_complete) == (("c1",), ("c1",), True)
