"""The requests that the page on users' own sessions shows get the answers that it shows."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import jwt
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.conftest import Serve
from tests.servers import python

PAGE = Path(__file__).parent.parent / "docs" / "own-sessions.md"
SECRET = "a secret of at least thirty-two bytes"
SERVER = "http://localhost:8000"
PHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)
LAPTOP = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Gecko/20100101 Firefox/128.0"

_EXCHANGE = re.compile(r"```sh\n(curl [^`]*)```\n+```json\n([^`]*)```")
# What differs from one time to the next, and how it is written for a comparison.
_VARIES = {
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "CLIENT",
    r'_(at|seen)":\d+(\.\d+)?': r'_\1":TIME',
    r'"remote_addr":"[^"]+"': '"remote_addr":"ADDRESS"',
}


def settled(text: str) -> str:
    for pattern, name in _VARIES.items():
        text = re.sub(pattern, name, text)
    return text.strip()


def token(login: str) -> str:
    return jwt.encode({"sub": "42", "jti": login}, SECRET, algorithm="HS256")


def ask(url: str, command: str, known: dict[str, str]) -> str:
    """What a `curl` of the page prints."""
    for shown, real in known.items():
        command = command.replace(shown, real)
    name, *words = shlex.split(command.replace("\\\n", " "))
    assert name == "curl"
    method = words[words.index("--request") + 1] if "--request" in words else "GET"
    header, _, value = words[words.index("--header") + 1].partition(": ")
    (at,) = (word.replace(SERVER, url) for word in words if word.startswith(SERVER))
    answer = httpx.request(method, at, headers={header: value}, trust_env=False)
    return answer.text


@contextmanager
def phone(url: str) -> Iterator[ClientConnection]:
    address = f"{url.replace('http', 'ws')}/connection/uni_websocket"
    with connect(address, user_agent_header=PHONE, proxy=None) as socket:
        socket.send(json.dumps({"token": token("phone"), "name": "phone"}))
        yield socket


@contextmanager
def laptop(url: str) -> Iterator[Iterator[str]]:
    body = {"token": token("laptop"), "name": "web", "version": "1.2"}
    with (
        httpx.Client(trust_env=False, timeout=10, headers={"User-Agent": LAPTOP}) as client,
        client.stream("POST", f"{url}/connection/uni_sse", json=body) as answer,
    ):
        yield answer.iter_lines()


def test_each_request_of_a_user_that_the_page_shows_gets_the_answer_shown(serve: Serve) -> None:
    server = serve(
        python("-m", "usersessions", "serve", "--port", "0"),
        env={"USERSESSIONS_TOKEN_HMAC_SECRET_KEY": SECRET},
    )
    listing, end, again, others = _EXCHANGE.findall(PAGE.read_text())
    with ExitStack() as opened:
        socket = opened.enter_context(phone(server.url))
        lost = json.loads(socket.recv(timeout=10))["connect"]["client"]
        lines = opened.enter_context(laptop(server.url))
        assert "connect" in next(lines)
        ids = re.findall(r'"client":"([^"]+)"', listing[1])
        known = {"$TOKEN": token("laptop"), ids[0]: lost}
        for command, answer in (listing, end, again, others):
            assert settled(ask(server.url, command, known)) == settled(answer)
        assert json.loads(socket.recv(timeout=10))["disconnect"]["code"] == 3503
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)
        again_in = opened.enter_context(phone(server.url))
        assert json.loads(again_in.recv(timeout=10))["disconnect"]["code"] == 3500
