"""Outbound HTTP: answers `Fetch` requests, awaited or blocking. Importing it needs httpx.

1. An answer takes at most the request's `timeout`, however slowly the server drips its bytes.
2. Whatever the network does is a `FetchFailed`, never an exception. `why` names neither URL,
   headers nor bodies.
3. Nothing is sent or trusted that the request does not say: no redirects, cookies, proxies,
   `.netrc` or environment. That is why this uses httpx's transport and not its client, which
   would also log each URL, credentials included.
4. Equal GETs in flight are one exchange. A waiter that is cancelled cancels no other; the exchange
   ends when nobody waits for it.
5. The thread of the blocking face belongs to one process: a forked child starts its own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from .errors import require
from .fetch import Fetch, Fetched, FetchFailed

require("httpx", extra="httpx")
import httpx  # noqa: E402 - only now is it known to be there

__all__ = ["AsyncFetcher", "BlockingFetcher"]

Answer: TypeAlias = "Fetched | FetchFailed"

_CLOSED = FetchFailed("the fetcher was closed")

# The first kind that stands anywhere in the chain of causes says why.
_WHY: tuple[tuple[type[Exception], str], ...] = (
    (ssl.SSLError, "TLS failed"),
    (socket.gaierror, "host not found"),
    (ConnectionRefusedError, "connection refused"),
    (httpx.TimeoutException, "timed out"),
    (httpx.ConnectError, "could not connect"),
    (httpx.NetworkError, "the connection broke"),
    (httpx.RemoteProtocolError, "answered with broken or incomplete HTTP"),
)


class AsyncFetcher:
    """Answers fetches on the running event loop.

    It may serve one loop after another: on a new loop it opens new connections, and forgets those
    of the old one.

    Args:
        tls: how servers are verified; by default by the authorities that certifi lists.

    >>> import asyncio
    >>> async def main():
    ...     fetcher = AsyncFetcher()
    ...     reply = await fetcher.fetch(Fetch("ftp://127.0.0.1/", timeout=1.0, max_bytes=1024))
    ...     await fetcher.aclose()
    ...     return reply
    >>> asyncio.run(main())
    FetchFailed(why='the request cannot be sent (UnsupportedProtocol)')
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = httpx.create_ssl_context(trust_env=False) if tls is None else tls
        self._wire: _Wire | None = None

    async def fetch(self, request: Fetch) -> Fetched | FetchFailed:
        """Do the exchange, within its bounds."""
        loop = asyncio.get_running_loop()
        if self._wire is None or self._wire.loop is not loop:
            self._wire = _Wire(loop, self._tls)
        return await self._wire.fetch(request)

    async def aclose(self) -> None:
        """Close all connections; fetches in flight fail. A later fetch opens new ones."""
        wire, self._wire = self._wire, None
        if wire is not None and wire.loop is asyncio.get_running_loop():
            await wire.aclose()


class BlockingFetcher:
    """Answers fetches from any thread, by an `AsyncFetcher` in one daemon thread of its own.

    Args:
        tls: how servers are verified; by default by the authorities that certifi lists.

    >>> fetcher = BlockingFetcher()
    >>> fetcher.fetch(Fetch("ftp://127.0.0.1/", timeout=1.0, max_bytes=1024))
    FetchFailed(why='the request cannot be sent (UnsupportedProtocol)')
    >>> fetcher.close()
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        # By process. No lock guards it, as a fork could leave that locked for ever: `setdefault`
        # and `pop` are atomic. A parent's entry is never touched by its child, which shares what
        # the parent's loop listens on.
        self._threads: dict[int, _LoopThread] = {}

    def fetch(self, request: Fetch) -> Fetched | FetchFailed:
        """Do the exchange, within its bounds."""
        return self._threads.setdefault(os.getpid(), _LoopThread(self._tls)).fetch(request)

    def close(self) -> None:
        """Close all connections and end the thread; fetches in flight fail.

        A later fetch starts a new thread.
        """
        thread = self._threads.pop(os.getpid(), None)
        if thread is not None:
            thread.end()


class _LoopThread:
    """A daemon thread with an event loop; started by the first fetch, ended once."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        self._ended = False
        self._running: tuple[AsyncFetcher, asyncio.AbstractEventLoop, threading.Thread] | None
        self._running = None

    def fetch(self, request: Fetch) -> Fetched | FetchFailed:
        with self._lock:
            if self._ended:
                return _CLOSED
            if self._running is None:
                self._running = self._start()
            fetcher, loop, _ = self._running
            future = asyncio.run_coroutine_threadsafe(fetcher.fetch(request), loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _start(self) -> tuple[AsyncFetcher, asyncio.AbstractEventLoop, threading.Thread]:
        fetcher = AsyncFetcher(tls=self._tls)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(
            target=_run, args=(loop,), name="usersessions-fetcher", daemon=True
        )
        thread.start()
        return fetcher, loop, thread

    def end(self) -> None:
        with self._lock:
            self._ended = True
        if self._running is not None:
            fetcher, loop, thread = self._running
            asyncio.run_coroutine_threadsafe(fetcher.aclose(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


@dataclass(slots=True)
class _Flight:
    """An exchange that somebody waits for."""

    task: asyncio.Task[Answer]
    deadline: float
    waiters: int = 0


class _Wire:
    """The connections and exchanges of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tls: ssl.SSLContext) -> None:
        self.loop = loop
        self._transport = httpx.AsyncHTTPTransport(verify=tls, trust_env=False)
        self._flights: dict[object, _Flight] = {}
        self._tasks: set[asyncio.Task[Answer]] = set()

    async def fetch(self, request: Fetch) -> Fetched | FetchFailed:
        key = _key(request)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = self._take_off(request)
        flight.waiters += 1
        try:
            # Unlike awaiting the task, this cancels nothing when it is cancelled or times out.
            await asyncio.wait({flight.task}, timeout=flight.deadline - self.loop.time())
            if not flight.task.done():
                return FetchFailed("timed out")
        finally:
            flight.waiters -= 1
            if not flight.waiters:
                flight.task.cancel()
                del self._flights[key]
        return _CLOSED if flight.task.cancelled() else flight.task.result()

    def _take_off(self, request: Fetch) -> _Flight:
        task = self.loop.create_task(self._exchange(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return _Flight(task, self.loop.time() + request.timeout)

    async def _exchange(self, request: Fetch) -> Fetched | FetchFailed:
        try:
            response = await self._transport.handle_async_request(_http_request(request))
            try:
                return await _read(response, request.max_bytes)
            finally:
                await response.aclose()
        except Exception as error:
            # No list would be whole: a port out of range, say, is an OverflowError in a group.
            return FetchFailed(_why(error))

    async def aclose(self) -> None:
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._transport.aclose()


def _key(request: Fetch) -> object:
    """Equal for fetches that may share an exchange; a POST shares with none."""
    if request.body is not None:
        return object()
    headers = frozenset(request.headers.items())
    return request.url, request.timeout, request.max_bytes, headers


def _http_request(request: Fetch) -> httpx.Request:
    url = httpx.URL(request.url)
    headers = {"accept": "application/json", "user-agent": "usersessions"}
    if url.userinfo:
        credentials = b64encode(f"{url.username}:{url.password}".encode())
        headers["authorization"] = f"Basic {credentials.decode()}"
    headers.update((name.lower(), value) for name, value in request.headers.items())
    # A compressed answer could be small on the wire and huge once it is read.
    headers["accept-encoding"] = "identity"
    raw = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
    method = "GET" if request.body is None else "POST"
    return httpx.Request(method, url, headers=raw, content=request.body)


async def _read(response: httpx.Response, max_bytes: int) -> Fetched | FetchFailed:
    if response.headers.get("content-encoding", "identity") != "identity":
        return FetchFailed("answered in an encoding that it was not asked for")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            return FetchFailed(f"answered over {max_bytes} bytes")
    return Fetched(response.status_code, bytes(body))


def _why(error: BaseException) -> str:
    causes = list(_causes(error))
    for kind, why in _WHY:
        if any(isinstance(cause, kind) for cause in causes):
            return why
    return f"the request cannot be sent ({type(error).__name__})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    # httpx's own exceptions hide their causes (`from None`), but keep them as contexts.
    cause = error.__cause__ or error.__context__
    # A host with several addresses fails with a group of errors.
    for inner in (*getattr(error, "exceptions", ()), *([cause] if cause else ())):
        yield from _causes(inner)
