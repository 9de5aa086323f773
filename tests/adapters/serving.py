"""Servers for the apps of `tests.adapters.apps`, and what the tests know of them."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt

from tests.adapters.apps.shared import API_KEY, SECRET, Target
from tests.redis_servers import RedisServer
from tests.servers import START_SECONDS, UNMEASURED, Server, serving, until
from tests.streams import TIMEOUT_SECONDS, Stream, ask, command, event_source, open_stream

ENVIRONMENT = {
    **UNMEASURED,
    "PYTHONPATH": os.pathsep.join(
        [str(Path(__file__).parent.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    ),
}
"""What lets a server in a process of its own find the apps, wherever the tests run.

Its coverage is not measured: what decides is in `http/`, which has tests in this process.
"""

OPENERS = ("uni_http_stream", "uni_sse", "uni_websocket", "EventSource")
"""The ways to open a stream: the three with what a program sends, and what a browser does."""

SHUTDOWN = b'{"disconnect":{"code":3001,"reason":"shutdown"}}'

PIN = "a pin that nobody may see"
"""What the meta of a token has, in tests that look for it where it must not be."""

GONE_SECONDS = 1.0
"""How long a connection whose end can be seen may still be listed."""


@dataclass(frozen=True)
class Running:
    """A target that is served.

    Attributes:
        target: what it is.
        server: the program.
    """

    target: Target
    server: Server

    @property
    def url(self) -> str:
        """Where the adapter serves."""
        return self.server.url + self.target.prefix

    def closing(self, code: int, reason: str) -> tuple[int, str]:
        """What a WebSocket is closed with."""
        return code, reason if self.target.gives_reasons else ""

    @property
    def openers(self) -> list[str]:
        """The ways to open a stream that it has."""
        return openers_of(self.target)


def openers_of(target: Target) -> list[str]:
    """The ways to open a stream that a target has."""
    return [one for one in OPENERS if target.has_websockets or one != "uni_websocket"]


@contextmanager
def served(target: Target, *, log: Path, **variables: str) -> Iterator[Running]:
    """Serve a target while the block runs, with a Redis if it needs one.

    Args:
        target: what to serve.
        log: the file for the server's output.
        variables: environment variables besides, such as `PING_INTERVAL`.
    """
    with ExitStack() as opened:
        env = {**ENVIRONMENT, **target.env, **variables}
        if target.processes > 1 and "REDIS_URL" not in env:
            env["REDIS_URL"] = opened.enter_context(RedisServer()).url
        server = opened.enter_context(serving(target.command, log=log, env=env))
        until_it_answers(server)
        yield Running(target, server)


_TRACEBACK = re.compile(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(.*)$", re.M)


def check_log(running: Running) -> None:
    """Check that the log of a server has no secret, and no traceback but those of its own.

    Raises:
        AssertionError: if it has; with the log.
    """
    target, output = running.target, running.server.output

    def without_own(found: re.Match[str]) -> str:
        is_own = target.own_errors and re.match(target.own_errors, found[1])
        return "" if is_own else found[0]

    left = _TRACEBACK.sub(without_own, output)
    # All tokens begin with the same header.
    secrets = [] if target.logs_queries else [token("").partition(".")[0], API_KEY]
    for unwanted in ("Traceback", PIN, *secrets):
        assert unwanted not in left, f"{unwanted!r} is in the log:\n{output}"


def until_it_answers(server: Server) -> None:
    """Wait until an app answers: some servers listen before they have loaded it."""

    def answers() -> bool:
        try:
            return ask(server.url, "/", method="GET").status > 0
        except (OSError, http.client.HTTPException):
            return False

    until(answers, what="the app to answer", seconds=START_SECONDS)


def new_user() -> str:
    """A user whom no other test knows."""
    return f"user-{uuid.uuid4()}"


def token(user: str, **claims: object) -> str:
    return jwt.encode({"sub": user, **claims}, SECRET, algorithm="HS256")


def expired_token(user: str) -> str:
    return token(user, exp=int(time.time()) - 60)


def bearer(token: str) -> dict[str, str]:
    """The header of a request with a token."""
    return {"Authorization": f"Bearer {token}"}


def exchange(url: str, request: bytes) -> bytes:
    """Send bytes to a server, and give all that it answers until it closes the connection."""
    parts = urlsplit(url)
    address = (parts.hostname, parts.port or 80)
    with socket.create_connection(address, timeout=TIMEOUT_SECONDS) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def open_as(
    opener: str,
    url: str,
    request: Mapping[str, object],
    *,
    headers: Mapping[str, str] | None = None,
) -> Stream:
    """Open a stream in one of the ways of `OPENERS`."""
    if opener == "EventSource":
        return event_source(url, request, headers=headers)
    return open_stream(url, opener, request, headers=headers)


def transport_of(opener: str) -> str:
    """The name of the transport, as lists show it."""
    return "uni_sse" if opener == "EventSource" else opener


def connections(url: str, user: str) -> dict[str, Any]:
    """A user's connections, as the server API gives them."""
    found: dict[str, Any] = command(url, "user_connections", key=API_KEY, user=user)["connections"]
    return found


def gone(url: str, user: str, *, seconds: float = GONE_SECONDS) -> None:
    """Wait until nothing of a user is listed."""
    until(lambda: not connections(url, user), what="the list to be empty", seconds=seconds)


def last(code: int, reason: str) -> bytes:
    """The frame of a disconnect."""
    body = {"disconnect": {"code": code, "reason": reason}}
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
