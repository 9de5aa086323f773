"""What both facades promise, written once."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Any

import jwt
import pytest

from tests.conformance.stores import BESIDE, ON_MEMORY, ON_REDIS, SECRET, over, verifier
from usersessions import (
    JWKS,
    AsyncOwnSessions,
    AsyncSession,
    AsyncUserSessions,
    Closed,
    ConfigError,
    ConnectRefused,
    ConnectRequest,
    Disconnect,
    HttpConnectProxy,
    Identity,
    InvalidValue,
    Key,
    KeysUnavailable,
    MemoryStore,
    NodeInfo,
    OwnSessions,
    Session,
    TokenError,
    TokenVerifier,
    UserSessions,
    __version__,
)
from usersessions.flows import Flow, Request

pytestmark = pytest.mark.anyio


def token(**claims: object) -> str:
    return jwt.encode(claims, SECRET, algorithm="HS256")


async def test_a_session_is_listed_inside_its_block_and_gone_after_it(
    make: Callable[..., Any],
) -> None:
    face = make()
    async with face.connect(user="42", transport="websocket", app_name="web") as session:
        connections = await face.user_connections("42")
        assert list(connections) == [session.client]
        info = connections[session.client]
        assert (info.app_name, info.app_version) == ("web", None)
        assert (info.transport, info.protocol, info.meta) == ("websocket", "json", None)
        assert await face.user_connections("43") == {}
    await face.lists([])


@pytest.mark.parametrize("ending", [RuntimeError, KeyboardInterrupt, asyncio.CancelledError])
async def test_a_session_is_gone_whatever_ends_its_block(
    make: Callable[..., Any], ending: type[BaseException]
) -> None:
    face = make()
    with pytest.raises(ending):
        async with face.connect(user="42", transport="websocket"):
            raise ending
    await face.lists([])


async def test_a_session_is_gone_when_its_generator_is_closed(make: Callable[..., Any]) -> None:
    face = make()

    async def stream() -> AsyncGenerator[str, None]:
        async with face.connect(user="42", transport="sse") as session:
            yield session.client
            raise AssertionError("never resumed")

    body = stream()
    client = await body.__anext__()
    assert list(await face.user_connections("42")) == [client]
    await body.aclose()
    await face.lists([])


async def test_a_session_is_gone_when_its_task_is_cancelled(make: Callable[..., Any]) -> None:
    face = make()
    connected = asyncio.Event()

    async def handle() -> None:
        async with face.connect(user="42", transport="websocket"):
            connected.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(handle())
    await connected.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await face.lists([])


async def test_a_token_says_who_connects(make: Callable[..., Any]) -> None:
    face = make(verifier())
    good = token(sub="42", meta={"plan": "pro"})
    async with face.connect(token=good, transport="websocket", app_version="1.2") as session:
        assert session.user == "42"
        (info,) = (await face.user_connections("42")).values()
        assert (info.app_name, info.app_version, info.meta) == (None, "1.2", {"plan": "pro"})


@pytest.mark.parametrize(
    ("claims", "code", "reason"),
    [
        ({"sub": "42", "exp": 1}, 3005, "connection expired"),
        ({"sub": 42}, 3500, "invalid token"),
        ({"sub": "42", "nbf": 2**50}, 3500, "invalid token"),
        ({}, 3507, "permission denied"),
    ],
)
async def test_a_bad_token_is_refused_with_its_code(
    make: Callable[..., Any], claims: dict[str, object], code: int, reason: str
) -> None:
    face = make(verifier())
    with pytest.raises(ConnectRefused) as refused:
        async with face.connect(token=token(**claims), transport="websocket"):
            raise AssertionError("not admitted")
    assert (refused.value.code, refused.value.reason) == (code, reason)
    if code != 3507:
        assert isinstance(refused.value.__cause__, TokenError)


async def test_no_part_of_a_refused_token_is_logged(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    face = make(verifier())
    bad = token(sub="42", meta={"plan": "swordfish"}) + "x"
    with caplog.at_level(logging.DEBUG), pytest.raises(ConnectRefused) as refused:
        async with face.connect(token=bad, transport="websocket"):
            raise AssertionError("not admitted")
    said = caplog.text + repr(refused.value) + repr(refused.value.__cause__)
    assert not any(part in said for part in (*bad.split("."), "swordfish"))


async def test_a_token_without_a_verifier_is_refused(make: Callable[..., Any]) -> None:
    with pytest.raises(ConnectRefused) as refused:
        async with make().connect(token=token(sub="42"), transport="websocket"):
            raise AssertionError("not admitted")
    assert refused.value.code == 3500


async def test_keys_that_cannot_be_fetched_invite_the_client_to_come_again(
    make: Callable[..., Any],
) -> None:
    # Nothing listens on port 1 of this machine.
    keys = JWKS("http://127.0.0.1:1/jwks.json", algorithms="ES256")
    face = make(TokenVerifier(keys))
    unknown = "eyJhbGciOiJFUzI1NiJ9.e30.AAAA"
    with pytest.raises(ConnectRefused) as refused:
        async with face.connect(token=unknown, transport="websocket"):
            raise AssertionError("not admitted")
    assert refused.value.code == 3004
    with pytest.raises(KeysUnavailable):
        await face.authenticate(unknown)
    await face.aclose()


async def test_without_a_verifier_no_token_is_good(make: Callable[..., Any]) -> None:
    with pytest.raises(TokenError, match="no token verifier is configured"):
        await make().authenticate("a token")


async def test_no_token_and_no_proxy_is_a_bad_request(make: Callable[..., Any]) -> None:
    with pytest.raises(ConnectRefused) as refused:
        async with make(verifier()).connect(transport="websocket"):
            raise AssertionError("not admitted")
    assert refused.value.code == 3501


async def test_the_proxy_decides_where_there_is_no_token(make: Callable[..., Any]) -> None:
    asked: list[ConnectRequest] = []

    def decide(request: ConnectRequest) -> Identity:
        asked.append(request)
        return Identity("42", meta={"by": "proxy"}, labels={"device": "phone"})

    face = make(connect_proxy=decide)
    async with face.connect(
        transport="websocket", app_name="web", data={"room": 1}, headers={"cookie": "id=7"}
    ) as session:
        (info,) = (await face.user_connections("42")).values()
        assert info.meta == {"by": "proxy"}
        assert session.labels == {"device": "phone"}
    (request,) = asked
    assert request.client == session.client
    assert (request.name, request.data, request.headers) == ("web", {"room": 1}, {"cookie": "id=7"})


async def test_a_proxy_that_refuses_is_obeyed(make: Callable[..., Any]) -> None:
    face = make(connect_proxy=lambda request: Disconnect(4500, "banned"))
    with pytest.raises(ConnectRefused) as refused:
        async with face.connect(transport="websocket"):
            raise AssertionError("not admitted")
    assert (refused.value.code, refused.value.reason) == (4500, "banned")


async def test_anonymous_users_are_let_in_only_where_that_is_said(
    make: Callable[..., Any],
) -> None:
    with pytest.raises(ConnectRefused) as refused:
        async with make().connect(user="", transport="websocket"):
            raise AssertionError("not admitted")
    assert refused.value.code == 3507
    face = make(allow_anonymous=True)
    async with face.connect(user="", transport="websocket") as session:
        assert list(await face.user_connections("")) == [session.client]


async def test_two_ways_to_say_who_connects_are_one_too_many(make: Callable[..., Any]) -> None:
    with pytest.raises(InvalidValue, match="give one of token, identity and user"):
        async with make().connect(user="42", identity=Identity("42"), transport="websocket"):
            raise AssertionError("not admitted")


@over(ON_MEMORY)  # no store is asked
@pytest.mark.parametrize(
    "arguments",
    [
        {"user": 42, "transport": "websocket"},
        {"user": "4" * 256, "transport": "websocket"},
        {"user": "42", "transport": 7},
        {"user": "42", "transport": "websocket", "app_name": "\ud800"},
        {"identity": "42", "transport": "websocket"},
    ],
)
async def test_values_out_of_bounds_are_refused_and_leave_nothing(
    make: Callable[..., Any], arguments: dict[str, object]
) -> None:
    face = make()
    with pytest.raises(InvalidValue):
        async with face.connect(**arguments):
            raise AssertionError("not admitted")
    assert face.sessions.operations.node.registry.counts() == (0, 0)


@over(ON_MEMORY)  # no store is asked
@pytest.mark.parametrize("identity", ["42", 42])
async def test_an_identity_that_is_none_is_refused_with_what_to_write(
    make: Callable[..., Any], identity: object
) -> None:
    with pytest.raises(InvalidValue, match=r"not (str|int): give a user ID alone as user=, a str"):
        async with make().connect(identity=identity, transport="websocket"):
            raise AssertionError("not admitted")


@pytest.mark.parametrize("face", [UserSessions, AsyncUserSessions])
@pytest.mark.parametrize(
    "verifier", [MemoryStore(), Key(SECRET, algorithm="HS256"), SECRET, 0, "", lambda token: None]
)
async def test_what_verifies_no_token_is_refused_at_once_with_what_to_write(
    face: type[Any], verifier: object
) -> None:
    with pytest.raises(ConfigError, match=r"store= .* TokenVerifier\(") as refused:
        face(verifier)
    assert f"not {type(verifier).__name__}" in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("face", [UserSessions, AsyncUserSessions])
async def test_a_verifier_is_whatever_identifies(face: type[Any]) -> None:
    class Plain:
        def identify(self, token: str, *, now: float) -> Flow[Identity]:
            raise NotImplementedError

    face(Plain())


async def test_disconnect_calls_close_and_says_who_was_told(make: Callable[..., Any]) -> None:
    face = make()
    closed: list[Disconnect] = []
    async with face.connect(user="42", transport="websocket", close=closed.append) as session:
        ended = await face.disconnect("42", timeout=0)
        assert (ended.closed, ended.unconfirmed) == ((), (session.client,))
        ended = await face.disconnect("42", code=4001, timeout=0)
        assert (ended.closed, ended.unconfirmed) == ((), (session.client,))
        await asyncio.sleep(0)
        await face.told(lambda: closed == [Disconnect(3503, "force disconnect")])
    assert len(closed) == 1
    assert session.disconnect == closed[0]
    await face.lists([])
    assert await face.disconnect("42") == Closed()


async def test_disconnect_takes_one_client_or_spares_some(make: Callable[..., Any]) -> None:
    face = make()
    async with (
        face.connect(user="42", transport="websocket") as first,
        face.connect(user="42", transport="websocket") as second,
        face.connect(user="42", transport="websocket") as third,
        face.connect(user="43", transport="websocket") as other,
    ):
        ended = [
            await face.disconnect("42", timeout=0, **which)
            for which in (
                {"client": other.client},
                {"client": first.client},
                {"session": first.client, "client": first.client},
                {"whitelist": [second.client]},
                {},
            )
        ]
    assert [one.unconfirmed for one in ended] == [
        (),
        (first.client,),
        (first.client,),
        (first.client, third.client),
        (first.client, second.client, third.client),
    ]


async def test_disconnect_may_say_another_code_and_reason(make: Callable[..., Any]) -> None:
    face = make()
    closed: list[Disconnect] = []
    async with face.connect(user="42", transport="websocket", close=closed.append):
        await face.disconnect("42", code=4001, reason="another device took over", timeout=0)
        await asyncio.sleep(0)
        await face.told(lambda: closed == [Disconnect(4001, "another device took over")])


@over(ON_MEMORY)  # no store is asked
@pytest.mark.parametrize(
    "arguments",
    [
        {"code": 2999},
        {"code": 5000},
        {"code": "3503"},
        {"code": 3503, "reason": "x" * 124},
        {"client": 7},
        {"whitelist": "c1"},
        {"whitelist": [7]},
        {"whitelist": 7},
        {"whitelist": None},
        {"client": 10**5000, "session": "c1"},
        {"client": "c1", "session": "c2"},
        {"label_filter": {"device": 7}},
        {"label_filter": ["device"]},
        {"timeout": -1},
        {"timeout": 61},
        {"timeout": "2"},
        {"timeout": True},
    ],
)
async def test_a_disconnect_out_of_bounds_is_refused_and_closes_nobody(
    make: Callable[..., Any], arguments: dict[str, object]
) -> None:
    face = make()
    closed: list[Disconnect] = []
    async with face.connect(user="42", transport="websocket", close=closed.append):
        with pytest.raises(InvalidValue):
            await face.disconnect("42", **arguments)
        await asyncio.sleep(0)
    assert closed == []


async def test_a_user_that_is_no_string_is_refused(make: Callable[..., Any]) -> None:
    face = make()
    with pytest.raises(InvalidValue, match="user must be a string, not int"):
        await face.user_connections(42)
    with pytest.raises(InvalidValue, match="user must be a string, not int"):
        await face.disconnect(42)


async def test_a_request_that_nobody_answers_is_a_mistake_of_ours(
    make: Callable[..., Any],
) -> None:
    class Unknown(Request):
        pass

    def flow() -> Flow[None]:
        yield Unknown()

    with pytest.raises(TypeError, match="nothing answers Unknown"):
        await make().run(flow())


async def test_info_lists_the_processes_that_hold_sessions_with_what_they_hold(
    make: Callable[..., Any],
) -> None:
    face = make()
    async with AsyncExitStack() as held:
        for user in ("42", "42", "43"):
            await held.enter_async_context(face.connect(user=user, transport="sse"))
        await face.shows(lambda nodes: [one.num_clients for one in nodes] == [3])
        (node,) = await face.info()
        reply = json.loads(await face.dispatch(b'{"method": "info"}'))
    assert isinstance(node, NodeInfo)
    assert (node.uid, node.version) == (face.sessions.operations.node.id, __version__)
    assert (node.num_clients, node.num_users) == (3, 2)
    (shown,) = reply["result"]["nodes"]
    assert {**shown, "uptime": node.uptime} == {
        "uid": node.uid,
        "name": node.name,
        "version": __version__,
        "num_clients": 3,
        "num_users": 2,
        "uptime": node.uptime,
    }


@over(ON_REDIS)
async def test_a_process_is_listed_once_it_has_joined_and_not_before(
    make: Callable[..., Any],
) -> None:
    face = make()
    await face.lists([])
    assert await face.info() == ()
    faces = {id(one): one for one in (face.connecting, face.acting)}.values()
    for one in faces:
        one.sessions.join()
    ids = {one.sessions.operations.node.id for one in faces}
    await face.shows(lambda nodes: {one.uid for one in nodes} == ids)


async def test_dispatch_lists_and_closes(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usersessions.dispatch.TIMEOUT_SECONDS", 0.0)
    face = make()
    closed: list[Disconnect] = []
    async with face.connect(user="42", transport="websocket", close=closed.append) as session:
        command = {"method": "user_connections", "params": {"user": "42"}}
        reply = json.loads(await face.dispatch(json.dumps(command).encode()))
        connections = {session.client: {"transport": "websocket", "protocol": "json"}}
        assert reply == {"result": {"connections": connections}}
        await face.dispatch(b'{"method": "disconnect", "params": {"user": "42"}}')
        await asyncio.sleep(0)
        await face.told(lambda: closed == [Disconnect(3503, "force disconnect")])
    assert json.loads(await face.dispatch(b"not JSON"))["error"]["code"] == 107


async def test_closing_ends_all_sessions_and_refuses_new_ones(make: Callable[..., Any]) -> None:
    face = make()
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    closed: list[Disconnect] = []

    def close(disconnect: Disconnect) -> None:
        closed.append(disconnect)
        loop.call_soon_threadsafe(told.set)

    async def handle() -> None:
        async with face.connect(user="42", transport="websocket", close=close):
            await told.wait()

    handler = asyncio.create_task(handle())
    while not await face.user_connections("42"):
        await asyncio.sleep(0)
    await face.aclose()
    await handler
    assert closed == [Disconnect(3001, "shutdown")]
    with pytest.raises(ConnectRefused) as refused:
        async with face.connect(user="42", transport="websocket"):
            raise AssertionError("not admitted")
    assert refused.value.code == 3001


async def test_closing_waits_no_longer_than_it_is_told_to(make: Callable[..., Any]) -> None:
    face = make()
    async with face.connect(user="42", transport="websocket"):
        await face.aclose(timeout=0.05)
        # What it has left, it has left for the others.
        assert len(await face.connecting.user_connections("42")) == 1


@over(BESIDE)
async def test_the_two_facades_share_a_store(make: Callable[..., Any]) -> None:
    face = make()
    awaited, blocking = face.connecting.sessions, face.acting.sessions
    assert isinstance(awaited, AsyncUserSessions)
    assert isinstance(blocking, UserSessions)
    closed: list[Disconnect] = []
    async with awaited.connect(user="42", transport="websocket") as session:
        with blocking.connect(user="42", transport="sse", close=closed.append):
            assert len(blocking.user_connections("42")) == 2
            assert await awaited.user_connections("42") == blocking.user_connections("42")
            # From a thread, as a WSGI view or a task queue would.
            told = await asyncio.to_thread(blocking.disconnect, "42", timeout=0)
            assert len(told.unconfirmed) == 2
            assert await session.closed == Disconnect(3503, "force disconnect")
            await face.told(lambda: closed == [Disconnect(3503, "force disconnect")])
        assert list(blocking.user_connections("42")) == [session.client]
    assert blocking.user_connections("42") == {}


async def test_each_connection_asks_the_backend_anew(make: Callable[..., Any]) -> None:
    # Nothing listens at this port: it is bound, and not more.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        face = make(connect_proxy=HttpConnectProxy(f"http://127.0.0.1:{bound.getsockname()[1]}/"))
        for _ in range(2):
            with pytest.raises(ConnectRefused) as refused:
                async with face.connect(transport="websocket"):
                    raise AssertionError("not admitted")
            assert refused.value.code == 3004
    await face.aclose(timeout=0)


# With threads of a store at work, only a real fork is one.
@over(ON_MEMORY)
async def test_a_process_that_was_forked_meanwhile_tells_of_no_end(
    make: Callable[..., Any],
) -> None:
    events: list[object] = []
    face = make(on_disconnect=lambda *arguments: events.append(arguments))
    async with face.connect(user="42", transport="websocket"):
        # What a fork does to the node of the child.
        face.sessions.operations.node._begin()
    assert events == []


FACADES = [
    (UserSessions, AsyncUserSessions),
    (OwnSessions, AsyncOwnSessions),
    (Session, AsyncSession),
]
RENAMED = {"close": "aclose"}
ASYNC_ALONE = {"closed"}


@pytest.mark.parametrize(("blocking", "awaited"), FACADES)
def test_the_faces_have_the_same_methods_signatures_and_words(
    blocking: type[Any], awaited: type[Any]
) -> None:
    names = _public(blocking)
    assert {RENAMED.get(name, name) for name in names} == _public(awaited) - ASYNC_ALONE
    for name in names:
        one, other = getattr(blocking, name), getattr(awaited, RENAMED.get(name, name))
        if callable(one):
            assert _parameters(one) == _parameters(other), name
            assert _words(one) == _words(other), name


def _public(face: type[Any]) -> set[str]:
    return {name for name in dir(face) if not name.startswith("_")}


def _parameters(method: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [
        (one.name, one.kind, one.default) for one in inspect.signature(method).parameters.values()
    ]


def _words(method: Callable[..., Any]) -> str:
    words = (inspect.getdoc(method) or "").partition(">>>")[0]
    return words.replace(" It may be async; or await `session.closed` instead.", "").strip()
