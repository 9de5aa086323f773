"""The app and the requests that the documentation shows, tried on a real server."""

from __future__ import annotations

import json
import re
import shlex
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.servers import UNMEASURED, python, serving, until

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "docs/server-api.md"]
SECRET = "a secret of at least thirty-two bytes"
API_KEY = "an-api-key-of-yours"

_APP = re.compile(r"\[start:app\] -->\n```python\n(.*?)```", re.DOTALL)
_SHELL = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_EXCHANGE = re.compile(r"```sh\n(curl [^`]*)```\n+```json\n([^`]*)```")
_CLIENT = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# What differs from one time to the next, and how it is written for a comparison.
_VARIES = {
    _CLIENT.pattern: "CLIENT",
    r'"name":"[^"]+_\d+","version":"[^"]+"': '"name":"NAME","version":"VERSION"',
    r'"uptime":\d+': '"uptime":TIME',
}


@dataclass(frozen=True)
class Exchange:
    """A `curl` of the API and the answer that a page shows under it."""

    path: str
    header: str
    body: bytes
    answer: str

    @staticmethod
    def read(command: str, answer: str) -> Exchange:
        words = shlex.split(command)
        data = words[words.index("--data") + 1]
        header = words[words.index("--header") + 1]
        return Exchange(urlsplit(words[1]).path, header, data.encode(), answer.strip())


def exchanges() -> list[Exchange]:
    return [
        Exchange.read(*shown) for page in PAGES for shown in _EXCHANGE.findall(page.read_text())
    ]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the README's app runs; each test leaves it without sessions."""
    folder = tmp_path_factory.mktemp("app")
    found = _APP.search((ROOT / "README.md").read_text())
    assert found
    (folder / "app.py").write_text(found[1])
    command = python("-m", "uvicorn", "--app-dir", str(folder), "--port", "0", "app:app")
    secrets = {"USERSESSIONS_TOKEN_HMAC_SECRET_KEY": SECRET, "USERSESSIONS_API_KEY": API_KEY}
    with serving(command, log=folder / "server.log", env={**UNMEASURED, **secrets}) as server:
        yield server.url


def post(url: str, *, body: bytes) -> str:
    request = urllib.request.Request(url, body, {"X-API-Key": API_KEY})
    with urllib.request.urlopen(request, timeout=10) as response:
        return str(response.read().decode())


def connections(url: str) -> dict[str, Any]:
    reply = json.loads(post(f"{url}/api/user_connections", body=b'{"user": "42"}'))
    found: dict[str, Any] = reply["result"]["connections"]
    return found


def settled(answer: str) -> str:
    for pattern, name in _VARIES.items():
        answer = re.sub(pattern, name, answer)
    return answer


@contextmanager
def echo(url: str, **claims: object) -> Iterator[ClientConnection]:
    token = jwt.encode({"sub": "42", **claims}, SECRET)
    with connect(f"{url.replace('http', 'ws')}/echo?app_name=web&access_token={token}") as socket:
        yield socket


def test_the_app_of_the_readme_lists_its_socket_and_closes_it_when_told(url: str) -> None:
    with echo(url) as socket:
        socket.send("hello")
        assert socket.recv(timeout=10) == "hello"
        assert [entry["transport"] for entry in connections(url).values()] == ["websocket"]
        (client,) = connections(url)
        told = json.loads(post(f"{url}/api/disconnect", body=b'{"user": "42"}'))["result"]
        assert told == {"closed": [client], "unconfirmed": [], "not_revocable": []}
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=10)
        assert closed.value.rcvd
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (3503, "force disconnect")
    until(lambda: not connections(url), what="the session to be gone")


def test_the_app_of_the_readme_refuses_a_token_that_it_did_not_make(url: str) -> None:
    token = jwt.encode({"sub": "42"}, SECRET[::-1])
    address = f"{url.replace('http', 'ws')}/echo?access_token={token}"
    with connect(address) as socket, pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=10)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 3500


def test_the_app_of_the_readme_knows_who_asks(url: str) -> None:
    token = jwt.encode({"sub": "42"}, SECRET)
    request = urllib.request.Request(f"{url}/me", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        assert json.load(response) == "42"


def test_each_request_that_a_page_shows_gets_the_answer_shown(url: str) -> None:
    for exchange in exchanges():
        with ExitStack() as held:
            if _CLIENT.search(exchange.answer):
                held.enter_context(echo(url, meta={"plan": "pro"}))
                until(lambda: connections(url), what="the session to be listed")
            answer = post(url + exchange.path, body=exchange.body)
        assert settled(answer) == settled(exchange.answer)
        until(lambda: not connections(url), what="the session to be gone")


def test_no_block_goes_on_while_the_server_that_it_starts_may_not_answer_yet() -> None:
    pages = [*PAGES, ROOT / "docs/tutorial.md"]
    shown = [block for page in pages for block in _SHELL.findall(page.read_text())]
    started = [block for block in shown if re.search(r"^(uvicorn|usersessions serve)", block, re.M)]
    assert len(started) == 3
    for block in started:
        *_, last = re.sub(r" +#.*", "", block).strip().splitlines()
        assert re.match(r"(uvicorn|usersessions serve)", last) and not last.endswith("&")


def test_the_pages_show_requests() -> None:
    assert len(exchanges()) >= 6
    assert {exchange.header for exchange in exchanges()} == {"X-API-Key: $USERSESSIONS_API_KEY"}
