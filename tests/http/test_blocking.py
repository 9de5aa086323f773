"""A stream that a thread holds: what its generator gives, and when its session is there."""

from __future__ import annotations

import gc
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jwt
import pytest

from tests.servers import until
from usersessions import (
    ConnectRefused,
    ConnectRequest,
    Disconnect,
    Identity,
    Key,
    TokenVerifier,
    UserSessions,
)
from usersessions.http.blocking import UNSEEN_PING_INTERVAL, Frames, send_all, stream_body
from usersessions.http.connection import HTTP_STREAM, SSE
from usersessions.http.endpoints import Endpoints
from usersessions.http.watch import Watch, watching
from usersessions.transports.unidirectional import ConnectMessage, Transport

SECRET = "a secret of at least thirty-two bytes"
FORCED = Disconnect(3503, "force disconnect")


class Script(Watch):
    """A watch for which a test says what happens while it is waited for."""

    def __init__(self, *happenings: Callable[[Watch], None], sees_client: bool = True) -> None:
        super().__init__()
        self.sees_client = sees_client
        self.waited: list[float] = []
        self.is_over = False
        self._happenings = list(happenings)

    def _wake(self) -> None:
        pass

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self._happenings.pop(0)(self)

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        yield self
        self.is_over = True


def nothing(watch: Watch) -> None:
    pass


def leaves(watch: Watch) -> None:
    watch.client_is_gone = True


def is_told(watch: Watch) -> None:
    watch.tell(FORCED)


def who(request: ConnectRequest) -> Identity:
    return Identity("42", data={"hello": "there"})


def new_sessions() -> UserSessions:
    return UserSessions(TokenVerifier(Key(SECRET, algorithm="HS256")), connect_proxy=who)


def stream(
    sessions: UserSessions,
    watch: Script,
    *,
    message: ConnectMessage | None = None,
    transport: Transport = HTTP_STREAM,
    ping_interval: int = 25,
) -> Frames:
    return stream_body(
        sessions,
        Endpoints(sessions.operations, ping_interval=ping_interval),
        message or ConnectMessage(name="web"),
        transport,
        headers={"user-agent": "a test"},
        peer="192.0.2.7",
        watching=watch.watching(),
    )


def outcome(frames: Frames) -> tuple[list[Any], Disconnect | None]:
    """All that a stream sends, parsed, and what its client was told."""
    sent: list[Any] = []
    told = send_all(frames, lambda frame: sent.append(json.loads(frame)))
    return sent, told


def test_a_session_is_there_while_its_stream_is_iterated_and_not_before_or_after() -> None:
    sessions = new_sessions()
    watch = Script(nothing)
    frames = stream(sessions, watch)
    assert sessions.user_connections("42") == {}
    connect = json.loads(next(frames))["connect"]
    ((client, info),) = sessions.user_connections("42").items()
    assert connect == {**connect, "client": client, "ping": 25, "data": {"hello": "there"}}
    assert (info.app_name, info.transport) == ("web", "uni_http_stream")
    assert (info.remote_addr, info.user_agent) == ("192.0.2.7", "a test")
    frames.close()
    assert sessions.user_connections("42") == {}


def test_a_stream_that_is_never_iterated_was_never_there() -> None:
    sessions = new_sessions()
    stream(sessions, Script()).close()
    assert sessions.user_connections("42") == {}


def test_a_stream_that_its_server_forgets_to_close_is_gone_all_the_same() -> None:
    sessions = new_sessions()
    frames = stream(sessions, Script())
    next(frames)
    del frames
    gc.collect()
    assert sessions.user_connections("42") == {}


def test_a_client_that_leaves_is_told_nothing() -> None:
    sessions, watch = new_sessions(), Script(nothing, leaves)
    sent, told = outcome(stream(sessions, watch))
    assert (list(map(list, sent)), told) == ([["connect"]], None)
    assert watch.is_over
    assert sessions.user_connections("42") == {}


def test_a_session_that_is_told_ends_its_stream_with_why() -> None:
    sessions = new_sessions()
    seen: list[int] = []

    def ends(watch: Watch) -> None:
        seen.append(len(sessions.disconnect("42", timeout=0).unconfirmed))

    sent, told = outcome(stream(sessions, Script(ends)))
    assert sent[1:] == [{"disconnect": {"code": 3503, "reason": "force disconnect"}}]
    assert (seen, told) == ([1], FORCED)
    assert sessions.user_connections("42") == {}


def test_frames_are_wrapped_as_their_transport_has_it() -> None:
    frames = stream(new_sessions(), Script(is_told), transport=SSE)
    assert next(frames).startswith(b'data: {"connect":')
    assert list(frames) == [b'data: {"disconnect":{"code":3503,"reason":"force disconnect"}}\n\n']


def test_a_ping_goes_out_when_it_is_due_and_shows_that_the_client_was_heard_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr("usersessions.http.blocking.time.monotonic", lambda: now[0])

    def passes(seconds: float) -> Callable[[Watch], None]:
        def wait(watch: Watch) -> None:
            now[0] += seconds

        return wait

    sessions = new_sessions()
    watch = Script(passes(3.0), passes(7.0), passes(10.5), is_told)
    frames = stream(sessions, watch, ping_interval=10)
    next(frames)
    assert next(frames) == b"{}\n"
    (info,) = sessions.user_connections("42").values()
    first = info.last_seen
    assert next(frames) == b"{}\n"
    (info,) = sessions.user_connections("42").values()
    assert info.last_seen > first
    assert [json.loads(frame) for frame in frames] == [
        {"disconnect": {"code": 3503, "reason": "force disconnect"}}
    ]
    assert watch.waited == [10.0, 7.0, 10.0, 10.0]


@pytest.mark.parametrize(
    ("sees_client", "ping_interval", "silence"),
    [(True, 25, 25), (False, 25, UNSEEN_PING_INTERVAL), (False, 5, 5), (True, 3600, 3600)],
)
def test_where_only_writing_shows_that_a_client_left_pings_are_not_far_apart(
    sees_client: bool, ping_interval: int, silence: int
) -> None:
    watch = Script(is_told, sees_client=sees_client)
    sent, _ = outcome(stream(new_sessions(), watch, ping_interval=ping_interval))
    # What the client goes by stays what was asked for.
    assert sent[0]["connect"]["ping"] == ping_interval
    assert silence - 1 < watch.waited[0] <= silence
    assert 2 * UNSEEN_PING_INTERVAL < 40


def test_the_time_that_a_token_has_left_is_told() -> None:
    sessions = new_sessions()
    exp = int(sessions.operations.node.clock()) + 60
    token = jwt.encode({"sub": "42", "exp": exp}, SECRET, algorithm="HS256")
    sent, _ = outcome(stream(sessions, Script(leaves), message=ConnectMessage(token=token)))
    assert sent[0]["connect"]["expires"] is True
    assert 55 <= sent[0]["connect"]["ttl"] <= 60


# Who may not connect ------------------------------------------------------------------------------


def test_a_refused_client_is_told_why_and_was_never_there() -> None:
    sessions, watch = new_sessions(), Script()
    sent, told = outcome(stream(sessions, watch, message=ConnectMessage(token="swordfish")))
    assert sent == [{"disconnect": {"code": 3500, "reason": "invalid token"}}]
    assert told == Disconnect(3500, "invalid token")
    assert not watch.waited


def test_a_session_that_cannot_be_registered_is_refused_as_well() -> None:
    sessions = new_sessions()
    sessions.block_user("42")
    sent, told = outcome(stream(sessions, Script()))
    assert told is not None
    assert sent == [{"disconnect": {"code": told.code, "reason": told.reason}}]


@pytest.mark.parametrize(
    "failure", [LookupError("swordfish"), ConnectRefused(99, "swordfish")], ids=["error", "code"]
)
def test_a_proxy_that_fails_is_logged_and_tells_its_client_nothing(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: ConnectRequest) -> Identity:
        raise failure

    with caplog.at_level(logging.ERROR):
        sent, told = outcome(stream(UserSessions(connect_proxy=fail), Script()))
    assert sent == [{"disconnect": {"code": 3004, "reason": "internal server error"}}]
    assert told == Disconnect(3004, "internal server error")
    assert len(caplog.records) == 1


def test_a_socket_that_cannot_be_watched_is_an_error_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sessions = new_sessions()
    frames = stream_body(
        sessions,
        Endpoints(sessions.operations),
        ConnectMessage(),
        HTTP_STREAM,
        headers={},
        peer=None,
        watching=watching(_Closed(), ping_interval=25),
    )
    _, told = outcome(frames)
    assert told == Disconnect(3004, "internal server error")
    assert sessions.user_connections("42") == {}


class _Closed:
    def fileno(self) -> int:
        return -1

    def getsockopt(self, level: int, option: int, /) -> int:
        raise OSError

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        raise OSError


# In threads ---------------------------------------------------------------------------------------


def test_a_stream_that_waits_in_a_thread_is_ended_from_another() -> None:
    sessions = new_sessions()
    outcomes: list[Disconnect | None] = []
    frames = stream_body(
        sessions,
        Endpoints(sessions.operations),
        ConnectMessage(),
        HTTP_STREAM,
        headers={},
        peer=None,
        watching=watching(None, ping_interval=25),
    )
    holding = threading.Thread(target=lambda: outcomes.append(send_all(frames, lambda frame: None)))
    holding.start()
    until(lambda: sessions.user_connections("42"), what="the stream to be listed")
    ended = sessions.disconnect("42")
    assert (len(ended.closed), ended.unconfirmed) == (1, ())
    holding.join()
    assert outcomes == [FORCED]


def test_what_writing_raises_ends_the_stream() -> None:
    sessions = new_sessions()

    def fail(frame: bytes) -> None:
        assert len(sessions.user_connections("42")) == 1
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        send_all(stream(sessions, Script()), fail)
    assert sessions.user_connections("42") == {}
