"""How connections end on real servers, whoever ends them: clients that leave, servers that stop."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.apps.shared import API_KEY, SECRET, Target, ending
from tests.adapters.apps.targets import TARGETS
from tests.adapters.matrix import EACH_OPENER, ONE_OF_EACH_SERVER, WITH_WEBSOCKETS
from tests.adapters.serving import (
    SHUTDOWN,
    Running,
    bearer,
    check_log,
    connections,
    gone,
    new_user,
    open_as,
    served,
    token,
)
from tests.redis_servers import RedisServer
from tests.servers import python, until
from tests.streams import (
    Reader,
    Stream,
    WebSocket,
    closed_with,
    command,
    open_stream,
    open_websocket,
)
from usersessions import RedisStore, UserSessions

SLOW_SECONDS = 5.0
"""How long a client that does not read may still be listed, with 0.5 s for each frame."""

LOSSES = ("FIN", "RST", "half-close")


def lose(stream: Stream, loss: str) -> None:
    if loss == "half-close":
        stream.half_close()
    else:
        stream.leave(reset=loss == "RST")


# Clients ------------------------------------------------------------------------------------------


@EACH_OPENER
def test_a_stream_that_is_lost_is_not_listed_a_second_later(
    opener: str, url: str, user: str
) -> None:
    for loss in LOSSES:
        with open_as(opener, url, {"token": token(user)}) as stream:
            stream.client()
            assert len(connections(url, user)) == 1
            lose(stream, loss)
            gone(url, user)


@WITH_WEBSOCKETS
def test_a_websocket_of_the_apps_own_that_is_lost_is_not_listed_a_second_later(
    running: Running, user: str
) -> None:
    headers = bearer(token(user))
    for loss in LOSSES:
        with open_websocket(running.server.url, "/own/echo", headers=headers) as websocket:
            until(lambda: connections(running.url, user), what="the WebSocket to be listed")
            lose(websocket, loss)
            gone(running.url, user)


# The frames of a stream are too short to fill the buffers on the way, so that no real client can
# hold one up: what happens then is tried in `tests/http/test_aio.py`.
@WITH_WEBSOCKETS
def test_a_websocket_of_the_apps_own_whose_client_does_not_read_holds_nobody_up(
    running: Running, user: str
) -> None:
    url, headers = running.url, bearer(token(user))
    with open_websocket(running.server.url, "/own/echo", headers=headers) as websocket:
        # It may be closed before that is over.
        with suppress(ConnectionError):
            websocket.stuff()
        with open_stream(url, "uni_http_stream", {"token": token(new_user())}) as stream:
            stream.client()
        if running.target.ends_slow:
            gone(url, user, seconds=SLOW_SECONDS)
            told = ending(user, 3008)
            until(lambda: told in running.server.output, what="it to be told that it was slow")
        else:
            # Until the system drops it: that is tried where it does so soon, below.
            assert len(connections(url, user)) == 1
            websocket.leave(reset=True)
            # It may have a lot to send back before it notices.
            gone(url, user, seconds=SLOW_SECONDS)


# Servers, and clients whose network vanishes ------------------------------------------------------

SILENCE_SECONDS = 8.0
"""How long a client without a network may still be listed, where it is asked each second.

One that does not read, as well: what is sent to it may stay unacknowledged for a second.
"""

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
    name: str, number: signal.Signals, tmp_path: Path, user: str, redis_server: RedisServer
) -> None:
    target = TARGETS.get(name, COMMAND)
    has_own = target.has_websockets and name in TARGETS
    shared = {"REDIS_URL": redis_server.url, "USERSESSIONS_STORE": redis_server.url}
    observer = UserSessions(store=RedisStore(redis_server.url))
    with (
        closing(observer),
        served(target, log=tmp_path / "log", PING_INTERVAL="1", **shared) as running,
        ExitStack() as opened,
    ):
        server, url = running.server, running.url
        until(lambda: len(nodes(url)) == target.processes, what="each process to be listed")

        lost = new_user()
        if ON_LINUX and number == signal.SIGTERM:
            vanishing = open_all(running, lost, opened)
            for stream in vanishing:
                stream.client()
            if has_own:
                vanishing.append(open_own(running, lost, opened))
            until(lambda: len(connections(url, lost)) == len(vanishing), what="all to be listed")
            for stream in vanishing:
                stream.vanish()
            if has_own and not target.ends_slow:
                does_not_read = open_own(running, lost, opened)
                # The system may drop it before that is over.
                with suppress(ConnectionError):
                    does_not_read.stuff()

        streams = open_all(running, user, opened)
        for stream in streams:
            frame = stream.frame()
            assert frame is not None and json.loads(frame)["connect"]["ping"] == 1
        readers = [Reader(stream) for stream in streams]
        if number == signal.SIGTERM:
            gone(url, lost, seconds=SILENCE_SECONDS)
            until(lambda: all(reader.frames for reader in readers), what="all to be pinged")

        own = Reader(open_own(running, user, opened)) if has_own else None
        until(
            lambda: len(connections(url, user)) == len(streams) + has_own, what="all to be listed"
        )

        server.process.send_signal(number)
        for reader in readers:
            *pings, last = reader.to_end()
            assert (set(pings) <= {b"{}"}, last) == (True, SHUTDOWN)
        if target.has_websockets:
            assert closed_with(streams[2]) == running.closing(3001, "shutdown")
        if own is not None:
            assert own.to_end() == []
            assert closed_with(own.stream) == running.closing(3001, "shutdown")
        # That clients keep their connections open holds nothing up; gunicorn would give them 30 s.
        status = server.process.wait(10.0)
        assert status in (0, -number)
        assert target.ended in server.output
        check_log(running)
        assert observer.info() == ()


def nodes(url: str) -> list[Any]:
    """The processes that serve, as the server API lists them."""
    listed: list[Any] = command(url, "info", key=API_KEY)["nodes"]
    return listed


def open_all(running: Running, user: str, opened: ExitStack) -> list[Stream]:
    """Streams of every kind, which are closed with the stack."""
    return [
        opened.enter_context(open_as(opener, running.url, {"token": token(user)}))
        for opener in running.openers
    ]


def open_own(running: Running, user: str, opened: ExitStack) -> WebSocket:
    """A WebSocket of the app's own, which is closed with the stack."""
    headers = bearer(token(user))
    return opened.enter_context(open_websocket(running.server.url, "/own/echo", headers=headers))
