"""What both facades make of a store that is shared: nodes, what is not whole, what is not there."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import jwt
import pytest

from tests.conformance.faces import FACES
from tests.standins import AWAY, SharedStandIn
from usersessions import (
    Closed,
    ConnectRefused,
    Identity,
    Key,
    NoSuchSession,
    StoreUnavailable,
    TokenVerifier,
)
from usersessions.stores.base import (
    CheckIdentity,
    DisconnectUser,
    ListNodes,
    ListUser,
    Rebind,
    Register,
)

SECRET = "a secret of at least thirty-two bytes"
TOKEN = jwt.encode({"sub": "42", "jti": "t1", "iat": 1}, SECRET, algorithm="HS256")
LIST_42 = b'{"method":"user_connections","params":{"user":"42"}}'
pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> SharedStandIn:
    return SharedStandIn()


@pytest.fixture(params=FACES, ids=lambda face: face.__name__)
async def make(
    request: pytest.FixtureRequest, store: SharedStandIn
) -> AsyncGenerator[Callable[..., Any], None]:
    """Make a face over the store; all are closed after the test."""
    faces: list[Any] = []

    def build(**settings: Any) -> Any:
        verifier = TokenVerifier(Key(SECRET, algorithm="HS256"))
        faces.append(request.param(verifier, store=store, **settings))
        return faces[-1]

    yield build
    for face in faces:
        await face.aclose(timeout=0)


# Nodes --------------------------------------------------------------------------------------------


async def test_a_process_joins_when_it_is_told_to_and_not_by_itself(
    make: Callable[..., Any], store: SharedStandIn
) -> None:
    face = make()
    await face.user_connections("42")
    assert store.joined == 0
    face.sessions.join()
    assert store.joined == 1


# What is not whole --------------------------------------------------------------------------------


async def test_a_list_says_whether_it_is_whole(
    make: Callable[..., Any], store: SharedStandIn
) -> None:
    face = make()
    async with face.connect(user="42", transport="sse") as session:
        assert not (await face.user_connections("42")).partial
        assert not (await face.own(Identity("42")).list()).partial
        entry = {session.client: {"transport": "sse", "protocol": "json"}}
        assert json.loads(await face.dispatch(LIST_42)) == {"result": {"connections": entry}}

        store.partial = True
        listed = await face.user_connections("42")
        assert (list(listed), listed.partial) == ([session.client], True)
        own = await face.own(Identity("42")).list()
        assert ([one.client for one in own], own.partial) == ([session.client], True)
        reply = await face.dispatch(LIST_42)
        assert json.loads(reply) == {"result": {"connections": entry, "partial": True}}
        assert reply.endswith(b'}},"partial":true}}')
    assert await face.dispatch(LIST_42) == b'{"result":{"connections":{},"partial":true}}'


async def test_a_closing_says_whether_all_have_answered(
    make: Callable[..., Any], store: SharedStandIn
) -> None:
    face = make()
    store.partial = True
    assert await face.disconnect("42") == Closed(partial=True)
    assert await face.own(TOKEN).end_others() == Closed(partial=True)
    for method, params in {
        "disconnect": {"user": "42"},
        "block_user": {"user": "42"},
        "revoke_token": {"uid": "t1"},
        "invalidate_user_tokens": {"user": "42"},
    }.items():
        reply = await face.dispatch(json.dumps({"method": method, "params": params}).encode())
        assert reply == (
            b'{"result":{"closed":[],"unconfirmed":[],"not_revocable":[],"partial":true}}'
        )


async def test_a_session_that_may_be_out_of_sight_is_not_said_to_be_missing(
    make: Callable[..., Any], store: SharedStandIn
) -> None:
    own = make().own(TOKEN)
    for call in (own.end("c1"), own.end_others(current="c1")):
        with pytest.raises(NoSuchSession):
            await call
    store.partial = True
    for call in (own.end("c1"), own.end_others(current="c1")):
        with pytest.raises(StoreUnavailable, match="not all sessions can be seen now"):
            await call


# What is not there --------------------------------------------------------------------------------


async def test_a_store_that_is_away_says_so(make: Callable[..., Any], store: SharedStandIn) -> None:
    face = make()
    store.away = {CheckIdentity, DisconnectUser, ListNodes, ListUser}
    for call in (
        face.user_connections("42"),
        face.info(),
        face.authenticate(TOKEN),
        face.disconnect("42"),
        face.own(Identity("42")).list(),
    ):
        with pytest.raises(StoreUnavailable, match=AWAY):
            await call


async def test_a_refresh_that_is_not_answered_says_so(
    make: Callable[..., Any], store: SharedStandIn
) -> None:
    face = make()
    async with face.connect(token=TOKEN, transport="sse") as session:
        store.away = {Rebind}
        with pytest.raises(StoreUnavailable, match=AWAY):
            await face.refresh_session(session, TOKEN)
        assert list(await face.user_connections("42")) == [session.client]


async def test_a_command_that_is_not_answered_is_108_and_the_next_one_is_carried_out(
    make: Callable[..., Any], store: SharedStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    face = make()
    store.away = {DisconnectUser}
    replies = await face.dispatch(
        b'{"method":"disconnect","params":{"user":"42"}}'
        + LIST_42
        + b'{"method":"refresh","params":{"user":"42","expired":true}}'
    )
    away = b'{"error":{"code":108,"message":"not available"}}'
    assert replies.split(b"\n") == [away, b'{"result":{"connections":{}}}', away]
    assert [(one.levelname, one.getMessage(), one.exc_info) for one in caplog.records] == [
        ("WARNING", f"the command {method} was not answered: {AWAY}", None)
        for method in ("disconnect", "refresh")
    ]


async def test_a_connection_that_cannot_be_registered_is_refused_and_may_come_back(
    make: Callable[..., Any], store: SharedStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[object] = []
    face = make(on_connect=events.append, on_disconnect=lambda *_: events.append("disconnect"))
    store.away = {Register}
    with caplog.at_level(logging.INFO, "usersessions"), pytest.raises(ConnectRefused) as refused:
        async with face.connect(user="42", transport="sse"):
            raise AssertionError("not connected")
    assert (refused.value.code, refused.value.reason) == (3004, "internal server error")
    assert isinstance(refused.value.__cause__, StoreUnavailable)
    assert store.node.registry.counts() == (0, 0)
    assert events == []
    (record,) = caplog.records
    assert (record.name, record.levelname, record.exc_info) == (
        "usersessions.sessions",
        "WARNING",
        None,
    )
    assert record.getMessage().startswith("client ")
    assert record.getMessage().endswith(f" refused: {AWAY}")


# The end ------------------------------------------------------------------------------------------


async def test_closing_closes_the_store_in_what_is_left_of_the_time(
    make: Callable[..., Any], store: SharedStandIn
) -> None:
    face = make()
    began = time.monotonic()
    await face.aclose(timeout=20)
    ((given, thread),) = store.closed
    assert 20 - (time.monotonic() - began) <= given <= 20
    assert thread is not threading.main_thread()


@pytest.mark.parametrize(("timeout", "least", "most"), [(0, 0.5, 0.5), (1e12, 60, 60)])
async def test_the_store_has_a_little_time_to_close_and_not_for_ever(
    make: Callable[..., Any], store: SharedStandIn, timeout: float, least: float, most: float
) -> None:
    await make().aclose(timeout=timeout)
    ((given, _),) = store.closed
    assert least <= given <= most


async def test_the_store_is_closed_after_the_sessions_have_ended(
    make: Callable[..., Any], store: SharedStandIn
) -> None:
    face = make()
    told, connected = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    async def handle() -> None:
        async with face.connect(
            user="42", transport="sse", close=lambda _: loop.call_soon_threadsafe(told.set)
        ):
            connected.set()
            await told.wait()
        seen.append(len(store.closed))

    handler = asyncio.create_task(handle())
    await connected.wait()
    await face.aclose()
    await handler
    assert seen == [0]
    assert len(store.closed) == 1
