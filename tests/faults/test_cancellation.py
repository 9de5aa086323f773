"""Every operation is cancelled at each of its awaits: it was done or not, and nothing leaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Any, Literal, TypeAlias

import pytest

from tests.faults.here import CERTAIN, LEASE, SECRET, Here, sees, sees_all, token_of
from tests.redis_servers import RedisServer
from tests.servers import until
from usersessions import (
    AsyncUserSessions,
    Identity,
    Key,
    RedisStore,
    SessionLimit,
    TokenVerifier,
)

pytestmark = pytest.mark.anyio

When: TypeAlias = Literal["while it waits", "as it goes on"]

_prefixes = count()


class _Cancelling:
    """An awaitable, cancelled at its k-th wait; `was` says whether it came to that."""

    def __init__(self, inner: Awaitable[object], when: When, k: int) -> None:
        self._inner = inner
        self._when = when
        self._left = k
        self.was = False

    def __await__(self) -> Generator[Any, Any, object]:
        steps = self._inner.__await__()
        act: Callable[[], Any] = partial(next, steps)
        while True:
            try:
                waits_for = act()
            except StopIteration as end:
                return end.value
            self._left -= 1
            if not self._left:
                self.was = True
                if self._when == "while it waits":
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()
            try:
                yield waits_for
            except BaseException as error:
                act = partial(steps.throw, error)
            else:
                act = partial(next, steps)
                if not self._left and self._when == "as it goes on":
                    # What it waited for is there, and so is the cancellation.
                    act = partial(steps.throw, asyncio.CancelledError())


async def cancel(inner: Awaitable[object], when: When, k: int) -> bool:
    """Run something that is cancelled at its k-th wait, and say whether it came to that."""
    cancelling = _Cancelling(inner, when, k)

    async def run() -> None:
        await cancelling

    task = asyncio.create_task(run())
    await asyncio.wait((task,))
    assert task.cancelled() == cancelling.was
    if not cancelling.was:
        task.result()
    return cancelling.was


@asynccontextmanager
async def made(
    url: str, *, prefix: str, limit: SessionLimit | None = None
) -> AsyncGenerator[AsyncUserSessions, None]:
    """An async facade over a store of its own."""
    store = RedisStore(url, prefix=prefix, lease=LEASE, timeout=1.0)
    sessions = AsyncUserSessions(
        TokenVerifier(Key(SECRET, algorithm="HS256")), store=store, limit=limit
    )
    try:
        yield sessions
    finally:
        await sessions.aclose(timeout=0.5)


async def patiently(act: Callable[[], object]) -> None:
    """Do something that blocks."""
    await asyncio.to_thread(act)


def settled(server: RedisServer, sessions: AsyncUserSessions, prefix: str, left: set[str]) -> None:
    """Wait until nothing is left of an operation, in the process and in Redis, but sessions."""
    store = sessions.store
    assert isinstance(store, RedisStore)
    engine = store._engine()
    member = engine.member

    def is_clean() -> bool:
        return (
            set(store.node.registry.clients()) == left
            and not (member.has_due or member._pending or member._doubt or member._ended)
            and member.orders.undecided == 0
            and not engine.protocol._waits
            and set(server.cli("HKEYS", f"{prefix}:{{u:42}}")) == left
        )

    until(is_clean, what="nothing to be left", seconds=CERTAIN)


@pytest.mark.parametrize("when", ["while it waits", "as it goes on"])
@pytest.mark.parametrize("limit", [None, SessionLimit(1)], ids=["any number", "one"])
@pytest.mark.parametrize("is_known", [True, False], ids=["known scripts", "unknown scripts"])
async def test_a_connection_that_is_cancelled_at_any_await_leaves_nothing(
    when: When, limit: SessionLimit | None, is_known: bool, redis_server: RedisServer
) -> None:
    """Promises 14 (cancellation) and 4 (no resurrection)."""
    prefix = f"case-{next(_prefixes)}"
    async with made(redis_server.url, prefix=prefix, limit=limit) as sessions:

        async def connect() -> None:
            async with sessions.connect(user="42", transport="sse"):
                pass

        for k in range(1, 9):
            if not is_known:
                await patiently(partial(redis_server.cli, "SCRIPT FLUSH"))
            was = await cancel(connect(), when, k)
            await patiently(partial(settled, redis_server, sessions, prefix, set()))
            assert await sessions.user_connections("42") == {}
            if not was:
                break
        else:
            raise AssertionError("a connection never came to be")
        assert k > 1


OPERATIONS: dict[str, Callable[[AsyncUserSessions], Awaitable[object]]] = {
    "list": lambda sessions: sessions.user_connections("42"),
    "info": lambda sessions: sessions.info(),
    "authenticate": lambda sessions: sessions.authenticate(token_of("42", "t1")),
    "refresh": lambda sessions: sessions.refresh("42", expire_at=2.0**32),
    "unblock": lambda sessions: sessions.unblock_user("42"),
    "own list": lambda sessions: sessions.own(Identity("42")).list(),
    "disconnect": lambda sessions: sessions.disconnect("42"),
    "disconnect and revoke": lambda sessions: sessions.disconnect("42", revoke=True),
    "block": lambda sessions: sessions.block_user("42"),
    "revoke": lambda sessions: sessions.revoke_token("t1"),
    "invalidate": lambda sessions: sessions.invalidate_user_tokens("42"),
    "own end others": lambda sessions: sessions.own(token_of("42", "t2")).end_others(),
    "dispatch": lambda sessions: sessions.dispatch(
        b'{"method":"disconnect","params":{"user":"42"}}'
    ),
}


@pytest.mark.parametrize("when", ["while it waits", "as it goes on"])
@pytest.mark.parametrize("name", OPERATIONS)
async def test_an_operation_that_is_cancelled_at_any_await_may_be_done_again(
    name: str, when: When, redis_server: RedisServer
) -> None:
    """Promises 14 (cancellation), 8 (idempotent), 6 (a disconnect is not lost)."""
    prefix = f"case-{next(_prefixes)}"
    operation = OPERATIONS[name]
    url = redis_server.url
    async with made(url, prefix=prefix) as sessions:
        with Here(url, prefix=prefix) as node:
            first = await asyncio.to_thread(node.open, "42", token=token_of("42", "t1"))
            for k in range(1, 16):
                was = await cancel(operation(sessions), when, k)
                if not was:
                    break
            else:
                raise AssertionError("it never came to an end")
            assert k > 1
            ends = not {"list", "info", "authenticate", "refresh", "unblock", "own list"} & {name}
            left = set() if ends else {first}
            await patiently(partial(sees, node, "42", left))
            assert (node.code(first) is not None) == ends
            store = sessions.store
            assert isinstance(store, RedisStore)
            assert store._engine().protocol._waits == {}
            # What is cancelled once the order is given is done all the same.
            if ends:
                await sessions.unblock_user("42")
                again = await asyncio.to_thread(node.open, Identity("42"))
                await patiently(partial(sees_all, node, "42", {again}))
                assert node.code(again) is None


@pytest.mark.parametrize("when", ["while it waits", "as it goes on"])
async def test_another_token_that_is_cancelled_at_any_await_is_taken_or_not(
    when: When, redis_server: RedisServer
) -> None:
    """Promises 14 (cancellation) and 10: Redis says in the end what the process says."""
    prefix = f"case-{next(_prefixes)}"
    async with (
        made(redis_server.url, prefix=prefix) as sessions,
        sessions.connect(token=token_of("42", "t0"), transport="sse") as session,
    ):
        k, record = 0, b""
        for k in range(1, 16):
            was = await cancel(session.refresh(token_of("42", f"t{k}")), when, k)
            await patiently(partial(settled, redis_server, sessions, prefix, {session.client}))
            record = sessions.operations.node.registry.records("42")[session.client]
            stored = await asyncio.to_thread(
                redis_server.cli, "HGET", f"{prefix}:{{u:42}}", session.client
            )
            assert stored.endswith(record.decode())
            if not was:
                break
        assert k > 1
        assert f'"t{k}"'.encode() in record


async def test_many_connections_that_are_cancelled_at_random_leave_nothing(
    redis_server: RedisServer,
) -> None:
    """Promises 14 (cancellation) and 16 (bounded resources)."""
    prefix = f"case-{next(_prefixes)}"
    async with made(redis_server.url, prefix=prefix) as sessions:

        async def hold() -> None:
            async with sessions.connect(user="42", transport="sse") as session:
                await session.closed

        tasks = [asyncio.create_task(hold()) for _ in range(200)]
        began = time.monotonic()
        for number, task in enumerate(tasks):
            if number % 20 == 0:
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait(tasks)
        assert time.monotonic() - began < CERTAIN
        assert all(task.cancelled() for task in tasks)
        await patiently(partial(settled, redis_server, sessions, prefix, set()))
