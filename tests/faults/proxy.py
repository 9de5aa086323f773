"""A TCP proxy whose connections go wrong as a test says.

1. Once a method has returned, all connections obey it, those that exist and those to come.
2. The order of the bytes is kept, whatever happens to them.
3. A side that hangs up is something that travels, too: where bytes are held or dropped, the other
   side does not get to know of it.
4. A connection that lost bytes is reset at the next change. One whose bytes were held goes on, and
   they arrive late, also when who sent them is long gone.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from typing_extensions import Self

from tests.redis_servers import free_port

Way: TypeAlias = Literal["to_server", "to_client"]

WAYS: tuple[Way, Way] = ("to_server", "to_client")

_RESET = struct.pack("ii", 1, 0)
_HANG_UP = b""


@dataclass(frozen=True)
class _Mode:
    delay: float = 0.0
    stopped: Collection[Way] = ()
    hold: bool = False
    cut_after: int | None = None
    once: bool = False
    reset: bool = False
    listening: bool = True


class Proxy:
    """Listens on a loopback port and passes everything on to a server, inside the `with` block.

    Args:
        url: where the server is; it need not run yet.

    Attributes:
        port: where the proxy listens.
        url: the server's URL, with the proxy's port in it.
        accepted: how many connections there have been.
        swallowed: how many bytes were dropped or held, each way.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.hostname is None or parts.port is None:
            raise AssertionError("the proxy needs a URL with a host and a port")
        self.target = parts.hostname, parts.port
        self.port = free_port()
        login, at, _ = parts.netloc.rpartition("@")
        self.url = parts._replace(netloc=f"{login}{at}127.0.0.1:{self.port}").geturl()
        self.accepted = 0
        self.swallowed: dict[Way, int] = dict.fromkeys(WAYS, 0)
        self.mode = _Mode()
        self.links: set[_Link] = set()
        self._listener: asyncio.Server | None = None
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    @property
    def connections(self) -> int:
        """How many connections are open now, with at least one of their two sides."""
        return len(self.links)

    def heal(self) -> None:
        """Pass everything on."""
        self._set(_Mode())

    def delay(self, seconds: float) -> None:
        """Have everything take so long, each way."""
        self._set(_Mode(delay=seconds))

    def blackhole(self, *, hold: bool = False) -> None:
        """Accept connections, and let nothing through; with `hold`, it arrives at `heal`."""
        self._set(_Mode(stopped=WAYS, hold=hold))

    def swallow(self, way: Way, *, hold: bool = False) -> None:
        """Let nothing through this way, and everything the other way; `hold` as for `blackhole`."""
        self._set(_Mode(stopped=(way,), hold=hold))

    def cut_after(self, size: int, *, once: bool = False) -> None:
        """End each connection after `size` more bytes of replies, amid one if there are more.

        With `once`, only the first one that gets so far.
        """
        self._set(_Mode(cut_after=size, once=once))

    def reset(self) -> None:
        """Tear down all connections (TCP RST), and new ones as soon as they are made."""
        self._set(_Mode(reset=True))

    def refuse(self) -> None:
        """Tear down all connections, and accept no more, as if nothing listened there."""
        self._set(_Mode(reset=True, listening=False))

    def kill_all(self) -> None:
        """Tear down the connections there are; new ones are treated as before."""
        self._in_loop(self._reset_all)

    def obey(self, mode: _Mode) -> None:
        """Treat connections in another way; for the proxy's own thread."""
        self.mode = mode
        for link in list(self.links):
            link.obey()

    def _set(self, mode: _Mode) -> None:
        self._in_loop(lambda: self.obey(mode))
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def _in_loop(self, act: Callable[[], None]) -> None:
        async def acting() -> None:
            act()

        asyncio.run_coroutine_threadsafe(acting(), self._loop).result()

    def _reset_all(self) -> None:
        for link in list(self.links):
            link.reset()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        try:
            await self._listen()
        except BaseException as error:
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        await self._ending.wait()
        self.mode = _Mode(reset=True, listening=False)
        await self._listen()
        while self.links:
            self._reset_all()
            await asyncio.sleep(0)

    async def _listen(self) -> None:
        if not self.mode.listening and self._listener is not None:
            self._listener.close()
            self._listener = None
        if self.mode.listening and self._listener is None:
            self._listener = await self._loop.create_server(
                self._accepted, "127.0.0.1", self.port, backlog=1024
            )

    def _accepted(self) -> _Side:
        self.accepted += 1
        return _Link(self).client


class _Link:
    """One connection: a client's side and a server's, and what is on its way between them."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._loop = asyncio.get_running_loop()
        self._ways: dict[Way, deque[tuple[float, bytes]]] = {way: deque() for way in WAYS}
        self._lossy = False
        self._left = proxy.mode.cut_after
        self._connecting: asyncio.Task[None] | None = None
        self.client = _Side(self, "to_server")
        self.server = _Side(self, "to_client")
        proxy.links.add(self)

    def opened(self, side: _Side) -> None:
        if self._proxy.mode.reset:
            self.reset()
        elif side is self.client:
            self._connecting = self._loop.create_task(self._connect())
        else:
            self._pump("to_server")

    def take(self, way: Way, data: bytes) -> None:
        """Have bytes travel, or that a side has hung up."""
        if way in self._proxy.mode.stopped:
            self._proxy.swallowed[way] += len(data)
        self._ways[way].append((self._loop.time(), data))
        self._pump(way)

    def obey(self) -> None:
        if self._lossy or self._proxy.mode.reset:
            self.reset()
            return
        self._left = self._proxy.mode.cut_after
        for way in WAYS:
            self._pump(way)

    def reset(self) -> None:
        for side in (self.client, self.server):
            side.reset()
        if self._connecting is not None:
            self._connecting.cancel()
        self.gone()

    def gone(self) -> None:
        """Forget the connection if nothing is left of it."""
        connecting = self._connecting is not None and not self._connecting.done()
        if not connecting and self.client.closed and self.server.closed:
            self._proxy.links.discard(self)

    async def _connect(self) -> None:
        host, port = self._proxy.target
        try:
            await self._loop.create_connection(lambda: self.server, host, port)
        except OSError:
            self.server.closed = True
            # What is refused is something that travels, too.
            self.take("to_client", _HANG_UP)
        except asyncio.CancelledError:
            self.server.reset()
            raise
        finally:
            self._loop.call_soon(self.gone)

    def _pump(self, way: Way) -> None:
        """Pass on what has to be passed on now."""
        queue = self._ways[way]
        to = self.server if way == "to_server" else self.client
        while queue:
            mode = self._proxy.mode
            if way in mode.stopped:
                if mode.hold:
                    return
                queue.clear()
                self._lossy = True
                return
            if to.transport is None:
                return
            came, data = queue[0]
            wait = came + mode.delay - self._loop.time()
            if wait > 0:
                self._loop.call_later(wait, self._pump, way)
                return
            queue.popleft()
            if data == _HANG_UP:
                self._finish()
            elif way == "to_client" and self._left is not None:
                self._ration(data)
            else:
                to.transport.write(data)

    def _ration(self, data: bytes) -> None:
        assert self._left is not None and self.client.transport is not None
        self.client.transport.write(data[: self._left])
        self._left = max(0, self._left - len(data))
        if not self._left:
            once = self._proxy.mode.once
            self._finish()
            if once:
                self._proxy.obey(_Mode())

    def _finish(self) -> None:
        for side in (self.client, self.server):
            if side.transport is not None:
                side.transport.close()


class _Side(asyncio.Protocol):
    """A socket; `way` is where the bytes go that it reads."""

    def __init__(self, link: _Link, way: Way) -> None:
        self._link = link
        self._way: Way = way
        self.transport: asyncio.Transport | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._link.opened(self)

    def data_received(self, data: bytes) -> None:
        self._link.take(self._way, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._link.take(self._way, _HANG_UP)
        self._link.gone()

    def reset(self) -> None:
        if self.transport is None:
            self.closed = True
            return
        raw = self.transport.get_extra_info("socket")
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()
