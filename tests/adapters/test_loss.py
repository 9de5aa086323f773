"""How connections end on real servers, whoever ends them: clients that leave, servers that stop."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.adapters.apps.shared import API_KEY, SECRET, Target
from tests.adapters.apps.targets import TARGETS
from tests.adapters.matrix import (
    EACH_OPENER,
    ONE_OF_EACH_SERVER,
    ONE_WITH_WEBSOCKETS,
    WITH_WEBSOCKETS,
)
from tests.adapters.serving import (
    SHUTDOWN,
    Running,
    bearer,
    connections,
    gone,
    last,
    new_user,
    open_as,
    served,
    token,
)
from tests.servers import UNMEASURED, python, until
from tests.streams import Stream, closed_with, command, open_stream, open_websocket

EACH_LOSS = pytest.mark.parametrize("loss", ["FIN", "RST", "half-close"])


def lose(stream: Stream, loss: str) -> None:
    if loss == "half-close":
        stream.half_close()
    else:
        stream.leave(reset=loss == "RST")


# Clients ------------------------------------------------------------------------------------------


@EACH_OPENER
@EACH_LOSS
def test_a_stream_that_is_lost_is_not_listed_a_second_later(
    opener: str, loss: str, url: str, user: str
) -> None:
    with open_as(opener, url, {"token": token(user)}) as stream:
        stream.client()
        assert len(connections(url, user)) == 1
        lose(stream, loss)
        gone(url, user)


@WITH_WEBSOCKETS
@EACH_LOSS
def test_a_websocket_of_the_apps_own_that_is_lost_is_not_listed_a_second_later(
    loss: str, running: Running, user: str
) -> None:
    headers = bearer(token(user))
    with open_websocket(running.server.url, "/own/echo", headers=headers) as websocket:
        until(lambda: connections(running.url, user), what="the WebSocket to be listed")
        lose(websocket, loss)
        gone(running.url, user)


def test_clients_that_do_not_read_hold_nobody_up(running: Running, user: str) -> None:
    url = running.url
    idle = [open_as(opener, url, {"token": token(user)}) for opener in running.openers]
    until(lambda: len(connections(url, user)) == len(idle), what="all to be listed")
    with open_stream(url, "uni_http_stream", {"token": token(new_user())}) as stream:
        stream.client()
    command(url, "disconnect", key=API_KEY, user=user)
    for stream in idle:
        stream.client()
        assert stream.frames() == [last(3503, "force disconnect")]
        stream.leave()


@ONE_WITH_WEBSOCKETS
def test_a_websocket_that_is_stuffed_holds_nobody_up(running: Running, user: str) -> None:
    url = running.url
    headers = bearer(token(user))
    with open_websocket(running.server.url, "/own/echo", headers=headers) as websocket:
        websocket.stuff()
        assert len(connections(url, user)) == 1
        with open_stream(url, "uni_http_stream", {"token": token(new_user())}) as stream:
            stream.client()
        if running.target.gets_stuck:
            command(url, "disconnect", key=API_KEY, user=user)
            gone(url, user, seconds=8.0)
        else:
            websocket.leave(reset=True)
            gone(url, user)


# Servers, and clients whose network vanishes ------------------------------------------------------

SILENCE_SECONDS = 8.0
"""How long a client without a network may still be listed, with a second between two pings."""

ON_LINUX = sys.platform == "linux"
"""Elsewhere there is no filter that drops packets."""

COMMAND = Target(
    python("-m", "usersessions", "serve", "--port=0"),
    "",
    env={
        "USERSESSIONS_TOKEN_HMAC_SECRET_KEY": SECRET,
        "USERSESSIONS_API_KEY": API_KEY,
        "USERSESSIONS_PING_INTERVAL": "1",
    },
    sees_vanished=True,
)
"""`usersessions serve`, which has no endpoint of an app's own."""


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *((name, signal.SIGTERM) for name in TARGETS),
        *((name, signal.SIGINT) for name in ONE_OF_EACH_SERVER),
        ("the command", signal.SIGTERM),
    ],
)
def test_a_server_pings_misses_who_vanished_and_tells_the_others_when_it_is_stopped(
    name: str, number: signal.Signals, tmp_path: Path, user: str
) -> None:
    target = TARGETS.get(name, COMMAND)
    with (
        served(target, log=tmp_path / "log", PING_INTERVAL="1", **UNMEASURED) as running,
        ExitStack() as opened,
    ):
        server, url = running.server, running.url
        if target.sees_vanished and ON_LINUX and number == signal.SIGTERM:
            lost = new_user()
            for stream in open_all(running, lost, opened):
                stream.client()
                stream.vanish()
            gone(url, lost, seconds=SILENCE_SECONDS)

        streams = open_all(running, user, opened)
        for stream in streams:
            frame = stream.frame()
            assert frame is not None and json.loads(frame)["connect"]["ping"] == 1
        for stream in streams:
            assert stream.frame() == b"{}"

        own = None
        if target.has_websockets and target is not COMMAND:
            headers = bearer(token(user))
            own = opened.enter_context(open_websocket(server.url, "/own/echo", headers=headers))
            until(lambda: len(connections(url, user)) == 5, what="the app's own to be listed")

        server.process.send_signal(number)
        for stream in streams:
            assert [frame for frame in stream.frames() if frame != b"{}"] == [SHUTDOWN]
        if target.has_websockets:
            assert closed_with(streams[2]) == running.closing(3001, "shutdown")
        if own is not None:
            assert own.frames() == []
            assert own.closed == running.closing(3001, "shutdown")
        # That clients keep their connections open holds nothing up.
        server.process.wait(3.0)
        assert "Traceback" not in server.output
        assert target.ended in server.output


def open_all(running: Running, user: str, opened: ExitStack) -> list[Stream]:
    """Streams of every kind, which are closed with the stack."""
    return [
        opened.enter_context(open_as(opener, running.url, {"token": token(user)}))
        for opener in running.openers
    ]
