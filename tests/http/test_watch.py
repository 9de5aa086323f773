"""Waiting in a thread, with real sockets: told from elsewhere, the client gone, or neither."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from usersessions import Disconnect
from usersessions.http.watch import ClientSocket, Watch, watching

TOLD = Disconnect(3503, "force disconnect")
LONG = 30.0
"""Longer than any test lasts."""


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection: the server's end, and the client's."""
    with ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = opened.enter_context(socket.create_connection(listener.getsockname()))
        server = opened.enter_context(listener.accept()[0])
        yield server, client


def looked_at(watch: Watch, *, seconds: float = LONG) -> tuple[Disconnect | None, bool]:
    """What a watch sees when it is waited for; it must not take all of a long time."""
    began = time.monotonic()
    watch.wait(seconds)
    assert time.monotonic() - began < LONG / 2
    return watch.told, watch.client_is_gone


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_watch_that_is_told_wakes(
    is_seen: bool, ends: tuple[socket.socket, socket.socket]
) -> None:
    with watching(ends[0] if is_seen else None, ping_interval=25) as watch:
        assert watch.sees_client is is_seen
        telling = threading.Timer(0.05, watch.tell, [TOLD])
        telling.start()
        assert looked_at(watch) == (TOLD, False)
        telling.join()
        # It stays so, however often it is waited for.
        assert looked_at(watch) == (TOLD, False)


@pytest.mark.parametrize("is_seen", [True, False])
@pytest.mark.parametrize("seconds", [0.01, 0.0, -5.0])
def test_when_nothing_happens_a_watch_waits_until_its_time_is_up(
    is_seen: bool, seconds: float, ends: tuple[socket.socket, socket.socket]
) -> None:
    with watching(ends[0] if is_seen else None, ping_interval=25) as watch:
        assert looked_at(watch, seconds=seconds) == (None, False)


@pytest.mark.parametrize("how", ["closed", "reset", "half-closed"])
def test_a_client_that_leaves_is_seen_at_once(
    how: str, ends: tuple[socket.socket, socket.socket]
) -> None:
    server, client = ends
    with watching(server, ping_interval=25) as watch:
        if how == "half-closed":
            client.shutdown(socket.SHUT_WR)
        elif how == "reset":
            reset(client)
        else:
            client.close()
        assert looked_at(watch) == (None, True)


def test_what_a_client_sends_wakes_nobody_and_is_left_to_the_server(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    server, client = ends
    with watching(server, ping_interval=25) as watch:
        client.sendall(b"a pipelined request")
        assert looked_at(watch, seconds=0.05) == (None, False)
        client.close()
        assert looked_at(watch) == (None, True)
    assert server.recv(100) == b"a pipelined request"


def test_a_watch_that_is_told_when_it_is_over_touches_no_descriptor_of_others(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    with watching(ends[0], ping_interval=25) as watch:
        pass
    # The lowest free descriptors are given out first: these are the ones that it had.
    reader, writer = os.pipe()
    try:
        watch.tell(TOLD)
        assert select.select([reader], [], [], 0)[0] == []
    finally:
        os.close(reader)
        os.close(writer)
    assert watch.told == TOLD


def test_a_watch_that_is_told_as_it_ends_leaves_nothing(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(200):
        with watching(ends[0], ping_interval=25) as watch:
            telling = threading.Thread(target=watch.tell, args=[TOLD])
            telling.start()
        telling.join()
    assert os.listdir("/proc/self/fd") == before


def test_a_socket_that_is_closed_already_cannot_be_watched_and_leaves_nothing(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ends[0].close()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ValueError), watching(ends[0], ping_interval=25):
        pass
    assert os.listdir("/proc/self/fd") == before


# Where a client cannot be seen --------------------------------------------------------------------


def test_without_the_systems_own_poll_or_its_flag_a_client_is_not_seen(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    class CooperativePoll:
        """Stands for that of gevent."""

    def sees(client_socket: ClientSocket) -> bool:
        with watching(client_socket, ping_interval=25) as watch:
            return watch.sees_client

    assert sees(ends[0])
    monkeypatch.setattr(select, "poll", CooperativePoll)
    assert not sees(ends[0])
    monkeypatch.delattr(select, "poll")
    assert not sees(ends[0])
    monkeypatch.undo()
    monkeypatch.delattr(select, "POLLRDHUP")
    assert not sees(ends[0])


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize("is_seen", [True, False])
def test_who_writes_to_a_connection_that_has_failed_hears_no_more_than_that_it_is_over(
    is_seen: bool, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = ends
    if not is_seen:
        monkeypatch.delattr(select, "POLLRDHUP")
    with watching(server, ping_interval=25) as watch:
        reset(client)
        assert looked_at(watch, seconds=LONG if is_seen else 0.05) == (None, True)
    # Otherwise it would be the reset, or that time was up.
    with pytest.raises(BrokenPipeError):
        server.send(b"{}")


# Clients that vanish ------------------------------------------------------------------------------


@pytest.mark.parametrize(("ping_interval", "seconds"), [(25, 15), (3600, 20), (4, 4)])
def test_a_connection_is_given_up_when_nothing_is_acknowledged(
    ping_interval: int, seconds: int, ends: tuple[socket.socket, socket.socket]
) -> None:
    with watching(ends[0], ping_interval=ping_interval):
        given_up = ends[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert given_up == 1000 * seconds


def test_where_only_writing_shows_that_it_is_gone_a_connection_is_given_up_too(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(select, "POLLRDHUP")
    with watching(ends[0], ping_interval=25):
        assert ends[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000


def test_what_is_no_tcp_connection_is_watched_all_the_same() -> None:
    server, client = socket.socketpair()
    with server, client, watching(server, ping_interval=25) as watch:
        client.close()
        assert looked_at(watch) == (None, True)
