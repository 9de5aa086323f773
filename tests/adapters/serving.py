"""Servers for the apps of `tests.adapters.apps`, and what the tests know of them."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt

from tests.adapters.apps import API_KEY, SECRET
from tests.streams import Stream, command, event_source, open_stream

ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(
        [str(Path(__file__).parent.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
}
"""What lets a server in a process of its own find the apps, wherever the tests run."""

OPENERS = ("uni_http_stream", "uni_sse", "uni_websocket", "EventSource")
"""The ways to open a stream: the three with what a program sends, and what a browser does."""

SHUTDOWN = b'{"disconnect":{"code":3001,"reason":"shutdown"}}'


def new_user() -> str:
    """A user whom no other test knows."""
    return f"user-{uuid.uuid4()}"


def token(user: str, **claims: object) -> str:
    return jwt.encode({"sub": user, **claims}, SECRET, algorithm="HS256")


def expired_token(user: str) -> str:
    return token(user, exp=int(time.time()) - 60)


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


def last(code: int, reason: str) -> bytes:
    """The frame of a disconnect."""
    body = {"disconnect": {"code": code, "reason": reason}}
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
