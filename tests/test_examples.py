"""The examples run as they say: the demo, and the apps with a real server and real clients."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import httpx
import jwt
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.conftest import Serve
from tests.http.exchange import Exchange, LeapingLoop, scope
from tests.servers import UNMEASURED, Server, python, serving, until
from usersessions.http.asgi import Message

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SECRET = "a secret of thirty-two bytes or more"
API_KEY = "an-api-key-for-tests"
PASSWORD = "swordfish"
SECRETS = {
    "USERSESSIONS_TOKEN_HMAC_SECRET_KEY": SECRET,
    "USERSESSIONS_API_KEY": API_KEY,
    "APP_PASSWORD": PASSWORD,
}
NAMES = ["fastapi_app", "starlette_app"]
SHUTDOWN = {"disconnect": {"code": 3001, "reason": "shutdown"}}


# The demo -------------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo keeps its files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    # The demo runs its programs elsewhere, where a relative path to the package leads nowhere.
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    absolute = os.pathsep.join(os.path.abspath(path) for path in paths if path)
    monkeypatch.setenv("PYTHONPATH", absolute)
    return folder


def run_demo(*arguments: str, port: str = "0", **variables: str) -> tuple[int, str]:
    done = subprocess.run(
        python(str(EXAMPLES / "demo.py"), *arguments),
        env={**os.environ, **UNMEASURED, "PORT": port, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def in_order(output: str, *patterns: str) -> None:
    """The output has a match for each of these, one after another."""
    position = 0
    for pattern in patterns:
        found = re.compile(pattern, re.MULTILINE).search(output, position)
        assert found, f"{pattern!r} is not in what follows:\n{output[position:]}"
        position = found.end()


STEPS = (
    r"^\$ usersessions genconfig\nWrote config\.json",
    r"^\$ usersessions gentoken -u 42\nHMAC SHA-256 JWT for user 42 with expiration TTL 168h0m0s:",
    r"^\$ usersessions serve -c config\.json --port",
    r"^\[server\] .* serving on http://localhost:\d+",
    r"^\$ curl .*/connection/uni_http_stream$",
    r'^\[terminal 1\] {"connect":{"client":"',
    r"^\$ curl .*/connection/uni_http_stream$",
    r'^\[terminal 2\] {"connect":{"client":"',
    r"^\$ curl .*'Authorization: apikey \S+' .*/api$",
    r'^{"result":{"connections":{"[^}]*"app_name":"terminal"[^}]*},"[^}]*}}}}$',
    r"^The server is still running\.",
    r'^curl .*"method": "disconnect".*"client": "[0-9a-f-]{36}"',
    r"^curl --header 'Authorization: Bearer \S+' .*/sessions$",
    r"^curl .*/connection/uni_sse$",
)
GOODBYES = tuple(
    re.escape(f'[terminal {number}] {{"disconnect":{{"code":3001,"reason":"shutdown"}}}}')
    for number in (1, 2)
)


def test_the_demo_shows_each_command_and_its_real_answer(temporary: Path) -> None:
    status, output = run_demo("--exit")
    assert status == 0
    in_order(output, *STEPS)
    for goodbye in GOODBYES:
        in_order(output, STEPS[-1], goodbye)
    assert list(temporary.iterdir()) == []


def test_the_demo_without_curl_says_so_and_does_the_same(temporary: Path) -> None:
    status, output = run_demo("--exit", PATH="")
    assert status == 0
    in_order(output, *(step.removesuffix("$") if "curl" in step else step for step in STEPS))
    assert output.count("there is no curl here") == 3


def test_the_demo_on_a_port_in_use_says_how_to_choose_another(temporary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, output = run_demo("--exit", port=port)
    assert status == 1
    assert f"cannot listen on port {port} of localhost: it is in use" in output
    assert "PORT=" in output.splitlines()[-1]
    assert list(temporary.iterdir()) == []


def test_the_demo_takes_no_settings_from_its_user(temporary: Path) -> None:
    status, _ = run_demo("--exit", USERSESSIONS_TOKEN_AUDIENCE="me", USERSESSIONS_LOG_LEVEL="error")
    assert status == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_leaves_the_server_running_until_it_is_stopped(
    temporary: Path, serve: Serve, signum: signal.Signals
) -> None:
    demo = serve(python(str(EXAMPLES / "demo.py")), env={**UNMEASURED, "PORT": "0"})
    until(lambda: "Ctrl-C here" in demo.output, what="the end of the walk")
    assert httpx.post(f"{demo.url}/api", trust_env=False).status_code == 401
    assert demo.stop(signum) == 0
    for goodbye in GOODBYES:
        in_order(demo.output, goodbye)
    assert "Traceback" not in demo.output
    with pytest.raises(httpx.ConnectError):
        httpx.post(f"{demo.url}/api", trust_env=False)
    assert list(temporary.iterdir()) == []


# The apps -------------------------------------------------------------------------------------


def command(name: str) -> list[str]:
    """The command that runs an app as a script."""
    return python("-W", "error", str(EXAMPLES / f"{name}.py"))


ENVIRONMENT = {**UNMEASURED, **SECRETS, "PORT": "0"}


@contextmanager
def running(name: str, folder: Path) -> Iterator[Server]:
    """An app that many tests use; nothing may go wrong in it unseen."""
    with serving(command(name), log=folder / f"{name}.log", env=ENVIRONMENT) as server:
        yield server
        server.stop()
        assert "Traceback" not in server.output


@pytest.fixture(scope="module")
def fastapi_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running("fastapi_app", tmp_path_factory.mktemp("app")) as server:
        yield server


@pytest.fixture(scope="module")
def starlette_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running("starlette_app", tmp_path_factory.mktemp("app")) as server:
        yield server


@pytest.fixture(params=NAMES)
def app(request: pytest.FixtureRequest) -> Server:
    """Each of the apps, when whoever was connected in another test is gone."""
    server: Server = request.getfixturevalue(request.param)
    until(lambda: not connections(server), what="the list to be empty")
    return server


@pytest.fixture(params=NAMES)
def own_app(request: pytest.FixtureRequest, serve: Serve) -> Server:
    """Each of the apps, for a test that stops it."""
    return serve(command(request.param), env=ENVIRONMENT)


def token_of(user: str = "42") -> str:
    return jwt.encode({"sub": user}, SECRET, algorithm="HS256")


@contextmanager
def open_socket(app: Server, token: str | None) -> Iterator[ClientConnection]:
    """Connect to the app's own WebSocket, as one says who it is there; None does not say it."""
    is_first_message = "fastapi" in str(app.process.args)
    path = "/chat" if is_first_message else f"/echo?app_name=web&access_token={token or ''}"
    with connect(app.url.replace("http://", "ws://") + path, proxy=None) as websocket:
        if is_first_message and token is not None:
            websocket.send(token)
        yield websocket


def api(app: Server, method: str, **params: object) -> dict[str, object]:
    answer = httpx.post(
        f"{app.url}/api/{method}",
        json=params,
        headers={"X-API-Key": API_KEY},
        trust_env=False,
    )
    assert answer.status_code == 200
    result: dict[str, object] = answer.json()["result"]
    return result


def connections(app: Server, user: str = "42") -> dict[str, dict[str, object]]:
    listed = api(app, "user_connections", user=user)["connections"]
    assert isinstance(listed, dict)
    return listed


@contextmanager
def open_stream(app: Server) -> Iterator[Iterator[object]]:
    """The frames of a stream that an HTTP client has opened."""
    with (
        httpx.Client(trust_env=False, timeout=10) as client,
        client.stream(
            "POST", f"{app.url}/connection/uni_http_stream", json={"token": token_of()}
        ) as answer,
    ):
        yield (json.loads(line) for line in answer.iter_lines())


def test_a_websocket_of_the_apps_own_is_listed_while_it_is_open(app: Server) -> None:
    with open_socket(app, token_of()) as websocket:
        assert websocket.recv(timeout=10) == "Hello, user 42."
        websocket.send("how are you?")
        assert str(websocket.recv(timeout=10)).endswith("how are you?")
        (entry,) = connections(app).values()
        assert entry == {"app_name": "web", "transport": "websocket", "protocol": "json"}
    until(lambda: not connections(app), what="the list to be empty", seconds=1.0)


def test_a_websocket_of_the_apps_own_is_closed_with_the_code_it_is_told(app: Server) -> None:
    with open_socket(app, token_of()) as websocket:
        websocket.recv(timeout=10)
        api(app, "disconnect", user="42", disconnect={"code": 4500, "reason": "banned"})
        with pytest.raises(ConnectionClosed):
            websocket.recv(timeout=10)
        assert (websocket.close_code, websocket.close_reason) == (4500, "banned")
    assert connections(app) == {}


@pytest.mark.parametrize(
    ("token", "code", "reason"),
    [
        ("x.y.z", 3500, "invalid token"),
        (
            jwt.encode({"sub": "42", "exp": 1}, SECRET, algorithm="HS256"),
            3005,
            "connection expired",
        ),
        (token_of(""), 3507, "permission denied"),
    ],
    ids=["invalid", "expired", "anonymous"],
)
def test_a_websocket_that_is_refused_is_closed_with_the_reason(
    app: Server, token: str, code: int, reason: str
) -> None:
    with open_socket(app, token) as websocket:
        with pytest.raises(ConnectionClosed):
            websocket.recv(timeout=10)
        assert (websocket.close_code, websocket.close_reason) == (code, reason)


def test_a_websocket_that_says_nothing_is_nobody(own_app: Server) -> None:
    with open_socket(own_app, None):
        assert connections(own_app) == {}
    assert own_app.stop(signal.SIGINT) == 0
    assert "Traceback" not in own_app.output


def test_a_websocket_that_goes_on_saying_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    app = import_module("examples.fastapi_app").app

    async def say_nothing() -> list[Message]:
        opened = scope("/chat", kind="websocket")
        exchange = Exchange(app, opened, [{"type": "websocket.connect"}])
        await exchange.end()
        return exchange.sent

    loop = LeapingLoop()
    try:
        sent = loop.run_until_complete(say_nothing())
        assert sent[1:] == [{"type": "websocket.close", "code": 3502, "reason": "stale"}]
        assert loop.time() == 10.0
    finally:
        loop.close()


def test_the_streams_and_the_server_api_are_there_as_well(app: Server) -> None:
    with open_stream(app) as frames:
        greeting = next(frames)
        assert isinstance(greeting, dict)
        assert list(connections(app)) == [greeting["connect"]["client"]]
        api(app, "disconnect", user="42")
        assert list(frames) == [{"disconnect": {"code": 3503, "reason": "force disconnect"}}]


def test_an_app_that_is_stopped_tells_all_its_connections_goodbye(own_app: Server) -> None:
    with open_stream(own_app) as frames:
        next(frames)
        with open_socket(own_app, token_of()) as websocket:
            websocket.recv(timeout=10)
            own_app.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                websocket.recv(timeout=10)
            assert (websocket.close_code, websocket.close_reason) == (3001, "shutdown")
        assert list(frames) == [SHUTDOWN]
    assert own_app.process.wait(10) == -signal.SIGTERM
    assert "Traceback" not in own_app.output


@pytest.mark.parametrize("name", NAMES)
def test_an_app_is_run_by_uvicorn_too_and_makes_up_the_secrets_it_lacks(
    serve: Serve, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in SECRETS:
        monkeypatch.delenv(variable, raising=False)
    app = serve(
        python(
            *("-m", "uvicorn", "--app-dir", str(ROOT), f"examples.{name}:app"),
            *("--port", "0", "--no-access-log"),
        ),
        env=UNMEASURED,
    )
    made_up = dict(
        re.findall(r"WARNING: (\w+) is not set; made up for this run: (\S+)", app.output)
    )
    wanted = set(SECRETS) if name == "fastapi_app" else set(SECRETS) - {"APP_PASSWORD"}
    assert made_up.keys() == wanted
    answer = httpx.post(
        f"{app.url}/api/user_connections",
        json={"user": "42"},
        headers={"X-API-Key": made_up["USERSESSIONS_API_KEY"]},
        trust_env=False,
    )
    assert answer.json() == {"result": {"connections": {}}}


def test_the_login_of_the_fastapi_app_gives_a_token_that_connects(fastapi_app: Server) -> None:
    with httpx.Client(base_url=fastapi_app.url, trust_env=False) as client:
        for password in ("wrong", "\u00fcber"):
            form = {"user": "44", "password": password}
            assert client.post("/login", json=form).status_code == 401
        token = client.post("/login", json={"user": "44", "password": PASSWORD}).json()["token"]
    with open_socket(fastapi_app, token) as websocket:
        assert websocket.recv(timeout=10) == "Hello, user 44."
        (entry,) = connections(fastapi_app, "44").values()
        assert entry["meta"] == {"login": "password"}


def test_a_user_of_the_fastapi_app_logs_out_everywhere_and_can_log_in_again(
    fastapi_app: Server,
) -> None:
    with httpx.Client(base_url=fastapi_app.url, trust_env=False) as client:

        def login() -> dict[str, str]:
            # Nobody else's tokens are to be kept out.
            form = {"user": "43", "password": PASSWORD}
            token: str = client.post("/login", json=form).json()["token"]
            return {"Authorization": f"Bearer {token}"}

        phone, laptop = login(), login()
        with open_socket(fastapi_app, phone["Authorization"].split()[1]) as websocket:
            websocket.recv(timeout=10)
            answer = client.post("/logout-everywhere", headers=laptop)
            assert answer.json() == {"ended": 1}
            with pytest.raises(ConnectionClosed):
                websocket.recv(timeout=10)
            assert websocket.close_code == 3500
        for headers in (phone, laptop):
            assert client.post("/logout-everywhere", headers=headers).status_code == 401
        assert client.post("/logout-everywhere", headers=login()).json() == {"ended": 0}


def test_the_apps_record_from_where_and_with_what_their_users_connect(app: Server) -> None:
    with open_socket(app, token_of()) as websocket:
        websocket.recv(timeout=10)
        answer = httpx.get(
            f"{app.url}/sessions",
            headers={"Authorization": f"Bearer {token_of()}"},
            trust_env=False,
        )
        (shown,) = answer.json()["sessions"]
        assert shown["remote_addr"] in ("127.0.0.1", "::1")
        assert "websockets" in shown["device"].lower()


def test_a_token_of_gentoken_is_good_for_the_starlette_app(starlette_app: Server) -> None:
    made = subprocess.run(
        python("-m", "usersessions", "gentoken", "-u", "42"),
        env={**os.environ, **UNMEASURED, **SECRETS},
        capture_output=True,
        text=True,
        timeout=60,
    )
    with open_socket(starlette_app, made.stdout.splitlines()[-1]) as websocket:
        assert websocket.recv(timeout=10) == "Hello, user 42."
