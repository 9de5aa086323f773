"""Closing and keeping out, refreshing and expiring, limits, events and draining, on both faces."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import jwt
import pytest

from tests.conformance.connections import Connections, refused_code, token
from tests.conformance.stores import (
    APART,
    FORKED,
    ON_LOOPS,
    ON_MEMORY,
    ON_ONE_NODE,
    SECRET,
    WITH_ENDS,
    Clock,
    over,
    until,
    verifier,
)
from usersessions import (
    Closed,
    ConfigError,
    ConnectRefused,
    ConnectRequest,
    Disconnect,
    Identity,
    InvalidValue,
    SessionLimit,
    TokenError,
    TokenRevoked,
    UserSessions,
)
from usersessions.flows import Reply, Request, run

DAY = 24 * 3600
pytestmark = pytest.mark.anyio


async def test_disconnect_says_which_connections_have_ended(make: Callable[..., Any]) -> None:
    face = make(verifier())
    async with Connections(face) as connections, face.connect(user="42", transport="sse") as stuck:
        one, other = [await connections.open(user="42") for _ in range(2)]
        ended = await face.disconnect("42", timeout=0.3)
        assert set(ended.closed) == {one.client, other.client}
        assert ended.unconfirmed == (stuck.client,)
        assert connections.ended[one.client] == Disconnect(3503, "force disconnect")


async def test_disconnect_takes_only_connections_with_these_labels(
    make: Callable[..., Any],
) -> None:
    face = make(verifier())
    async with Connections(face) as connections:
        labels = [{"device": "phone", "beta": "yes"}, {"device": "phone"}, {}]
        phone_beta, phone, _ = [
            await connections.open(identity=Identity("42", labels=one)) for one in labels
        ]
        ended = await face.disconnect("42", label_filter={"device": "phone", "beta": "yes"})
        assert ended.closed == (phone_beta.client,)
        ended = await face.disconnect("42", label_filter={"device": "phone"})
        assert ended.closed == (phone.client,)


async def test_revoking_keeps_the_token_out_and_leaves_other_devices_alone(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    phone = token(clock, jti="phone", exp=int(clock.now) + DAY)
    laptop = token(clock, jti="laptop", exp=int(clock.now) + DAY)
    async with Connections(face) as connections:
        first_tab = await connections.open(token=phone)
        second_tab = await connections.open(token=phone)
        await connections.open(token=laptop)
        ended = await face.disconnect("42", client=first_tab.client, revoke=True)
        assert set(ended.closed) == {first_tab.client, second_tab.client}
        assert ended.not_revocable == ()
        assert await refused_code(connections, token=phone) == 3500
        with pytest.raises(TokenRevoked, match="the token is revoked"):
            await face.authenticate(phone)
        await connections.open(token=laptop)
        assert (await face.authenticate(laptop)).user == "42"


async def test_a_session_without_a_token_id_is_said_to_be_not_revocable(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    async with Connections(face) as connections:
        without = await connections.open(token=token(clock))
        ended = await face.disconnect("42", revoke=True)
        assert ended == Closed((without.client,), (), (without.client,))


async def test_the_token_of_a_whitelisted_session_is_spared(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    mine, others = token(clock, jti="mine"), token(clock, jti="others")
    async with Connections(face) as connections:
        current = await connections.open(token=mine)
        my_other_tab = await connections.open(token=mine)
        other = await connections.open(token=others)
        ended = await face.disconnect("42", whitelist=[current.client], revoke=True)
        assert ended.closed == (other.client,)
        assert set(await face.user_connections("42")) == {current.client, my_other_tab.client}
        await face.authenticate(mine)


# Thirty days cannot be waited for where the clock is real.
@over(ON_MEMORY)
async def test_a_revocation_lasts_as_long_as_its_token(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    async with Connections(face) as connections:
        await connections.open(token=token(clock, jti="short", exp=int(clock.now) + 60))
        await connections.open(token=token(clock, jti="endless"))
        await face.disconnect("42", revoke=True)
        endless = token(clock, jti="endless")
        clock.now += 30 * DAY - 1
        with pytest.raises(TokenRevoked):
            await face.authenticate(endless)
        clock.now += 2
        await face.authenticate(endless)


async def test_a_blocked_user_is_closed_and_kept_out_until_unblocked(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    async with Connections(face) as connections:
        session = await connections.open(user="42")
        other = await connections.open(user="43")
        ended = await face.block_user("42")
        assert ended.closed == (session.client,)
        assert connections.ended == {session.client: Disconnect(3503, "force disconnect")}
        assert await refused_code(connections, user="42") == 3503
        assert await refused_code(connections, token=token(clock)) == 3503
        with pytest.raises(TokenRevoked, match="the user is blocked"):
            await face.authenticate(token(clock))
        await face.unblock_user("42")
        await connections.open(token=token(clock))
        assert list(await face.user_connections("43")) == [other.client]


@over(WITH_ENDS)
async def test_a_block_ends_by_itself(make: Callable[..., Any], clock: Clock) -> None:
    face = make(verifier())
    async with Connections(face) as connections:
        ends = clock.soon()
        await face.block_user("42", expire_at=ends)
        assert await refused_code(connections, user="42") == 3503
        await clock.reach(ends)
        await connections.open(user="42")


@over(WITH_ENDS)
async def test_a_revoked_token_closes_its_sessions_and_is_kept_out(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    async with Connections(face) as connections:
        session = await connections.open(token=token(clock, jti="t1"))
        await connections.open(token=token(clock, jti="t2"))
        ends = clock.soon()
        ended = await face.revoke_token("t1", expire_at=ends)
        assert ended.closed == (session.client,)
        assert connections.ended == {session.client: Disconnect(3500, "invalid token")}
        assert await refused_code(connections, token=token(clock, jti="t1")) == 3500
        await clock.reach(ends)
        await connections.open(token=token(clock, jti="t1"))


async def test_invalidating_hits_the_tokens_issued_before(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    old = token(clock, jti="old")
    without_iat = jwt.encode({"sub": "42"}, SECRET, algorithm="HS256")
    clock.now += 60
    async with Connections(face) as connections:
        hit = [await connections.open(token=one) for one in (old, without_iat)]
        spared = await connections.open(token=token(clock, jti="new"))
        by_the_app = await connections.open(user="42")
        ended = await face.invalidate_user_tokens("42")
        assert set(ended.closed) == {session.client for session in hit}
        assert connections.ended[hit[0].client] == Disconnect(3500, "invalid token")
        assert set(await face.user_connections("42")) == {spared.client, by_the_app.client}
        for refused in (old, without_iat):
            assert await refused_code(connections, token=refused) == 3500
            with pytest.raises(TokenRevoked):
                await face.authenticate(refused)
        clock.now += 1
        await connections.open(token=token(clock))


@over(WITH_ENDS)
async def test_invalidating_takes_another_moment_and_another_end(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    first = token(clock)
    clock.now += 60
    second = token(clock)
    before, ends = clock.now - 30, clock.soon()
    await face.invalidate_user_tokens("42", issued_before=before, expire_at=ends)
    await face.authenticate(second)
    with pytest.raises(TokenRevoked):
        await face.authenticate(first)
    await clock.reach(ends)
    await face.authenticate(first)


@over(ON_MEMORY)  # no store is asked
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("block_user", {"user": ""}),
        ("block_user", {"user": "42", "expire_at": "soon"}),
        ("unblock_user", {"user": ""}),
        ("revoke_token", {"uid": ""}),
        ("revoke_token", {"uid": "t1", "expire_at": float("nan")}),
        ("invalidate_user_tokens", {"user": ""}),
        ("invalidate_user_tokens", {"user": "42", "issued_before": True}),
        ("refresh", {"user": 42}),
        ("refresh", {"user": "42", "expire_at": "never"}),
        ("refresh", {"user": "42", "expired": True, "timeout": 99}),
    ],
)
async def test_values_out_of_bounds_are_refused(
    make: Callable[..., Any], method: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidValue):
        await getattr(make(verifier()), method)(**arguments)


async def test_a_session_expires_after_its_grace_and_not_before(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    node = face.sessions.operations.node
    async with Connections(face) as connections:
        session = await connections.open(token=token(clock, exp=int(clock.now) + 60))
        await connections.open(token=token(clock))
        clock.now += 84.9
        node.expire()
        assert connections.ended == {}
        clock.now += 0.2
        node.expire()
        await until(lambda: connections.ended)
        assert connections.ended == {session.client: Disconnect(3005, "connection expired")}


async def test_a_timer_expires_sessions_by_itself(make: Callable[..., Any]) -> None:
    now = time.time()
    # The grace is part of the deadline: it is nearly over when the session begins.
    face = make(clock=time.time)
    async with Connections(face) as connections:
        first = await connections.open(identity=Identity("42", expire_at=now - 24.9))
        later = await connections.open(identity=Identity("42", expire_at=now + 3600))
        await until(lambda: connections.ended)
        assert list(connections.ended) == [first.client]
        await face.lists([later.client])
        assert await face.refresh("42", expire_at=now - 25) == (later.client,)
        await until(lambda: len(connections.ended) == 2)


async def test_a_session_is_refreshed_by_a_new_token_of_its_user(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    node = face.sessions.operations.node
    async with Connections(face) as connections:
        session = await connections.open(token=token(clock, jti="t1", exp=int(clock.now) + 60))
        clock.now += 70
        await face.refresh_session(session, token(clock, jti="t2", exp=int(clock.now) + 600))
        clock.now += 60
        node.expire()
        (info,) = (await face.user_connections("42")).values()
        assert info.expire_at == int(clock.now - 60) + 600
        # It belongs to the new token now: the old one's fate is not its own any more.
        assert (await face.revoke_token("t1")).closed == ()
        assert (await face.revoke_token("t2")).closed == (session.client,)


async def test_a_bad_refresh_leaves_the_session_as_it_was(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    async with Connections(face) as connections:
        session = await connections.open(token=token(clock, jti="t1", exp=int(clock.now) + 60))
        before = (await face.user_connections("42"))[session.client]
        await face.revoke_token("t2")
        bad = [
            token(clock, sub="43"),
            token(clock, exp=1),
            token(clock, jti="t2"),
            "nonsense",
        ]
        for one in bad:
            with pytest.raises(TokenError):
                await face.refresh_session(session, one)
        assert (await face.user_connections("42"))[session.client] == before
        await face.disconnect("42")
        with pytest.raises(ConnectRefused) as ended:
            await face.refresh_session(session, token(clock))
        assert ended.value.code == 3000


async def test_a_token_blocked_between_its_check_and_its_use_refreshes_nothing(
    make: Callable[..., Any], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    face = make(verifier())
    operations = face.sessions.operations
    async with Connections(face) as connections:
        session = await connections.open(token=token(clock, jti="t1"))
        await face.revoke_token("t2")

        def unchecked(one: str) -> Any:
            return (yield from operations._verifier.identify(one, now=clock.now))

        monkeypatch.setattr(operations, "authenticate", unchecked)
        with pytest.raises(TokenRevoked):
            await face.refresh_session(session, token(clock, jti="t2"))


async def test_the_server_refreshes_and_expires_sessions(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    node = face.sessions.operations.node
    async with Connections(face) as connections:
        first = await connections.open(token=token(clock, exp=int(clock.now) + 60))
        second = await connections.open(token=token(clock, exp=int(clock.now) + 60))
        assert await face.refresh("42", client=first.client, expire_at=clock.now + 600) == (
            first.client,
        )
        clock.now += 100
        node.expire()
        await until(lambda: connections.ended)
        assert list(connections.ended) == [second.client]
        assert await face.refresh("42", expire_at=0) == (first.client,)
        clock.now += 10_000
        node.expire()
        assert await face.refresh("42", expired=True) == (first.client,)
        assert connections.ended[first.client] == Disconnect(3005, "connection expired")


async def test_a_limit_refuses_one_session_too_many(make: Callable[..., Any]) -> None:
    face = make(verifier(), limit=SessionLimit(2))
    async with Connections(face) as connections:
        first = await connections.open(user="42")
        await connections.open(user="42")
        assert await refused_code(connections, user="42") == 3504
        await connections.open(user="43")
        await face.disconnect("42", client=first.client)
        await connections.open(user="42")


async def test_a_limit_evicts_the_session_that_was_connected_first(
    make: Callable[..., Any],
) -> None:
    face = make(verifier(), limit=SessionLimit(2, policy="evict_oldest"))
    async with Connections(face) as connections:
        first, second, third = [await connections.open(user="42") for _ in range(3)]
        await until(lambda: connections.ended)
        assert connections.ended == {first.client: Disconnect(3504, "connection limit")}
        assert list(await face.user_connections("42")) == [second.client, third.client]


async def test_a_limit_evicts_the_session_that_is_idle(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier(), limit=SessionLimit(3, policy="evict_idle"))
    async with Connections(face) as connections:
        sessions = []
        for _ in range(3):
            clock.now += 1
            sessions.append(await connections.open(user="42"))
        clock.now += 1
        sessions[0].touch()
        await connections.open(user="42")
        await until(lambda: connections.ended)
        assert list(connections.ended) == [sessions[1].client]


async def test_a_limit_may_count_each_app_by_itself(make: Callable[..., Any]) -> None:
    face = make(verifier(), limit=SessionLimit(1, policy="evict_oldest", per_app=True))
    async with Connections(face) as connections:
        web = await connections.open(user="42", app_name="web")
        await connections.open(user="42", app_name="phone")
        await connections.open(user="42")
        await connections.open(user="42", app_name="web")
        await until(lambda: connections.ended)
        assert list(connections.ended) == [web.client]


async def test_a_hundred_connects_at_once_leave_exactly_the_limit(
    make: Callable[..., Any],
) -> None:
    face = make(verifier(), limit=SessionLimit(5, policy="evict_oldest"))
    async with Connections(face) as connections:
        await asyncio.gather(*(connections.open(user="42") for _ in range(100)))
        await until(lambda: len(connections.ended) == 95)
        assert len(await face.user_connections("42")) == 5


async def test_events_tell_of_each_session_and_its_end(
    make: Callable[..., Any], clock: Clock
) -> None:
    events: list[tuple[Any, ...]] = []
    face = make(
        verifier(),
        on_connect=lambda session: events.append(("connect", session.client)),
        on_disconnect=lambda session, disconnect, lived: events.append(
            ("disconnect", session.client, disconnect.code, lived)
        ),
    )
    async with face.connect(user="42", transport="websocket") as gone:
        clock.now += 7
    async with Connections(face) as connections:
        closed = await connections.open(user="42")
        clock.now += 2
        await face.disconnect("42", code=4001)
    assert events == [
        ("connect", gone.client),
        ("disconnect", gone.client, 3000, 7.0),
        ("connect", closed.client),
        ("disconnect", closed.client, 4001, 2.0),
    ]


async def test_no_event_tells_of_a_refused_connection(make: Callable[..., Any]) -> None:
    events: list[object] = []
    face = make(
        verifier(),
        limit=SessionLimit(1),
        on_connect=events.append,
        on_disconnect=lambda *arguments: events.append(arguments),
    )
    async with Connections(face) as connections:
        await connections.open(user="42")
        assert await refused_code(connections, user="42") == 3504
        assert len(events) == 1


async def test_an_event_callback_that_fails_is_logged_and_harms_nothing(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise LookupError("the app's own")

    face = make(verifier(), on_connect=fail, on_disconnect=fail)
    async with face.connect(user="42", transport="websocket") as session:
        assert list(await face.user_connections("42")) == [session.client]
    failures = [one.message for one in caplog.records if one.levelno == logging.ERROR]
    assert failures == [
        f"the on_connect callback of client {session.client} failed",
        f"the on_disconnect callback of client {session.client} failed",
    ]


@over(ON_LOOPS)
async def test_async_events_are_awaited_where_they_can_be(make: Callable[..., Any]) -> None:
    events: list[str] = []
    gone = asyncio.Event()

    async def on_connect(session: object) -> None:
        await asyncio.sleep(0)
        events.append("connect")

    async def on_disconnect(session: object, disconnect: object, lived: float) -> None:
        await asyncio.sleep(0)
        events.append("disconnect")
        gone.set()

    face = make(on_connect=on_connect, on_disconnect=on_disconnect)
    async with face.connect(user="42", transport="websocket"):
        assert events == ["connect"]
    await asyncio.wait_for(gone.wait(), 5)
    with pytest.raises(ConfigError, match="UserSessions cannot await"):
        UserSessions(on_connect=on_connect)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="UserSessions cannot await"):
        UserSessions(on_disconnect=on_disconnect)  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", [KeyboardInterrupt, asyncio.CancelledError, SystemExit])
async def test_a_session_whose_connect_event_interrupts_it_is_gone_and_said_so_once(
    make: Callable[..., Any], ending: type[BaseException]
) -> None:
    events: list[str] = []

    def on_connect(session: Any) -> None:
        events.append("connect")
        raise ending

    face = make(
        verifier(), on_connect=on_connect, on_disconnect=lambda *_: events.append("disconnect")
    )
    with pytest.raises(BaseException) as raised:
        async with face.connect(user="42", transport="websocket"):
            raise AssertionError("never connected")
    # asyncio hands a SystemExit of a thread on as a RuntimeError.
    assert raised.type in (ending, RuntimeError)
    assert events == ["connect", "disconnect"]
    await face.lists([])


@over(ON_LOOPS)
async def test_a_session_cancelled_in_its_connect_event_is_gone_and_said_so_once(
    make: Callable[..., Any],
) -> None:
    events: list[str] = []
    begun = asyncio.Event()

    async def on_connect(session: object) -> None:
        events.append("connect")
        begun.set()
        await asyncio.Event().wait()

    face = make(on_connect=on_connect, on_disconnect=lambda *_: events.append("disconnect"))

    async def handle() -> None:
        async with face.connect(user="42", transport="websocket"):
            raise AssertionError("never connected")

    task = asyncio.create_task(handle())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events == ["connect", "disconnect"]
    await face.lists([])


@over(ON_LOOPS)
async def test_an_async_event_that_fails_or_is_cancelled_harms_nothing(
    make: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(*arguments: object) -> None:
        raise LookupError("the app's own")

    async def cancel(*arguments: object) -> None:
        raise asyncio.CancelledError

    face = make(on_connect=fail, on_disconnect=cancel)
    async with face.connect(user="42", transport="websocket") as session:
        assert list(await face.user_connections("42")) == [session.client]
    await asyncio.sleep(0)
    failures = [one.message for one in caplog.records if one.levelno == logging.ERROR]
    assert failures == [f"the on_connect callback of client {session.client} failed"]


async def test_a_session_that_ends_itself_says_with_which_disconnect(
    make: Callable[..., Any],
) -> None:
    ended: list[Disconnect] = []
    face = make(
        verifier(), on_disconnect=lambda session, disconnect, lived: ended.append(disconnect)
    )
    async with face.connect(user="42", transport="websocket") as session:
        # Nothing is awaited between being told and the end of the block.
        await face.disconnect("42", code=4001, timeout=0)
        await face.told(lambda: session.disconnect is not None)
    assert ended == [Disconnect(4001)]
    assert session.disconnect == Disconnect(4001)


async def test_a_connection_held_twice_is_refused_and_its_session_goes_on(
    make: Callable[..., Any],
) -> None:
    events: list[str] = []
    face = make(
        verifier(),
        on_connect=lambda session: events.append("connect"),
        on_disconnect=lambda *_: events.append("disconnect"),
    )
    sessions = face.sessions
    admitted = run(
        sessions.operations.admit(ConnectRequest("c1", "websocket"), user="42"), answer_nothing
    )
    async with face.hold(admitted):
        with pytest.raises(InvalidValue, match="client c1 is registered already"):
            async with face.hold(admitted):
                raise AssertionError("never held")
        assert list(await face.user_connections("42")) == ["c1"]
        assert events == ["connect"]
    assert events == ["connect", "disconnect"]


def answer_nothing(request: Request) -> Reply:
    raise AssertionError("nothing is asked")


async def test_a_session_whose_registration_is_interrupted_leaves_nothing(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[object] = []
    face = make(
        verifier(), on_connect=events.append, on_disconnect=lambda *_: events.append("disconnect")
    )
    operations = face.sessions.operations
    register = operations.register

    def interrupted(*arguments: Any) -> Any:
        yield from register(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(operations, "register", interrupted)
    with pytest.raises(KeyboardInterrupt):
        async with face.connect(user="42", transport="websocket"):
            raise AssertionError("never connected")
    assert operations.node.registry.counts() == (0, 0)
    assert events == []


@over(ON_LOOPS)
async def test_a_disconnect_that_is_cancelled_has_told_and_waits_for_nobody(
    make: Callable[..., Any],
) -> None:
    face = make()
    async with face.connect(user="42", transport="websocket") as session:
        waiting = asyncio.create_task(face.disconnect("42", timeout=60))
        assert await session.closed == Disconnect(3503, "force disconnect")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert face.sessions.operations.node.registry._farewells == {}


async def test_tokens_without_an_id_leave_nothing_behind(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    async with face.connect(token=token(clock, jti=""), transport="websocket"):
        ended = await face.disconnect("42", revoke=True, timeout=0)
        assert ended.not_revocable == ended.unconfirmed != ()
    assert face.sessions.operations.node.registry._tokens == {}


async def test_invalidating_hits_also_connections_of_tokens_that_the_app_authenticated(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    without_iat = jwt.encode({"sub": "42", "jti": "t1"}, SECRET, algorithm="HS256")
    async with Connections(face) as connections:
        identity = await face.authenticate(without_iat)
        session = await connections.open(identity=identity)
        assert (await face.invalidate_user_tokens("42")).closed == (session.client,)
        assert await refused_code(connections, identity=identity) == 3500


async def test_a_token_of_nobody_authenticates_only_where_anonymous_users_are_allowed(
    make: Callable[..., Any], clock: Clock
) -> None:
    anonymous = token(clock, sub="")
    with pytest.raises(TokenError, match="anonymous users are not allowed"):
        await make(verifier()).authenticate(anonymous)
    assert (await make(verifier(), allow_anonymous=True).authenticate(anonymous)).user == ""


@over(ON_MEMORY)  # no store is asked
@pytest.mark.parametrize(
    "settings",
    [
        {"limit": 5},
        {"end_others_min_age": "a day"},
        {"end_others_min_age": -1},
        {"end_others_min_age": float("nan")},
        {"end_others_min_age": True},
    ],
)
async def test_settings_that_cannot_work_are_refused_when_they_are_made(
    make: Callable[..., Any], settings: dict[str, Any]
) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=name):
        make(verifier(), **settings)


FORK = """
import os, sys
from usersessions import MemoryStore, RedisStore, UserSessions

gone = lambda session, disconnect, lived: print("gone", os.getpid() == parent, flush=True)
parent = os.getpid()
store = RedisStore(sys.argv[1], prefix="forked") if sys.argv[1] else MemoryStore()
sessions = UserSessions(store=store, on_disconnect=gone)
with sessions.connect(user="42", transport="sse"):
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        assert len(sessions.user_connections("42")) == 1
"""


@over(FORKED)
async def test_the_end_of_a_session_is_told_in_the_process_that_had_it_alone(url: str) -> None:
    command = [sys.executable, "-c", FORK, url]
    output = await asyncio.to_thread(
        subprocess.run, command, check=True, capture_output=True, text=True
    )
    assert output.stdout == "gone True\n"


async def test_each_session_leaves_two_lines_in_the_log_without_its_secrets(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    face = make(verifier())
    identity = Identity("42", meta={"secret": "swordfish"}, token_id="swordfish")
    with caplog.at_level(logging.DEBUG, "usersessions"):
        async with face.connect(identity=identity, transport="websocket") as session:
            pass
    records = [one for one in caplog.records if one.name == "usersessions.sessions"]
    said = [one.getMessage() for one in records]
    facts = ("client", "user", "transport", "code", "lived")
    assert [{name: vars(one).get(name) for name in facts} for one in records] == [
        {
            "client": session.client,
            "user": "42",
            "transport": "websocket",
            "code": None,
            "lived": None,
        },
        {"client": session.client, "user": "42", "transport": None, "code": 3000, "lived": 0.0},
    ]
    assert said == [
        f"client {session.client} connected: user '42' over websocket",
        f"client {session.client} ended: user '42', code 3000, after 0.0 s",
    ]
    assert "swordfish" not in caplog.text


async def test_draining_refuses_new_sessions_and_counts_those_left(
    make: Callable[..., Any],
) -> None:
    face = make(verifier())
    async with Connections(face) as connections, face.connect(user="42", transport="sse"):
        session = await connections.open(user="42")
        with pytest.raises(InvalidValue, match="timeout must be a number of seconds"):
            await face.drain(timeout="soon")
        assert await face.drain(timeout=0.2) == 1
        assert connections.ended == {session.client: Disconnect(3001, "shutdown")}
        assert await refused_code(connections, user="42") == 3001
    assert await face.drain() == 0


@over(ON_ONE_NODE)
async def test_touching_is_seen_in_lists(make: Callable[..., Any], clock: Clock) -> None:
    face = make(verifier())
    async with face.connect(
        user="42", transport="websocket", remote_addr="192.0.2.7", user_agent="curl/8.5.0"
    ) as session:
        (info,) = (await face.user_connections("42")).values()
        assert (info.connected_at, info.last_seen) == (clock.now, clock.now)
        assert (info.remote_addr, info.device) == ("192.0.2.7", "curl")
        clock.now += 5
        session.touch()
        (info,) = (await face.user_connections("42")).values()
        assert (info.connected_at, info.last_seen) == (clock.now - 5, clock.now)
        assert session.connected_at == clock.now - 5


@over(APART)
async def test_touching_is_seen_on_other_nodes_after_a_while(make: Callable[..., Any]) -> None:
    face = make(clock=time.time)
    async with face.connect(user="42", transport="websocket") as session:
        (info,) = (await face.user_connections("42")).values()
        assert info.last_seen == info.connected_at
        session.touch()
        touched = time.time()
        deadline = time.monotonic() + 10
        while info.last_seen == info.connected_at:
            assert time.monotonic() < deadline
            (info,) = (await face.user_connections("42")).values()
        assert info.last_seen == pytest.approx(touched, abs=0.5)


async def test_the_server_api_has_all_of_it(make: Callable[..., Any], clock: Clock) -> None:
    face = make(verifier())

    async def ask(method: str, **params: object) -> Any:
        body = json.dumps({"method": method, "params": params}).encode()
        return json.loads(await face.dispatch(body))

    async with Connections(face) as connections, AsyncExitStack():
        first = await connections.open(token=token(clock, jti="t1"))
        reply = await ask("disconnect", user="42", session=first.client, revoke=True)
        ended = {"closed": [first.client], "unconfirmed": [], "not_revocable": []}
        assert reply == {"result": ended}
        assert await refused_code(connections, token=token(clock, jti="t1")) == 3500

        second = await connections.open(token=token(clock, jti="t2"))
        assert await ask("refresh", user="42", expire_at=int(clock.now) + 9) == {"result": {}}
        (info,) = (await face.user_connections("42")).values()
        assert info.expire_at == int(clock.now) + 9
        assert await ask("refresh", user="42", expired=True) == {"result": {}}
        assert connections.ended[second.client].code == 3005

        third = await connections.open(token=token(clock, jti="t3"))
        assert (await ask("revoke_token", uid="t3"))["result"]["closed"] == [third.client]
        fourth = await connections.open(token=token(clock))
        reply = await ask("invalidate_user_tokens", user="42", issued_before=int(clock.now) + 1)
        assert reply["result"]["closed"] == [fourth.client]
        fifth = await connections.open(user="42")
        assert (await ask("block_user", user="42"))["result"]["closed"] == [fifth.client]
        assert await refused_code(connections, user="42") == 3503
        assert await ask("unblock_user", user="42") == {"result": {}}
        await connections.open(user="42")

        assert (await ask("block_user", user=""))["error"] == {
            "code": 107,
            "message": "bad request: user must not be empty",
        }
