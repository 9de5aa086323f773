"""python-socketio: real servers on asyncio and with threads, and its own client."""

# mypy: disable-error-code="import-untyped,misc,untyped-decorator"

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import socketio
from engineio.async_socket import AsyncSocket
from engineio.socket import Socket
from socketio.exceptions import ConnectionError as SocketConnectionError
from socketio.exceptions import ConnectionRefusedError as SocketRefused

from tests.adapters.apps.shared import API_KEY, SECRET
from tests.adapters.serving import (
    ENVIRONMENT,
    connections,
    expired_token,
    new_user,
    token,
    until_it_answers,
)
from tests.conftest import Serve
from tests.redis_servers import RedisServer
from tests.servers import Server, python, serving, until
from tests.streams import WebSocket, ask, command, open_websocket
from usersessions import (
    AsyncUserSessions,
    ConfigError,
    ConnectRefused,
    ConnectRequest,
    Disconnect,
    Identity,
    Key,
    NoSuchSession,
    RedisStore,
    SessionLimit,
    TokenVerifier,
    UserSessions,
)
from usersessions.adapters.asgi import UserSessionsApp
from usersessions.adapters.socketio import DISCONNECT_EVENT, track
from usersessions.adapters.wsgi import UserSessionsWSGI, end_with_server
from usersessions.live import AsyncSession
from usersessions.records import ConnectionInfo

# The servers ----------------------------------------------------------------------------------

TRANSPORTS = ("websocket", "polling")
BYE = {"code": 4501, "reason": "bye"}
COME_BACK = {"code": 3011, "reason": "force reconnect"}
AT_ONCE: dict[str, Any] = {"reconnection_delay": 0.1, "randomization_factor": 0.0}
PING: dict[str, Any] = {"ping_interval": 1, "ping_timeout": 2}


def say(*words: object) -> None:
    print("said:", *words, flush=True)


def registered(session: Any) -> Any:
    say("registered", session.client)
    if session.user.startswith("slow-"):
        if isinstance(session, AsyncSession):
            return asyncio.sleep(1.0)
        time.sleep(1.0)
    return None


def decide(request: ConnectRequest) -> Identity | Disconnect:
    user = request.headers.get("cookie", "").removeprefix("user=")
    return Identity(user) if user else Disconnect(3507, "permission denied")


def identify(sid: str, environ: dict[str, Any], auth: Any) -> Any:
    ticket = auth.get("ticket") if isinstance(auth, dict) else None
    if ticket == "refused":
        raise ConnectRefused(4501, "no more tickets")
    if ticket == "broken":
        raise RuntimeError("the box office is closed")
    if ticket == "rude":
        raise SocketRefused("go away", 7)
    if ticket == "unreadable":
        return 42
    return ticket


def settings() -> dict[str, Any]:
    url = os.environ.get("REDIS_URL")
    return {
        "verifier": TokenVerifier(Key(SECRET, algorithm="HS256")),
        "connect_proxy": decide,
        "store": RedisStore(url) if url else None,
        "limit": SessionLimit(3),
        "on_connect": registered,
        "on_disconnect": lambda session, why, lived: say("ended", session.client, why.code),
    }


def add_handlers_before(sio: Any) -> None:
    @sio.event
    def connect(sid: str, environ: dict[str, Any], auth: Any = None) -> Any:
        say("connect", sid)
        what = auth.get("ask") if isinstance(auth, dict) else None
        if what == "raise":
            raise RuntimeError("the app's handler failed")
        if what == "refuse":
            raise SocketRefused("not today", {"until": "noon"})
        return what != "return False"


def add_handlers_after(sio: Any, tracking: Any) -> None:
    @sio.event
    def disconnect(sid: str, reason: str = "") -> None:
        user = tracking.identity(sid).user
        say("disconnect", sid, user)
        if user.startswith("clumsy-"):
            raise RuntimeError("the app's handler failed")

    @sio.on("who")
    def who(sid: str) -> str:
        assert tracking.session(sid).client == sid
        user: str = tracking.identity(sid).user
        return user

    # The oldest form of a handler, without `auth`.
    @sio.on("connect", namespace="/old")
    def connect_to_old(sid: str, environ: dict[str, Any]) -> None:
        say("old", sid)

    @sio.on("disconnect", namespace="/public")
    def leave_public(sid: str, reason: str) -> None:
        raise RuntimeError("the app's handler failed")


def shown(info: ConnectionInfo) -> dict[str, Any]:
    names = ("app_name", "app_version", "transport", "remote_addr", "user_agent")
    return {name: getattr(info, name) for name in (*names, "last_seen", "expire_at")}


def on_asyncio() -> Any:
    sio: Any = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", **PING)
    sessions = AsyncUserSessions(**settings())
    add_handlers_before(sio)
    tracking = track(sio, sessions, identify=identify, namespaces=["/", "/chat", "/old", "/slow"])
    add_handlers_after(sio, tracking)

    class Chat(socketio.AsyncNamespace):
        async def on_connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
            say("chat", sid, tracking.identity(sid).user)

    sio.register_namespace(Chat("/chat"))

    @sio.on("connect", namespace="/slow")
    async def connect_slowly(sid: str, environ: dict[str, Any], auth: Any) -> None:
        say("slow", sid)
        await asyncio.sleep(0.5)

    @sio.on("connect", namespace="/public")
    async def connect_to_public(sid: str, environ: dict[str, Any]) -> None:
        say("public", sid)

    @sio.event
    async def refresh(sid: str, new: str) -> None:
        await tracking.session(sid).refresh(new)

    @sio.event
    async def show(sid: str) -> dict[str, Any]:
        return shown((await sessions.user_connections(tracking.identity(sid).user))[sid])

    return socketio.ASGIApp(sio, UserSessionsApp(sessions, api_keys=[API_KEY]))


def with_threads() -> Any:
    sio: Any = socketio.Server(async_mode="threading", cors_allowed_origins="*", **PING)
    sessions = UserSessions(**settings())
    add_handlers_before(sio)
    tracking = track(sio, sessions, identify=identify, namespaces=["/", "/chat", "/old", "/slow"])
    add_handlers_after(sio, tracking)

    class Chat(socketio.Namespace):
        def on_connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
            say("chat", sid, tracking.identity(sid).user)

    sio.register_namespace(Chat("/chat"))

    @sio.on("connect", namespace="/slow")
    def connect_slowly(sid: str, environ: dict[str, Any], auth: Any) -> None:
        say("slow", sid)
        time.sleep(0.5)

    @sio.on("connect", namespace="/public")
    def connect_to_public(sid: str, environ: dict[str, Any]) -> None:
        say("public", sid)

    @sio.event
    def refresh(sid: str, new: str) -> None:
        tracking.session(sid).refresh(new)

    @sio.event
    def show(sid: str) -> dict[str, Any]:
        return shown(sessions.user_connections(tracking.identity(sid).user)[sid])

    end_with_server(sessions)
    return socketio.WSGIApp(sio, UserSessionsWSGI(sessions, api_keys=[API_KEY]))


COMMANDS = {
    "asyncio": python(
        *("-m", "uvicorn", "--host=127.0.0.1", "--port=0", "--factory", f"{__name__}:on_asyncio")
    ),
    "threads": python(
        *("-m", "gunicorn", "--bind=127.0.0.1:0", "--worker-class=gthread", "--threads=40"),
        *("--graceful-timeout=3", f"{__name__}:with_threads()"),
    ),
}


@pytest.fixture(scope="module", params=COMMANDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    log = tmp_path_factory.mktemp("socketio") / "server.log"
    with serving(COMMANDS[request.param], log=log, env=ENVIRONMENT) as server:
        until_it_answers(server)
        yield server


# The client -----------------------------------------------------------------------------------

# It leaves it to the garbage collector to close its sockets.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def no_sockets_left_behind() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@dataclass
class Client:
    """A client, and what it has heard."""

    sio: Any
    told: list[Any] = field(default_factory=list)
    connected: int = 0
    disconnected: int = 0
    refused: Any = None
    namespace: str = "/"

    @property
    def sid(self) -> str:
        sid: str = self.sio.get_sid(self.namespace)
        return sid


@contextmanager
def client(
    url: str,
    auth: Any = None,
    *,
    transport: str = "websocket",
    namespace: str = "/",
    headers: dict[str, str] | None = None,
    reconnection: bool = False,
    wait: bool = True,
) -> Iterator[Client]:
    """A client that has connected, or was refused; or, if it is not waited for, is about to."""
    sio = socketio.Client(reconnection=reconnection, **AT_ONCE)
    heard = Client(sio, namespace=namespace)

    def count(name: str) -> Callable[..., None]:
        return lambda *_: setattr(heard, name, getattr(heard, name) + 1)

    sio.on(DISCONNECT_EVENT, heard.told.append, namespace=namespace)
    sio.on("connect", count("connected"), namespace=namespace)
    sio.on("disconnect", count("disconnected"), namespace=namespace)
    sio.on("connect_error", lambda *why: setattr(heard, "refused", why), namespace=namespace)
    try:
        sio.connect(
            url,
            auth=auth,
            headers=headers or {},
            transports=transport.split(","),
            namespaces=[namespace],
            wait=wait,
            wait_timeout=10,
        )
    except SocketConnectionError:
        assert heard.refused is not None
    try:
        yield heard
    finally:
        sio.shutdown()
        # One that was just coming back has come back by then.
        if sio.connected:
            sio.disconnect()


def control(server: Server, method: str, **params: object) -> Any:
    return command(server.url, method, key=API_KEY, **params)


def until_said(server: Server, *words: object) -> None:
    line = " ".join(["said:", *map(str, words)])
    # Something that another thread is just writing may be in front of it.
    until(lambda: f"{line}\n" in server.output, what=line)


def refusal(code: int, reason: str) -> tuple[Any, ...]:
    return ({"message": reason, "data": {"code": code, "reason": reason}},)


# Sockets are sessions -------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_socket_is_listed_under_its_sid_until_it_is_closed(
    server: Server, transport: str
) -> None:
    user = new_user()
    auth = {"token": token(user), "name": "chat", "version": "1.2"}
    headers = {"User-Agent": "a client of the tests"}
    with client(server.url, auth, transport=transport, headers=headers) as one:
        until(lambda: one.connected, what="the client to be connected")
        [sid] = connections(server.url, user)
        assert sid == one.sid
        assert one.sio.call("show").items() >= {
            ("app_name", "chat"),
            ("app_version", "1.2"),
            ("transport", "socketio"),
            ("remote_addr", "127.0.0.1"),
            ("user_agent", "a client of the tests"),
        }
        assert one.sio.call("who") == user
        until_said(server, "connect", sid)
        one.sio.disconnect()
        until_said(server, "disconnect", sid, user)
        until_said(server, "ended", sid, 3000)
        assert connections(server.url, user) == {}
        assert one.told == []


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_session_that_has_to_end_takes_its_socket_with_it(server: Server, transport: str) -> None:
    user = new_user()
    with client(server.url, {"token": token(user)}, transport=transport, reconnection=True) as one:
        sid = one.sid
        answer = control(server, "disconnect", user=user, disconnect=BYE)
        assert connections(server.url, user) == {}, answer
        until(lambda: one.disconnected, what="the client to be disconnected")
        assert one.told == [BYE]
        until_said(server, "disconnect", sid, user)
        until_said(server, "ended", sid, 4501)
        assert one.connected == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_client_comes_back_by_itself_where_the_code_invites_it(
    server: Server, transport: str
) -> None:
    user = new_user()
    with client(server.url, {"token": token(user)}, transport=transport, reconnection=True) as one:
        sid = one.sid
        control(server, "disconnect", user=user, disconnect=COME_BACK)
        until(lambda: one.connected == 2, what="the client to be back")
        # Between two polls there is nobody to tell.
        assert one.told in ([COME_BACK], [] if transport == "polling" else [COME_BACK])
        assert list(connections(server.url, user)) == [one.sid] != [sid]


def test_an_incoming_event_is_noted_in_the_list(server: Server) -> None:
    user = new_user()
    with client(server.url, {"token": token(user)}) as one:
        before = one.sio.call("show")["last_seen"]
        until(lambda: one.sio.call("show")["last_seen"] > before, what="the time to be noted")


def test_each_namespace_has_a_session_of_its_own(server: Server) -> None:
    user = new_user()
    with (
        client(server.url, {"token": token(user)}) as one,
        client(server.url, {"token": token(user)}, namespace="/chat") as chat,
    ):
        listed = connections(server.url, user)
        assert {sid: info["transport"] for sid, info in listed.items()} == {
            one.sid: "socketio",
            chat.sid: "socketio/chat",
        }
        until_said(server, "chat", chat.sid, user)
        control(server, "disconnect", user=user, client=chat.sid)
        until(lambda: chat.disconnected, what="the one to be disconnected")
        assert one.sio.call("who") == user
        assert list(connections(server.url, user)) == [one.sid]


def test_one_transport_carries_namespaces_that_end_one_by_one(server: Server) -> None:
    user = new_user()
    sio = socketio.Client(reconnection=False)
    gone: list[str] = []
    sio.on("disconnect", lambda *_: gone.append("/chat"), namespace="/chat")
    try:
        sio.connect(server.url, auth={"token": token(user)}, namespaces=["/", "/chat"])
        until(lambda: len(sio.namespaces) == 2, what="both")
        sids = {sio.get_sid("/"), sio.get_sid("/chat")}
        assert set(connections(server.url, user)) == sids
        control(server, "disconnect", user=user, client=sio.get_sid("/chat"))
        until(lambda: gone, what="the one to end")
        assert sio.call("who") == user
        assert set(connections(server.url, user)) == {sio.get_sid("/")}
    finally:
        sio.shutdown()
    until(lambda: not connections(server.url, user), what="the other to end")


def test_a_namespace_that_was_not_named_is_none_of_ours(server: Server) -> None:
    with client(server.url, namespace="/public") as one:
        until_said(server, "public", one.sid)
        assert f"registered {one.sid}" not in server.output


def test_a_token_can_be_replaced_while_the_socket_lives(server: Server) -> None:
    user = new_user()
    until_then = int(time.time()) + 3600
    with client(server.url, {"token": token(user)}) as one:
        one.sio.call("refresh", token(user, exp=until_then))
        assert one.sio.call("show")["expire_at"] == until_then


# Who connects ---------------------------------------------------------------------------------


def test_the_token_may_be_in_the_header(server: Server) -> None:
    user = new_user()
    with client(server.url, headers={"Authorization": f"Bearer {token(user)}"}) as one:
        assert list(connections(server.url, user)) == [one.sid]


def test_the_connect_proxy_is_asked_where_there_is_no_token(server: Server) -> None:
    user = new_user()
    with client(server.url, headers={"Cookie": f"user={user}"}, namespace="/old") as one:
        assert list(connections(server.url, user)) == [one.sid]
        # A handler without `auth` is called as ever.
        until_said(server, "old", one.sid)


def test_the_app_may_say_who_connects(server: Server) -> None:
    user = new_user()
    with client(server.url, {"ticket": user, "token": "the app's own"}) as one:
        assert list(connections(server.url, user)) == [one.sid]


@pytest.mark.parametrize(
    ("auth", "why"),
    [
        ({"token": "no token"}, refusal(3500, "invalid token")),
        ({"token": 7}, refusal(3501, "bad request")),
        ({"name": "n" * 256}, refusal(3501, "bad request")),
        ({"version": 7}, refusal(3501, "bad request")),
        (None, refusal(3507, "permission denied")),
        ({"ticket": "refused"}, refusal(4501, "no more tickets")),
        ({"ticket": "broken"}, refusal(3004, "internal server error")),
        ({"ticket": "unreadable"}, refusal(3004, "internal server error")),
        ({"ticket": "rude"}, ({"message": "go away", "data": 7},)),
    ],
)
def test_whoever_may_not_connect_is_told_why(
    server: Server, auth: Any, why: tuple[Any, ...]
) -> None:
    before = server.output.count("said: connect")
    with client(server.url, auth) as one:
        assert one.refused == why
        assert server.output.count("said: connect") == before


def test_an_expired_token_is_refused_with_a_code_that_asks_for_a_new_one(server: Server) -> None:
    with client(server.url, {"token": expired_token("42")}, transport="polling") as one:
        assert one.refused == refusal(3005, "connection expired")


def test_a_foreign_page_cannot_connect_with_its_users_cookies(server: Server) -> None:
    user, host = new_user(), server.url
    foreign = {"Cookie": f"user={user}", "Origin": "https://evil.example"}
    with client(server.url, headers=foreign, transport="polling") as one:
        assert one.refused == refusal(3507, "permission denied")
    with client(server.url, headers={**foreign, "Origin": host}, transport="polling") as one:
        assert one.refused is None
    with client(server.url, {"token": token(user)}, headers=foreign, transport="polling") as one:
        assert one.refused is None


@pytest.mark.anyio
async def test_no_event_goes_to_or_comes_from_a_client_before_it_is_known_who_it_is() -> None:
    sio: Any = socketio.AsyncServer(async_mode="asgi")
    sio.environ["transport"] = {}
    transport = sio.eio.sockets["transport"] = AsyncSocket(sio.eio, "transport")
    sio.on("ask", lambda sid: "a secret")
    answers: list[object] = []

    async def look_up(sid: str, environ: dict[str, Any], auth: Any) -> str:
        await sio.emit("news", "for members")
        answers.append(await sio._trigger_event("ask", "/", sid))
        return "42"

    @sio.event
    async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
        await sio.emit("welcome", to=sid)

    tracking = track(sio, AsyncUserSessions(), identify=look_up)
    await sio._handle_connect("transport", None, {})
    await sio.emit("news", "for everybody")
    packets = [packet.data for packet in await transport.poll()]
    sid = json.loads(packets[1][1:])["sid"]
    assert packets == ['2["welcome"]', f'0{{"sid":"{sid}"}}', '2["news","for everybody"]']
    assert tracking.identity(sid).user == "42"
    answers.append(await sio._trigger_event("ask", "/", sid))
    assert answers == [sio.not_handled, "a secret"]
    await transport.close(wait=False, abort=True)


def test_no_event_passes_before_it_is_known_who_it_is_on_a_server_with_threads_either() -> None:
    sio: Any = socketio.Server(async_mode="threading")
    sio.environ["transport"] = {}
    transport = sio.eio.sockets["transport"] = Socket(sio.eio, "transport")
    sio.on("ask", lambda sid: "a secret")
    answers: list[object] = []

    def look_up(sid: str, environ: dict[str, Any], auth: Any) -> str:
        sio.emit("news", "for members")
        answers.append(sio._trigger_event("ask", "/", sid))
        raise ConnectRefused(4501, "no more tickets")

    track(sio, UserSessions(), identify=look_up)
    sio._handle_connect("transport", None, {})
    [packet] = transport.poll()
    assert packet.data.startswith('4{"message":"no more tickets"')
    assert answers == [sio.not_handled]


@pytest.mark.parametrize("ask", ["return False", "refuse", "raise"])
def test_whom_the_app_refuses_was_never_registered(server: Server, ask: str) -> None:
    user = new_user()
    auth = {"token": token(user), "ask": ask}
    before = server.output.count("said: registered")
    if ask == "raise":
        # The server says nothing to the client then.
        sio = socketio.Client(reconnection=False)
        with pytest.raises(SocketConnectionError):
            sio.connect(server.url, auth=auth, wait_timeout=1)
        sio.shutdown()
    else:
        with client(server.url, auth) as one:
            message = {"message": "not today", "data": {"until": "noon"}}
            refused = {"message": "Connection rejected by server"}
            assert one.refused == ((message if ask == "refuse" else refused),)
    assert server.output.count("said: registered") == before
    assert connections(server.url, user) == {}


def test_whom_we_refuse_after_the_app_has_left_its_books_as_well(server: Server) -> None:
    user = new_user()
    control(server, "block_user", user=user)
    with client(server.url, {"token": token(user)}) as one:
        assert one.refused == refusal(3503, "force disconnect")
    [sid] = [line.split()[-2] for line in server.output.splitlines() if line.endswith(f" {user}")]
    until_said(server, "connect", sid)
    until_said(server, "disconnect", sid, user)
    assert f"registered {sid}" not in server.output


def test_one_socket_too_many_is_refused(server: Server) -> None:
    auth = {"token": token(new_user())}
    with ExitStack() as clients:
        for _ in range(3):
            assert clients.enter_context(client(server.url, auth)).refused is None
        one = clients.enter_context(client(server.url, auth))
        assert one.refused == refusal(3504, "connection limit")


# Ends that nobody announces -------------------------------------------------------------------

STUBBORN = """
import sys, time, socketio
url, token, transports, namespace = sys.argv[1:]
sio = socketio.Client()
sio.connect(url, auth={"token": token}, transports=transports.split(","), namespaces=[namespace],
            wait=False)
print("started", flush=True)
time.sleep(60)
"""


@contextmanager
def stubborn(url: str, user: str, transports: str, namespace: str = "/") -> Iterator[Any]:
    """A client in a process of its own, which can be killed."""
    arguments = (url, token(user), transports, namespace)
    process = subprocess.Popen(
        python("-c", STUBBORN, *arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_client_that_is_lost_is_listed_no_longer_than_its_pings_take(
    server: Server, transport: str
) -> None:
    user = new_user()
    with stubborn(server.url, user, transport) as process:
        until(lambda: connections(server.url, user), what="the session")
        process.send_signal(signal.SIGSTOP)
        # Its connection stays open; only the pings tell.
        until(lambda: not connections(server.url, user), what="the session to end")
        process.kill()


def test_a_client_whose_connection_breaks_is_gone_at_once(server: Server) -> None:
    user = new_user()
    with stubborn(server.url, user, "websocket") as process:
        until(lambda: connections(server.url, user), what="the session")
        process.kill()
        until(lambda: not connections(server.url, user), what="the session to end", seconds=0.5)


def heard(socket: WebSocket) -> bytes:
    """What the server sends next; it would send pings for ever."""
    frames = (socket.frame() for _ in range(10))
    return next(frame for frame in frames if frame is not None and frame != b"2")


def test_a_disconnect_handler_that_fails_spares_no_other_namespace(server: Server) -> None:
    user = f"clumsy-{new_user()}"
    auth = f'{{"token": "{token(user)}"}}'
    with open_websocket(server.url, "/socket.io/?EIO=4&transport=websocket") as socket:
        assert heard(socket).startswith(b"0")
        for namespace, data in (("/public,", ""), ("", auth), ("/chat,", auth)):
            socket.send(f"40{namespace}{data}".encode())
            assert heard(socket).startswith(f'40{namespace}{{"sid":'.encode())
        assert len(connections(server.url, user)) == 2
    until(lambda: not connections(server.url, user), what="both to end")


@contextmanager
def let_in_slowly(server: Server, user: str) -> Iterator[tuple[str, bytes]]:
    """Where a client polls, and the packet with which it is just being let in."""
    target = "/socket.io/?EIO=4&transport=polling"
    transport = json.loads(ask(server.url, target, method="GET").body[1:])["sid"]
    target += f"&sid={transport}"
    packet = f'40/slow,{{"token": "{token(user)}"}}'.encode()
    before = server.output.count("said: slow")
    connecting = threading.Thread(target=ask, args=(server.url, target), kwargs={"body": packet})
    connecting.start()
    try:
        until(lambda: server.output.count("said: slow") > before, what="its connect")
        yield target, packet
    finally:
        connecting.join()


def test_a_client_that_leaves_while_it_is_let_in_leaves_no_ghost(server: Server) -> None:
    user = new_user()
    with let_in_slowly(server, user) as (target, _):
        # Engine.IO's "close", which comes on another connection.
        ask(server.url, target, body=b"1")
    sid = server.output.split("said: slow ")[-1].split()[0]
    until_said(server, "ended", sid, 3000)
    assert connections(server.url, user) == {}


def test_a_client_that_asks_again_while_it_is_let_in_can_be_closed(server: Server) -> None:
    user = new_user()
    with let_in_slowly(server, user) as (target, packet):
        ask(server.url, target, body=packet)
    [sid] = connections(server.url, user)
    assert control(server, "disconnect", user=user)["closed"] == [sid]
    # It was told, and not just lost in the end, for it does not answer pings.
    assert b"41/slow," in ask(server.url, target, method="GET").body
    assert connections(server.url, user) == {}


def test_a_session_that_has_to_end_while_it_is_let_in_takes_its_socket_with_it(
    server: Server,
) -> None:
    user = f"slow-{new_user()}"
    with client(server.url, {"token": token(user)}, wait=False) as one:
        [sid] = until(lambda: connections(server.url, user), what="the session")
        assert one.connected == 0
        control(server, "disconnect", user=user, disconnect=BYE)
        until(lambda: one.disconnected, what="the client to be disconnected")
        assert one.told == [BYE]
    until_said(server, "ended", sid, 4501)


@pytest.mark.parametrize(
    "event",
    [
        ("disconnect",),
        ("disconnect", "transport close"),
        ("connect",),
        ("connect", {"HTTP_COOKIE": "user=somebody"}),
        ("connect", {"asgi.scope": {"headers": []}}, {"ticket": "somebody"}),
    ],
)
def test_an_event_with_the_name_of_ours_is_an_event(server: Server, event: tuple[Any, ...]) -> None:
    user = new_user()
    with client(server.url, {"token": token(user)}) as one:
        sid, before = one.sid, server.output.count("InvalidValue")
        one.sio.emit(event[0], event[1:])
        assert one.sio.call("who") == user
        assert list(connections(server.url, user)) == [sid]
        assert server.output.count("InvalidValue") == before
    until_said(server, "ended", sid, 3000)


@pytest.mark.anyio
async def test_an_event_with_the_name_of_ours_may_come_after_its_socket_is_gone() -> None:
    sio = socketio.AsyncServer(async_mode="asgi")
    track(sio, AsyncUserSessions())
    sio.on("connect", lambda sid, data: f"{data} of {sid}")
    assert await sio._trigger_event("connect", "/", "nobody", None) == "None of nobody"


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_server_that_stops_tells_its_clients_to_come_back(serve: Serve, kind: str) -> None:
    server = serve(COMMANDS[kind], env=ENVIRONMENT)
    until_it_answers(server)
    user = new_user()
    with client(server.url, {"token": token(user)}) as one:
        assert server.stop() in (0, -signal.SIGTERM)
        until(lambda: one.disconnected, what="the client to be disconnected")
        assert one.told == [{"code": 3001, "reason": "shutdown"}]
    assert "Traceback" not in server.output


def test_sockets_of_several_servers_end_from_a_process_that_is_none(
    serve: Serve, redis_server: RedisServer
) -> None:
    env = {**ENVIRONMENT, "REDIS_URL": redis_server.url}
    user = new_user()
    first, second = (serve(COMMANDS[kind], env=env) for kind in COMMANDS)
    until_it_answers(first)
    until_it_answers(second)
    sessions = UserSessions(store=RedisStore(redis_server.url))
    try:
        auth = {"token": token(user)}
        with (
            client(first.url, auth) as one,
            client(second.url, auth, transport="polling") as other,
        ):
            assert set(sessions.user_connections(user)) == {one.sid, other.sid}
            sids = {one.sid, other.sid}
            assert set(sessions.disconnect(user).closed) == sids
            until(lambda: one.disconnected and other.disconnected, what="both to be disconnected")
            assert one.told == other.told == [{"code": 3503, "reason": "force disconnect"}]
    finally:
        sessions.close()


@pytest.mark.anyio
async def test_a_server_that_fails_at_the_last_moment_leaves_no_ghost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sio = socketio.AsyncServer(async_mode="asgi")
    sessions = AsyncUserSessions()
    track(sio, sessions, identify=lambda sid, environ, auth: "42")
    listed: list[int] = []

    async def fail(sid: str, namespace: str) -> None:
        listed.append(len(await sessions.user_connections("42")))
        raise RuntimeError("out of memory")

    monkeypatch.setattr(sio.manager, "connect", fail)
    sio.environ["transport"] = {}
    with pytest.raises(RuntimeError):
        await sio._handle_connect("transport", None, {})
    assert listed == [1]
    deadline = time.monotonic() + 10
    while await sessions.user_connections("42"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


def test_the_example_is_a_chat_whose_sockets_are_listed_and_closed(serve: Serve) -> None:
    example = Path(__file__).parent.parent.parent / "examples" / "socketio_app.py"
    secrets = {"USERSESSIONS_TOKEN_HMAC_SECRET_KEY": SECRET, "USERSESSIONS_API_KEY": API_KEY}
    server = serve(python(str(example)), env={**ENVIRONMENT, **secrets, "PORT": "0"})
    user, said = new_user(), list[Any]()
    with client(server.url, {"token": token(user)}) as one:
        one.sio.on("message", said.append)
        one.sio.call("refresh", token(user))
        one.sio.emit("message", "hello")
        until(lambda: said == [{"from": user, "text": "hello"}], what="the message")
        assert list(connections(server.url, user)) == [one.sid]
        control(server, "disconnect", user=user)
        until(lambda: one.disconnected, what="the client to be disconnected")


# What cannot work -----------------------------------------------------------------------------


def test_a_server_needs_the_sessions_of_its_kind() -> None:
    mistakes: list[tuple[Any, Any]] = [
        (socketio.AsyncServer(async_mode="asgi"), UserSessions()),
        (socketio.Server(async_mode="threading"), AsyncUserSessions()),
    ]
    for sio, sessions in mistakes:
        with pytest.raises(ConfigError, match="an AsyncServer needs AsyncUserSessions, and a Ser"):
            track(sio, sessions)


def test_a_server_that_lets_clients_in_before_they_are_known_is_refused() -> None:
    mistakes: list[tuple[Any, Any]] = [
        (socketio.AsyncServer(async_mode="asgi", always_connect=True), AsyncUserSessions()),
        (socketio.Server(async_mode="threading", always_connect=True), UserSessions()),
    ]
    for sio, sessions in mistakes:
        with pytest.raises(ConfigError, match="with always_connect, the server lets clients in"):
            track(sio, sessions)


def test_settings_are_checked_at_once() -> None:
    async def later(sid: str, environ: object, auth: object) -> str:
        return "42"

    sio = socketio.Server(async_mode="threading")
    with pytest.raises(ConfigError, match="make identify a plain function"):
        track(sio, UserSessions(), identify=later)
    with pytest.raises(ConfigError, match="namespaces must be a list of strings, not one"):
        track(sio, UserSessions(), namespaces="/chat")
    with pytest.raises(ConfigError, match="trusted_hops"):
        track(sio, UserSessions(), trusted_hops=-1)


@pytest.mark.parametrize(
    "namespaces", [["chat"], ["/", "chat"], ["*"], [""], [], [None], [b"/chat"]], ids=repr
)
def test_namespaces_that_would_leave_sockets_unchecked_are_refused(namespaces: Any) -> None:
    sio = socketio.Server(async_mode="threading")
    triggers = sio._trigger_event
    with pytest.raises(ConfigError, match=r'such as \["/", "/chat"\], each with its slash'):
        track(sio, UserSessions(), namespaces=namespaces)
    # The server is as it was.
    assert sio._trigger_event == triggers


def test_whoever_asks_for_a_socket_that_is_not_there_is_told_so() -> None:
    tracking = track(socketio.Server(async_mode="threading"), UserSessions())
    with pytest.raises(NoSuchSession):
        tracking.identity("nobody")
    with pytest.raises(NoSuchSession):
        tracking.session("nobody")


def test_without_python_socketio_the_adapter_says_what_to_install() -> None:
    script = """
import sys
sys.modules["socketio"] = None
from usersessions import MissingExtraError
try:
    import usersessions.adapters.socketio
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run(python("-c", script), capture_output=True, text=True, check=True)
    assert done.stdout == ('socketio is not installed; run: pip install "usersessions[socketio]"\n')
