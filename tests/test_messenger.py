"""The messenger example, on a real server: its devices screen, driven as its page drives it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.conftest import Serve
from tests.servers import UNMEASURED, Server, python, serving, until
from tests.streams import Answer, Stream, ask, closed_with, event_source, open_stream

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples/messenger"
APP = str(FOLDER / "app.py")

FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:133.0) Gecko/20100101 Firefox/133.0"
CHROME = (
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/131.0.0.0 Mobile Safari/537.36"
)
FORCED = {"disconnect": {"code": 3503, "reason": "force disconnect"}}
INVALID = {"disconnect": {"code": 3500, "reason": "invalid token"}}
SECONDS = 10.0


COMMAND = python("-W", "error", APP)
ENVIRONMENT = {**UNMEASURED, "PORT": "0"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The example, run as a script; nothing may go wrong in it unseen."""
    log = tmp_path_factory.mktemp("messenger") / "server.log"
    with serving(COMMAND, log=log, env=ENVIRONMENT) as server:
        yield server
        server.stop()
        assert "Traceback" not in server.output
        assert "ey" + "J" not in server.output, "a token is in the log"


@pytest.fixture
def messenger(running: Server) -> Server:
    """The example, when whoever was connected in another test is gone."""
    users = [log_in(running, "Ada"), log_in(running, "Grace")]
    until(lambda: not any(user.devices() for user in users), what="nobody to be connected")
    return running


@dataclass(frozen=True)
class Device:
    """A device that is logged in."""

    url: str
    token: str

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Ask with its token, and give the status and the JSON of the answer."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        sent = b"" if body is None else json.dumps(body).encode()
        answer = ask(self.url, path, method=method, body=sent, headers=headers)
        return answer.status, json.loads(answer.body)

    def devices(self) -> list[dict[str, Any]]:
        """What its screen lists."""
        status, said = self.ask("GET", "/sessions")
        assert status == 200
        listed: list[dict[str, Any]] = said["sessions"]
        return listed

    def client(self) -> str:
        """The client ID of its own connection."""
        (own,) = [device["client"] for device in self.devices() if device["current"]]
        assert isinstance(own, str)
        return own

    @contextmanager
    def chatting(self, *, user_agent: str = FIREFOX) -> Iterator[ClientConnection]:
        """Hold the page's WebSocket, welcomed already."""
        with open_chat(self.url, user_agent=user_agent) as socket:
            socket.send(self.token)
            assert set(json.loads(socket.recv(SECONDS))) == {"welcome"}
            yield socket


def log_in(server: Server, name: str) -> Device:
    answer = post(server, "/login", {"name": name})
    assert answer.status == 200
    return Device(server.url, json.loads(answer.body)["token"])


def post(server: Server, path: str, body: object) -> Answer:
    headers = {"Content-Type": "application/json"}
    return ask(server.url, path, body=json.dumps(body).encode(), headers=headers)


def open_chat(url: str, *, user_agent: str = FIREFOX) -> ClientConnection:
    chat = url.replace("http", "ws", 1) + "/chat"
    return connect(chat, user_agent_header=user_agent, proxy=None)


def end_of(socket: ClientConnection) -> tuple[int | None, str | None]:
    """The code and reason that a WebSocket ends with."""
    with pytest.raises(ConnectionClosed):
        while True:
            socket.recv(SECONDS)
    return socket.close_code, socket.close_reason


def ended(answer: tuple[int, Any]) -> list[str]:
    """The client IDs of an answer that says that all are gone that had to go."""
    status, said = answer
    assert (status, said["unconfirmed"]) == (200, [])
    closed: list[str] = said["closed"]
    return closed


@contextmanager
def within_a_second() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 1.0


# Devices --------------------------------------------------------------------------------------


def test_the_list_shows_each_device_of_the_user_and_marks_this_one(messenger: Server) -> None:
    before = time.time()
    laptop, phone = log_in(messenger, "Ada"), log_in(messenger, " Ada ")
    with laptop.chatting(user_agent=FIREFOX), phone.chatting(user_agent=CHROME):
        listed = laptop.devices()
        for device in listed:
            assert before - 1 <= device.pop("connected_at") <= device.pop("last_seen")
            assert device.pop("client")
        facts = {"app_name": "messenger", "transport": "websocket", "remote_addr": "127.0.0.1"}
        assert listed == [
            {"device": "Firefox on Windows", "current": True, **facts},
            {"device": "Chrome Mobile on Android", "current": False, **facts},
        ]
        assert [device["current"] for device in phone.devices()] == [False, True]
    assert laptop.devices() == []


def test_a_device_that_says_something_was_seen(messenger: Server) -> None:
    laptop = log_in(messenger, "Ada")
    with laptop.chatting() as socket:
        (before,) = laptop.devices()
        socket.send("")
        # A pong comes after all that was sent before its ping was read.
        assert socket.ping().wait(SECONDS)
        (after,) = laptop.devices()
        assert after["last_seen"] > before["last_seen"] >= before["connected_at"]


def test_a_user_agent_of_any_length_connects(messenger: Server) -> None:
    laptop = log_in(messenger, "Ada")
    with laptop.chatting(user_agent="long/" + "1" * 1000):
        assert len(laptop.devices()) == 1


# Log out this device --------------------------------------------------------------------------


def curl(device: Device) -> Stream:
    request = {"token": device.token, "name": "curl"}
    return open_stream(device.url, "uni_http_stream", request, headers={"User-Agent": CHROME})


def sse(device: Device) -> Stream:
    return event_source(device.url, {"token": device.token}, headers={"User-Agent": CHROME})


def websocket(device: Device) -> Stream:
    request = {"token": device.token}
    return open_stream(device.url, "uni_websocket", request, headers={"User-Agent": CHROME})


STREAMS = [curl, sse, websocket]


def refused_everywhere(device: Device) -> None:
    """No way in is left for the device's token."""
    assert device.ask("GET", "/sessions")[0] == 401
    assert device.ask("DELETE", "/sessions")[0] == 401
    assert device.ask("DELETE", "/sessions/some-client")[0] == 401
    assert device.ask("GET", "/lines")[0] == 401
    assert device.ask("POST", "/lines", {"text": "Still here!"})[0] == 401
    for opened in STREAMS:
        with opened(device) as stream:
            assert [json.loads(frame) for frame in stream.frames()] == [INVALID]
    with open_chat(device.url) as socket:
        socket.send(device.token)
        assert end_of(socket) == (3500, "invalid token")


@pytest.mark.parametrize("opened", STREAMS)
def test_logging_out_a_device_ends_its_stream_at_once_and_its_token_for_good(
    messenger: Server, opened: Callable[[Device], Stream]
) -> None:
    laptop, phone = log_in(messenger, "Ada"), log_in(messenger, "Ada")
    with opened(laptop) as kept, opened(phone) as lost:
        kept.client()
        gone = lost.client()
        assert {device["client"] for device in laptop.devices()} == {laptop.client(), gone}
        with within_a_second():
            answer = laptop.ask("DELETE", f"/sessions/{gone}")
            assert [json.loads(frame) for frame in lost.frames()] == [FORCED]
        assert ended(answer) == [gone]
        if opened is websocket:
            assert closed_with(lost) == (3503, "force disconnect")
        refused_everywhere(phone)
        assert [device["current"] for device in laptop.devices()] == [True]
        status, lines = laptop.ask("GET", "/lines")
        assert (status, [line for line in lines if line["text"] == "Still here!"]) == (200, [])


def test_logging_out_a_device_closes_its_page_at_once_and_its_token_for_good(
    messenger: Server,
) -> None:
    laptop, phone = log_in(messenger, "Ada"), log_in(messenger, "Ada")
    with laptop.chatting() as kept, phone.chatting() as lost:
        gone = phone.client()
        with within_a_second():
            answer = laptop.ask("DELETE", f"/sessions/{gone}")
            assert end_of(lost) == (3503, "force disconnect")
        assert ended(answer) == [gone]
        refused_everywhere(phone)
        assert laptop.ask("DELETE", f"/sessions/{gone}")[0] == 404
        assert laptop.ask("POST", "/lines", {"text": "I am still here."})[0] == 201
        assert json.loads(kept.recv(SECONDS))["line"]["text"] == "I am still here."


def test_all_tabs_of_a_login_are_logged_out_together(messenger: Server) -> None:
    laptop, phone = log_in(messenger, "Ada"), log_in(messenger, "Ada")
    with laptop.chatting(), phone.chatting() as tab, phone.chatting() as other_tab:
        one = next(device["client"] for device in laptop.devices() if not device["current"])
        assert len(ended(laptop.ask("DELETE", f"/sessions/{one}"))) == 2
        assert end_of(tab) == end_of(other_tab) == (3503, "force disconnect")


def test_a_device_can_log_out_itself(messenger: Server) -> None:
    laptop = log_in(messenger, "Ada")
    with laptop.chatting() as socket:
        assert laptop.ask("DELETE", f"/sessions/{laptop.client()}")[0] == 200
        assert end_of(socket) == (3503, "force disconnect")
    refused_everywhere(laptop)
    with log_in(messenger, "Ada").chatting():
        pass


# Log out all others ---------------------------------------------------------------------------


def test_logging_out_all_others_keeps_the_one_that_asks(messenger: Server) -> None:
    laptop, others = log_in(messenger, "Ada"), [log_in(messenger, "Ada") for _ in range(4)]
    with ExitStack() as open_ones, laptop.chatting() as kept:
        streams = [
            open_ones.enter_context(opened(device))
            for opened, device in zip(STREAMS, others, strict=False)
        ]
        gone = {stream.client() for stream in streams}
        socket = open_ones.enter_context(others[-1].chatting())
        gone.add(others[-1].client())
        with within_a_second():
            answer = laptop.ask("DELETE", "/sessions")
            for stream in streams:
                assert [json.loads(frame) for frame in stream.frames()] == [FORCED]
            assert end_of(socket) == (3503, "force disconnect")
        assert set(ended(answer)) == gone
        for device in others:
            refused_everywhere(device)
        assert [device["current"] for device in laptop.devices()] == [True]
        assert laptop.ask("POST", "/lines", {"text": "I am still here."})[0] == 201
        assert json.loads(kept.recv(SECONDS))["line"]["text"] == "I am still here."


def test_another_user_sees_nothing_of_it_and_can_end_nothing(messenger: Server) -> None:
    laptop, phone = log_in(messenger, "Ada"), log_in(messenger, "Ada")
    grace = log_in(messenger, "Grace")
    with laptop.chatting(), phone.chatting(), grace.chatting() as hers:
        foreign = [device["client"] for device in laptop.devices()]
        assert [device["current"] for device in grace.devices()] == [True]
        unknown = grace.ask("DELETE", "/sessions/00000000-0000-4000-8000-000000000000")
        assert unknown[0] == 404
        for client in foreign:
            assert grace.ask("DELETE", f"/sessions/{client}") == unknown
            assert grace.ask("DELETE", f"/sessions?current={client}") == unknown
        assert ended(grace.ask("DELETE", "/sessions")) == []
        assert [device["client"] for device in laptop.devices()] == foreign

        assert ended(laptop.ask("DELETE", "/sessions")) == foreign[1:]
        assert [device["current"] for device in grace.devices()] == [True]
        assert grace.ask("POST", "/lines", {"text": "Hello?"})[0] == 201
        assert json.loads(hers.recv(SECONDS))["line"]["user"] == "Grace"


def test_a_login_that_is_too_new_logs_nobody_else_out(serve: Serve) -> None:
    messenger = serve(COMMAND, env={**ENVIRONMENT, "MESSENGER_END_OTHERS_MIN_AGE": "3600"})
    owner, thief = log_in(messenger, "Ada"), log_in(messenger, "Ada")
    with owner.chatting(), thief.chatting():
        refused = [
            thief.ask("DELETE", "/sessions"),
            thief.ask("DELETE", f"/sessions/{owner.client()}"),
        ]
        for status, said in refused:
            assert (status, said["error"]["code"]) == (403, 103)
            assert "too new" in said["error"]["message"]
        assert len(owner.devices()) == 2
        assert thief.ask("DELETE", f"/sessions/{thief.client()}")[0] == 200
        assert len(owner.devices()) == 1


# The messenger itself -------------------------------------------------------------------------


def test_a_login_has_all_that_a_revocation_needs(messenger: Server) -> None:
    first, second = (
        jwt.decode(log_in(messenger, "Ada").token, options={"verify_signature": False})
        for _ in range(2)
    )
    assert set(first) == {"sub", "jti", "iat", "exp"}
    assert first["sub"] == second["sub"] == "Ada"
    assert first["jti"] != second["jti"]
    assert first["exp"] - first["iat"] == 7 * 24 * 3600
    for name in ("", " \t", "x" * 41, 42, None):
        assert post(messenger, "/login", {"name": name}).status == 422


def test_what_one_user_says_comes_to_all_who_are_connected(messenger: Server) -> None:
    ada, grace = log_in(messenger, "Ada"), log_in(messenger, "Grace")
    text = "<img src=x onerror=alert(1)>"
    with ada.chatting() as one, grace.chatting() as other:
        status, line = ada.ask("POST", "/lines", {"text": f" {text} "})
        assert (status, line["user"], line["text"]) == (201, "Ada", text)
        for socket in (one, other):
            assert json.loads(socket.recv(SECONDS)) == {"line": line}
    status, lines = grace.ask("GET", "/lines")
    assert (status, lines[-1]) == (200, line)
    assert grace.ask("POST", "/lines", {"text": " "})[0] == 422


@pytest.mark.parametrize("header", [{}, {"Authorization": "Basic QWRh"}, {"Cookie": "token=x"}])
def test_an_ordinary_endpoint_needs_a_token(messenger: Server, header: dict[str, str]) -> None:
    answer = ask(messenger.url, "/lines", method="GET", headers=header)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("first", [b"\x00", ""])
def test_a_chat_that_does_not_begin_with_a_token_is_closed(
    messenger: Server, first: bytes | str
) -> None:
    with open_chat(messenger.url) as socket:
        socket.send(first)
        code, _ = end_of(socket)
        assert code == (3501 if isinstance(first, bytes) else 3500)


def test_who_leaves_a_chat_without_a_word_leaves_no_trace(messenger: Server) -> None:
    with open_chat(messenger.url):
        pass
    with open_chat(messenger.url) as socket:
        socket.send("not a token")
    laptop = log_in(messenger, "Ada")
    with laptop.chatting():
        pass
    assert laptop.devices() == []


def test_a_server_that_stops_invites_its_devices_to_return(serve: Serve) -> None:
    messenger = serve(COMMAND, env=ENVIRONMENT)
    with log_in(messenger, "Ada").chatting() as socket:
        messenger.stop()
        assert end_of(socket) == (3001, "shutdown")


# The page -------------------------------------------------------------------------------------


def test_the_page_runs_nothing_but_its_own_script(messenger: Server) -> None:
    page = ask(messenger.url, "/", method="GET")
    assert page.status == 200
    policy = dict(
        part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == policy["trusted-types"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "set-cookie" not in page.headers
    html = page.body.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|https?:", html)
    used = re.findall(r'(?:src|href)="(/[^"]*)"', html)
    assert len(used) == 3
    for path in used:
        assert ask(messenger.url, path, method="GET").status == 200
    script = (FOLDER / "static/messenger.js").read_text()
    assert not re.search(
        r"\.(inner|outer)HTML|insertAdjacent|document\.(write|cookie)|eval", script
    )
    for path in ("/docs", "/redoc", "/static/../app.py", "/static/%2e%2e/app.py"):
        assert ask(messenger.url, path, method="GET").status == 404


def test_the_server_api_answers_nobody(messenger: Server) -> None:
    assert post(messenger, "/api/user_connections", {"user": "Ada"}).status == 401


def test_it_runs_under_uvicorn_as_well(serve: Serve) -> None:
    command = python("-m", "uvicorn", "--app-dir", str(FOLDER), "app:app", "--port", "0")
    server = serve(command, env=UNMEASURED)
    with log_in(server, "Ada").chatting():
        pass


def test_the_documentation_shows_the_code_of_the_example() -> None:
    page = (ROOT / "docs/messenger.md").read_text()
    shown = re.findall(r"```(python|js)\n(.*?)```", page, re.DOTALL)
    assert {language for language, _ in shown} == {"python", "js"}
    for language, code in shown:
        source = FOLDER / {"python": "app.py", "js": "static/messenger.js"}[language]
        assert dedented(code) in dedented(source.read_text())


def dedented(code: str) -> str:
    return "\n".join(line.strip() for line in code.splitlines())
