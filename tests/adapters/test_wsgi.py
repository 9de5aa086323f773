"""Plain WSGI on real servers: what gunicorn and waitress make of streams, and how they stop.

What all apps have in common is in `test_conformance.py` and `test_loss.py`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.adapters.apps.shared import API_KEY, SECRET, gunicorn
from tests.adapters.serving import (
    ENVIRONMENT,
    SHUTDOWN,
    connections,
    gone,
    new_user,
    token,
)
from tests.conftest import Serve
from tests.servers import Server, python, until
from tests.streams import Stream, ask, ask_without_waiting, command, open_stream
from usersessions.adapters import wsgi
from usersessions.http.lifespan import end_with_server
from usersessions.http.wsgi import UserSessionsWSGI

KINDS = ("uni_http_stream", "uni_sse")
THREADS = gunicorn("wsgi:plain", "", "--threads=32").command


def opened(server: Server, user: str) -> list[Stream]:
    """A stream of each kind, listed."""
    streams = [open_stream(server.url, kind, {"token": token(user)}) for kind in KINDS]
    for stream in streams:
        stream.client()
    return streams


def test_the_adapter_is_the_app_and_what_ends_it_as_they_are() -> None:
    assert wsgi.UserSessionsWSGI is UserSessionsWSGI
    assert wsgi.end_with_server is end_with_server


# How gunicorn stops -------------------------------------------------------------------------------


def quits(server: Server) -> None:
    server.process.send_signal(signal.SIGQUIT)


def is_interrupted_in_a_terminal(server: Server) -> None:
    """All of its processes get the signal there, and gunicorn sends its workers another one."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for process in (pid, *map(int, children)):
        os.kill(process, signal.SIGINT)


def loses_a_worker(server: Server) -> None:
    pid = server.process.pid
    (worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGTERM)
    until(lambda: f"Worker exiting (pid: {worker})" in server.output, what="the worker to end")
    server.process.terminate()


@pytest.mark.parametrize("stop", [quits, is_interrupted_in_a_terminal, loses_a_worker])
def test_however_gunicorn_stops_streams_are_told_and_its_workers_end_at_once(
    stop: Callable[[Server], None], serve: Serve
) -> None:
    server = serve(THREADS, env=ENVIRONMENT)
    streams = opened(server, new_user())
    stop(server)
    for stream in streams:
        assert stream.frames() == [SHUTDOWN]
        stream.leave()
    # Otherwise it would wait for its `graceful_timeout`, which is 30 seconds.
    server.process.wait(8.0)
    assert "Traceback" not in server.output
    assert "SIGKILL" not in server.output


APP = f"""
from usersessions import Key, TokenVerifier, UserSessions
from usersessions.adapters.wsgi import UserSessionsWSGI

sessions = UserSessions(TokenVerifier(Key({SECRET!r}, algorithm="HS256")))
app = UserSessionsWSGI(sessions, api_keys=[{API_KEY!r}])
"""

CONFIGURATION = """
preload_app = True
threads = 8


def post_worker_init(worker):
    from app import sessions
    from usersessions.adapters.wsgi import end_with_server

    end_with_server(sessions)
"""


def test_with_preload_a_hook_of_gunicorns_has_streams_told(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "gunicorn.conf.py").write_text(CONFIGURATION)
    configuration = f"--config={tmp_path / 'gunicorn.conf.py'}"
    server = serve(
        python(
            *("-m", "gunicorn", "--bind=127.0.0.1:0", f"--chdir={tmp_path}"),
            *(configuration, "app:app"),
        ),
        env=ENVIRONMENT,
    )
    user = new_user()
    streams = opened(server, user)
    assert len(connections(server.url, user)) == 2
    server.process.terminate()
    for stream in streams:
        assert stream.frames() == [SHUTDOWN]
        stream.leave()
    server.process.wait(8.0)


# Threads ------------------------------------------------------------------------------------------


def test_as_many_streams_as_threads_leave_none_for_anything_else(serve: Serve) -> None:
    server = serve(gunicorn("wsgi:plain", "", "--threads=2").command, env=ENVIRONMENT)
    streams = opened(server, new_user())
    waiting = ask_without_waiting(server.url, "/me")
    assert waiting.sock is not None
    waiting.sock.settimeout(0.5)
    with pytest.raises(TimeoutError):
        waiting.getresponse()
    streams[0].leave()
    # The one that waited is served now, and with its thread all that come.
    assert ask(server.url, "/me", method="GET").status == 401
    waiting.close()
    streams[1].leave()


def test_a_sync_worker_is_killed_while_it_holds_a_stream(serve: Serve) -> None:
    server = serve(gunicorn("wsgi:plain", "", "--timeout=1").command, env=ENVIRONMENT)
    with open_stream(server.url, "uni_http_stream", {"token": token(new_user())}) as stream:
        stream.client()
        until(lambda: "WORKER TIMEOUT" in server.output, what="gunicorn to lose its patience")


def test_streams_that_come_and_go_leave_nothing(serve: Serve) -> None:
    server = serve(THREADS, env=ENVIRONMENT)
    user = new_user()
    for number in range(60):
        with ExitStack() as left:
            for stream in opened(server, user):
                left.callback(stream.leave, reset=number % 3 == 0)
            if number % 10 == 0:
                command(server.url, "disconnect", key=API_KEY, user=user)
    gone(server.url, user)
    assert "Traceback" not in server.output


# A server that does not let its clients' sockets be seen ------------------------------------------


@pytest.fixture
def waitress(serve: Serve) -> Server:
    return serve(
        python(
            *("-m", "waitress", "--listen=127.0.0.1:0", "--threads=8"),
            *("--call", "tests.adapters.apps.wsgi:plain"),
        ),
        env={**ENVIRONMENT, "PING_INTERVAL": "1"},
    )


def test_waitress_notices_a_client_that_has_left_with_the_second_ping(waitress: Server) -> None:
    user = new_user()
    for reset in (False, True):
        streams = opened(waitress, user)
        assert [stream.frame() for stream in streams] == [b"{}", b"{}"]
        assert len(connections(waitress.url, user)) == 2
        for stream in streams:
            stream.leave(reset=reset)
        gone(waitress.url, user, seconds=3.5)
    assert "Traceback" not in waitress.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_waitress_is_stopped_once_its_streams_are_told(
    waitress: Server, number: signal.Signals
) -> None:
    streams = opened(waitress, new_user())
    waitress.process.send_signal(number)
    for stream in streams:
        assert [frame for frame in stream.frames() if frame != b"{}"] == [SHUTDOWN]
        stream.leave()
    waitress.process.wait(5.0)
