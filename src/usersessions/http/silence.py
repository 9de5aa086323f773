"""Having the system give up the connections of clients whose network vanished.

1. Such a client says nothing at all. So the system is asked to give its connection up when what was
   sent has not been acknowledged for some seconds (TCP_USER_TIMEOUT, RFC 5482): then its server
   notices, on Linux. Where there may be no pings, the system itself asks the client whether it is
   still there (keep-alive, RFC 1122, 4.2.3.6), on other systems as well.
2. Servers on event loops hide the socket of a connection, but say who is at its other end. So it is
   looked for among all that the process has open: for many connections at once, and for about a
   twentieth of the time at most.
3. Only connections that carry a session are asked so. The others of the same server may be as
   silent, and as slow, as they like.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol, TypeAlias
from weakref import WeakKeyDictionary

__all__ = ["TCPSocket", "bound_hidden", "bound_silence"]

MAX_PING_INTERVAL = 25
"""How many seconds may lie between two pings, so that nobody else has to ask."""

MAX_UNACKNOWLEDGED = 15
"""How long what was sent may then stay unacknowledged, in seconds: a client is missed within 40."""

ASK_AFTER = 12
"""After how many seconds of silence the system asks a client whether it is still there."""

ASK_EVERY = 2
"""After how many more seconds it asks again, where no answer comes."""

ASK_TIMES = 4
"""How often it asks, as packets get lost: in vain for 20 seconds, and the connection is given up.

What was sent may stay unacknowledged for as long. It may have been sent just before those seconds
were over, so that a client is missed within 40.
"""

DESCRIPTORS_AT_ONCE = 256
"""How many file descriptors are looked at in one step of the event loop, which takes some 2 ms."""

_SOON = 0.5
# Twenty times what it takes to look at one.
_PAUSE_PER_DESCRIPTOR = 0.0002
# Without the flag, Python would take its default timeout to be that of each socket.
_KIND = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0)

_Peer: TypeAlias = "tuple[str, int]"
_Sought: TypeAlias = "dict[_Peer, int | None]"


class TCPSocket(Protocol):
    """A socket, as far as it is changed here."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """Set an option of it."""


def bound_silence(client_socket: TCPSocket, *, ping_interval: int | None = None) -> None:
    """Have a connection given up when its client acknowledges nothing.

    Args:
        client_socket: a TCP connection; others, and what a system cannot do, are passed over.
        ping_interval: how many seconds lie between the pings that are sent; None if there may be
            none.
    """
    if ping_interval is None or ping_interval > MAX_PING_INTERVAL:
        options = {
            "SO_KEEPALIVE": 1,
            "TCP_KEEPIDLE": ASK_AFTER,
            # What macOS calls the same.
            "TCP_KEEPALIVE": ASK_AFTER,
            "TCP_KEEPINTVL": ASK_EVERY,
            "TCP_KEEPCNT": ASK_TIMES,
            "TCP_USER_TIMEOUT": 1000 * (ASK_AFTER + ASK_EVERY * ASK_TIMES),
        }
    else:
        options = {"TCP_USER_TIMEOUT": 1000 * min(ping_interval, MAX_UNACKNOWLEDGED)}
    with suppress(OSError):
        for name, value in options.items():
            level = socket.SOL_SOCKET if name.startswith("SO_") else socket.IPPROTO_TCP
            if hasattr(socket, name):
                client_socket.setsockopt(level, getattr(socket, name), value)


def bound_hidden(client: Any, *, ping_interval: int | None = None) -> None:
    """Have the same soon for a connection whose socket is hidden, on the event loop that serves it.

    Args:
        client: the address and the port of its other end, as the scope of an ASGI connection has
            them; whatever else stands there is passed over.
        ping_interval: as for `bound_silence`.
    """
    match client:
        # What a proxy says of a client comes without a port, which is 0 then.
        case [str() as host, int() as port] if port:
            loop = asyncio.get_running_loop()
            search = _searches.get(loop) or _searches.setdefault(loop, _Search())
            search.add((host, port), ping_interval)


class _Search:
    """Looks for connections on one event loop."""

    def __init__(self) -> None:
        self._sought: _Sought = {}
        self._pause = _SOON

    def add(self, peer: _Peer, ping_interval: int | None) -> None:
        if not self._sought:
            asyncio.get_running_loop().call_later(self._pause, self._begin)
        self._sought[peer] = ping_interval

    def _begin(self) -> None:
        sought, self._sought = self._sought, {}
        descriptors = _descriptors()
        self._pause = max(_SOON, _PAUSE_PER_DESCRIPTOR * len(descriptors))
        self._go_on(sought, iter(descriptors))

    def _go_on(self, sought: _Sought, descriptors: Iterator[int]) -> None:
        some = list(islice(descriptors, DESCRIPTORS_AT_ONCE))
        for descriptor in some:
            _look_at(descriptor, sought)
        # A process may have very many, and others are served meanwhile.
        if sought and some:
            asyncio.get_running_loop().call_soon(self._go_on, sought, descriptors)


_searches: WeakKeyDictionary[asyncio.AbstractEventLoop, _Search] = WeakKeyDictionary()


def _descriptors() -> list[int]:
    """All of this process, the newest first, as far as the system lists them."""
    try:
        return sorted(map(int, os.listdir("/proc/self/fd")), reverse=True)
    except OSError:
        return []


def _look_at(descriptor: int, sought: _Sought) -> None:
    # It may be closed meanwhile. What is no socket must not be opened and closed again: with that,
    # the locks of this process on a file would be gone.
    with suppress(OSError):
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            # Whatever its family is: the addresses of this one are the longest.
            with socket.fromfd(descriptor, socket.AF_INET6, _KIND) as one:
                protocol = one.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
                if protocol == socket.IPPROTO_TCP and (peer := one.getpeername()[:2]) in sought:
                    bound_silence(one, ping_interval=sought.pop(peer))
