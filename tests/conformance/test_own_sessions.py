"""A user's own sessions, on both faces: only ever the caller's, and never their `meta`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jwt
import pytest

from tests.conformance.connections import Connections, refused_code, token
from tests.conformance.stores import ON_MEMORY, SECRET, Clock, over, verifier
from usersessions import (
    Identity,
    InvalidValue,
    NoSuchSession,
    SessionTooYoung,
    TokenError,
    TokenRevoked,
)
from usersessions.own_sessions import OwnOperations
from usersessions.stores.base import EndRequest

HOUR = 3600.0
pytestmark = pytest.mark.anyio


async def test_the_list_is_the_callers_own_and_marks_the_current_one(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    phone, laptop = token(clock, jti="phone", meta={"plan": "pro"}), token(clock, jti="laptop")
    async with Connections(face) as connections:
        first = await connections.open(token=phone, app_name="phone", remote_addr="192.0.2.7")
        second = await connections.open(token=laptop, user_agent="curl/8.5.0")
        await connections.open(user="43")
        listed = await face.own(phone).list()
        assert [(one.client, one.current) for one in listed] == [
            (first.client, True),
            (second.client, False),
        ]
        assert (listed[0].app_name, listed[0].remote_addr) == ("phone", "192.0.2.7")
        assert (listed[1].device, listed[1].connected_at) == ("curl", clock.now)
        assert "pro" not in repr(listed)
        by_client = await face.own(Identity("42")).list(current=second.client)
        assert [one.current for one in by_client] == [False, True]
        assert not any(one.current for one in await face.own(Identity("42")).list())


async def test_ending_one_ends_its_login(make: Callable[..., Any], clock: Clock) -> None:
    face = make(verifier())
    mine, lost = token(clock, jti="mine"), token(clock, jti="lost")
    async with Connections(face) as connections:
        await connections.open(token=mine)
        other = await connections.open(token=lost)
        ended = await face.own(mine).end(other.client)
        assert ended.closed == (other.client,)
        assert await refused_code(connections, token=lost) == 3500
        with pytest.raises(TokenRevoked):
            await face.authenticate(lost)
        await face.authenticate(mine)


async def test_ending_one_may_leave_its_login(make: Callable[..., Any], clock: Clock) -> None:
    face = make(verifier())
    mine = token(clock, jti="mine")
    async with Connections(face) as connections:
        session = await connections.open(token=mine)
        assert (await face.own(mine).end(session.client, revoke=False)).closed == (session.client,)
        await connections.open(token=mine)


async def test_a_foreign_session_is_answered_like_one_that_is_not_there(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    async with Connections(face) as connections:
        foreign = await connections.open(user="43")
        said = []
        for client in (foreign.client, "no such client"):
            with pytest.raises(NoSuchSession) as missing:
                await face.own(Identity("42")).end(client)
            said.append(str(missing.value))
            with pytest.raises(NoSuchSession):
                await face.own(Identity("42")).end_others(current=client)
        assert said[0] == said[1]
        assert connections.ended == {}


async def test_ending_others_keeps_the_caller_and_their_other_tabs(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    mine, lost = token(clock, jti="mine"), token(clock, jti="lost")
    async with Connections(face) as connections:
        kept = [await connections.open(token=mine) for _ in range(2)]
        ends = await connections.open(token=lost)
        assert (await face.own(mine).end_others()).closed == (ends.client,)
        assert await refused_code(connections, token=lost) == 3500
        ends = await connections.open(token=token(clock, jti="lost again"))
        ended = await face.own(Identity("42")).end_others(current=kept[0].client)
        assert ended.closed == (ends.client,)
        assert set(await face.user_connections("42")) == {one.client for one in kept}


async def test_ending_others_needs_to_know_who_asks(make: Callable[..., Any], clock: Clock) -> None:
    face = make(verifier())
    async with Connections(face) as connections:
        session = await connections.open(token=token(clock))
        other = await connections.open(token=token(clock))
        with pytest.raises(InvalidValue, match="say which session is the current one"):
            await face.own(token(clock)).end_others()
        ended = await face.own(token(clock)).end_others(current=session.client)
        assert (ended.closed, ended.not_revocable) == ((other.client,), (other.client,))


async def test_a_refused_token_and_the_anonymous_user_get_nothing(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    for caller, error in ((token(clock) + "x", TokenError), (Identity(""), InvalidValue)):
        for method, arguments in (("list", ()), ("end", ("c1",)), ("end_others", ())):
            with pytest.raises(error):
                await getattr(face.own(caller), method)(*arguments)


async def test_a_young_login_may_end_itself_but_no_others(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier(), end_others_min_age=HOUR)
    old, young = token(clock, jti="old"), None
    async with Connections(face) as connections:
        owner = await connections.open(token=old)
        clock.now += 2 * HOUR
        young = token(clock, jti="young")
        thief = await connections.open(token=young)
        clock.now += HOUR - 1
        for attempt in (face.own(young).end_others, lambda: face.own(young).end(owner.client)):
            with pytest.raises(SessionTooYoung, match="too new to end other sessions"):
                await attempt()
        assert connections.ended == {}
        await face.own(young).end(thief.client)
        await connections.open(token=token(clock, jti="another"))
        assert len((await face.own(old).end_others()).closed) == 1
        clock.now += 1


async def test_where_no_token_says_it_a_login_is_as_old_as_its_connection(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier(), end_others_min_age=HOUR)
    async with Connections(face) as connections:
        mine = await connections.open(user="42")
        other = await connections.open(user="42")
        caller = face.own(Identity("42"))
        with pytest.raises(SessionTooYoung):
            await caller.end_others(current=mine.client)
        clock.now += HOUR
        with pytest.raises(SessionTooYoung):
            await caller.end(other.client)
        assert (await caller.end_others(current=mine.client)).closed == (other.client,)


async def test_a_claimed_session_does_not_make_a_login_older_that_does_not_say_its_age(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier(), end_others_min_age=HOUR)
    thief = jwt.encode({"sub": "42"}, SECRET, algorithm="HS256")
    async with Connections(face) as connections:
        owner = await connections.open(token=token(clock, jti="owner"))
        await connections.open(token=token(clock, jti="owner's other"))
        clock.now += 2 * HOUR
        await connections.open(token=thief)
        with pytest.raises(SessionTooYoung):
            await face.own(thief).end_others(current=owner.client)
        assert connections.ended == {}


async def test_a_connection_of_the_caller_made_meanwhile_is_kept_like_the_others(
    make: Callable[..., Any], clock: Clock
) -> None:
    face = make(verifier())
    mine = token(clock, jti="mine")
    own = OwnOperations(face.acting.sessions.operations, mine)
    async with Connections(face) as connections:
        other = await connections.open(token=token(clock, jti="other"))
        flow = own.end_others(current=None, revoke=True)
        reply: Any = None
        while not isinstance(request := flow.send(reply), EndRequest):
            reply = await face.acting.sessions.store.aanswer(request)
        # Between looking and acting: the caller's own token connects.
        await connections.open(token=mine)
        with pytest.raises(StopIteration) as ended:
            flow.send(await face.acting.sessions.store.aanswer(request))
        assert ended.value.value.closed == (other.client,)
        await face.authenticate(mine)


async def test_nobody_elses_session_is_ended_whatever_its_token_is_called(
    make: Callable[..., Any],
) -> None:
    face = make(verifier())
    async with Connections(face) as connections:
        mine = await connections.open(identity=Identity("42", token_id="1"))
        foreign = await connections.open(identity=Identity("43", token_id="1"))
        ended = await face.own(Identity("42")).end(mine.client)
        assert ended.closed == (mine.client,)
        assert foreign.client not in connections.ended


@over(ON_MEMORY)  # no store is asked
@pytest.mark.parametrize("client", [7, None, ["c1"], {}, "c" * 256, "\ud800"])
async def test_a_client_id_that_is_none_is_refused(make: Callable[..., Any], client: Any) -> None:
    own = make(verifier()).own(Identity("42"))
    with pytest.raises(InvalidValue, match="client"):
        await own.end(client)
    if client is not None:
        for method in (own.list, own.end_others):
            with pytest.raises(InvalidValue, match="current"):
                await method(current=client)


@over(ON_MEMORY)  # no store is asked
@pytest.mark.parametrize("caller", [7, None, b"token", ["token"]])
async def test_a_caller_that_is_neither_token_nor_identity_is_refused(
    make: Callable[..., Any], caller: Any
) -> None:
    with pytest.raises(TokenError, match="the token must be a string"):
        await make(verifier()).own(caller).list()
