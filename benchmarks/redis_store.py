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
from contextlib import AsyncExitStack, contextmanager
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
from usersessions.stores.redis.asks import Ask
from usersessions.stores.redis.keys import Keys
from usersessions.stores.redis.link import Link, parse_url
from usersessions.stores.redis.waiting import ask_awaited, ask_blocking

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
LEASE = 6.0
RENEWALS = 5
API_KEY = "the-key-of-this-benchmark"


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
    keys = [Keys("usersessions").sessions(user) for user in USERS]
    holder = AsyncUserSessions(store=RedisStore(url))
    sessions = AsyncUserSessions(store=RedisStore(url))
    blocking = UserSessions(store=RedisStore(url))
    shared = line.Line(parse_url(url).link(timeout=2.0), recovered=lambda: None)
    client = redis.asyncio.Redis.from_url(url)
    blocking_client = redis.Redis.from_url(url)

    def ask(number: int) -> Ask:
        call = line.Call("HGETALL", (keys[number],), is_script=False)
        return Ask([call], time.monotonic() + 2.0)

    subjects: dict[str, Callable[[int], Awaitable[object]]] = {
        "HGETALL, one call of redis-py each": lambda number: client.hgetall(keys[number]),
        "HGETALL, by the store's shared line": lambda number: ask_awaited(shared, ask(number)),
        "the list, as the bytes of a reply": lambda number: sessions.dispatch(COMMANDS[number]),
        "the list, as objects": lambda number: sessions.user_connections(USERS[number]),
    }
    threaded: dict[str, Callable[[int], object]] = {
        "HGETALL, one call of redis-py each": lambda number: blocking_client.hgetall(keys[number]),
        "HGETALL, by the store's shared line": lambda number: ask_blocking(shared, ask(number)),
        "the list, as the bytes of a reply": lambda number: blocking.dispatch(COMMANDS[number]),
        "the list, as objects": lambda number: blocking.user_connections(USERS[number]),
    }
    async with AsyncExitStack() as held:
        await connect(holder, USERS, per_user=2, held=held)
        times: dict[str, list[float]] = {name: [] for name in subjects}
        for _ in range(ROUNDS):
            for name, subject in subjects.items():
                times[name].append(await per_call(subject))
        show(f"{CALLERS} tasks at once, users of 2 sessions each:", times)
        times = {name: [] for name in threaded}
        with ThreadPoolExecutor(CALLERS) as pool:
            for _ in range(ROUNDS):
                for name, act in threaded.items():
                    times[name].append(per_threaded_call(act, pool))
        show(f"{CALLERS} threads at once:", times)
    shared.close(until=time.monotonic() + 1)
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
                    assert process.poll() is None and time.monotonic() < until, "no server"
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


@contextmanager
def exchanges() -> Iterator[list[int]]:
    """Each exchange with Redis for a caller in this process, by how many calls it carried."""
    sizes: list[int] = []
    exchange = line.exchange

    def noted(link: Link, calls: Sequence[line.Call]) -> list[object]:
        sizes.append(len(calls))
        return exchange(link, calls)

    with patch.object(line, "exchange", noted):
        yield sizes


@contextmanager
def commands(url: str) -> Iterator[Counter[str]]:
    """The commands that Redis is sent by all clients, by name; there once the block has ended."""
    names: Counter[str] = Counter()
    with redis.Redis.from_url(url) as client, client.monitor() as monitor:
        yield names
        client.echo("the end")
        while True:
            seen = monitor.next_command()
            assert seen is not None
            name = seen["command"].split()[0].upper()
            if name == "ECHO":
                break
            # What scripts do is no command of a client.
            if seen["client_type"] != "lua":
                names[name] += 1
        # Of the client that asked for the end.
        for name in ("HELLO", "CLIENT"):
            del names[name]


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
            with exchanges() as first:
                assert len(await lister.user_connections("42")) == 16
            with exchanges() as second:
                assert len(await lister.user_connections("42")) == 16
            print(
                f"A list of 16 sessions on {count} nodes: {len(first)} round trips at first, "
                f"{len(second)} once it is known who is alive"
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
    sessions = AsyncUserSessions(store=RedisStore(url))
    async with AsyncExitStack() as held:
        await connect(sessions, ["before"], per_user=1, held=held)
        with commands(url) as sent:
            for user in USERS[:100]:
                await connect(sessions, [user], per_user=1, held=held)
        print(f"100 connections, one after another, and all that is sent: {dict(sent)}")
        keys = [Keys("usersessions").sessions(str(number)) for number in range(BURST)]
        contexts = [
            sessions.connect(
                identity=Identity(str(number), meta=META), transport="sse", close=close
            )
            for number in range(BURST)
        ]
        start = time.perf_counter()
        with exchanges() as sizes, redis.Redis.from_url(url) as client:
            await asyncio.gather(*map(held.enter_async_context, contexts))
            taken = time.perf_counter() - start
            while client.exists(*keys) < BURST:
                await asyncio.sleep(0.01)
            seen = time.perf_counter() - start
        print(
            f"{BURST} connections at once: {len(sizes)} exchanges; "
            f"connected after {taken:.1f} s, all in Redis after {seen:.1f} s"
        )
    await sessions.aclose()


async def measure_quiet(url: str, *, per_user: int) -> None:
    """Print what many quiet sessions take and send."""
    sessions = AsyncUserSessions(store=RedisStore(url, lease=LEASE))
    users = [str(1_000_000 + number) for number in range(SESSIONS // per_user)]
    async with AsyncExitStack() as held:
        with redis.Redis.from_url(url, decode_responses=True) as client:
            client.flushall()
            before = client.info("memory")["used_memory"]
            await connect(sessions, users, per_user=per_user, held=held)
            # What has to be written again is written by then.
            await asyncio.sleep(LEASE)
            size = (client.info("memory")["used_memory"] - before) / SESSIONS
        with commands(url) as sent:
            await asyncio.sleep(RENEWALS * LEASE / 3)
        print(f"{SESSIONS} quiet sessions, {per_user} a user: {size:.0f} bytes of Redis each;")
        print(f"  in the time of {RENEWALS} renewals, all that is sent: {dict(sent)}")
    await sessions.aclose()


async def main() -> None:
    """Measure all, one thing after another."""
    with redis_server() as url:
        await compare_lists(url)
        await compare_http(url)
        await count_lists(url)
        await count_connects(url)
        for per_user in (2, 1):
            await measure_quiet(url, per_user=per_user)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        asyncio.run(main())
