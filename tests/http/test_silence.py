"""Clients that vanish: real sockets, and what the system is asked to do with them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.http.exchange import Connection, Exchange, scope, settle
from usersessions import AsyncUserSessions, Identity
from usersessions.http import silence
from usersessions.http.app import UserSessionsApp
from usersessions.http.asgi import ASGIApp, Receive, Scope, Send
from usersessions.http.event_streams import TrackEventStreams
from usersessions.http.silence import bound_hidden, bound_silence
from usersessions.http.tracking import TrackWebSockets


class Accepted:
    """A TCP connection to a server of this process.

    Attributes:
        server: what the server listens on.
        ours: the server's end.
        client: the other end.
        peer: the address of that, as servers tell it.
    """

    def __init__(self, opened: ExitStack, server: socket.socket) -> None:
        self.server = server
        self.client = opened.enter_context(socket.create_connection(server.getsockname()[:2]))
        self.ours = opened.enter_context(server.accept()[0])
        self.peer = self.client.getsockname()[:2]


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def server(opened: ExitStack) -> socket.socket:
    return opened.enter_context(socket.create_server(("127.0.0.1", 0)))


@pytest.fixture
def accepted(opened: ExitStack, server: socket.socket) -> Accepted:
    return Accepted(opened, server)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each look at what the process has open, which comes at once."""
    listed: list[str] = []
    listdir = os.listdir

    def note(path: str) -> list[str]:
        listed.append(path)
        return listdir(path)

    monkeypatch.setattr(silence, "_SOON", 0.0)
    monkeypatch.setattr(silence, "_PAUSE_PER_DESCRIPTOR", 0.0)
    monkeypatch.setattr(os, "listdir", note)
    return listed


def limit_of(one: socket.socket) -> int:
    """After how many seconds a connection is given up; 0 is whenever the system likes."""
    return one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) // 1000


def asked_of(one: socket.socket) -> tuple[bool, int, int, int]:
    """Whether the system asks a silent client, after how many seconds, how often, and how long."""
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    after, every, times = (one.getsockopt(socket.IPPROTO_TCP, option) for option in options)
    is_on = bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
    return is_on, after, every, times


@pytest.mark.parametrize("ping_interval", [None, 26, 3600])
def test_a_client_that_nobody_pings_is_asked_whether_it_is_there(
    ping_interval: int | None, accepted: Accepted
) -> None:
    bound_silence(accepted.ours, ping_interval=ping_interval)
    is_on, after, every, times = asked_of(accepted.ours)
    assert is_on
    # A packet may get lost, and its answer: on Linux, all of this has to be over as well.
    assert times >= 3
    assert limit_of(accepted.ours) == after + every * times
    # What is sent just before that starts the limit anew.
    assert 2 * limit_of(accepted.ours) <= 40
    assert not asked_of(accepted.client)[0]


@pytest.mark.parametrize(("ping_interval", "seconds"), [(1, 1), (15, 15), (16, 15), (25, 15)])
def test_where_there_are_pings_nobody_else_asks(
    ping_interval: int, seconds: int, accepted: Accepted
) -> None:
    bound_silence(accepted.ours, ping_interval=ping_interval)
    assert (limit_of(accepted.ours), asked_of(accepted.ours)[0]) == (seconds, False)
    assert ping_interval + limit_of(accepted.ours) <= 40


def test_a_system_that_cannot_give_a_connection_up_is_passed_over(
    accepted: Accepted, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.delattr(socket, "TCP_USER_TIMEOUT")
        bound_silence(accepted.ours, ping_interval=5)
    assert limit_of(accepted.ours) == 0


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
@pytest.mark.anyio
async def test_a_hidden_connection_is_bound_and_no_other_one(
    family: socket.AddressFamily, host: str, opened: ExitStack, looks: list[str]
) -> None:
    server = opened.enter_context(socket.create_server((host, 0), family=family))
    sought, other = Accepted(opened, server), Accepted(opened, server)
    bound_hidden(sought.peer)
    await settle()
    assert limit_of(sought.ours) == 20
    assert [limit_of(one) for one in (sought.client, other.ours, other.client, server)] == [0] * 4


@pytest.mark.anyio
async def test_many_are_looked_for_at_once(
    opened: ExitStack, server: socket.socket, looks: list[str]
) -> None:
    many = [Accepted(opened, server) for _ in range(5)]
    for seconds, one in enumerate(many, start=12):
        bound_hidden(list(one.peer), ping_interval=seconds)
    await settle()
    assert [limit_of(one.ours) for one in many] == [12, 13, 14, 15, 15]
    assert len(looks) == 1
    # Those that come later are looked for then.
    bound_hidden(many[0].peer, ping_interval=3)
    await settle()
    assert (limit_of(many[0].ours), limit_of(many[1].ours), len(looks)) == (3, 13, 2)


@pytest.mark.parametrize(
    "client", [None, (), ("/run/app.sock", None), ["localhost"], "ab", 5, ("203.0.113.9", 0)]
)
@pytest.mark.anyio
async def test_a_client_without_a_port_is_not_looked_for(client: object, looks: list[str]) -> None:
    bound_hidden(client)
    await settle()
    assert looks == []


@pytest.mark.anyio
async def test_no_other_file_or_socket_is_touched(
    opened: ExitStack, accepted: Accepted, looks: list[str], tmp_path: Path
) -> None:
    blocking = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
    for one in socket.socketpair():
        opened.enter_context(one)
    datagrams = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    datagrams.connect(accepted.peer)
    opened.enter_context(socket.socket())
    opened.enter_context(socket.socket(socket.AF_UNIX)).bind(str(tmp_path / "socket"))
    # Whoever closes a file in any way gives up all locks of the process on it.
    locked = opened.enter_context((tmp_path / "locked").open("w"))
    fcntl.lockf(locked, fcntl.LOCK_EX)
    opened.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
    socket.setdefaulttimeout(5.0)
    before = os.listdir("/proc/self/fd")
    bound_hidden(accepted.peer)
    # Nobody has it, so that all is looked at.
    bound_hidden(("192.0.2.1", 1))
    await settle()
    assert (limit_of(accepted.ours), len(looks)) == (20, 2)
    assert os.listdir("/proc/self/fd") == before
    assert os.get_blocking(blocking.fileno())
    attempt = (
        "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    )
    command = [sys.executable, "-c", attempt, locked.name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "BlockingIOError" in done.stderr


@pytest.mark.anyio
async def test_others_are_served_meanwhile_and_may_close_what_they_have(
    opened: ExitStack, accepted: Accepted, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "DESCRIPTORS_AT_ONCE", 1)
    newer = socket.socketpair()
    bound_hidden(accepted.peer)
    while not looks:
        await asyncio.sleep(0)
    assert limit_of(accepted.ours) == 0
    for one in newer:
        one.close()
    for _ in range(accepted.ours.fileno() + 10):
        await asyncio.sleep(0)
    assert limit_of(accepted.ours) == 20


@pytest.mark.anyio
async def test_a_system_that_does_not_list_what_a_process_has_open_is_passed_over(
    accepted: Accepted, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> list[str]:
        looks.append(path)
        raise FileNotFoundError(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", fail)
        bound_hidden(accepted.peer)
        await settle()
    assert (limit_of(accepted.ours), len(looks)) == (0, 1)


@pytest.mark.anyio
async def test_the_more_there_is_to_look_at_the_seldomer_it_is_done(
    accepted: Accepted, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    delays: list[float] = []

    def call_later(delay: float, call: Callable[[], None]) -> None:
        delays.append(delay)
        loop.call_soon(call)

    monkeypatch.setattr(loop, "call_later", call_later)
    monkeypatch.setattr(silence, "_PAUSE_PER_DESCRIPTOR", 1.0)
    for _ in range(2):
        bound_hidden(accepted.peer)
        await settle()
    assert delays[0] == 0.5
    assert delays[1] > accepted.ours.fileno() / 2


# Who asks for it ----------------------------------------------------------------------------------


async def accept(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that lets everybody in, and has no more to say."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    else:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


def one_user(asked: object) -> Identity:
    return Identity("42")


@pytest.mark.parametrize(
    ("kind", "make"),
    [("http", TrackEventStreams), ("websocket", TrackWebSockets)],
)
@pytest.mark.anyio
async def test_the_connections_of_an_app_are_bound(
    kind: str, make: Callable[..., ASGIApp], accepted: Accepted, looks: list[str]
) -> None:
    connection = scope("/", kind=kind)
    connection["client"] = accepted.peer
    tracked = make(accept, AsyncUserSessions(), identify=one_user)
    await Exchange(tracked, connection, [{"type": "http.request"}]).end()
    await settle()
    assert limit_of(accepted.ours) == 20


@pytest.mark.parametrize(("ping_interval", "seconds"), [(25, 15), (7, 7)])
@pytest.mark.parametrize("kind", Connection.KINDS)
@pytest.mark.anyio
async def test_a_stream_is_bound(
    kind: str, ping_interval: int, seconds: int, accepted: Accepted, looks: list[str]
) -> None:
    sessions = AsyncUserSessions(connect_proxy=one_user)
    app = UserSessionsApp(sessions, ping_interval=ping_interval)
    stream = Connection(app, kind, {})
    stream.scope["client"] = accepted.peer
    await stream.frame(0)
    await settle()
    assert limit_of(accepted.ours) == seconds
    await sessions.disconnect("42")
    await stream.end()


@pytest.mark.anyio
async def test_a_request_that_is_no_stream_is_left_alone(
    accepted: Accepted, looks: list[str]
) -> None:
    request = scope("/api")
    request["client"] = accepted.peer
    await Exchange(UserSessionsApp(AsyncUserSessions()), request, [{"type": "http.request"}]).end()
    await settle()
    assert looks == []
