"""The tutorial, as a new user walks it: the real command, plain curl, a server of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import usersessions
from tests.conftest import Serve
from tests.servers import Server, python, serving, until

CLIENT = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
SHUTDOWN = {"disconnect": {"code": 3001, "reason": "shutdown"}}
FORCED = {"disconnect": {"code": 3503, "reason": "force disconnect"}}

# On a machine without curl: a program that prints what comes as it comes.
STAND_IN = """
import sys, httpx
arguments = sys.argv[1:]
url, data, method, headers = "", None, "GET", {}
while arguments:
    argument = arguments.pop(0)
    if argument in ("-X", "--request"):
        method = arguments.pop(0)
    elif argument == "--data":
        data = arguments.pop(0)
    elif argument == "--header":
        name, value = arguments.pop(0).split(": ", 1)
        headers[name] = value
    elif not argument.startswith("-"):
        url = argument
with httpx.Client(trust_env=False, timeout=None) as client:
    with client.stream(method, url, content=data, headers=headers) as response:
        for text in response.iter_text():
            print(text, end="", flush=True)
"""


def curl(*arguments: str) -> list[str]:
    """The command line of curl, or of what stands in for it."""
    return [*(["curl"] if shutil.which("curl") else python("-c", STAND_IN)), *arguments]


class Terminal:
    """A terminal with a program in it."""

    def __init__(self, command: list[str]) -> None:
        # curl holds back what it prints into a pipe, and prints at once to a terminal.
        self._screen, keyboard = pty.openpty()
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=keyboard, stderr=keyboard
        )
        os.close(keyboard)
        os.set_blocking(self._screen, False)
        self._seen = b""

    def _look(self) -> bool:
        """Read what there is; whether the program has ended."""
        try:
            while data := os.read(self._screen, 65536):
                self._seen += data
        except BlockingIOError:
            return False
        except OSError:  # EIO: the program has closed its side
            pass
        return True

    def line(self, *, seconds: float = 10.0) -> str:
        """The next line that is not empty."""

        def next_line() -> str | None:
            ended = self._look()
            self._seen = self._seen.lstrip()
            line, end, rest = self._seen.partition(b"\n")
            if not end:
                assert not ended, "the program has ended"
                return None
            self._seen = rest
            return line.decode().strip()

        return until(next_line, what="a line", seconds=seconds)

    def frame(self, *, seconds: float = 10.0) -> object:
        """The next line, as JSON."""
        return json.loads(self.line(seconds=seconds).removeprefix("data: "))

    def connected(self) -> str:
        """The client ID in the connect frame."""
        return client_of(self.frame())

    def last_frame(self) -> object:
        """The one frame that still comes before the program ends."""
        until(self._look, what="the program to end")
        return json.loads(self._seen.decode().strip().removeprefix("data: "))

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._screen)


def client_of(frame: object) -> str:
    """The client ID in a connect frame, which is checked."""
    assert isinstance(frame, dict)
    assert frame.keys() == {"connect"}
    connect = frame["connect"]
    assert connect.keys() == {"client", "version", "ping", "expires", "ttl"}
    assert connect["expires"] is True
    assert 0 < connect["ttl"] <= 7 * 24 * 3600
    assert connect["version"] == usersessions.__version__
    assert re.fullmatch(CLIENT, connect["client"])
    client: str = connect["client"]
    return client


def greeting(websocket: ClientConnection) -> object:
    """The first frame of a WebSocket."""
    return json.loads(websocket.recv(timeout=10))


def command(*arguments: str) -> str:
    """What `usersessions` prints."""
    done = subprocess.run(
        python("-m", "usersessions", *arguments), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def make_token(*arguments: str) -> str:
    return command("gentoken", "-u", "42", *arguments).splitlines()[-1]


@dataclass(frozen=True)
class House:
    """A running server, its API key, and the terminals around it."""

    server: Server
    api_key: str
    _opened: ExitStack

    @property
    def url(self) -> str:
        return self.server.url

    def terminal(self, *arguments: str) -> Terminal:
        """Run curl in a terminal of its own."""
        terminal = Terminal(curl(*arguments))
        self._opened.callback(terminal.close)
        return terminal

    def http_stream(self, token: str, **members: str) -> Terminal:
        body = json.dumps({"token": token, **members})
        return self.terminal("-X", "POST", f"{self.url}/connection/uni_http_stream", "--data", body)

    def sse(self, token: str, **members: str) -> Terminal:
        request = quote(json.dumps({"token": token, **members}))
        return self.terminal("-N", f"{self.url}/connection/uni_sse?cf_connect={request}")

    def websocket(self, token: str, **members: str) -> ClientConnection:
        url = self.url.replace("http://", "ws://")
        socket = self._opened.enter_context(connect(f"{url}/connection/uni_websocket", proxy=None))
        socket.send(json.dumps({"token": token, **members}))
        return socket

    def api(self, method: str, **params: object) -> str:
        """What the server API answers to plain curl."""
        done = subprocess.run(
            curl(
                *("-s", "--header", "Content-Type: application/json"),
                *("--header", f"Authorization: apikey {self.api_key}"),
                *("--request", "POST"),
                *("--data", json.dumps({"method": method, "params": params})),
                f"{self.url}/api",
            ),
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        return done.stdout

    def list(self, user: str = "42") -> dict[str, dict[str, object]]:
        connections: dict[str, dict[str, object]] = json.loads(
            self.api("user_connections", user=user)
        )["result"]["connections"]
        return connections

    def close(self, **params: object) -> set[str]:
        """The clients that `disconnect` has closed of user 42: all that it should close."""
        answer = json.loads(self.api("disconnect", user="42", **params))["result"]
        assert (answer.pop("unconfirmed"), answer.pop("not_revocable")) == ([], [])
        (closed,) = answer.values()
        return set(closed)

    def lists_within_a_second(self, *clients: str) -> None:
        until(lambda: self.list().keys() == set(clients), what=f"a list of {clients}", seconds=1.0)


@pytest.fixture(scope="module")
def api_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Make a config file in a folder of its own, and stay there; the key of the server API."""
    with pytest.MonkeyPatch.context() as here:
        here.setenv("PYTHONPATH", str(Path(usersessions.__file__).parent.parent))
        here.setenv("NO_PROXY", "localhost")
        here.setenv("PYTHONWARNINGS", "error")
        here.chdir(tmp_path_factory.mktemp("house"))
        command("genconfig")
        yield json.loads(Path("config.json").read_text())["api_key"]


@pytest.fixture(scope="module")
def token(api_key: str) -> str:
    """A token of user 42."""
    return make_token()


SERVE = python("-m", "usersessions", "serve", "-c", "config.json", "--port", "0")


@pytest.fixture
def house(serve: Serve, api_key: str) -> Iterator[Callable[..., House]]:
    """Start a server with settings of its own, or to be stopped."""
    with ExitStack() as opened:

        def start(**settings: str) -> House:
            env = {f"USERSESSIONS_{name}": value for name, value in settings.items()}
            return House(serve(SERVE, env=env), api_key, opened)

        yield start


@pytest.fixture(scope="module")
def server(api_key: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(SERVE, log=tmp_path_factory.mktemp("server") / "server.log") as server:
        yield server
        server.stop()
        assert "Traceback" not in server.output


@pytest.fixture
def home(server: Server, api_key: str) -> Iterator[House]:
    """A server of default settings, when whoever was connected in another test is gone."""
    with ExitStack() as opened:
        home = House(server, api_key, opened)
        home.lists_within_a_second()
        yield home


def test_the_walkthrough_works_word_for_word(house: Callable[..., House]) -> None:
    home = house()
    made = command("gentoken", "-u", "42")
    assert re.fullmatch(
        r"HMAC SHA-256 JWT for user 42 with expiration TTL 168h0m0s:\n(\S+)\n", made
    )
    token = made.splitlines()[1]
    assert home.url.startswith("http://localhost:")

    first, second = (home.http_stream(token, name="terminal") for _ in range(2))
    clients = first.connected(), second.connected()

    member = '{"app_name":"terminal","transport":"uni_http_stream","protocol":"json"}'
    entries = [f'"{client}":{member}' for client in clients]
    answers = [
        f'{{"result":{{"connections":{{{",".join(each)}}}}}}}' for each in (entries, entries[::-1])
    ]
    assert home.api("user_connections", user="42") in answers

    first.interrupt()
    home.lists_within_a_second(clients[1])

    assert home.server.stop(signal.SIGINT) == 0
    assert second.last_frame() == SHUTDOWN
    assert "Traceback" not in home.server.output
    assert home.server.output.endswith("INFO stopped\n")


def test_meta_and_version_are_in_the_list_where_there_are_some(
    home: House,
    token: str,
) -> None:
    paying = make_token("--meta", '{"plan": "pro"}')
    client = home.http_stream(paying, name="terminal", version="1.2").connected()
    nameless = home.http_stream(token).connected()
    assert home.list() == {
        client: {
            "app_name": "terminal",
            "app_version": "1.2",
            "transport": "uni_http_stream",
            "protocol": "json",
            "meta": {"plan": "pro"},
        },
        nameless: {"transport": "uni_http_stream", "protocol": "json"},
    }


def test_all_three_streams_begin_with_the_client_id_and_ping(
    house: Callable[..., House], token: str
) -> None:
    home = house(PING_INTERVAL="1")
    streams = [home.http_stream(token), home.sse(token)]
    websocket = home.websocket(token)
    assert ',"ping":1,' in str(websocket.recv(timeout=10))
    for stream in streams:
        assert ',"ping":1,' in stream.line()
    for _ in range(2):
        assert [stream.frame() for stream in streams] == [{}, {}]
        assert websocket.recv(timeout=10) == "{}"


def test_a_server_of_default_settings_promises_a_ping_every_25_seconds(
    home: House,
    token: str,
) -> None:
    assert ',"ping":25,' in home.http_stream(token).line()


def test_all_three_streams_are_listed_by_their_transport(home: House, token: str) -> None:
    stream = home.http_stream(token, name="a").connected()
    events = home.sse(token, name="b").connected()
    posted = home.terminal(
        "-N", "-X", "POST", f"{home.url}/connection/uni_sse", "--data", json.dumps({"token": token})
    ).connected()
    websocket = client_of(greeting(home.websocket(token, name="c")))
    assert home.list() == {
        stream: {"app_name": "a", "transport": "uni_http_stream", "protocol": "json"},
        events: {"app_name": "b", "transport": "uni_sse", "protocol": "json"},
        posted: {"transport": "uni_sse", "protocol": "json"},
        websocket: {"app_name": "c", "transport": "uni_websocket", "protocol": "json"},
    }


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, -15)])
def test_a_server_that_is_stopped_tells_all_three_streams_goodbye(
    house: Callable[..., House], token: str, signum: signal.Signals, status: int
) -> None:
    home = house()
    stream, events, websocket = home.http_stream(token), home.sse(token), home.websocket(token)
    assert stream.connected() and events.connected() and websocket.recv(timeout=10)
    assert home.server.stop(signum) == status
    assert stream.last_frame() == SHUTDOWN
    assert events.last_frame() == SHUTDOWN
    assert_closed(websocket, SHUTDOWN)
    assert "Traceback" not in home.server.output


def assert_closed(websocket: ClientConnection, frame: dict[str, dict[str, object]]) -> None:
    """A WebSocket gets this last frame, and is closed with the same code and reason."""
    assert json.loads(websocket.recv(timeout=10)) == frame
    with pytest.raises(ConnectionClosed):
        websocket.recv(timeout=10)
    closed = {"code": websocket.close_code, "reason": websocket.close_reason}
    assert closed == frame["disconnect"]


def test_disconnect_closes_one_client(home: House, token: str) -> None:
    first, second = home.http_stream(token), home.http_stream(token)
    client, other = first.connected(), second.connected()
    assert home.api("disconnect", user="42", client=client) == (
        f'{{"result":{{"closed":["{client}"],"unconfirmed":[],"not_revocable":[]}}}}'
    )
    assert first.last_frame() == FORCED
    home.lists_within_a_second(other)


def test_disconnect_without_a_client_closes_all_of_the_user(home: House, token: str) -> None:
    stream, events, websocket = home.http_stream(token), home.sse(token), home.websocket(token)
    clients = {stream.connected(), events.connected(), client_of(greeting(websocket))}
    someone_else = home.http_stream(command("gentoken", "-u", "43").splitlines()[-1]).connected()
    assert home.close() == clients
    assert stream.last_frame() == FORCED
    assert events.last_frame() == FORCED
    assert_closed(websocket, FORCED)
    home.lists_within_a_second()
    assert home.list("43").keys() == {someone_else}


def test_disconnect_keeps_the_clients_of_the_whitelist(home: House, token: str) -> None:
    kept, closed = home.http_stream(token), home.http_stream(token)
    client, other = kept.connected(), closed.connected()
    assert home.close(whitelist=[client]) == {other}
    assert closed.last_frame() == FORCED
    home.lists_within_a_second(client)


def test_disconnect_takes_another_code_and_reason(home: House, token: str) -> None:
    stream, websocket = home.http_stream(token), home.websocket(token)
    clients = {stream.connected(), client_of(greeting(websocket))}
    banned = {"code": 4500, "reason": "banned"}
    assert home.close(disconnect=banned) == clients
    assert stream.last_frame() == {"disconnect": banned}
    assert_closed(websocket, {"disconnect": dict(banned)})


def test_a_token_that_is_closed_and_revoked_stays_out(home: House) -> None:
    token, other = make_token("--jti", "lost phone"), make_token("--jti", "laptop")
    lost, kept = home.http_stream(token), home.http_stream(other)
    client = lost.connected()
    kept.connected()
    assert home.close(client=client, revoke=True) == {client}
    assert lost.last_frame() == FORCED
    invalid = {"disconnect": {"code": 3500, "reason": "invalid token"}}
    assert home.http_stream(token).last_frame() == invalid
    assert home.http_stream(other).connected()


@pytest.mark.parametrize(("hops", "address"), [("0", r"127\.0\.0\.1|::1"), ("1", r"192\.0\.2\.7")])
def test_users_see_their_own_sessions_with_the_address_that_trusted_proxies_name(
    house: Callable[..., House], hops: str, address: str
) -> None:
    home = house(TRUSTED_HOPS=hops)
    token = make_token("--meta", '"swordfish"')
    client = home.terminal(
        *("-X", "POST", f"{home.url}/connection/uni_http_stream"),
        *("--header", "X-Forwarded-For: 6.6.6.6, 192.0.2.7"),
        *("--data", json.dumps({"token": token, "name": "terminal"})),
    ).connected()
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.get(f"{home.url}/sessions", headers=headers, trust_env=False)
    (shown,) = answer.json()["sessions"]
    assert (shown["client"], shown["app_name"]) == (client, "terminal")
    assert re.fullmatch(address, shown["remote_addr"])
    assert "swordfish" not in answer.text


def over_http(connection: socket.socket, body: bytes) -> None:
    connection.sendall(
        b"POST /connection/uni_http_stream HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )


def over_websocket(connection: socket.socket, body: bytes) -> None:
    connection.sendall(
        b"GET /connection/uni_websocket HTTP/1.1\r\nHost: localhost\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(1)
    # One text frame (RFC 6455, 5.2) of 126 to 65535 bytes, under a mask that changes nothing.
    connection.sendall(struct.pack("!BBHI", 0x81, 0x80 | 126, len(body), 0) + body)


@pytest.mark.parametrize("ask", [over_http, over_websocket])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_is_gone_without_a_word_is_not_in_the_list(
    home: House, token: str, ask: Callable[[socket.socket, bytes], None], reset: bool
) -> None:
    body = json.dumps({"token": token}).encode()
    with socket.create_connection(("localhost", urlsplit(home.url).port or 0), 10) as lost:
        ask(lost, body)
        until(lambda: len(home.list()) == 1, what="the connection")
        if reset:
            lost.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    home.lists_within_a_second()
    assert "Traceback" not in home.server.output


def test_a_token_that_is_refused_gets_one_frame(home: House) -> None:
    invalid = {"disconnect": {"code": 3500, "reason": "invalid token"}}
    assert home.http_stream("x.y.z").last_frame() == invalid
    assert_closed(home.websocket("x.y.z"), invalid)


def test_the_log_has_no_token_no_key_and_no_meta(house: Callable[..., House]) -> None:
    home = house(LOG_LEVEL="debug")
    token = make_token("--meta", '"swordfish"')
    home.sse(token).connected()
    bad = token[:-2] + "AA"
    home.sse(bad).last_frame()
    with httpx.Client(base_url=home.url, trust_env=False) as client:
        answer = client.post(
            "/api", params={"api_key": home.api_key}, json={"method": "info", "params": {}}
        )
        assert answer.status_code == 200
        assert "server" not in answer.headers
        assert client.post("/api", params={"api_key": "a-wrong-one"}).status_code == 401
    url = home.url.replace("http://", "ws://")
    with connect(
        f"{url}/connection/uni_websocket?api_key={home.api_key}&token={token}", proxy=None
    ) as websocket:
        websocket.send(json.dumps({"token": bad}))
        assert "3500" in str(websocket.recv(timeout=10))
    with (
        pytest.raises(InvalidStatus, match="403"),
        connect(f"{url}/elsewhere?token={token}", proxy=None),
    ):
        pass
    home.server.stop(signal.SIGINT)
    log = home.server.output
    assert "refused: the token's signature does not match" in log
    secrets = [home.api_key, "a-wrong-one", "swordfish", *token.split(".")[1:], bad.split(".")[2]]
    assert not [secret for secret in secrets if secret in log]


def test_a_second_server_on_the_same_port_says_that_it_is_in_use(
    home: House,
) -> None:
    port = urlsplit(home.url).port
    done = subprocess.run(
        python("-m", "usersessions", "serve", "--port", str(port)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"usersessions: cannot listen on port {port} of localhost: "
        "it is in use; stop what uses it, or choose another with --port\n"
    )
