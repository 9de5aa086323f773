"""Flows: one logic, driven by an answerer that blocks or by one that is awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import pytest

from usersessions.errors import StoreUnavailable
from usersessions.flows import Flow, Reply, Request, arun, expect, run

pytestmark = pytest.mark.anyio

Answer: TypeAlias = Callable[[Request], Reply]


@dataclass(frozen=True, slots=True)
class Number(Reply):
    value: int


@dataclass(frozen=True, slots=True)
class Word(Reply):
    value: str


@dataclass(frozen=True, slots=True)
class Double(Request):
    value: int

    def __iter__(self) -> Flow[int]:
        return expect((yield self), Number).value


def total(*values: int) -> Flow[int]:
    """The sum of the doubles; each is asked for."""
    result = 0
    for value in values:
        result += yield from Double(value)
    return result


def double(request: Request) -> Reply:
    assert isinstance(request, Double)
    return Number(request.value * 2)


def drive_blocking(flow: Flow[int], answer: Answer) -> Awaitable[int]:
    async def driven() -> int:
        return run(flow, answer)

    return driven()


def drive_awaited(flow: Flow[int], answer: Answer) -> Awaitable[int]:
    async def answer_later(request: Request) -> Reply:
        await asyncio.sleep(0)
        return answer(request)

    return arun(flow, answer_later)


Drive: TypeAlias = Callable[[Flow[int], Answer], Awaitable[int]]
both = pytest.mark.parametrize("drive", [drive_blocking, drive_awaited])


@both
async def test_a_flow_is_sent_the_answer_to_each_request_and_gives_its_result(drive: Drive) -> None:
    asked: list[Request] = []

    def answer(request: Request) -> Reply:
        asked.append(request)
        return double(request)

    assert await drive(total(1, 2, 3), answer) == 12
    assert asked == [Double(1), Double(2), Double(3)]


@both
async def test_a_flow_may_ask_for_nothing(drive: Drive) -> None:
    assert await drive(total(), double) == 0


@both
async def test_what_a_flow_raises_reaches_the_caller(drive: Drive) -> None:
    def flow() -> Flow[int]:
        yield from Double(1)
        raise LookupError("of the flow")

    with pytest.raises(LookupError, match="of the flow"):
        await drive(flow(), double)


@both
@pytest.mark.parametrize("error", [OSError("of the answerer"), KeyboardInterrupt()])
async def test_what_an_answerer_raises_ends_the_flow_and_reaches_the_caller_as_it_is(
    drive: Drive, error: BaseException
) -> None:
    seen: list[BaseException] = []

    def flow() -> Flow[int]:
        try:
            return (yield from Double(1))
        except BaseException as end:
            seen.append(end)
            raise

    def answer(request: Request) -> Reply:
        raise error

    with pytest.raises(type(error)) as caught:
        await drive(flow(), answer)
    assert caught.value is error
    assert [type(end) for end in seen] == [GeneratorExit]


@both
async def test_an_error_of_ours_is_raised_where_the_flow_asked_and_it_may_go_on(
    drive: Drive,
) -> None:
    error = StoreUnavailable("it is away")
    seen: list[Exception] = []

    def flow() -> Flow[int]:
        try:
            yield from Double(0)
        except StoreUnavailable as caught:
            seen.append(caught)
        return (yield from Double(1))

    def answer(request: Request) -> Reply:
        if request == Double(0):
            raise error
        return double(request)

    assert await drive(flow(), answer) == 2
    assert seen == [error]
    with pytest.raises(StoreUnavailable) as caught:
        await drive(total(0, 1), answer)
    assert caught.value is error


@both
async def test_a_reply_of_the_wrong_kind_is_named(drive: Drive) -> None:
    with pytest.raises(TypeError, match=r"^expected the reply Number, got Word$"):
        await drive(total(1), lambda request: Word("two"))


async def test_a_cancelled_flow_is_closed_and_asks_for_nothing_more() -> None:
    asked: list[Request] = []
    closed: list[bool] = []

    def flow() -> Flow[int]:
        try:
            return (yield from total(1, 2))
        finally:
            closed.append(True)

    async def answer(request: Request) -> Reply:
        asked.append(request)
        await asyncio.Event().wait()
        raise AssertionError("never reached")

    task = asyncio.create_task(_as_coroutine(arun(flow(), answer)))
    while not asked:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == [True]
    assert asked == [Double(1)]


async def _as_coroutine(awaitable: Awaitable[int]) -> int:
    return await awaitable


def test_requests_and_replies_have_no_dict() -> None:
    assert not hasattr(Request(), "__dict__")
    assert not hasattr(Reply(), "__dict__")


def test_expect_gives_the_very_reply() -> None:
    reply = Number(1)
    assert expect(reply, Number) is reply
