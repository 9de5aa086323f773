"""Callbacks of the app: called, awaited where they are async, and logged where they fail."""

from __future__ import annotations

import functools

import pytest

from usersessions.callbacks import call, call_awaited, call_plain, is_async

pytestmark = pytest.mark.anyio


def test_a_callback_that_fails_is_logged_by_its_name_and_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(argument: object) -> None:
        raise LookupError("the app's own")

    assert call(fail, 1, what="on_connect", client="c1") is None
    (record,) = caplog.records
    assert record.message == "the on_connect callback of client c1 failed"
    assert record.exc_info is not None and record.exc_info[0] is LookupError


@pytest.mark.parametrize("fails", [False, True])
async def test_an_async_callback_is_awaited_and_logged_where_it_fails(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[object] = []

    async def callback(argument: object) -> None:
        called.append(argument)
        if fails:
            raise LookupError("the app's own")

    await call_awaited(callback, 1, what="on_connect", client="c1")
    await call_awaited(called.append, 2, what="on_connect", client="c1")
    assert called == [1, 2]
    assert len(caplog.records) == fails


def test_a_callback_that_would_have_to_be_awaited_is_logged_where_nothing_can(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def callback(argument: object) -> None:
        raise AssertionError("never run")

    call_plain(lambda argument: callback(argument), 1, what="close", client="c1")
    call_plain(print, 1, what="close", client="c1")
    assert [one.message for one in caplog.records] == [
        "the close callback of client c1 has to be awaited, which UserSessions cannot"
    ]


def test_async_callables_of_every_kind_are_known() -> None:
    async def function() -> None: ...

    class Called:
        async def __call__(self) -> None: ...

        async def method(self) -> None: ...

    kinds = [function, functools.partial(function), Called(), Called().method]
    assert all(is_async(kind) for kind in kinds)
    assert not any(is_async(kind) for kind in [print, functools.partial(print), Called, None])
