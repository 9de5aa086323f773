"""Plain ASGI on a real server: pings, signals that insist, and who is left over.

What all apps have in common is in `test_conformance.py`.
"""

from __future__ import annotations

import json
import signal
import time
from contextlib import closing

from tests.adapters.apps.plain import TARGETS
from tests.adapters.apps.shared import uvicorn
from tests.adapters.serving import (
    ENVIRONMENT,
    OPENERS,
    SHUTDOWN,
    connections,
    new_user,
    open_as,
    token,
)
from tests.conftest import Serve
from tests.servers import until
from tests.streams import KINDS, ask, ask_without_waiting, open_stream
from usersessions.adapters import asgi
from usersessions.http.app import UserSessionsApp
from usersessions.http.lifespan import lifespan


def test_the_adapter_is_the_app_and_the_lifespan_as_they_are() -> None:
    assert (asgi.UserSessionsApp, asgi.lifespan) == (UserSessionsApp, lifespan)


def test_pings_arrive_on_every_stream_at_their_interval(serve: Serve) -> None:
    server = serve(TARGETS["plain"].command, env={**ENVIRONMENT, "PING_INTERVAL": "1"})
    user = new_user()
    streams = [open_as(opener, server.url, {"token": token(user)}) for opener in OPENERS]
    for stream in streams:
        frame = stream.frame()
        assert frame is not None and json.loads(frame)["connect"]["ping"] == 1
    started = time.monotonic()
    for _ in range(2):
        for stream in streams:
            assert stream.frame() == b"{}"
    assert 1.5 < time.monotonic() - started < 4.0
    for stream in streams:
        stream.leave()


def test_the_prefix_of_a_mounted_app_is_needed_and_the_apps_own_pages_are_there(
    serve: Serve,
) -> None:
    server = serve(TARGETS["plain, mounted"].command, env=ENVIRONMENT)
    assert ask(server.url, "/rt/api", body=b"{}").status == 401
    assert ask(server.url, "/api", body=b"{}").status == 404
    assert ask(server.url, "/page").body == b"the app's own"
    assert server.stop() == -signal.SIGTERM
    assert server.output.index("the app's own start") < server.output.index("the app's own end")


def test_a_second_signal_is_not_held_up_by_a_session_that_does_not_end(serve: Serve) -> None:
    server = serve(TARGETS["plain"].command, env=ENVIRONMENT)
    user = new_user()
    with (
        open_stream(server.url, "uni_http_stream", {"token": token(user)}) as stream,
        open_stream(server.url, "uni_sse", {"token": token(user)}) as other,
        # A request whose handler never ends.
        closing(ask_without_waiting(server.url, "/hold")) as pending,
    ):
        stream.client()
        other.client()
        until(lambda: "holding" in server.output, what="the handler to hold its session")
        server.process.send_signal(signal.SIGINT)
        assert stream.frames() == other.frames() == [SHUTDOWN]
        assert "Shutting down" not in server.output
        started = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        until(lambda: "Shutting down" in server.output, what="the server to stop", seconds=3.0)
        assert time.monotonic() - started < 4.0
        # From Python 3.12 on, no signal makes uvicorn stop before its connections are closed.
        pending.close()
        server.process.send_signal(signal.SIGINT)
        server.process.wait(3.0)


def test_a_session_that_does_not_end_holds_up_the_first_signal_for_some_seconds_at_most(
    serve: Serve,
) -> None:
    server = serve(
        uvicorn("plain:plain", "", "--timeout-graceful-shutdown=1").command, env=ENVIRONMENT
    )
    with closing(ask_without_waiting(server.url, "/hold")):
        until(lambda: "holding" in server.output, what="the handler to hold its session")
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(10.0)


def test_a_thousand_connections_that_come_and_go_leave_nothing(serve: Serve) -> None:
    server = serve(TARGETS["plain"].command, env=ENVIRONMENT)
    user = new_user()
    for number in range(250):
        streams = [open_stream(server.url, kind, {"token": token(user)}) for kind in KINDS]
        streams.append(open_as("EventSource", server.url, {"token": token(user)}))
        for stream in streams[number % 2 :]:
            stream.client()
        for stream in streams:
            stream.leave(reset=number % 3 == 0)
    until(lambda: not connections(server.url, user), what="the list to be empty", seconds=5.0)
    assert "Traceback" not in server.output
