"""Django Channels on daphne and uvicorn: consumers of each kind, which know nothing of sessions."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.apps.channels import TARGETS
from tests.adapters.apps.shared import API_KEY
from tests.adapters.serving import Running, bearer, connections, gone, served, token
from tests.redis_servers import RedisServer
from tests.servers import until
from tests.streams import WebSocket, ask, command, open_websocket
from usersessions import AsyncUserSessions, Identity, RedisStore, UserSessions
from usersessions.adapters.channels import (
    UserSessionsMiddleware,
    identify_user,
)

EACH = ("echo", "sync", "json")
"""The kinds of consumers."""


@pytest.fixture(scope="module", params=list(TARGETS))
def channels(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with served(TARGETS[request.param], log=tmp_path_factory.mktemp("server") / "log") as running:
        yield running


def opened(running: Running, consumer: str, headers: dict[str, str]) -> WebSocket:
    return open_websocket(running.server.url, f"/own/{consumer}", headers=headers)


def login(running: Running, user: str) -> dict[str, str]:
    """The cookie of a Django session."""
    answer = ask(running.server.url, f"/login?user={user}", method="GET")
    return {"Cookie": answer.headers["set-cookie"].partition(";")[0]}


def said(running: Running, what: str, *, seconds: float = 5.0) -> None:
    until(lambda: what in running.server.output, what=f"{what!r} to be said", seconds=seconds)


def closed(websocket: WebSocket) -> tuple[int, str] | None:
    assert websocket.frames() == []
    return websocket.closed


# Consumers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("consumer", EACH)
def test_a_consumer_is_a_session_and_is_closed_with_the_code_that_it_is_told(
    consumer: str, channels: Running, user: str
) -> None:
    code = 4100 + EACH.index(consumer)
    with opened(channels, consumer, bearer(token(user))) as websocket:
        websocket.send(b'"hello"')
        assert websocket.frame() == b'"hello"'
        ((client, info),) = connections(channels.url, user).items()
        assert info == {"transport": "websocket", "protocol": "json"}
        why = {"code": code, "reason": "of the app's own"}
        ended = command(channels.url, "disconnect", key=API_KEY, user=user, disconnect=why)
        assert ended["closed"] == [client]
        assert closed(websocket) == channels.closing(code, "of the app's own")
        said(channels, f"{consumer} disconnected {code}")


def test_the_user_of_the_django_session_is_who_connects_and_a_view_that_blocks_can_close(
    channels: Running,
) -> None:
    with opened(channels, "echo", login(channels, "4217")) as websocket:
        websocket.send(b"who")
        assert websocket.frame() == b"4217"
        answer = ask(channels.server.url, "/kick?user=4217", method="GET")
        assert len(json.loads(answer.body)) == 1
        assert closed(websocket) == channels.closing(4001, "kicked")
        said(channels, "echo disconnected 4001")


def test_a_foreign_page_cannot_use_the_session_of_a_user(channels: Running) -> None:
    cookie = login(channels, "4218")
    foreign = {**cookie, "Origin": "https://evil.example.com"}
    for target in ("echo", "echo?access_token=x"):
        with opened(channels, target, foreign) as websocket:
            assert closed(websocket) == channels.closing(3507, "permission denied")
    own = {**cookie, "Origin": channels.server.url}
    with opened(channels, "echo", own) as websocket:
        websocket.send(b"who")
        assert websocket.frame() == b"4218"


def test_a_login_whose_device_is_ended_is_kept_out_and_others_of_its_user_are_not(
    channels: Running,
) -> None:
    phone, web = login(channels, "4219"), login(channels, "4219")
    with opened(channels, "echo", phone) as lost, opened(channels, "echo", web) as kept:
        until(lambda: len(connections(channels.url, "4219")) == 2, what="the sessions")
        kept.send(b"who")
        assert kept.frame() == b"4219"
        client = next(iter(connections(channels.url, "4219")))
        ended = command(
            channels.url, "disconnect", key=API_KEY, user="4219", client=client, revoke=True
        )
        assert (ended["closed"], ended["not_revocable"]) == ([client], [])
        assert closed(lost) == channels.closing(3503, "force disconnect")
    with opened(channels, "echo", phone) as websocket:
        assert closed(websocket) == channels.closing(3500, "invalid token")
    with opened(channels, "echo", web) as websocket:
        websocket.send(b"who")
        assert websocket.frame() == b"4219"


@pytest.mark.parametrize("consumer", EACH)
def test_whoever_is_not_logged_in_and_has_no_token_is_refused_and_the_consumer_does_nothing(
    consumer: str, channels: Running
) -> None:
    before = channels.server.output.count("Traceback")
    with opened(channels, consumer, {}) as websocket:
        assert closed(websocket) == channels.closing(3507, "permission denied")
    # That is no failure of the consumer.
    assert "disconnected 3507" not in channels.server.output
    assert channels.server.output.count("Traceback") == before


def test_a_consumer_that_lets_nobody_in_answers_403(channels: Running, user: str) -> None:
    with opened(channels, "closed", bearer(token(user))) as websocket:
        assert websocket.head.status == 403
    assert connections(channels.url, user) == {}


def test_a_consumer_that_fails_leaves_no_session_though_its_disconnect_is_not_called(
    channels: Running, user: str
) -> None:
    with opened(channels, "echo", bearer(token(user))) as websocket:
        until(lambda: connections(channels.url, user), what="the session")
        before = channels.server.output.count("echo disconnected")
        websocket.send(b"fail")
        gone(channels.url, user)
    said(channels, "LookupError: a handler failed")
    assert channels.server.output.count("echo disconnected") == before


def test_a_handler_that_is_sending_may_finish_and_disconnect_is_called(
    channels: Running, user: str
) -> None:
    with opened(channels, "busy", bearer(token(user))) as websocket:
        websocket.send(b"10")
        assert websocket.frame() == b"tick"
        command(
            channels.url,
            "disconnect",
            key=API_KEY,
            user=user,
            disconnect={"code": 4110, "reason": ""},
        )
        while websocket.frame() is not None:
            pass
        said(channels, "busy disconnected 4110")
        output = channels.server.output
        assert output.index("busy no more") < output.index("busy disconnected 4110")
    assert connections(channels.url, user) == {}


def test_a_handler_that_sends_for_ever_is_stopped(channels: Running, user: str) -> None:
    before = channels.server.output.count("Traceback")
    with opened(channels, "busy", bearer(token(user))) as websocket:
        websocket.send(b"-1")
        assert websocket.frame() == b"tick"
        command(channels.url, "disconnect", key=API_KEY, user=user)
        gone(channels.url, user, seconds=3.0)
    assert channels.server.output.count("Traceback") == before


# Event streams ------------------------------------------------------------------------------------


@contextmanager
def events(running: Running, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
    """The response that a consumer of events begins."""
    address = running.server.url.partition("//")[2]
    with closing(http.client.HTTPConnection(address, timeout=10.0)) as connection:
        connection.request("GET", "/own/events", headers=headers)
        with connection.getresponse() as response:
            yield response


def test_an_event_stream_is_a_session_until_its_client_leaves(channels: Running, user: str) -> None:
    with events(channels, bearer(token(user))) as response:
        assert response.readline() == b"data: hello\n"
        (info,) = connections(channels.url, user).values()
        assert info == {"transport": "sse", "protocol": "json"}
    gone(channels.url, user)
    said(channels, "no more events")


def test_an_event_stream_comes_to_its_end_and_a_refused_one_is_none(
    channels: Running, user: str
) -> None:
    with events(channels, bearer(token(user))) as response:
        assert response.readline() == b"data: hello\n"
        command(channels.url, "block_user", key=API_KEY, user=user)
        assert response.read() == b"\n"
    with events(channels, bearer(token(user))) as response:
        assert response.status == 403


# Servers ------------------------------------------------------------------------------------------

PINGS = {
    "channels": ("--ws-ping-interval=1", "--ws-ping-timeout=1"),
    "channels, daphne": ("--ping-interval=1", "--ping-timeout=1"),
}


@pytest.mark.parametrize("name", list(TARGETS))
def test_a_client_whose_network_vanishes_is_lost_in_time_and_a_stop_is_told_to_consumers(
    name: str, tmp_path: Path, user: str
) -> None:
    target = TARGETS[name]
    target = replace(target, command=[*target.command, *PINGS[name]])
    with served(target, log=tmp_path / "log") as running, ExitStack() as connected:
        lost = connected.enter_context(opened(running, "json", bearer(token(user))))
        until(lambda: connections(running.url, user), what="the session")
        lost.vanish()
        # daphne looks every 2 s whether a ping is due.
        gone(running.url, user, seconds=6.0)
        told = [opened(running, consumer, bearer(token(user))) for consumer in EACH]
        for websocket in told:
            connected.enter_context(websocket)
        until(lambda: len(connections(running.url, user)) == 3, what="the sessions")
        running.server.process.send_signal(signal.SIGTERM)
        for consumer, websocket in zip(EACH, told, strict=True):
            assert closed(websocket) == running.closing(3001, "shutdown")
            said(running, f"{consumer} disconnected 3001")
        running.server.process.wait(3.0)
        assert "Traceback" not in running.server.output


def test_another_process_closes_consumers_through_redis(
    tmp_path: Path, user: str, redis_server: RedisServer
) -> None:
    target, log = TARGETS["channels, daphne"], tmp_path / "log"
    script = UserSessions(store=RedisStore(redis_server.url))
    with (
        closing(script),
        served(target, log=log, REDIS_URL=redis_server.url) as running,
        opened(running, "sync", bearer(token(user))) as websocket,
    ):
        (client,) = until(lambda: script.user_connections(user), what="the session to be seen")
        assert script.disconnect(user, code=4242).closed == (client,)
        assert closed(websocket) == (4242, "")
        said(running, "sync disconnected 4242")


# Alone --------------------------------------------------------------------------------------------


class User:
    def __init__(self, pk: int | None) -> None:
        self.pk = pk
        self.is_authenticated = pk is not None


def test_a_user_is_known_by_the_primary_key_and_nobody_by_none() -> None:
    assert identify_user({"type": "websocket", "user": User(7)}) == Identity("7")
    assert identify_user({"type": "websocket", "user": User(None)}) is None
    assert identify_user({"type": "websocket"}) is None


class NotRead:
    """A session that would have to be read from a database, on the event loop."""

    accessed = False


@pytest.mark.parametrize("session", [NotRead(), {}, None])
def test_a_session_that_did_not_say_who_the_user_is_is_left_alone(session: object) -> None:
    scope = {"type": "websocket", "user": User(7), "session": session}
    assert identify_user(scope) == Identity("7")


@pytest.mark.anyio
async def test_scopes_of_neither_kind_pass_through() -> None:
    seen: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    middleware = UserSessionsMiddleware(inner, AsyncUserSessions())
    for kind in ("lifespan", "channel"):
        await middleware({"type": kind}, None, None)
    assert seen == ["lifespan", "channel"]
