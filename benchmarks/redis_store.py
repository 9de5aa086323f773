"""What it costs to share sessions over Redis.

Run it with `python benchmarks/redis_store.py`. It starts a `redis-server` of its own, on a free
loopback port, and ends it. What is compared is measured in turns in this one run, and the medians
are compared. Callers, the store's threads and Redis share the processors of one machine here.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from tempfile import TemporaryDirectory
from unittest.mock import patch

import redis
import redis.asyncio
import uvicorn
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from usersessions import AsyncUserSessions, Disconnect, Identity, RedisStore, UserSessions
from usersessions.adapters.asgi import UserSessionsApp
from usersessions.stores.redis import line

META = {"plan": "pro", "tenant": "acme-2030", "roles": ["admin", "billing"], "seat": 123456789}
CALLERS = 50
USERS = [str(1_000_000 + number) for number in range(500)]
COMMANDS = [
    json.dumps({"method": "user_connections", "params": {"user": user}}).encode() for user in USERS
]
LISTS = 1000
ROUNDS = 15
SESSIONS = 100_000
BURST = 10_000
LEASE = 1.5
RENEWALS = 10
API_KEY = "a key of the server API"


@contextmanager
def redis_server() -> Iterator[str]:
    """A server that saves nothing; gives its URL."""
    places = (os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts"))
    program = shutil.which(
        os.environ.get("REDIS_SERVER", "redis-server"), path=os.pathsep.join(places)
    )
    assert program, "there is no redis-server: install one, or set REDIS_SERVER to its path"
    port = free_port()
    with TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--save", "", "--dir", folder]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            url = f"redis://127.0.0.1:{port}"
            try:
                with redis.Redis.from_url(url, retry=Retry(ConstantBackoff(0.05), 200)) as client:
                    client.ping()
                yield url
            finally:
                process.terminate()


def free_port() -> int:
    """A loopback port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def close(disconnect: Disconnect) -> None:
    """Stands for how an app closes a connection."""


async def connect(
    sessions: AsyncUserSessions, users: Sequence[str], *, per_user: int, held: AsyncExitStack
) -> None:
    """Connect users, as many at once as there are callers."""
    waiting = iter([user for user in users for _ in range(per_user)])

    async def caller() -> None:
        for user in waiting:
            identity = Identity(user, meta=META)
            await held.enter_async_context(
                sessions.connect(
                    identity=identity, transport="websocket", app_name="web", close=close
                )
            )

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


# Lists ------------------------------------------------------------------------------------------


async def per_call(act: Callable[[int], Awaitable[object]]) -> float:
    """Microseconds a call, where all callers call at once."""
    numbers = iter(range(LISTS))

    async def caller() -> None:
        for number in numbers:
            await act(number % len(USERS))

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return (time.perf_counter() - start) / LISTS * 1e6


def per_threaded_call(act: Callable[[int], object], pool: ThreadPoolExecutor) -> float:
    """As `per_call`, with a thread for each caller."""
    start = time.perf_counter()
    for _ in pool.map(act, (number % len(USERS) for number in range(LISTS))):
        pass
    return (time.perf_counter() - start) / LISTS * 1e6


def show(title: str, times: dict[str, list[float]]) -> None:
    """Print medians, each against the first."""
    print(title)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"  {name}: {median:.0f} us, {1e6 / median:.0f} a second: {first / median:.2f}")


async def compare_lists(url: str) -> None:
    """Print what lists cost by this library, and by one call of redis-py for each."""
    holder = AsyncUserSessions(store=RedisStore(url))
    sessions = AsyncUserSessions(store=RedisStore(url))
    blocking = UserSessions(store=RedisStore(url))
    client = redis.asyncio.Redis.from_url(url)
    blocking_client = redis.Redis.from_url(url)
    keys = [f"usersessions:{{u:{user}}}" for user in USERS]
    subjects: dict[str, Callable[[int], Awaitable[object]]] = {
        "HGETALL by redis-py": lambda number: client.hgetall(keys[number]),
        "the list, as the bytes of a reply": lambda number: sessions.dispatch(COMMANDS[number]),
        "the list, as objects": lambda number: sessions.user_connections(USERS[number]),
    }
    threaded: dict[str, Callable[[int], object]] = {
        "HGETALL by redis-py": lambda number: blocking_client.hgetall(keys[number]),
        "the list, as the bytes of a reply": lambda number: blocking.dispatch(COMMANDS[number]),
        "the list, as objects": lambda number: blocking.user_connections(USERS[number]),
    }
    async with AsyncExitStack() as held:
        await connect(holder, USERS, per_user=2, held=held)
        times: dict[str, list[float]] = {name: [] for name in subjects}
        for _ in range(ROUNDS):
            for name, subject in subjects.items():
                times[name].append(await per_call(subject))
        show(f"{CALLERS} tasks that list users, of 2 sessions each:", times)
        times = {name: [] for name in threaded}
        with ThreadPoolExecutor(CALLERS) as pool:
            for _ in range(ROUNDS):
                for name, act in threaded.items():
                    times[name].append(per_threaded_call(act, pool))
        show(f"{CALLERS} threads that do so:", times)
    blocking_client.close()
    blocking.close()
    await client.aclose()
    await sessions.aclose()
    await holder.aclose()


# The HTTP API -----------------------------------------------------------------------------------


def serve(url: str, port: int) -> None:
    """Serve the HTTP API, with sessions in it, until this process is ended."""

    async def run() -> None:
        store = RedisStore(url, prefix="http") if url else None
        sessions = AsyncUserSessions(store=store)
        app = UserSessionsApp(sessions, api_keys=[API_KEY])
        async with AsyncExitStack() as held:
            await connect(sessions, USERS, per_user=2, held=held)
            config = uvicorn.Config(app, port=port, log_level="error", access_log=False)
            await uvicorn.Server(config).serve()

    asyncio.run(run())


@contextmanager
def server(url: str) -> Iterator[int]:
    """The HTTP API in a process of its own; gives its port."""
    port = free_port()
    with subprocess.Popen([sys.executable, __file__, "serve", url, str(port)]) as process:
        try:
            until = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    assert time.monotonic() < until, "the server did not start"
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()


async def per_request(port: int) -> float:
    """Microseconds a request, over a connection for each caller."""
    numbers = iter(range(LISTS))

    async def caller() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            body = COMMANDS[number % len(USERS)]
            writer.write(
                b"POST /api HTTP/1.1\r\nHost: localhost\r\nX-API-Key: %b\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (API_KEY.encode(), len(body), body)
            )
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 200")
            size = int(head.partition(b"content-length:")[2].partition(b"\r")[0])
            assert b'"connections":{"' in await reader.readexactly(size)
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return (time.perf_counter() - start) / LISTS * 1e6


async def compare_http(url: str) -> None:
    """Print what a request to the HTTP API costs with sessions in memory, and in Redis."""
    with server("") as memory, server(url) as shared:
        ports = {"in memory": memory, "in Redis": shared}
        times: dict[str, list[float]] = {name: [] for name in ports}
        for _ in range(ROUNDS):
            for name, port in ports.items():
                times[name].append(await per_request(port))
    show(f"{CALLERS} connections that POST user_connections to uvicorn:", times)


# How much is sent -------------------------------------------------------------------------------


class Sent:
    """What is sent to Redis while the `with` block runs: exchanges of callers, and commands.

    Attributes:
        exchanges: how often something was sent, and waited for, for callers.
        commands: the commands of all clients, by name; not what scripts do.
    """

    def __init__(self, url: str) -> None:
        self.exchanges = 0
        self.commands: Counter[str] = Counter()
        self._url = url
        self._opened = ExitStack()

    def __enter__(self) -> Sent:
        exchange = line.exchange

        def counted(link: line.Link, calls: Sequence[line.Call]) -> list[object]:
            self.exchanges += 1
            return exchange(link, calls)

        self._opened.enter_context(patch.object(line, "exchange", counted))
        client = self._opened.enter_context(redis.Redis.from_url(self._url))
        self._monitor = self._opened.enter_context(client.monitor())
        return self

    def __exit__(self, *error: object) -> None:
        with redis.Redis.from_url(self._url) as client:
            client.echo("end")
        for seen in self._monitor.listen():
            if seen["command"].upper() == "ECHO END":
                break
            if seen["client_type"] != "lua":
                self.commands[seen["command"].split()[0].upper()] += 1
        self._opened.close()


async def count_lists(url: str) -> None:
    """Print how often a list asks Redis, and how long it takes, by the number of nodes."""
    times: dict[int, list[float]] = {2: [], 16: []}
    async with AsyncExitStack() as held:
        listers = {}
        for count in times:
            nodes = [
                AsyncUserSessions(store=RedisStore(url, prefix=f"of{count}")) for _ in range(count)
            ]
            for node in nodes:
                held.push_async_callback(node.aclose)
            for number in range(16):
                await connect(nodes[number % count], ["42"], per_user=1, held=held)
            lister = listers[count] = AsyncUserSessions(store=RedisStore(url, prefix=f"of{count}"))
            held.push_async_callback(lister.aclose)
            with Sent(url) as first:
                assert len(await lister.user_connections("42")) == 16
            with Sent(url) as second:
                assert len(await lister.user_connections("42")) == 16
            print(
                f"A list of 16 sessions on {count} nodes: {first.exchanges} round trips at first, "
                f"{second.exchanges} once it is known who is alive"
            )
        for _ in range(ROUNDS * 50):
            for count, lister in listers.items():
                start = time.perf_counter()
                await lister.user_connections("42")
                times[count].append((time.perf_counter() - start) * 1e6)
    few, many = (statistics.median(taken) for taken in times.values())
    print(f"  half of all take {few:.0f} us at most on 2, {many:.0f} us on 16: {many / few:.2f}")


async def count_connects(url: str) -> None:
    """Print what is sent to register sessions, one by one and many at once."""
    sessions = AsyncUserSessions(store=RedisStore(url, prefix="burst"))
    async with AsyncExitStack() as held:
        await connect(sessions, USERS[:1], per_user=1, held=held)
        with Sent(url) as sent:
            for user in USERS[:100]:
                await connect(sessions, [user], per_user=1, held=held)
        print(f"100 connections, one after another: {sent.exchanges} exchanges, of")
        print(f"  {dict(sent.commands)}")
        users = [str(number) for number in range(BURST)]
        start = time.perf_counter()
        with Sent(url) as sent:
            contexts = [
                sessions.connect(identity=Identity(user, meta=META), transport="sse", close=close)
                for user in users
            ]
            await asyncio.gather(*map(held.enter_async_context, contexts))
            held_after = time.perf_counter() - start
            with redis.Redis.from_url(url) as client:
                while not all(map(client.exists, (f"burst:{{u:{user}}}" for user in users))):
                    await asyncio.sleep(0.01)
        print(
            f"{BURST} connections at once: {sent.exchanges} exchanges; "
            f"all held here after {held_after:.1f} s"
        )
    await sessions.aclose()


async def measure_idle(url: str, *, per_user: int) -> None:
    """Print what many quiet sessions take and send."""
    prefix = f"idle{per_user}"
    sessions = AsyncUserSessions(store=RedisStore(url, prefix=prefix, lease=LEASE))
    with redis.Redis.from_url(url) as client:

        def used() -> int:
            size: int = client.info("memory")["used_memory"]
            return size

        sessions.join()
        before = used()
        users = [str(1_000_000 + number) for number in range(SESSIONS // per_user)]
        async with AsyncExitStack() as held:
            await connect(sessions, users, per_user=per_user, held=held)
            await asyncio.sleep(LEASE)
            print(
                f"{SESSIONS} sessions, {per_user} a user: "
                f"{(used() - before) / SESSIONS:.0f} bytes of Redis each"
            )
            with Sent(url) as sent:
                await asyncio.sleep(RENEWALS * LEASE / 3)
            del sent.commands["INFO"]
            print(f"  sent in {RENEWALS * LEASE / 3:.0f} s, {LEASE / 3} s a renewal at most:")
            print(f"  {dict(sent.commands)}")
    await sessions.aclose()


async def main() -> None:
    """Measure all, one thing after another."""
    with redis_server() as url:
        await compare_lists(url)
        await compare_http(url)
        await count_lists(url)
        await count_connects(url)
        for per_user in (2, 1):
            await measure_idle(url, per_user=per_user)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        asyncio.run(main())
