"""Telling sessions to end, in threads of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from usersessions.models import Disconnect
from usersessions.stores.redis.teller import Teller

CODE = Disconnect(4001)
SOON = 5.0


def told() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "usersessions-tell"]


def close(teller: Teller, *, seconds: float = SOON) -> None:
    teller.close(until=time.monotonic() + seconds)


def test_each_is_told_and_then_there_are_no_threads() -> None:
    teller = Teller()
    heard: list[tuple[int, Disconnect]] = []

    def hear(number: int) -> Callable[[Disconnect], None]:
        return lambda disconnect: heard.append((number, disconnect))

    for start in (0, 100):
        numbers = range(start, start + 100)
        teller.tell([(hear(number), CODE) for number in numbers])
        close(teller)
        assert sorted(heard, key=lambda one: one[0])[start:] == [(one, CODE) for one in numbers]
    assert told() == []


def test_nobody_to_tell_needs_no_thread() -> None:
    teller = Teller()
    teller.tell([])
    assert told() == []
    close(teller)


def test_a_few_that_hang_hold_up_nobody_and_closing_waits_no_longer_than_it_may() -> None:
    teller = Teller()
    go_on, heard = threading.Event(), threading.Event()
    try:
        teller.tell([(lambda _: hang(go_on), CODE)] * 3)
        teller.tell([(lambda _: heard.set(), CODE)])
        assert heard.wait(SOON)
        began = time.monotonic()
        close(teller, seconds=0.05)
        assert time.monotonic() - began < SOON / 2
        assert len(told()) >= 3
    finally:
        go_on.set()
    close(teller)
    assert told() == []


def test_however_many_are_told_there_are_few_threads() -> None:
    teller = Teller()
    go_on = threading.Event()
    heard: list[Disconnect] = []
    try:
        for _ in range(100):
            teller.tell([(lambda _: hang(go_on), CODE), (heard.append, CODE)])
        assert len(told()) <= 8
    finally:
        go_on.set()
    close(teller)
    assert heard == [CODE] * 100


def test_whoever_cannot_be_told_keeps_nobody_else_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    teller = Teller()
    heard: list[Disconnect] = []

    def fail(disconnect: Disconnect) -> None:
        raise KeyboardInterrupt

    teller.tell([(fail, CODE)] * 10 + [(heard.append, CODE)])
    close(teller)
    assert heard == [CODE]
    assert {record.getMessage() for record in caplog.records} == {"a session was not told to end"}


def test_who_is_told_may_close_the_teller() -> None:
    teller = Teller()
    closed = threading.Event()

    def end(disconnect: Disconnect) -> None:
        close(teller)
        closed.set()

    began = time.monotonic()
    teller.tell([(end, CODE)])
    assert closed.wait(SOON)
    close(teller)
    # It does not wait for itself.
    assert time.monotonic() - began < SOON / 2


def hang(go_on: threading.Event) -> None:
    assert go_on.wait(2 * SOON)
