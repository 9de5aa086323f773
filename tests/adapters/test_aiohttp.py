"""aiohttp: what is its own, beside what all adapters promise in the conformance suite."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from tests.adapters.apps.shared import API_KEY, SECRET, new_sessions
from tests.adapters.serving import SHUTDOWN, bearer, token
from tests.http.exchange import sessions_held, settle
from tests.servers import python
from tests.standins import SharedStandIn
from tests.streams import KINDS, Answer, Stream, WebSocket, ask, open_stream, open_websocket
from usersessions import (
    AsyncSession,
    AsyncUserSessions,
    ConfigError,
    Disconnect,
    Identity,
    Key,
    TokenVerifier,
    callbacks,
)
from usersessions.adapters.aiohttp import current_identity, setup, track, tracking
from usersessions.adapters.aiohttp import serving as adapter
from usersessions.http import aio
from usersessions.stores.base import CheckIdentity

pytestmark = pytest.mark.anyio

EACH_KIND = pytest.mark.parametrize("kind", KINDS)
SHUT = (3001, "shutdown")


class Served:
    """An app that is served in this process."""

    def __init__(self, runner: web.AppRunner) -> None:
        self.runner = runner
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def open(self, kind: str, request: dict[str, object] | None = None) -> Stream:
        return await asyncio.to_thread(open_stream, self.url, kind, request or {})

    async def websocket(self, target: str, **headers: str) -> WebSocket:
        return await asyncio.to_thread(open_websocket, self.url, target, headers=headers)

    async def ask(self, target: str, **options: Any) -> Answer:
        return await asyncio.to_thread(partial(ask, self.url, target, **options))

    @property
    def transport(self) -> asyncio.Transport:
        """The server's end of the only connection."""
        assert self.runner.server is not None
        (connection,) = self.runner.server.connections
        assert connection.transport is not None
        return connection.transport


@asynccontextmanager
async def serving(app: web.Application, **options: Any) -> AsyncGenerator[Served, None]:
    runner = web.AppRunner(app, **options)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Served(runner)
    finally:
        await runner.cleanup()


async def until(probe: Callable[[], object], *, seconds: float = 5.0) -> None:
    """Ask again and again, at most for some seconds."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not probe():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


class Held:
    """Sessions, an app that serves them, and what is heard of their ends."""

    def __init__(self, store: Any = None) -> None:
        self.ends: list[Disconnect] = []
        self.begun = 0
        self.sessions = AsyncUserSessions(
            connect_proxy=lambda request: Identity(request.name or "42"),
            store=store,
            on_connect=self._begin,
            on_disconnect=lambda session, disconnect, lived: self.ends.append(disconnect),
        )
        self.app = web.Application()

    def _begin(self, session: object) -> None:
        self.begun += 1

    def setup(self, **settings: Any) -> web.Application:
        setup(self.app, self.sessions, **settings)
        return self.app


@pytest.fixture
def held() -> Held:
    return Held()


# Setting up ---------------------------------------------------------------------------------------


def test_the_routes_are_those_of_all_adapters_and_take_every_verb(held: Held) -> None:
    router = held.setup().router
    assert [resource.canonical for resource in router.resources()] == [
        "/api",
        "/api/{method}",
        "/sessions",
        "/sessions/{client}",
        "/connection/uni_http_stream",
        "/connection/uni_sse",
        "/sessions/",
        "/connection/uni_websocket",
    ]
    assert {route.method for route in router.routes()} == {"*"}


def test_settings_are_checked_when_it_is_set_up_and_nothing_is_left_half_done(held: Held) -> None:
    for settings in ({"api_keys": ["short"]}, {"ping_interval": 0}, {"allowed_origins": ["*"]}):
        with pytest.raises(ConfigError):
            held.setup(**settings)
    assert not held.app.router.resources()


def test_without_aiohttp_the_adapter_says_what_to_install() -> None:
    script = """
import sys
sys.modules["aiohttp"] = None
from usersessions import MissingExtraError
try:
    import usersessions.adapters.aiohttp
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run(python("-c", script), capture_output=True, text=True, check=True)
    assert done.stdout == 'aiohttp is not installed; run: pip install "usersessions[aiohttp]"\n'


# Starting and stopping ----------------------------------------------------------------------------


async def test_streams_get_3001_and_hold_nothing_up_however_the_server_is_stopped(
    held: Held,
) -> None:
    # No signal is sent; and by itself, the server would wait for its handlers for a minute.
    async with serving(held.setup()) as served:
        streams = [await served.open(kind) for kind in KINDS]
        for stream in streams:
            await asyncio.to_thread(stream.client)
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 3.0
    for stream in streams:
        assert await asyncio.to_thread(stream.frames) == [SHUTDOWN]
        stream.leave()
    assert held.ends == [Disconnect(*SHUT)] * 3
    assert sessions_held(held.sessions) == 0


async def test_sessions_are_served_again_by_another_app(held: Held) -> None:
    async with serving(held.setup()):
        pass
    held.app = web.Application()
    async with serving(held.setup()) as served:
        with await served.open("uni_sse") as stream:
            assert await asyncio.to_thread(stream.client)


# Streams ------------------------------------------------------------------------------------------


@EACH_KIND
@pytest.mark.parametrize(("interval", "bound"), [(25, 15_000), (3, 3_000)])
async def test_what_stays_unacknowledged_ends_a_stream(
    kind: str, interval: int, bound: int, held: Held
) -> None:
    async with serving(held.setup(ping_interval=interval)) as served:
        with await served.open(kind) as stream:
            await asyncio.to_thread(stream.client)
            client_socket = served.transport.get_extra_info("socket")
            option = client_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert option == bound


@EACH_KIND
async def test_a_client_that_does_not_read_is_dropped_and_its_session_ends_with_3008(
    kind: str, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "SEND_TIMEOUT", 0.2)
    # Before the system drops it.
    monkeypatch.setattr(adapter, "bound", lambda *_, **__: None)
    async with serving(held.setup(ping_interval=1)) as served:
        with await served.open(kind) as stream:
            await asyncio.to_thread(stream.client)
            transport = served.transport
            # More than the system takes for a client that does not read.
            transport.write(bytes(30_000_000))
            await until(lambda: held.ends)
            assert held.ends == [Disconnect(3008, "slow")]
            assert sessions_held(held.sessions) == 0
            await until(lambda: transport.is_closing() and not transport.get_write_buffer_size())


@EACH_KIND
async def test_what_a_client_sends_after_its_request_is_passed_over(kind: str, held: Held) -> None:
    async with serving(held.setup(api_keys=[API_KEY])) as served:
        with await served.open(kind) as stream:
            await asyncio.to_thread(stream.client)
            if isinstance(stream, WebSocket):
                for opcode in (1, 2, 9):
                    stream.send(b"{}", opcode=opcode)
                stream.send(b"x" * 60_000)
                assert await asyncio.to_thread(stream._read) == (10, b"{}")
            else:
                more = f"POST /api/user_connections HTTP/1.1\r\nX-API-Key: {API_KEY}\r\n\r\n"
                stream._socket.sendall(more.encode() + b"and \xff nonsense\r\n")
                assert stream.head.headers["connection"] == "close"
            await served.ask("/api", headers={"X-API-Key": API_KEY}, body=b"{}")
            assert sessions_held(held.sessions) == 1
            await held.sessions.disconnect("42")
            frames = await asyncio.to_thread(stream.frames)
            assert [json.loads(frame)["disconnect"]["code"] for frame in frames] == [3503]


async def test_a_stream_over_http_1_0_is_neither_chunked_nor_kept_open(held: Held) -> None:
    async with serving(held.setup()) as served:
        reader, writer = await asyncio.open_connection(*served.runner.addresses[0])
        writer.write(b"POST /connection/uni_sse HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 200") and b"chunked" not in head
        await reader.readuntil(b"\n\n")
        await held.sessions.disconnect("42")
        assert (await reader.read()).endswith(b'"reason":"force disconnect"}}\n\n')
        writer.close()


async def test_the_path_of_the_websocket_has_nothing_for_other_requests(held: Held) -> None:
    async with serving(held.setup()) as served:
        for method in ("GET", "POST"):
            answer = await served.ask("/connection/uni_websocket", method=method)
            assert (answer.status, answer.body) == (404, b"nothing is served at this path\n")


async def test_a_websocket_that_leaves_before_its_first_message_is_told_nothing(
    held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(held.setup()) as served:
        websocket = await served.websocket("/connection/uni_websocket")
        websocket.leave()
        assert served.runner.server is not None
        await until(lambda: served.runner.server and not served.runner.server.connections)
    assert held.begun == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_connection_that_is_over_before_its_stream_began_leaves_nothing(
    held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    waited: list[bool] = []

    @web.middleware
    async def slow(request: web.Request, handler: Any) -> web.StreamResponse:
        await until(lambda: request.transport is None)
        waited.append(True)
        response: web.StreamResponse = await handler(request)
        return response

    held.app = web.Application(middlewares=[slow])
    async with serving(held.setup()) as served:
        for head in ("", "Upgrade: websocket\r\nConnection: Upgrade\r\n"):
            kind = "uni_websocket" if head else "uni_sse"
            if head:
                head += (
                    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
                )
            _, writer = await asyncio.open_connection(*served.runner.addresses[0])
            writer.write(f"GET /connection/{kind} HTTP/1.1\r\nHost: a\r\n{head}\r\n".encode())
            await writer.drain()
            writer.close()
        await until(lambda: len(waited) == 2)
        await until(lambda: served.runner.server and not served.runner.server.connections)
    assert held.begun == len(held.ends) == 0
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("is_held", [False, True])
async def test_a_stream_over_a_websocket_keeps_no_more_of_a_message_than_anything_takes(
    is_held: bool, held: Held
) -> None:
    async with serving(held.setup()) as served:
        with await served.websocket("/connection/uni_websocket") as websocket:
            if is_held:
                websocket.send(b"{}")
                await asyncio.to_thread(websocket.client)
            # A message that never ends: text at first, then continuations (RFC 6455, 5.4).
            websocket.send(b"x" * 60_000, is_last=False)
            websocket.send(b"x" * 60_000, opcode=0, is_last=False)
            opcode, payload = await asyncio.to_thread(websocket._read)
            assert (opcode, payload[:2]) == (8, (1009).to_bytes(2, "big"))
        await until(lambda: served.runner.server and not served.runner.server.connections)
    assert [end.code for end in held.ends] == [3000] * is_held


# Requests -----------------------------------------------------------------------------------------


async def test_a_body_is_refused_before_aiohttp_decodes_it(held: Held) -> None:
    headers = {"Content-Encoding": "gzip", "X-API-Key": API_KEY}
    async with serving(held.setup(api_keys=[API_KEY])) as served:
        for body in (b"no gzip at all", gzip.compress(b'{"method": "info"}')):
            answer = await served.ask("/api", body=body, headers=headers)
            assert (answer.status, answer.headers["accept-encoding"]) == (415, "identity")


@pytest.mark.parametrize("target", ["/api", "/connection/uni_sse"])
async def test_a_body_that_trickles_is_408_and_nothing_after_it_is_read(
    target: str, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "BODY_TIMEOUT", 0.05)
    async with serving(held.setup(api_keys=[API_KEY])) as served:
        reader, writer = await asyncio.open_connection(*served.runner.addresses[0])
        head = f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
        writer.write(head.encode() + b"{}")
        answer = await reader.readuntil(b"in time\n")
        assert answer.startswith(b"HTTP/1.1 408 ") and b"\r\nconnection: close\r\n" in answer
        writer.write(b"       " + head.encode() + b"         ")
        assert await reader.read() == b""
        writer.close()
    assert held.begun == 0


async def test_a_client_that_leaves_before_its_request_is_whole_is_no_error(
    held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(held.setup(api_keys=[API_KEY])) as served:
        for target in ("/api", "/connection/uni_sse"):
            _, writer = await asyncio.open_connection(*served.runner.addresses[0])
            head = f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
            writer.write(head.encode() + b"{}")
            await writer.drain()
            writer.transport.abort()
        await until(lambda: served.runner.server and not served.runner.server.connections)
    assert held.begun == 0
    assert "Traceback" not in caplog.text


async def test_a_middleware_that_takes_slashes_away_ends_no_other_session(held: Held) -> None:
    remove = web.normalize_path_middleware(append_slash=False, remove_slash=True)
    for prefix in ("", "/rt"):
        app = held.app = web.Application(middlewares=[] if prefix else [remove])
        held.setup()
        if prefix:
            app = web.Application(middlewares=[remove])
            app.add_subapp(prefix, held.app)
        async with serving(app) as served:
            for path in ("/sessions/", "/sessions/?current=a"):
                answer = await served.ask(f"{prefix}{path}", method="DELETE")
                assert (answer.status, answer.body) == (404, b"nothing is served at this path\n")


async def test_the_access_log_shows_paths_without_their_query(
    held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aiohttp.access")
    async with serving(held.setup(api_keys=[API_KEY])) as served:
        await served.ask("/api?a=%FF&api_key=swordfish")
        await served.ask("/connection/uni_sse?cf_connect=swordfish", method="GET")
        await served.ask("/connection/uni_websocket?token=swordfish", method="GET")
    lines = [record.getMessage() for record in caplog.records if record.name == "aiohttp.access"]
    assert len(lines) == 3
    assert '"POST /api HTTP/1.1" 401' in lines[0]
    assert "swordfish" not in caplog.text


async def test_the_address_is_what_the_apps_middleware_says(held: Held) -> None:
    @web.middleware
    async def behind_a_proxy(request: web.Request, handler: Any) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request.clone(remote="192.0.2.7"))
        return response

    held.app = web.Application(middlewares=[behind_a_proxy])
    async with serving(held.setup()) as served:
        for kind in KINDS:
            with await served.open(kind, {"name": kind}) as stream:
                await asyncio.to_thread(stream.client)
                own = await held.sessions.own(Identity(kind)).list()
                assert [one.remote_addr for one in own] == ["192.0.2.7"]


# An app's own -------------------------------------------------------------------------------------


async def test_who_asks_is_said_or_refused_as_json() -> None:
    sessions = new_sessions()

    async def me(request: web.Request) -> web.Response:
        identity = await current_identity(request, sessions)
        return web.Response(text=identity.user)

    app = web.Application()
    app.add_routes([web.get("/me", me)])
    async with serving(app) as served:
        answer = await served.ask("/me", method="GET", headers=bearer(token("42")))
        assert answer.body == b"42"
        answer = await served.ask("/me", method="GET")
        assert answer.status == 401
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert json.loads(answer.body)["error"]["code"] == 101


async def test_where_it_cannot_be_said_who_asks_the_answer_is_503() -> None:
    store = SharedStandIn()
    store.away = {CheckIdentity}
    sessions = AsyncUserSessions(TokenVerifier(Key(SECRET, algorithm="HS256")), store=store)

    async def me(request: web.Request) -> web.Response:
        with pytest.raises(web.HTTPServiceUnavailable):
            await current_identity(request, sessions)
        await current_identity(request, sessions)
        raise AssertionError("it was said")

    app = web.Application()
    app.add_routes([web.get("/me", me)])
    async with serving(app) as served:
        answer = await served.ask("/me", method="GET", headers=bearer(token("42")))
        assert answer.status == 503
        assert json.loads(answer.body)["error"]["code"] == 108


def tracked(held: Held, block: Callable[..., Any], **settings: Any) -> web.Application:
    """An app whose WebSocket `/own` is tracked, with what its block does."""

    async def own(request: web.Request) -> web.StreamResponse:
        websocket = web.WebSocketResponse()
        async with track(request, websocket, held.sessions, **settings) as session:
            await block(request, websocket, session)
        return websocket

    held.app.add_routes([web.get("/own", own)])
    return held.setup()


async def reading(request: web.Request, websocket: web.WebSocketResponse, session: Any) -> None:
    async for _ in websocket:
        session.touch()


async def test_a_websocket_is_of_whom_the_app_says_and_listed_as_it_says(held: Held) -> None:
    app = tracked(held, reading, who=Identity("7"), app_name="chat", app_version="1.2")
    async with serving(app) as served:
        with await served.websocket("/own"):
            (info,) = (await held.sessions.user_connections("7")).values()
            assert (info.app_name, info.app_version, info.transport) == ("chat", "1.2", "websocket")
        await until(lambda: held.ends)
    assert held.ends[0].code == 3000


async def test_what_stays_unacknowledged_ends_a_websocket_of_the_apps_own(held: Held) -> None:
    async with serving(tracked(held, reading)) as served:
        with await served.websocket("/own"):
            await until(lambda: held.begun)
            client_socket = served.transport.get_extra_info("socket")
            option = client_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert option == 20_000


async def test_a_handler_that_does_not_read_holds_up_no_disconnect(held: Held) -> None:
    told: list[Disconnect] = []

    async def busy(request: web.Request, websocket: Any, session: Any) -> None:
        told.append(await session.closed)
        await until(lambda: websocket.closed)
        with pytest.raises(OSError):
            await websocket.send_str("too late")

    async with serving(tracked(held, busy)) as served:
        with await served.websocket("/own") as websocket:
            ended = await held.sessions.disconnect("42", code=4001, reason="gé")
            assert len(ended.closed) == 1
            assert await asyncio.to_thread(websocket.frames) == []
            assert websocket.closed == (4001, "gé")
    assert told == [Disconnect(4001, "gé")]


async def test_a_handler_that_ends_when_it_is_told_to_leaves_code_and_reason_to_us(
    held: Held,
) -> None:
    async def obedient(request: web.Request, websocket: Any, session: Any) -> None:
        while session.disconnect is None:
            await asyncio.sleep(0)

    async with serving(tracked(held, obedient)) as served:
        with await served.websocket("/own") as websocket:
            await held.sessions.disconnect("42")
            assert await asyncio.to_thread(websocket.frames) == []
            assert websocket.closed == (3503, "force disconnect")


async def test_a_handler_that_ends_by_itself_closes_its_websocket(held: Held) -> None:
    async def greet(request: web.Request, websocket: Any, session: Any) -> None:
        await websocket.send_str("hello and goodbye")

    async with serving(tracked(held, greet)) as served:
        with await served.websocket("/own") as websocket:
            assert await asyncio.to_thread(websocket.frames) == [b"hello and goodbye"]
            assert websocket.closed == (1000, "")
    assert sessions_held(held.sessions) == 0


async def test_a_session_that_is_told_to_end_before_its_websocket_is_open_ends(held: Held) -> None:
    ran: list[object] = []

    async def block(request: web.Request, websocket: Any, session: Any) -> None:
        ran.append(session.disconnect)
        await reading(request, websocket, session)

    async def disconnect(request: web.Request, response: web.StreamResponse) -> None:
        await held.sessions.disconnect("42", timeout=0)
        await asyncio.sleep(0.05)

    held.app.on_response_prepare.append(disconnect)
    async with serving(tracked(held, block)) as served:
        with await served.websocket("/own") as websocket:
            assert await asyncio.to_thread(websocket.frames) == []
            assert websocket.closed == (3503, "force disconnect")
    assert ran == [Disconnect(3503, "force disconnect")]


async def test_nothing_waits_for_a_websocket_that_is_given_up_before_it_is_open() -> None:
    is_in = asyncio.Event()

    async def never_done(session: AsyncSession) -> None:
        is_in.set()
        await asyncio.Event().wait()

    sessions = AsyncUserSessions(on_connect=never_done)
    shaken = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
    }

    async def own() -> None:
        request = make_mocked_request("GET", "/own", headers=shaken)
        async with track(request, web.WebSocketResponse(), sessions, who="42"):
            raise AssertionError("it was opened")

    handling = asyncio.ensure_future(own())
    await is_in.wait()
    running = set(callbacks._running)
    await sessions.disconnect("42", timeout=0)
    await settle()
    (closing,) = callbacks._running - running
    handling.cancel()
    await asyncio.wait((handling, closing), timeout=5.0)
    assert closing.done()
    assert sessions_held(sessions) == 0


async def test_what_is_no_handshake_is_400_and_never_a_session(held: Held) -> None:
    async with serving(tracked(held, reading)) as served:
        answer = await served.ask("/own", method="GET")
        assert answer.status == 400
    assert held.begun == 0


async def test_a_websocket_that_cannot_be_opened_leaves_no_session(
    held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(request: web.Request, response: web.StreamResponse) -> None:
        if response.status == 101:
            await held.sessions.disconnect("42", timeout=0)
            raise LookupError("the app's own")

    held.app.on_response_prepare.append(fail)
    async with serving(tracked(held, reading)) as served:
        with await served.websocket("/own") as websocket:
            assert websocket.head.status != 101
        await until(lambda: held.ends)
    assert sessions_held(held.sessions) == 0
    assert "the close callback" not in caplog.text


async def test_whoever_is_refused_is_told_why_and_the_block_does_not_run(
    held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aiohttp.access")
    ran: list[object] = []

    async def block(*_: object) -> None:
        ran.append(_)

    async with serving(tracked(held, block)) as served:
        target = "/own?room=5&access_token=swordfish"
        with await served.websocket(target, Origin="https://evil.example") as websocket:
            assert await asyncio.to_thread(websocket.frames) == []
            assert websocket.closed == (3500, "invalid token")
        with await served.websocket("/own", Origin="https://evil.example") as websocket:
            assert await asyncio.to_thread(websocket.frames) == []
            assert websocket.closed == (3507, "permission denied")
    lines = [record.getMessage() for record in caplog.records if record.name == "aiohttp.access"]
    assert [line.split('"')[1:3] for line in lines] == [
        ["GET /own?room=5 HTTP/1.1", lines[0].split('"')[2]],
        ["GET /own HTTP/1.1", lines[1].split('"')[2]],
    ]
    assert all(line.split('"')[2].startswith(" 403 ") for line in lines)
    assert (ran, held.begun) == ([], 0)
    assert "Traceback" not in caplog.text


async def test_the_rest_of_the_query_is_there_for_the_app(held: Held) -> None:
    seen: list[object] = []

    async def block(request: web.Request, websocket: Any, session: Any) -> None:
        seen.append(dict(request.query))

    async with serving(tracked(held, block, who="7")) as served:
        with await served.websocket("/own?room=%C3%A9%26&access_token=t&b=") as websocket:
            await asyncio.to_thread(websocket.frames)
    assert seen == [{"room": "é&", "b": ""}]


async def test_a_block_that_is_busy_when_its_session_ends_just_ends(
    held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    is_in, go_on = asyncio.Event(), asyncio.Event()

    async def busy(request: web.Request, websocket: Any, session: Any) -> None:
        is_in.set()
        await go_on.wait()
        await websocket.send_str("too late")
        raise AssertionError("it went on")

    async with serving(tracked(held, busy)) as served:
        with await served.websocket("/own") as websocket:
            await is_in.wait()
            await held.sessions.disconnect("42", timeout=0)
            assert await asyncio.to_thread(websocket.frames) == []
            assert websocket.closed == (3503, "force disconnect")
            go_on.set()
        await until(lambda: held.ends)
    assert sessions_held(held.sessions) == 0
    assert "Traceback" not in caplog.text and not caplog.records


async def test_errors_of_a_block_are_its_own(held: Held, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: web.Request, websocket: Any, session: Any) -> None:
        raise ConnectionResetError("the app's own database")

    async with serving(tracked(held, fail)) as served:
        with await served.websocket("/own"):
            await until(lambda: held.ends)
    await until(lambda: "the app's own database" in caplog.text)


async def test_errors_of_a_block_are_its_own_after_its_session_was_told_to_end_as_well(
    held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(request: web.Request, websocket: Any, session: Any) -> None:
        await session.closed
        await until(lambda: websocket.closed)
        raise ConnectionResetError("the app's own database")

    async with serving(tracked(held, fail)) as served:
        with await served.websocket("/own") as websocket:
            await held.sessions.disconnect("42", timeout=0)
            assert await asyncio.to_thread(websocket.frames) == []
            assert websocket.closed == (3503, "force disconnect")
        await until(lambda: "the app's own database" in caplog.text)


async def test_what_answers_an_exception_of_a_block_does_not_go_over_its_websocket(
    held: Held,
) -> None:
    @web.middleware
    async def answers(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
            return response
        except web.HTTPForbidden:
            return web.json_response({"error": "forbidden"}, status=403)

    async def refuse(request: web.Request, websocket: Any, session: Any) -> None:
        raise web.HTTPForbidden

    held.app = web.Application(middlewares=[answers])
    async with serving(tracked(held, refuse)) as served:
        with await served.websocket("/own") as websocket:
            # It reads until the server hangs up.
            assert await asyncio.to_thread(websocket.frames) == []
            assert websocket.closed == (1011, "")
    assert sessions_held(held.sessions) == 0


async def waiting(request: web.Request, websocket: web.WebSocketResponse, session: Any) -> None:
    await asyncio.Event().wait()


async def test_a_handler_that_goes_on_is_ended_when_its_session_is_told_to_end(
    held: Held, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "END_TIMEOUT", 0.05)
    async with serving(tracked(held, waiting)) as served:
        with await served.websocket("/own") as websocket:
            ended = await held.sessions.disconnect("42")
            assert len(ended.closed) == 1
            assert await asyncio.to_thread(websocket.frames) == []
            assert websocket.closed == (3503, "force disconnect")
    assert "Traceback" not in caplog.text


async def test_a_client_that_leaves_is_noticed_where_the_handler_does_not_receive(
    held: Held, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "END_TIMEOUT", 0.05)
    monkeypatch.setattr(tracking, "_LOOK_SECONDS", 0.05)
    is_done, finished = asyncio.Event(), []

    async def busy(request: web.Request, websocket: web.WebSocketResponse, session: Any) -> None:
        await is_done.wait()
        finished.append(session.client)

    async with serving(tracked(held, busy)) as served:
        with await served.websocket("/own"):
            await until(lambda: held.begun)
        await until(lambda: held.ends)
        # It may be busy with what that client has said.
        is_done.set()
        await until(lambda: finished)
    assert held.ends == [Disconnect(3000, "connection closed")]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("fails", [False, True])
async def test_a_client_that_leaves_tasks_of_a_group_is_no_error(
    fails: bool, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    async def read(websocket: web.WebSocketResponse) -> None:
        async for _ in websocket:
            pass
        if fails:
            raise LookupError("the app's own")

    async def write(websocket: web.WebSocketResponse) -> None:
        with anyio.CancelScope(shield=True):
            while True:
                await websocket.send_str("hello")
                await asyncio.sleep(0)

    async def block(request: web.Request, websocket: Any, session: Any) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(read, websocket)
            group.start_soon(write, websocket)

    async with serving(tracked(held, block)) as served:
        with await served.websocket("/own") as websocket:
            await asyncio.to_thread(websocket.frame)
        await until(lambda: held.ends)
        await until(lambda: not fails or "the app's own" in caplog.text)
    assert ("Traceback" in caplog.text) == fails
    assert "ClientConnectionResetError" not in caplog.text
